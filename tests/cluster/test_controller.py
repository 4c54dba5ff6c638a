"""Runs on a real API server with simulated GPU nodes: what they come to, whatever is done to them meanwhile."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from clusterlab.cluster import Cluster
from clusterlab.controlplane import ControlPlane
from controlledruns import OperatorProcess, Watched, behaviour, ledger, planned, request, writes

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def cluster(control_plane: Cluster, kwok_nodes: Callable[..., list[str]]) -> Cluster:
    """With both kinds and eight GPUs."""
    control_plane.install_crds(sorted((ROOT / "crds").glob("*.yaml")))
    kwok_nodes(1, gpus=8, product="simulated", driver="1")
    return control_plane


@pytest.fixture
def operator(cluster: Cluster, namespace: str, tmp_path: Path) -> Iterator[OperatorProcess]:
    with OperatorProcess(cluster, namespace, tmp_path) as running:
        yield running


@pytest.fixture
def run(cluster: Cluster, namespace: str) -> Watched:
    return Watched(cluster, namespace)


def apply(run: Watched, **spec: Any) -> dict[str, Any]:
    body = request(run.namespace, **spec)
    run.cluster.api.create(run.path("researchruns"), body)
    return body


def test_a_run_comes_to_what_the_plan_alone_decides(
    run: Watched, operator: OperatorProcess, sim_trainer: Callable[..., Any], tmp_path: Path
) -> None:
    sim_trainer(behaviour(0.3))
    body = apply(run)
    run.wait_complete()
    operator.stop()

    expected = planned(tmp_path / "planned", body)
    assert ledger(operator.volume, body) == expected
    accepted = [number for number, _, verdict, *_ in expected[0] if verdict == "Accepted"]
    assert accepted
    status = run.status()
    assert status["phase"] == "Complete"
    assert status["best"]["commit"] == expected[1]
    assert status["counts"]["done"] == 8
    assert status["tiers"][0]["product"] == "simulated"
    conditions = {condition["type"]: condition["status"] for condition in status["conditions"]}
    conditions.pop("Isolated")  # the simulated trainer's word
    assert conditions == {"Ready": "True", "Progressing": "False", "BranchUpdated": "True", "Complete": "True"}
    events = {
        event["reason"] for event in run.cluster.api.list(f"/apis/events.k8s.io/v1/namespaces/{run.namespace}/events")
    }
    assert {"Accepted", "Verified", "Searching", "ExperimentLimit"} <= events
    assert not run.items("jobs")
    for item in run.items("experiments"):
        _, _, verdict, reason, *_ = expected[0][item["spec"]["number"]]
        assert (item["status"]["verdict"], item["status"]["reason"]) == (verdict, reason)


def test_an_operator_killed_ten_times_at_random_loses_nothing(
    run: Watched, operator: OperatorProcess, sim_trainer: Callable[..., Any], tmp_path: Path
) -> None:
    sim_trainer(behaviour(0.5))
    body = apply(run)
    draw = random.Random(0)
    for _ in range(10):
        time.sleep(draw.uniform(1.5, 6.0))
        operator.kill()
        operator.start()
    run.wait_complete(240)
    operator.stop()

    assert ledger(operator.volume, body) == planned(tmp_path / "planned", body)


def test_jobs_and_experiments_deleted_in_the_middle_change_no_verdict(
    run: Watched, operator: OperatorProcess, sim_trainer: Callable[..., Any], tmp_path: Path
) -> None:
    sim_trainer(behaviour(0.5))
    body = apply(run)
    run.wait(lambda: run.status().get("phase") == "Running", "the baseline")
    run.wait(lambda: len(run.items("jobs")) > 1, "trials")
    run.cluster.kubectl("delete", "jobs", "--all", "-n", run.namespace, "--wait=false")
    run.wait(lambda: run.status().get("counts", {}).get("done", 0) >= 2, "two verdicts")
    run.cluster.kubectl("delete", "experiments", "--all", "-n", run.namespace, "--wait=false")
    run.wait_complete(240)
    operator.stop()

    expected = planned(tmp_path / "planned", body)
    assert ledger(operator.volume, body) == expected
    assert {item["spec"]["number"] for item in run.items("experiments")} == set(range(len(expected[0])))
    assert all(item["status"].get("verdict") for item in run.items("experiments"))


def test_a_suspended_run_stands_still_and_goes_on(
    run: Watched, operator: OperatorProcess, sim_trainer: Callable[..., Any], tmp_path: Path
) -> None:
    sim_trainer(behaviour(0.5))
    body = apply(run)
    run.wait(lambda: run.status().get("phase") == "Running", "the baseline")
    run.cluster.api.patch(run.path("researchruns", run.name), {"spec": {"suspend": True}})
    run.wait(lambda: run.status().get("phase") == "Suspended", "Suspended")
    run.wait(lambda: not run.items("jobs") or run.condition("Progressing")["reason"] == "Suspended", "quiet")
    time.sleep(3)
    before = {pod["metadata"]["uid"] for pod in run.items("pods")}
    time.sleep(3)
    assert {pod["metadata"]["uid"] for pod in run.items("pods")} <= before
    run.cluster.api.patch(run.path("researchruns", run.name), {"spec": {"suspend": False}})
    run.wait_complete()
    operator.stop()

    assert ledger(operator.volume, body) == planned(tmp_path / "planned", body)


def test_a_rejected_idea_costs_at_most_six_writes(
    components: ControlPlane, run: Watched, operator: OperatorProcess, sim_trainer: Callable[..., Any]
) -> None:
    mark = components.audit_size()
    sim_trainer(behaviour(0.2))
    apply(run, limits={"experiments": 30}, acceptance={"minImprovement": 5})
    run.wait_complete()
    counts = run.status()["counts"]
    assert counts["rejected"] == 30
    found = writes(components, mark, run.namespace)
    kinds = ("experiments", "experiments/status", "configmaps", "jobs")
    own = sum(times for what, times in found.items() if what.split()[1] in kinds)
    baseline = 1 + 1 + 5 + 5 + 5  # Experiment, ConfigMap, and five trials, each with a Job, its deletion and a status

    assert found["create experiments"] == 31
    assert (own - baseline) / 30 <= 6, found


def test_limits_raised_after_the_end_open_the_run_again(
    run: Watched, operator: OperatorProcess, sim_trainer: Callable[..., Any]
) -> None:
    sim_trainer(behaviour(0.2))
    apply(run, limits={"experiments": 3})
    run.wait_complete()
    run.cluster.api.patch(run.path("researchruns", run.name), {"spec": {"limits": {"experiments": 5}}})
    run.wait(lambda: not run.condition("Complete"), "the run to be open again")
    run.wait_complete()

    assert run.status()["counts"]["done"] >= 5
