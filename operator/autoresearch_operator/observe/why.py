"""Why an experiment has the verdict it has, in words with figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from autoresearch_operator.api.reasons import ExperimentKind, Verdict, VerdictReason
from autoresearch_operator.observe.summary import Row, RunSummary, effects_by_number
from autoresearch_operator.observe.text import MISSING, bpb, clean, plural, signed, with_error
from autoresearch_operator.research.accept import Rules, runs_to_decide
from autoresearch_operator.research.noise import NoisePool, t_quantile
from autoresearch_operator.research.records import Purpose, TrialPhase

MANY_TRIALS = 400


@dataclass(frozen=True, slots=True)
class Look:
    """One look at fresh runs side by side, seen with the noise known now."""

    runs: int
    """Runs on each side."""
    gain: float
    error: float
    t: float
    needed: float
    """The t that this look asks for."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """`headline` is one line; `sentences` the figures behind it; `more` what further runs could do."""

    headline: str
    sentences: tuple[str, ...]
    looks: tuple[Look, ...]
    more: str


def looks_of(summary: RunSummary, row: Row) -> tuple[Look, ...]:
    """The looks whose runs are all in, first to last."""
    ours: dict[int, float] = {}
    theirs: dict[int, float] = {}
    for trial in summary.decisive_trials.get(row.number, ()):
        side = {Purpose.CONFIRM: ours, Purpose.REFERENCE: theirs}.get(trial.purpose)
        if side is not None and trial.phase is TrialPhase.SCORED and trial.val_bpb is not None:
            side[trial.key.seed] = trial.val_bpb
    seeds = sorted(ours.keys() & theirs.keys())
    noise, degrees = summary.noise.sd, summary.noise.degrees
    if noise is None or degrees < 1:
        return ()
    looks = []
    rules = _rules(summary, row)
    for index, runs in enumerate(rules.looks):
        if runs > len(seeds):
            break
        first = [ours[seed] for seed in seeds[:runs]]
        other = [theirs[seed] for seed in seeds[:runs]]
        gain = fmean(other) - fmean(first)
        own = stdev(first) if runs > 1 else 0.0
        error = math.sqrt((noise**2 + max(noise, own) ** 2) / runs)
        looks.append(
            Look(runs, gain, error, gain / error if error else math.inf, t_quantile(rules.alpha(index), degrees))
        )
    return tuple(looks)


def explain(summary: RunSummary, row: Row) -> Explanation:
    """The verdict of one experiment in words. Works at any phase and with any figure missing."""
    looks = looks_of(summary, row)
    sentences: list[str] = []
    if row.kind is ExperimentKind.COMBINATION and row.sources:
        sentences.append("It combines the edits of " + _numbers(row.sources) + ".")
    screen = _screen_sentence(summary, row)
    if screen:
        sentences.append(screen)
    if row.message:
        sentences.append(f"On record: {clean(row.message, 600)}")
    # The record holds the figures that decided. The noise is better known now, so these can differ a little.
    sentences.extend(_look_sentence(look) for look in looks)
    effect = effects_by_number(summary).get(row.number)
    if effect is not None:
        figure = with_error(effect.delta, effect.error)
        words = clean(effect.message, 300) if figure == MISSING else f"{figure} ({helps_words(effect.helps)})."
        sentences.append(f"Left out of the final version, on the hidden split: {words}")
    return Explanation(_headline(row), tuple(sentences), looks, _more_runs(summary, row, looks))


def helps_words(helps: bool | None) -> str:
    """A leave-one-out result in words."""
    return {True: "still helps", False: "does not help", None: "cannot tell"}[helps]


_HEADLINES = {
    VerdictReason.IMPROVED: "Accepted: on fresh runs alone it beats the incumbent by more than chance would.",
    VerdictReason.NOT_BETTER: "Rejected: the first run did not beat the incumbent by one noise unit.",
    VerdictReason.NOT_SIGNIFICANT: "Rejected: the first run looked better, the fresh runs beside the incumbent "
    "could not show that it was more than chance.",
    VerdictReason.SUPERSEDED: "Set aside: it passed against an older incumbent, and its edit is measured again on "
    "the new one as a Combination.",
    VerdictReason.NOT_MEASURED: "Left open: the run ended before it had the runs that a decision needs.",
    VerdictReason.MEASURED: "Measured for comparison, not for acceptance.",
    VerdictReason.IMPLAUSIBLE: "Held for a person: the score is too good to be believed.",
    VerdictReason.DUPLICATE: "Invalid: the same code was measured before.",
    VerdictReason.NOT_CAUSAL: "Invalid: the model looks at tokens that come after the one it predicts.",
}


def _headline(row: Row) -> str:
    if row.reason is None:
        return f"No verdict yet: {row.phase.value.lower()}."
    known = _HEADLINES.get(row.reason)
    if known is not None:
        return known
    detail = f" ({clean(row.detail, 60)})" if row.detail else ""
    verdict = row.verdict.value if row.verdict is not None else "Undecided"
    return f"{verdict}: {row.reason.value}{detail}."


def _screen_sentence(summary: RunSummary, row: Row) -> str:
    screen = next(
        (
            trial
            for trial in summary.own_trials.get(row.number, ())
            if trial.purpose is Purpose.SCREEN and trial.phase is TrialPhase.SCORED and trial.val_bpb is not None
        ),
        None,
    )
    if screen is None or screen.val_bpb is None:
        return ""
    words = f"The first run scored {bpb(screen.val_bpb)} bits per byte"
    confirmed = any(trial.purpose is Purpose.CONFIRM for trial in summary.decisive_trials.get(row.number, ()))
    if confirmed or row.reason is VerdictReason.SUPERSEDED:
        return (
            words
            + ", better than the incumbent by at least one noise unit, so it was confirmed and that run thrown away."
        )
    if row.delta is None:
        return words + "."
    side = "better" if row.delta > 0 else "worse"
    units = "" if row.noise_units is None else f" ({abs(row.noise_units):.1f} noise units)"
    needed = "" if summary.noise.sd is None else f"; {_threshold(summary):.4f} better was needed to go on"
    return f"{words}: {abs(row.delta):.4f}{units} {side} than the mean of the incumbent's latest runs{needed}."


def _look_sentence(look: Look) -> str:
    verdict = "enough" if look.t >= look.needed and look.gain > 0 else "not enough"
    return (
        f"With the noise known now, {look.runs} fresh runs on each side show a gain of {signed(look.gain)} ± "
        f"{look.error:.4f}, t = {look.t:.2f} where {look.needed:.2f} is needed: {verdict}."
    )


def _more_runs(summary: RunSummary, row: Row, looks: Sequence[Look]) -> str:
    """How many further runs would decide, if the true gain were what was seen."""
    noise, degrees = summary.noise.sd, summary.noise.degrees
    if row.verdict is Verdict.ACCEPTED or row.kind is ExperimentKind.BASELINE:
        return ""
    if row.verdict is Verdict.INVALID:
        return "More runs would not help: a valid score is missing, not precision."
    if row.kind is ExperimentKind.ABLATION or noise is None or degrees < 1:
        return ""
    gain = looks[-1].gain if looks else row.delta
    return "" if gain is None else _further(summary, row, gain, looks[-1].runs if looks else 0, noise)


def _further(summary: RunSummary, row: Row, gain: float, done: int, noise: float) -> str:
    degrees = summary.noise.degrees
    pool = NoisePool(noise * noise * degrees, degrees)
    # A thousandth of the noise would take millions of runs; smaller still, the figure overflows.
    further = MANY_TRIALS + 1 if 0 < gain < noise / 1000 else runs_to_decide(gain, pool, _rules(summary, row), done)
    if further is None:
        return "More runs would not help unless the runs so far were unlucky: what they show is no improvement."
    if further == 0:
        return "It is at the edge: a few more runs on each side would decide."
    if further > MANY_TRIALS:
        return f"If the gain seen is the true one, more than {MANY_TRIALS} further trials would be needed to show it."
    return (
        f"If the gain seen ({signed(gain)}) is the true one, about {plural(further, 'further trial')}, half of them of "
        "the incumbent, would show it."
    )


def _threshold(summary: RunSummary) -> float:
    return max(summary.facts.rules.min_improvement, summary.noise.sd or 0.0)


def _rules(summary: RunSummary, row: Row) -> Rules:
    rules = summary.facts.rules
    return rules.rebased() if row.kind is ExperimentKind.COMBINATION and _skips_screen(summary, row) else rules


def _skips_screen(summary: RunSummary, row: Row) -> bool:
    """A rebased winner is confirmed at two looks only, and has no screen run."""
    return not any(trial.purpose is Purpose.SCREEN for trial in summary.own_trials.get(row.number, ()))


def _numbers(numbers: Sequence[int]) -> str:
    return ", ".join(f"#{number}" for number in numbers)


def purpose_words(purpose: Purpose, subject: int) -> str:
    """Why a trial was run, in two or three words."""
    return {
        Purpose.BASELINE: "baseline run",
        Purpose.SCREEN: "first run",
        Purpose.CONFIRM: "fresh run",
        Purpose.REFERENCE: f"incumbent beside #{subject}",
        Purpose.REFRESH: "new incumbent's run",
        Purpose.FINAL: "final run on the hidden split",
    }[purpose]
