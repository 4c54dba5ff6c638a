"""The verdict on the one experiment whose turn it is, or the runs that it waits for.

Runs are read in a fixed order (candidate's first seed, incumbent's first seed, candidate's second, …) and a failure
decides only when everything before it in that order is known. So the reason on record is the same whichever slot
was faster, and no run is started that stands behind a known failure.
"""

from __future__ import annotations

from dataclasses import dataclass

from autoresearch_operator.api.reasons import ExperimentKind, Verdict, VerdictReason
from autoresearch_operator.research.accept import IMPLAUSIBLE_RATIO, INCUMBENT_RUNS, Look, Outcome, Rules, look, screen
from autoresearch_operator.research.fold import Fold, is_rebase
from autoresearch_operator.research.measure import (
    BASELINE_RUNS,
    MAX_LOST,
    REFRESH_RUNS,
    Measured,
    Need,
    State,
    Trials,
    reason_of,
)
from autoresearch_operator.research.noise import mean
from autoresearch_operator.research.records import Decision, ExperimentRecord, Purpose
from autoresearch_operator.research.terms import AUDITED_PAIRS_TO_LAND


@dataclass(frozen=True, slots=True)
class Wait:
    """No verdict yet. `needs` are the runs to start, in order; empty while they are running."""

    needs: tuple[Need, ...] = ()
    confirming: bool = False


def decide_baseline(trials: Trials) -> Decision | Wait:
    """Five runs of the unedited source; any failure among them is final, because nothing could be compared."""
    needs: list[Need] = []
    scores: list[float] = []
    waiting = False
    for index in range(BASELINE_RUNS):
        measured = trials.measured(Purpose.BASELINE, 0, 0, index)
        if not measured.settled:
            waiting = True
            needs += [measured.need] if measured.need else []
        elif measured.state is State.SCORED:
            scores.append(measured.score)
        elif waiting:
            break
        else:
            return _failed(0, measured, "The unedited source")
    if waiting:
        return Wait(tuple(needs))
    message = f"Mean of {BASELINE_RUNS} runs: {mean(scores):.5f} bits per byte."
    return Decision(0, Verdict.REJECTED, VerdictReason.MEASURED, message, mean(scores))


def refresh_needs(trials: Trials, number: int) -> Wait | None:
    """What is missing of a new incumbent's two runs of its own; None when they are settled.

    A refresh run that fails gives no score and is not made again: the same seed would fail again.
    """
    found = [trials.measured(Purpose.REFRESH, number, number, index) for index in range(REFRESH_RUNS)]
    if all(measured.settled for measured in found):
        return None
    return Wait(tuple(measured.need for measured in found if measured.need))


def screen_of(trials: Trials, record: ExperimentRecord) -> Measured | None:
    """A candidate's screening run; None for one that gets no such run."""
    if record.refused is not None or is_rebase(record):
        return None
    if record.kind not in (ExperimentKind.PROPOSAL, ExperimentKind.COMBINATION):
        return None
    return trials.measured(Purpose.SCREEN, record.number, record.number, 0)


def decide_candidate(record: ExperimentRecord, fold: Fold, over: str) -> Decision | Wait:
    """The verdict on a proposal or a combination, all earlier verdicts being in `fold`.

    `over` is empty while the run goes on. Otherwise it says why the run is over, and nothing new begins: a
    confirmation under way is finished, what has not come so far is Rejected with NotMeasured.
    """
    number = record.number
    if record.refused is not None:
        reason, message = record.refused
        return Decision(number, Verdict.INVALID, reason, message)
    if is_rebase(record):
        if record.base == fold.incumbent:
            return _confirm(record, fold, fold.terms.rules.rebased(), over)
        message = f"Experiment {fold.incumbent} landed before it was measured: it is put on that one in turn."
        gain = fold.gains.get(record.sources[0])
        return Decision(number, Verdict.REJECTED, VerdictReason.SUPERSEDED, message, delta=gain)
    return _screened(record, fold, over)


