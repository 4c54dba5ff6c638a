"""The end of a run: baseline and head on the hidden test split, and what each accepted edit is worth there.

Baseline and head get five runs each on the same fresh seeds. With two accepted edits or more, every edit is also taken
out of the head by itself and the rest is run once; with one, the difference between head and baseline is its effect.
With none there is nothing to compare. These runs decide nothing but how the result is reported, and no decision has
used their split, so the figures are free of the winner's curse.

Effects use the noise of the whole run, the final groups included: the spread comes from training seeds, which both
splits share, and five runs alone would make wide intervals out of a well-known figure.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from autoresearch_operator.api.reasons import ExperimentKind, Verdict, VerdictReason
from autoresearch_operator.research.decide import Wait
from autoresearch_operator.research.fold import Fold
from autoresearch_operator.research.measure import (
    ABLATION_RUNS,
    FINAL_RUNS,
    Measured,
    Need,
    State,
    Trials,
    reason_of,
)
from autoresearch_operator.research.noise import NoisePool, mean, t_quantile
from autoresearch_operator.research.records import (
    CandidateWanted,
    Decision,
    Effect,
    ExperimentRecord,
    FinalComparison,
    Interval,
    Purpose,
)


@dataclass(frozen=True, slots=True)
class FinalStage:
    """What is missing of the final comparison, and what it shows so far."""

    candidates: tuple[CandidateWanted, ...] = ()
    needs: tuple[Need, ...] = ()
    comparison: FinalComparison | None = None
    complete: bool = False


def decide_ablation(record: ExperimentRecord, trials: Trials) -> Decision | Wait:
    """A measurement's end, not an acceptance: Rejected/Measured with the head's gain over it as a negative delta."""
    if record.refused is not None:
        reason, message = record.refused
        return Decision(record.number, Verdict.INVALID, reason, message)
    own = _final_runs(trials, record.number, ABLATION_RUNS)
    head = _final_runs(trials, record.base, FINAL_RUNS)
    if not all(measured.settled for measured in own + head):
        return Wait(tuple(measured.need for measured in head + own if measured.need))
    for measured in own:
        if measured.state is not State.SCORED:
            reason = VerdictReason.INFRASTRUCTURE if measured.state is State.LOST else reason_of(measured.trial)
            why = measured.trial.message if measured.trial and measured.trial.message else reason.value
            return Decision(record.number, Verdict.INVALID, reason, f"Without the edit there is no score: {why}")
    score, known = mean([measured.score for measured in own]), _scores(head)
    delta = mean(known) - score if known else None
    message = f"Without the edit, the test split takes {score:.5f} bits per byte (runs: {len(own)})."
    return Decision(record.number, Verdict.REJECTED, VerdictReason.MEASURED, message, score, delta)


def final_stage(fold: Fold, trials: Trials, experiments: Sequence[ExperimentRecord]) -> FinalStage:
    """The final comparison of the present head with the baseline. Ablations wanted are numbered from the next one."""
    head = fold.incumbent
    if not fold.accepted:
        return FinalStage(complete=True)
    taken_out = fold.accepted if len(fold.accepted) > 1 else []
    ablations = {
        record.sources[0]: record
        for record in experiments
        if record.kind is ExperimentKind.ABLATION and record.base == head and record.sources
    }
    missing = [number for number in taken_out if number not in ablations]
    candidates = tuple(
        CandidateWanted(len(experiments) + place, ExperimentKind.ABLATION, head, sources=(number,))
        for place, number in enumerate(missing)
    )
    base_runs, head_runs = _final_runs(trials, 0, FINAL_RUNS), _final_runs(trials, head, FINAL_RUNS)
    own_runs = {
        number: [] if ablations[number].refused else _final_runs(trials, ablations[number].number, ABLATION_RUNS)
        for number in taken_out
        if number in ablations
    }
    ordered = [measured for pair in zip(base_runs, head_runs, strict=True) for measured in pair]
    ordered += [measured for runs in own_runs.values() for measured in runs]
    complete = not candidates and all(measured.settled for measured in ordered)
    base, best = _scores(base_runs), _scores(head_runs)
    comparison = None
    if base and best:
        pool = _with_groups(fold.pool, [base, best, *(_scores(runs) for runs in own_runs.values())])
        if taken_out:
            effects = tuple(
                _effect(
                    number, _scores(own_runs.get(number, [])), best, pool, _why_not(ablations.get(number), own_runs)
                )
                for number in taken_out
            )
        else:
            effects = (_effect(head, base, best, pool, ""),)
        comparison = FinalComparison(_interval(base, pool), _interval(best, pool), effects, complete)
    needs = tuple(measured.need for measured in ordered if measured.need)
    return FinalStage(candidates, needs, comparison, complete)


def _effect(number: int, without: list[float], head: list[float], pool: NoisePool, why_not: str) -> Effect:
    sd = pool.sd
    if not without or why_not:
        return Effect(number, math.nan, math.nan, None, why_not or "Not measured yet.")
    delta = mean(without) - mean(head)
    if sd is None:
        return Effect(number, delta, math.inf, None, "The noise is unknown.")
    error = sd * math.sqrt(1 / len(without) + 1 / len(head))
    reach = t_quantile(0.025, pool.degrees) * error
    helps = True if delta > reach else False if delta < -reach else None
    words = {True: "it helps", False: "it harms", None: "the runs do not tell"}[helps]
    return Effect(number, delta, error, helps, f"{delta:+.5f} ± {reach:.5f} (95 %): {words}.")


def _why_not(record: ExperimentRecord | None, own_runs: dict[int, list[Measured]]) -> str:
    """Why there is no figure for an edit that was, or was to be, taken out; empty when there is one or will be."""
    if record is None:
        return ""
    if record.refused is not None:
        return f"The edit could not be taken out by itself: {record.refused[1]}"
    for measured in own_runs.get(record.sources[0], ()):
        if measured.state is State.INVALID:
            why = measured.trial.message if measured.trial and measured.trial.message else "no message"
            return f"Without the edit the script gives no score, so later edits rest on it: {why}"
        if measured.state is State.LOST:
            return "The runs without the edit were lost to faults of the machine."
    return ""


def _final_runs(trials: Trials, experiment: int, runs: int) -> list[Measured]:
    return [trials.measured(Purpose.FINAL, experiment, experiment, index) for index in range(runs)]


def _scores(runs: Iterable[Measured]) -> list[float]:
    return [measured.score for measured in runs if measured.state is State.SCORED]


def _with_groups(pool: NoisePool, groups: Iterable[list[float]]) -> NoisePool:
    for group in groups:
        pool = pool.with_group(group) if group else pool
    return pool


def _interval(scores: list[float], pool: NoisePool) -> Interval:
    sd = pool.sd
    return Interval(mean(scores), sd / math.sqrt(len(scores)) if sd is not None else math.inf, len(scores))
