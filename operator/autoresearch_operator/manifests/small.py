"""What small pods of the operator's own have in common: they pass the restricted Pod Security level."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from autoresearch_operator.manifests.containers import TRUSTED_USER
from autoresearch_operator.manifests.names import GROUP
from autoresearch_operator.manifests.settings import Resources, TrialSettings

LABEL_PART = f"{GROUP}/part"
"""Which helper of the operator a pod is. Not the label of runs: the operator takes what carries that for a trial."""

Object = Mapping[str, Any]

_TAINTS = ("nvidia.com/gpu", "amd.com/gpu")


def container(
    name: str,
    command: Sequence[str],
    settings: TrialSettings,
    resources: Resources,
    *,
    env: Mapping[str, str] | None = None,
    mounts: Sequence[Object] = (),
) -> dict[str, Any]:
    """A container of the trainer's image without a right to anything."""
    amounts = resources.quantities()
    # A CUDA base image would show it every GPU of the node where the GPU runtime is the node's default.
    environment = {"NVIDIA_VISIBLE_DEVICES": "void", **(env or {})}
    return {
        "name": name,
        "image": settings.image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": list(command),
        "workingDir": "/",
        "env": [{"name": key, "value": value} for key, value in environment.items()],
        "resources": {"requests": dict(amounts), "limits": amounts},
        "terminationMessagePolicy": "File",
        "securityContext": {
            "runAsUser": TRUSTED_USER,
            "runAsGroup": TRUSTED_USER,
            "runAsNonRoot": True,
            "readOnlyRootFilesystem": True,
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        },
        **({"volumeMounts": list(mounts)} if mounts else {}),
    }


def job(
    namespace: str,
    name: str,
    labels: Mapping[str, str],
    containers: Sequence[Object],
    settings: TrialSettings,
    *,
    seconds: int,
    retries: int = 0,
    keep_seconds: int | None = None,
    before: Sequence[Object] = (),
    volumes: Sequence[Object] = (),
    group: int | None = None,
    tolerations: Sequence[Object] = (),
) -> dict[str, Any]:
    """A Job of one such pod.

    `seconds` bounds the pod's time on a node, `keep_seconds` is how long the finished Job stays (None: until somebody
    deletes it), `before` are its init containers and `group` owns its volumes. It goes to nodes with GPUs too, because
    some clusters have no others.
    """
    pull = [{"name": secret} for secret in settings.image_pull_secrets]
    anywhere = [{"key": key, "operator": "Exists", "effect": "NoSchedule"} for key in _TAINTS]
    security = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": namespace, "labels": dict(labels)},
        "spec": {
            "backoffLimit": retries,
            **({} if keep_seconds is None else {"ttlSecondsAfterFinished": keep_seconds}),
            "template": {
                "metadata": {"labels": {"sidecar.istio.io/inject": "false", **labels}},
                "spec": {
                    "restartPolicy": "Never",
                    "activeDeadlineSeconds": seconds,
                    "terminationGracePeriodSeconds": 3,
                    "automountServiceAccountToken": False,
                    "enableServiceLinks": False,
                    "securityContext": security if group is None else {**security, "fsGroup": group},
                    "tolerations": [*anywhere, *(one for one in tolerations if one not in anywhere)],
                    **({"imagePullSecrets": pull} if pull else {}),
                    **({"initContainers": list(before)} if before else {}),
                    "containers": list(containers),
                    **({"volumes": list(volumes)} if volumes else {}),
                },
            },
        },
    }
