"""The first process of a trial's tree, trusted, and the last steps before a candidate's own code runs.

As PID 1 of a pid namespace the launcher cannot be signalled from inside; it is not dumpable, so its memory cannot be
read either. It starts the candidate, reaps orphans, tells the supervisor how the candidate ended, and ends; the
kernel then ends everything else in the namespace. Where there is no namespace it is a subreaper and sweeps what is
left.
"""

import json
import os
import select
import signal
import socket
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from . import candidate
from .sandbox import confine, kernel, namespace
from .spec import TrialSpec

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
    report = candidate.wire_up(descriptors.output, descriptors.gate, report)
    candidate.attach_streams()
    device = candidate.visible_device(spec.device, os.environ.get("CUDA_VISIBLE_DEVICES", ""))
    os.environ.clear()
    os.environ.update(candidate.environment(spec, folders.temporary, device))
    tempfile.tempdir = None  # forget a folder that the warm process had settled on
    os.chdir(folders.run)
    held = confine.confine_candidate(
        read_write=[folders.run, folders.temporary],
        read=[spec.data_dir / part for part in ("manifest.json", "train", "val", "tokenizer.json", "token_bytes.npy")]
        if spec.self_reported
        else [],
        device=spec.device,
        tree=tree,
        memory_bytes=spec.limits.memory_bytes,
        disk_bytes=spec.limits.disk_bytes,
    )
    os.write(report, json.dumps(held).encode())
    os.close(report)
    candidate.seed_all(spec.seed, spec.threads)
    return candidate.run_script(folders.run / spec.script, [])
