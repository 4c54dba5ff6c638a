"""Runs that lack data or nodes, on a real API server: they say so before a Job is made, and go on once it is there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from clusterlab.cluster import Cluster
from controlledruns import OperatorProcess, Watched, behaviour, request

ROOT = Path(__file__).resolve().parents[2]
TIER = {"name": "sim", "gpus": 1, "budget": {"steps": 10}, "maxParallel": 2}


@pytest.fixture
def run(control_plane: Cluster, namespace: str) -> Watched:
    control_plane.install_crds(sorted((ROOT / "crds").glob("*.yaml")))
    return Watched(control_plane, namespace)


def ready(run: Watched, reason: str) -> bool:
    return bool(run.condition("Ready").get("reason") == reason)


def claim(run: Watched, mode: str) -> dict[str, Any]:
    """A claim bound to a volume of its own."""
    name = f"data-{run.namespace}"
    spec = {"capacity": {"storage": "1Gi"}, "accessModes": [mode], "storageClassName": ""}
    run.cluster.api.create(
        "/api/v1/persistentvolumes",
        {
            "metadata": {"name": name},
            "spec": spec
            | {"hostPath": {"path": "/nowhere"}, "claimRef": {"namespace": run.namespace, "name": "climbmix"}},
        },
    )
    return {
        "metadata": {"name": "climbmix", "namespace": run.namespace},
        "spec": {
            "accessModes": [mode],
            "storageClassName": "",
            "volumeName": name,
            "resources": {"requests": {"storage": "1Gi"}},
        },
    }


def test_a_run_waits_for_its_data_and_goes_on(
    run: Watched, kwok_nodes: Callable[..., list[str]], sim_trainer: Callable[..., Any], tmp_path: Path
) -> None:
    kwok_nodes(2, gpus=2, product="simulated", driver="1")
    sim_trainer(behaviour(0.2))
    with OperatorProcess(run.cluster, run.namespace, tmp_path, AUTORESEARCH_NODES_READABLE="true"):
        trainer = {"data": {"claimName": "climbmix"}}
        body = request(run.namespace, trainer=trainer, tiers=[TIER], limits={"experiments": 1})
        run.cluster.api.create(run.path("researchruns"), body)
        run.wait(lambda: ready(run, "DataNotShared"), "the missing claim to be told")
        message = run.condition("Ready")["message"]
        assert message.startswith("there is no PersistentVolumeClaim climbmix")
        assert "autoresearch prepare --claim climbmix --apply" in message
        assert not run.items("jobs")

        claims = f"/api/v1/namespaces/{run.namespace}/persistentvolumeclaims"
        run.cluster.api.create(claims, claim(run, "ReadWriteOnce"))
        run.wait(lambda: "one node at a time" in run.condition("Ready")["message"], "the claim's mode to be told")
        assert "on 2 nodes" in run.condition("Ready")["message"]
        assert not run.items("jobs")

        # One trial at a time goes where the volume is.
        run.cluster.api.patch(run.path("researchruns", run.name), {"spec": {"tiers": [{**TIER, "maxParallel": 1}]}})
        run.wait(lambda: ready(run, "Verified") and run.items("jobs"), "trials")
        run.wait_complete()
    run.cluster.api.delete(f"/api/v1/persistentvolumes/data-{run.namespace}")


def test_a_tier_that_fits_no_node_is_told_before_a_job_is_made(
    run: Watched, kwok_nodes: Callable[..., list[str]], sim_trainer: Callable[..., Any], tmp_path: Path
) -> None:
    kwok_nodes(1, gpus=2, product="NVIDIA-L4", driver="1")
    sim_trainer(behaviour(0.2))
    with OperatorProcess(run.cluster, run.namespace, tmp_path, AUTORESEARCH_NODES_READABLE="true"):
        tier = {**TIER, "product": "NVIDIA-H200"}
        body = request(run.namespace, tiers=[tier], limits={"experiments": 1})
        run.cluster.api.create(run.path("researchruns"), body)
        run.wait(lambda: ready(run, "NoMatchingNode"), "the missing product to be told")
        assert "no node has the product NVIDIA-H200; there are: NVIDIA-L4" in run.condition("Ready")["message"]
        assert not run.items("jobs")

        kwok_nodes(1, gpus=2, product="NVIDIA-H200", driver="1")
        run.wait(lambda: ready(run, "Verified"), "the new node to be noticed")
        run.wait_complete()


def test_without_leave_to_read_nodes_nothing_is_said_about_them(run: Watched, tmp_path: Path) -> None:
    with OperatorProcess(run.cluster, run.namespace, tmp_path):
        body = request(run.namespace, tiers=[{**TIER, "product": "NVIDIA-H200"}])
        run.cluster.api.create(run.path("researchruns"), body)
        run.wait(lambda: run.condition("Progressing").get("reason") == "NoCapacity", "the scheduler's word")
        assert ready(run, "Verified")
        assert run.items("jobs")
