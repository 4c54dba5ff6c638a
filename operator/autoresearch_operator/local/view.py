"""What a person or a script sees while a run goes on: a live picture, plain lines, or JSON lines.

The loop must not wait for a terminal and must not fail because of one. So `View` only puts events into a queue; a
thread draws them. A reader that goes away (`| head`) silences the view; a fault in drawing is logged once and the next
plainer form takes over.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, TextIO

from autoresearch_operator.api.reasons import VerdictReason
from autoresearch_operator.local.machine import Slot
from autoresearch_operator.local.stream import SafeStream
from autoresearch_operator.observe.facts import RunFacts
from autoresearch_operator.observe.text import bpb, clean, duration, plural, rate, signed, size
from autoresearch_operator.observe.why import purpose_words
from autoresearch_operator.research.records import (
    Decision,
    ExperimentRecord,
    Plan,
    Standing,
    TrialPhase,
    TrialRecord,
    TrialStart,
)

Mode = Literal["auto", "live", "plain", "json", "silent"]
_LOG = logging.getLogger(__name__)
_QUEUE_LIMIT = 2000
"""Progress events are dropped while this many events wait: a stopped terminal must not grow the loop's memory."""


class RunView(Protocol):
    """What the loop tells. No method raises or blocks; each takes a few microseconds."""

    def started(self, facts: RunFacts) -> None: ...
    def update(self, standing: Standing, running: int) -> None: ...
    def trial_started(self, slot: Slot, start: TrialStart, record: ExperimentRecord) -> None: ...
    def trial_progress(self, slot: Slot, event: Mapping[str, Any]) -> None: ...
    def trial_finished(self, slot: Slot, record: TrialRecord) -> None: ...
    def decided(self, experiment: ExperimentRecord, decision: Decision, standing: Standing) -> None: ...
    def landed(self, experiment: ExperimentRecord, commit: str) -> None: ...
    def note(self, sentence: str) -> None: ...
    def finished(self, plan: Plan, paths: Sequence[Path | str], *, stopped: bool = False) -> None: ...


class Drawing(RunView, Protocol):
    """A form of the view. Called from the view's thread only, so it may take its time."""

    now: float
    """When the event that is being drawn happened, seconds since the epoch."""

    def tick(self) -> None:
        """Called about twice a second."""

    def close(self) -> None:
        """Leave the terminal as it was found."""


class PlainDrawing:
    """One line an event, with the time of day."""

    def __init__(self, stream: SafeStream) -> None:
        self._stream = stream
        self.now = 0.0

    def started(self, facts: RunFacts) -> None:
        budgets = ", ".join(tier.budget for tier in facts.tiers if tier.budget)
        self._line(
            f"run {clean(facts.name, 60)}: {clean(facts.source, 120)}, {budgets or 'no tier'} a trial, "
            + (f"at most {facts.experiments_limit} candidates, " if facts.experiments_limit is not None else "")
            + f"branch {clean(facts.branch, 120)}"
        )

    def update(self, standing: Standing, running: int) -> None:
        """Standing is told with each verdict; a line of its own would be chatty."""

    def trial_started(self, slot: Slot, start: TrialStart, record: ExperimentRecord) -> None:
        words = purpose_words(start.purpose, start.subject)
        self._line(f"slot {slot.index}: #{record.number} {words} started: {clean(record.title, 100)}")

    def trial_progress(self, slot: Slot, event: Mapping[str, Any]) -> None:
        """Two a second and slot: for the live picture only."""

    def trial_finished(self, slot: Slot, record: TrialRecord) -> None:
        words = purpose_words(record.purpose, record.subject)
        self._line(f"slot {slot.index}: #{record.key.experiment} {words}: {trial_words(record)}")

    def decided(self, experiment: ExperimentRecord, decision: Decision, standing: Standing) -> None:
        best = standing.incumbent_score
        self._line(decision_words(experiment, decision) + ("" if best is None else f"  [incumbent {bpb(best.mean)}]"))

    def landed(self, experiment: ExperimentRecord, commit: str) -> None:
        self._line(f"#{experiment.number} is on the branch as {commit[:10]}")

    def note(self, sentence: str) -> None:
        self._line(clean(sentence, 500))

    def finished(self, plan: Plan, paths: Sequence[Path | str], *, stopped: bool = False) -> None:
        self._line(end_words(plan, stopped))
        for path in paths:
            self._line(f"  {path}")

    def tick(self) -> None:
        self._stream.flush()

    def close(self) -> None:
        self._stream.flush()

    def _line(self, words: str) -> None:
        self._stream.write(f"{time.strftime('%H:%M:%S', time.localtime(self.now))}  {words}\n")


