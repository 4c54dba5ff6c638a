"""A process tree that ends as one: a pid namespace where the kernel allows it, otherwise a subreaper and a sweep.

When the first process of a pid namespace ends the kernel kills all others in it, at once and whatever they did. Root
makes one directly; other users through a user namespace, which some distributions forbid.
"""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

from . import kernel

PID_NAMESPACE, SWEEP = "pid-namespace", "sweep"

_SWEEP_SECONDS = 5.0


def enter() -> str:
    """Puts the *children* of this process into new pid, mount and IPC namespaces; says which kind of tree it is."""
    flags = kernel.CLONE_NEWPID | kernel.CLONE_NEWNS | kernel.CLONE_NEWIPC
    uid, gid = os.geteuid(), os.getegid()
    try:
        if uid == 0:
            kernel.unshare(flags)
        else:
            kernel.unshare(flags | kernel.CLONE_NEWUSER)
            with suppress(FileNotFoundError):  # kernels before 3.19
                Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
            Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    except OSError:
        return SWEEP
    return PID_NAMESPACE


def mount_own_proc() -> bool:
    """In the first process of a namespace: a /proc that shows this tree only. False where it is not allowed."""
    try:
        kernel.mount("none", "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
        kernel.mount("proc", "/proc", "proc", kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC)
    except OSError:
        return (
            False  # a container that hides parts of /proc; then the outer one stays, and Landlock is what protects it
        )
    return True


def children_of(parents: set[int]) -> set[int]:
    """Every living or unreaped descendant of parents, parents not included, by one pass over /proc."""
    parent_of: dict[int, int] = {}
    for name in os.listdir("/proc"):  # noqa: PTH208 - names only; Path objects cost five times as much
        if name.isdigit():
            with suppress(OSError, ValueError, IndexError):
                fields = Path(f"/proc/{name}/stat").read_bytes().rpartition(b")")[2].split()
                parent_of[int(name)] = int(fields[1])
    found: set[int] = set()
    frontier = set(parents)
    while frontier:
        frontier = {pid for pid, parent in parent_of.items() if parent in frontier and pid not in found}
        found |= frontier
    return found


def sweep(root: int, *, include_root: bool) -> bool:
    """Kills every descendant of root until none is left; True when that was reached.

    All are stopped first, so that a tree that forks while it is being killed cannot stay ahead. Processes whose
    parent is this one must be reaped by the caller.
    """
    deadline = time.monotonic() + _SWEEP_SECONDS
    while True:
        pids = children_of({root})
        living = {pid for pid in pids if _state(pid) not in (None, "Z")}
        if not living:
            if include_root:
                with suppress(ProcessLookupError):
                    os.kill(root, signal.SIGKILL)
            return True
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in living:
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, number)
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)


def _state(pid: int) -> str | None:
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return None
