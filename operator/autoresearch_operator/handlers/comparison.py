"""The slow resync: compares what the watches told with what the API server has, and mends the difference.

It makes the operator level-triggered to the last: a lost event, an object that vanished while a watch was down, or a
watch that is silently dead costs at most one interval. Only metadata is listed, in pages, so that 5,000 Experiments
are ten short requests.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from autoresearch_operator.handlers.view import COMPARED, LABELLED, RUN_LABEL, WATCHED, View, version_of

logger = logging.getLogger(__name__)

Place = tuple[str, str, str]
"""Kind, namespace, name."""

GRACE_SECONDS: Final = 5.0
"""How long a watch may lag behind a list. Events normally take milliseconds; the API server answers a list from its
own cache, which is fed by the same events."""


class Lister(Protocol):
    """The two reads of `gateways.kube.KubeCluster` that are needed."""

    def pages(
        self, kind: str, namespace: str | None, selector: str = "", *, metadata_only: bool = False
    ) -> AsyncIterator[Sequence[Mapping[str, Any]]]: ...

    async def get(self, kind: str, namespace: str, name: str) -> Mapping[str, Any] | None: ...


@dataclass(slots=True)
class Difference:
    """What a comparison found."""

    behind: dict[Place, int] = field(default_factory=dict)
    """Objects that the watches have not told, or only an older version of; with the version that the server has."""
    vanished: dict[Place, tuple[str, int]] = field(default_factory=dict)
    """Objects that were known before the list was asked for, and are not in it; with uid and version."""

    def places(self) -> list[Place]:
        return [*self.behind, *self.vanished]


class Comparison:
    """Compares and mends. `namespaces` None: all of the cluster."""

    def __init__(self, cluster: Lister, view: View, namespaces: Sequence[str] | None) -> None:
        self._cluster = cluster
        self._view = view
        self._namespaces: Sequence[str | None] = (None,) if namespaces is None else namespaces

    async def fill(self) -> None:
        """Puts everything that the API server has into the view: the state that the first passes start from.

        The watches list the same objects when they begin, and then find them known; but kopf takes a task and some
        milliseconds for each, which with thousands of objects would be most of a start.

        Raises:
            KubeError: a list failed for good.
        """
        for namespace in self._namespaces:
            for kind in COMPARED:
                selector = RUN_LABEL if kind in LABELLED else ""
                metadata_only = kind not in WATCHED
                async for page in self._cluster.pages(kind, namespace, selector, metadata_only=metadata_only):
                    for item in page:
                        self._view.put(kind, item)
                    # The event loop has probes to answer and a Lease to renew.
                    await asyncio.sleep(0)

    async def mend(self) -> int:
        """Compares, waits for the watches to catch up by themselves, and puts right what they did not tell.

        Returns:
            How many objects the watches had failed to tell about: 0 with healthy watches.

        Raises:
            KubeError: a read failed for good; nothing was changed by the part that failed.
        """
        difference = await self._compare()
        if not difference.places():
            return 0
        await asyncio.sleep(GRACE_SECONDS)
        missed = 0
        for place, version in difference.behind.items():
            if not self._has(place, version):
                missed += await self._fetch(place)
        for (kind, namespace, name), (uid, version) in difference.vanished.items():
            now = self._view.version(kind, namespace, name)
            if now is not None and now[0] == uid and await self._cluster.get(kind, namespace, name) is None:
                missed += self._view.drop(kind, namespace, name, uid, version)
        if missed:
            logger.warning("the watches had missed %d changes; they are mended", missed)
        return missed

    async def _fetch(self, place: Place) -> bool:
        kind, namespace, name = place
        found = await self._cluster.get(kind, namespace, name)
        return found is not None and self._view.put(kind, found)

    def _has(self, place: Place, version: int) -> bool:
        known = self._view.version(*place)
        return known is not None and known[1] >= version

    async def _compare(self) -> Difference:
        difference = Difference()
        for namespace in self._namespaces:
            for kind in COMPARED:
                await self._compare_kind(kind, namespace, difference)
        return difference

    async def _compare_kind(self, kind: str, namespace: str | None, difference: Difference) -> None:
        before = self._view.versions(kind)
        listed: set[tuple[str, str]] = set()
        selector = RUN_LABEL if kind in LABELLED else ""
        async for page in self._cluster.pages(kind, namespace, selector, metadata_only=True):
            for item in page:
                metadata = item["metadata"]
                place = (metadata["namespace"], metadata["name"])
                listed.add(place)
                if kind not in WATCHED:
                    # ConfigMaps are not watched: they hold hundreds of KiB each, and only their names matter.
                    self._view.put(kind, item)
                elif not self._has((kind, *place), version_of(item)):
                    difference.behind[kind, *place] = version_of(item)
        for place, known in before.items():
            if place not in listed and (namespace is None or place[0] == namespace):
                difference.vanished[kind, *place] = known
