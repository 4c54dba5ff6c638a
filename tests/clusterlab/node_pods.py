"""Small pods of the end-to-end tests, at the restricted Pod Security level."""

from __future__ import annotations

from typing import Any

import pytest

from clusterlab.node import Node
from clusterlab.node_config import PAUSE_IMAGE

RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


def container(name: str, *args: str, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "image": PAUSE_IMAGE,
        "imagePullPolicy": "Never",
        "args": list(args),
        "securityContext": dict(RESTRICTED),
        "resources": {
            "requests": {"cpu": "10m", "memory": "32Mi"},
            "limits": {"cpu": "1", "memory": "64Mi"},
        },
        **more,
    }


def pod(name: str, *containers: dict[str, Any], init: tuple[dict[str, Any], ...] = (), **more: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 3,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 65532,
                "runAsGroup": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "initContainers": list(init),
            "containers": list(containers),
            **more,
        },
    }


def finished(node: Node, namespace: str, name: str, seconds: float = 60.0) -> dict[str, Any]:
    """The pod once it has ended; fails with what it said when it did not succeed."""
    path = f"/api/v1/namespaces/{namespace}/pods/{name}"
    api = node.plane.api
    api.wait(
        lambda: api.get(path)["status"]["phase"] in ("Succeeded", "Failed"),
        f"pod {name} ended",
        timeout_seconds=seconds,
    )
    found = api.get(path)
    if found["status"]["phase"] == "Failed":
        logs = node.plane.kubectl("logs", "-n", namespace, name, "--all-containers", check=False)
        pytest.fail(f"pod {name} failed: {found['status']}\n{logs}")
    return found
