"""One summary of a run, built once; table, TSV, JSON, chart and report all read from it, so their figures agree.

Pure: it looks at records and returns records. Scores are bits per byte (lower is better), times seconds, sizes
bytes. `delta` is the incumbent minus the candidate: positive is better.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from autoresearch_operator.api.reasons import ExperimentKind, ExperimentPhase, Verdict, VerdictReason
from autoresearch_operator.observe.facts import IsolationStatement, RunFacts, isolation_statement
from autoresearch_operator.observe.power import confidence_factor, smallest_effect
from autoresearch_operator.observe.text import finite
from autoresearch_operator.research.measure import ABLATION_RUNS, FINAL_RUNS
from autoresearch_operator.research.records import (
    Change,
    Effect,
    ExperimentRecord,
    FinalComparison,
    Interval,
    Observed,
    Purpose,
    Standing,
    TrialPhase,
    TrialRecord,
)

_REPORTED = (Purpose.BASELINE, Purpose.REFRESH, Purpose.REFERENCE)


@dataclass(frozen=True, slots=True)
class Row:
    """One experiment as shown."""

    number: int
    kind: ExperimentKind
    phase: ExperimentPhase
    verdict: Verdict | None
    reason: VerdictReason | None
    title: str
    """As proposed; every output cleans and cuts it for itself."""
    hypothesis: str
    message: str
    detail: str
    proposer: str
    val_bpb: float | None
    split: str
    """`val`; `test` for an ablation."""
    delta: float | None
    delta_error: float | None
    noise_units: float | None
    """`delta` divided by the noise of one run."""
    trials: int
    """Finished runs of this candidate."""
    seconds: float
    """Time that its runs held a slot."""
    tokens_per_second: float | None
    peak_memory_bytes: int | None
    commit: str
    """The landed commit when there is one, else the candidate's."""
    base: int
    sources: tuple[int, ...]
    changes: tuple[Change, ...]
    curve: tuple[tuple[int, float], ...]

    @property
    def decided(self) -> bool:
        return self.verdict is not None

    @property
    def outcome(self) -> str:
        """The reason when decided, else how far it has come."""
        return self.reason.value if self.reason is not None else self.phase.value

    @property
    def accepted(self) -> bool:
        """On the branch: an accepted edit, or the baseline."""
        return self.number == 0 or (self.verdict is Verdict.ACCEPTED and self.kind is not ExperimentKind.ABLATION)


@dataclass(frozen=True, slots=True)
class Step:
    """One tread of the staircase: an incumbent and its score from runs that had no part in accepting it."""

    number: int
    title: str
    score: Interval
    low: float
    high: float
    """95 % interval of the mean."""
    provisional: bool
    """Only confirmation runs exist so far; a winner's own runs flatter it."""


@dataclass(frozen=True, slots=True)
class NoiseCard:
    """How well this run can see."""

    sd: float | None
    """Standard deviation of one run."""
    degrees: int
    smallest_effect: float | None
    """True gain that the acceptance rule finds four times in five."""
    baseline_runs: int


@dataclass(frozen=True, slots=True)
class Spend:
    """What the run has used so far."""

    trials: int
    slot_seconds: float
    cpu_seconds: float | None
    """CPU time of training as the kernel counted it; None when no trial recorded it."""
    gpu_hours: float
    dollars: float | None
    """None when a GPU tier has no price."""
    starved: int
    lost: int


@dataclass(frozen=True, slots=True)
class RunSummary:
    """Everything that is shown of a run."""

    facts: RunFacts
    rows: tuple[Row, ...]
    steps: tuple[Step, ...]
    noise: NoiseCard
    spend: Spend
    verdicts: Mapping[str, int]
    reasons: Mapping[str, int]
    """Verdict reason to number of candidates, most frequent first; baselines and ablations left out."""
    baseline: Interval | None
    incumbent: int
    incumbent_score: Interval | None
    final: FinalComparison | None
    state: str
    isolation: IsolationStatement
    started_at: float
    now: float
    finished: bool
    running: int
    eta_seconds: float | None
    candidates_decided: int
    own_trials: Mapping[int, tuple[TrialRecord, ...]]
    """By the experiment that was measured."""
    decisive_trials: Mapping[int, tuple[TrialRecord, ...]]
    """By the experiment that the run helps to decide."""

    def row(self, number: int) -> Row | None:
        """The experiment of that number, or None."""
        return self.rows[number] if 0 <= number < len(self.rows) and self.rows[number].number == number else None

    @property
    def gain(self) -> float | None:
        """Baseline minus incumbent on the validation split."""
        if self.baseline is None or self.incumbent_score is None:
            return None
        return finite(self.baseline.mean - self.incumbent_score.mean)

    @property
    def final_gain(self) -> tuple[float, float, float] | None:
        """(gain, low, high) of head over baseline on the hidden split, 95 %; None before it was measured."""
        final = self.final
        if final is None or finite(final.baseline.mean) is None or finite(final.head.mean) is None:
            return None
        gain = final.baseline.mean - final.head.mean
        reach = confidence_factor(self.noise.degrees) * math.hypot(final.baseline.error, final.head.error)
        return gain, gain - reach, gain + reach

    @property
    def kept(self) -> tuple[Row, ...]:
        """Accepted edits, in order of acceptance; the baseline left out."""
        return tuple(row for row in self.rows if row.accepted and row.number != 0)


