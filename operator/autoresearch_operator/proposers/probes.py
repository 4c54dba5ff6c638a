"""The ordered list of first tries: one knob, one step, in the order in which a short run profits most.

The list is made anew from the incumbent for every candidate, so it goes on where an accepted step helped (a line
search), turns round where one failed, halves its steps near a known worse value, and retries an old failure only late,
after the script around it has changed.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field

from autoresearch_operator.api.reasons import Verdict, VerdictReason
from autoresearch_operator.proposers.domains import Choices, Domain, Range
from autoresearch_operator.proposers.interface import HistoryEntry
from autoresearch_operator.proposers.literals import KnobValue, NotALiteral, literal_value, number, same_value
from autoresearch_operator.proposers.space import Space, is_ordered

_STALE = 1
"""Rounds by which a try waits that failed before, on an older base: what is new comes first."""
_INACTIVE = 4
_LINEAR_STEP = 0.4
_COUNT_STEP = 0.25
"""A full step on a linear range, as a share of the range: of real numbers, and of whole ones."""


@dataclass(frozen=True, slots=True)
class Probe:
    """One knob set to one value. Lower rounds come first; -1 goes on with what just helped."""

    key: str
    value: KnobValue
    round: int
    rank: float


@dataclass(slots=True)
class _Evidence:
    """What single-knob steps from the present value have shown. A flag is True where the step was made on this base."""

    worse: list[tuple[KnobValue, bool]] = field(default_factory=list)
    """Values known to be no better."""
    tried: list[tuple[KnobValue, bool]] = field(default_factory=list)
    """Values measured without a clear outcome, or waiting to be combined."""
    direction: int = 0
    """The way an accepted step of this knob went last."""
    gain: float = 0.0


def probes(space: Space) -> list[Probe]:
    """Every probe from the incumbent, best first. Changes of a knob that is in flight are left out."""
    found = [
        probe
        for order, key in enumerate(space.domains)
        if key not in space.in_flight
        for probe in _knob_probes(space, key, order / 1000)
    ]
    return sorted(found, key=lambda probe: (probe.round, probe.rank))


def _knob_probes(space: Space, key: str, order: float) -> Iterator[Probe]:
    role, domain, present = space.role(key), space.domains[key], space.value(key)
    evidence = _evidence(space, key)
    late = (0 if role.rank <= 5 else 1) + (_INACTIVE if space.inactive(key) else 0)
    rank = role.rank + order
    if not is_ordered(domain) and isinstance(domain, Choices):
        start = (domain.index(present) or 0) + 1
        others = [*domain.values[start:], *domain.values[: start - 1]]
        for place, value in enumerate(others):
            wait = _wait(value, present, evidence, ordered=False)
            if wait is not None:
                yield Probe(key, value, late + place + wait, rank)
        return
    at = number(present)
    first = evidence.direction or role.first
    for turn, direction in enumerate((first, -first)):
        for size in (1.0, 0.5):
            step = _step(domain, at, direction, size, role.factor)
            if step is None:
                continue
            wait = _wait(step, present, evidence, ordered=True)
            if wait is None:
                continue
            if role.axis == "learning rate":
                # The best learning rate moves with everything else: what failed on an older base says little.
                wait = 0
            if evidence.direction == direction and size == 1 and wait == 0:
                # The step that helped is repeated at once, the larger gain first.
                yield Probe(key, step, -1, -evidence.gain)
            else:
                yield Probe(key, step, late + (3 if size < 1 else 2 * turn) + wait, rank)


def _step(domain: Domain, present: float, direction: int, size: float, factor: float) -> KnobValue | None:
    """The value one step (times `size`) up or down; None at the end of the domain."""
    if isinstance(domain, Range):
        if domain.log or (domain.integer and present > 0 and domain.low > 0):
            target = present * factor ** (direction * size)
        else:
            # Counts are searched more finely than shares: from 0 of 4, one is the interesting step.
            part = _COUNT_STEP if domain.integer else _LINEAR_STEP
            target = present + direction * size * part * (domain.high - domain.low)
        value = domain.clip(target)
        if (value - present) * direction <= 0 and domain.integer:
            value = domain.clip(present + direction * domain.step)
        return value if (value - present) * direction > 0 else None
    beyond = sorted(
        (value for value in domain.values if isinstance(value, int | float) and (value - present) * direction > 0),
        key=lambda value: abs(value - present),
    )
    if not beyond:
        return None
    target = present * factor ** (direction * size)
    return min(beyond, key=lambda value: abs(value - target)) if present > 0 else beyond[0]


def _wait(value: KnobValue, present: KnobValue, evidence: _Evidence, ordered: bool) -> int | None:
    """Rounds that a try has to wait because of what is known; None when it is not to be tried from this base."""
    wait = 0
    for known, fresh in (*evidence.worse, *evidence.tried):
        beyond = same_value(known, value)
        if ordered and not beyond and (known, fresh) in evidence.worse:
            # At or past a value that was worse, seen from the present one.
            step, bad = number(value) - number(present), number(known) - number(present)
            beyond = step * bad > 0 and abs(step) >= abs(bad)
        if beyond and fresh:
            return None
        if beyond:
            wait = _STALE
    return wait


def _evidence(space: Space, key: str) -> _Evidence:
    evidence, present = _Evidence(), space.value(key)
    for entry in space.single_changes.get(key, ()):
        step = _step_of(entry, key)
        if step is None:
            continue
        before, after = step
        fresh = entry.base == space.request.base
        if entry.verdict is Verdict.ACCEPTED:
            if same_value(after, present):
                evidence.worse.append((before, True))
                if isinstance(before, int | float) and isinstance(after, int | float):
                    evidence.direction = 1 if after > before else -1
                    evidence.gain = entry.delta or 0.0
        elif same_value(before, present):
            undecided = entry.delta is not None and entry.delta > 0
            if entry.reason is VerdictReason.SUPERSEDED:
                # It goes on as a combination; if that one fails, it was compared with today's incumbent or a later one.
                evidence.tried.append((after, True))
            else:
                (evidence.tried if undecided else evidence.worse).append((after, fresh))
    return evidence


def _step_of(entry: HistoryEntry, key: str) -> tuple[KnobValue, KnobValue] | None:
    """(before, after) of the one change that an entry made."""
    try:
        return literal_value(ast.parse(entry.changes[0].before, mode="eval").body), entry.values[key]
    except (SyntaxError, NotALiteral):
        return None