def confirm_ahead(record: ExperimentRecord, fold: Fold) -> tuple[Need, ...]:
    """Confirmation runs that this candidate will need if nothing lands before its turn; to be made on idle slots.

    A guess from what is known now. It moves no verdict: at its turn the candidate is decided as if these runs had
    been started then, and runs beyond the deciding look are never counted. A rebase is not confirmed ahead, because
    one that moved on before it ran is free.
    """
    if record.base != fold.incumbent or screen_of(fold.trials, record) is None:
        return ()
    guess = _screened(record, fold, "")
    return guess.needs if isinstance(guess, Wait) and guess.confirming else ()


def _screened(record: ExperimentRecord, fold: Fold, over: str) -> Decision | Wait:
    number, rules = record.number, fold.terms.rules
    measured = fold.trials.measured(Purpose.SCREEN, number, number, 0)
    if not measured.settled:
        if over and measured.state is State.NEEDED:
            return _not_measured(number, "its first run", over)
        return Wait((measured.need,) if measured.need else ())
    if problem := _problem(number, measured, fold):
        return problem
    score, current = measured.score, record.base == fold.incumbent
    # A winner's gain is what it gained over the code that it was made from; only that was tried.
    found = screen(score, fold.runs.get(record.base, ()), fold.pool, rules)
    whom = "the incumbent" if current else f"its base (experiment {record.base})"
    starved = " (on a slowed machine, every time)" if measured.starved else ""
    if not found.passes:
        side = "better" if found.gain > 0 else "worse"
        message = (
            f"One run scored {score:.5f}{starved}, {abs(found.gain):.5f} {side} than the mean of {found.runs} runs of "
            f"{whom}; {found.needed:.5f} better was needed."
        )
        return Decision(number, Verdict.REJECTED, VerdictReason.NOT_BETTER, message, score, found.gain, found.error)
    if not current:
        then = f"the run ends before it is put on that one ({over})" if over else "it is put on that one in turn"
        message = (
            f"One run scored {score:.5f}{starved}, {found.gain:.5f} better than {whom}, and experiment "
            f"{fold.incumbent} has landed since: {then}."
        )
        return Decision(number, Verdict.REJECTED, VerdictReason.SUPERSEDED, message, score, found.gain, found.error)
    return _confirm(record, fold, rules, over)


def _confirm(record: ExperimentRecord, fold: Fold, rules: Rules, over: str) -> Decision | Wait:
    number = record.number
    if over and not fold.trials.started(number, Purpose.CONFIRM, Purpose.REFERENCE):
        return _not_measured(number, "its confirmation", over)
    for index, runs in enumerate(rules.looks):
        found = _read_pairs(number, fold, runs)
        if not isinstance(found, _Pairs):
            return found
        result = look(found.mine, found.theirs, fold.pool, index, rules)
        if result.outcome is Outcome.ACCEPT:
            return _accepted(number, found, result)
        if result.outcome is Outcome.DROP:
            figures = mean(found.mine), result.difference, result.error
            return Decision(number, Verdict.REJECTED, VerdictReason.NOT_SIGNIFICANT, result.message, *figures)
    raise AssertionError("the last look always decides, because Rules.drop_below is infinite there")


@dataclass(frozen=True, slots=True)
class _Pairs:
    """All runs of a look."""

    mine: list[float]
    theirs: list[float]
    audited: int
    """Audited pairs of the candidate's runs."""


