"""A control plane of its own, simulated GPUs, and the real operator: what the cluster benchmarks stand on."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from clusterlab.controlplane import ControlPlane, Options
from clusterlab.kwok import Kwok
from clusterlab.simtrainer import SimTrainer
from controlledruns import OperatorProcess, Watched, behaviour

ROOT = Path(__file__).resolve().parents[2]
NAMESPACE = "bench"
TICKS = os.sysconf("SC_CLK_TCK")
UNLIMITED = ["--kube-api-qps=500", "--kube-api-burst=1000"]
"""The controllers' own client limits (20 requests a second) would be what is measured."""


def memory_mib(pid: int, name: str = "VmRSS") -> float:
    """Of one process, MiB; `name` VmHWM: at most so far."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) / 1024
    raise ValueError(f"{name} of {pid} is not known")


@dataclass(frozen=True, slots=True)
class Processor:
    """CPU seconds of a process so far."""

    own: float
    children: float
    """Of ended child processes: the operator's are git."""

    @classmethod
    def of(cls, pid: int) -> Processor:
        found = [int(part) for part in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:15]]
        return cls((found[0] + found[1]) / TICKS, (found[2] + found[3]) / TICKS)

    def __sub__(self, other: Processor) -> Processor:
        return Processor(self.own - other.own, self.children - other.children)

    @property
    def total(self) -> float:
        return self.own + self.children


@dataclass
class Lab:
    """What `lab` gives."""

    plane: ControlPlane
    operator: OperatorProcess
    trainer: SimTrainer
    runs: list[Watched] = field(default_factory=list)

    @property
    def pid(self) -> int:
        assert self.operator.process is not None
        return self.operator.process.pid

    def apply(self, name: str, spec: dict[str, Any]) -> Watched:
        run = Watched(self.plane, NAMESPACE, name)
        metadata = {"name": name, "namespace": NAMESPACE}
        body = {"apiVersion": "autoresearch.dev/v1alpha1", "kind": "ResearchRun", "metadata": metadata, "spec": spec}
        self.plane.api.create(run.path("researchruns"), body)
        self.runs.append(run)
        return run

    def wait_complete(self, seconds: float) -> None:
        """Waits until every run ended, and complains of one that failed."""
        until = time.monotonic() + seconds
        for run in self.runs:
            run.wait_complete(max(1.0, until - time.monotonic()))
            if run.condition("Failed"):
                raise SystemExit(f"{run.name} failed: {run.condition('Failed')['message']}")


@contextmanager
def lab(gpus: int, seconds: float) -> Iterator[Lab]:
    """`gpus` on nodes of eight; trials take `seconds`."""
    arguments = {"kube-scheduler": UNLIMITED}
    arguments["kube-controller-manager"] = [*UNLIMITED, "--concurrent-job-syncs=20"]
    with (
        ControlPlane.start_new(Options(component_arguments=arguments)) as plane,
        Kwok(plane, plane.reaper) as kwok,
        tempfile.TemporaryDirectory(prefix="autoresearch-bench-") as folder,
    ):
        plane.install_crds(sorted((ROOT / "crds").glob("*.yaml")))
        plane.create_namespace(NAMESPACE)
        kwok.add((gpus + 7) // 8, gpus=8, product="simulated", driver="1")
        trainer = SimTrainer(plane, behaviour(seconds), namespace=NAMESPACE)
        with trainer, OperatorProcess(plane, NAMESPACE, Path(folder)) as operator:
            found = Lab(plane, operator, trainer)
            until = time.monotonic() + 120
            while "at work after" not in operator.log.read_text():
                if time.monotonic() > until:
                    raise SystemExit(operator.log.read_text()[-2000:])
                time.sleep(0.05)
            try:
                yield found
            except AssertionError as error:
                raise SystemExit(f"{error}\n{operator.log.read_text()[-4000:]}") from None


class Sampler:
    """The operator's memory, once a second."""

    def __init__(self, pid: int) -> None:
        self._pid, self._stop = pid, threading.Event()
        self.mib: list[float] = []
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def _sample(self) -> None:
        while not self._stop.wait(1.0):
            try:
                self.mib.append(memory_mib(self._pid))
            except OSError:
                return

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(5)


def moment(text: str) -> float:
    """Seconds since the epoch, of an audit event's time stamp (microseconds)."""
    return datetime.fromisoformat(text).timestamp()


def quantile(values: list[float], part: float) -> float:
    """The value that `part` of all do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]
