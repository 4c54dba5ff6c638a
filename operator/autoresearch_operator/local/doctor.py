"""`autoresearch doctor`: what this machine offers a run, and what to mend before one is started.

Every check answers, whatever the machine lacks: an answer of "unknown" is a finding too.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from autoresearch_operator.local.machine import cpu_quota, gpu_names, memory_limit, usable_cpus
from autoresearch_operator.local.trainer_process import TrainerError, TrainerProcess
from autoresearch_operator.observe.findings import Finding, Status, exit_code, findings_json, findings_table
from autoresearch_operator.observe.text import clean, plural, size
from autoresearch_operator.settings import Settings

__all__ = ["Finding", "Status", "diagnose", "exit_code", "findings_json", "findings_table", "isolation_findings"]

GIB = 1 << 30
MEMORY_PER_SLOT = 1 * GIB
"""A demo trial was seen to use 0.6 GiB, and the warm process as much again, shared."""
MEMORY_LEAST = 2 * GIB
DISK_LEAST = 1 * GIB
DISK_WANTED = 5 * GIB
NOISE_WANTED = 0.05
"""Standard deviation over mean of one fixed loop. Above it, scores under a budget of seconds are mostly noise."""
STEAL_WANTED = 0.05
PYTHON_LEAST = (3, 11)
GIT_LEAST = (2, 34)
"""`push --atomic` with several leases and protocol.version 2 behave as this program relies on from here."""
_HELD = {
    "network": "a candidate could open a network connection",
    "files": "a candidate could read your home and the validation data",
    "processes": "a process could outlive its trial; a sweep ends what it finds",
    "signals": "a candidate could signal your other processes",
    "memory": "a candidate could use all memory",
}


def diagnose(workdir: Path, settings: Settings, *, trainer: bool = True) -> list[Finding]:
    """Looks at the machine; about ten seconds, most of them importing torch in the trainer.

    Args:
        workdir: Where runs will be kept; it need not exist yet.
        trainer: Start the trainer to see its isolation and hardware.
    """
    findings = [_python(), _git(), _cores(), _memory(), *_gpus(), _noise(), _disk(workdir, "disk for runs")]
    findings.append(_disk(settings.cache, "disk for data"))
    if trainer:
        findings += _trainer(settings)
    return findings


def _python() -> Finding:
    found = platform.python_version()
    if sys.version_info[:2] < PYTHON_LEAST:
        return Finding("python", "fail", found, "Use Python 3.11 or newer.")
    return Finding("python", "ok", f"{found} ({sys.executable})")


def _git() -> Finding:
    tool = shutil.which("git")
    if tool is None:
        return Finding("git", "fail", "not found", "Install git: every candidate and verdict is kept in a repository.")
    try:
        answer = subprocess.run([tool, "version"], capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        return Finding("git", "fail", f"{tool} does not run: {error}", "Reinstall git.")
    match = re.search(r"(\d+)\.(\d+)(?:\.\d+)*", answer)
    if match is None:
        return Finding("git", "warn", clean(answer, 80), "Its version cannot be read; 2.34 or newer is wanted.")
    if (int(match[1]), int(match[2])) < GIT_LEAST:
        return Finding("git", "warn", match[0], "Git 2.34 or newer is wanted; pushes may fail with older ones.")
    return Finding("git", "ok", match[0])


def _cores() -> Finding:
    machine, usable, quota = os.cpu_count() or 1, len(usable_cpus()), cpu_quota()
    value = f"{plural(usable, 'slot')} from {plural(machine, 'core')}"
    if quota is not None:
        value += f", cgroup quota {quota:g}"
        if quota < 1:
            return Finding("cores", "warn", value, "Less than one core: trials under a budget of seconds are unfair.")
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    value += f", load {load:.1f}"
    if load > 0.5 * machine:
        advice = "Other programs are busy: a budget of cpuSeconds is fair, one of seconds is not."
        return Finding("cores", "warn", value, advice)
    return Finding("cores", "ok", value)


def _memory() -> Finding:
    limit, free = memory_limit(), _memory_available()
    wanted = max(MEMORY_LEAST, len(usable_cpus()) * MEMORY_PER_SLOT)
    value = f"{size(limit)} usable" + ("" if free is None else f", {size(free)} free now")
    if limit < MEMORY_LEAST:
        return Finding("memory", "fail", value, "Importing torch and one demo trial need 2 GiB.")
    if min(limit, limit if free is None else free) < wanted:
        return Finding("memory", "warn", value, f"{size(wanted)} would fill all slots; set tiers[0].maxParallel lower.")
    return Finding("memory", "ok", value)


def _memory_available() -> int | None:
    import psutil

    try:
        return int(psutil.virtual_memory().available)
    except (OSError, ValueError):
        return None


def _gpus() -> list[Finding]:
    names = gpu_names()
    if names:
        return [Finding("gpus", "ok", f"{len(names)}: " + ", ".join(sorted({clean(name, 60) for name in names})))]
    if shutil.which("nvidia-smi") is not None:
        return [Finding("gpus", "warn", "nvidia-smi lists none", "Run nvidia-smi: the driver or a device is missing.")]
    return [Finding("gpus", "ok", "none; trials run on the CPU (tiers with gpus: 0)")]


def _noise() -> Finding:
    stolen_before = _steal()
    times = fixed_loop_times()
    spread = statistics.stdev(times) / statistics.fmean(times)
    value = f"{spread:.1%} spread over {len(times)} runs of a fixed loop ({statistics.median(times) * 1e3:.1f} ms)"
    stolen_after = _steal()
    steal = None
    if stolen_before is not None and stolen_after is not None and stolen_after[1] > stolen_before[1]:
        steal = (stolen_after[0] - stolen_before[0]) / (stolen_after[1] - stolen_before[1])
        value += f", {steal:.1%} stolen by the host"
    if spread > NOISE_WANTED or (steal or 0.0) > STEAL_WANTED:
        advice = "The clock is uneven: use a budget of cpuSeconds (the default without GPUs), or close what is busy."
        return Finding("clock noise", "warn", value, advice)
    return Finding("clock noise", "ok", value)


def fixed_loop_times(runs: int = 40, *, clock: Callable[[], float] = time.perf_counter) -> list[float]:
    """Wall-clock seconds of each of `runs` equal pieces of work of about 10 ms; under a second in all when quiet."""

    def work(rounds: int) -> int:
        total = 0
        for index in range(rounds):
            total += index * index & 255
        return total

    begun = clock()
    work(50_000)
    rounds = max(10_000, min(5_000_000, int(50_000 * 0.01 / max(clock() - begun, 1e-6))))
    times = []
    for _ in range(runs):
        begun = clock()
        work(rounds)
        times.append(max(clock() - begun, 1e-9))
    return times


def _steal() -> tuple[float, float] | None:
    """(stolen, all) CPU time of the machine since boot, in clock ticks; None where the kernel does not tell."""
    try:
        fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
        ticks = [float(field) for field in fields[:8]]
    except (OSError, ValueError, IndexError):
        return None
    return (ticks[7], sum(ticks)) if len(ticks) == 8 else None


def _disk(folder: Path, name: str) -> Finding:
    place = folder.expanduser().absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        free = shutil.disk_usage(place).free
    except OSError as error:
        return Finding(name, "fail", f"{folder}: {error.strerror}", "Choose a folder that can be read.")
    value = f"{size(free)} free in {place}"
    if not os.access(place, os.W_OK):
        return Finding(name, "fail", value, "This folder cannot be written: choose another.")
    if free < DISK_LEAST:
        return Finding(name, "fail", value, f"{size(DISK_LEAST)} is the least a run needs.")
    if free < DISK_WANTED:
        return Finding(name, "warn", value, f"{size(DISK_WANTED)} is enough for a thousand demo trials and their data.")
    return Finding(name, "ok", value)


def _trainer(settings: Settings) -> list[Finding]:
    with tempfile.TemporaryDirectory(prefix="autoresearch-doctor-") as folder:
        begun = time.monotonic()
        try:
            process = TrainerProcess(settings.trainer, Path(folder) / "trainer.log")
            process.wait_ready(settings.ready_timeout)
        except TrainerError as error:
            advice = "Install the trainer's distribution (make setup), or name its Python in AUTORESEARCH_TRAINER."
            return [Finding("trainer", "fail", clean(str(error).split("; its log is")[0], 300), advice)]
        took = time.monotonic() - begun
        isolation, hardware = process.isolation, process.hardware
        process.close(settings.stop_timeout)
    words = ", ".join(f"{clean(str(key), 30)} {clean(str(value), 60)}" for key, value in hardware.items() if value)
    return [
        Finding("trainer", "ok", f"ready in {took:.1f} s" + (f"; {words}" if words else "")),
        *isolation_findings(isolation),
    ]


def isolation_findings(isolation: Mapping[str, str]) -> list[Finding]:
    """One finding a protection: what the kernel offers, and what its absence means."""
    findings = []
    for key, risk in _HELD.items():
        held = clean(str(isolation.get(key, "unknown")), 60)
        weak = held in ("none", "unknown") or (key == "processes" and held == "sweep")
        advice = f"Without it, {risk}. Trials still run, and the report says so." if weak else ""
        findings.append(Finding(f"isolation: {key}", "warn" if weak else "ok", held, advice))
    return findings
