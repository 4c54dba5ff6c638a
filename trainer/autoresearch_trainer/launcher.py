"""The first process of a trial's tree, trusted, and the last steps before a candidate's own code runs.

As PID 1 of a pid namespace the launcher cannot be signalled from inside; it is not dumpable, so its memory cannot be
read either. It starts the candidate, reaps orphans, tells the supervisor how the candidate ended, and ends; the
kernel then ends everything else in the namespace. Where there is no namespace it is a subreaper and sweeps what is
left.
"""

import atexit
import io
import json
import os
import random
import runpy
import select
import signal
import socket
import sys
import tempfile
import threading
import traceback
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from . import wire
from .sandbox import confine, kernel, namespace
from .spec import TrialSpec

_GATE_FD = 3
_ORPHAN_POLL_MS = 1000


@dataclass(frozen=True)
class Descriptors:
    """What the supervisor hands down, by number."""

    gate: int
    """The candidate's end of the gate's connection."""
    output: int
    """Where stdout and stderr go."""
    control: int
    """The launcher's end of a stream to the supervisor: "g" comes in, JSON lines go out; its end means the
    supervisor's.
    """


@dataclass(frozen=True)
class Folders:
    """Where the candidate works."""

    run: Path
    temporary: Path


def main(spec: TrialSpec, folders: Folders, descriptors: Descriptors, tree: str) -> int:
    """Runs the launcher in a freshly forked process; returns its exit code once the tree has ended."""
    control = socket.socket(fileno=descriptors.control)
    if control.recv(1) != b"g":
        return 1  # the supervisor is gone
    if tree == namespace.PID_NAMESPACE:
        kernel.die_with_parent()
        namespace.mount_own_proc()
    else:
        kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
    os.setsid()
    # A first process is safe from signals for which it has no handler, and Python has one for SIGINT.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    report_read, report_write = os.pipe()
    child = os.fork()
    if child == 0:
        os._exit(_candidate(spec, folders, descriptors, tree, report_write))
    for descriptor in (report_write, descriptors.gate, descriptors.output):
        os.close(descriptor)
    with os.fdopen(report_read, "rb") as report:
        line = report.read(4096)
    _tell(control, {"isolation": json.loads(line) if line else None})
    code, number = _wait_for(child, control)
    if tree != namespace.PID_NAMESPACE:
        namespace.sweep(os.getpid(), include_root=False)
        _reap_orphans()
    _tell(control, {"code": code, "signal": number})
    return 0


def _tell(control: socket.socket, message: dict[str, object]) -> None:
    with suppress(OSError):  # a supervisor that is gone needs no telling
        control.sendall(json.dumps(message).encode() + b"\n")


def _wait_for(child: int, control: socket.socket) -> tuple[int | None, int | None]:
    """(exit code, None) or (None, signal) of child; orphans are reaped on the way."""
    poller = select.poll()
    pidfd = os.pidfd_open(child)
    poller.register(pidfd, select.POLLIN)
    poller.register(control, select.POLLIN | select.POLLHUP)
    while True:
        ready = {descriptor for descriptor, _ in poller.poll(_ORPHAN_POLL_MS)}
        if control.fileno() in ready:
            os.kill(child, signal.SIGKILL)  # the only thing that comes is the end of the stream
            poller.unregister(control)
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return None, signal.SIGKILL
            if pid == child:
                os.close(pidfd)
                return (None, os.WTERMSIG(status)) if os.WIFSIGNALED(status) else (os.WEXITSTATUS(status), None)
            if pid == 0:
                break


def _reap_orphans() -> None:
    with suppress(ChildProcessError):
        while os.waitpid(-1, 0)[0]:
            pass


def _candidate(spec: TrialSpec, folders: Folders, descriptors: Descriptors, tree: str, report: int) -> int:
    """Everything between the fork and the candidate's last line. Returns the exit code."""
    kernel.die_with_parent()
    kernel.prctl(
        kernel.PR_SET_DUMPABLE, 1
    )  # so that a supervisor of the same user can measure it; ptrace is refused anyway
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _wire_up(descriptors, report)
    report = _GATE_FD + 1
    _set_environment(spec, folders)
    os.chdir(folders.run)
    held = confine.confine_candidate(
        read_write=[folders.run, folders.temporary],
        read=[spec.data_dir / part for part in ("manifest.json", "train", "val", "tokenizer.json", "token_bytes.npy")]
        if spec.evaluation == "SelfReported"
        else [],
        device=spec.device,
        tree=tree,
        memory_bytes=spec.limits.memory_bytes,
        disk_bytes=spec.limits.disk_bytes,
    )
    os.write(report, json.dumps(held).encode())
    os.close(report)
    _seed(spec.seed, spec.threads)
    return _run(folders.run / spec.script)


def _wire_up(descriptors: Descriptors, report: int) -> None:
    """Descriptors 0-4 become null, output, output, gate and report; every other one is closed."""
    high = [os.dup2(d, 200 + i) for i, d in enumerate((descriptors.output, descriptors.gate, report))]
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(high[0], 1)
    os.dup2(high[0], 2)
    os.dup2(high[1], _GATE_FD)
    os.dup2(high[2], _GATE_FD + 1)
    os.closerange(_GATE_FD + 2, os.sysconf("SC_OPEN_MAX"))
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - lives as long as the process
    sys.stdout = _line_writer(1)
    sys.stderr = _line_writer(2)


def _line_writer(descriptor: int) -> io.TextIOWrapper:
    """Writes out every line at once: what a killed candidate printed last is what explains it."""
    raw = open(descriptor, "wb", closefd=False)  # noqa: SIM115 - lives as long as the process
    return io.TextIOWrapper(raw, encoding="utf-8", errors="backslashreplace", line_buffering=True)


def _set_environment(spec: TrialSpec, folders: Folders) -> None:
    """Replaces every variable: a key in the operator's environment must not reach a candidate."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    os.environ.clear()
    tempfile.tempdir = None  # forget a folder that the warm process had settled on
    temporary = str(folders.temporary)
    threads = str(spec.threads)
    os.environ.update(
        {
            "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "USER": "candidate",
            "HOME": temporary,
            "TMPDIR": temporary,
            "XDG_CACHE_HOME": temporary,
            "TORCHINDUCTOR_CACHE_DIR": f"{temporary}/inductor",
            "TRITON_CACHE_DIR": f"{temporary}/triton",
            "CUDA_CACHE_PATH": f"{temporary}/cuda",
            "MPLCONFIGDIR": f"{temporary}/matplotlib",
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
            "OPENBLAS_NUM_THREADS": threads,
            "PYTORCH_ALLOC_CONF": "expandable_segments:True",
            "CUDA_VISIBLE_DEVICES": _visible_device(spec.device, visible),
            "AUTORESEARCH_DEVICE": spec.device.partition(":")[0],
            "AUTORESEARCH_EVALUATION": spec.evaluation,
            wire.GATE_FD_VARIABLE: str(_GATE_FD),
            **spec.env,
        }
    )


def _visible_device(device: str, visible: str) -> str:
    """The one device of the trial in the driver's numbering; the candidate sees it as cuda:0."""
    kind, _, index = device.partition(":")
    if kind != "cuda":
        return ""
    known = [name.strip() for name in visible.split(",") if name.strip()]
    return known[int(index)] if int(index) < len(known) else index


def _seed(seed: int, threads: int) -> None:
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)  # candidates may use NumPy's global generator
    torch.manual_seed(seed)
    torch.set_num_threads(threads)


def _run(script: Path) -> int:
    sys.argv = [str(script)]
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
