"""What the verdicts so far add up to: the incumbent, its runs, the noise, and the edits that wait to be combined.

The fold goes through experiments in the order of their numbers and never looks at the order in which their runs
ended. A verdict that is on record is taken as it stands. Which runs feed the noise pool and the incumbent's mean
follows from verdicts alone: pairs of a candidate that was rejected or accepted after its looks count, those of one
that failed half-way do not, since how many of them exist depends on which slot was faster.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from autoresearch_operator.api.reasons import ExperimentKind, Verdict, VerdictReason
from autoresearch_operator.research.accept import NEAR_MISS
from autoresearch_operator.research.measure import BASELINE_RUNS, REFRESH_RUNS, Trials
from autoresearch_operator.research.noise import NoisePool, mean
from autoresearch_operator.research.records import ExperimentRecord, Interval, Purpose
from autoresearch_operator.research.terms import Terms

_NEUTRAL = frozenset({VerdictReason.INFRASTRUCTURE, VerdictReason.REBASE_CONFLICT})
"""Invalid for reasons that say nothing about the proposer: they neither add to its failures in a row nor end them."""

BUNDLE_MOST = 4
BUNDLE_WANTED = 3


@dataclass(frozen=True, slots=True)
class NearMiss:
    """A candidate that was a little better than its incumbent, though not by one noise unit."""

    number: int
    gain: float
    knobs: frozenset[tuple[str, str]]
    """(path, name) of every knob that it changed."""


@dataclass(slots=True)
class Fold:
    """The state after the verdicts of experiments 0 to `decided_to`."""

    terms: Terms
    trials: Trials
    used: frozenset[int] = frozenset()
    """Experiments that a combination on record was made of; they are not combined again."""
    incumbent: int = 0
    pool: NoisePool = field(default_factory=NoisePool)
    runs: dict[int, list[float]] = field(default_factory=dict)
    """Every incumbent's scores, oldest first."""
    unbiased: dict[int, list[float]] = field(default_factory=dict)
    """Those of `runs` that had no part in accepting it: what is reported."""
    accepted: list[int] = field(default_factory=list)
    counted: int = 0
    """Verdicts that count towards limits.experiments."""
    free: int = 0
    """Combinations that ended without any run; they do not count."""
    failures: int = 0
    """Invalid verdicts in a row."""
    waiting: dict[int, float] = field(default_factory=dict)
    """Winners measured against an older incumbent, with their gains: to be rebased."""
    gains: dict[int, float] = field(default_factory=dict)
    """Gains of all winners that were measured against an older incumbent, bits per byte."""
    near: list[NearMiss] = field(default_factory=list)
    near_since: int = 0
    """The verdict after which `near` last grew."""

    def apply(self, record: ExperimentRecord) -> None:
        """Take in one verdict, on record or just given. Verdicts must come in the order of their numbers."""
        number, verdict = record.number, record.verdict
        if record.kind is ExperimentKind.BASELINE:
            scores = self.trials.scores(Purpose.BASELINE, 0, 0, BASELINE_RUNS)
            self.runs[0], self.unbiased[0] = scores, list(scores)
            self.pool = self.pool.with_group(scores) if scores else self.pool
            return
        if record.kind is ExperimentKind.ABLATION:
            return
        if record.kind is ExperimentKind.COMBINATION and not self.trials.any_of(number):
            self.free += 1
        else:
            self.counted += 1
        if verdict is Verdict.INVALID:
            self.failures += record.reason not in _NEUTRAL
            return
        self.failures = 0
        reason = record.reason
        if verdict is Verdict.ACCEPTED:
            mine = self._take_pairs(record)
            if not mine and record.val_bpb is not None:
                mine = [record.val_bpb]
            self.incumbent = number
            self.runs[number], self.unbiased[number] = mine, []
            self.accepted.append(number)
            self.near.clear()
        elif reason is VerdictReason.NOT_SIGNIFICANT:
            self._take_pairs(record)
        elif reason is VerdictReason.SUPERSEDED:
            self.gains[number] = record.delta or 0.0
            if number not in self.used:
                self.waiting[number] = self.gains[number]
        elif reason is VerdictReason.NOT_BETTER:
            self._note_near_miss(record)

    def apply_refresh(self, number: int) -> None:
        """Take in the runs of a new incumbent that had no part in accepting it."""
        scores = self.trials.scores(Purpose.REFRESH, number, number, REFRESH_RUNS)
        self.runs[number] += scores
        self.unbiased[number] += scores
        if scores:
            self.pool = self.pool.with_group(scores)

    def score_of(self, number: int) -> Interval | None:
        """The reported score of a present or former incumbent; its confirmation runs stand in until it has others."""
        scores = self.unbiased.get(number) or self.runs.get(number)
        if not scores:
            return None
        sd = self.pool.sd
        return Interval(mean(scores), sd / math.sqrt(len(scores)) if sd is not None else math.inf, len(scores))

    def take_combination(self, moment: int, rebasing: bool, hurry: bool) -> tuple[int, ...]:
        """The sources of the combination that is due after verdict `moment`, taken off the list; or nothing.

        Rebased winners first, the largest gain first, and one at a time: while one is `rebasing`, its verdict to
        come, another would most likely be superseded in its turn. Near misses wait until three are there that change
        different knobs; two are put together when no third has come for a whole lookahead, or in a `hurry`, because
        no more proposals will come. Each is used once.
        """
        if self.waiting and not rebasing:
            best = min(self.waiting, key=lambda number: (-self.waiting[number], number))
            del self.waiting[best]
            return (best,)
        if len(self.near) < 2:
            return ()
        chosen: list[NearMiss] = []
        taken: set[tuple[str, str]] = set()
        for miss in sorted(self.near, key=lambda miss: (-miss.gain, miss.number)):
            if len(chosen) < BUNDLE_MOST and taken.isdisjoint(miss.knobs):
                chosen.append(miss)
                taken |= miss.knobs
        patience = hurry or moment - self.near_since >= self.terms.lookahead
        if len(chosen) < (2 if patience else BUNDLE_WANTED):
            return ()
        self.near = [miss for miss in self.near if miss not in chosen]
        return tuple(sorted(miss.number for miss in chosen))

    def _take_pairs(self, record: ExperimentRecord) -> list[float]:
        mine, theirs = self.trials.pairs(record.number, self.incumbent, self.terms.rules.looks[-1])
        # Runs made ahead of a look that was never taken do not count: which of them exist depends on idle slots.
        for runs in self.terms.rules.looks if record.delta is not None else ():
            if runs < len(mine) and abs(mean(theirs[:runs]) - mean(mine[:runs]) - (record.delta or 0.0)) < 1e-12:
                mine, theirs = mine[:runs], theirs[:runs]
        if mine:
            self.pool = self.pool.with_group(mine).with_group(theirs)
            self.runs.setdefault(self.incumbent, []).extend(theirs)
            self.unbiased.setdefault(self.incumbent, []).extend(theirs)
        return mine

    def _note_near_miss(self, record: ExperimentRecord) -> None:
        gain = record.delta
        if (
            gain is None
            or gain <= 0.0
            or gain < NEAR_MISS * (self.pool.sd or math.inf)
            or record.base != self.incumbent
            or record.kind is not ExperimentKind.PROPOSAL
            or not record.changes
        ):
            return
        self.near_since = record.number  # also for a used one: the list grew then, whatever became of it
        if record.number not in self.used:
            self.near.append(NearMiss(record.number, gain, frozenset((c.path, c.name) for c in record.changes)))


def is_rebase(record: ExperimentRecord) -> bool:
    """Whether this is one winner put on a new incumbent: it has passed a screen already and gets no other."""
    return record.kind is ExperimentKind.COMBINATION and len(record.sources) == 1
