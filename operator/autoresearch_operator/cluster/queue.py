"""The one queue of the operator: a key in it means "look at this run again"."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Generic, TypeVar

logger = logging.getLogger(__name__)

K = TypeVar("K", bound=Hashable)

Handler = Callable[[K], Awaitable[float | None]]
"""One pass over a key. Returns in how many seconds it wants to be called again without a new event; None: not."""


@dataclass(frozen=True, slots=True)
class QueueStats:
    """What the queue does now; times are seconds."""

    waiting: int
    """Keys that are due and wait for a worker."""
    running: int
    failing: int
    """Keys whose last pass raised."""
    longest_wait: float
    """How long the key at the front has been due."""
    longest_pass: float
    """How long the oldest pass that is still running has been running."""
    last_finished: float | None
    """Seconds since a pass ended; None: none did yet."""


class KeyedQueue(Generic[K]):
    """Coalesces events into passes.

    A key that is added ten times before its pass starts gets one pass. A key added during its pass gets exactly one
    more, after it and behind the keys that wait: so no key runs twice at once, none is forgotten, and a busy one
    cannot starve the others. A pass that raises is tried again after 1, 2, 4 … `longest_backoff` seconds; a new event
    does not shorten that, because a run that fails fails at every event.

    All methods belong to the event loop that runs `run`.
    """

    def __init__(
        self,
        *,
        first_backoff: float = 1.0,
        longest_backoff: float = 60.0,
        context: Callable[[K], AbstractContextManager[object]] = lambda _key: nullcontext(),
        jitter: Callable[[], float] = lambda: random.uniform(0.9, 1.1),
    ) -> None:
        """`context` is entered around each pass (for the log); `jitter` is a factor on each backoff."""
        self._first_backoff = first_backoff
        self._longest_backoff = longest_backoff
        self._context = context
        self._jitter = jitter
        self._order: deque[K] = deque()
        self._due: dict[K, float] = {}
        """Keys in `_order`, and since when."""
        self._running: dict[K, float] = {}
        self._again: set[K] = set()
        """Keys added while their pass runs."""
        self._timers: dict[K, asyncio.TimerHandle] = {}
        self._failures: dict[K, int] = {}
        self._held_back: set[K] = set()
        """Keys that wait for the end of their backoff."""
        self._wake = asyncio.Event()
        self._open = asyncio.Event()
        self._open.set()
        self._stopping = False
        self._last_finished: float | None = None

    def add(self, key: K) -> None:
        """The key needs a pass, as soon as a worker is free."""
        if self._stopping or key in self._due or key in self._held_back:
            return
        self._cancel_timer(key)
        if key in self._running:
            self._again.add(key)
            return
        self._due[key] = asyncio.get_running_loop().time()
        self._order.append(key)
        self._wake.set()

    def add_after(self, key: K, seconds: float) -> None:
        """The key needs a pass in `seconds` at the latest; an earlier wish stands."""
        if self._stopping or key in self._due or key in self._held_back:
            return
        if seconds <= 0:
            self.add(key)
            return
        loop = asyncio.get_running_loop()
        timer = self._timers.get(key)
        if timer is not None and timer.when() <= loop.time() + seconds:
            return
        self._cancel_timer(key)
        self._timers[key] = loop.call_later(seconds, self._timer_fired, key)

    def forget(self, key: K) -> None:
        """The key is gone: no backoff and no later wish of it stays in memory. A pass that runs is not touched."""
        self._cancel_timer(key)
        self._failures.pop(key, None)
        self._held_back.discard(key)

    def pause(self) -> None:
        """Starts no further pass until `resume`; keys are still taken in."""
        self._open.clear()

    def resume(self) -> None:
        self._open.set()

    def stats(self) -> QueueStats:
        now = asyncio.get_running_loop().time()
        return QueueStats(
            waiting=len(self._order),
            running=len(self._running),
            failing=len(self._failures),
            longest_wait=now - self._due[self._order[0]] if self._order else 0.0,
            longest_pass=max((now - started for started in self._running.values()), default=0.0),
            last_finished=None if self._last_finished is None else now - self._last_finished,
        )

    async def run(self, handler: Handler[K], workers: int) -> None:
        """Serves keys with `workers` concurrent passes until `stop`, then returns when the last pass has ended.

        Cancelling it cancels the passes.
        """
        async with asyncio.TaskGroup() as group:
            for number in range(workers):
                group.create_task(self._work(handler), name=f"worker {number}")

    def stop(self) -> None:
        """Takes no key and starts no pass from now on; passes in flight go on to their end."""
        self._stopping = True
        for key in list(self._timers):
            self._cancel_timer(key)
        self._wake.set()
        self._open.set()

    async def _work(self, handler: Handler[K]) -> None:
        while True:
            await self._open.wait()
            if self._stopping:
                return
            if not self._order:
                self._wake.clear()
                await self._wake.wait()
                continue
            key = self._order.popleft()
            del self._due[key]
            await self._pass(handler, key)

    async def _pass(self, handler: Handler[K], key: K) -> None:
        loop = asyncio.get_running_loop()
        self._running[key] = loop.time()
        again: float | None = None
        backoff: float | None = None
        try:
            with self._context(key):
                try:
                    again = await handler(key)
                except Exception as error:  # whatever a pass raises, the other runs must go on
                    backoff = self._backoff(key)
                    sentence = " ".join(f"{type(error).__name__}: {error}".split())
                    logger.warning("the pass failed and is tried again in %.3g s: %s", backoff, sentence)
                    logger.debug("where the pass failed", exc_info=error)
                else:
                    self._failures.pop(key, None)
        finally:
            del self._running[key]
            self._last_finished = loop.time()
        wanted = key in self._again
        self._again.discard(key)
        if self._stopping:
            return
        if backoff is not None:
            self._cancel_timer(key)
            self._held_back.add(key)
            self._timers[key] = loop.call_later(backoff, self._timer_fired, key)
        elif wanted:
            self.add(key)
        elif again is not None:
            self.add_after(key, again)

    def _backoff(self, key: K) -> float:
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        return min(self._longest_backoff, self._first_backoff * 2.0 ** min(failures, 30)) * self._jitter()

    def _timer_fired(self, key: K) -> None:
        self._timers.pop(key, None)
        self._held_back.discard(key)
        self.add(key)

    def _cancel_timer(self, key: K) -> None:
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()