class JsonDrawing:
    """One JSON object a line: `event`, `at` (seconds since the epoch) and the event's own fields, camelCase."""

    def __init__(self, stream: SafeStream) -> None:
        self._stream = stream
        self.now = 0.0

    def started(self, facts: RunFacts) -> None:
        self._event("started", run=facts.name, branch=facts.branch, source=facts.source, seed=facts.seed)

    def update(self, standing: Standing, running: int) -> None:
        """Standing is told with each verdict."""

    def trial_started(self, slot: Slot, start: TrialStart, record: ExperimentRecord) -> None:
        self._event(
            "trialStarted", slot=slot.index, experiment=record.number, title=record.title, purpose=start.purpose.value,
            subject=start.subject, seed=start.key.seed, attempt=start.key.attempt,
        )  # fmt: skip

    def trial_progress(self, slot: Slot, event: Mapping[str, Any]) -> None:
        """Left out: a script that follows a run wants its results."""

    def trial_finished(self, slot: Slot, record: TrialRecord) -> None:
        self._event(
            "trialFinished", slot=slot.index, experiment=record.key.experiment, purpose=record.purpose.value,
            subject=record.subject, seed=record.key.seed, attempt=record.key.attempt, phase=record.phase.value,
            reason=record.reason and record.reason.value, detail=record.detail, valBPB=record.val_bpb,
            tokensPerSecond=record.tokens_per_second,
        )  # fmt: skip

    def decided(self, experiment: ExperimentRecord, decision: Decision, standing: Standing) -> None:
        self._event(
            "decided", experiment=experiment.number, title=experiment.title, verdict=decision.verdict.value,
            reason=decision.reason.value, message=decision.message, valBPB=decision.val_bpb, delta=decision.delta,
            deltaError=decision.delta_error, decidedBefore=standing.decided, acceptedBefore=standing.accepted,
            incumbentBefore=standing.incumbent,
        )  # fmt: skip

    def landed(self, experiment: ExperimentRecord, commit: str) -> None:
        self._event("landed", experiment=experiment.number, commit=commit)

    def note(self, sentence: str) -> None:
        self._event("note", message=sentence)

    def finished(self, plan: Plan, paths: Sequence[Path | str], *, stopped: bool = False) -> None:
        self._event(
            "finished", stopped=stopped, complete=plan.complete and plan.complete.value,
            failed=plan.failed and plan.failed.value, message=plan.message, files=[str(path) for path in paths],
        )  # fmt: skip

    def tick(self) -> None:
        self._stream.flush()

    def close(self) -> None:
        self._stream.flush()

    def _event(self, event: str, **fields: Any) -> None:
        finite = {
            key: None if isinstance(value, float) and not abs(value) < float("inf") else value
            for key, value in fields.items()
        }
        # Escaped to ASCII: a title may hold a lone surrogate, and the reader's locale is not ours to know.
        self._stream.write(json.dumps({"event": event, "at": round(self.now, 3)} | finite) + "\n")


