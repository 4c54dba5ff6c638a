"""The work queue: coalesces, never runs one key twice at once, forgets none, is fair, and backs off."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest
from autoresearch_operator.cluster.queue import KeyedQueue
from faketime import Run, instant
from hypothesis import given, settings
from hypothesis import strategies as st

Handler = Callable[[str], Awaitable[float | None]]


def quiet_queue(**options: float) -> KeyedQueue[str]:
    return KeyedQueue(jitter=lambda: 1.0, **options)


async def serve(queue: KeyedQueue[str], handler: Handler, seconds: float, workers: int = 1) -> None:
    """Serves for so many seconds, then stops and waits for the passes in flight."""
    serving = asyncio.create_task(queue.run(handler, workers))
    await asyncio.sleep(seconds)
    queue.stop()
    await serving


class Recorder:
    """Notes when each pass began and ended."""

    def __init__(self, takes: float = 0.0, again: dict[str, float] | None = None) -> None:
        self.passes: list[tuple[float, str]] = []
        self.takes = takes
        self.again = again or {}
        self.at_once = 0
        self.most_at_once = 0
        self.inside: set[str] = set()

    async def __call__(self, key: str) -> float | None:
        assert key not in self.inside, f"{key} ran twice at once"
        self.inside.add(key)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.passes.append((asyncio.get_running_loop().time(), key))
        await asyncio.sleep(self.takes)
        self.at_once -= 1
        self.inside.discard(key)
        return self.again.get(key)

    def keys(self) -> list[str]:
        return [key for _, key in self.passes]


def test_a_burst_of_events_is_one_pass(instantly: Run) -> None:
    async def story() -> list[str]:
        queue, recorder = quiet_queue(), Recorder()
        for _ in range(100):
            queue.add("a")
        await serve(queue, recorder, 1)
        return recorder.keys()

    assert instantly(story()) == ["a"]


def test_events_during_a_pass_are_exactly_one_more_pass(instantly: Run) -> None:
    async def story() -> list[tuple[float, str]]:
        queue, recorder = quiet_queue(), Recorder(takes=10)
        queue.add("a")
        loop = asyncio.get_running_loop()
        for moment in (1, 2, 3):
            loop.call_later(moment, queue.add, "a")
        await serve(queue, recorder, 100, workers=4)
        return recorder.passes

    assert instantly(story()) == [(0, "a"), (10, "a")]


def test_a_busy_key_does_not_starve_the_others(instantly: Run) -> None:
    async def story() -> list[str]:
        queue = quiet_queue()
        recorder = Recorder(takes=1)

        async def handler(key: str) -> float | None:
            if key == "busy":
                queue.add("busy")
            return await recorder(key)

        for key in ("busy", "x", "y", "z"):
            queue.add(key)
        await serve(queue, handler, 8)
        return recorder.keys()

    assert instantly(story())[:5] == ["busy", "x", "y", "z", "busy"]


def test_passes_of_different_keys_run_side_by_side_up_to_the_number_of_workers(instantly: Run) -> None:
    async def story() -> int:
        queue, recorder = quiet_queue(), Recorder(takes=5)
        for number in range(20):
            queue.add(f"run-{number}")
        await serve(queue, recorder, 60, workers=3)
        assert len(recorder.passes) == 20
        return recorder.most_at_once

    assert instantly(story()) == 3


def test_a_pass_that_asks_for_it_is_called_again_after_that_time(instantly: Run) -> None:
    async def story() -> list[float]:
        queue, recorder = quiet_queue(), Recorder(again={"a": 30.0})
        queue.add("a")
        await serve(queue, recorder, 100)
        return [moment for moment, _ in recorder.passes]

    assert instantly(story()) == [0, 30, 60, 90]


def test_an_event_comes_before_a_wish_and_replaces_it(instantly: Run) -> None:
    async def story() -> list[float]:
        queue, recorder = quiet_queue(), Recorder(again={"a": 30.0})
        queue.add("a")
        asyncio.get_running_loop().call_later(10, queue.add, "a")
        await serve(queue, recorder, 45)
        return [moment for moment, _ in recorder.passes]

    assert instantly(story()) == [0, 10, 40]


def test_of_two_wishes_the_earlier_one_counts(instantly: Run) -> None:
    async def story() -> list[float]:
        queue, recorder = quiet_queue(), Recorder()
        for seconds in (50, 20, 90):
            queue.add_after("a", seconds)
        await serve(queue, recorder, 100)
        return [moment for moment, _ in recorder.passes]

    assert instantly(story()) == [20]


def test_a_pass_that_raises_is_tried_again_ever_more_slowly_and_the_others_go_on(
    instantly: Run, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    async def story() -> tuple[list[float], int]:
        queue, moments, fine = quiet_queue(longest_backoff=8), [], Counter[str]()

        async def handler(key: str) -> float | None:
            if key == "broken":
                moments.append(asyncio.get_running_loop().time())
                raise ValueError("no such\nthing")
            fine[key] += 1
            return 1.0

        queue.add("broken")
        queue.add("fine")
        await serve(queue, handler, 40)
        return moments, fine["fine"]

    moments, fine = instantly(story())
    assert moments == [0, 1, 3, 7, 15, 23, 31, 39]
    assert fine >= 39
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert warnings[0].getMessage() == "the pass failed and is tried again in 1 s: ValueError: no such thing"
    assert all(record.exc_info is None for record in warnings), "tracebacks are for debugging"
    assert any(record.exc_info for record in caplog.records if record.levelno == logging.DEBUG)


def test_events_do_not_shorten_a_backoff_and_a_success_ends_it(instantly: Run) -> None:
    async def story() -> list[float]:
        queue, moments = quiet_queue(), []

        async def handler(key: str) -> float | None:
            moments.append(asyncio.get_running_loop().time())
            if len(moments) in (1, 2, 4):
                raise ValueError("again")
            return None

        loop = asyncio.get_running_loop()
        queue.add("a")
        for tenth in range(1, 30):
            loop.call_later(tenth / 10, queue.add, "a")
        loop.call_later(10, queue.add, "a")
        await serve(queue, handler, 60)
        return moments

    # 0 fails, 1 fails, 3 works; 10 fails and is tried after 1 s again, not 4.
    assert instantly(story()) == pytest.approx([0, 1, 3, 10, 11])


def test_stopping_lets_passes_in_flight_finish_and_starts_none(instantly: Run) -> None:
    async def story() -> tuple[float, list[str]]:
        queue, recorder = quiet_queue(), Recorder(takes=10)
        for key in ("a", "b"):
            queue.add(key)
        await serve(queue, recorder, 3)
        queue.add("c")
        return asyncio.get_running_loop().time(), recorder.keys()

    assert instantly(story()) == (10, ["a"])


def test_a_paused_queue_takes_keys_and_starts_nothing(instantly: Run) -> None:
    async def story() -> list[tuple[float, str]]:
        queue, recorder = quiet_queue(), Recorder()
        queue.pause()
        queue.add("a")
        asyncio.get_running_loop().call_later(20, queue.resume)
        await serve(queue, recorder, 30)
        return recorder.passes

    assert instantly(story()) == [(20, "a")]


def test_a_forgotten_key_has_no_later_pass(instantly: Run) -> None:
    async def story() -> list[tuple[float, str]]:
        queue, recorder = quiet_queue(), Recorder(again={"a": 5.0})
        queue.add("a")
        asyncio.get_running_loop().call_later(1, queue.forget, "a")
        await serve(queue, recorder, 30)
        return recorder.passes

    assert instantly(story()) == [(0, "a")]


def test_the_figures_say_what_waits_and_what_runs_too_long(instantly: Run) -> None:
    async def story() -> None:
        queue, recorder = quiet_queue(), Recorder(takes=100)
        queue.add("a")
        queue.add("b")
        serving = asyncio.create_task(queue.run(recorder, 1))
        await asyncio.sleep(40)
        stats = queue.stats()
        assert (stats.waiting, stats.running, stats.longest_wait, stats.longest_pass) == (1, 1, 40, 40)
        assert stats.last_finished is None
        await asyncio.sleep(70)
        assert queue.stats().last_finished == 10
        queue.stop()
        await serving

    instantly(story())


events = st.lists(
    st.tuples(st.floats(0, 20), st.sampled_from("abc"), st.sampled_from([None, 0.0, 0.5, 3.0])), min_size=1, max_size=40
)


@settings(max_examples=100, deadline=None)
@given(events=events, workers=st.integers(1, 3), takes=st.floats(0, 2))
def test_after_every_event_a_pass_begins_and_no_pass_is_without_one(
    events: list[tuple[float, str, float | None]], workers: int, takes: float
) -> None:
    """The law that makes it level-triggered: what an event told is looked at by a pass that begins no earlier."""

    async def story() -> tuple[list[tuple[float, str]], list[tuple[float, str]]]:
        queue, recorder = quiet_queue(), Recorder(takes=takes)
        told: list[tuple[float, str]] = []
        loop = asyncio.get_running_loop()

        def tell(key: str, delay: float | None) -> None:
            told.append((loop.time(), key))
            if delay is None:
                queue.add(key)
            else:
                queue.add_after(key, delay)

        for moment, key, delay in events:
            loop.call_later(moment, tell, key, delay)
        await serve(queue, recorder, 200, workers)
        return told, recorder.passes

    told, passes = instant(story())
    last: dict[str, float] = {}
    for moment, key in passes:
        last[key] = max(moment, last.get(key, 0.0))
    for moment, key in told:
        assert last[key] >= moment
    assert len(passes) <= len(told)
