"""What a whole trial uses, against what it may use: memory, processes, disk. The kernel's per-process limits cannot
see a tree.

The watch only measures and says which limit was passed; the supervisor ends the tree. Memory and processes are read
every poll (a process cannot fill much memory in 50 ms on one core), disk once a second, since that walks folders that
the candidate made.
"""

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from . import clock
from .spec import Limits

POLL_SECONDS = 0.05
DISK_POLL_SECONDS = 1.0

_MAX_ENTRIES = 100_000
"""Files and folders a trial may make: a million empty ones use the disk too, and make each walk slow."""
_THREADS_PER_PROCESS = 8


@dataclass(frozen=True)
class Excess:
    """A limit that was passed."""

    reason: str
    detail: str
    message: str


def resident_bytes(pid: int) -> int:
    """Resident anonymous and shared memory of one process; 0 when it is gone."""
    total = 0
    with suppress(OSError, ValueError, IndexError):
        for line in Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines():
            if line.startswith(("RssAnon:", "RssShmem:")):
                total += int(line.split()[1]) * 1024
    return total


def proportional_bytes(pid: int) -> int:
    """As resident_bytes, pages shared with n processes counted as 1/n; slower, and needs the right to look closely."""
    total = 0
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text(errors="replace")
    except OSError:
        return resident_bytes(pid)
    for line in text.splitlines():
        if line.startswith(("Pss_Anon:", "Pss_Shmem:")):
            total += int(line.split()[1]) * 1024
    return total


def unlinked_bytes(pid: int) -> int:
    """Bytes on disk, or in memory files, that only the open descriptors of pid keep."""
    total = 0
    with suppress(OSError):
        for entry in os.scandir(f"/proc/{pid}/fd"):
            with suppress(OSError):
                status = entry.stat()
                if status.st_nlink == 0:
                    total += status.st_blocks * 512
    return total


def folder_bytes(folders: Iterable[Path], stop_above: int) -> tuple[int, int]:
    """(bytes on disk, entries) under folders; links are not followed; stops early once above the limit.

    A folder too deep to be named counts as more than any limit: it can only be there to hide something.
    """
    total, entries = 0, 0
    pending = [str(folder) for folder in folders]
    while pending:
        folder = pending.pop()
        if len(folder) > 3500:
            return stop_above + 1, entries
        with suppress(FileNotFoundError, NotADirectoryError, PermissionError), os.scandir(folder) as listing:
            for entry in listing:
                entries += 1
                with suppress(FileNotFoundError):
                    total += entry.stat(follow_symlinks=False).st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                if total > stop_above or entries > _MAX_ENTRIES:
                    return total, entries
    return total, entries


class Watch:
    """Measures one tree again and again."""

    def __init__(self, root: int, tree_clock: clock.TreeClock, limits: Limits, folders: list[Path]) -> None:
        self._root = root
        self._clock = tree_clock
        self._limits = limits
        self._folders = folders
        self._next_disk = 0.0
        self.peak_memory_bytes = 0

    def poll(self) -> Excess | None:
        """One measurement; also brings the tree's clock up to date. The limit that was passed, or None."""
        tree = clock.members(self._root)
        self._clock.scan(tree)
        candidates = [member for member in tree if member.pid != self._root and member.state != "Z"]
        return self._processes(candidates) or self._memory(candidates) or self._disk(candidates)

    def _processes(self, candidates: list[clock.Member]) -> Excess | None:
        limit = self._limits.processes
        threads = sum(member.threads for member in candidates)
        if len(candidates) > limit:
            text = f"{len(candidates)} processes were alive; limits.processes is {limit}."
            return Excess("ProcessLimitExceeded", "Processes", text)
        most = max(256, limit * _THREADS_PER_PROCESS)
        if threads > most:
            text = f"{threads} threads were alive; {most} are allowed with limits.processes = {limit}."
            return Excess("ProcessLimitExceeded", "Threads", text)
        return None

    def _memory(self, candidates: list[clock.Member]) -> Excess | None:
        limit = self._limits.memory_bytes
        used = sum(resident_bytes(member.pid) for member in candidates)
        if used > limit and len(candidates) > 1:
            # Forked workers share most pages with their parent; count those once before ending an honest trial.
            used = sum(proportional_bytes(member.pid) for member in candidates)
        self.peak_memory_bytes = max(self.peak_memory_bytes, used)
        if used > limit:
            text = f"{used >> 20} MiB of memory were in use; limits.memoryBytes allows {limit >> 20} MiB."
            return Excess("HostOutOfMemory", "Memory", text)
        return None

    def _disk(self, candidates: list[clock.Member]) -> Excess | None:
        now = clock.wall()
        if now < self._next_disk:
            return None
        limit = self._limits.disk_bytes
        used, entries = folder_bytes(self._folders, limit)
        used += sum(unlinked_bytes(member.pid) for member in candidates)
        # A walk that takes long is taken seldom, so that a candidate cannot make its supervisor busy.
        self._next_disk = clock.wall() + max(DISK_POLL_SECONDS, 20 * (clock.wall() - now))
        if used > limit:
            text = f"More than {limit >> 20} MiB were written; that is limits.diskBytes."
            return Excess("HostStorageExceeded", "Disk", text)
        if entries > _MAX_ENTRIES:
            return Excess("HostStorageExceeded", "Files", f"More than {_MAX_ENTRIES} files and folders were made.")
        return None
