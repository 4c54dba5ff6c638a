"""From attempts to measurements: which run of a seed counts, and which is made again.

A *measurement* is one (experiment, seed). Its attempts are made one after another, and the first that ends in a
score or in the candidate's own failure counts; nothing is ever counted twice. An attempt that was lost to a fault of
the machine is repeated at most `MAX_LOST` times in all, one that was measured on a slowed machine at most
`MAX_STARVED` times, after which the last such score counts and is said to be one.

Whether a scored run was starved is derived here from its reference time, never stored: the trusted matrix product
beside the trial took longer than the tier's usual by more than 3 % (GPU tiers, which nobody shares) or 50 % (CPU
tiers: people use their cores too, and a budget in CPU-seconds absorbs most of it). The usual is the median over the
first scored attempts of the baseline's runs, so it is fixed before the first verdict and does not depend on the
order in which later trials end. Under a budget in steps the machine's speed cannot change a result, so none is starved.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from statistics import median

from autoresearch_operator.api.reasons import VerdictReason
from autoresearch_operator.api.run import ResearchRunSpec
from autoresearch_operator.research.names import trial_seed
from autoresearch_operator.research.records import Purpose, TrialPhase, TrialRecord
from autoresearch_operator.research.terms import Terms, starved_above

MAX_LOST = 5
MAX_STARVED = 3
BASELINE_RUNS = 5
REFRESH_RUNS = 2
FINAL_RUNS = 5
ABLATION_RUNS = 1
"""Runs of the head without one accepted edit. The noise is pooled and the head has five runs, so a second would narrow
the interval of the difference by 24 % (from s * sqrt(1 + 1/5) to s * sqrt(1/2 + 1/5)) and double what it costs."""


class State(Enum):
    """How far a measurement has come."""

    NEEDED = "Needed"
    RUNNING = "Running"
    SCORED = "Scored"
    INVALID = "Invalid"
    LOST = "Lost"
    """Given up after `MAX_LOST` attempts."""


@dataclass(frozen=True, slots=True)
class Need:
    """A run that a decision waits for."""

    purpose: Purpose
    experiment: int
    subject: int
    index: int
    seed: int
    attempt: int


@dataclass(frozen=True, slots=True)
class Measured:
    """One measurement, from all attempts at it."""

    state: State
    score: float = math.nan
    """Bits per byte; a number only when `state` is SCORED."""
    trial: TrialRecord | None = None
    """The attempt that counts (SCORED, INVALID), or the last one (LOST)."""
    need: Need | None = None
    """The start that is missing, when `state` is NEEDED."""
    starved: bool = False
    """SCORED, but on a slowed machine every time."""

    @property
    def settled(self) -> bool:
        return self.state not in (State.NEEDED, State.RUNNING)


def baseline_reference(trials: Iterable[TrialRecord]) -> float | None:
    """The tier's usual reference time in seconds; None until each of the baseline's runs has scored once."""
    first: dict[int, TrialRecord] = {}
    for trial in trials:
        if trial.purpose is Purpose.BASELINE and trial.phase in (TrialPhase.SCORED, TrialPhase.STARVED):
            seed = trial.key.seed
            if seed not in first or trial.key.attempt < first[seed].key.attempt:
                first[seed] = trial
    times = [t.reference_seconds for t in first.values() if t.reference_seconds is not None]
    return median(times) if len(first) >= BASELINE_RUNS and times else None


class Trials:
    """All trials, grouped once. `running`, `finished` and the costs are counted on the way."""

    def __init__(self, trials: Sequence[TrialRecord], terms: Terms) -> None:
        groups: defaultdict[int, list[TrialRecord]] = defaultdict(list)
        final: list[TrialRecord] = []
        self.running: list[TrialRecord] = []
        self.finished = 0
        self.seconds = 0.0
        self.search_finished = 0
        """Finished trials and the seconds that they took, without those of the final comparison; 0 when the run has
        no limit on money."""
        running, tier, last = TrialPhase.RUNNING, terms.tier, Purpose.FINAL
        for trial in trials:
            if trial.tier != tier:
                continue
            if trial.phase is running:
                self.running.append(trial)
            else:
                self.finished += 1
            if trial.purpose is last:
                final.append(trial)
            else:
                groups[trial.subject].append(trial)
        if terms.gpu_hours is not None or terms.dollars is not None:
            for group in groups.values():
                for trial in group:
                    if trial.finished_at is not None and trial.finished_at > trial.started_at:
                        self.seconds += trial.finished_at - trial.started_at
                        self.search_finished += 1
        self._groups = groups
        self._final = _by_seed(final)
        self._seen: dict[int, dict[tuple[int, int], list[TrialRecord]]] = {}
        usual = baseline_reference(groups.get(0, ())) if terms.starved_above is not None else None
        self._slow = math.inf if usual is None or terms.starved_above is None else usual * (1 + terms.starved_above)

    def started(self, subject: int, *purposes: Purpose) -> bool:
        """Whether any run of these purposes was ever started for this experiment."""
        return any(trial.purpose in purposes for trial in self._groups.get(subject, ()))

    def any_of(self, subject: int) -> bool:
        return bool(self._groups.get(subject))

    def measured(self, purpose: Purpose, experiment: int, subject: int, index: int) -> Measured:
        """The measurement of `experiment` with the `index`-th seed of `purpose` that helps to decide `subject`.

        FINAL runs share their seeds across experiments, so `subject` is 0 in their seeds whatever it is here.
        """
        if purpose is Purpose.FINAL:
            seed = trial_seed(purpose, 0, index)
            attempts = self._final.get((experiment, seed), ())
        else:
            seed = trial_seed(purpose, subject, index)
            seen = self._seen.get(subject)
            if seen is None:
                seen = self._seen[subject] = _by_seed(self._groups.get(subject, ()))
            attempts = seen.get((experiment, seed), ())
        # An incumbent was scored many times: a failure of one more run of it is a fault to be tried again, not a
        # verdict on the candidate beside it.
        return self._resolve(attempts, Need(purpose, experiment, subject, index, seed, 1), purpose is Purpose.REFERENCE)

    def scores(self, purpose: Purpose, experiment: int, subject: int, runs: int) -> list[float]:
        """Scores of the leading settled runs, in the order of their seeds; runs without a score are left out."""
        found = (self.measured(purpose, experiment, subject, index) for index in range(runs))
        return [measured.score for measured in found if measured.state is State.SCORED]

    def pairs(self, candidate: int, incumbent: int, most: int) -> tuple[list[float], list[float]]:
        """Scores of the confirmation runs made on both sides, as far as they go without a gap."""
        plain = self._plain_pairs(candidate, incumbent)
        if plain is not None:
            return plain
        mine: list[float] = []
        theirs: list[float] = []
        for index in range(most):
            confirm = self.measured(Purpose.CONFIRM, candidate, candidate, index)
            if confirm.state is not State.SCORED:
                break
            reference = self.measured(Purpose.REFERENCE, incumbent, candidate, index)
            if reference.state is not State.SCORED:
                break
            mine.append(confirm.score)
            theirs.append(reference.score)
        return mine, theirs

    def _plain_pairs(self, candidate: int, incumbent: int) -> tuple[list[float], list[float]] | None:
        """`pairs` in the usual case, that every run was scored at the first attempt; None in any other.

        A pass reads the pairs of every confirmed candidate of the record, so this is most of its time.
        """
        found: dict[Purpose, list[TrialRecord]] = {Purpose.CONFIRM: [], Purpose.REFERENCE: []}
        for trial in self._groups.get(candidate, ()):
            runs = found.get(trial.purpose)
            if runs is not None:
                score = trial.val_bpb
                if trial.key.attempt != 1 or trial.phase is not TrialPhase.SCORED or score is None:
                    return None
                if not math.isfinite(score) or self.is_slow(trial):
                    return None
                runs.append(trial)
        mine, theirs = sorted(found[Purpose.CONFIRM], key=_seed), sorted(found[Purpose.REFERENCE], key=_seed)
        first = trial_seed(Purpose.CONFIRM, candidate, 0)
        if len(mine) != len(theirs):
            return None
        for seed, (own, other) in enumerate(zip(mine, theirs, strict=True), first):
            if own.key.seed != seed or other.key.seed != seed or other.key.experiment != incumbent:
                return None
        return [t.val_bpb for t in mine if t.val_bpb is not None], [t.val_bpb for t in theirs if t.val_bpb is not None]

    def is_slow(self, trial: TrialRecord) -> bool:
        return trial.reference_seconds is not None and trial.reference_seconds > self._slow

    def _resolve(self, attempts: Sequence[TrialRecord], need: Need, forgive: bool) -> Measured:
        lost = starved = 0
        running = False
        last: TrialRecord | None = None
        for trial in attempts:
            phase, score = trial.phase, trial.val_bpb
            if phase is TrialPhase.RUNNING:
                running = True
                continue
            last = trial
            if phase is TrialPhase.SCORED and (score is None or not math.isfinite(score)):
                phase = TrialPhase.INVALID
            if phase is TrialPhase.SCORED and score is not None and not self.is_slow(trial):
                return Measured(State.SCORED, score, trial)
            if phase is TrialPhase.INVALID and not forgive:
                return Measured(State.INVALID, trial=trial)
            if score is not None and math.isfinite(score) and phase in (TrialPhase.SCORED, TrialPhase.STARVED):
                starved += 1
                if starved >= MAX_STARVED:
                    return Measured(State.SCORED, score, trial, starved=True)
            else:
                lost += 1
                if lost >= MAX_LOST:
                    return Measured(State.LOST, trial=trial)
        if running:
            return Measured(State.RUNNING, trial=last)
        if last is not None:
            need = replace(need, attempt=attempts[-1].key.attempt + 1)
        return Measured(State.NEEDED, trial=last, need=need)


def is_starved(trial: TrialRecord, earlier_trials: Iterable[TrialRecord], spec: ResearchRunSpec) -> bool:
    """Whether a scored trial is to be measured again because the machine was slower than the tier's usual.

    Only the baseline's runs among `earlier_trials` count towards the usual. False while those are incomplete.
    """
    above = starved_above(spec)
    if above is None or trial.phase is not TrialPhase.SCORED or trial.reference_seconds is None:
        return False
    usual = baseline_reference(earlier_trials)
    return usual is not None and trial.reference_seconds > usual * (1 + above)


def reason_of(trial: TrialRecord | None) -> VerdictReason:
    """The reason that an invalid trial gives; a score that is not a number is `NonFinite`."""
    if trial is None:
        return VerdictReason.CRASHED
    if trial.phase is TrialPhase.SCORED:
        return VerdictReason.NON_FINITE
    return trial.reason or VerdictReason.CRASHED


def _by_seed(trials: Iterable[TrialRecord]) -> dict[tuple[int, int], list[TrialRecord]]:
    found: dict[tuple[int, int], list[TrialRecord]] = {}
    for trial in trials:
        found.setdefault((trial.key.experiment, trial.key.seed), []).append(trial)
    for attempts in found.values():
        if len(attempts) > 1:
            attempts.sort(key=_attempt)
    return found


def _attempt(trial: TrialRecord) -> int:
    return trial.key.attempt


def _seed(trial: TrialRecord) -> int:
    return trial.key.seed
