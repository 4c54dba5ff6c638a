"""The operator's process: one event loop that watches, serves passes from the queue, holds a Lease and answers probes.

Order of a start: probes answer; the Lease is taken; everything is listed; the watches and the passes begin. Order of a
stop: no new pass; those in flight come to their end; the Lease is given up; the rest is dropped.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, Final

from autoresearch_operator import logs
from autoresearch_operator.cluster.queue import KeyedQueue
from autoresearch_operator.cluster.seen import Key
from autoresearch_operator.gateways.kube import KubeCluster
from autoresearch_operator.gateways.kube_errors import KubeError
from autoresearch_operator.gateways.kube_lease import Lease
from autoresearch_operator.handlers.assembly import Parts, Work
from autoresearch_operator.handlers.comparison import Comparison
from autoresearch_operator.handlers.metrics import Metrics
from autoresearch_operator.handlers.probes import Health, Servers, application
from autoresearch_operator.handlers.view import COMPARED, LABELLED, RUN_LABEL, View
from autoresearch_operator.handlers.watches import Watches
from autoresearch_operator.handlers.written import Written
from autoresearch_operator.operator_settings import OperatorSettings

logger = logging.getLogger(__name__)

FINISH_SECONDS: Final = 6.0
"""Seconds that passes and pushes in flight get after SIGTERM; with the rest of the stop it is under 10, a third of the
grace period that the chart gives. A pass that is cut off loses nothing: every step of it is repeatable."""
ASK_AGAIN_SECONDS: Final = 5.0
FIRST_COMPARISON_SECONDS: Final = 30.0


class LeaseLost(Exception):
    """Another operator holds the Lease."""


async def operate(settings: OperatorSettings, parts: Parts) -> None:
    """Runs until SIGTERM or SIGINT, then returns within 10 s.

    Raises:
        LeaseLost: another operator took over; end the process and let it be started anew.
        LoginError: there is no way into a cluster.
        OSError: a port is taken.
        KubeError: the API server refuses what the operator cannot do without.
    """
    stop = asyncio.Event()
    _on_signals(stop)
    async with AsyncExitStack() as stack:
        queue: KeyedQueue[Key] = KeyedQueue(context=lambda key: logs.about(f"{key.namespace}/{key.name}"))
        health = Health(resync_seconds=settings.resync_seconds, queue=queue.stats)
        metrics = Metrics(queue.stats, lambda: not (health.waiting_for or health.ill()))
        servers = Servers()
        stack.push_async_callback(servers.close)
        await servers.serve(application(health, metrics.exposition), settings.http_port)
        if parts.git is not None:
            await servers.serve(parts.git(settings), settings.git_port)
        cluster = await KubeCluster.connect()
        stack.push_async_callback(cluster.close)
        metrics.requests = cluster.requests
        process = _Process(settings, cluster, queue, health, metrics)
        await _unless(stop, process.run(parts, stop))


class _Process:
    """The part of the process that talks to the API server."""

    def __init__(
        self,
        settings: OperatorSettings,
        cluster: KubeCluster,
        queue: KeyedQueue[Key],
        health: Health,
        metrics: Metrics,
    ) -> None:
        self._settings = settings
        self._cluster = cluster
        self._queue = queue
        self._health = health
        self._metrics = metrics
        self._view = View(queue.add)
        self._comparison = Comparison(cluster, self._view, settings.served)
        self._lease = Lease(
            cluster,
            settings.lease_namespace,
            settings.lease_name,
            settings.identity,
            duration=settings.lease_seconds,
        )

    async def run(self, parts: Parts, stop: asyncio.Event) -> None:
        """Until cancelled, or until the Lease or the watches are lost. Leaves in the reverse order of coming in."""
        started = time.monotonic()
        await self._until_allowed()
        self._health.waiting_for = "waiting for the lease"
        await self._lease.acquire()
        async with AsyncExitStack() as stack:
            watches = Watches(self._view, self._settings.served)
            stack.push_async_callback(watches.stop)
            stack.push_async_callback(self._release)
            keeping = await stack.enter_async_context(_task(self._keep_lease()))
            self._health.waiting_for = "waiting for the first lists"
            filling = await stack.enter_async_context(_task(self._fill()))
            work = parts.work(Written(self._cluster, self._view), self._settings)
            self._metrics.show(self._view.requests, work)
            await _first(filling, keeping)
            # After the list, so that kopf finds everything known: it takes a task and a millisecond for each object.
            # What is deleted in between is found by the first comparison.
            await watches.start()
            _on_signals(stop)
            watching = await stack.enter_async_context(_task(self._watched(watches)))
            self._health.waiting_for = ""
            counts = ", ".join(f"{count} {kind}" for kind, count in self._view.counts().items())
            logger.info("at work after %.1f s with %s", time.monotonic() - started, counts)
            working = await stack.enter_async_context(self._workers(work))
            resyncing = await stack.enter_async_context(_task(self._resync()))
            await _first(keeping, watching, working, resyncing)

    @asynccontextmanager
    async def _workers(self, work: Work) -> AsyncIterator[asyncio.Task[None]]:
        """Passes; at the end those in flight may finish."""

        async def one_pass(key: Key) -> float | None:
            seen = self._view.seen(key)
            with self._metrics.one_pass():
                again = await work.controller.reconcile(key, seen)
            if seen.run is None and again is None:
                self._queue.forget(key)
            return again

        for key in [*self._view.runs(), *await asyncio.to_thread(work.keys)]:
            # A namespace that is no longer served looks empty, and its runs are not deleted for that.
            if self._settings.served is None or key.namespace in self._settings.served:
                self._queue.add(key)
        task = asyncio.create_task(self._queue.run(one_pass, self._settings.workers), name="queue")
        try:
            yield task
        finally:
            self._queue.stop()
            until = asyncio.get_running_loop().time() + FINISH_SECONDS
            _, late = await asyncio.wait([task], timeout=FINISH_SECONDS)
            if late:
                count = self._queue.stats().running
                logger.warning("%d passes did not end in %g s and are cut off", count, FINISH_SECONDS)
                task.cancel()
                await asyncio.wait([task], timeout=1)
            with suppress(TimeoutError):
                async with asyncio.timeout_at(max(until, asyncio.get_running_loop().time() + 0.5)):
                    await work.controller.close()

    async def _until_allowed(self) -> None:
        """Returns when every kind that is watched can be listed; says what is in the way."""
        kinds = [(kind, namespace) for namespace in self._settings.served or (None,) for kind in COMPARED]
        said = ""
        while True:
            for kind, namespace in kinds:
                if refusal := await self._refusal(kind, namespace):
                    break
            else:
                return
            self._health.waiting_for = refusal
            if refusal != said:
                logger.warning("%s; asking again each %g s", refusal, ASK_AGAIN_SECONDS)
                said = refusal
            await asyncio.sleep(ASK_AGAIN_SECONDS)

    async def _refusal(self, kind: str, namespace: str | None) -> str:
        where = f"in namespace {namespace}" if namespace else "in all namespaces"
        try:
            await self._cluster.probe(kind, namespace, RUN_LABEL if kind in LABELLED else "")
        except KubeError as error:
            if error.status == 404:
                return f"the API server has no {kind}: install the chart's CRDs (kubectl apply -f crds/)"
            if error.status in (401, 403):
                return f"{kind} cannot be listed {where}: {error}. Give the operator's role get, list and watch on them"
            return f"{kind} cannot be listed {where}: {error}"
        return ""

    async def _fill(self) -> None:
        while True:
            try:
                await self._comparison.fill()
            except KubeError as error:
                logger.warning("the first lists failed and are asked for again: %s", error)
                await asyncio.sleep(1)
            else:
                self._health.compared(0)
                return

    async def _resync(self) -> None:
        """Each interval: mend what the watches missed, then give every run a pass. The first one comes early, because a
        watch that never began is worth knowing at once."""
        await asyncio.sleep(min(FIRST_COMPARISON_SECONDS, self._settings.resync_seconds))
        while True:
            try:
                self._health.compared(await self._comparison.mend())
            except KubeError as error:
                logger.warning("the comparison with the API server failed: %s", error)
            for key in self._view.runs():
                self._queue.add(key)
            await asyncio.sleep(self._settings.resync_seconds)

    async def _keep_lease(self) -> None:
        async with _task(self._pause_without_lease()):
            holder = await self._lease.keep()
        raise LeaseLost(f"{holder} has taken the lease: leaving the runs to it")

    async def _pause_without_lease(self) -> None:
        """Between two renewals the Lease can run out: no pass begins then."""
        while True:
            if self._lease.held:
                self._queue.resume()
            else:
                self._queue.pause()
            await asyncio.sleep(self._settings.lease_seconds / 30)

    async def _release(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(2):
                await self._lease.release()

    @staticmethod
    async def _watched(watches: Watches) -> None:
        await watches.ended()
        raise RuntimeError("the watches ended")


# --------------------------------------------------------------------------------------------------------------------


def _on_signals(stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)


async def _unless(stop: asyncio.Event, work: Awaitable[None]) -> None:
    """Waits for `work`; when `stop` is set, cancels it and waits for its orderly end."""
    task = asyncio.ensure_future(work)
    async with _task(stop.wait()) as stopped:
        await asyncio.wait([task, stopped], return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            logger.info("stopping")
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            logger.info("stopped")
            return
    await task


@asynccontextmanager
async def _task(work: Any) -> AsyncIterator[asyncio.Task[Any]]:
    """A task that ends with the block."""
    task = asyncio.ensure_future(work)
    try:
        yield task
    finally:
        task.cancel()
        # Its fault, if it had one, is raised by who waits for it; here only its end matters.
        await asyncio.wait([task])


async def _first(*tasks: asyncio.Task[Any]) -> None:
    """Waits for the first to end, and raises what it raised."""
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()
