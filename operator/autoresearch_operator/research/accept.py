"""The rule that keeps an edit: one screening run, then looks of fresh runs on both sides.

Every idea gets one run. If it beats the mean of the incumbent's last runs by one noise unit, that run is thrown
away, and candidate and incumbent both run on 2, then 4, then 8 new seeds. After each look the edit is kept when
these new runs alone show what chance would show less than once in 200, 100 and 50 times; it is dropped early when
they are far from showing anything. All scores are bits per byte, lower is better, within one tier.

The standard error uses the larger of the pooled noise and the candidate's own spread, so a candidate that is
noisier than the incumbent cannot pass by luck more often than a calm one.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

from autoresearch_operator.research.noise import NoisePool, mean, sum_of_squares, t_quantile

INCUMBENT_RUNS = 12
"""A screen compares with at most this many of the incumbent's newest runs, so that it follows a drifting machine."""

IMPLAUSIBLE_RATIO = 0.6
"""A score under this part of the incumbent's mean waits for a person."""

NEAR_MISS = 0.3
"""A screened candidate this many noise units better, or more, may be bundled with others."""

_DROP_BELOW = (0.5, 0.75)
"""After the first and the second look: dropped when the difference is under this many noise units."""


@dataclass(frozen=True, slots=True)
class Rules:
    """spec.acceptance in the form that the rule uses."""

    looks: tuple[int, ...] = (2, 4, 8)
    """Runs on each side at each look, counted from the first; increasing."""
    significance: float = 0.01
    """One-sided; the looks spend 0.5, 1 and 2 times this."""
    min_improvement: float = 0.0
    """Bits per byte that an edit must gain to be worth keeping."""

    def alpha(self, look_index: int) -> float:
        """The one-sided significance asked for at a look: half at the first, twice at the last of three or more.

        Half at the first because two runs a side are few; the last look may ask for less, because what reaches it
        has not been dropped twice. A single look asks for the significance itself.
        """
        if len(self.looks) == 1:
            return self.significance
        if look_index == 0:
            return self.significance / 2
        return self.significance * (2 if look_index >= 2 and look_index == len(self.looks) - 1 else 1)

    def drop_below(self, look_index: int) -> float:
        """Noise units under which a candidate is dropped after a look; infinite after the last one."""
        if look_index >= len(self.looks) - 1:
            return math.inf
        return _DROP_BELOW[min(look_index, len(_DROP_BELOW) - 1)]

    def rebased(self) -> Rules:
        """The rules for a winner put on a new incumbent: it skips the screen and has the first two looks."""
        return Rules(self.looks[:2], self.significance, self.min_improvement)


class Outcome(Enum):
    ACCEPT = "Accept"
    DROP = "Drop"
    CONTINUE = "Continue"


@dataclass(frozen=True, slots=True)
class Screen:
    """What one run says beside the incumbent's."""

    passes: bool
    gain: float
    """Mean of the incumbent's runs minus the score: positive is better."""
    needed: float
    """The gain that passes."""
    error: float
    """Standard error of `gain`."""
    runs: int
    """Incumbent's runs compared with."""


@dataclass(frozen=True, slots=True)
class Look:
    """What a look decided, with the figures that decided it."""

    outcome: Outcome
    difference: float
    """Incumbent's mean minus candidate's: positive is better."""
    error: float
    """Standard error of `difference`; 0 only when all repeats were bit-identical."""
    needed: float
    """The difference that would be kept at this look."""
    noise: float
    """Standard deviation of one run, this candidate's runs included."""
    message: str


def screen(score: float, incumbent_runs: Sequence[float], noise: NoisePool, rules: Rules) -> Screen:
    """Compare one run of a candidate with the newest `INCUMBENT_RUNS` of the incumbent's.

    Without any run of the incumbent everything passes: the looks bring runs of the incumbent with them.
    Without a noise figure nothing does, because one noise unit is then unknown.
    """
    recent = incumbent_runs[-INCUMBENT_RUNS:]
    sd = noise.sd
    if not recent:
        return Screen(True, math.inf, 0.0, math.inf, 0)
    gain = mean(recent) - score
    if sd is None:
        return Screen(False, gain, math.inf, math.inf, len(recent))
    needed = max(rules.min_improvement, sd)
    # `gain > 0` matters only when repeats are bit-identical (noise 0) and no minimum is set.
    return Screen(gain >= needed and gain > 0.0, gain, needed, sd * math.sqrt(1.0 + 1.0 / len(recent)), len(recent))


