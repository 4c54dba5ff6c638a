"""A Lease, so that of two operators only one works. It saves money, not correctness.

Two operators at once cannot harm a run: branches and ledgers move by compare-and-swap, names are deterministic and a
verdict is final at the API server. They would only pay twice. So the Lease favours going on: while the API server
cannot be reached nobody else can take the Lease either, hence the holder pauses and stays; it ends only when it sees
another's name on it. (The client library's own elector neither releases a Lease, nor survives a lost connection, and
writes local time as UTC.)
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Protocol

from autoresearch_operator.gateways.kube_errors import KubeError

logger = logging.getLogger(__name__)


class _Leases(Protocol):
    async def get(self, kind: str, namespace: str, name: str) -> Mapping[str, Any] | None: ...

    async def create(self, kind: str, body: Mapping[str, Any]) -> Mapping[str, Any]: ...

    async def patch(self, kind: str, namespace: str, name: str, patch: Mapping[str, Any]) -> Mapping[str, Any]: ...


class Lease:
    """One candidate for one Lease. Times are seconds of `clock`, which never goes back."""

    def __init__(
        self,
        cluster: _Leases,
        namespace: str,
        name: str,
        identity: str,
        *,
        duration: float = 15.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`duration`: seconds without a renewal after which another may take it. It is renewed each third of that."""
        self._cluster = cluster
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._duration = duration
        self._clock = clock
        self._renewed: float | None = None
        self._seen: tuple[str, str, float] | None = None
        """Holder and renewTime of another's Lease, and when we first saw that renewTime: only our own clock counts."""

    @property
    def held(self) -> bool:
        """Whether no other operator can hold it now."""
        return self._renewed is not None and self._clock() - self._renewed < self._duration

    async def acquire(self) -> None:
        """Waits until it is ours. Says once whom it waits for."""
        waiting_for = ""
        while True:
            holder = await self._try()
            if holder == self._identity:
                logger.info("holding the lease %s/%s as %s", self._namespace, self._name, self._identity)
                return
            if holder and holder != waiting_for:
                logger.info("the lease %s/%s is held by %s: waiting", self._namespace, self._name, holder)
                waiting_for = holder
            await asyncio.sleep(self._period)

    async def keep(self) -> str:
        """Renews until another holds it; returns that one's name."""
        was_held = True
        while True:
            await asyncio.sleep(self._period)
            holder = await self._try()
            if holder not in (self._identity, ""):
                self._renewed = None
                return holder
            if was_held and not self.held:
                logger.warning("the lease could not be renewed for %g s: pausing", self._duration)
            elif not was_held and self.held:
                logger.info("the lease is renewed: going on")
            was_held = self.held

    async def release(self) -> None:
        """Gives it up at once, so that the next operator need not wait for it to expire."""
        if self._renewed is None:
            return
        self._renewed = None
        with suppress(KubeError):
            found = await self._cluster.get("leases", self._namespace, self._name)
            if found is not None and found["spec"].get("holderIdentity") == self._identity:
                spec = {"holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": _micro_time()}
                await self._patch(found, spec)

    @property
    def _period(self) -> float:
        return self._duration / 3

    async def _try(self) -> str:
        """Takes or renews it where that is allowed; returns the holder's name, "" when that could not be found out."""
        started = self._clock()
        try:
            async with asyncio.timeout(self._duration * 2 / 3):
                holder = await self._take_or_look()
        except (KubeError, TimeoutError) as error:
            if isinstance(error, KubeError) and error.status == 403:
                logger.warning(
                    "the lease %s/%s cannot be used: %s. Give the operator's role get, create and patch on leases",
                    self._namespace,
                    self._name,
                    error,
                )
            else:
                logger.debug("the lease could not be renewed: %s", error or "no answer in time")
            return ""
        if holder == self._identity:
            # Counted from before the request: the server's clock may have started then.
            self._renewed = started
        return holder

    async def _take_or_look(self) -> str:
        now = _micro_time()
        mine: dict[str, Any] = {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": max(1, round(self._duration)),
            "renewTime": now,
        }
        found = await self._cluster.get("leases", self._namespace, self._name)
        if found is None:
            metadata = {"name": self._name, "namespace": self._namespace}
            first = mine | {"acquireTime": now, "leaseTransitions": 0}
            body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": first}
            try:
                await self._cluster.create("leases", body)
            except KubeError as error:
                if error.status == 409:
                    return ""  # another was faster: look again in a moment
                raise
            return self._identity
        spec: Mapping[str, Any] = found.get("spec") or {}
        holder = str(spec.get("holderIdentity") or "")
        if holder not in ("", self._identity) and not self._expired(holder, spec):
            return holder
        if holder != self._identity:
            mine |= {"acquireTime": now, "leaseTransitions": int(spec.get("leaseTransitions") or 0) + 1}
        try:
            await self._patch(found, mine)
        except KubeError as error:
            if error.status == 409:
                return ""
            raise
        return self._identity

    def _expired(self, holder: str, spec: Mapping[str, Any]) -> bool:
        renewed = str(spec.get("renewTime") or "")
        if self._seen is None or self._seen[:2] != (holder, renewed):
            self._seen = (holder, renewed, self._clock())
        return self._clock() - self._seen[2] > float(spec.get("leaseDurationSeconds") or self._duration)

    async def _patch(self, found: Mapping[str, Any], spec: Mapping[str, Any]) -> None:
        # The version makes it compare-and-swap: of two that saw it expired, one gets a 409.
        patch = {"metadata": {"resourceVersion": found["metadata"]["resourceVersion"]}, "spec": spec}
        await self._cluster.patch("leases", self._namespace, self._name, patch)


def _micro_time() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
