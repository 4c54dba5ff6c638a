"""An executor in memory: carries plans out as a machine would, with trials that end in any order and faults.

Scores are a pure function of (experiment, seed), as under a budget in steps, so two executions of one seed must give
the same verdicts whatever happens between them.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from autoresearch_operator.api.reasons import ExperimentKind, Verdict, VerdictReason
from autoresearch_operator.api.run import ResearchRunSpec
from autoresearch_operator.research.plan import plan
from autoresearch_operator.research.records import (
    CandidateWanted,
    Change,
    Decision,
    ExperimentRecord,
    Observed,
    Plan,
    TrialKey,
    TrialPhase,
    TrialRecord,
    TrialStart,
)

BASELINE_BPB = 2.0
NOISE = 0.01
Noise = Callable[[random.Random], float]


def make_spec(**over: object) -> ResearchRunSpec:
    """A spec with one CPU tier of step budgets; `tier`, `limits` and `acceptance` are merged over it."""
    tier = {"name": "cpu", "gpus": 0, "budget": {"steps": 10}, **over.pop("tier", {})}  # type: ignore[dict-item]
    limits = {"experiments": 12, **over.pop("limits", {})}  # type: ignore[dict-item]
    return ResearchRunSpec.model_validate({"tiers": [tier], "limits": limits, **over})


@dataclass
class World:
    """What is true and what a machine would measure. Every draw is keyed, so no order of calls changes any."""

    seed: int
    effects: dict[str, float] = field(default_factory=dict)
    """Bits per byte that an edit, known by its title, takes off the score of what it is applied to."""
    gain: Callable[[random.Random], float] = lambda _rng: 0.0
    """Draws the true effect of a new proposal."""
    noise: Noise = lambda rng: rng.gauss(0.0, NOISE)
    invalid: float = 0.0
    """Share of (experiment, seed) whose run is the candidate's own failure."""
    refused: float = 0.0
    """Share of proposals that a check refuses."""
    drift: Callable[[int], float] = lambda _subject: 0.0
    """Added to every score of runs that help to decide this experiment."""
    loud: float = 0.0
    """Share of candidates whose noise is 1.75 times as large."""
    knobs: int = 12
    levels: dict[int, float] = field(default_factory=dict)
    """True mean of every experiment's code."""

    def rng(self, *key: object) -> random.Random:
        return random.Random(f"{self.seed}/{key}")

    def propose(self, wanted: CandidateWanted, experiments: list[ExperimentRecord]) -> ExperimentRecord:
        number, rng = wanted.number, self.rng("propose", wanted.number)
        refused = None
        knob = f"K{rng.randrange(self.knobs)}"
        changes: tuple[Change, ...] = (Change("train.py", knob, "1", str(number)),)
        if wanted.kind is ExperimentKind.BASELINE:
            level, changes = BASELINE_BPB, ()
        elif wanted.kind is ExperimentKind.PROPOSAL:
            level = self.levels[wanted.base] - self.gain(rng)
            if rng.random() < self.refused:
                refused = (VerdictReason.DUPLICATE, f"The same code as experiment {number - 1}.")
        elif wanted.kind is ExperimentKind.COMBINATION:
            level = self.levels[wanted.base] - sum(self.effect(experiments, source) for source in wanted.sources)
        else:
            level = self.levels[wanted.base] + self.effect(experiments, wanted.sources[0])
        self.levels[number] = level
        return ExperimentRecord(
            number, wanted.kind, f"c{number}", f"t{number}", wanted.base, f"edit {number}", "test",
            changes=changes, sources=wanted.sources, refused=refused,
        )  # fmt: skip

    def effect(self, experiments: list[ExperimentRecord], number: int) -> float:
        return self.levels[experiments[number].base] - self.levels[number]

    def score(self, start: TrialStart) -> float | None:
        """Bits per byte, or None for a run that fails."""
        rng = self.rng(start.key.experiment, start.key.seed)
        if start.key.experiment and rng.random() < self.invalid:
            return None
        loud = 1.75 if start.key.experiment and self.rng("loud", start.key.experiment).random() < self.loud else 1.0
        return self.levels[start.key.experiment] + self.drift(start.subject) + loud * self.noise(rng)


