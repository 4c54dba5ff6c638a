"""The three containers of a trial's pod: what each may see and use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autoresearch_operator.api.trainer import DataSpec
from autoresearch_operator.manifests.names import GATE, JUDGE, TRAIN
from autoresearch_operator.manifests.settings import Resources, size
from autoresearch_operator.manifests.shares import Shares

TRUSTED_USER = 65533
"""Of gate and judge. The demo corpus in the image is readable by this group only."""
CANDIDATE_USER = 65532
"""Of the candidate and its launcher."""

RUN_FOLDER = "/run/autoresearch"
DATA_FOLDER = "/data"
DEMO_FOLDER = "/opt/autoresearch/data"
"""The demo corpus in the operator's own trainer image, in two parts, `train` and `val`."""

START_SECONDS = 600
"""Seconds that the gate may take to open its data. Default 600: a cold network volume can need minutes."""


@dataclass(frozen=True)
class Context:
    """What all containers of a trial share."""

    image: str
    pull_policy: str
    trial: str
    """The trial's document as JSON."""
    data: DataSpec | None
    gpu: Mapping[str, str]
    """The extended resource and its count; empty on a CPU tier."""


def gate(context: Context, share: Shares) -> dict[str, Any]:
    """The trusted clock and data source beside the candidate; a native sidecar, so it starts first and ends last."""
    return {
        **_container(GATE, context, TRUSTED_USER, share.gate, data="train", gpu=False),
        "restartPolicy": "Always",
        "startupProbe": {
            "exec": {"command": ["test", "-e", f"{RUN_FOLDER}/account/ready"]},
            "periodSeconds": 1,
            # Under a CPU quota a process may take its time to start; a probe that times out kills nothing by itself.
            "timeoutSeconds": 10,
            "failureThreshold": START_SECONDS,
        },
        "volumeMounts": [
            _mount("socket", f"{RUN_FOLDER}/socket"),
            _mount("account", f"{RUN_FOLDER}/account"),
            _mount("gate-tmp", "/tmp"),  # noqa: S108 - a volume of the container's own
            *_data_mount(context.data, "train"),
        ],
    }


def train(context: Context, share: Shares) -> dict[str, Any]:
    """The untrusted candidate under its launcher. It sees no data, no account and no other container's files."""
    return {
        **_container(TRAIN, context, CANDIDATE_USER, share.train, data=None, gpu=True),
        "volumeMounts": [
            _mount("socket", f"{RUN_FOLDER}/socket", read_only=True),
            _mount("source", f"{RUN_FOLDER}/source", read_only=True),
            _mount("work", "/work"),
            *([_mount("shm", "/dev/shm")] if context.gpu else []),  # noqa: S108 - where NCCL looks for it
        ],
    }


def judge(context: Context, share: Shares) -> dict[str, Any]:
    """The trusted judge: the validation data, which nothing else mounts, and no code of the candidate."""
    return {
        **_container(JUDGE, context, TRUSTED_USER, share.judge, data="val", gpu=True),
        "volumeMounts": [
            _mount("account", f"{RUN_FOLDER}/account", read_only=True),
            _mount("judge-tmp", "/tmp"),  # noqa: S108 - a volume of the container's own
            *_data_mount(context.data, "val"),
        ],
    }


def empty(name: str, size_bytes: int, medium: str | None = None) -> dict[str, Any]:
    """An emptyDir volume of at most that size."""
    return {
        "name": name,
        "emptyDir": {**({"medium": medium} if medium else {}), "sizeLimit": size(size_bytes)},
    }


def _container(
    name: str, context: Context, user: int, resources: Resources, *, data: str | None, gpu: bool
) -> dict[str, Any]:
    device = dict(context.gpu) if gpu else {}
    amounts = {**resources.quantities(), **device}
    environment = [{"name": "AUTORESEARCH_TRIAL", "value": context.trial}]
    if data is not None:
        folder = DATA_FOLDER if context.data is not None else f"{DEMO_FOLDER}/{data}"
        environment.append({"name": "AUTORESEARCH_DATA_DIR", "value": folder})
    if not device:
        # An image that says "all", as CUDA base images do, shows every GPU of the node to a container that asked for
        # none, where the GPU runtime is the node's default.
        environment.append({"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"})
    return {
        "name": name,
        "image": context.image,
        "imagePullPolicy": context.pull_policy,
        "command": ["python", "-m", "autoresearch_trainer", name],
        "workingDir": "/",
        "env": environment,
        "resources": {"requests": dict(amounts), "limits": amounts},
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
        "securityContext": {
            "runAsUser": user,
            "runAsGroup": user,
            "runAsNonRoot": True,
            "readOnlyRootFilesystem": True,
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        },
    }


def _data_mount(data: DataSpec | None, part: str) -> list[dict[str, Any]]:
    """A folder of the claim as /data: only that folder is in the container, whatever else the claim holds."""
    if data is None:
        return []
    folder = data.train_path if part == "train" else data.val_path
    return [{"name": "data", "mountPath": DATA_FOLDER, "subPath": folder, "readOnly": True}]


def _mount(name: str, path: str, *, read_only: bool = False) -> dict[str, Any]:
    return {"name": name, "mountPath": path, **({"readOnly": True} if read_only else {})}
