"""The noise of one run: a variance pooled over groups of repeats, and the exact t quantiles that go with it.

Two runs of one commit differ by their seed, and on a shared machine by its hour. So a *group* holds runs of one
commit that were made for one purpose at about the same time; only the spread within groups counts. A mean that
drifts from hour to hour then moves whole groups and leaves the noise as it is.

Quantiles come from the distribution function P(T > t) = I_x(v/2, 1/2) / 2 with x = v / (v + t^2) (Abramowitz and
Stegun, Handbook of Mathematical Functions, 26.7.1 and 26.5.27), where I is the regularised incomplete beta function
of mpmath. scipy would give the same figures and weigh more than the rest of the operator's image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import mpmath


@dataclass(frozen=True, slots=True)
class NoisePool:
    """A pooled variance. Immutable: `with_group` gives a new pool, so a look can add its own runs and be undone."""

    squares: float = 0.0
    """Sum over all groups of squared distances from the group's mean, (bits per byte)^2."""
    degrees: int = 0
    """Degrees of freedom: runs less groups."""

    def with_group(self, scores: Sequence[float]) -> NoisePool:
        """The pool after one more group of runs of one commit. A group of one run says nothing and changes nothing."""
        if len(scores) < 2:
            return self
        return NoisePool(self.squares + sum_of_squares(scores), self.degrees + len(scores) - 1)

    @property
    def sd(self) -> float | None:
        """Standard deviation of one run, bits per byte; None while no group has two runs."""
        return math.sqrt(self.squares / self.degrees) if self.degrees else None


def mean(scores: Sequence[float]) -> float:
    """Arithmetic mean, in the order given, so that the same runs always give the same bits."""
    return sum(scores) / len(scores)


def sum_of_squares(scores: Sequence[float]) -> float:
    """Sum of squared distances from the mean."""
    middle = mean(scores)
    return sum((score - middle) ** 2 for score in scores)


@lru_cache(maxsize=65536)
def t_quantile(alpha: float, degrees: int) -> float:
    """The t with P(T > t) = `alpha` for Student's distribution with `degrees` degrees of freedom.

    `alpha` is one-sided and in (0, 0.5). Without degrees of freedom nothing can be shown: infinity. Good to 12
    digits; about 4 ms the first time, then a look-up.
    """
    if not 0.0 < alpha < 0.5:
        raise ValueError(f"alpha is {alpha}: a one-sided significance lies between 0 and 0.5, both excluded.")
    if degrees < 1:
        return math.inf
    if degrees == 1:
        return 1.0 / math.tan(math.pi * alpha)
    if degrees == 2:
        return (1.0 - 2.0 * alpha) / math.sqrt(2.0 * alpha * (1.0 - alpha))
    # Newton's method on the logarithm of the tail. The normal quantile lies left of the root, where the steps
    # cannot overshoot far, because that logarithm is concave near the middle and nearly linear in log t beyond.
    with mpmath.workdps(25):
        half = mpmath.mpf(degrees) / 2
        scale = 1 / (mpmath.sqrt(degrees) * mpmath.beta(half, mpmath.mpf(1) / 2))
        t = mpmath.mpf(NormalDist().inv_cdf(1.0 - alpha))
        for _ in range(60):
            x = degrees / (degrees + t * t)
            tail = mpmath.betainc(half, mpmath.mpf(1) / 2, 0, x, regularized=True) / 2
            slope = scale * mpmath.power(x, half + mpmath.mpf(1) / 2) / tail  # -d log(tail) / dt
            step = mpmath.log(tail / alpha) / slope
            # In log t the tail is close to a straight line, so a long step is taken there.
            t = t * mpmath.exp(step / t) if abs(step) > t / 10 else t + step
            if abs(step) < 1e-15 * t:
                break
        return float(t)
