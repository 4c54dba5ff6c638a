"""Small readers of a pod's status: containers by name, whatever list they are in."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from autoresearch_operator.manifests.names import Object, seconds

FINAL = frozenset({"Succeeded", "Failed"})
_NOTHING: Mapping[str, Any] = {}


def phase(pod: Object) -> str:
    return str(pod.get("status", {}).get("phase", "Pending"))


def node(pod: Object) -> str | None:
    """The node that the pod was bound to."""
    name = pod.get("spec", {}).get("nodeName")
    return str(name) if name else None


def created(item: Object) -> float:
    """Seconds since the epoch."""
    return seconds(item["metadata"].get("creationTimestamp")) or 0.0


def started(pod: Object) -> float | None:
    """When the node took the pod."""
    return seconds(pod.get("status", {}).get("startTime"))


def condition(pod: Object, kind: str) -> Mapping[str, Any] | None:
    conditions = pod.get("status", {}).get("conditions") or ()
    return next((one for one in conditions if one.get("type") == kind), None)


def disruption(pod: Object) -> tuple[str, str] | None:
    """Reason and message of what the control plane did to the pod: preemption, eviction by API, a lost node, pressure
    on a node. An eviction for the pod's own use of storage does not count as one."""
    found = condition(pod, "DisruptionTarget")
    if found is None or found.get("status") != "True":
        return None
    return str(found.get("reason") or "DisruptionTarget"), str(found.get("message", ""))


def _statuses(pod: Object) -> Iterator[Mapping[str, Any]]:
    status = pod.get("status", {})
    yield from status.get("initContainerStatuses") or ()
    yield from status.get("containerStatuses") or ()


def container(pod: Object, name: str) -> Mapping[str, Any]:
    """The container's status; empty while there is none."""
    return next((one for one in _statuses(pod) if one.get("name") == name), _NOTHING)


def terminated(pod: Object, name: str) -> Mapping[str, Any] | None:
    found = container(pod, name).get("state", _NOTHING).get("terminated")
    return found if isinstance(found, Mapping) else None


def began(pod: Object, name: str) -> float | None:
    """When the container's process started, seconds since the epoch; None: it has not."""
    state = container(pod, name).get("state", _NOTHING)
    for kind in ("running", "terminated"):
        when = seconds(state.get(kind, _NOTHING).get("startedAt"))
        if when is not None and when > 0:
            return when
    return None


def waits(pod: Object) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Containers that wait, with their reasons."""
    for status in _statuses(pod):
        waiting = status.get("state", _NOTHING).get("waiting")
        if isinstance(waiting, Mapping):
            yield str(status.get("name")), waiting


def why_waiting(pod: Object) -> str:
    """The first container's reason that says more than that it waits for others."""
    for name, waiting in waits(pod):
        reason = waiting.get("reason")
        if reason and reason not in ("PodInitializing", "ContainerCreating"):
            return f"container {name}: {reason} {waiting.get('message', '')}".strip()
    return "its containers are being made"


def result(pod: Object, name: str) -> Mapping[str, Any] | None:
    """The JSON object in the container's termination message; None while there is none.

    Whatever its exit code: a message is written by the container alone, and one that is cut short is no JSON.
    """
    ended = terminated(pod, name)
    if ended is None:
        return None
    try:
        value = json.loads(ended.get("message") or "")
    except ValueError:
        return None
    return value if isinstance(value, dict) and "outcome" in value else None


def finished(pod: Object, name: str | None = None) -> float | None:
    """When the container ended, or the last that did; seconds since the epoch."""
    ends = [
        when
        for status in _statuses(pod)
        if name is None or status.get("name") == name
        if (when := seconds((status.get("state", _NOTHING).get("terminated") or _NOTHING).get("finishedAt")))
        is not None
    ]
    return max(ends, default=None)


def image_id(pod: Object, name: str) -> str:
    """What the container ran, as the runtime names it."""
    return str(container(pod, name).get("imageID", ""))


def accelerator(pod: Object) -> str | None:
    """The extended resource that the pod's containers ask for."""
    for one in pod.get("spec", {}).get("containers") or ():
        for name in one.get("resources", _NOTHING).get("limits", _NOTHING):
            if "/" in name:
                return str(name)
    return None


def endings(pod: Object) -> str:
    """How each container ended, for a message."""
    parts = []
    for status in _statuses(pod):
        ended = status.get("state", _NOTHING).get("terminated")
        if isinstance(ended, Mapping):
            parts.append(f"{status.get('name')} {ended.get('reason', 'ended')} (exit code {ended.get('exitCode')})")
    return ", ".join(parts) or "no container ran"
