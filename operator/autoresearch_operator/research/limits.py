"""When the search is over: target, candidates, time and money.

The number of candidates is kept by never asking for more, so every candidate in flight still gets its verdict. Time
and target end the search at once: running trials and a confirmation under way are finished, nothing else begins. The
final comparison comes after that and is not part of `duration`. Money is different: nobody wants a budget overspent,
so the runs of the final comparison and the rest of what is running are set aside before they are needed.
"""

from __future__ import annotations

from dataclasses import dataclass

from autoresearch_operator.api.reasons import CompleteReason
from autoresearch_operator.research.fold import Fold
from autoresearch_operator.research.measure import ABLATION_RUNS, FINAL_RUNS, Trials
from autoresearch_operator.research.records import Observed, Purpose
from autoresearch_operator.research.terms import Terms


@dataclass(frozen=True, slots=True)
class Over:
    reason: CompleteReason
    message: str


def over(terms: Terms, trials: Trials, fold: Fold, observed: Observed, now: float) -> Over | None:
    """Why nothing new may begin, or None. The number of candidates is not looked at here.

    In an order that a finished search cannot change by finishing: the clock goes on during the final comparison,
    so it is asked last.
    """
    return _target(terms, fold) or _money(terms, trials, fold, observed, now) or _time(terms, observed, now)


def gpu_hours(terms: Terms, trials: Trials, now: float, accepted: int) -> float:
    """GPU-hours spent by the search and bound to follow: the rest of running trials and the final comparison."""
    usual = trials.seconds / trials.search_finished if trials.search_finished else 0.0
    running = sum(max(usual, now - trial.started_at) for trial in trials.running if trial.purpose is not Purpose.FINAL)
    final = 0 if accepted == 0 else 2 * FINAL_RUNS + (ABLATION_RUNS * accepted if accepted > 1 else 0)
    return (trials.seconds + running + final * usual) * terms.gpus / 3600.0


def _target(terms: Terms, fold: Fold) -> Over | None:
    score = fold.score_of(fold.incumbent)
    if terms.target_bpb is None or score is None or score.mean > terms.target_bpb:
        return None
    return Over(
        CompleteReason.TARGET_REACHED,
        f"the incumbent scores {score.mean:.5f}, at or under limits.targetBPB {terms.target_bpb:g}",
    )


def _money(terms: Terms, trials: Trials, fold: Fold, observed: Observed, now: float) -> Over | None:
    if terms.gpu_hours is None and terms.dollars is None:
        return None
    hours = gpu_hours(terms, trials, now, len(fold.accepted))
    if terms.gpu_hours is not None and hours >= terms.gpu_hours:
        return Over(
            CompleteReason.BUDGET_SPENT,
            f"{hours:.2f} of {terms.gpu_hours:g} GPU-hours are spent or set aside for the final comparison",
        )
    dollars = hours * (terms.price_per_gpu_hour or 0.0) + observed.proposal_dollars
    if terms.dollars is not None and dollars >= terms.dollars:
        return Over(
            CompleteReason.BUDGET_SPENT,
            f"{dollars:.2f} of {terms.dollars:g} dollars are spent or set aside for the final comparison",
        )
    return None


def _time(terms: Terms, observed: Observed, now: float) -> Over | None:
    if terms.duration_seconds is None or now - observed.started_at < terms.duration_seconds:
        return None
    return Over(
        CompleteReason.DURATION_LIMIT, f"limits.duration, {terms.duration_seconds:g} s, has passed since the run began"
    )
