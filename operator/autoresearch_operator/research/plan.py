"""What to do next, from everything observed: the one place where decisions are made.

`plan` is pure. It goes through the experiments in the order of their numbers, takes verdicts on record as they stand,
gives those that are due, and stops at the first experiment that needs more runs. Nothing depends on the order in
which runs ended, so the outcome never depends on which slot was faster:

- Candidate n is asked for when candidate n - W has its verdict (W = `Terms.lookahead`). Its base is the incumbent
  *after that verdict*, it may be shown no later one, and whether it is a proposal or a combination is settled then.
  Only when the proposers have run dry, or the number of candidates is used up, is it settled by a later verdict.
- Screening runs go ahead of their turn, and on slots that would idle even so do confirmation runs of candidates that
  passed and whose base is the incumbent. Neither moves a verdict; a landing in between makes the latter useless.
- A candidate accepted in this pass ends the pass: it must be on the branch before anything builds on it. Its two
  refresh runs come before the next verdict, so that they are part of the noise for all later ones alike.
- A run is said to be finished only in a pass that has no verdict left to write.
- A winner made on an older incumbent is Superseded and comes back as a combination, which has no run before its turn;
  superseded again, it costs nothing and does not count towards limits.experiments.
- Candidates proposed ahead of the baseline's verdict start screening only when no baseline run is left to start.

Starts come in this order: baseline, the confirmation under way (candidate and incumbent in turn), refresh runs,
screens by number, confirmations ahead of their turn; after the search the final comparison.
"""

from __future__ import annotations

import math
from dataclasses import replace

from autoresearch_operator.api.reasons import (
    CompleteReason,
    ExperimentKind,
    ExperimentPhase,
    FailedReason,
    ProgressingReason,
    Verdict,
)
from autoresearch_operator.api.run import ResearchRunSpec
from autoresearch_operator.research.decide import (
    Wait,
    confirm_ahead,
    decide_baseline,
    decide_candidate,
    refresh_needs,
    screen_of,
)
from autoresearch_operator.research.final import FinalStage, decide_ablation, final_stage
from autoresearch_operator.research.fold import Fold, is_rebase
from autoresearch_operator.research.limits import Over, over
from autoresearch_operator.research.measure import Need, Trials
from autoresearch_operator.research.records import (
    CandidateWanted,
    Decision,
    ExperimentRecord,
    Observed,
    Plan,
    Purpose,
    Standing,
    TrialKey,
    TrialStart,
)
from autoresearch_operator.research.terms import AUDIT_PAIRS, AUDITED_PAIRS_TO_LAND, Terms

_SEARCHED = (ExperimentKind.PROPOSAL, ExperimentKind.COMBINATION)


def plan(spec: ResearchRunSpec, observed: Observed, now: float) -> Plan:
    """Say what to do next. `now` is in seconds since the epoch and matters to limits.duration and to spend alone.

    Raises ValueError when `observed.experiments` has a gap: then the record is damaged, and going on would give
    numbers twice.
    """
    for place in (0, len(observed.experiments) - 1):
        if observed.experiments and observed.experiments[place].number != place:
            raise ValueError(
                f"Experiment {observed.experiments[place].number} stands in place {place} of the record: experiments "
                "must be in order of number and without gaps."
            )
    return _Pass(Terms.of(spec, observed), observed, now).run()


