"""What the kubelet and Prometheus ask: is the process alive, is it at work. Answers fail on stale facts."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

from aiohttp import web

from autoresearch_operator.cluster.queue import QueueStats

STUCK_PASS_SECONDS: Final = 900.0
"""A pass does some writes and hands the rest to threads: minutes mean a git server that hangs, and each git command
has its own time limit below this."""
WAITING_SECONDS: Final = 300.0
BLIND_COMPARISONS: Final = 3
"""Comparisons in a row that found changes the watches had missed: once is a lost connection, three times a watch that
is dead without knowing it, and a restart mends that."""


@dataclass
class Health:
    """Facts that the parts of the process keep up to date. Times are seconds of `clock`."""

    resync_seconds: float
    queue: Callable[[], QueueStats]
    clock: Callable[[], float] = time.monotonic
    waiting_for: str = "starting"
    """Why it is not at work yet; empty once it is."""
    blind: int = 0
    """Comparisons in a row that the watches lost."""
    last_comparison: float | None = None
    started: float = field(default=0.0)

    def __post_init__(self) -> None:
        self.started = self.clock()

    def compared(self, missed: int) -> None:
        """A comparison came to its end and had to mend so many objects."""
        self.last_comparison = self.clock()
        self.blind = self.blind + 1 if missed else 0

    def ill(self) -> str:
        """What is wrong so that only a restart can mend it; empty: nothing."""
        if self.waiting_for:
            return ""
        queue = self.queue()
        if queue.longest_pass > STUCK_PASS_SECONDS:
            return f"a pass has been running for {queue.longest_pass:.0f} s"
        if queue.longest_wait > WAITING_SECONDS and (queue.last_finished or WAITING_SECONDS) >= WAITING_SECONDS:
            return f"a run has been due for {queue.longest_wait:.0f} s and no pass ended meanwhile"
        if self.blind >= BLIND_COMPARISONS:
            return f"the watches missed changes in {self.blind} comparisons in a row"
        # Where the API server is away a comparison waits; many intervals later it is our own connection that is broken.
        silence = self.clock() - (self.last_comparison if self.last_comparison is not None else self.started)
        if silence > max(3 * self.resync_seconds, 600.0):
            return f"the last comparison with the API server was {silence:.0f} s ago"
        return ""


def application(health: Health, metrics: Callable[[str], Awaitable[tuple[bytes, str]]]) -> web.Application:
    """/healthz, /readyz and /metrics; `metrics` gives body and content type for an Accept header."""

    async def healthz(_: web.Request) -> web.Response:
        ill = health.ill()
        return web.Response(status=503 if ill else 200, text=(ill or "ok") + "\n")

    async def readyz(_: web.Request) -> web.Response:
        why = health.waiting_for or health.ill()
        return web.Response(status=503 if why else 200, text=(why or "ok") + "\n")

    async def exposition(request: web.Request) -> web.Response:
        body, content_type = await metrics(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    app = web.Application()
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", exposition)
    return app


class Servers:
    """HTTP servers of the process."""

    def __init__(self) -> None:
        self._runners: list[web.AppRunner] = []

    async def serve(self, app: web.Application, port: int) -> None:
        """Serves on all addresses.

        Raises:
            OSError: the port is taken or not allowed.
        """
        options: dict[str, Any] = {"access_log": None, "handle_signals": False, "shutdown_timeout": 1.0}
        runner = web.AppRunner(app, **options)
        await runner.setup()
        self._runners.append(runner)
        await web.TCPSite(runner, port=port).start()

    async def close(self) -> None:
        for runner in self._runners:
            await runner.cleanup()
