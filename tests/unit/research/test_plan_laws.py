"""Laws of the planner, for any order of events, any faults and any point of a crash."""

from __future__ import annotations

import random
from dataclasses import replace

from autoresearch_operator.api.reasons import ExperimentKind, Verdict, VerdictReason
from autoresearch_operator.research.records import Plan, Purpose, TrialPhase
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from simulated import NOISE, Machine, World, make_spec

quick = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
seeds = st.integers(0, 10_000)


def gains(rng: random.Random) -> float:
    """Half of the ideas do nothing, some help a little or much, some harm."""
    return rng.choice([0.0, 0.0, 0.0, 0.5 * NOISE, 4 * NOISE, 8 * NOISE, -3 * NOISE])


def machine(seed: int, slots: int = 2, order: int = 0, turmoil: float = 0.0, **spec: object) -> Machine:
    world = World(seed, gain=gains, invalid=0.02, refused=0.05, knobs=6)
    made = make_spec(**{"tier": {"maxParallel": 2}, **spec})
    return Machine(made, world, slots=slots, order=random.Random(order), turmoil=turmoil)


def undisturbed(seed: int, **spec: object) -> tuple[Machine, Plan]:
    calm = machine(seed, **spec)
    return calm, calm.run()


@quick
@given(seed=seeds, order=seeds, slots=st.integers(1, 5), turmoil=st.sampled_from([0.0, 0.2, 0.5]))
def test_no_order_of_events_no_fault_and_no_crash_changes_a_verdict(
    seed: int, order: int, slots: int, turmoil: float
) -> None:
    calm, ended = undisturbed(seed)
    wild = machine(seed, slots=slots, order=order, turmoil=turmoil)
    also = wild.run()
    assert (also.complete, also.failed) == (ended.complete, ended.failed)
    assert wild.outcome() == calm.outcome()
    assert also.standing.final == ended.standing.final


@quick
@given(seed=seeds, order=seeds, proposals=st.integers(1, 10))
def test_running_out_of_proposals_ends_a_run_the_same_way_every_time(seed: int, order: int, proposals: int) -> None:
    calm, wild = machine(seed), machine(seed, slots=3, order=order, turmoil=0.3)
    calm.proposals = wild.proposals = proposals
    assert calm.run().complete == wild.run().complete
    assert wild.outcome() == calm.outcome()


@quick
@given(seed=seeds, order=seeds, turmoil=st.sampled_from([0.0, 0.4]))
def test_planning_twice_changes_nothing(seed: int, order: int, turmoil: float) -> None:
    subject = machine(seed, order=order, turmoil=turmoil)
    carry_out = subject.carry_out

    def twice(made: Plan) -> bool:
        assert subject.think() == made, "the same observation gives the same plan"
        did = carry_out(made)
        if subject.order.random() < 0.3:
            again = subject.think()
            done = {decision.number for decision in made.decisions}
            if turmoil == 0.0:
                assert done.isdisjoint(decision.number for decision in again.decisions)
                assert {s.key for s in made.starts}.isdisjoint(start.key for start in again.starts)
        return did

    subject.carry_out = twice  # type: ignore[method-assign]  # the harness's own hook
    subject.run()


@quick
@given(seed=seeds, order=seeds, slots=st.integers(1, 4), turmoil=st.sampled_from([0.0, 0.4]))
def test_numbers_verdicts_slots_and_trials_are_in_order(seed: int, order: int, slots: int, turmoil: float) -> None:
    subject = machine(seed, slots=slots, order=order, turmoil=turmoil)
    decided: list[int] = []
    write = subject.write

    def noted(decision: object) -> None:
        decided.append(decision.number)  # type: ignore[attr-defined]  # a Decision; typed loosely for the hook
        write(decision)  # type: ignore[arg-type]

    subject.write = noted  # type: ignore[method-assign]  # the harness's own hook
    subject.run()
    assert [record.number for record in subject.experiments] == list(range(len(subject.experiments)))
    assert decided == sorted(decided) == list(range(len(subject.experiments))), "in order, each once"
    assert subject.most_running <= slots
    counted = {}
    for trial in subject.trials:
        if trial.phase in (TrialPhase.SCORED, TrialPhase.INVALID):
            again = counted.setdefault((trial.key.experiment, trial.key.seed), trial)
            assert again is trial or trial.purpose is Purpose.REFERENCE, "measured once"


@quick
@given(seed=seeds, order=seeds)
def test_what_lands_has_passed_two_thousand_audited_pairs(seed: int, order: int) -> None:
    subject = machine(seed, order=order, turmoil=0.2)
    subject.run()
    for record in subject.experiments:
        if record.verdict is Verdict.ACCEPTED:
            runs = [t for t in subject.trials if t.key.experiment == record.number and t.purpose is Purpose.CONFIRM]
            assert sum(t.audit_pairs for t in runs if t.phase is TrialPhase.SCORED) >= 2048


def test_nothing_lands_when_the_judge_could_audit_too_few_pairs() -> None:
    calm, _ = undisturbed(3)
    assert any(record.verdict is Verdict.ACCEPTED for record in calm.experiments)
    scant = machine(3)
    start = scant.start
    scant.start = lambda wanted: start(replace(wanted, audit_pairs=100))  # type: ignore[method-assign]
    scant.run()
    assert all(record.verdict is not Verdict.ACCEPTED for record in scant.experiments)
    assert any(record.reason is VerdictReason.NOT_CAUSAL for record in scant.experiments)


@quick
@given(seed=seeds)
def test_scores_of_the_test_split_decide_nothing(seed: int) -> None:
    calm, ended = undisturbed(seed)
    finals = [trial for trial in calm.trials if trial.purpose is Purpose.FINAL]
    assert all(calm.split_of[trial.key] == "test" for trial in finals)
    assert all(split == "val" for key, split in calm.split_of.items() if key not in {t.key for t in finals})
    searched = [r for r in calm.experiments if r.kind is not ExperimentKind.ABLATION]
    before = replace(
        calm.observe(), experiments=searched, trials=[t for t in calm.trials if t.purpose is not Purpose.FINAL]
    )
    calm.observe = lambda: before  # type: ignore[method-assign]
    again = calm.think()
    assert again.standing.incumbent == ended.standing.incumbent
    assert again.standing.noise == ended.standing.noise
