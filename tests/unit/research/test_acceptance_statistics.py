"""How often chance is taken for an improvement, and how often an improvement is found.

Campaigns of 100 candidates go through the very functions that decide (`screen`, `look`, `NoisePool`) in a loop without
the bookkeeping of a plan, which would take hours for so many; a test shows that the loop and `plan` give the same
verdicts on the same draws. The unit of scores is one standard deviation of one run. Figures are printed (`pytest -s`).
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from autoresearch_operator.api.reasons import ExperimentKind, Verdict, VerdictReason
from autoresearch_operator.observe.power import smallest_effect
from autoresearch_operator.research.accept import Outcome, Rules, look, power, screen
from autoresearch_operator.research.names import trial_seed
from autoresearch_operator.research.noise import NoisePool
from autoresearch_operator.research.records import Purpose, TrialStart
from autoresearch_operator.research.terms import Terms
from simulated import BASELINE_BPB, NOISE, Machine, World, make_spec

CAMPAIGNS = 2000
CANDIDATES = 100
Draw = Callable[[Purpose, int, int, int], float]
"""(purpose, experiment, subject, index) -> score."""


def campaign(draw: Draw, candidates: int = CANDIDATES, rules: Rules | None = None) -> list[VerdictReason]:
    """The verdicts of one run whose candidates are all made on the incumbent of the moment."""
    rules = rules or Rules()
    runs = [draw(Purpose.BASELINE, 0, 0, index) for index in range(5)]
    pool, incumbent, verdicts = NoisePool().with_group(runs), 0, []
    for number in range(1, candidates + 1):
        if not screen(draw(Purpose.SCREEN, number, number, 0), runs, pool, rules).passes:
            verdicts.append(VerdictReason.NOT_BETTER)
            continue
        mine: list[float] = []
        theirs: list[float] = []
        for index, needed in enumerate(rules.looks):
            for seed in range(len(mine), needed):
                mine.append(draw(Purpose.CONFIRM, number, number, seed))
                theirs.append(draw(Purpose.REFERENCE, incumbent, number, seed))
            outcome = look(mine, theirs, pool, index, rules).outcome
            if outcome is not Outcome.CONTINUE:
                break
        pool = pool.with_group(mine).with_group(theirs)
        if outcome is Outcome.ACCEPT:
            refresh = [draw(Purpose.REFRESH, number, number, index) for index in range(2)]
            runs, pool, incumbent = mine + refresh, pool.with_group(refresh), number
            verdicts.append(VerdictReason.IMPROVED)
        else:
            runs += theirs
            verdicts.append(VerdictReason.NOT_SIGNIFICANT)
    return verdicts


class Draws:
    """A world in noise units. One candidate, `real`, is better by `effect`; all others change nothing."""

    def __init__(self, seed: int, tails: bool = False) -> None:
        self.rng = np.random.default_rng(seed)
        self.tails = tails
        self.left: list[float] = []
        self.drift: Callable[[int], float] = lambda _: 0.0
        self.loud: Callable[[int], bool] = lambda _: False
        self.real, self.effect, self.landed = 0, 0.0, False

    def __call__(self, _purpose: Purpose, experiment: int, subject: int, _index: int) -> float:
        if not self.left:
            size = 8192
            drawn = self.rng.standard_t(5, size) / math.sqrt(5 / 3) if self.tails else self.rng.standard_normal(size)
            self.left = drawn.tolist()
        noise = self.left.pop() * (1.75 if experiment and self.loud(experiment) else 1.0)
        better = self.effect if experiment == self.real and self.real else 0.0
        return noise + self.drift(subject) - better


def false_keeps(draws: Draws) -> float:
    """False keeps per 100 null candidates."""
    kept = sum(campaign(draws).count(VerdictReason.IMPROVED) for _ in range(CAMPAIGNS))
    return 100.0 * kept / (CAMPAIGNS * CANDIDATES)


def nothing(_: int) -> float:
    return 0.0


@pytest.mark.parametrize(
    ("name", "tails", "drift", "loud"),
    [
        ("normal noise", False, nothing, 0),
        ("the mean steps by one unit", False, lambda n: -1.0 if n >= 50 else 0.0, 0),
        ("the mean drifts by two units", False, lambda n: -0.02 * n, 0),
        ("heavy tails (t5)", True, nothing, 0),
        ("a third of candidates 1.75x noisier", False, nothing, 3),
        ("all candidates 1.75x noisier", False, nothing, 1),
    ],
)
def test_chance_is_kept_at_most_once_in_two_hundred(
    name: str, tails: bool, drift: Callable[[int], float], loud: int, capsys: pytest.CaptureFixture[str]
) -> None:
    draws = Draws(11, tails)
    draws.drift = drift
    draws.loud = (lambda n: n % loud == 0) if loud else draws.loud
    rate = false_keeps(draws)
    with capsys.disabled():
        print(f"\nfalse keeps per 100 null candidates, {CAMPAIGNS} campaigns, {name}: {rate:.2f}")
    assert rate <= 0.5


@pytest.mark.parametrize(("effect", "wanted"), [(2.0, 0.6), (3.0, 0.9)])
def test_real_improvements_are_found(effect: float, wanted: float, capsys: pytest.CaptureFixture[str]) -> None:
    draws, rng = Draws(12), random.Random(12)
    found = 0
    for _ in range(CAMPAIGNS):
        draws.real, draws.effect = rng.randint(1, CANDIDATES // 2), effect
        found += campaign(draws, draws.real)[-1] is VerdictReason.IMPROVED
    with capsys.disabled():
        print(f"\npower at {effect:g} noise units, {CAMPAIGNS} campaigns: {found / CAMPAIGNS:.2f}")
    assert found / CAMPAIGNS >= wanted


def test_the_power_that_is_reported_is_the_power_that_the_rule_has() -> None:
    assert power(2.0, 80, Rules()) >= 0.6
    assert power(3.0, 80, Rules()) >= 0.9
    smallest = smallest_effect(NOISE, 80, Rules())
    assert smallest is not None
    assert power(smallest / NOISE, 80, Rules()) == pytest.approx(0.8, abs=0.04)


@pytest.mark.parametrize("seed", range(4))
def test_the_loop_and_the_plan_give_the_same_verdicts_on_the_same_draws(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a lookahead of one, every candidate is made on the incumbent of the moment, as in the loop."""
    of = Terms.of
    monkeypatch.setattr(
        "autoresearch_operator.research.plan.Terms.of", lambda spec, seen: replace(of(spec, seen), lookahead=1)
    )
    world = World(seed, gain=lambda rng: rng.choice([0.0, 0.0, 3 * NOISE]), knobs=1)
    machine = Machine(make_spec(limits={"experiments": 40}), world, slots=4, brisk=True)
    machine.run()
    searched = [record for record in machine.experiments if record.kind is ExperimentKind.PROPOSAL]

    def draw(purpose: Purpose, experiment: int, subject: int, index: int) -> float:
        key = replace(machine.trials[0].key, experiment=experiment, seed=trial_seed(purpose, subject, index))
        score = world.score(TrialStart(key, "cpu", purpose, subject, "val", 0))
        assert score is not None
        return score

    assert campaign(draw, 40) == [record.reason for record in searched]
    assert {VerdictReason.IMPROVED, VerdictReason.NOT_SIGNIFICANT} < {record.reason for record in searched}


def window_keeps(campaigns: int) -> float:
    """False keeps per 100 null candidates through `plan` itself, with four slots and a lookahead of eight."""
    kept = 0
    for seed in range(campaigns):
        spec = make_spec(limits={"experiments": CANDIDATES}, tier={"maxParallel": 4})
        machine = Machine(spec, World(seed), slots=4, brisk=True)
        machine.run()
        assert abs(machine.world.levels[0] - BASELINE_BPB) < 1e-9
        kept += sum(record.verdict is Verdict.ACCEPTED for record in machine.experiments)
    return 100.0 * kept / (campaigns * CANDIDATES)


def test_candidates_measured_ahead_of_their_turn_are_not_kept_by_chance_more_often(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rate = window_keeps(100)
    with capsys.disabled():
        print(f"\nfalse keeps per 100 null candidates through plan, lookahead 8, 100 campaigns: {rate:.2f}")
    assert rate <= 0.5


if __name__ == "__main__":
    print(f"through plan, lookahead 8, 400 campaigns: {window_keeps(400):.3f} false keeps per 100")
