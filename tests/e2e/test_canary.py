"""The canary in real containers: it has to see that this network carries no NetworkPolicy out."""

from __future__ import annotations

import json

from autoresearch_operator.cli import app
from clusterlab.images import Image
from clusterlab.node import Node
from typer.testing import CliRunner

PARTS = "autoresearch.dev/part"


def test_a_network_without_policies_is_found_out_and_nothing_is_left(
    real_node: Node, namespace: str, trainer_image: Image
) -> None:
    """The node's network has no NetworkPolicy controller, so the closed pod reaches what the open one reaches."""
    plane = real_node.plane
    way = ["--namespace", namespace, "--kubeconfig", str(plane.kubeconfig), "--trainer-image", trainer_image.name]
    done = CliRunner().invoke(app, ["doctor", *way, "--json", "--canary-timeout", "240"])
    found = {one["name"]: one for one in json.loads(done.stdout)}["network policies"]
    assert found["status"] == "warn", found
    assert found["value"].startswith("not enforced: a pod under a policy that denies all still reached"), found
    assert all(words in found["value"] for words in ("another pod", "the API server", "DNS")), found
    assert "several GPUs" in found["advice"]

    def left() -> list[str]:
        paths = (f"/apis/batch/v1/namespaces/{namespace}/jobs", f"/api/v1/namespaces/{namespace}/pods")
        policies = f"/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies"
        found = [item for path in paths for item in plane.api.list(path, labels=PARTS)]
        return [item["metadata"]["name"] for item in [*found, *plane.api.list(policies)]]

    plane.api.wait(lambda: not left(), "the canary is gone with its policy", timeout_seconds=60)