@dataclass
class Machine:
    """Carries plans out. `turmoil` (0 to 1) sets how often trials are lost or starved and the operator is killed."""

    spec: ResearchRunSpec
    world: World
    slots: int = 2
    order: random.Random = field(default_factory=lambda: random.Random(0))
    turmoil: float = 0.0
    proposals: int | None = None
    """After so many proposals there are no more."""
    report_audit: bool = True
    brisk: bool = False
    """All running trials end between two passes: fewer passes."""
    experiments: list[ExperimentRecord] = field(default_factory=list)
    trials: list[TrialRecord] = field(default_factory=list)
    now: float = 1000.0
    passes: int = 0
    most_running: int = 0
    kills: int = 0
    split_of: dict[TrialKey, str] = field(default_factory=dict)

    def observe(self) -> Observed:
        made = sum(1 for record in self.experiments if record.kind is ExperimentKind.PROPOSAL)
        exhausted = self.proposals is not None and made >= self.proposals
        return Observed(list(self.experiments), list(self.trials), 1000.0, exhausted=exhausted, slots=self.slots)

    def think(self) -> Plan:
        return plan(self.spec, self.observe(), self.now)

    def run(self, most_passes: int = 20_000) -> Plan:
        """Until finished. Fails when the plan neither finishes nor gives anything to do."""
        while True:
            self.passes += 1
            assert self.passes < most_passes, "the run does not end"
            made = self.think()
            if made.finished:
                self.carry_out(replace(made, candidates=(), starts=()))
                return made
            did = self.carry_out(made)
            running = [trial for trial in self.trials if trial.phase is TrialPhase.RUNNING]
            self.most_running = max(self.most_running, len(running))
            assert len(running) <= self.slots
            if not running:
                assert did, f"nothing to do and nothing running: {made}"
                continue
            self.now += self.order.uniform(1.0, 10.0)
            if self.order.random() < self.turmoil / 2:
                self.kill()
            elif self.brisk:
                for trial in running:
                    self.end(trial)
            elif self.order.random() < 0.8:
                self.end(self.order.choice(running))

    def carry_out(self, made: Plan) -> bool:
        """Do all of a plan, or under turmoil only a leading part of it, as if killed half-way."""
        steps: list[Decision | CandidateWanted | TrialStart] = [*made.decisions, *made.candidates, *made.starts]
        if steps and self.order.random() < self.turmoil:
            steps = steps[: self.order.randrange(len(steps)) + 1]
        for step in steps:
            if isinstance(step, Decision):
                self.write(step)
            elif isinstance(step, CandidateWanted):
                made_already = sum(1 for record in self.experiments if record.kind is ExperimentKind.PROPOSAL)
                out = self.proposals is not None and made_already >= self.proposals
                if step.kind is ExperimentKind.PROPOSAL and out:
                    break
                assert step.number == len(self.experiments), "numbers must have no gaps"
                assert step.base == 0 or self.experiments[step.base].verdict is Verdict.ACCEPTED
                self.experiments.append(self.world.propose(step, self.experiments))
            else:
                self.start(step)
        return bool(steps)

    def write(self, decision: Decision) -> None:
        record = self.experiments[decision.number]
        assert record.verdict is None, "a verdict is final"
        self.experiments[decision.number] = replace(
            record, verdict=decision.verdict, reason=decision.reason, message=decision.message,
            val_bpb=decision.val_bpb, delta=decision.delta, delta_error=decision.delta_error,
        )  # fmt: skip

    def start(self, start: TrialStart) -> None:
        assert start.key not in self.split_of, "a trial is started once"
        self.split_of[start.key] = start.split
        self.trials.append(
            TrialRecord(
                start.key, start.tier, start.purpose, start.subject, TrialPhase.RUNNING,
                started_at=self.now, audit_pairs=start.audit_pairs if self.report_audit else 0,
            )
        )  # fmt: skip

    def end(self, trial: TrialRecord) -> None:
        start = TrialStart(trial.key, trial.tier, trial.purpose, trial.subject, "val", trial.audit_pairs)
        score = self.world.score(start)
        fault = self.order.random()
        attempts = trial.key.attempt
        if fault < self.turmoil / 4 and attempts < 4:
            done = replace(trial, phase=TrialPhase.LOST)
        elif fault < self.turmoil / 2 and attempts < 3 and score is not None:
            done = replace(trial, phase=TrialPhase.STARVED, val_bpb=score + 1.0)
        elif score is None:
            done = replace(
                trial, phase=TrialPhase.INVALID, reason=VerdictReason.CRASHED, message=f"at {trial.key.seed}"
            )
        else:
            done = replace(trial, phase=TrialPhase.SCORED, val_bpb=score)
        place = next(i for i in range(len(self.trials) - 1, -1, -1) if self.trials[i] is trial)
        self.trials[place] = replace(done, finished_at=self.now)

    def kill(self) -> None:
        """The operator dies: running trials leave no record, or are found lost afterwards."""
        self.kills += 1
        kept = []
        for trial in self.trials:
            if trial.phase is not TrialPhase.RUNNING:
                kept.append(trial)
            elif self.order.random() < 0.3 and trial.key.attempt < 4:
                kept.append(replace(trial, phase=TrialPhase.LOST, finished_at=self.now))
            else:
                del self.split_of[trial.key]
        self.trials = kept

    def outcome(self) -> list[tuple[object, ...]]:
        """Everything that must not depend on the order of events."""
        return [
            (r.number, r.kind, r.base, r.sources, r.verdict, r.reason, r.val_bpb, r.delta, r.delta_error)
            for r in self.experiments
        ]
