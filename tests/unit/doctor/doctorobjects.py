"""Objects as an API server gives them, as far as doctor reads them."""

from __future__ import annotations

from typing import Any

from autoresearch_operator.api.run import ResearchRun
from autoresearch_operator.cluster.controller import parsed
from autoresearch_operator.cluster.doctor_places import Place, places

TAINT = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}


def node(
    name: str,
    *,
    gpus: int = 4,
    product: str | None = "NVIDIA-L4",
    driver: str = "570.86.15",
    sharing: str = "none",
    taints: tuple[dict[str, str], ...] = (TAINT,),
    ready: bool = True,
    cordoned: bool = False,
    cpu: str = "16",
    memory: str = "64Gi",
    labels: dict[str, str] | None = None,
    resource: str = "nvidia.com/gpu",
) -> dict[str, Any]:
    found = {"nvidia.com/gpu.sharing-strategy": sharing, "nvidia.com/cuda.driver-version.full": driver}
    if product:
        found["nvidia.com/gpu.product"] = product
    amounts = {"cpu": cpu, "memory": memory, "ephemeral-storage": "200Gi", "pods": "110"}
    return {
        "metadata": {"name": name, "labels": {**(found if gpus else {}), **(labels or {})}},
        "spec": {"taints": list(taints), **({"unschedulable": True} if cordoned else {})},
        "status": {
            "allocatable": {**amounts, **({resource: str(gpus)} if gpus else {})},
            "conditions": [{"type": "Ready", "status": "True" if ready else "Unknown"}],
        },
    }


def standing(*nodes: dict[str, Any], taken: dict[str, dict[str, float]] | None = None) -> list[Place]:
    return places(nodes, {} if taken is None else taken)


def run(spec: dict[str, Any]) -> ResearchRun:
    """A ResearchRun named r in the namespace lab."""
    head = {"apiVersion": "autoresearch.dev/v1alpha1", "kind": "ResearchRun"}
    return parsed({**head, "metadata": {"name": "r", "namespace": "lab"}, "spec": spec})


def secret(kind: str = "kubernetes.io/basic-auth", hosts: str = "git.lab.example", **data: str) -> dict[str, Any]:
    return {
        "metadata": {
            "name": "s",
            "labels": {"autoresearch.dev/usable": "true"},
            "annotations": {"autoresearch.dev/hosts": hosts},
        },
        "type": kind,
        "data": data,
    }


def claim(mode: str, phase: str = "Bound") -> dict[str, Any]:
    return {"spec": {"accessModes": [mode]}, "status": {"phase": phase, "accessModes": [mode]}}
