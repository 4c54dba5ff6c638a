"""When starting more trials would only cost: the last ones all came to nothing for a reason that will not pass."""

from __future__ import annotations

from collections.abc import Iterable

from autoresearch_operator.cluster.fold import HARDWARE_CHANGED
from autoresearch_operator.cluster.seen import Object
from autoresearch_operator.cluster.state import RunState
from autoresearch_operator.research.records import TrialPhase, TrialRecord

HARDWARE_TRIES = 3
EVICTION_TRIES = 2
OUT_OF_PATIENCE = "EvictedDueToPodsReadyTimeout"
"""The reason of Kueue's Event about a Workload that was not ready in time."""
PAUSE = 600.0
"""Seconds until it is tried again: each try costs a full trial, and a person who mends it should not wait for long."""


def pause_until(state: RunState) -> float | None:
    """Until when nothing is started, seconds since the epoch; None: no pause."""
    ends = [
        PAUSE + (trials[-1].finished_at or 0.0) if len(trials := on_other_hardware(state)) >= HARDWARE_TRIES else 0.0,
        PAUSE + state.evicted_at[-1] if evicted(state) else 0.0,
    ]
    return max(ends) or None


def on_other_hardware(state: RunState) -> list[TrialRecord]:
    """The last trials, as far as all of them ran on other hardware than the baseline; in the order of their ends."""
    found: list[TrialRecord] = []
    for trial in reversed(state.trials.values()):
        if trial.phase is not TrialPhase.LOST or trial.detail != HARDWARE_CHANGED:
            break
        found.append(trial)
    return found[::-1]


def evicted(state: RunState) -> bool:
    """Whether a queue ran out of patience with trials that were training, again and again."""
    return len(state.evicted_at) >= EVICTION_TRIES


def out_of_patience(job: str, events: Iterable[Object]) -> bool:
    """Whether Kueue says that it took back a Job's place because its pod was not ready in time.

    Asked of the Workload, which Kueue names after the Job: of the Job itself it only says that it was stopped, and not
    even that when the Job is gone a moment later.
    """
    return any(
        event.get("reason") == OUT_OF_PATIENCE
        and str((event.get("regarding") or {}).get("name", "")).startswith(f"job-{job}-")
        for event in events
    )
