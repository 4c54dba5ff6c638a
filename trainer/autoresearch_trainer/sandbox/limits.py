"""Per-process limits of the kernel. They stop one process at once; what a whole tree uses is for the watch (watch.py).

RLIMIT_NPROC is not among them: root is exempt from it, and for others it counts every process of the person, so that
an open browser would fail a trial. RLIMIT_AS is set on CPU trials only, because CUDA reserves address space by the
terabyte.
"""

import os
import resource
from pathlib import Path

_ADDRESS_SPACE_SLACK_BYTES = 8 << 30
"""Thread stacks, malloc arenas and libraries mapped later reserve address space that they never touch."""
_DATA_SLACK_BYTES = 512 << 20
_PROGRAM_BYTES = 1 << 30
"""What a program that is yet to load PyTorch reserves on top of what it uses: half of it measured, half for stacks."""
_OPEN_FILES = 1024


def current_bytes(field: str) -> int:
    """A field of /proc/self/status that is given in kB, in bytes; 0 where the kernel does not say."""
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    return 0


def apply(memory_bytes: int, file_bytes: int, *, cuda: bool, fresh: bool = False) -> None:
    """Limits this process and its children: memory on top of what the warm process left here, file size, no cores.

    fresh: PyTorch is yet to be loaded, by this program or by one that is about to replace it.
    """
    if fresh:
        memory_bytes += _PROGRAM_BYTES
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_FSIZE, file_bytes)
    _lower(resource.RLIMIT_NOFILE, _OPEN_FILES)
    _lower(resource.RLIMIT_DATA, current_bytes("VmData") + memory_bytes + _DATA_SLACK_BYTES)
    if not cuda:
        _lower(resource.RLIMIT_AS, current_bytes("VmSize") + memory_bytes + _ADDRESS_SPACE_SLACK_BYTES)


def first_for_the_oom_killer() -> None:
    """Has the kernel choose this process, and its children, when the machine runs out of memory."""
    try:
        Path("/proc/self/oom_score_adj").write_text("1000")
    except OSError:
        return  # a read-only /proc; the watch still stands


def _lower(which: int, value: int) -> None:
    _, hard = resource.getrlimit(which)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(which, (value, value))


def hold_to(cpus: tuple[int, ...] | None) -> None:
    """Binds this process and its children to cores."""
    if cpus is not None:
        os.sched_setaffinity(0, cpus)
