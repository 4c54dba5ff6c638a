"""One function builds each name; the labels and annotations by which the operator knows its own objects."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from autoresearch_operator.api.base import API_VERSION
from autoresearch_operator.research.names import trial_name
from autoresearch_operator.research.records import TrialKey

__all__ = ["experiment_name", "job_name", "network_policy_name", "trial_name"]

Object = Mapping[str, Any]
"""A Kubernetes object as the API server gave it, or as it is sent there."""

GROUP = "autoresearch.dev"
MANAGER = "autoresearch-operator"

LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"
LABEL_RUN = f"{GROUP}/run"
"""The run's name, on all its children: one watch with this label sees them all."""
LABEL_EXPERIMENT = f"{GROUP}/experiment"
"""The measured experiment's number, on Jobs, pods, ConfigMaps and the Experiment itself."""
LABEL_TIER = f"{GROUP}/tier"
LABEL_QUEUE = "kueue.x-k8s.io/queue-name"
"""Kueue's own: a Job that carries it waits, suspended, until the queue admits it."""

ANNOTATION_TRIAL = f"{GROUP}/trial"
"""On Jobs and pods: the trial's identity as JSON, so that a Job alone tells which measurement it is."""
ANNOTATION_SOURCE = f"{GROUP}/source-sha256"
"""On Jobs and ConfigMaps: the hash of the packed files, in hexadecimal."""
ANNOTATION_DEFAULT_CONTAINER = "kubectl.kubernetes.io/default-container"

GATE, TRAIN, JUDGE = "gate", "train", "judge"
"""The trial pod's containers."""

EXPERIMENT_KIND = "Experiment"
RUN_KIND = "ResearchRun"


def experiment_name(run: str, number: int) -> str:
    """The Experiment, and the ConfigMap with its files: `first-17`."""
    return f"{run}-{number}"


def job_name(run: str, key: TrialKey) -> str:
    """The Job of one attempt: `first-17-s1096-a1`.

    At most 63 characters: 40 of the run, 7 of the number (up to 1,000,000), 8 of the seed (64 a subject), 3 of the
    attempt, and 5 between them.
    """
    return f"{run}-{key.experiment}-s{key.seed}-a{key.attempt}"


def network_policy_name(run: str) -> str:
    """Not the run's bare name, which people like to give to policies of their own."""
    return f"{run}-trials"


def run_labels(run: str) -> dict[str, str]:
    """The labels of every child of a run."""
    return {LABEL_MANAGED_BY: MANAGER, LABEL_RUN: run}


def selector(run: str) -> str:
    """The label selector of a run's children, as list and watch take it."""
    return f"{LABEL_MANAGED_BY}={MANAGER},{LABEL_RUN}={run}"


def ownership(owner: Object | None, kind: str) -> dict[str, Any]:
    """The part of a child's metadata that names `owner`, an object of our API; the garbage collector deletes both.

    `blockOwnerDeletion` stays out: it would need the right to set finalizers on the owner, for no gain.
    Empty for an owner that is not in the cluster (`autoresearch render`), because it has no UID yet.
    """
    if owner is None or not owner["metadata"].get("uid"):
        return {}
    reference = {
        "apiVersion": API_VERSION,
        "kind": kind,
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "controller": True,
    }
    return {"ownerReferences": [reference]}


def stamp(seconds: float) -> str:
    """Seconds since the epoch as RFC 3339, to the millisecond."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def seconds(text: object) -> float | None:
    """RFC 3339 as seconds since the epoch; None for anything else."""
    if not isinstance(text, str):
        return None
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        return None
    return when.timestamp() if when.tzinfo is not None else None
