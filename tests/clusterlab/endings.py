"""How a trial's pod can end, and the status a kubelet reports for each end. Pure: objects in, status patches out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import Enum
from typing import Self

from clusterlab.api import Object

ANNOTATION = "sim.autoresearch.dev/"
"""Prefix of the annotations `message`, `duration` (seconds) and `outcome` (a Kind's value), for pods a test makes."""


class Kind(Enum):
    """What happens to the pod."""

    SUCCESS = "Success"
    """All containers exit 0; the judge leaves its message."""
    CRASH = "Crash"
    """One container exits with a code of its own."""
    OOM = "OOMKilled"
    """The kernel kills one container for memory."""
    EVICTED = "Evicted"
    """The kubelet evicts the pod because it overran a limit of its own (an emptyDir): no DisruptionTarget."""
    DISRUPTED = "Disrupted"
    """The kubelet evicts the pod because the *node* runs short: condition DisruptionTarget."""
    START_ERROR = "StartError"
    """The runtime cannot start a container."""
    ADMISSION_ERROR = "UnexpectedAdmissionError"
    """The kubelet refuses the pod: its GPUs were not freed yet."""
    STATUS_UNKNOWN = "ContainerStatusUnknown"
    """The node restarted and knows nothing of the containers."""
    DELETED = "Deleted"
    """Somebody deletes the pod."""
    NEVER = "Never"
    """It runs on."""


@dataclass(frozen=True)
class Ending:
    """One end. Seconds count from the moment the pod's first container runs."""

    kind: Kind
    seconds: float = 0.0
    message: str = ""
    """Termination message of `container`, or the pod's own message when it was evicted or refused."""
    container: str = "judge"
    """Whose message and fault it is; the last one of the pod when there is none of that name."""
    exit_code: int = 0
    judge_seconds: float = 0.0
    """How long the judge runs after the candidate, at the end of `seconds`; 0 leaves its Running status out."""

    @classmethod
    def success(cls, message: str, seconds: float = 0.0, *, judge_seconds: float = 0.0) -> Self:
        return cls(Kind.SUCCESS, seconds, message, judge_seconds=judge_seconds)

    @classmethod
    def crash(cls, container: str = "judge", exit_code: int = 1, message: str = "", seconds: float = 0.0) -> Self:
        return cls(Kind.CRASH, seconds, message, container, exit_code)

    @classmethod
    def oom(cls, container: str = "train", seconds: float = 0.0) -> Self:
        return cls(Kind.OOM, seconds, "", container, 137)

    @classmethod
    def evicted(cls, message: str = "Usage of EmptyDir volume exceeds the limit.", seconds: float = 0.0) -> Self:
        return cls(Kind.EVICTED, seconds, message)

    @classmethod
    def disrupted(cls, message: str = "The node was low on resource: memory.", seconds: float = 0.0) -> Self:
        return cls(Kind.DISRUPTED, seconds, message)

    @classmethod
    def start_error(cls, container: str = "train", seconds: float = 0.0) -> Self:
        return cls(Kind.START_ERROR, seconds, "failed to create containerd task", container, 128)

    @classmethod
    def admission_error(cls, seconds: float = 0.0) -> Self:
        return cls(Kind.ADMISSION_ERROR, seconds, "Allocate failed due to requested number of devices unavailable")

    @classmethod
    def status_unknown(cls, seconds: float = 0.0) -> Self:
        return cls(Kind.STATUS_UNKNOWN, seconds, "The container could not be located when the pod was terminated")

    @classmethod
    def deleted(cls, seconds: float = 0.0) -> Self:
        return cls(Kind.DELETED, seconds)

    @classmethod
    def never(cls) -> Self:
        return cls(Kind.NEVER)

    def after(self, seconds: float) -> Self:
        return replace(self, seconds=seconds)

    @classmethod
    def annotated(cls, pod: Object) -> Self | None:
        """The end that the pod's own annotations ask for; None without any.

        Raises ValueError for an outcome that is no Kind's value.
        """
        notes = pod["metadata"].get("annotations") or {}
        if not any(key.startswith(ANNOTATION) for key in notes):
            return None
        kind = Kind(notes.get(f"{ANNOTATION}outcome", Kind.SUCCESS.value))
        seconds = float(notes.get(f"{ANNOTATION}duration", "0"))
        message = notes.get(f"{ANNOTATION}message", "")
        by_kind = {Kind.OOM: ("train", 137), Kind.START_ERROR: ("train", 128), Kind.CRASH: ("judge", 1)}
        container, code = by_kind.get(kind, ("judge", 0))
        return cls(kind, seconds, message, container, code)


def judging(pod: Object, now: datetime | None = None) -> Object:
    """The status while the judge runs: the candidate is through, the pod is Running."""
    stamp = _stamp(now)
    conditions = [_condition("Initialized", True, stamp), _condition("Ready", True, stamp)]
    return {
        "phase": "Running",
        "conditions": [*conditions, _condition("ContainersReady", True, stamp)],
        "initContainerStatuses": [
            status if _is_sidecar(pod, status["name"]) else _terminated(status, stamp, 0, "Completed")
            for status in _statuses(pod, "initContainerStatuses")
        ],
        "containerStatuses": [
            status | {"started": True, "ready": True, "imageID": _image_id(status), "state": _running(stamp)}
            for status in _statuses(pod, "containerStatuses")
        ],
    }


def ended(pod: Object, ending: Ending, now: datetime | None = None) -> Object:
    """The last status of the pod, as a strategic merge patch of `.status`.

    Raises ValueError for the kinds that are no status (Deleted, Never).
    """
    stamp = _stamp(now)
    if ending.kind in (Kind.DELETED, Kind.NEVER):
        raise ValueError(f"{ending.kind.value} is not something a kubelet reports")
    if ending.kind is Kind.ADMISSION_ERROR:
        return {
            "phase": "Failed",
            "reason": ending.kind.value,
            "message": ending.message,
            "initContainerStatuses": [],
            "containerStatuses": [],
        }
    succeeded = ending.kind is Kind.SUCCESS
    status: Object = {
        "phase": "Succeeded" if succeeded else "Failed",
        **_container_statuses(pod, ending, stamp),
        "conditions": [
            _condition("Ready", False, stamp, "PodCompleted" if succeeded else "PodFailed"),
            _condition("ContainersReady", False, stamp, "PodCompleted" if succeeded else "PodFailed"),
        ],
    }
    if succeeded:
        status["conditions"].append(_condition("Initialized", True, stamp, "PodCompleted"))
    if ending.kind in (Kind.EVICTED, Kind.DISRUPTED):
        status |= {"reason": "Evicted", "message": ending.message}
    if ending.kind is Kind.DISRUPTED:
        target = _condition("DisruptionTarget", True, stamp, "TerminationByKubelet")
        status["conditions"].append(target | {"message": ending.message})
    return status


def _container_statuses(pod: Object, ending: Ending, stamp: str) -> Object:
    """Both lists, in the order in which a kubelet runs the containers: what comes after a fault never starts."""
    names = [status["name"] for key in _LISTS for status in _statuses(pod, key) if not _is_sidecar(pod, status["name"])]
    culprit = ending.container if ending.container in names else names[-1]
    whole_pod = ending.kind in (Kind.EVICTED, Kind.DISRUPTED, Kind.STATUS_UNKNOWN)
    lists: Object = {}
    faulted = False
    for key in _LISTS:
        lists[key] = []
        for status in _statuses(pod, key):
            name = status["name"]
            if whole_pod:
                reason = "ContainerStatusUnknown" if ending.kind is Kind.STATUS_UNKNOWN else "Error"
                message = ending.message if ending.kind is Kind.STATUS_UNKNOWN else ""
                ran = status["state"].get("running")
                made = _terminated(status, stamp, 137, reason, message) if ran else status
            elif _is_sidecar(pod, name):
                # The kubelet ends a sidecar with SIGTERM once the others are through; ours heeds it.
                made = _terminated(status, stamp, 0, "Completed")
            elif name == culprit:
                made = _terminated(status, stamp, ending.exit_code, _reason(ending), ending.message)
                faulted = ending.kind is not Kind.SUCCESS
            elif faulted:
                made = status | {"started": False, "ready": False, "state": {"waiting": {"reason": "PodInitializing"}}}
            else:
                made = _terminated(status, stamp, 0, "Completed")
            lists[key].append(made)
    return lists


_LISTS = ("initContainerStatuses", "containerStatuses")


def _reason(ending: Ending) -> str:
    if ending.kind in (Kind.OOM, Kind.START_ERROR):
        return str(ending.kind.value)
    return "Completed" if ending.exit_code == 0 else "Error"


def _statuses(pod: Object, key: str) -> list[Object]:
    statuses: list[Object] = pod["status"].get(key) or []
    return statuses


def _is_sidecar(pod: Object, name: str) -> bool:
    return any(
        container["name"] == name and container.get("restartPolicy") == "Always"
        for container in pod["spec"].get("initContainers") or []
    )


def _terminated(status: Object, stamp: str, code: int, reason: str, message: str = "") -> Object:
    started = (status["state"].get("running") or {}).get("startedAt", stamp)
    state = {"exitCode": code, "reason": reason, "startedAt": started, "finishedAt": stamp}
    if message:
        state["message"] = message
    return status | {
        "started": False,
        # An init container that is through stays ready; the pod could not have gone on otherwise.
        "ready": code == 0 and reason == "Completed" and status["name"] != "judge",
        "imageID": _image_id(status),
        "state": {"terminated": state},
    }


def _image_id(status: Object) -> str:
    return str(status.get("imageID") or f"{status['image']}@sha256:{'0' * 64}")


def _running(stamp: str) -> Object:
    return {"running": {"startedAt": stamp}}


def _condition(kind: str, holds: bool, stamp: str, reason: str = "") -> Object:
    made: Object = {"type": kind, "status": str(holds), "lastTransitionTime": stamp}
    if reason:
        made["reason"] = reason
    return made


def _stamp(now: datetime | None) -> str:
    return (now or datetime.now(UTC)).strftime("%Y-%m-%dT%H:%M:%SZ")
