"""One line about the machine, to stand beside every figure."""

import os
import platform
from pathlib import Path


def description() -> str:
    """Processor, cores usable and present, memory, load, kernel and Python."""
    product = platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            product = line.partition(":")[2].strip()
            break
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    cores = f"{len(os.sched_getaffinity(0))} of {os.cpu_count()} cores"
    load = os.getloadavg()[0]
    kernel, python = platform.release(), platform.python_version()
    return f"{product}, {cores}, {pages / 2**30:.0f} GiB, load {load:.1f}, Linux {kernel}, Python {python}"
