"""What the planner does in each situation that a person may meet."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from statistics import mean, stdev

import pytest
from autoresearch_operator.api.reasons import (
    CompleteReason,
    ExperimentKind,
    ExperimentPhase,
    FailedReason,
    ProgressingReason,
    Verdict,
    VerdictReason,
)
from autoresearch_operator.research.measure import is_starved
from autoresearch_operator.research.plan import plan
from autoresearch_operator.research.records import (
    CandidateWanted,
    ExperimentRecord,
    Observed,
    Plan,
    Purpose,
    TrialKey,
    TrialPhase,
    TrialRecord,
    TrialStart,
)
from simulated import NOISE, Machine, World, make_spec


@dataclass
class Script(World):
    """A world in which the true gains, in noise units, and the failures are written down by number."""

    gains: dict[int, float] = field(default_factory=dict)
    screens: dict[int, float] = field(default_factory=dict)
    """Screening runs that come out so many noise units better than the baseline's mean."""
    failing: frozenset[tuple[int, Purpose]] = frozenset()

    def propose(self, wanted: CandidateWanted, experiments: list[ExperimentRecord]) -> ExperimentRecord:
        record = super().propose(wanted, experiments)
        if wanted.kind is ExperimentKind.PROPOSAL:
            self.levels[wanted.number] = self.levels[wanted.base] - self.gains.get(wanted.number, -2.0) * NOISE
        change = replace(record.changes[0], name=f"K{wanted.number}") if record.changes else None
        return replace(record, changes=(change,) if change else ())

    def score(self, start: TrialStart) -> float | None:
        if (start.key.experiment, start.purpose) in self.failing:
            return None
        if start.purpose is Purpose.SCREEN and start.key.experiment in self.screens:
            keys = [replace(start.key, experiment=0, seed=seed) for seed in range(5)]
            runs = [super(Script, self).score(replace(start, key=key, subject=0)) or 0.0 for key in keys]
            return mean(runs) - self.screens[start.key.experiment] * stdev(runs)
        return super().score(start)


def machine(world: World, slots: int = 2, **spec: object) -> Machine:
    return Machine(make_spec(**spec), world, slots=slots, brisk=True, order=random.Random(1))


def reasons(ran: Machine) -> list[VerdictReason | None]:
    return [record.reason for record in ran.experiments]


def until(ran: Machine, enough: object) -> Plan:
    """Carry plans out until `enough(plan)`."""
    for _ in range(1000):
        made = ran.think()
        if enough(made):  # type: ignore[operator]  # a predicate
            return made
        ran.carry_out(made)
        for trial in [trial for trial in ran.trials if trial.phase is TrialPhase.RUNNING]:
            ran.end(trial)
    raise AssertionError("never came about")


def test_the_first_thing_wanted_is_the_baseline() -> None:
    made = plan(make_spec(), Observed([], [], 0.0), 0.0)
    assert made.candidates == (CandidateWanted(0, ExperimentKind.BASELINE, 0),)
    assert made.starts == () and not made.finished


def test_candidates_are_prepared_while_the_baseline_runs_and_runs_start_with_the_baseline() -> None:
    ran = machine(Script(1), slots=6)
    ran.carry_out(ran.think())
    made = ran.think()
    assert [wanted.number for wanted in made.candidates] == list(range(1, 12))
    assert [wanted.visible for wanted in made.candidates] == [-1] * 11, "nothing is decided yet"
    ran.carry_out(made)
    starts = [trial.purpose for trial in ran.trials] + [start.purpose for start in ran.think().starts]
    assert starts == [Purpose.BASELINE] * 5 + [Purpose.SCREEN]


def test_a_baseline_that_fails_once_fails_the_run() -> None:
    ran = machine(Script(1, failing=frozenset({(0, Purpose.BASELINE)})))
    ended = ran.run()
    assert ended.failed is FailedReason.BASELINE_FAILED and "unedited source" in ended.message
    assert ran.experiments[0].verdict is Verdict.INVALID
    assert ran.think().failed is FailedReason.BASELINE_FAILED, "and stays so"
    assert ran.think().starts == () == ran.think().candidates


def test_confirmation_starts_candidate_and_incumbent_in_turn_on_the_same_seeds() -> None:
    ran = machine(Script(1, gains={1: 9.0}), slots=4)
    made = until(ran, lambda made: any(start.purpose is Purpose.CONFIRM for start in made.starts))
    assert [(start.purpose, start.key.experiment) for start in made.starts] == [
        (Purpose.CONFIRM, 1),
        (Purpose.REFERENCE, 0),
        (Purpose.CONFIRM, 1),
        (Purpose.REFERENCE, 0),
    ]
    assert made.starts[0].key.seed == made.starts[1].key.seed != made.starts[2].key.seed
    assert [start.audit_pairs for start in made.starts] == [1024, 64, 1024, 64]
    assert made.standing.phases[1] is ExperimentPhase.CONFIRMING


