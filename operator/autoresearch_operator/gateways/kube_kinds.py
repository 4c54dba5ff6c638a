"""The kinds of objects that the operator touches, and their paths at the API server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import quote


@dataclass(frozen=True, slots=True)
class Kind:
    """One resource of the API server; `group` is empty for the core group."""

    group: str
    version: str
    plural: str
    namespaced: bool = True

    def path(self, namespace: str | None, name: str = "", subresource: str = "") -> str:
        """The URL path of the collection, of one object, or of its subresource.

        Every part is quoted, so that no name can reach another object's path.
        """
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        parts = ["namespaces", namespace] if self.namespaced and namespace else []
        parts += [part for part in (self.plural, name, subresource) if part]
        return "/".join([root, *(quote(part, safe="") for part in parts)])


KINDS: Final = {
    kind.plural: kind
    for kind in (
        Kind("autoresearch.dev", "v1alpha1", "researchruns"),
        Kind("autoresearch.dev", "v1alpha1", "experiments"),
        Kind("batch", "v1", "jobs"),
        Kind("", "v1", "pods"),
        Kind("", "v1", "configmaps"),
        Kind("", "v1", "secrets"),
        Kind("", "v1", "persistentvolumeclaims"),
        Kind("", "v1", "nodes", namespaced=False),
        Kind("networking.k8s.io", "v1", "networkpolicies"),
        Kind("coordination.k8s.io", "v1", "leases"),
        Kind("events.k8s.io", "v1", "events"),
    )
}
"""By the name that the gateway's methods take as `kind`: the plural, which is unique among these."""


def resource_of(target: str) -> tuple[str, bool]:
    """What a request path is about, such as "jobs" or "researchruns/status", and whether it names one object.

    Only what `KINDS` knows has a name of its own, so that there are few of them whatever is asked for.
    """
    parts = target.partition("?")[0].strip("/").split("/")
    rest = parts[2:] if parts[0] == "api" else parts[3:]
    if len(rest) > 2 and rest[0] == "namespaces":
        rest = rest[2:]
    if not rest or rest[0] not in KINDS:
        return "other", False
    return (f"{rest[0]}/status" if rest[2:] == ["status"] else rest[0]), len(rest) > 1
