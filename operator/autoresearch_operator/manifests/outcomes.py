"""What may be known about a running trial from its Job and its pod."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from autoresearch_operator.api.reasons import VerdictReason


class Wait(StrEnum):
    """Why a trial has not begun."""

    QUEUED = "Queued"
    """Its queue has not admitted it."""
    UNSCHEDULABLE = "Unschedulable"
    """No node has room for it; the message is the scheduler's."""
    QUOTA = "QuotaExceeded"
    """A ResourceQuota of the namespace is used up; the message is the API server's."""
    STARTING = "Starting"
    """A node has it, or the Job controller is about to make its pod."""
    SUSPENDED = "Suspended"
    """Somebody suspended the Job by hand."""


class Fault(StrEnum):
    """Why the run cannot have pods: no trial will fare better until a person mends it."""

    IMAGE_PULL = "ImagePull"
    """The image could not be pulled, or its name is no image's."""
    PODS_FORBIDDEN = "PodsForbidden"
    """The API server refused the pod."""
    CONTAINER_CONFIG = "ContainerConfig"
    """The kubelet could not put a container together, because something that it names is missing."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """It has not begun, and holds its place among the run's slots."""

    reason: Wait
    message: str
    since: float
    """Seconds since the epoch."""
    node: str | None = None


@dataclass(frozen=True, slots=True)
class Running:
    """Its pod is on a node and holds its GPUs."""

    started_at: float
    """When the node took the pod, seconds since the epoch: from then on the GPUs are held."""
    node: str
    pod_uid: str
    training_since: float | None = None
    """When the candidate's container started; None: the gate is still opening its data."""
    look_again_at: float | None = None
    """Seconds since the epoch. The pod is being deleted; if nothing has come by then it is lost, and no watch tells."""


@dataclass(frozen=True, slots=True)
class Finished:
    """The judge has written its result."""

    result: Mapping[str, Any]
    """A TrialResult as JSON gave it; `engine.results.finished_record` checks its version and figures."""
    node: str
    pod_uid: str
    image_id: str
    product: str
    driver: str
    """These three are empty when not known."""
    started_at: float
    finished_at: float


@dataclass(frozen=True, slots=True)
class Lost:
    """An infrastructure fault: measured again, free, and never held against the idea."""

    reason: str
    """The control plane's own word where it has one, such as PreemptionByScheduler."""
    message: str
    node: str | None = None
    """The node to be avoided after two of these; None: no node is to blame."""
    pod_uid: str = ""
    retry_after: float = 0.0
    """Seconds to wait before the next attempt."""
    started_at: float | None = None
    """When the node took the pod; None: it never held a GPU."""
    training_since: float | None = None
    """When the candidate's container started; None: it had not. A queue that evicts pods as not ready while they train
    would do so for ever."""
    finished_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Invalid:
    """The candidate's own doing, told by the control plane because the trial's judge could not."""

    reason: VerdictReason
    message: str
    node: str
    pod_uid: str
    started_at: float
    finished_at: float


@dataclass(frozen=True, slots=True)
class RunFault:
    """No trial of this run can start; the message is the API's own sentence."""

    reason: Fault
    message: str
    node: str | None = None


Outcome = Waiting | Running | Finished | Lost | Invalid | RunFault