def test_a_winner_on_an_older_incumbent_comes_back_as_a_combination_without_a_screen() -> None:
    ran = machine(Script(2, gains={1: 9.0, 2: 7.0, 3: 12.0}), limits={"experiments": 16})
    ran.run()
    assert reasons(ran)[1:4] == [VerdictReason.IMPROVED, VerdictReason.SUPERSEDED, VerdictReason.SUPERSEDED]
    rebased = [record for record in ran.experiments if record.kind is ExperimentKind.COMBINATION]
    assert [record.sources for record in rebased] == [(2,), (3,)], "as soon as each is known"
    assert all(record.verdict is Verdict.ACCEPTED for record in rebased)
    assert not [t for t in ran.trials if t.purpose is Purpose.SCREEN and t.subject == rebased[0].number]
    assert len([t for t in ran.trials if t.purpose is Purpose.REFRESH]) == 6


def test_three_near_misses_are_bundled_once_and_screened() -> None:
    ran = machine(Script(3, screens={1: 0.6, 2: 0.5, 3: 0.7}), limits={"experiments": 14})
    ran.run()
    bundles = [record for record in ran.experiments if record.kind is ExperimentKind.COMBINATION]
    assert [record.sources for record in bundles] == [(1, 2, 3)]
    assert [t for t in ran.trials if t.purpose is Purpose.SCREEN and t.subject == bundles[0].number]


def test_two_near_misses_wait_for_a_third_but_not_for_ever() -> None:
    ran = machine(Script(3, screens={1: 0.6, 2: 0.5}), limits={"experiments": 14})
    ran.run()
    bundles = [record for record in ran.experiments if record.kind is ExperimentKind.COMBINATION]
    assert [record.sources for record in bundles] == [(1, 2)]
    assert bundles[0].number == 2 + 4 + 4, "a lookahead of patience and a lookahead ahead"


def test_an_implausible_score_waits_for_a_person() -> None:
    ran = machine(Script(1, gains={2: 100.0}))
    ran.run()
    held = ran.experiments[2]
    assert (held.verdict, held.reason) == (Verdict.INVALID, VerdictReason.IMPLAUSIBLE)
    assert "Read its diff" in held.message


def test_a_failure_in_one_confirmation_seed_is_the_candidates() -> None:
    ran = machine(Script(1, gains={1: 9.0}, failing=frozenset({(1, Purpose.CONFIRM)})))
    ran.run()
    assert (ran.experiments[1].verdict, ran.experiments[1].reason) == (Verdict.INVALID, VerdictReason.CRASHED)


def test_a_failure_of_the_incumbent_beside_it_is_tried_five_times_and_not_held_against_the_idea() -> None:
    ran = machine(Script(1, gains={1: 9.0}, failing=frozenset({(0, Purpose.REFERENCE)})))
    ended = ran.run()
    assert ran.experiments[1].reason is VerdictReason.INFRASTRUCTURE
    attempts = [t.key.attempt for t in ran.trials if t.purpose is Purpose.REFERENCE and t.key.seed == 64 + 8]
    assert attempts == [1, 2, 3, 4, 5]
    assert ended.complete is CompleteReason.EXPERIMENT_LIMIT


def test_failures_in_a_row_end_the_run_and_faults_of_the_machine_do_not() -> None:
    failing = frozenset((number, Purpose.SCREEN) for number in range(3, 40))
    ran = machine(Script(1, failing=failing), limits={"experiments": 40, "consecutiveFailures": 5})
    ended = ran.run()
    assert ended.failed is FailedReason.CONSECUTIVE_FAILURES and "5 candidates in a row" in ended.message
    assert reasons(ran)[3:8] == [VerdictReason.CRASHED] * 5 and reasons(ran)[8] is None

    lost = machine(Script(1), limits={"experiments": 8, "consecutiveFailures": 3})
    lose = lost.end

    def losing(trial: TrialRecord) -> None:
        if trial.purpose is not Purpose.SCREEN:
            lose(trial)
        else:
            place = lost.trials.index(trial)
            lost.trials[place] = replace(trial, phase=TrialPhase.LOST, message="the node went away")

    lost.end = losing  # type: ignore[method-assign]  # the harness's own hook
    assert lost.run().complete is CompleteReason.EXPERIMENT_LIMIT
    assert set(reasons(lost)[1:]) == {VerdictReason.INFRASTRUCTURE}
    assert "the node went away" in lost.experiments[1].message


