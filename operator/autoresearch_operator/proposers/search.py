"""The built-in proposer: probes first, then an estimator, one knob at a time, with two-knob moves mixed in.

Three samplers share the space, the checks against duplicates and the `# require:` conditions:

- tpe (the default): see `probes.py` and `tpe.py`. The estimator suggests a full point; of the knobs in which it differs
  from the incumbent, only the one or two with the largest distance times the share of past changes of that knob that
  helped are changed. So every edit stays a line or two that a person can read, merge and take out again.
- grid: one knob at a time, a few points of each, in the order of the file; ends when all were tried.
- random: one uniformly drawn knob set to a uniformly drawn value: the honest control.

The answer is a function of (run's seed, number, visible history, pending candidates) and of nothing else.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, get_args

from autoresearch_operator.proposers import tpe
from autoresearch_operator.proposers.domains import Choices, Domain, Range
from autoresearch_operator.proposers.interface import Exhausted, Proposal, ProposalRequest
from autoresearch_operator.proposers.literals import KnobValue, same_value
from autoresearch_operator.proposers.probes import probes
from autoresearch_operator.proposers.space import Space, is_ordered, position

Sampler = Literal["tpe", "grid", "random"]

TRIES = 64
"""Draws before search says that it has nothing new."""
_SUGGESTIONS = 3
_URGENT_ROUND = 1
"""Probes up to this round come before anything else."""
_LAST_ROUND = 6
_GRID_POINTS = 5


@dataclass(frozen=True)
class Search:
    """Proposes new values for a script's knobs; needs no model, no network and no key."""

    sampler: Sampler = "tpe"
    _told: tpe.Told = field(default_factory=tpe.Told, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.sampler not in get_args(Sampler):
            raise ValueError(f"sampler is {self.sampler!r}: use one of {', '.join(get_args(Sampler))}")

    @property
    def name(self) -> str:
        return "search" if self.sampler == "tpe" else f"search-{self.sampler}"

    def propose(self, request: ProposalRequest) -> Proposal | Exhausted:
        """A candidate that was not measured before, or Exhausted. Raises KnobError when a file's comments are wrong."""
        space = Space(request, self.name)
        if not space.domains:
            paths = ", ".join(request.editable)
            return Exhausted(
                f"{paths} has no knobs to search: put settings at the top as NAME = literal, "
                'and add "# search: choice a, b" to text'
            )
        draw = random.Random(f"{request.seed}/{request.number}/{self.sampler}")
        for values in self._ideas(space, draw):
            proposal = space.proposal(values)
            if proposal is not None:
                return proposal
        return Exhausted(f"every value of the {len(space.domains)} knobs that search would try from here was measured")

    def _ideas(self, space: Space, draw: random.Random) -> Iterator[dict[str, KnobValue]]:
        match self.sampler:
            case "tpe":
                return _guided(space, draw, self._told)
            case "grid":
                return _grid(space)
            case "random":
                return _random(space, draw)


def _guided(space: Space, draw: random.Random, told: tpe.Told) -> Iterator[dict[str, KnobValue]]:
    waiting = probes(space)
    for probe in waiting:
        if probe.round <= _URGENT_ROUND:
            yield from _with_room(space, probe.key, probe.value)
    later = [probe for probe in waiting if _URGENT_ROUND < probe.round <= _LAST_ROUND]
    turn = draw.random()
    if turn < 0.25:
        for probe in later[:1]:
            yield from _with_room(space, probe.key, probe.value)
    yield from _estimated(space, draw, told, knobs=2 if turn > 0.75 else 1)
    for probe in later:
        yield from _with_room(space, probe.key, probe.value)
    yield from _random(space, draw)
    for key, domain in space.domains.items():
        for value in _points(domain, space.value(key)):
            yield {key: value}


def _with_room(space: Space, key: str, value: KnobValue) -> Iterator[dict[str, KnobValue]]:
    """The change, moved to the nearest value that the script's conditions allow."""
    fitting = space.snap(key, value, {})
    if fitting is not None:
        yield {key: fitting}


def _estimated(space: Space, draw: random.Random, told: tpe.Told, knobs: int) -> Iterator[dict[str, KnobValue]]:
    """Moves of `knobs` knobs towards points that the estimator suggests."""
    shares = _helped(space)
    for _ in range(_SUGGESTIONS):
        point = tpe.suggest(space, draw.getrandbits(31), told)
        if point is None:
            return
        pull = {
            key: shares[key] * _distance(space.domains[key], space.value(key), value)
            for key, value in point.items()
            if key not in space.in_flight and not same_value(value, space.value(key))
        }
        ordered = sorted(pull, key=lambda key: -pull[key])
        for first in ordered[: len(ordered) if knobs == 1 else 3]:
            move: dict[str, KnobValue] = {}
            for key in [first, *(other for other in ordered if other != first)]:
                fitting = space.snap(key, point[key], move)
                if fitting is not None:
                    move[key] = fitting
                if len(move) == knobs:
                    break
            yield move


def _helped(space: Space) -> dict[str, float]:
    """For each knob, the share of its past changes that were better than their base; 1/2 where nothing is known."""
    better, made = dict.fromkeys(space.domains, 1.0), dict.fromkeys(space.domains, 2.0)
    for entry in space.request.history:
        for change in entry.changes:
            key = f"{change.path}:{change.name}"
            if key in made:
                made[key] += 1
                better[key] += (entry.delta or 0.0) > 0
    return {key: better[key] / made[key] * (0.1 if space.inactive(key) else 1.0) for key in made}


def _distance(domain: Domain, present: KnobValue, value: KnobValue) -> float:
    return abs(position(domain, present) - position(domain, value)) if is_ordered(domain) else 0.5


def _random(space: Space, draw: random.Random) -> Iterator[dict[str, KnobValue]]:
    keys = list(space.domains)
    for _ in range(TRIES):
        key = draw.choice(keys)
        domain = space.domains[key]
        value = draw.choice(domain.values) if isinstance(domain, Choices) else domain.at(draw.random())
        yield from _with_room(space, key, value)


def _grid(space: Space) -> Iterator[dict[str, KnobValue]]:
    """Every point of every knob once in a run, whatever the incumbent was when it was tried."""
    for key, domain in space.domains.items():
        tried = [
            entry.values[key]
            for entry in (*space.request.history, *space.request.pending)
            if key in entry.values and any(f"{change.path}:{change.name}" == key for change in entry.changes)
        ]
        for value in _points(domain, space.value(key)):
            if not any(same_value(value, earlier) for earlier in tried):
                yield from _with_room(space, key, value)


def _points(domain: Domain, present: KnobValue) -> list[KnobValue]:
    """A few values that span the domain, in order, without the present one."""
    if isinstance(domain, Range):
        values: list[KnobValue] = [domain.at(i / (_GRID_POINTS - 1)) for i in range(_GRID_POINTS)]
    else:
        values = list(domain.values)
    return [value for value in dict.fromkeys(values) if not same_value(value, present)]
