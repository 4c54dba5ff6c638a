"""What this machine can run at once: cores, memory, GPUs."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import psutil

from autoresearch_operator.api.tiers import Tier

_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Slot:
    """A place for one trial at a time."""

    index: int
    cpus: tuple[int, ...]
    """Processors every process of the trial is bound to; empty: unbound."""
    device: str
    """`cpu`, or `cuda:N` for the first GPU of the slot."""
    threads: int


class MachineError(Exception):
    """The machine lacks what a tier asks for."""


def cpu_quota() -> float | None:
    """Processors' worth of CPU time that the cgroup grants, or None when it sets no limit (cgroup v2 and v1)."""
    try:
        quota, period = (_CGROUP / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        pass
    try:
        limit = int((_CGROUP / "cpu" / "cpu.cfs_quota_us").read_text())
        return None if limit <= 0 else limit / int((_CGROUP / "cpu" / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return None


def usable_cpus() -> tuple[int, ...]:
    """The processors this process may use, cut to whole ones of the cgroup's quota (at least one)."""
    cpus = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    quota = cpu_quota()
    return tuple(cpus if quota is None else cpus[: max(1, int(quota))])


def memory_limit() -> int:
    """Bytes of memory: the smaller of the machine's and the cgroup's."""
    total = int(psutil.virtual_memory().total)
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            total = min(total, int((_CGROUP / name).read_text()))
        except (OSError, ValueError):
            continue
    return total


def gpu_names() -> tuple[str, ...]:
    """Names of the GPUs that nvidia-smi lists; empty where there is none."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ()
    try:
        answer = subprocess.run(
            [tool, "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(line.strip() for line in answer.stdout.splitlines() if line.strip())


def slots(tier: Tier) -> tuple[Slot, ...]:
    """One slot per GPU group or per core, at most the tier's maxParallel.

    Raises:
        MachineError: the tier asks for GPUs that are not here.
    """
    cpus = usable_cpus()
    wanted = tier.max_parallel
    if tier.gpus == 0:
        places = tuple(Slot(i, (cpu,), "cpu", 1) for i, cpu in enumerate(cpus))
    else:
        gpus = gpu_names()
        if len(gpus) < tier.gpus:
            raise MachineError(
                f"tier {tier.name!r} asks for {tier.gpus} GPU(s) a trial and this machine has {len(gpus)}: "
                "set gpus: 0 with a budget of cpuSeconds, or run it where the GPUs are"
            )
        groups = len(gpus) // tier.gpus
        share = max(1, len(cpus) // groups)
        places = tuple(
            Slot(i, cpus[i * share : (i + 1) * share], f"cuda:{i * tier.gpus}", share) for i in range(groups)
        )
    return places if wanted is None else places[:wanted]
