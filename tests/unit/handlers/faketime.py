"""An event loop whose time passes only while everything waits: hours of backoff take milliseconds."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any


class _InstantSelector(selectors.DefaultSelector):  # type: ignore[misc,valid-type] # chosen by the platform
    """Where a real one would sleep, this moves the loop's clock on."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready: list[tuple[selectors.SelectorKey, int]] = super().select(0)
        if not ready:
            assert timeout is not None, "everything waits for ever"
            self.now += timeout
        return ready


class FakeTimeLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._clock = _InstantSelector()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now


Run = Callable[[Coroutine[Any, Any, Any]], Any]


def instant(work: Coroutine[Any, Any, Any]) -> Any:
    """Runs a coroutine to its end in fake time."""
    with asyncio.Runner(loop_factory=FakeTimeLoop) as runner:
        return runner.run(work)