def test_a_suspended_run_starts_nothing() -> None:
    ran = machine(Script(1))
    until(ran, lambda made: made.standing.decided == 1)
    made = plan(ran.spec, replace(ran.observe(), suspended=True), ran.now)
    assert (made.starts, made.candidates, made.progressing) == ((), (), ProgressingReason.SUSPENDED)


def test_when_the_time_is_up_what_has_not_begun_is_rejected_and_the_comparison_is_made() -> None:
    ran = machine(Script(1, gains={1: 9.0}), limits={"experiments": 100, "duration": "100s"})
    until(ran, lambda made: made.standing.accepted == 1)
    ran.now += 200.0
    ended = ran.run()
    assert ended.complete is CompleteReason.DURATION_LIMIT
    assert VerdictReason.NOT_MEASURED in reasons(ran)
    assert all(record.verdict is not None for record in ran.experiments), "nothing hangs"
    assert ended.standing.final is not None and ended.standing.final.complete


def test_when_the_time_is_up_while_an_incumbent_is_measured_no_other_idea_is_begun() -> None:
    ran = machine(Script(1, gains={1: 9.0}), limits={"experiments": 100, "duration": "1000s"})
    ran.carry_out(until(ran, lambda made: any(start.purpose is Purpose.REFRESH for start in made.starts)))
    ran.end(next(trial for trial in ran.trials if trial.purpose is Purpose.REFRESH))
    assert [start.purpose for start in ran.think().starts] == [Purpose.SCREEN], "a slot is free, and time is left"
    late = plan(ran.spec, ran.observe(), ran.now + 1000.0)
    assert (late.starts, late.candidates) == ((), ())


def test_reaching_the_target_ends_the_run() -> None:
    ran = machine(Script(1, gains={2: 20.0}), limits={"experiments": 100, "targetBPB": 1.85})
    ended = ran.run()
    assert ended.complete is CompleteReason.TARGET_REACHED
    assert ended.standing.incumbent == 2


def test_money_for_the_final_comparison_is_set_aside() -> None:
    limits = {"experiments": 100, "gpuHours": 0.1, "dollars": 1000}
    tier = {"gpus": 1, "pricePerGPUHour": 2.0}
    ran = machine(Script(1, gains={1: 9.0, 6: 9.0}), limits=limits, tier=tier)
    ended = ran.run()
    assert ended.complete is CompleteReason.BUDGET_SPENT
    spent = sum((trial.finished_at or 0.0) - trial.started_at for trial in ran.trials) / 3600.0
    assert 0.08 <= spent <= 0.115, "the estimate may be off by a few runs"


def test_without_an_accepted_edit_there_is_nothing_to_compare() -> None:
    ran = machine(Script(1))
    ended = ran.run()
    assert ended.standing.final is None
    assert not [trial for trial in ran.trials if trial.purpose is Purpose.FINAL]


def test_one_accepted_edit_is_worth_the_difference_and_several_are_left_out_one_by_one() -> None:
    one = machine(Script(1, gains={1: 9.0}))
    final = one.run().standing.final
    assert final is not None and final.complete and len(final.effects) == 1
    assert final.effects[0].delta == pytest.approx(final.baseline.mean - final.head.mean)
    assert final.effects[0].helps is True
    assert len([trial for trial in one.trials if trial.purpose is Purpose.FINAL]) == 10

    two = machine(Script(1, gains={1: 9.0, 6: 8.0}))
    final = two.run().standing.final
    assert final is not None and [effect.number for effect in final.effects] == [1, 6]
    assert all(effect.helps is True for effect in final.effects)
    ablations = [record for record in two.experiments if record.kind is ExperimentKind.ABLATION]
    assert [(record.reason, record.base) for record in ablations] == [(VerdictReason.MEASURED, 6)] * 2
    # Five and five, and one without each edit.
    assert len([trial for trial in two.trials if trial.purpose is Purpose.FINAL]) == 12


def test_an_edit_that_cannot_be_taken_out_is_said_to_be_one() -> None:
    ran = machine(Script(1, gains={1: 9.0, 6: 8.0}))
    propose = ran.world.propose

    def conflicting(wanted: CandidateWanted, experiments: list[ExperimentRecord]) -> ExperimentRecord:
        record = propose(wanted, experiments)
        if wanted.kind is ExperimentKind.ABLATION and wanted.sources == (1,):
            return replace(record, refused=(VerdictReason.REBASE_CONFLICT, "train.py line 3 was edited again."))
        return record

    ran.world.propose = conflicting  # type: ignore[method-assign]  # the harness's own hook
    final = ran.run().standing.final
    assert final is not None and final.complete
    assert final.effects[0].helps is None and "could not be taken out" in final.effects[0].message
    assert final.effects[1].helps is True


