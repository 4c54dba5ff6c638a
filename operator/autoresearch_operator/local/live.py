"""The live picture: slots with their trials at the bottom of the terminal, verdicts scrolling by above it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from autoresearch_operator.api.reasons import Verdict, VerdictReason
from autoresearch_operator.local.machine import Slot
from autoresearch_operator.local.stream import SafeStream
from autoresearch_operator.local.view import decision_words, end_words, trial_words
from autoresearch_operator.observe.facts import RunFacts
from autoresearch_operator.observe.summary import final_trials
from autoresearch_operator.observe.text import bpb, clean, duration, finite, rate, signed
from autoresearch_operator.research.records import (
    Decision,
    ExperimentRecord,
    Plan,
    Purpose,
    Standing,
    TrialPhase,
    TrialRecord,
    TrialStart,
)

_PURPOSES = {
    Purpose.BASELINE: "baseline",
    Purpose.SCREEN: "first run",
    Purpose.CONFIRM: "fresh run",
    Purpose.REFERENCE: "incumbent",
    Purpose.REFRESH: "refresh",
    Purpose.FINAL: "final",
}
_STYLES = {Verdict.ACCEPTED: "bold green", Verdict.REJECTED: "dim", Verdict.INVALID: "yellow"}
_MARKS = {Verdict.ACCEPTED: "✓", Verdict.REJECTED: "·", Verdict.INVALID: "✗"}
_MOST_SLOTS = 16


@dataclass
class _SlotState:
    title: str
    number: int
    purpose: Purpose
    since: float
    progress: float = 0.0
    tokens: int = 0
    tokens_at: float = 0.0
    speed: float | None = None
    loss: float | None = None


class LiveDrawing:
    """Draws with rich. Nothing is refreshed by a thread of rich's own: the view's thread calls `tick`."""

    def __init__(self, stream: SafeStream, *, width: int | None = None) -> None:
        # SafeStream has what rich uses of a text stream; its type is narrower than IO[str].
        self._console = Console(
            file=cast("IO[str]", stream), force_terminal=True, width=width, highlight=False, emoji=False
        )
        self._live = Live(console=self._console, auto_refresh=False, transient=True, redirect_stdout=False,
                          redirect_stderr=False)  # fmt: skip
        self.now = 0.0
        self._facts: RunFacts | None = None
        self._slots: dict[int, _SlotState | None] = {}
        self._standing: Standing | None = None
        self._running = 0
        self._counts = dict.fromkeys(Verdict, 0)
        self._began = 0.0
        self._decided_before: int | None = None
        self._trial_seconds: list[float] = []

    def started(self, facts: RunFacts) -> None:
        self._facts = facts
        self._began = self.now
        budgets = ", ".join(tier.budget for tier in facts.tiers if tier.budget)
        self._print(Text(f"{clean(facts.name, 60)}: {clean(facts.source, 100)}, {budgets} a trial", style="bold"))
        self._print(Text(f"accepted edits go to the branch {clean(facts.branch, 120)}", style="dim"))
        self._live.start()

    def update(self, standing: Standing, running: int) -> None:
        self._standing = standing
        self._running = running
        if self._decided_before is None:
            self._decided_before = standing.decided

    def trial_started(self, slot: Slot, start: TrialStart, record: ExperimentRecord) -> None:
        self._slots[slot.index] = _SlotState(clean(record.title, 80), record.number, start.purpose, self.now)

    def trial_progress(self, slot: Slot, event: Mapping[str, Any]) -> None:
        state = self._slots.get(slot.index)
        if state is None:
            return
        loss, tokens = event.get("loss"), event.get("tokens")
        state.loss = finite(float(loss)) if isinstance(loss, int | float) else state.loss
        progress = event.get("progress")
        if isinstance(progress, int | float) and math.isfinite(progress):
            state.progress = min(1.0, max(0.0, float(progress)))
        if isinstance(tokens, int | float) and tokens >= state.tokens:
            if state.tokens_at and self.now > state.tokens_at:
                speed = (tokens - state.tokens) / (self.now - state.tokens_at)
                state.speed = speed if state.speed is None else 0.7 * state.speed + 0.3 * speed
            state.tokens, state.tokens_at = int(tokens), self.now

    def trial_finished(self, slot: Slot, record: TrialRecord) -> None:
        state = self._slots.get(slot.index)
        self._slots[slot.index] = None
        if state is not None:
            self._trial_seconds.append(self.now - state.since)
        if record.phase in (TrialPhase.STARVED, TrialPhase.LOST):
            self._print(Text(f"  #{record.key.experiment} {trial_words(record)}", style="yellow"))

    def decided(self, experiment: ExperimentRecord, decision: Decision, standing: Standing) -> None:
        self._standing = standing
        if decision.reason is VerdictReason.MEASURED:
            self._print(Text(f"= {decision_words(experiment, decision)}"))
            return
        self._counts[decision.verdict] += 1
        words = f"{_MARKS[decision.verdict]} {decision_words(experiment, decision)}"
        self._print(Text(words, style=_STYLES[decision.verdict]))

    def landed(self, experiment: ExperimentRecord, commit: str) -> None:
        self._print(Text(f"  #{experiment.number} is on the branch as {commit[:10]}", style="green"))

    def note(self, sentence: str) -> None:
        self._print(Text(clean(sentence, 500), style="yellow"))

    def finished(self, plan: Plan, paths: Sequence[Path | str], *, stopped: bool = False) -> None:
        self._standing = plan.standing
        self._live.stop()
        self._print(self._status())
        self._print(Text(end_words(plan, stopped), style="bold"))
        for path in paths:
            self._print(Text(f"  {path}"))

    def tick(self) -> None:
        if self._live.is_started:
            self._live.update(self.picture(), refresh=True)

    def close(self) -> None:
        if self._live.is_started:
            self._live.stop()

    def picture(self) -> RenderableType:
        """The slots and the line of standing."""
        table = Table(box=None, show_header=False, pad_edge=False, expand=True)
        wide = self._console.width >= 100
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True, min_width=8, ratio=1)
        table.add_column(no_wrap=True, justify="right", min_width=5)
        table.add_column(no_wrap=True, justify="right", min_width=7)
        table.add_column(no_wrap=True, overflow="ellipsis", ratio=3 if wide else 2)
        shown = sorted(self._slots.items())
        for index, state in shown[:_MOST_SLOTS]:
            table.add_row(*self._slot_cells(index, state))
        rest = len(shown) - _MOST_SLOTS
        more = [Text(f"and {rest} more slots", style="dim")] if rest > 0 else []
        return Group(Text(""), table, *more, self._status())

    def _slot_cells(self, index: int, state: _SlotState | None) -> list[RenderableType]:
        if state is None:
            return [Text(f"slot {index}", style="dim"), Text("free", style="dim"), "", "", "", ""]
        started = state.tokens > 0
        middle: RenderableType = (
            ProgressBar(total=1.0, completed=state.progress)
            if started
            else Text(f"starting, {self.now - state.since:.0f} s", style="dim")
        )
        if state.progress >= 1.0:
            middle = Text("being judged", style="dim")
        return [
            Text(f"slot {index}"),
            Text(f"#{state.number} {_PURPOSES[state.purpose]}", style="cyan"),
            middle,
            Text("" if state.loss is None else f"{state.loss:.2f}"),
            Text(f"{rate(state.speed)}/s" if state.speed is not None else ""),
            Text(state.title),
        ]

    def _status(self) -> Text:
        standing = self._standing
        if standing is None:
            return Text("measuring the machine and the baseline")
        best = standing.incumbent_score
        parts = []
        if best is not None:
            gain = standing.baseline_score.mean - best.mean if standing.baseline_score is not None else None
            parts.append(f"best {bpb(best.mean)}" + (f" (gain {signed(gain)})" if standing.accepted else ""))
        if standing.noise is not None:
            parts.append(f"noise {standing.noise:.4f}")
        limit = self._limit()
        done = f"{standing.decided}" + (f"/{limit}" if limit is not None else "")
        # Standing does not count the invalid ones; after a resume this start's own count would mislead.
        invalid = "" if self._decided_before else f", {self._counts[Verdict.INVALID]} invalid"
        parts.append(f"{done} decided: {standing.accepted} kept{invalid}")
        left = self._eta()
        if left is not None:
            parts.append(f"about {duration(left)} to go")
        return Text(" · ".join(parts), overflow="fold")

    def _limit(self) -> int | None:
        if self._standing is not None and self._standing.decided_limit is not None:
            return self._standing.decided_limit
        return self._facts.experiments_limit if self._facts is not None else None

    def _eta(self) -> float | None:
        """Seconds to go at the pace since this start, the final comparison included; None before three verdicts."""
        standing, limit = self._standing, self._limit()
        done = 0 if standing is None else standing.decided - (self._decided_before or 0)
        if standing is None or limit is None or done < 3 or not self._trial_seconds:
            return None
        pace = (self.now - self._began) / done
        per_trial = sum(self._trial_seconds) / len(self._trial_seconds)
        return max(0, limit - standing.decided) * pace + final_trials(standing.accepted) * per_trial / max(
            1, len(self._slots)
        )

    def _print(self, words: Text) -> None:
        words.no_wrap = True
        words.overflow = "ellipsis"
        self._console.print(words)
