"""The gateway, with the answers to our own writes told to the view at once.

A pass that follows a write would otherwise look at the state before it until the watch has come round, and do again
what was done: harmless, as names are deterministic, but each time a request for nothing.
"""

from __future__ import annotations

from autoresearch_operator.cluster.seen import Cluster, Object
from autoresearch_operator.handlers.view import COMPARED, View


class Written:
    """A `Cluster` around another one."""

    def __init__(self, cluster: Cluster, view: View) -> None:
        self._cluster = cluster
        self._view = view

    async def create(self, kind: str, body: Object) -> Object:
        return self._tell(kind, await self._cluster.create(kind, body))

    async def patch(self, kind: str, namespace: str, name: str, patch: Object) -> Object:
        return self._tell(kind, await self._cluster.patch(kind, namespace, name, patch))

    async def patch_status(self, kind: str, namespace: str, name: str, status: Object) -> Object:
        return self._tell(kind, await self._cluster.patch_status(kind, namespace, name, status))

    async def delete(self, kind: str, namespace: str, name: str) -> None:
        await self._cluster.delete(kind, namespace, name)
        known = self._view.version(kind, namespace, name) if kind == "configmaps" else None
        if known is not None:
            # No watch tells about ConfigMaps. The other kinds are really gone only when their watch says so.
            self._view.drop(kind, namespace, name, *known)

    async def get(self, kind: str, namespace: str, name: str) -> Object | None:
        found = await self._cluster.get(kind, namespace, name)
        return found if found is None else self._tell(kind, found)

    async def list(self, kind: str, namespace: str | None, selector: str = "") -> list[Object]:
        return list(await self._cluster.list(kind, namespace, selector))

    async def event(self, about: Object, type_: str, reason: str, message: str) -> None:
        await self._cluster.event(about, type_, reason, message)

    def _tell(self, kind: str, obj: Object) -> Object:
        if kind in COMPARED:
            self._view.put(kind, obj)
        return obj