class View:
    """The RunView that the loop holds: a queue in front of a drawing. Use it as a context manager."""

    def __init__(self, drawings: Sequence[Drawing], *, tick: float = 0.5) -> None:
        """`drawings`: the form to use first, then those to fall back on. None at all is silence."""
        self._drawings = list(drawings)
        self._tick = tick
        self._events: queue.SimpleQueue[tuple[float, str, tuple[Any, ...], dict[str, Any]] | None] = queue.SimpleQueue()
        self.failure: Exception | None = None
        """The fault that made a drawing give up, for a test or a bug report."""
        self._thread = threading.Thread(target=self._work, name="view", daemon=True)
        self._thread.start()

    def started(self, facts: RunFacts) -> None:
        self._post("started", facts)

    def update(self, standing: Standing, running: int) -> None:
        self._post("update", standing, running)

    def trial_started(self, slot: Slot, start: TrialStart, record: ExperimentRecord) -> None:
        self._post("trial_started", slot, start, record)

    def trial_progress(self, slot: Slot, event: Mapping[str, Any]) -> None:
        if self._events.qsize() < _QUEUE_LIMIT:
            self._post("trial_progress", slot, event)

    def trial_finished(self, slot: Slot, record: TrialRecord) -> None:
        self._post("trial_finished", slot, record)

    def decided(self, experiment: ExperimentRecord, decision: Decision, standing: Standing) -> None:
        self._post("decided", experiment, decision, standing)

    def landed(self, experiment: ExperimentRecord, commit: str) -> None:
        self._post("landed", experiment, commit)

    def note(self, sentence: str) -> None:
        self._post("note", sentence)

    def finished(self, plan: Plan, paths: Sequence[Path | str], *, stopped: bool = False) -> None:
        self._post("finished", plan, tuple(paths), stopped=stopped)

    def close(self, timeout: float = 5.0) -> None:
        """Draws what is left and restores the terminal; gives up on a terminal that does not take it in time."""
        self._events.put(None)
        self._thread.join(timeout)

    def __enter__(self) -> View:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _post(self, method: str, *args: Any, **named: Any) -> None:
        self._events.put((time.time(), method, args, named))

    def _work(self) -> None:
        going, drawn = True, 0.0
        while going:
            with contextlib.suppress(queue.Empty):
                event = self._events.get(timeout=self._tick)
                while True:  # everything that waits is drawn before the picture is refreshed once
                    if event is None:
                        going = False
                        break
                    at, method, args, named = event
                    self._draw(method, args, named, at)
                    event = self._events.get_nowait()
            if not going:
                self._draw("close", (), {}, time.time())
            elif time.monotonic() - drawn >= self._tick / 2:  # sixteen slots report often; a picture need not
                self._draw("tick", (), {}, time.time())
                drawn = time.monotonic()

    def _draw(self, method: str, args: tuple[Any, ...], named: dict[str, Any], at: float) -> None:
        if not self._drawings:
            return
        drawing = self._drawings[0]
        drawing.now = at
        try:
            getattr(drawing, method)(*args, **named)
        except Exception as error:
            # The boundary of the view: whatever a library or a strange record does here, training goes on.
            self.failure = error
            _LOG.warning("the %s view gave up on %s", type(drawing).__name__, method, exc_info=True)
            self._drawings.pop(0)
            with contextlib.suppress(Exception):
                drawing.close()
            if method != "close":
                self._draw(method, args, named, at)


def open_view(stream: TextIO | None = None, *, mode: Mode = "auto") -> View:
    """The view for a stream (default: standard output).

    `auto` draws a live picture on a terminal that can move its cursor and plain lines elsewhere.
    """
    safe = SafeStream(stream if stream is not None else sys.stdout)
    if mode == "silent":
        return View([])
    if mode == "json":
        return View([JsonDrawing(safe)])
    live = mode == "live" or (safe.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown"))
    if mode == "plain" or not live:
        return View([PlainDrawing(safe)])
    from autoresearch_operator.local.live import LiveDrawing

    return View([LiveDrawing(safe), PlainDrawing(safe)])


def trial_words(record: TrialRecord) -> str:
    """A finished trial in one line."""
    seconds = None if record.finished_at is None else max(0.0, record.finished_at - record.started_at)
    if record.phase is TrialPhase.SCORED:
        memory = record.peak_vram_bytes or record.peak_memory_bytes
        return f"{bpb(record.val_bpb)} bpb, {rate(record.tokens_per_second)} tok/s, {size(memory)}, {duration(seconds)}"
    if record.phase is TrialPhase.INVALID:
        reason = record.reason.value if record.reason is not None else "Invalid"
        return reason + (f" ({clean(record.detail, 40)})" if record.detail else "") + _message(record.message)
    words = {TrialPhase.STARVED: "the machine was too slow, measured again", TrialPhase.LOST: "lost, measured again"}
    return words.get(record.phase, record.phase.value) + _message(record.message)


def decision_words(experiment: ExperimentRecord, decision: Decision) -> str:
    """A verdict in one line."""
    figures = "" if decision.val_bpb is None else f" {bpb(decision.val_bpb)}"
    figures += "" if decision.delta is None else f" ({signed(decision.delta)})"
    title = clean(experiment.title, 100)
    measured = decision.reason is VerdictReason.MEASURED
    outcome = "Measured" if measured else f"{decision.verdict.value}: {decision.reason.value}"
    return f"#{experiment.number} {outcome}{figures}  {title}"


def end_words(plan: Plan, stopped: bool) -> str:
    """Why the loop ended, in one line."""
    standing = plan.standing
    counts = f"{plural(standing.decided, 'candidate')} decided, {standing.accepted} kept"
    if stopped:
        return f"stopped, {counts}; the same command goes on from here"
    why = plan.failed.value if plan.failed else plan.complete.value if plan.complete else "ended"
    return f"{why}: {clean(plan.message, 300) or counts}"


def _message(message: str) -> str:
    return f": {clean(message, 160)}" if message else ""
