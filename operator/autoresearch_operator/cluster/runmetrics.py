"""One run as samples, from the records and the status that decide. Pure: a scrape changes nothing and remembers
nothing."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any, Final

from autoresearch_operator.api import reasons
from autoresearch_operator.api.run import RunPhase
from autoresearch_operator.cluster import runstatus
from autoresearch_operator.cluster.meters import Meters
from autoresearch_operator.cluster.seen import Key, Object
from autoresearch_operator.cluster.state import RunState
from autoresearch_operator.cluster.tally import CANDIDATES, OTHER, USES
from autoresearch_operator.observe import catalogue as c
from autoresearch_operator.observe.catalogue import Metric, Sample
from autoresearch_operator.research.records import Interval

_REASONS: Final = frozenset(
    str(reason)
    for enum in vars(reasons).values()
    if isinstance(enum, type) and issubclass(enum, StrEnum) and enum.__name__.endswith("Reason")
    for reason in enum
)
_WORDS: Final = ("True", "False", "Unknown")


def of_run(key: Key, run: Object, state: RunState | None, meters: Meters, now: float) -> Iterator[Sample]:
    """All about one run: `run` is the object in the cluster, `state` what is known of it, if it is being carried
    out; `now` in seconds since the epoch."""
    yield from of_status(key, run.get("status") or {})
    # One of this name that was deleted and made anew is another run.
    if state is not None and state.uid == run["metadata"].get("uid"):
        yield from of_state(state, now)
    for reason, count in meters.pushes(key).items():
        yield Sample(c.PUSHES, (*key, reason), count)


def of_status(key: Key, status: Mapping[str, Any]) -> Iterator[Sample]:
    """Phase and conditions, as people see them in the cluster.

    Somebody else can write a status, too, and a label must not become whatever stands there.
    """
    for phase in RunPhase:
        yield Sample(c.RUN_PHASE, (*key, str(phase)), float(status.get("phase") == phase))
    told = {str(condition.get("type")): condition for condition in status.get("conditions") or ()}
    for type_ in reasons.ConditionType:
        condition = told.get(type_)
        if condition is None:
            continue
        word, reason = condition.get("status"), condition.get("reason")
        labels = (word if word in _WORDS else "Unknown", reason if reason in _REASONS else OTHER)
        yield Sample(c.RUN_CONDITION, (*key, str(type_), *labels), 1.0)


def of_state(state: RunState, now: float) -> Iterator[Sample]:
    """What the ledger and the plan tell; `now` in seconds since the epoch."""
    for metric, labels, value in (*_scores(state), *_tried(state), *_used(state, now)):
        # No score is better than one that nobody can draw; and a sum with NaN in it stays NaN for ever.
        if value is not None and math.isfinite(value):
            yield Sample(metric, (*state.key, *labels), float(value))


_Found = Iterator[tuple[Metric, tuple[str, ...], float | None]]


def _scores(state: RunState) -> _Found:
    standing, tier = state.plan.standing, (state.tier.name,)
    groups = (
        (standing.baseline_score, c.BASELINE, c.BASELINE_LOW, c.BASELINE_HIGH),
        (standing.incumbent_score, c.INCUMBENT, c.INCUMBENT_LOW, c.INCUMBENT_HIGH),
    )
    for score, mean, low, high in groups:
        if score is not None:
            yield mean, tier, score.mean
            yield from _ends(score, standing.noise_degrees, low, high, tier)
    yield c.NOISE, tier, standing.noise
    yield c.NOISE_DEGREES, tier, standing.noise_degrees
    for name, trial in state.tally.last.items():
        yield c.LAST_TRIAL, (name,), trial.val_bpb
        yield c.LAST_TRIAL_ENDED, (name,), trial.finished_at
        yield c.PEAK_VRAM, (name,), trial.peak_vram_bytes
    yield c.MAX_VRAM, tier, state.tier.max_vram_bytes


def _ends(score: Interval, degrees: int, low: Metric, high: Metric, tier: tuple[str, ...]) -> _Found:
    ends = runstatus.interval(score, degrees)
    if ends is not None:
        yield low, tier, ends[0]
        yield high, tier, ends[1]


def _tried(state: RunState) -> _Found:
    for labels, count in state.tally.verdicts.items():
        yield c.EXPERIMENTS, labels, count
    phases = Counter(
        str(phase)
        for number, phase in state.plan.standing.phases.items()
        if state.experiments[number].kind in CANDIDATES
    )
    for phase in reasons.ExperimentPhase:
        if phase is not reasons.ExperimentPhase.DONE:
            yield c.EXPERIMENTS_OPEN, (str(phase),), phases[str(phase)]
    yield c.LAST_ACCEPTED, (), state.tally.accepted_at
    for ended, count in state.tally.ended.items():
        yield c.TRIALS, ended, count


def _used(state: RunState, now: float) -> _Found:
    spec, tier = state.run.spec, (state.tier.name,)
    waiting = sum(1 for each in state.running.values() if each.waits)
    wanted = 0 if state.finished is not None or spec.suspend else state.slots
    for word, count in (
        ("running", len(state.running) - waiting),
        ("waiting", waiting),
        ("idle", max(0, wanted - len(state.running))),
    ):
        yield c.SLOTS, (*tier, word), count
    yield c.SLOTS_LIMIT, tier, state.slots
    gpus = {each.name: each.gpus for each in spec.tiers}
    # From 0 on: Prometheus sees no increase in a series that begins with its first trial.
    held = {(state.tier.name, use): 0.0 for use in USES} | dict(state.tally.seconds)
    for (name, use), seconds in held.items():
        yield c.SLOT_SECONDS, (name, use), seconds
        if gpus.get(name):
            yield c.GPU_SECONDS, (name, use), seconds * gpus[name]
    hours, price, limits = runstatus.gpu_hours(state, now), state.tier.price_per_gpu_hour, spec.limits
    yield c.SPENT_GPU, (), hours * 3600.0
    yield c.LIMIT_GPU, (), None if limits.gpu_hours is None else limits.gpu_hours * 3600.0
    yield c.SPENT_DOLLARS, (), None if price is None else hours * price
    yield c.LIMIT_DOLLARS, (), limits.dollars
    yield c.RUN_ACTIVE, (), state.active
    yield c.LIMIT_ACTIVE, (), limits.duration_seconds
    yield c.EXPERIMENTS_LIMIT, (), limits.experiments