def test_raising_the_limit_after_the_comparison_goes_on_with_the_search() -> None:
    ran = machine(Script(1, gains={1: 9.0, 6: 8.0, 16: 9.0}))
    first = ran.run()
    ran.spec = make_spec(limits={"experiments": 20})
    second = ran.run()
    assert first.complete is second.complete is CompleteReason.EXPERIMENT_LIMIT
    assert second.standing.decided == 20
    assert second.standing.accepted == 3
    assert second.standing.final is not None and len(second.standing.final.effects) == 3


def test_more_device_memory_than_the_tier_allows_is_invalid() -> None:
    ran = machine(Script(1, gains={1: 9.0}), tier={"gpus": 1, "maxVRAM": "1Gi"})
    end = ran.end

    def hungry(trial: TrialRecord) -> None:
        ran.trials[ran.trials.index(trial)] = replace(trial, peak_vram_bytes=2**31 if trial.subject == 1 else 2**20)
        end(next(t for t in ran.trials if t.key == trial.key))

    ran.end = hungry  # type: ignore[method-assign]  # the harness's own hook
    ran.run()
    assert ran.experiments[1].reason is VerdictReason.VRAM_LIMIT


def baseline_trials(reference: float) -> list[TrialRecord]:
    return [
        TrialRecord(
            TrialKey(0, seed, 1), "cpu", Purpose.BASELINE, 0, TrialPhase.SCORED, val_bpb=2.0 + seed / 100,
            reference_seconds=reference,
        )
        for seed in range(5)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("tier", "reference", "starved"),
    [
        ({"budget": {"cpuSeconds": 10.0}}, 1.45, False),
        ({"budget": {"cpuSeconds": 10.0}}, 1.55, True),
        ({"budget": {"seconds": 10.0}, "gpus": 1}, 1.02, False),
        ({"budget": {"seconds": 10.0}, "gpus": 1}, 1.05, True),
        ({"budget": {"steps": 10}}, 9.0, False),
    ],
)
def test_a_run_on_a_slowed_machine_is_made_again(tier: dict[str, object], reference: float, starved: bool) -> None:
    spec = make_spec(tier=tier)
    trial = TrialRecord(
        TrialKey(1, 64, 1), "cpu", Purpose.SCREEN, 1, TrialPhase.SCORED, val_bpb=1.9, reference_seconds=reference
    )
    assert is_starved(trial, baseline_trials(1.0), spec) is starved
    assert not is_starved(trial, baseline_trials(1.0)[:4], spec), "the usual is not known yet"
    base = ExperimentRecord(0, ExperimentKind.BASELINE, "c0", "t0", 0, "", "")
    one = ExperimentRecord(1, ExperimentKind.PROPOSAL, "c1", "t1", 0, "", "")
    attempts = [replace(trial, key=TrialKey(1, 64, attempt)) for attempt in (1, 2, 3)]
    again = plan(spec, Observed([base, one], [*baseline_trials(1.0), *attempts[:1]], 0.0, slots=4), 0.0)
    screens = [start for start in again.starts if start.purpose is Purpose.SCREEN]
    assert [start.key.attempt for start in screens] == ([2] if starved else [])
    after = plan(spec, Observed([base, one], [*baseline_trials(1.0), *attempts], 0.0, slots=4), 0.0)
    assert not [start for start in after.starts if start.purpose is Purpose.SCREEN], "three times, then it counts"
    assert [start.purpose for start in after.starts][:2] == [Purpose.CONFIRM, Purpose.REFERENCE]


def test_a_damaged_record_is_refused() -> None:
    gap = ExperimentRecord(1, ExperimentKind.PROPOSAL, "c1", "t1", 0, "", "")
    with pytest.raises(ValueError, match="without gaps"):
        plan(make_spec(), Observed([gap], [], 0.0), 0.0)


def test_waiting_for_proposals_is_told_from_searching() -> None:
    ran = machine(Script(1))
    made = until(ran, lambda made: made.standing.decided == 1)
    assert made.candidates
    idle = [record for record in ran.experiments if record.number <= 1]
    settled = replace(ran.observe(), experiments=idle, trials=[t for t in ran.trials if t.subject <= 1])
    assert plan(ran.spec, settled, ran.now).progressing is ProgressingReason.WAITING_FOR_PROPOSALS
