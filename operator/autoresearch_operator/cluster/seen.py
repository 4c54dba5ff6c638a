"""What a pass is given to look at, and the few things it may ask of a cluster: the seam between deciding and doing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from autoresearch_operator.gateways.kube_errors import KubeError

__all__ = ["Cluster", "Key", "KubeError", "Object", "Seen"]

Object = Mapping[str, Any]
"""A Kubernetes object as the API server gave it. Never changed in place, never written back whole."""


class Key(NamedTuple):
    """One ResearchRun: the unit of the work queue."""

    namespace: str
    name: str


@dataclass(frozen=True)
class Seen:
    """All objects of one run, by name, as the watches last told."""

    run: Object | None
    """The ResearchRun; None: it was deleted."""
    experiments: Mapping[str, Object] = field(default_factory=dict)
    jobs: Mapping[str, Object] = field(default_factory=dict)
    pods: Mapping[str, Object] = field(default_factory=dict)
    config_maps: frozenset[str] = frozenset()
    """Names only: their content is never needed again."""


class Cluster(Protocol):
    """Writes and the few reads that no watch covers. `kind` is one of those that gateways.kube lists.

    Every method raises KubeError; transient faults (no answer, 429, 5xx) have been tried again before that.
    """

    async def create(self, kind: str, body: Object) -> Object:
        """Creates the object in its namespace."""

    async def patch(self, kind: str, namespace: str, name: str, patch: Object) -> Object:
        """Merge-patches metadata and spec."""

    async def patch_status(self, kind: str, namespace: str, name: str, status: Object) -> Object:
        """Merge-patches the status subresource; a list is replaced as a whole."""

    async def delete(self, kind: str, namespace: str, name: str) -> None:
        """Deletes with Background propagation; an object that is gone already is success."""

    async def get(self, kind: str, namespace: str, name: str) -> Object | None:
        """None: there is none."""

    async def list(self, kind: str, namespace: str | None, selector: str = "") -> Sequence[Object]:
        """All objects of a kind, in pages; `namespace` None for objects without one."""

    async def event(self, about: Object, type_: str, reason: str, message: str) -> None:
        """Records a Kubernetes Event ("Normal" or "Warning"); a failure is logged, never raised."""
