"""The kubelet and the network of canary pods, in memory: what a pod reaches follows from the NetworkPolicies there."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from autoresearch_operator.manifests import canary
from autoresearch_operator.manifests.small import LABEL_PART
from memory_cluster import MemoryCluster


@dataclass
class Network:
    """Plays canary pods one step further at each call."""

    cluster: MemoryCluster
    enforces: bool = True
    """Whether it carries NetworkPolicies out."""
    open_reach: Collection[str] = ("apiServer", "dns")
    """What a pod without a policy reaches outside of its own namespace."""
    most: int = 0
    """Canary pods that were there at once."""

    def play(self) -> None:
        pods = canary_objects(self.cluster, "pods")
        self.most = max(self.most, len(pods))
        for pod in pods:
            status = pod["status"]
            if status["phase"] != "Pending":
                continue
            containers = pod["spec"]["containers"]
            if containers[0]["name"] == canary.LISTENER:
                status |= {
                    "phase": "Running",
                    "podIP": "10.0.0.1",
                    "conditions": [{"type": "Ready", "status": "True"}],
                    "initContainerStatuses": [ended(canary.CONTROL, self.reached(pod))],
                }
            else:
                message = ended(canary.CLIENT, self.reached(pod, "listener"))
                status |= {"phase": "Succeeded", "containerStatuses": [message]}

    def reached(self, pod: Any, *more: str) -> list[str]:
        labels = pod["metadata"]["labels"].items()
        policies = self.cluster.of("networkpolicies").values()
        closed = any(one["spec"]["podSelector"]["matchLabels"].items() <= labels for one in policies)
        return [] if closed and self.enforces else sorted([*self.open_reach, *more])


def ended(container: str, reached: list[str]) -> dict[str, Any]:
    message = json.dumps({"version": 1, "reached": reached, "seconds": 0.1})
    return {"name": container, "state": {"terminated": {"exitCode": 0, "message": message}}}


def canary_objects(cluster: MemoryCluster, *kinds: str) -> list[dict[str, Any]]:
    """Everything of canaries that is in the cluster now."""
    return [
        item
        for kind in kinds or ("jobs", "pods", "networkpolicies")
        for item in cluster.of(kind).values()
        if item["metadata"].get("labels", {}).get(LABEL_PART, "").startswith(canary.NAME)
    ]