def _read_pairs(number: int, fold: Fold, runs: int) -> _Pairs | Decision | Wait:
    """The runs of a look, or the verdict that a failed one forces, or what is still missing."""
    mine: list[float] = []
    theirs: list[float] = []
    needs: list[Need] = []
    waiting, audited = False, 0
    for seed in range(runs):
        confirm = fold.trials.measured(Purpose.CONFIRM, number, number, seed)
        reference = fold.trials.measured(Purpose.REFERENCE, fold.incumbent, number, seed)
        for measured, scores in ((confirm, mine), (reference, theirs)):
            if not measured.settled:
                waiting = True
                needs += [measured.need] if measured.need else []
                continue
            own = scores is mine
            problem = _problem(number, measured, fold) if own else _lost_reference(number, measured)
            if problem is not None:  # nothing behind a known failure is worth starting
                return Wait(tuple(needs), confirming=True) if waiting else problem
            scores.append(measured.score)
            audited += measured.trial.audit_pairs if own and measured.trial else 0
    return Wait(tuple(needs), confirming=True) if waiting else _Pairs(mine, theirs, audited)


def _accepted(number: int, found: _Pairs, result: Look) -> Decision:
    score = mean(found.mine)
    if 0 < found.audited < AUDITED_PAIRS_TO_LAND:
        message = (
            f"Better by {result.difference:.5f}, but its confirmation runs passed only {found.audited} of the "
            f"{AUDITED_PAIRS_TO_LAND} audited pairs without which nothing lands: is the scored split too short?"
        )
        return Decision(number, Verdict.INVALID, VerdictReason.NOT_CAUSAL, message, score, result.difference)
    return Decision(
        number, Verdict.ACCEPTED, VerdictReason.IMPROVED, result.message, score, result.difference, result.error
    )


def _problem(number: int, measured: Measured, fold: Fold) -> Decision | None:
    """The verdict that one settled run of the candidate forces by itself, if any."""
    trial = measured.trial
    if measured.state is not State.SCORED or trial is None:
        return _failed(number, measured, "The candidate")
    limit = fold.terms.max_vram_bytes
    if limit is not None and trial.peak_vram_bytes is not None and trial.peak_vram_bytes > limit:
        message = f"It used {trial.peak_vram_bytes:,} bytes of device memory; the tier's maxVRAM is {limit:,}."
        return Decision(number, Verdict.INVALID, VerdictReason.VRAM_LIMIT, message, measured.score)
    known = fold.runs.get(fold.incumbent, ())[-INCUMBENT_RUNS:]
    if known and measured.score < IMPLAUSIBLE_RATIO * mean(known):
        message = (
            f"One run scored {measured.score:.5f}, under {IMPLAUSIBLE_RATIO:.0%} of the incumbent's "
            f"{mean(known):.5f}, so it is not landed by itself. Read its diff; if it is honest, put the commit on the "
            "source yourself and begin a new run from there."
        )
        return Decision(
            number, Verdict.INVALID, VerdictReason.IMPLAUSIBLE, message, measured.score, mean(known) - measured.score
        )
    return None


def _lost_reference(number: int, measured: Measured) -> Decision | None:
    if measured.state is State.SCORED:
        return None
    why = measured.trial.message if measured.trial and measured.trial.message else "no message"
    message = (
        f"The incumbent's run beside it gave no score in {MAX_LOST} attempts ({why}), so the two could not be "
        "compared. This is not held against the idea."
    )
    return Decision(number, Verdict.INVALID, VerdictReason.INFRASTRUCTURE, message)


def _failed(number: int, measured: Measured, who: str) -> Decision:
    trial = measured.trial
    why = trial.message if trial and trial.message else (trial.detail if trial else "")
    if measured.state is State.LOST:
        message = f"{who} could not be measured: {MAX_LOST} attempts at one run were lost. Last: {why or 'no message'}"
        return Decision(number, Verdict.INVALID, VerdictReason.INFRASTRUCTURE, message)
    reason = reason_of(trial)
    name = f" ({trial.detail})" if trial and trial.detail else ""
    message = why or f"{who} gave no score: {reason.value}{name}."
    return Decision(number, Verdict.INVALID, reason, message)


def _not_measured(number: int, what: str, over: str) -> Decision:
    return Decision(number, Verdict.REJECTED, VerdictReason.NOT_MEASURED, f"The run ended before {what} began: {over}.")
