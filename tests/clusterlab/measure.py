"""What a control plane can say about a load: who sent how many requests, and how much it keeps in etcd."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import urllib3

from clusterlab.api import Object
from clusterlab.controlplane import ControlPlane

WRITES = frozenset({"create", "update", "patch", "delete", "deletecollection"})


@dataclass(frozen=True)
class Request:
    """What the audit log tells requests apart by."""

    user: str
    verb: str
    """As RBAC names it: get, list, watch, create, update, patch, delete, deletecollection."""
    resource: str
    """Plural, with the subresource: "experiments/status". "" for a path that is no resource."""
    code: int
    """HTTP status; 0 for a watch that was still open."""


def requests(
    plane: ControlPlane, since: int = 0, *, where: Callable[[Object], bool] = lambda _: True
) -> Counter[Request]:
    """How many of each request the audit log has after the mark `since` (see ControlPlane.audit_size).

    `where` chooses events by anything an audit event holds. The log is written in batches: an event may take 0.5 s
    to arrive, and a watch arrives when it ends.
    """
    found: Counter[Request] = Counter()
    for event in plane.audit_events(since):
        if not where(event):
            continue
        target = event.get("objectRef", {})
        resource = "/".join(filter(None, (target.get("resource"), target.get("subresource"))))
        code = int(event.get("responseStatus", {}).get("code", 0))
        found[Request(event["user"]["username"], event["verb"], resource, code)] += 1
    return found


@dataclass(frozen=True)
class Stored:
    """What etcd holds below a prefix, history left out."""

    objects: int
    bytes: int
    """Keys and values as etcd stores them."""


def stored(plane: ControlPlane, group: str, plural: str) -> Stored:
    """The stored objects of one resource; `group` "" is the core group.

    Custom resources are stored as JSON, built-in ones as protobuf.
    """
    prefix = f"/registry/{group}/{plural}/" if group else f"/registry/{plural}/"
    start = prefix.encode()
    # etcd's "everything with this prefix" is the range up to the prefix with its last byte raised by one.
    wanted = {"key": start, "range_end": start[:-1] + bytes([start[-1] + 1])}
    body = {name: base64.b64encode(value).decode() for name, value in wanted.items()}
    answer = urllib3.request("POST", f"{plane.etcd_url}/v3/kv/range", body=json.dumps(body), timeout=60.0)
    pairs = answer.json().get("kvs", [])
    sizes = [len(base64.b64decode(pair["key"])) + len(base64.b64decode(pair["value"])) for pair in pairs]
    return Stored(len(sizes), sum(sizes))
