"""Runs in a Kueue queue, with Kueue's own controller: its quota holds, and what it takes back is measured again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from clusterlab import tools
from clusterlab.controlplane import ControlPlane
from clusterlab.fixtures import missing
from clusterlab.kueue import Kueue
from clusterlab.kwok import Kwok
from clusterlab.simtrainer import SimTrainer
from controlledruns import OperatorProcess, Watched, behaviour, ledger, planned, request

ROOT = Path(__file__).resolve().parents[2]
QUEUE = "research"
GPUS = 4

_numbers = count(1)


@pytest.fixture(scope="module")
def kueue() -> Iterator[tuple[ControlPlane, Kueue]]:
    """A control plane of its own: Kueue's webhooks stand before every Job."""
    for program in ("kube-apiserver", "etcd", "kwok", "kueue"):
        try:
            tools.program(program)
        except tools.ToolsMissing as error:
            missing(str(error))
    with ControlPlane.start_new() as plane, Kwok(plane, plane.reaper) as kwok, Kueue(plane) as running:
        plane.install_crds(sorted((ROOT / "crds").glob("*.yaml")))
        kwok.add(1, gpus=8, product="simulated", driver="1")
        yield plane, running


@pytest.fixture
def run(kueue: tuple[ControlPlane, Kueue]) -> Iterator[Watched]:
    """A run's name in a namespace with a queue of four GPUs."""
    plane, running = kueue
    namespace = f"queued-{next(_numbers)}"
    plane.create_namespace(namespace)
    running.queue(namespace, QUEUE, gpus=GPUS)
    yield Watched(plane, namespace)
    plane.delete_namespace(namespace)


@pytest.fixture
def trainer(run: Watched) -> Iterator[Callable[[float], SimTrainer]]:
    """Trials that take this many seconds."""
    started: list[SimTrainer] = []

    def start(seconds: float) -> SimTrainer:
        made = SimTrainer(run.cluster, behaviour(seconds), namespace=run.namespace)
        started.append(made)
        made.start()
        return made

    yield start
    for one in started:
        one.stop()


def apply(run: Watched, name: str = "first", **spec: Any) -> dict[str, Any]:
    body = request(run.namespace, name, queueName=QUEUE, **spec)
    run.cluster.api.create(run.path("researchruns"), body)
    return body


def gpus_in_use(run: Watched) -> int:
    """GPUs of pods that a node has taken and that have not ended."""
    return sum(
        1
        for pod in run.items("pods")
        if pod["spec"].get("nodeName") and pod.get("status", {}).get("phase") not in ("Succeeded", "Failed")
    )


def lost(run: Watched) -> list[str]:
    found = []
    for item in run.items("experiments"):
        found += [t.get("message", "") for t in item.get("status", {}).get("trials", ()) if t["phase"] == "Lost"]
    return found


def test_two_runs_share_a_queue_of_four_gpus(
    run: Watched, trainer: Callable[[float], SimTrainer], tmp_path: Path
) -> None:
    trainer(0.5)
    both = [run, Watched(run.cluster, run.namespace, "second")]
    queued, most = set(), 0
    with OperatorProcess(run.cluster, run.namespace, tmp_path):
        for one in both:
            apply(run, one.name, limits={"experiments": 2})
        until = time.monotonic() + 240
        while not all(one.condition("Complete") for one in both):
            assert time.monotonic() < until, [one.status() for one in both]
            most = max(most, gpus_in_use(run))
            for one in both:
                if one.condition("Progressing").get("reason") == "Queued":
                    queued.add(one.name)
            time.sleep(0.1)
    assert most == GPUS
    assert queued, "eight Jobs for four GPUs, and nobody said that any of them waits"
    assert [one.status()["counts"]["done"] >= 2 for one in both] == [True, True]
    assert not lost(run)


def test_a_drained_queue_costs_attempts_and_no_verdict(
    run: Watched, kueue: tuple[ControlPlane, Kueue], trainer: Callable[[float], SimTrainer], tmp_path: Path
) -> None:
    trainer(3.0)
    with OperatorProcess(run.cluster, run.namespace, tmp_path) as operator:
        body = apply(run, limits={"experiments": 2})
        run.wait(lambda: gpus_in_use(run) == GPUS, "four trials")
        kueue[1].hold(run.namespace, QUEUE, "HoldAndDrain")
        run.wait(lambda: gpus_in_use(run) == 0, "the queue to be drained")
        run.wait(lambda: run.condition("Progressing").get("reason") == "Queued", "Queued")
        run.wait(lambda: len(run.items("jobs")) == GPUS, "the next attempts to wait")
        assert all(job["spec"]["suspend"] for job in run.items("jobs"))

        kueue[1].hold(run.namespace, QUEUE, "None")
        run.wait_complete()
        operator.stop()
        assert any("took the trial's place back" in message for message in lost(run))
        assert run.status()["counts"]["invalid"] == 0
        assert ledger(operator.volume, body) == planned(tmp_path / "planned", body)


def test_a_queue_that_does_not_wait_for_training_pods_is_named(
    run: Watched, kueue: tuple[ControlPlane, Kueue], trainer: Callable[[float], SimTrainer], tmp_path: Path
) -> None:
    # A pod that trains in an init container is not ready for Kueue before it judges.
    kueue[1].configure(waitForPodsReady={"timeout": "4s", "requeuingStrategy": {"backoffBaseSeconds": 1}})
    try:
        trainer(60.0)
        with OperatorProcess(run.cluster, run.namespace, tmp_path):
            apply(run, tiers=[{"name": "sim", "gpus": 1, "budget": {"steps": 10}, "maxParallel": 1}])
            run.wait(lambda: run.condition("Progressing").get("reason") == "KueuePodsReadyTimeout", "a word")
            assert run.condition("Progressing")["status"] == "False"
            assert "waitForPodsReady" in run.condition("Progressing")["message"]
            made = len(run.items("jobs"))
            time.sleep(5)
            assert len(run.items("jobs")) <= made
            assert run.status()["counts"]["invalid"] == 0
    finally:
        kueue[1].configure()
