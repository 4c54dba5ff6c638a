"""Quantiles, the noise pool and the rule, each by itself."""

from __future__ import annotations

import math
import random
import statistics

import pytest
from autoresearch_operator.research.accept import (
    Outcome,
    Rules,
    look,
    runs_to_decide,
    screen,
    screen_passes,
)
from autoresearch_operator.research.noise import NoisePool, t_quantile
from hypothesis import given
from hypothesis import strategies as st

scores = st.lists(st.floats(0.5, 5.0), min_size=1, max_size=12)


@pytest.mark.parametrize(
    ("alpha", "degrees", "expected"),
    [
        (0.05, 1, 6.313752),
        (0.005, 2, 9.924843),
        (0.01, 3, 4.540703),
        (0.005, 4, 4.604095),
        (0.01, 10, 2.763769),
        (0.025, 30, 2.042272),
        (0.005, 120, 2.617421),
        (0.02, 100_000, 2.0537757),
        (0.4, 3, 0.276671),
        (0.0005, 5, 6.868827),
    ],
)
def test_quantiles_are_those_of_printed_tables(alpha: float, degrees: int, expected: float) -> None:
    assert t_quantile(alpha, degrees) == pytest.approx(expected, rel=2e-6)


@given(alpha=st.floats(1e-6, 0.49), degrees=st.integers(1, 3000))
def test_quantiles_fall_with_degrees_and_with_alpha(alpha: float, degrees: int) -> None:
    here = t_quantile(alpha, degrees)
    assert here > 0
    assert t_quantile(alpha, degrees + 1) <= here * (1 + 1e-12)
    assert t_quantile(min(0.4999, alpha * 1.01), degrees) < here


def test_nothing_can_be_shown_without_degrees_of_freedom_or_with_a_foolish_alpha() -> None:
    assert t_quantile(0.01, 0) == math.inf
    with pytest.raises(ValueError, match="one-sided significance lies between"):
        t_quantile(0.5, 3)


@given(groups=st.lists(scores, max_size=6))
def test_the_pool_is_the_pooled_variance_of_the_textbook(groups: list[list[float]]) -> None:
    pool = NoisePool()
    for group in groups:
        pool = pool.with_group(group)
    told = [group for group in groups if len(group) > 1]
    degrees = sum(len(group) - 1 for group in told)
    assert pool.degrees == degrees
    if degrees:
        wanted = sum(statistics.variance(group) * (len(group) - 1) for group in told) / degrees
        assert pool.sd == pytest.approx(math.sqrt(wanted), rel=1e-6, abs=1e-9)
    else:
        assert pool.sd is None


def test_the_pool_does_not_take_a_drift_between_groups_for_noise() -> None:
    rng, calm, drifting = random.Random(1), NoisePool(), NoisePool()
    for hour in range(50):
        group = [rng.gauss(1.0, 0.01) for _ in range(4)]
        calm = calm.with_group(group)
        drifting = drifting.with_group([score + hour for score in group])
    assert drifting.sd == pytest.approx(calm.sd)


POOL = NoisePool(20 * 0.01**2, 20)


def test_a_screen_compares_with_the_twelve_newest_runs_only() -> None:
    runs = [9.0] * 5 + [2.0] * 12
    found = screen(1.98, runs, POOL, Rules())
    assert (found.runs, found.passes) == (12, True)
    assert found.gain == pytest.approx(0.02)
    assert not screen_passes(1.9901, runs, POOL, 0.0), "one noise unit is needed"
    assert not screen_passes(1.98, runs, POOL, 0.05), "the minimum is needed"


def test_a_screen_without_an_incumbents_run_passes_and_without_noise_does_not() -> None:
    assert screen_passes(1.0, [], POOL, 0.0)
    assert not screen_passes(1.0, [2.0], NoisePool(), 0.0)


def test_looks_accept_drop_and_go_on() -> None:
    rules = Rules()
    clear = look([1.90, 1.91], [2.00, 2.01], POOL, 0, rules)
    assert clear.outcome is Outcome.ACCEPT and clear.difference == pytest.approx(0.10)
    assert look([1.990, 1.999], [2.0, 2.0], POOL, 0, rules).outcome is Outcome.CONTINUE
    assert look([2.000, 1.999], [2.0, 2.0], POOL, 0, rules).outcome is Outcome.DROP
    assert look([1.995] * 8, [2.0] * 8, POOL, 2, rules).outcome is Outcome.DROP, "the last look always decides"


def test_a_difference_under_the_minimum_is_not_kept_however_sure_it_is() -> None:
    rules = Rules(min_improvement=0.2)
    assert look([1.90, 1.91], [2.00, 2.01], POOL, 0, rules).outcome is Outcome.CONTINUE
    assert look([1.70, 1.71], [2.00, 2.01], POOL, 0, rules).outcome is Outcome.ACCEPT


def test_a_candidate_noisier_than_the_incumbent_needs_more() -> None:
    calm = look([1.96, 1.96], [2.0, 2.0], POOL, 0, Rules())
    loud = look([1.90, 2.02], [2.0, 2.0], POOL, 0, Rules())
    assert calm.difference == pytest.approx(loud.difference)
    assert (calm.outcome, loud.outcome) == (Outcome.ACCEPT, Outcome.CONTINUE)
    assert loud.error > calm.error


def test_bit_identical_repeats_are_kept_when_better_and_said_to_be_identical() -> None:
    still = NoisePool(0.0, 4)
    better = look([1.9, 1.9], [2.0, 2.0], still, 0, Rules())
    assert better.outcome is Outcome.ACCEPT and "bit-identical" in better.message
    assert look([2.0, 2.0], [2.0, 2.0], still, 0, Rules()).outcome is Outcome.DROP
    assert not screen_passes(2.0, [2.0], still, 0.0)


def test_levels_follow_the_significance_and_the_looks() -> None:
    assert [Rules().alpha(index) for index in range(3)] == [0.005, 0.01, 0.02]
    assert [Rules(significance=0.05).alpha(index) for index in range(3)] == [0.025, 0.05, 0.1]
    assert Rules((8,)).alpha(0) == 0.01
    assert [Rules().rebased().alpha(index) for index in range(2)] == [0.005, 0.01]
    assert Rules().rebased().drop_below(1) == math.inf
    assert [Rules((1, 2, 4, 8)).drop_below(index) for index in range(4)] == [0.5, 0.75, 0.75, math.inf]


def test_a_look_with_the_wrong_number_of_runs_is_refused() -> None:
    with pytest.raises(ValueError, match="takes 2 runs a side and got 1 and 2"):
        look([1.0], [1.0, 2.0], POOL, 0, Rules())


def test_the_runs_that_would_decide_grow_as_the_gain_shrinks() -> None:
    rules = Rules()
    needed = [runs_to_decide(gain, POOL, rules) for gain in (0.1, 0.02, 0.005, 0.001)]
    assert all(count is not None for count in needed)
    assert needed == sorted(needed, key=lambda count: count or 0)
    assert needed[0] == 4
    assert runs_to_decide(0.02, POOL, rules, runs_done=2) == (needed[1] or 0) - 4
    assert runs_to_decide(-0.01, POOL, rules) is None
    assert runs_to_decide(0.01, POOL, Rules(min_improvement=0.02)) is None
    assert runs_to_decide(0.01, NoisePool(), rules) is None
