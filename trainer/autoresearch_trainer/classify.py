"""Why a candidate gave no model, from trusted facts first and from what it printed last.

Facts are the exit status, the signal and what the gate saw. The text only names the kind of failure for the proposer: a
candidate that prints another traceback than its own changes one word under a reason, never whether there is a score.
"""

import math
import re
import signal
from dataclasses import dataclass


@dataclass(frozen=True)
class Ending:
    """How the candidate's first process ended, as its launcher saw it."""

    code: int | None = None
    """Exit code, None when a signal ended it."""
    signal: int | None = None


@dataclass(frozen=True)
class Failure:
    """A reason of the API with its detail and sentence."""

    reason: str
    detail: str
    message: str


_TRACEBACK = "Traceback (most recent call last):"
_AFTER_TRACEBACK = re.compile(r"^([A-Za-z_][\w.]*)(?::\s?(.*))?$")
_WITHOUT_TRACEBACK = re.compile(r"^(\w*(?:SyntaxError|IndentationError|TabError))(?::\s?(.*))?$")
_HOST_MEMORY = re.compile(
    r"can't allocate memory|Cannot allocate memory|std::bad_alloc|DefaultCPUAllocator|out of memory: .*host",
    re.IGNORECASE,
)
_DEVICE_MEMORY = re.compile(
    r"CUDA out of memory|CUDA error: out of memory|CUBLAS_STATUS_ALLOC_FAILED|HIP out of memory"
)
_SHAPES = re.compile(
    r"size mismatch|shapes? cannot be multiplied|must match the size|is invalid for input of size|"
    r"Expected .*(?:size|shape|dimension)|dimension out of range|mat1 and mat2|"
    r"same number of dimensions|sizes of tensors must match|not divisible|split_with_sizes",
    re.IGNORECASE,
)


def last_exception(output: str) -> tuple[str, str] | None:
    """(class without module, message) of the last exception that output shows; None when it shows none."""
    before, mark, last = output.rpartition(_TRACEBACK)
    pattern = _AFTER_TRACEBACK if mark else _WITHOUT_TRACEBACK  # a file that does not parse has no traceback of its own
    lines = (last if mark else before or output).splitlines()
    for number, line in enumerate(lines):
        match = pattern.match(line.rstrip())
        if match:
            message = " ".join([match[2] or "", *lines[number + 1 : number + 20]]).strip()
            return match[1].rpartition(".")[2], message
    return None


def why(ending: Ending, output: str, last_loss: float | None, gate_problem: str | None) -> Failure:  # noqa: PLR0911 - one return a reason
    """The reason for a candidate that ended by itself without a model the judge can take.

    output: the end of what it printed. last_loss: the last loss it told the gate, None when none. gate_problem: the
    last request that the gate refused, as a sentence.
    """
    by_signal = _by_signal(ending)
    if by_signal:
        return by_signal
    shown = last_exception(output)
    lost = last_loss is not None and not math.isfinite(last_loss)
    if ending.code == 0:
        if lost:
            return Failure("NonFinite", "Loss", f"The loss was {last_loss} when the script ended without a model.")
        hint = f" The gate had refused a request: {gate_problem}" if gate_problem else ""
        return Failure("NoArtifact", "Exited", f"The script ended without handing over a model.{hint}")
    if shown is None:
        if lost:
            return Failure("NonFinite", "Loss", f"The loss was {last_loss} when the script ended.")
        return Failure("Crashed", f"ExitCode{ending.code}", f"The script ended with exit code {ending.code}.")
    name, text = shown
    if name == "OperatorNotAllowed":
        return Failure("OperatorNotAllowed", "Export", text)
    if name == "OutOfMemoryError" or (name == "RuntimeError" and _DEVICE_MEMORY.search(text)):
        return Failure("CUDAOutOfMemory", name, text)
    if name == "MemoryError" or _HOST_MEMORY.search(text):
        return Failure("HostOutOfMemory", name, text or "Python could not allocate memory.")
    if lost:
        return Failure("NonFinite", "Loss", f"The loss was {last_loss}; then {name}: {text}")
    if name in ("RuntimeError", "ValueError", "AssertionError", "IndexError") and _SHAPES.search(text):
        return Failure("Crashed", "ShapeError", f"{name}: {text}")
    return Failure("Crashed", name, f"{name}: {text}" if text else name)


def _by_signal(ending: Ending) -> Failure | None:
    if ending.signal is None:
        return None
    try:
        name = signal.Signals(ending.signal).name
    except ValueError:
        name = f"Signal{ending.signal}"
    return Failure("Crashed", name, f"The script's process was ended by {name}, which this trial did not send.")
