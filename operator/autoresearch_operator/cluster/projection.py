"""Experiments as the record has them: what is created, what is written into their status and when, what is pruned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from autoresearch_operator.api.experiment import MAX_TRIALS
from autoresearch_operator.api.reasons import ExperimentPhase
from autoresearch_operator.cluster.objects import Objects, check_commit, owner_uid, says
from autoresearch_operator.cluster.options import Options
from autoresearch_operator.cluster.seen import Object, Seen
from autoresearch_operator.cluster.state import Projected, RunState
from autoresearch_operator.cluster.thinking import trials_of
from autoresearch_operator.manifests.experiment import status as status_of
from autoresearch_operator.research.records import TrialKey, TrialPhase

PRUNED_AT_ONCE = 50
"""Experiments deleted in one pass: after keep_experiments was lowered, thousands may be too many."""


def by_number(seen: Seen, uid: str) -> dict[int, Object]:
    """The run's own Experiments. Those of an earlier run of this name are about to be deleted, and left out."""
    return {
        int(item["spec"]["number"]): item
        for item in seen.experiments.values()
        if owner_uid(item) == uid and not item["metadata"].get("deletionTimestamp")
    }


def notice(state: RunState, found: Mapping[int, Object]) -> None:
    """Takes in which Experiments the watch shows, and which of those that it showed are gone.

    Raises:
        NotOurs: one of them is not what our record says.
    """
    for number, item in found.items():
        uid, known = str(item["metadata"]["uid"]), state.objects.get(number)
        if number in state.pruned or number >= len(state.experiments):
            continue
        if known is None or (known.seen and known.uid != uid):
            check_commit(item, state.experiments[number])
            state.objects[number] = Projected(uid, state.experiments[number].commit, 0.0, item.get("status"), seen=True)
            _recall(state, number)
            state.dirty.add(number)
        elif known.uid == uid:
            known.seen = True
    for number in [number for number, known in state.objects.items() if known.seen and number not in found]:
        forget(state, number)
    state.pruned &= found.keys()


def forget(state: RunState, number: int) -> None:
    """Takes an Experiment for gone; the garbage collector takes its ConfigMap and its Jobs."""
    state.objects.pop(number, None)
    state.config_maps.pop(number, None)
    state.dirty.add(number)


@dataclass
class Projection:
    """What is to be written now."""

    create: list[int] = field(default_factory=list)
    statuses: dict[int, dict[str, Any]] = field(default_factory=dict)
    prune: list[int] = field(default_factory=list)
    look_again_at: float | None = None
    """When a status that may wait has to be written."""


def project(state: RunState, now: float, options: Options) -> Projection:
    """Compares what the cluster has with what the record says. Changes only what is known to be in order."""
    projection = Projection()
    newest = state.newest_decided(options.keep_experiments)
    projection.prune = [number for number in sorted(state.objects) if not state.is_kept(number, newest)]
    del projection.prune[PRUNED_AT_ONCE:]
    for number in sorted(state.dirty):
        if not state.is_kept(number, newest):
            state.dirty.discard(number)
            continue
        known = state.objects.get(number)
        if known is None:
            projection.create.append(number)
            continue
        record, trials = state.experiments[number], trials_of(state, number)
        phase = state.plan.standing.phases.get(number)
        desired = status_of(record, trials, known.status, now, phase=phase, places=state.places)
        if says(known.status, desired):
            if record.verdict is not None and all(trial.finished for trial in trials):
                state.dirty.discard(number)
            continue
        due = _due(state, known, number, phase, options)
        if due is None:
            continue
        if due <= now:
            projection.statuses[number] = desired
        elif projection.look_again_at is None or due < projection.look_again_at:
            projection.look_again_at = due
    return projection


def _due(
    state: RunState, known: Projected, number: int, phase: ExperimentPhase | None, options: Options
) -> float | None:
    """When a changed status is written: verdicts at once, progress now and then, and what nobody would read never."""
    if state.experiments[number].verdict is not None:
        return 0.0
    trials = trials_of(state, number)
    if not trials:
        return None
    if number == 0 or phase in (ExperimentPhase.CONFIRMING, ExperimentPhase.LANDING):
        return known.written_at + options.status_interval
    # One run, and then a verdict: only one that takes long is worth a word in between.
    return max(min(trial.started_at for trial in trials) + options.progress_after, known.written_at + 30.0)


async def carry_out(projection: Projection, state: RunState, objects: Objects, now: float) -> None:
    """Writes it."""
    await objects.each([_creation(objects, number, now) for number in projection.create])
    await objects.each([_status(objects, number, status, now) for number, status in projection.statuses.items()])
    for number in projection.statuses:
        _recall(state, number)
    await objects.each([_pruning(objects, state, number) for number in projection.prune])


def _creation(objects: Objects, number: int, now: float) -> Any:
    async def create() -> None:
        await objects.ensure_experiment(number, now)

    return create


def _status(objects: Objects, number: int, status: dict[str, Any], now: float) -> Any:
    async def write() -> None:
        await objects.write_status(number, status, now)

    return write


def _pruning(objects: Objects, state: RunState, number: int) -> Any:
    async def prune() -> None:
        await objects.prune(number)
        state.pruned.add(number)

    return prune


def _recall(state: RunState, number: int) -> None:
    """Remembers which trials the status holds as finished: their Jobs may go."""
    known = state.objects.get(number)
    entries = ((known.status if known else None) or {}).get("trials") or ()
    for entry in entries:
        if entry.get("phase") != str(TrialPhase.RUNNING):
            state.recorded.add(
                TrialKey(int(entry.get("experiment", number)), int(entry["seed"]), int(entry["attempt"]))
            )
    if len(entries) >= MAX_TRIALS:
        # It is full; what it has no room for is in the ledger.
        state.recorded.update(trial.key for trial in state.by_subject.get(number, ()))
