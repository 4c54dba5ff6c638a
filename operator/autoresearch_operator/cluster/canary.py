"""Whether this cluster carries NetworkPolicies out: asked by two pods, one look at a time.

Every call looks, makes what is missing and says what is known; nothing waits. Names are fixed, so asking twice at the
same time is asking once, and a caller that was killed goes on where it was. The Jobs end and go by themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autoresearch_operator.cluster.seen import Cluster, KubeError, Object
from autoresearch_operator.manifests import canary, podstatus
from autoresearch_operator.manifests.settings import TrialSettings

_WORDS = {"listener": "another pod", "apiServer": "the API server", "dns": "DNS"}


@dataclass(frozen=True, slots=True)
class Look:
    """What is known so far."""

    done: bool
    """Nothing more will be known by looking again."""
    enforced: bool | None
    """None: not known (yet, or at all)."""
    message: str


async def network_policy_enforced(
    cluster: Cluster,
    namespace: str,
    settings: TrialSettings,
    *,
    name: str = canary.NAME,
    tolerations: Sequence[Object] = (),
) -> bool | None:
    """True or False once it is known, else None: call again in a few seconds. Raises KubeError."""
    return (await look(cluster, namespace, settings, name=name, tolerations=tolerations)).enforced


async def look(  # noqa: PLR0911 - one return a stage
    cluster: Cluster,
    namespace: str,
    settings: TrialSettings,
    *,
    name: str = canary.NAME,
    tolerations: Sequence[Object] = (),
) -> Look:
    """One look at the two pods; makes what is missing. Raises KubeError."""
    listener = await _ensure(cluster, "jobs", canary.listener(namespace, settings, name=name, tolerations=tolerations))
    if listener is None:
        return Look(False, None, "an earlier canary is being deleted")
    server = await _pod(cluster, namespace, name, canary.LISTENER)
    if server is None:
        return Look(False, None, "the canary's listener has no pod yet")
    control = canary.reached((podstatus.terminated(server, canary.CONTROL) or {}).get("message"))
    address = str(server.get("status", {}).get("podIP") or "")
    client = await _pod(cluster, namespace, name, canary.CLIENT)
    if client is None:
        if podstatus.phase(server) in podstatus.FINAL:
            return Look(True, None, f"the canary's listener ended: {_why(server)}")
        if control is None or not address or not _ready(server):
            return Look(False, None, f"the canary's listener: {podstatus.why_waiting(server)}")
        # The policy first: a client that starts without one would show a network that is open.
        await _ensure(cluster, "networkpolicies", canary.policy(namespace, listener, name=name))
        body = canary.client(namespace, settings, address, name=name, tolerations=tolerations)
        await _ensure(cluster, "jobs", body)
        return Look(False, None, "the canary's client is being started")
    if podstatus.phase(client) not in podstatus.FINAL:
        return Look(False, None, f"the canary's client: {podstatus.why_waiting(client)}")
    tried = canary.reached((podstatus.terminated(client, canary.CLIENT) or {}).get("message"))
    if tried is None:
        return Look(True, None, f"the canary's client ended without an answer: {_why(client)}")
    return judged(tried, control)


def judged(tried: Mapping[str, Any], control: Mapping[str, Any] | None) -> Look:
    """What the client's and the open pod's answers say together."""
    through = _named(tried["reached"])
    if through:
        return Look(True, False, f"a pod under a policy that denies all still reached {through}")
    open_reached = _named((control or {}).get("reached") or ())
    if not open_reached:
        message = "a pod under a policy that denies all reached nothing, but neither did a pod without one"
        return Look(True, None, message)
    settled = float(tried.get("seconds") or 0.0)
    after = f"; the policy took hold {settled:g} s after the pod's start" if settled >= 3 else ""
    return Look(
        True,
        True,
        f"a pod under a policy that denies all reached nothing, where an open pod reached {open_reached}{after}",
    )


async def remove(cluster: Cluster, namespace: str, *, name: str = canary.NAME) -> None:
    """Deletes both Jobs; the garbage collector deletes their pods and the policy. Raises KubeError."""
    await cluster.delete("jobs", namespace, canary.client_name(name))
    await cluster.delete("jobs", namespace, canary.listener_name(name))


async def _ensure(cluster: Cluster, kind: str, body: Object) -> Object | None:
    """The object, made when there is none; None: one of that name is being deleted."""
    metadata = body["metadata"]
    try:
        return await cluster.create(kind, body)
    except KubeError as error:
        if error.status != 409:
            raise
    if kind != "jobs":
        return body  # it is there, and nothing of it is needed
    found = await cluster.get(kind, metadata["namespace"], metadata["name"])
    return None if found is None or found["metadata"].get("deletionTimestamp") else found


async def _pod(cluster: Cluster, namespace: str, name: str, part: str) -> Object | None:
    pods = await cluster.list("pods", namespace, canary.selector(name, part))
    alive = [pod for pod in pods if not pod["metadata"].get("deletionTimestamp")]
    return max(alive, key=podstatus.created, default=None)


def _ready(pod: Object) -> bool:
    return (podstatus.condition(pod, "Ready") or {}).get("status") == "True"


def _why(pod: Object) -> str:
    status = pod.get("status", {})
    return str(status.get("message") or status.get("reason") or podstatus.phase(pod))


def _named(reached: Sequence[str]) -> str:
    names = [_WORDS.get(str(name), str(name)) for name in reached]
    return names[0] if len(names) == 1 else " and ".join([", ".join(names[:-1]), names[-1]]) if names else ""
