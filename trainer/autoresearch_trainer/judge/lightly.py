"""Learning sizes without loading torch's compiler.

torch computes the results of tensors without data in Python functions of its own, and each of these, when first called,
imports torch._dynamo only to tell the compiler to leave it alone: seconds of processor time and 150 MB, in a process
that compiles nothing and has to end before the next trial can have the GPU.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

_COMPILER = "torch._dynamo"


def compiler_loaded() -> bool:
    """Whether torch's compiler is in this process."""
    return _COMPILER in sys.modules


@contextmanager
def without_compiler() -> Iterator[None]:
    """While this lasts, torch's request to be left alone by its compiler is granted without loading it.

    The stand-in knows that one function; whatever asks it for more gets an AttributeError or ImportError, so that a
    refusal from in here is to be checked again outside. Nothing of it is left behind but in the functions that were
    called, which from then on are not hidden from a compiler. Where the compiler is loaded this does nothing.
    """
    if compiler_loaded():
        yield
        return
    stand_in = ModuleType(_COMPILER)
    vars(stand_in)["disable"] = _leave_alone
    sys.modules[_COMPILER] = stand_in
    try:
        yield
    finally:
        if sys.modules.get(_COMPILER) is stand_in:
            del sys.modules[_COMPILER]


def _leave_alone(function: Callable[..., Any], *_: Any, **__: Any) -> Callable[..., Any]:
    return function
