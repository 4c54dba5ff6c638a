"""Scores of different hardware are never compared: what the first baseline ran on is kept, and other trials are made
anew there."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from clusterlab.cluster import Cluster
from clusterlab.simtrainer import Ending, TrialPod, landscape
from controlledruns import OperatorProcess, Watched, request

ROOT = Path(__file__).resolve().parents[2]
PRODUCT, DRIVER = "nvidia.com/gpu.product", "nvidia.com/cuda.driver-version.full"


@pytest.fixture
def run(control_plane: Cluster, namespace: str) -> Watched:
    control_plane.install_crds(sorted((ROOT / "crds").glob("*.yaml")))
    return Watched(control_plane, namespace)


def measured_on_its_node(cluster: Cluster) -> Callable[[TrialPod], Ending]:
    """`landscape`, reporting the product and the driver that the pod's node has."""

    def end(pod: TrialPod) -> Ending:
        labels = cluster.api.get(f"/api/v1/nodes/{pod.node}")["metadata"]["labels"]
        ending = landscape(pod)
        result = json.loads(ending.message)
        result["hardware"] |= {"product": labels[PRODUCT], "driver": labels[DRIVER]}
        return replace(ending, message=json.dumps(result, separators=(",", ":"))).after(0.3)

    return end


def trials(run: Watched) -> list[dict[str, Any]]:
    return [trial for item in run.items("experiments") for trial in item.get("status", {}).get("trials", ())]


def test_a_tier_is_pinned_to_the_product_of_its_first_baseline(
    run: Watched, kwok_nodes: Callable[..., list[str]], sim_trainer: Callable[..., Any], tmp_path: Path
) -> None:
    kwok_nodes(1, gpus=2, product="NVIDIA-L4", driver="1")
    kwok_nodes(1, gpus=2, product="Tesla-T4", driver="1")
    sim_trainer(measured_on_its_node(run.cluster))
    with OperatorProcess(run.cluster, run.namespace, tmp_path):
        run.cluster.api.create(run.path("researchruns"), request(run.namespace, limits={"experiments": 2}))
        run.wait_complete()
    pinned = run.status()["tiers"][0]["product"]
    scored = [trial for trial in trials(run) if trial["phase"] == "Scored"]
    strange = [trial for trial in trials(run) if trial.get("product") not in (None, "", pinned)]
    assert scored
    assert {trial["product"] for trial in scored} == {pinned}
    assert strange  # four slots and two GPUs of each product: the first ones went to both
    assert {trial["phase"] for trial in strange} == {"Lost"}
    assert not any("valBPB" in trial for trial in strange)
    assert run.status()["counts"]["invalid"] == 0


def test_a_driver_that_changed_under_a_run_stops_it_with_a_word(
    run: Watched, kwok_nodes: Callable[..., list[str]], sim_trainer: Callable[..., Any], tmp_path: Path
) -> None:
    (node,) = kwok_nodes(1, gpus=4, product="NVIDIA-L4", driver="570.1")
    sim_trainer(measured_on_its_node(run.cluster))
    with OperatorProcess(run.cluster, run.namespace, tmp_path):
        run.cluster.api.create(run.path("researchruns"), request(run.namespace, limits={"experiments": 50}))
        run.wait(lambda: run.status().get("phase") == "Running", "the baseline")
        run.cluster.api.patch(f"/api/v1/nodes/{node}", {"metadata": {"labels": {DRIVER: "580.2"}}})
        run.wait(lambda: run.condition("Progressing").get("reason") == "HardwareChanged", "HardwareChanged")
        assert run.condition("Progressing")["status"] == "False"
        assert "driver 580.2 (the baseline: 570.1)" in run.condition("Progressing")["message"]
        run.wait(lambda: not run.items("jobs"), "trials under way to end")
        assert run.status()["counts"]["invalid"] == 0

        run.cluster.api.patch(f"/api/v1/nodes/{node}", {"metadata": {"labels": {DRIVER: "570.1"}}})
    assert not any(trial["phase"] == "Scored" and trial.get("driver") == "580.2" for trial in trials(run))
