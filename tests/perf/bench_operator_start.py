"""The operator's start with many Experiments: `python tests/perf/bench_operator_start.py [--experiments N] [--json]`.

Starts a control plane (or takes the one of --kubeconfig), fills a namespace, starts the operator's process with a
controller that does nothing, and prints seconds until it is at work and its memory then and after a resync.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS), str(Path(__file__).resolve().parent)]

import machine  # noqa: E402
from autoresearch_operator.api.reasons import ExperimentKind, ExperimentPhase, Verdict, VerdictReason  # noqa: E402
from autoresearch_operator.gateways.kube import KubeCluster  # noqa: E402
from autoresearch_operator.manifests import experiment as manifests  # noqa: E402
from autoresearch_operator.research.records import (  # noqa: E402
    ExperimentRecord,
    Purpose,
    TrialKey,
    TrialPhase,
    TrialRecord,
)
from clusterlab.processes import free_ports  # noqa: E402
from clusterlab.tools import cache  # noqa: E402

READY_SECONDS = 10.0
RSS_MIB = 200.0
NAMESPACE = "bench-start"
RUNS = 5


def record(number: int) -> ExperimentRecord:
    """A rejected candidate; every twentieth one was confirmed first."""
    return ExperimentRecord(
        number=number,
        kind=ExperimentKind.PROPOSAL if number else ExperimentKind.BASELINE,
        commit=f"{number:040x}",
        tree=f"{number + 7:040x}",
        base=0,
        title=f"matrix learning rate 0.04 -> 0.0{number % 90 + 10}",
        proposer="search",
        phase=ExperimentPhase.DONE,
        verdict=Verdict.REJECTED,
        reason=VerdictReason.NOT_BETTER,
        val_bpb=1.2345 + number / 1e6,
        delta=-0.0123,
        message="one run, 0.0123 bits per byte worse than the incumbent's mean of 12 runs",
    )


def trials(number: int) -> Iterator[TrialRecord]:
    for seed in range(5 if number % 20 == 0 else 1):
        yield TrialRecord(
            TrialKey(number, 64 * number + seed, 1), "default", Purpose.SCREEN, number, TrialPhase.SCORED,
            val_bpb=1.2345 + number / 1e6, tokens_per_second=1660000.0, peak_memory_bytes=47248000000,
            started_at=1.79e9, finished_at=1.79e9 + 330,
        )  # fmt: skip


async def fill(count: int) -> None:
    """Creates so many Experiments with their statuses, unless they are there."""
    cluster = await KubeCluster.connect()
    room = asyncio.Semaphore(12)
    there = {item["metadata"]["name"] for item in await cluster.list("experiments", NAMESPACE)}
    runs: list[Any] = []
    for number in range(RUNS):
        name = f"bench-{number}"
        runs.append(
            await cluster.get("researchruns", NAMESPACE, name)
            or await cluster.create(
                "researchruns",
                {
                    "apiVersion": "autoresearch.dev/v1alpha1",
                    "kind": "ResearchRun",
                    "metadata": {"name": name, "namespace": NAMESPACE},
                    "spec": {"suspend": True},
                },
            )
        )

    async def one(run: Any, number: int) -> None:
        async with room:
            body = manifests.experiment(run, record(number), [record(0)])
            if body["metadata"]["name"] in there:
                return
            made = await cluster.create("experiments", body)
            status = manifests.status(record(number), trials(number), None, 1.79e9)
            await cluster.patch_status("experiments", NAMESPACE, made["metadata"]["name"], status)

    async with asyncio.TaskGroup() as group:
        for run in runs:
            for number in range(count // RUNS):
                group.create_task(one(run, number))
    await cluster.close()


def memory_mib(pid: int, field: str = "VmRSS") -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise ValueError(f"{field} of {pid} is not known")


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2):
            return True
    except (urllib.error.URLError, OSError):
        return False


def measure(experiments: int, program: list[str], seconds: float) -> dict[str, Any]:
    port = free_ports(1)[0]
    # As in the image: without compiled modules two thirds of the imports are the compiler.
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"} | {
        "PYTHONPYCACHEPREFIX": str(cache().parent / "bytecode"),
        "AUTORESEARCH_NAMESPACES": NAMESPACE,
        "AUTORESEARCH_LEASE_NAMESPACE": NAMESPACE,
        "AUTORESEARCH_HTTP_PORT": str(port),
        "AUTORESEARCH_RESYNC_SECONDS": "10",
    }
    process = subprocess.Popen(program, env=environ, stdout=subprocess.PIPE, text=True)
    started = time.monotonic()
    try:
        while not ready(port):
            if process.poll() is not None:
                raise SystemExit(f"the operator ended with {process.returncode}")
            time.sleep(0.02)
        took, at_start, processor = time.monotonic() - started, memory_mib(process.pid), cpu_seconds(process.pid)
        time.sleep(seconds)
        figures: dict[str, Any] = {
            "experiments": experiments,
            "ready_seconds": round(took, 2),
            "rss_at_start_mib": round(at_start, 1),
            "rss_after_resyncs_mib": round(memory_mib(process.pid), 1),
            "rss_peak_mib": round(memory_mib(process.pid, "VmHWM"), 1),
            "cpu_seconds_until_ready": processor,
            "cpu_seconds_in_all": cpu_seconds(process.pid),
        }
    finally:
        process.send_signal(signal.SIGTERM)
        stopping = time.monotonic()
        process.communicate(timeout=30)
    return figures | {"stop_seconds": round(time.monotonic() - stopping, 2)}


@contextmanager
def api_server(kubeconfig: Path | None) -> Iterator[Path]:
    if kubeconfig is not None:
        yield kubeconfig
        return
    from clusterlab.controlplane import ControlPlane, Options

    with ControlPlane.start_new(Options()) as plane:
        plane.install_crds(sorted((TESTS.parent / "crds").glob("*.yaml")))
        plane.create_namespace(NAMESPACE)
        yield plane.kubeconfig


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--experiments", type=int, default=5000)
    parser.add_argument("--seconds", type=float, default=25, help="how long to watch the memory after the start")
    parser.add_argument("--kubeconfig", type=Path, help=f"a cluster with the CRDs and a namespace {NAMESPACE}")
    parser.add_argument("--real", action="store_true", help="the real controller instead of one that does nothing")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with api_server(options.kubeconfig) as kubeconfig:
        os.environ["KUBECONFIG"] = str(kubeconfig)
        filling = time.monotonic()
        asyncio.run(fill(options.experiments))
        filling = time.monotonic() - filling
        recorder = [sys.executable, str(TESTS / "cluster" / "recording_operator.py")]
        real = [str(Path(sys.executable).with_name("autoresearch")), "operator"]
        figures = measure(options.experiments, real if options.real else recorder, options.seconds)
    if options.json:
        print(json.dumps(figures))
    else:
        print(machine.describe())
        print(f"{options.experiments} Experiments were written in {filling:.0f} s")
        for name, value in figures.items():
            print(f"{name:24} {value}")
    late = figures["ready_seconds"] > READY_SECONDS
    heavy = max(figures["rss_at_start_mib"], figures["rss_after_resyncs_mib"]) > RSS_MIB
    return 1 if late or heavy else 0


if __name__ == "__main__":
    sys.exit(main())
