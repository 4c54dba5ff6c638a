"""Whatever write the operator dies at, the run ends with the same ledger."""

from __future__ import annotations

import random
from functools import lru_cache, partial
from typing import Any

import pytest
from autoresearch_operator.api.run import ResearchRun
from autoresearch_operator.cluster.controller import parsed
from autoresearch_operator.engine.asking import proposers_of
from autoresearch_operator.engine.candidates import CandidateMaker
from autoresearch_operator.engine.decisions import decided
from autoresearch_operator.research.plan import plan
from autoresearch_operator.research.records import ExperimentRecord, Observed, TrialPhase, TrialRecord
from controller_world import KEY, World
from memory_cluster import score
from memory_volume import MemorySources


@lru_cache
def undisturbed() -> Any:
    return World().finish().ledger()


def planned(run: ResearchRun) -> Any:
    """What the plan alone decides, with nobody between it and the scores: what local mode does."""
    sources = MemorySources({})
    maker = CandidateMaker(run.spec, sources, proposers_of(run.spec), 0)  # type: ignore[arg-type]  # same methods
    experiments: list[ExperimentRecord] = []
    trials: list[TrialRecord] = []
    branch: list[str] = []
    while True:
        observed = Observed(experiments, trials, 0.0, slots=run.spec.tiers[0].max_parallel or 1)
        current = plan(run.spec, observed, 1.0)
        if current.finished:
            return [(r.number, r.commit, r.verdict, r.reason, r.val_bpb, r.landed_commit) for r in experiments], branch
        for decision in current.decisions:
            record = decided(decision, experiments, trials, sources, f"{KEY.namespace}/{KEY.name}")  # type: ignore[arg-type]
            experiments[record.number] = record
            branch += [record.landed_commit] if record.number and record.landed_commit else []
        if current.decisions:
            continue
        for wanted in current.candidates:
            made = maker.make(wanted, experiments)
            assert made is not None
            experiments.append(made)
        for start in current.starts:
            text = sources.files(experiments[start.key.experiment])["train.py"]
            value = score(text, start.key.seed)
            trials.append(
                TrialRecord(
                    start.key,
                    start.tier,
                    start.purpose,
                    start.subject,
                    TrialPhase.SCORED,
                    val_bpb=value,
                    audit_pairs=1024,
                    reference_seconds=0.02,
                )
            )


def test_a_run_decides_what_the_plan_alone_decides() -> None:
    world = World().finish()
    run = parsed(world.run)

    assert world.ledger() == planned(run)
    assert any(verdict == "Accepted" for _, _, verdict, *_ in world.ledger()[0])


@pytest.mark.parametrize("seed", range(3))
def test_the_order_in_which_pods_end_decides_nothing(seed: int) -> None:
    assert World(seed=seed + 1).finish().ledger() == undisturbed()


@pytest.mark.parametrize("writes", [1, 2, 3, 5, 8])
def test_an_operator_that_dies_after_every_few_writes_finishes_the_run(writes: int) -> None:
    world = World().finish(kill_after=lambda: writes)

    assert world.ledger() == undisturbed()
    assert world.kills > 50 / writes**1.2
    assert world.most_running <= 3


STRIDE = 16
"""Every sixteenth write in a run of the tests; 1 tries them all in five minutes."""


@pytest.mark.parametrize("offset", range(4))
def test_one_death_at_any_write_changes_nothing(offset: int) -> None:
    total = World().finish().writes.done
    for at in range(1 + 4 * offset, total + 1, STRIDE):
        world = World()
        world.finish(kill_after=partial(left_until, world, at))
        assert world.ledger() == undisturbed(), f"killed at write {at}"
        assert world.kills == 1


def left_until(world: World, at: int) -> int | None:
    """Writes until the one that kills; None once it did."""
    return at - world.writes.done if world.writes.done < at else None


@pytest.mark.parametrize("seed", range(3))
def test_deaths_at_random_writes_change_nothing(seed: int) -> None:
    draw = random.Random(seed)
    world = World(seed=seed).finish(kill_after=lambda: draw.choice([1, 2, 4, 9, 30, None]))

    assert world.ledger() == undisturbed()


def test_an_operator_without_its_volume_takes_the_scores_from_the_experiments() -> None:
    world = World()
    while len([t for t in world.volume.trials if t.phase is TrialPhase.SCORED]) < 12:
        world.step()
    started = world.writes.kinds["create jobs"]
    told = sum(len(item.get("status", {}).get("trials", ())) for item in world.cluster.of("experiments").values())
    world.volume.experiments, world.volume.trials, world.volume.details = (), (), {}
    world.volume.version += 1
    world.volume.branch.clear()
    world.restart()

    world.finish()

    assert world.ledger() == undisturbed()
    undisturbed_jobs = World().finish().writes.kinds["create jobs"]
    assert world.writes.kinds["create jobs"] <= undisturbed_jobs + max(0, started - told)
