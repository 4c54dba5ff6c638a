"""What surrounds a candidate's code, whoever starts it: descriptors, environment, seed, and its run to the end."""

import atexit
import io
import os
import random
import runpy
import sys
import threading
import traceback
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from . import wire
from .fields import Terms

_GATE_FD = 3


def wire_up(output: int, gate: int, report: int) -> int:
    """Descriptors 0-4 become null, output, output, gate and report; every other one is closed. Returns report's."""
    high = [os.dup2(d, 200 + i) for i, d in enumerate((output, gate, report))]
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(high[0], 1)
    os.dup2(high[0], 2)
    os.dup2(high[1], _GATE_FD)
    os.dup2(high[2], _GATE_FD + 1)
    os.closerange(_GATE_FD + 2, os.sysconf("SC_OPEN_MAX"))
    return _GATE_FD + 1


def attach_streams() -> None:
    """Gives Python's own streams the descriptors 0-2."""
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - lives as long as the process
    sys.stdout = _line_writer(1)
    sys.stderr = _line_writer(2)


def _line_writer(descriptor: int) -> io.TextIOWrapper:
    """Writes out every line at once: what a killed candidate printed last is what explains it."""
    raw = open(descriptor, "wb", closefd=False)  # noqa: SIM115 - lives as long as the process
    return io.TextIOWrapper(raw, encoding="utf-8", errors="backslashreplace", line_buffering=True)


def environment(terms: Terms, temporary: Path, visible_device: str | None) -> dict[str, str]:
    """Every variable of a candidate; None leaves the choice of the device to the container.

    Nothing of the caller's environment is in it: a key that is there must not reach a candidate.
    """
    folder = str(temporary)
    threads = str(terms.threads)
    variables = {
        "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "USER": "candidate",
        "HOME": folder,
        "TMPDIR": folder,
        "XDG_CACHE_HOME": folder,
        "TORCHINDUCTOR_CACHE_DIR": f"{folder}/inductor",
        "TRITON_CACHE_DIR": f"{folder}/triton",
        "CUDA_CACHE_PATH": f"{folder}/cuda",
        "MPLCONFIGDIR": f"{folder}/matplotlib",
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "PYTORCH_ALLOC_CONF": "expandable_segments:True",
        "AUTORESEARCH_DEVICE": terms.device.partition(":")[0],
        "AUTORESEARCH_EVALUATION": terms.evaluation,
        wire.GATE_FD_VARIABLE: str(_GATE_FD),
    }
    if visible_device is not None:
        variables["CUDA_VISIBLE_DEVICES"] = visible_device
    return {**variables, **terms.env}


def visible_device(device: str, visible: str) -> str:
    """The one device of the trial in the driver's numbering; the candidate sees it as cuda:0."""
    kind, _, index = device.partition(":")
    if kind != "cuda":
        return ""
    known = [name.strip() for name in visible.split(",") if name.strip()]
    return known[int(index)] if int(index) < len(known) else index


def seed_all(seed: int, threads: int) -> None:
    """Seeds every generator and sets the number of threads."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)  # candidates may use NumPy's global generator
    torch.manual_seed(seed)
    torch.set_num_threads(threads)


def run_script(script: Path, arguments: list[str]) -> int:
    """Runs script as Python would; returns the exit code. Whatever it raises is printed."""
    sys.argv = [str(script), *arguments]
    sys.path.insert(0, str(script.parent))
    code = 0
    try:
        runpy.run_path(str(script), run_name="__main__")
    except SystemExit as stop:
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
        code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
    except BaseException as error:  # whatever the candidate raised is reported, as Python would
        code = 1
        _print_exception(error, script.parent)
    finally:
        # What the interpreter does at its end, which os._exit would leave out.
        with suppress(BaseException):
            threading._shutdown()  # type: ignore[attr-defined]  # waits for threads that are no daemons
        with suppress(BaseException):
            atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with suppress(BaseException):
                stream.flush()
    return code & 0xFF


def _print_exception(error: BaseException, source: Path) -> None:
    """Prints error as Python would, without the frames of this launcher."""
    trace: TracebackType | None = error.__traceback__
    while trace is not None and not trace.tb_frame.f_code.co_filename.startswith(str(source)):
        trace = trace.tb_next
    with suppress(BaseException):
        traceback.print_exception(type(error), error, trace)
