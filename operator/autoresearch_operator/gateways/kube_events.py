"""Events: what a person sees in `kubectl describe`. Equal ones are counted, a flood is cut off."""

from __future__ import annotations

import logging
import os
import socket
import time
import uuid
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from autoresearch_operator.gateways.kube_errors import KubeError

logger = logging.getLogger(__name__)

Object = Mapping[str, Any]

COMPONENT: Final = "autoresearch.dev/operator"
SERIES_SECONDS: Final = 600.0
"""Equal events within this time are one Event with a count; after it a new Event is made, so that its age is true."""
BURST: Final = 20
REFILL_SECONDS: Final = 15.0
"""Each object may get 20 new Events at once and then one in 15 s: enough for a run that accepts often, and an upper
bound for a fault that repeats with ever new words. The API server keeps Events for an hour."""
REMEMBERED: Final = 2048
NOTE_BYTES: Final = 1024


@dataclass(slots=True)
class _Series:
    namespace: str
    name: str
    count: int
    last: float


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float


class EventRecorder:
    """Makes and repeats Events. Times of `clock` are seconds, monotonic."""

    def __init__(
        self,
        create: Callable[[Object], Awaitable[None]],
        repeat: Callable[[str, str, Object], Awaitable[None]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`create` takes the whole Event; `repeat` takes namespace, name and a merge patch. Both may raise
        KubeError."""
        self._create = create
        self._repeat = repeat
        self._clock = clock
        self._series: OrderedDict[tuple[str, ...], _Series] = OrderedDict()
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    async def record(self, about: Object, type_: str, reason: str, message: str) -> None:
        """Records an Event about an object; failures are logged, never raised: an Event is a courtesy."""
        try:
            await self._record(about, type_, reason, _cut(message, NOTE_BYTES))
        except KubeError as error:
            name = about["metadata"].get("name", "?")
            logger.warning("the event %s about %s is lost: %s", reason, name, error)

    async def _record(self, about: Object, type_: str, reason: str, note: str) -> None:
        metadata = about["metadata"]
        uid = str(metadata.get("uid", metadata.get("name", "")))
        key = (uid, type_, reason, note)
        now = self._clock()
        known = self._series.get(key)
        if known is not None and now - known.last < SERIES_SECONDS:
            known.count += 1
            known.last = now
            self._series.move_to_end(key)
            # The first repetitions are written, then powers of two: a count that is right within a factor of two.
            if known.count <= 4 or known.count & (known.count - 1) == 0:
                series = {"count": known.count, "lastObservedTime": _micro_time()}
                await self._repeat(known.namespace, known.name, {"series": series})
            return
        if not self._take_token(uid, now):
            logger.debug("the event %s about %s is left out: too many in a short time", reason, metadata.get("name"))
            return
        body = _event(about, type_, reason, note)
        await self._create(body)
        self._series[key] = _Series(body["metadata"]["namespace"], body["metadata"]["name"], 1, now)
        while len(self._series) > REMEMBERED:
            self._series.popitem(last=False)

    def _take_token(self, uid: str, now: float) -> bool:
        bucket = self._buckets.setdefault(uid, _Bucket(BURST, now))
        self._buckets.move_to_end(uid)
        bucket.tokens = min(BURST, bucket.tokens + (now - bucket.at) / REFILL_SECONDS)
        bucket.at = now
        while len(self._buckets) > REMEMBERED:
            self._buckets.popitem(last=False)
        if bucket.tokens < 1:
            return False
        bucket.tokens -= 1
        return True


def _event(about: Object, type_: str, reason: str, note: str) -> dict[str, Any]:
    metadata = about["metadata"]
    namespace = metadata.get("namespace") or "default"
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"namespace": namespace, "name": f"{_cut(metadata['name'], 200)}.{uuid.uuid4().hex[:16]}"},
        "type": type_,
        "reason": _cut(reason, 128),
        "note": note,
        "action": "Reconcile",
        "eventTime": _micro_time(),
        "reportingController": COMPONENT,
        "reportingInstance": _cut(os.environ.get("HOSTNAME") or socket.gethostname(), 128),
        "regarding": {
            "apiVersion": about.get("apiVersion", ""),
            "kind": about.get("kind", ""),
            "namespace": metadata.get("namespace", ""),
            "name": metadata["name"],
            "uid": metadata.get("uid", ""),
        },
    }


def _micro_time() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _cut(text: str, limit: int) -> str:
    """At most `limit` bytes of UTF-8, whole characters only."""
    encoded = text.encode()
    return text if len(encoded) <= limit else encoded[: limit - 3].decode(errors="ignore") + "…"