class _Pass:
    """One pass. The fields are what the pass has found out so far."""

    def __init__(self, terms: Terms, observed: Observed, now: float) -> None:
        self.terms, self.observed, self.now = terms, observed, now
        self.experiments = observed.experiments
        self.trials = Trials(observed.trials, terms)
        combined = [record for record in self.experiments if record.kind is ExperimentKind.COMBINATION]
        used = frozenset(number for record in combined for number in record.sources)
        self.fold = Fold(terms, self.trials, used)
        self.last_rebase = max((record.number for record in combined if is_rebase(record)), default=0)
        self.created = sum(1 for record in self.experiments if record.kind in _SEARCHED)
        self.next_number = len(self.experiments)
        self.wanted: list[CandidateWanted] = []
        self.decisions: list[Decision] = []
        self.needs: list[Need] = []
        self.over: Over | None = None
        self.halted = False
        """Nothing new may begin. Before `over` is settled, which waits for the verdict or refresh that blocks."""
        self.failed: FailedReason | None = None
        self.frontier = 0
        """The first experiment without a verdict, those of this pass included."""
        self.phase = ExperimentPhase.SCREENING
        """Of the frontier, when its runs have begun."""
        self.blocked = False
        """A verdict or a refresh run is waited for."""
        self.stage: FinalStage | None = None

    def run(self) -> Plan:
        if not self.experiments:
            self.wanted.append(CandidateWanted(0, ExperimentKind.BASELINE, 0))
            return self._finish()
        self._assign(-1)
        for record in self.experiments:
            if not self._step(record):
                break
        self._end_of_search()
        if self.failed is None and not self.halted:
            self._run_ahead()
        return self._finish()

    def _step(self, record: ExperimentRecord) -> bool:
        """Take one experiment into the fold; False when later ones must wait."""
        fold, number = self.fold, record.number
        if record.verdict is None:
            if self._has_failed():
                return False
            outcome = self._decide(record)
            if isinstance(outcome, Wait):
                self.blocked = True
                self.needs += outcome.needs
                if outcome.confirming:
                    self.phase = ExperimentPhase.CONFIRMING
                return False
            self.decisions.append(outcome)
            if outcome.verdict is Verdict.ACCEPTED:
                self.blocked = True
                self.phase = ExperimentPhase.LANDING
                return False
            record = replace(
                record, verdict=outcome.verdict, reason=outcome.reason, val_bpb=outcome.val_bpb, delta=outcome.delta
            )
        fold.apply(record)
        self.frontier = number + 1
        if record.verdict is Verdict.INVALID and record.kind is ExperimentKind.BASELINE:
            self.failed = FailedReason.BASELINE_FAILED
            return False
        self._assign(number)
        if record.verdict is Verdict.ACCEPTED:
            missing = refresh_needs(self.trials, number)
            later = self.experiments[number + 1] if number + 1 < len(self.experiments) else None
            if missing is not None and (later is None or later.verdict is None):
                self.blocked = True
                self.needs += missing.needs
                return False
            fold.apply_refresh(number)
        return True

    def _decide(self, record: ExperimentRecord) -> Decision | Wait:
        if record.kind is ExperimentKind.BASELINE:
            return decide_baseline(self.trials)
        if record.kind is ExperimentKind.ABLATION:
            return decide_ablation(record, self.trials)
        self._look_at_limits()
        return decide_candidate(record, self.fold, self.over.message if self.over else "")

    def _assign(self, moment: int) -> None:
        """Settle what the candidates are that may be asked for after verdict `moment`."""
        fold, terms = self.fold, self.terms
        while self.next_number - terms.lookahead <= moment:
            if self.created - fold.free >= terms.experiments:
                return
            exhausted = self.observed.exhausted
            sources = fold.take_combination(moment, rebasing=self.last_rebase > moment, hurry=exhausted)
            if not sources and exhausted:
                return
            if len(sources) == 1:
                self.last_rebase = self.next_number
            kind = ExperimentKind.COMBINATION if sources else ExperimentKind.PROPOSAL
            self.wanted.append(CandidateWanted(self.next_number, kind, fold.incumbent, moment, sources))
            self.next_number += 1
            self.created += 1

    def _has_failed(self) -> bool:
        if self.fold.failures >= self.terms.consecutive_failures:
            self.failed = FailedReason.CONSECUTIVE_FAILURES
        return self.failed is not None

    def _look_at_limits(self) -> None:
        if self.over is None:
            self.over = self._is_over()

    def _is_over(self) -> Over | None:
        return over(self.terms, self.trials, self.fold, self.observed, self.now)

    def _end_of_search(self) -> None:
        """When every candidate has its verdict and none is to come, compare baseline and head."""
        if self.failed is not None:
            return
        ablating = self.frontier < len(self.experiments) and (
            self.experiments[self.frontier].kind is ExperimentKind.ABLATION
        )
        if not self.blocked:
            if self._has_failed():
                return
            self._look_at_limits()
        self.halted = (self.over or self._is_over()) is not None
        if self.halted:
            self.wanted.clear()
        if ablating or not (self.blocked or self.wanted):
            self.stage = final_stage(self.fold, self.trials, self.experiments)
            self.needs += self.stage.needs
            if not self.wanted:
                self.wanted += self.stage.candidates

    def _run_ahead(self) -> None:
        """Screens of later candidates, and on slots that would idle even then the first look of those that passed.

        The confirmations of many candidates would else follow one another while most of a large machine waits.
        """
        later = [record for record in self.experiments[self.frontier :] if record.verdict is None]
        for record in later:
            measured = screen_of(self.trials, record)
            if measured is not None and measured.need is not None:
                self.needs.append(measured.need)
        if self.phase is ExperimentPhase.LANDING or 0 not in self.fold.runs:
            return
        room = self.terms.slots - len(self.trials.running)
        for record in later[1:]:
            if len(self.needs) >= room:
                return
            self.needs += confirm_ahead(record, self.fold)

    def _starts(self) -> tuple[TrialStart, ...]:
        room = self.terms.slots - len(self.trials.running)
        if self.observed.suspended or self.failed is not None or room <= 0:
            return ()
        first = self.terms.rules.looks[0]
        to_land = max(AUDIT_PAIRS, math.ceil(AUDITED_PAIRS_TO_LAND / first))
        starts: dict[TrialKey, TrialStart] = {}
        for need in self.needs:
            key = TrialKey(need.experiment, need.seed, need.attempt)
            if len(starts) >= room:
                break
            of_first_look = need.purpose is Purpose.CONFIRM and need.index < first
            starts[key] = TrialStart(
                key,
                self.terms.tier,
                need.purpose,
                need.subject,
                "test" if need.purpose is Purpose.FINAL else "val",
                to_land if of_first_look else AUDIT_PAIRS,
            )
        return tuple(starts.values())

    def _finish(self) -> Plan:
        starts = self._starts()
        complete: CompleteReason | None = None
        ended = self.stage is not None and self.stage.complete and not self.wanted
        if ended and self.failed is None and self.frontier == len(self.experiments) and not self.decisions:
            complete = self._complete_reason()
        candidates = () if self.observed.suspended or self.failed is not None else tuple(self.wanted)
        return Plan(
            candidates=candidates,
            starts=starts,
            decisions=tuple(self.decisions),
            progressing=self._progressing(starts, candidates),
            complete=complete,
            failed=None if self.decisions else self.failed,
            message=self._message(complete),
            standing=self._standing(),
        )

    def _complete_reason(self) -> CompleteReason:
        if self.over is not None and self.over.reason is CompleteReason.TARGET_REACHED:
            return self.over.reason
        if self.created - self.fold.free >= self.terms.experiments:
            return CompleteReason.EXPERIMENT_LIMIT
        if self.observed.exhausted or self.over is None:
            return CompleteReason.PROPOSALS_EXHAUSTED
        return self.over.reason

    def _progressing(
        self, starts: tuple[TrialStart, ...], candidates: tuple[CandidateWanted, ...]
    ) -> ProgressingReason:
        if self.observed.suspended:
            return ProgressingReason.SUSPENDED
        if self.stage is not None:
            return ProgressingReason.COMPARING
        idle = len(self.trials.running) + len(starts) < self.terms.slots
        return ProgressingReason.WAITING_FOR_PROPOSALS if idle and candidates else ProgressingReason.SEARCHING

    def _message(self, complete: CompleteReason | None) -> str:
        fold = self.fold
        if self.failed is FailedReason.BASELINE_FAILED:
            said = self.decisions[0].message if self.decisions else self.experiments[0].message
            return f"The unedited source gives no score: {said} Mend it, then begin a new run."
        if self.failed is FailedReason.CONSECUTIVE_FAILURES:
            return (
                f"{fold.failures} candidates in a row were Invalid: see the reasons of the last ones. The proposer or "
                "the trainer is at fault; to go on all the same, raise limits.consecutiveFailures."
            )
        if complete is CompleteReason.EXPERIMENT_LIMIT:
            return f"{fold.counted} candidates have a verdict, {len(fold.accepted)} were accepted."
        if complete is CompleteReason.PROPOSALS_EXHAUSTED:
            return f"No proposer has another idea after {fold.counted} candidates; {len(fold.accepted)} were accepted."
        if self.over is not None:
            return f"The search is over: {self.over.message}."
        return ""

    def _standing(self) -> Standing:
        fold = self.fold
        phases: dict[int, ExperimentPhase] = {}
        for record in self.experiments[self.frontier :]:
            if record.verdict is None:
                begun = self.trials.any_of(record.number)
                phases[record.number] = ExperimentPhase.SCREENING if begun else ExperimentPhase.PENDING
        if self.frontier in phases and (
            self.phase is ExperimentPhase.LANDING or phases[self.frontier] is ExperimentPhase.SCREENING
        ):
            phases[self.frontier] = self.phase
        return Standing(
            incumbent=fold.incumbent,
            incumbent_score=fold.score_of(fold.incumbent),
            baseline_score=fold.score_of(0),
            noise=fold.pool.sd,
            noise_degrees=fold.pool.degrees,
            phases=phases,
            decided=fold.counted,
            accepted=len(fold.accepted),
            running=len(self.trials.running),
            trials_finished=self.trials.finished,
            final=self.stage.comparison if self.stage else None,
            decided_limit=self.terms.experiments,
        )