def summarise(
    facts: RunFacts,
    observed: Observed,
    standing: Standing,
    *,
    now: float,
    state: str = "",
    finished: bool = False,
) -> RunSummary:
    """Builds the summary.

    Args:
        state: One sentence on why the run goes on or ended, from the plan.
        finished: The plan says that nothing is left to do.
    """
    own: defaultdict[int, list[TrialRecord]] = defaultdict(list)
    decisive: defaultdict[int, list[TrialRecord]] = defaultdict(list)
    for trial in observed.trials:
        own[trial.key.experiment].append(trial)
        decisive[trial.subject].append(trial)
    noise = finite(standing.noise)
    steps = _steps(observed.experiments, own, noise, standing.noise_degrees)
    rows = tuple(_row(record, own[record.number], noise, standing, now) for record in observed.experiments)
    candidates = [row for row in rows if row.kind in (ExperimentKind.PROPOSAL, ExperimentKind.COMBINATION)]
    done = [row for row in candidates if row.decided]
    spend = _spend(facts, observed.trials, now)
    effect = smallest_effect(noise, standing.noise_degrees, facts.rules)
    return RunSummary(
        facts=facts,
        rows=rows,
        steps=steps,
        noise=NoiseCard(
            sd=noise,
            degrees=standing.noise_degrees,
            smallest_effect=effect,
            baseline_runs=sum(
                trial.purpose is Purpose.BASELINE and trial.phase is TrialPhase.SCORED for trial in own[0]
            ),
        ),
        spend=spend,
        verdicts={verdict.value: sum(row.verdict is verdict for row in done) for verdict in Verdict},
        reasons=dict(Counter(row.outcome for row in done).most_common()),
        baseline=standing.baseline_score,
        incumbent=standing.incumbent,
        incumbent_score=standing.incumbent_score,
        final=standing.final,
        state=state,
        isolation=isolation_statement(facts),
        started_at=observed.started_at,
        now=now,
        finished=finished,
        running=sum(trial.phase is TrialPhase.RUNNING for trial in observed.trials),
        eta_seconds=0.0 if finished else _eta(facts, observed, standing, len(done), spend),
        candidates_decided=len(done),
        own_trials={number: tuple(trials) for number, trials in own.items()},
        decisive_trials={number: tuple(trials) for number, trials in decisive.items()},
    )


def _row(
    record: ExperimentRecord, trials: Sequence[TrialRecord], noise: float | None, standing: Standing, now: float
) -> Row:
    scored = [trial for trial in trials if trial.phase is TrialPhase.SCORED]
    speeds = [speed for trial in scored if (speed := finite(trial.tokens_per_second)) is not None]
    peaks = [peak for trial in trials if (peak := trial.peak_vram_bytes or trial.peak_memory_bytes) is not None]
    ablation = record.kind is ExperimentKind.ABLATION
    score = finite(record.val_bpb)
    if score is None and record.verdict is not Verdict.INVALID:
        wanted = (Purpose.FINAL,) if ablation else tuple(p for p in Purpose if p is not Purpose.FINAL)
        score = _mean(trial.val_bpb for trial in scored if trial.purpose in wanted)
    delta = finite(record.delta)
    refused = record.refused
    return Row(
        number=record.number,
        kind=record.kind,
        phase=record.phase if record.verdict is not None else standing.phases.get(record.number, record.phase),
        verdict=record.verdict,
        reason=record.reason,
        title=record.title,
        hypothesis=record.hypothesis,
        message=record.message or (refused[1] if refused is not None else ""),
        detail=next((trial.detail for trial in trials if trial.phase is TrialPhase.INVALID and trial.detail), ""),
        proposer=record.proposer,
        val_bpb=score,
        split="test" if ablation else "val",
        delta=delta,
        delta_error=finite(record.delta_error),
        noise_units=delta / noise if delta is not None and noise else None,
        trials=sum(trial.finished for trial in trials),
        seconds=sum(_seconds(trial, now) for trial in trials),
        tokens_per_second=median(speeds) if speeds else None,
        peak_memory_bytes=max(peaks, default=None),
        commit=record.landed_commit or record.commit,
        base=record.base,
        sources=record.sources,
        changes=record.changes,
        curve=next((trial.curve for trial in trials if trial.curve), ()),
    )