def screen_passes(score: float, incumbent_runs: Sequence[float], noise: NoisePool, min_improvement: float) -> bool:
    """Whether one run is good enough for the candidate to be confirmed."""
    return screen(score, incumbent_runs, noise, Rules(min_improvement=min_improvement)).passes


def look(
    candidate: Sequence[float], reference: Sequence[float], noise: NoisePool, look_index: int, rules: Rules
) -> Look:
    """Decide from `rules.looks[look_index]` fresh runs a side.

    `noise` is the pool *before* this candidate's looks; the two groups are added here. Raises ValueError when the
    number of runs is not the look's: that would be a planning error, not a candidate's.
    """
    runs = rules.looks[look_index]
    if len(candidate) != runs or len(reference) != runs:
        raise ValueError(
            f"Look {look_index + 1} takes {runs} runs a side and got {len(candidate)} and {len(reference)}."
        )
    pool = noise.with_group(candidate).with_group(reference)
    difference = mean(reference) - mean(candidate)
    sd = pool.sd
    if sd is None:
        message = "One run a side and no earlier repeats: the noise is unknown, so nothing can be shown."
        return Look(Outcome.DROP, difference, math.inf, math.inf, math.inf, message)
    variance = sd * sd
    own = sum_of_squares(candidate) / (runs - 1) if runs > 1 else 0.0
    error = math.sqrt((variance + max(variance, own)) / runs)
    needed = max(t_quantile(rules.alpha(look_index), pool.degrees) * error, rules.min_improvement)
    figures = (
        f"{runs} runs a side: {difference:+.5f} bits per byte better, error {error:.5f}, "
        f"{needed:.5f} needed at look {look_index + 1} of {len(rules.looks)}"
    )
    if error == 0.0:
        figures += "; the noise is 0: repeats were bit-identical, so seeds change nothing in this script"
    if difference >= needed and difference > 0.0:
        return Look(Outcome.ACCEPT, difference, error, needed, sd, figures + ".")
    floor = rules.drop_below(look_index) * sd if sd else math.inf
    if difference >= floor:
        return Look(Outcome.CONTINUE, difference, error, needed, sd, figures + ": undecided.")
    return Look(Outcome.DROP, difference, error, needed, sd, figures + ".")


def runs_to_decide(gain: float, noise: NoisePool, rules: Rules, runs_done: int = 0) -> int | None:
    """About how many more trials (both sides together) would show `gain`, were it the true one.

    `runs_done` counts fresh runs on each side so far. None when no number would: the gain is not positive, is under
    the minimum, or the noise is unknown. An estimate for people; no decision uses it.
    """
    sd = noise.sd
    if sd is None or gain <= 0.0 or gain < rules.min_improvement:
        return None
    t = t_quantile(rules.significance, max(noise.degrees, 4))
    each = max(rules.looks[0], math.ceil(2.0 * (t * sd / gain) ** 2))
    return 2 * max(0, each - runs_done)


@lru_cache(maxsize=256)
def power(effect: float, degrees: int, rules: Rules, draws: int = 4000) -> float:
    """The probability that an edit with a true gain of `effect` noise units is kept; noise is one unit, normal.

    `rules.min_improvement` is in noise units here. Draws go through `screen` and `look` themselves with a fixed
    seed, so the figure is the same every time, good to about 0.01, and true to the rule by construction.
    """
    rng = random.Random(20250101)
    pool = NoisePool(float(degrees), degrees)
    most = rules.looks[-1]
    kept = 0
    for _ in range(draws):
        normal = [rng.gauss(0.0, 1.0) for _ in range(2 * most + INCUMBENT_RUNS + 1)]
        score, known = normal[0] - effect, normal[1 : INCUMBENT_RUNS + 1]
        if not screen(score, known, pool, rules).passes:
            continue
        candidate = [x - effect for x in normal[INCUMBENT_RUNS + 1 : INCUMBENT_RUNS + 1 + most]]
        reference = normal[INCUMBENT_RUNS + 1 + most :]
        for index, runs in enumerate(rules.looks):
            result = look(candidate[:runs], reference[:runs], pool, index, rules)
            if result.outcome is not Outcome.CONTINUE:
                kept += result.outcome is Outcome.ACCEPT
                break
    return kept / draws
