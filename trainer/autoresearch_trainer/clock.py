"""The two clocks of a trial: wall time that no clock change moves, and the CPU time of a whole process tree.

CPU time is read from the kernel's own accounts. The tree's root waits for every orphan (it is the first process of a
pid namespace or a subreaper), so the time of a process that has ended is found in the root's or a parent's "children"
account, and the time of a living one in its own. SIGCHLD cannot be ignored inside (sandbox/seccomp.py), so nothing
ends unaccounted.
"""

import os
import time
from contextlib import suppress
from typing import Protocol

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_SCHEDULER_CLOCK = 2


def wall() -> float:
    """Seconds since boot, suspend included: setting the date does nothing to it, and a closed lid is not free time."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def process_cpu(pid: int) -> float:
    """CPU seconds of one living process, its threads included, its children not; 0.0 when it is gone.

    One system call and nanosecond resolution, so cheap enough for every batch (clock_getcpuclockid(3)).
    """
    with suppress(OSError):
        return time.clock_gettime((~pid << 3) | _SCHEDULER_CLOCK)
    return 0.0


class Clock(Protocol):
    """CPU seconds of a candidate's process tree, wherever it is read."""

    def scan(self) -> float:
        """The exact reading."""

    def quick(self) -> float:
        """The reading for every batch: cheap, and late by at most one poll of the other processes."""


class Member:
    """One process of a tree, as /proc/<pid>/stat gives it."""

    __slots__ = ("parent", "pid", "reaped", "started", "state", "threads", "used")

    def __init__(self, pid: int, text: bytes) -> None:
        fields = text.rpartition(b")")[2].split()
        self.pid = pid
        self.state = fields[0].decode()
        self.parent = int(fields[1])
        self.used = (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND
        self.reaped = (int(fields[13]) + int(fields[14])) / _TICKS_PER_SECOND
        self.threads = int(fields[17])
        self.started = int(fields[19])


def members(root: int) -> list[Member]:
    """root and every living or unreaped descendant of it, parents before children.

    Walks the kernel's lists of children where it keeps them (CONFIG_PROC_CHILDREN; some 50 us a process), else all of
    /proc.
    """
    if not os.path.exists(f"/proc/{root}/task/{root}/children"):  # noqa: PTH110 - called 20 times a second
        return _members_by_scan(root)
    found: list[Member] = []
    pending, seen = [root], {root}
    while pending:
        pid = pending.pop()
        try:
            found.append(Member(pid, _read(f"/proc/{pid}/stat")))
            threads = os.listdir(f"/proc/{pid}/task")  # noqa: PTH208 - names only
        except (OSError, ValueError, IndexError):
            continue
        for thread in threads:
            with suppress(OSError):
                children = {int(child) for child in _read(f"/proc/{pid}/task/{thread}/children").split()} - seen
                seen |= children
                pending.extend(children)
    return found


def _members_by_scan(root: int) -> list[Member]:
    everyone: dict[int, list[Member]] = {}
    found: list[Member] = []
    for name in os.listdir("/proc"):  # noqa: PTH208 - names only
        if not name.isdigit():
            continue
        with suppress(OSError, ValueError, IndexError):
            member = Member(int(name), _read(f"/proc/{name}/stat"))
            everyone.setdefault(member.parent, []).append(member)
            if member.pid == root:
                found.append(member)
    seen = {member.pid for member in found}
    for member in found:  # grows while it is walked
        for child in everyone.get(member.pid, ()):
            if child.pid not in seen:
                seen.add(child.pid)
                found.append(child)
    return found


def _read(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.read(descriptor, 1 << 16)
    finally:
        os.close(descriptor)


class TreeClock:
    """CPU seconds used by the descendants of root since they began; never runs backwards.

    root's own time is left out: it is the trusted launcher. `scan` is exact; `quick` adds the main process's precise
    clock to what the last scan saw of the others, and costs one system call.
    """

    def __init__(self, root: int) -> None:
        self._root = root
        self._main = 0
        self._others = 0.0
        self._highest = 0.0

    def watch_main(self, pid: int) -> None:
        """Names the process that the quick reading follows."""
        self._main = pid

    def scan(self, tree: list[Member] | None = None) -> float:
        """Reads every process of the tree; pass members(root) when it is at hand."""
        tree = members(self._root) if tree is None else tree
        others, main = 0.0, 0.0
        for member in tree:
            others += member.reaped
            if member.pid == self._main:
                main = process_cpu(member.pid) or member.used
            elif member.pid != self._root:
                others += member.used
        if tree:
            self._others = others
            # A process that ends between two reads of one scan is missing once; time spent does not come back.
            self._highest = max(self._highest, others + main)
        return self._highest

    def quick(self) -> float:
        """The reading for every batch."""
        self._highest = max(self._highest, self._others + process_cpu(self._main))
        return self._highest
