"""When a trial has to end, and what it came to: one set of rules for local mode and for pods.

The referee knows the terms and what the gate saw; it is told how the candidate ended or which limit it passed. It
touches no process and no file.
"""

from . import classify
from .clock import Clock, wall
from .fields import Terms
from .gate import Gate
from .result import SCORED, TrialResult

HAND_OVER_GRACE_SECONDS = 10.0
"""How long a script may go on after its model has arrived, to print a summary."""
_OVERRUN = 1.0
"""How far past its budget, in the budget's unit, a model may arrive: one batch and the hand-over."""


class Referee:
    """Decides one trial. `began` is when the candidate started, by `clock.wall`."""

    def __init__(self, terms: Terms, gate: Gate, clock: Clock, began: float) -> None:
        self._terms = terms
        self._gate = gate
        self._clock = clock
        self._began = began
        self._leave_by: float | None = None
        self.ending: classify.Ending | None = None
        """How the candidate ended, once it has, or may be taken to have."""
        self.forced: classify.Failure | None = None
        """Why it has to be ended."""

    @property
    def decided(self) -> bool:
        """Whether nothing that the candidate may still do matters."""
        return self.ending is not None or self.forced is not None

    def look(self, now: float) -> None:
        """Checks every allowance against the clocks."""
        terms, account = self._terms, self._gate.account
        if account.handed_over:
            if self._leave_by is None:
                self._leave_by = now + HAND_OVER_GRACE_SECONDS
            if now > self._leave_by:
                self.ending = classify.Ending(code=0)
            return
        if account.started_wall is None:
            self._check_startup(now)
            return
        budget, backstop = terms.budget, terms.budget.wall_backstop_seconds
        # A script that scores itself does so after its last batch; it gets the start-up allowance once more for that.
        scoring = terms.self_reported and self._gate.ended
        if scoring:
            backstop += terms.startup_seconds
        if budget.kind != "steps" and not scoring and self._gate.spent() > budget.amount + _OVERRUN:
            self.forced = self._overrun(self._gate.spent())
        elif now - account.started_wall > backstop:
            self.forced = classify.Failure(
                "Timeout",
                "Backstop",
                f"The budget of {budget.amount:g} {budget.kind} was not used up after {backstop:g} s of wall time.",
            )

    def _check_startup(self, now: float) -> None:
        terms = self._terms
        allowed = terms.startup_seconds
        if terms.self_reported:
            allowed += terms.budget.wall_backstop_seconds
        if now - self._began > allowed:
            self.forced = classify.Failure(
                "Timeout",
                "Startup",
                f"The clock had not started {allowed:g} s after the script began; the third batch starts it.",
            )

    def _overrun(self, spent: float) -> classify.Failure:
        budget = self._terms.budget
        used = f"{spent:.2f} of {budget.amount:g} {budget.kind} had been used (1 more is allowed)"
        return classify.Failure("Timeout", "Budget", f"{used} and no model was complete.")

    def record(self, result: TrialResult) -> None:
        """Writes what the gate counted and the clocks read into result; the tree must have ended."""
        account = self._gate.account
        result.steps, result.train_tokens, result.curve = account.steps, account.train_tokens, account.curve
        result.artifact_sha256 = account.artifact_sha256
        result.peak_vram_bytes = min(account.device_bytes, 1 << 50) or None
        if account.started_wall is None:
            return
        result.startup_seconds = account.started_wall - self._began
        stopped = account.stopped_wall if account.stopped_wall is not None else wall()
        result.train_seconds = stopped - account.started_wall
        used = account.stopped_cpu if account.handed_over else self._clock.scan()
        result.cpu_seconds = max(0.0, used - account.started_cpu)
        spent = result.cpu_seconds if self._terms.budget.kind == "cpuSeconds" else result.train_seconds
        result.tokens_per_second = account.train_tokens / spent if spent > 0 else None

    def conclude(self, result: TrialResult, output: str, score: float | None) -> bool:
        """Writes the outcome into result, after `record`; True when there is a model that the judge has to score.

        output: the end of what the candidate printed. score: the last val_bpb it printed, for SelfReported trials.
        """
        account, budget = self._gate.account, self._terms.budget
        failure = self.forced
        if failure is None and account.handed_over and account.started_wall is not None and budget.kind != "steps":
            spent = (result.cpu_seconds if budget.kind == "cpuSeconds" else result.train_seconds) or 0.0
            if spent > budget.amount + _OVERRUN:
                failure = self._overrun(spent)
        if failure is None and account.artifact_problem:
            failure = classify.Failure("ArtifactRefused", *account.artifact_problem)
        if failure is not None:
            result.fail(failure)
        elif self._terms.self_reported:
            self._take_word(result, output, score)
        elif account.handed_over:
            return True
        else:
            ending = self.ending or classify.Ending(code=0)
            result.fail(classify.why(ending, output, account.last_loss, account.problem))
        return False

    def _take_word(self, result: TrialResult, output: str, score: float | None) -> None:
        """The score of a SelfReported trial: the last val_bpb line, if the script ended well."""
        ending = self.ending or classify.Ending()
        if ending.code == 0 and score is not None:
            result.outcome, result.val_bpb = SCORED, score
            result.message = "The script's own figure; nothing checked it."
        elif ending.code == 0:
            text = "The script ended without a line `val_bpb: <number>`."
            result.fail(classify.Failure("NoArtifact", "NoScore", text))
        else:
            result.fail(classify.why(ending, output, None, None))
