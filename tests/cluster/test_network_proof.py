"""The controller's canary on a real API server: sent, answered by pods that the test plays, told, and gone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from clusterlab.api import MERGE_PATCH
from clusterlab.cluster import Cluster
from controlledruns import OperatorProcess, Watched, request

ROOT = Path(__file__).resolve().parents[2]
PART = "autoresearch.dev/part"
TIER = {"name": "pair", "gpus": 2, "budget": {"steps": 10}}


class Network:
    """A namespace without a node: its canary pods run in the test's imagination, under the policies that are there."""

    def __init__(self, cluster: Cluster, namespace: str, *, enforces: bool) -> None:
        self.api = cluster.api
        self.namespace = namespace
        self.enforces = enforces

    def items(self, kind: str, group: str = "/api/v1") -> list[dict[str, Any]]:
        return list(self.api.list(f"{group}/namespaces/{self.namespace}/{kind}", labels=PART))

    def left(self) -> list[str]:
        policies = self.items("networkpolicies", "/apis/networking.k8s.io/v1")
        found = [*self.items("jobs", "/apis/batch/v1"), *self.items("pods"), *policies]
        return [item["metadata"]["name"] for item in found]

    def pod(self, part: str) -> dict[str, Any] | None:
        return next((pod for pod in self.items("pods") if pod["metadata"]["labels"][PART].endswith(part)), None)

    def reached(self, pod: dict[str, Any], *more: str) -> list[str]:
        labels = pod["metadata"]["labels"].items()
        policies = self.items("networkpolicies", "/apis/networking.k8s.io/v1")
        closed = any(one["spec"]["podSelector"]["matchLabels"].items() <= labels for one in policies)
        return [] if closed and self.enforces else ["apiServer", "dns", *more]

    def answer(self, part: str) -> None:
        """The kubelet's part for one of the two pods."""
        pod = self.pod(part)
        assert pod is not None
        if part == "listener":
            status = {
                "phase": "Running",
                "podIP": "10.0.0.1",
                "podIPs": [{"ip": "10.0.0.1"}],
                "conditions": [{"type": "Ready", "status": "True"}],
                "initContainerStatuses": [ended("control", self.reached(pod))],
            }
        else:
            status = {"phase": "Succeeded", "containerStatuses": [ended("client", self.reached(pod, "listener"))]}
        path = f"/api/v1/namespaces/{self.namespace}/pods/{pod['metadata']['name']}/status"
        self.api.patch(path, {"status": status}, MERGE_PATCH)


def ended(container: str, reached: list[str]) -> dict[str, Any]:
    message = json.dumps({"version": 1, "reached": reached, "seconds": 0.2})
    return {
        "name": container,
        "image": "trainer",
        "imageID": "",
        "ready": False,
        "restartCount": 0,
        "state": {"terminated": {"exitCode": 0, "message": message}},
    }


@pytest.mark.parametrize("enforces", [True, False], ids=["enforced", "not enforced"])
def test_a_run_on_several_gpus_says_whether_its_network_is_shut_though_the_operator_was_killed(
    control_plane: Cluster, namespace: str, tmp_path: Path, enforces: bool
) -> None:
    control_plane.install_crds(sorted((ROOT / "crds").glob("*.yaml")))
    run, network = Watched(control_plane, namespace), Network(control_plane, namespace, enforces=enforces)
    operator = OperatorProcess(control_plane, namespace, tmp_path, AUTORESEARCH_STATUS_SECONDS="1")
    with operator:
        control_plane.api.create(run.path("researchruns"), request(namespace, tiers=[TIER]))
        run.wait(lambda: network.pod("listener"), "the listener")
        run.wait(lambda: run.condition("Isolated").get("status") == "Unknown", "the canary to be told of")
        operator.kill()
        first = network.pod("listener")
        operator.start()
        network.answer("listener")
        run.wait(lambda: network.pod("client"), "the client")
        again = network.pod("listener")
        assert first is not None and again is not None and first["metadata"]["uid"] == again["metadata"]["uid"]
        network.answer("client")
        run.wait(lambda: "tried" in run.condition("Isolated").get("message", ""), "the answer to be told")
        told = run.condition("Isolated")
        assert (told["status"], told["reason"]) == (
            ("True", "Enforced") if enforces else ("False", "NetworkPolicyNotEnforced")
        )
        run.wait(lambda: not network.left(), "the canary to be gone with its policy")
        assert run.condition("Ready")["status"] == "True"


def test_a_canary_under_way_goes_with_the_last_run_and_with_the_operator(
    control_plane: Cluster, namespace: str, tmp_path: Path
) -> None:
    control_plane.install_crds(sorted((ROOT / "crds").glob("*.yaml")))
    run, network = Watched(control_plane, namespace), Network(control_plane, namespace, enforces=True)
    operator = OperatorProcess(control_plane, namespace, tmp_path)
    with operator:
        control_plane.api.create(run.path("researchruns"), request(namespace, tiers=[TIER]))
        run.wait(lambda: network.pod("listener"), "the listener")
        operator.stop()
        run.wait(lambda: not network.left(), "the canary to be gone with its operator")

        operator.start()
        run.wait(lambda: network.pod("listener"), "the next listener")
        control_plane.api.delete(run.path("researchruns", run.name))
        run.wait(lambda: not network.left(), "the canary to be gone with its run")