def _steps(
    experiments: Sequence[ExperimentRecord],
    own: Mapping[int, Sequence[TrialRecord]],
    noise: float | None,
    degrees: int,
) -> tuple[Step, ...]:
    """The staircase. Runs that decided are left out where others exist: a winner's own runs flatter it."""
    steps = []
    for record in experiments:
        accepted = record.verdict is Verdict.ACCEPTED and record.kind is not ExperimentKind.ABLATION
        if record.number != 0 and not accepted:
            continue
        scored = [trial for trial in own.get(record.number, ()) if trial.phase is TrialPhase.SCORED]
        clean_runs = _finite(trial.val_bpb for trial in scored if trial.purpose in _REPORTED)
        runs = clean_runs or _finite(trial.val_bpb for trial in scored if trial.purpose is Purpose.CONFIRM)
        if not runs:
            continue
        mean = fmean(runs)
        error = (noise or 0.0) / math.sqrt(len(runs))
        reach = confidence_factor(degrees) * error
        steps.append(
            Step(
                number=record.number,
                title=record.title,
                score=Interval(mean, error, len(runs)),
                low=mean - reach,
                high=mean + reach,
                provisional=not clean_runs,
            )
        )
    return tuple(steps)


def _spend(facts: RunFacts, trials: Iterable[TrialRecord], now: float) -> Spend:
    tiers = {tier.name: tier for tier in facts.tiers}
    count = starved = lost = 0
    slot_seconds = gpu_hours = 0.0
    cpu_seconds: float | None = None
    dollars: float | None = 0.0
    for trial in trials:
        count += 1
        starved += trial.phase is TrialPhase.STARVED
        lost += trial.phase is TrialPhase.LOST
        seconds = _seconds(trial, now)
        slot_seconds += seconds
        if finite(trial.cpu_seconds) is not None:
            cpu_seconds = (cpu_seconds or 0.0) + (trial.cpu_seconds or 0.0)
        tier = tiers.get(trial.tier)
        if tier is not None and tier.gpus:
            gpu_hours += tier.gpus * seconds / 3600
            price = tier.price_per_gpu_hour
            known = dollars is not None and price is not None
            dollars = (dollars or 0.0) + tier.gpus * seconds / 3600 * (price or 0.0) if known else None
    return Spend(count, slot_seconds, cpu_seconds, gpu_hours, dollars, starved, lost)


def _eta(facts: RunFacts, observed: Observed, standing: Standing, done: int, spend: Spend) -> float | None:
    """Seconds until the end at the pace so far, the final comparison included; None before three candidates."""
    limit = standing.decided_limit if standing.decided_limit is not None else facts.experiments_limit
    if limit is None or done < 3 or spend.trials == 0:
        return None
    per_candidate = spend.slot_seconds / done
    per_trial = spend.slot_seconds / spend.trials
    final_runs = final_trials(standing.accepted)
    final_done = sum(trial.purpose is Purpose.FINAL and trial.finished for trial in observed.trials)
    rest = max(0, limit - done) * per_candidate + max(0, final_runs - final_done) * per_trial
    return rest / max(1, observed.slots)


def final_trials(accepted: int) -> int:
    """Trials of the final comparison after so many accepted edits: both sides, and each edit left out when several."""
    ablations = accepted * ABLATION_RUNS if accepted > 1 else 0
    return 2 * FINAL_RUNS + ablations if accepted else 0


def _seconds(trial: TrialRecord, now: float) -> float:
    end = trial.finished_at if trial.finished_at is not None else now
    # A clock that was set back must not make a spend shrink.
    return max(0.0, end - trial.started_at) if trial.started_at > 0 else 0.0


def _finite(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None and math.isfinite(value)]


def _mean(values: Iterable[float | None]) -> float | None:
    kept = _finite(values)
    return fmean(kept) if kept else None


def effects_by_number(summary: RunSummary) -> dict[int, Effect]:
    """Leave-one-out results by accepted experiment."""
    return {effect.number: effect for effect in summary.final.effects} if summary.final is not None else {}
