"""What of the request a decision depends on, read from the spec once a pass."""

from __future__ import annotations

from dataclasses import dataclass

from autoresearch_operator.api.run import ResearchRunSpec
from autoresearch_operator.research.accept import Rules
from autoresearch_operator.research.records import Observed

AUDIT_PAIRS = 64
"""(row, cut) pairs of the causality audit of an ordinary run: enough to find a cheat that looks ahead often."""

AUDITED_PAIRS_TO_LAND = 2048
"""Pairs that an accepted candidate's confirmation runs have passed together: 0.15 % of positions cheating, or less."""

STARVED_ABOVE_GPU = 0.03
STARVED_ABOVE_CPU = 0.5
"""On a CPU the reference varied by 40 % between runs whose numbers of steps differed by 7 %: cores share caches and
memory, and a budget in CPU-seconds evens out the rest. Half as slow again is a machine that was given to others."""


@dataclass(frozen=True, slots=True)
class Terms:
    """The fixed side of a planning pass."""

    rules: Rules
    tier: str
    lookahead: int
    """Candidate n waits for the verdict of candidate n - lookahead, and sees no later one."""
    slots: int
    starved_above: float | None
    """A reference time this share above the tier's usual means a starved run; None: speed changes no result."""
    gpus: int
    price_per_gpu_hour: float | None
    max_vram_bytes: int | None
    experiments: int
    duration_seconds: float | None
    gpu_hours: float | None
    dollars: float | None
    consecutive_failures: int
    target_bpb: float | None

    @classmethod
    def of(cls, spec: ResearchRunSpec, observed: Observed) -> Terms:
        """Read the first tier's terms.

        The lookahead follows the spec's maxParallel, not the slots of the machine of the hour, so that a run under
        step budgets gives the same branch on another machine. Unset, it follows the slots.
        """
        tier, limits, acceptance = spec.tiers[0], spec.limits, spec.acceptance
        return cls(
            rules=Rules(acceptance.looks, acceptance.significance, acceptance.min_improvement),
            tier=tier.name,
            lookahead=max(4, 2 * (tier.max_parallel or observed.slots)),
            slots=observed.slots,
            starved_above=starved_above(spec),
            gpus=tier.gpus,
            price_per_gpu_hour=tier.price_per_gpu_hour,
            max_vram_bytes=tier.max_vram_bytes,
            experiments=limits.experiments,
            duration_seconds=limits.duration_seconds,
            gpu_hours=limits.gpu_hours,
            dollars=limits.dollars,
            consecutive_failures=limits.consecutive_failures,
            target_bpb=limits.target_bpb,
        )


def starved_above(spec: ResearchRunSpec) -> float | None:
    """The share above the usual reference time at which a run counts as starved; None under a budget in steps."""
    tier = spec.tiers[0]
    if tier.budget.kind == "steps":
        return None
    return STARVED_ABOVE_GPU if tier.gpus > 0 else STARVED_ABOVE_CPU
