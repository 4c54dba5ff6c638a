"""What a run can see: 95 % intervals, and the smallest true gain that the acceptance rule finds four times in five."""

from __future__ import annotations

from functools import lru_cache

from autoresearch_operator.research.accept import Rules, power
from autoresearch_operator.research.noise import t_quantile

_DRAWS = 500
WANTED = 0.8


def confidence_factor(degrees: int) -> float:
    """Standard errors on each side of a mean that make a 95 % interval; 0 where no noise was measured."""
    return t_quantile(0.025, degrees) if degrees > 0 else 0.0


def smallest_effect(noise: float | None, degrees: int, rules: Rules) -> float | None:
    """The true gain (bits per byte) that screen and looks together keep with 80 % probability; None without noise.

    500 draws through the rule itself: good to about a tenth of a noise unit in about 0.1 s, because `results` has to
    answer within a second.
    """
    if noise is None or noise < 0 or degrees <= 0:
        return None
    if noise == 0:
        return rules.min_improvement
    # Rounding keeps the cache useful while a run goes on; above 100 degrees nothing moves by what 500 draws can tell.
    floor = round(rules.min_improvement / noise, 2)
    return _units(min(degrees, 100), Rules(rules.looks, rules.significance, floor)) * noise


@lru_cache(maxsize=128)
def _units(degrees: int, rules: Rules) -> float:
    low, high = 0.0, 4.0 + rules.min_improvement
    while power(high, degrees, rules, _DRAWS) < WANTED and high < 1000:
        low, high = high, 2 * high
    while high - low > 0.1:
        middle = (low + high) / 2
        low, high = (middle, high) if power(middle, degrees, rules, _DRAWS) < WANTED else (low, middle)
    return (low + high) / 2
