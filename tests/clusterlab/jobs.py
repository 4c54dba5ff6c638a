"""Jobs shaped as trials, and what tests ask about them; for tests that need a trial's shape without the operator."""

from __future__ import annotations

import json
from collections.abc import Sequence

from clusterlab.api import Object
from clusterlab.cluster import Cluster


def _container(name: str, gpus: int, **more: object) -> Object:
    amounts = {"cpu": "1", "memory": "1Gi"} | ({"nvidia.com/gpu": str(gpus)} if gpus else {})
    trial = {"version": 1, "seed": 7, "split": "val", "sourceSHA256": "ab" * 32}
    return {
        "name": name,
        "image": "trainer:test",
        "env": [{"name": "AUTORESEARCH_TRIAL", "value": json.dumps(trial)}],
        "resources": {"requests": amounts, "limits": amounts},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
    } | more


def trial_job(
    name: str,
    *,
    gpus: int = 1,
    nodes: Sequence[str] = (),
    annotations: Object | None = None,
    toleration_seconds: int = 60,
) -> Object:
    """A Job shaped as the operator's: native sidecar `gate`, init container `train`, main container `judge`.

    `nodes`: the only ones it may run on (a lent cluster has others). `annotations` go on the pod.
    `toleration_seconds`: how long the pod stays on a lost node.
    """
    labels = {"autoresearch.dev/run": "first"}
    tolerations = [
        {"key": f"node.kubernetes.io/{key}", "operator": "Exists", "effect": "NoExecute"}
        | {"tolerationSeconds": toleration_seconds}
        for key in ("not-ready", "unreachable")
    ]
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "backoffLimit": 0,
            "template": {
                "metadata": {"labels": labels, "annotations": annotations or {}},
                "spec": {
                    "restartPolicy": "Never",
                    "automountServiceAccountToken": False,
                    "terminationGracePeriodSeconds": 3,
                    "tolerations": tolerations,
                    **({"affinity": _only_on(nodes)} if nodes else {}),
                    "securityContext": {
                        "runAsNonRoot": True,
                        "runAsUser": 65532,
                        "seccompProfile": {"type": "RuntimeDefault"},
                    },
                    "initContainers": [_container("gate", 0, restartPolicy="Always"), _container("train", gpus)],
                    "containers": [_container("judge", gpus)],
                },
            },
        },
    }


def _only_on(nodes: Sequence[str]) -> Object:
    names = {"key": "kubernetes.io/hostname", "operator": "In", "values": list(nodes)}
    terms = {"nodeSelectorTerms": [{"matchExpressions": [names]}]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}


def create(cluster: Cluster, namespace: str, job: Object) -> None:
    """Raises ApiError."""
    cluster.api.create(f"/apis/batch/v1/namespaces/{namespace}/jobs", job)


def ended_job(cluster: Cluster, namespace: str, name: str, timeout_seconds: float = 30.0) -> str:
    """The type of the Job's final condition, Complete or Failed. Raises TimeoutError."""

    def final() -> str | None:
        job = cluster.api.get(f"/apis/batch/v1/namespaces/{namespace}/jobs/{name}")
        holding = {c["type"] for c in job["status"].get("conditions", []) if c["status"] == "True"}
        return next((kind for kind in ("Complete", "Failed") if kind in holding), None)

    answer: str = cluster.api.wait(final, f"Job {name} ended", timeout_seconds=timeout_seconds)
    return answer


def pod_of(cluster: Cluster, namespace: str, job: str) -> Object:
    """The Job's pod, once there is one. Raises TimeoutError."""
    path = f"/api/v1/namespaces/{namespace}/pods"
    pods = cluster.api.wait(lambda: cluster.api.list(path, labels=f"job-name={job}"), f"a pod of Job {job}")
    found: Object = pods[0]
    return found


def training_pod(cluster: Cluster, namespace: str, job: str) -> Object:
    """The Job's pod, once its candidate runs. Raises TimeoutError."""

    def running() -> Object | None:
        pod = pod_of(cluster, namespace, job)
        return pod if "running" in state_of(pod, "train") else None

    found: Object = cluster.api.wait(running, f"the candidate of {job} runs")
    return found


def state_of(pod: Object, name: str) -> Object:
    """The state of one container, {} before there is any."""
    status = pod["status"]
    for entry in [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]:
        if entry["name"] == name:
            state: Object = entry["state"]
            return state
    return {}
