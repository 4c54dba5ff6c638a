"""From Jobs and pods to records: which trials have ended and how, and what keeps the others from running."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from autoresearch_operator.api.reasons import ProgressingReason, ReadyReason
from autoresearch_operator.cluster.options import Options
from autoresearch_operator.cluster.seen import Object, Seen
from autoresearch_operator.cluster.state import Hindrance, Running, RunState
from autoresearch_operator.engine.results import UnreadableResult, finished_record
from autoresearch_operator.manifests import observe, outcomes
from autoresearch_operator.manifests.experiment import Place
from autoresearch_operator.manifests.settings import Hardware
from autoresearch_operator.research.records import Purpose, TrialKey, TrialPhase, TrialRecord

HARDWARE_CHANGED = "HardwareChanged"
QUEUE_EVICTION = "QueueEviction"
_FAULTS = {
    outcomes.Fault.IMAGE_PULL: ReadyReason.IMAGE_PULL,
    outcomes.Fault.PODS_FORBIDDEN: ReadyReason.PODS_FORBIDDEN,
    # Something that the pod names is missing; as with a refusal, only a person can mend it.
    outcomes.Fault.CONTAINER_CONFIG: ReadyReason.PODS_FORBIDDEN,
}
_WAITS = {
    outcomes.Wait.QUEUED: ProgressingReason.QUEUED,
    outcomes.Wait.SUSPENDED: ProgressingReason.QUEUED,
    outcomes.Wait.UNSCHEDULABLE: ProgressingReason.NO_CAPACITY,
}
_PATIENCE = 3.0
"""Seconds that a pod may be unschedulable before it is worth a word: the last one's GPUs are freed in about two."""


@dataclass
class Folded:
    """What a look at Jobs and pods gave."""

    finished: list[TrialRecord] = field(default_factory=list)
    jobs: dict[TrialKey, str] = field(default_factory=dict)
    """Names of all Jobs that the watch shows, but for those that we deleted."""
    places: dict[TrialKey, Place] = field(default_factory=dict)
    hardware: dict[str, Hardware] = field(default_factory=dict)
    """Pins, those of this look included."""
    isolation: Mapping[str, object] | None = None
    """What the last scored trial said about its confinement."""
    running: dict[TrialKey, Running] = field(default_factory=dict)
    missing: list[Running] = field(default_factory=list)
    """Trials whose Job we made and no watch has shown for a while."""
    silent: list[Object] = field(default_factory=list)
    """Jobs that have had no pod for a while: their Events may tell why."""
    hindrances: list[Hindrance] = field(default_factory=list)
    faulty: list[TrialKey] = field(default_factory=list)
    """Trials that cannot begin before a person mends the run."""
    training: set[TrialKey] = field(default_factory=set)
    """Trials whose candidate has been started."""
    retry_at: dict[tuple[int, int], float] = field(default_factory=dict)
    """(experiment, seed) to when its next attempt may begin."""
    look_again_at: float | None = None
    """When the answer may change without an event, seconds since the epoch."""

    def look_by(self, when: float) -> None:
        self.look_again_at = when if self.look_again_at is None else min(self.look_again_at, when)


def fold(state: RunState, seen: Seen, now: float, options: Options) -> Folded:
    """Looks at every Job of the run. Changes nothing."""
    folded = Folded(hardware=dict(state.hardware))
    pods = _by_owner(seen.pods)
    found: dict[TrialKey, tuple[Object, TrialRecord]] = {}
    for job in seen.jobs.values():
        try:
            record = observe.running_record(job)
        except observe.NotATrial:
            continue
        name = str(job["metadata"]["name"])
        if name in state.deleted_jobs:
            continue
        folded.jobs[record.key] = name
        # A trial of an experiment that the ledger lacks is taken up once that experiment was made again.
        settled = record.key in state.trials or record.key.experiment >= len(state.experiments)
        if not settled and not _is_a_strangers(state, record.key):
            found[record.key] = job, record
    # In the order of seeds, so that what is pinned does not depend on the order of events.
    for key in sorted(found, key=lambda key: (key.experiment, key.seed, key.attempt)):
        job, record = found[key]
        pod = observe.pod_of(job, pods.get(job["metadata"].get("uid"), ()))
        _take(folded, state, _record(record, job, pod), job, observe.outcome(job, pod, now), now, options)
    for key, known in state.running.items():
        if key in found:
            continue
        if known.seen:
            lost = observe.outcome(None, _orphan(seen.pods, known), now)
            _take(folded, state, known.record, None, lost, now, options)
        else:
            folded.running[key] = known
            if now - known.created_at >= options.lost_job_after:
                folded.missing.append(known)
            else:
                folded.look_by(known.created_at + options.lost_job_after)
    return folded


def _is_a_strangers(state: RunState, key: TrialKey) -> bool:
    """Whether a Job measures again what we have, and nobody here asked for that: a second operator lost sight of the
    first attempt. Its score must not be in the ledger beside ours."""
    if (key.experiment, key.seed) not in state.scored or key in state.running:
        return False
    return all(start.key != key for start in state.plan.starts)


def _record(record: TrialRecord, job: Object, pod: Object | None) -> TrialRecord:
    return record if pod is None else observe.running_record(job, pod)


def _take(
    folded: Folded,
    state: RunState,
    record: TrialRecord,
    job: Object | None,
    outcome: outcomes.Outcome,
    now: float,
    options: Options,
) -> None:
    key = record.key
    match outcome:
        case outcomes.Finished():
            folded.places[key] = Place(outcome.pod_uid, outcome.node, outcome.product, outcome.driver)
            folded.finished.append(_finished(folded, record, outcome))
            return
        case outcomes.Lost():
            folded.places[key] = Place(outcome.pod_uid, outcome.node or "")
            if outcome.retry_after:
                folded.retry_at[key.experiment, key.seed] = now + outcome.retry_after
            folded.finished.append(
                replace(
                    record,
                    phase=TrialPhase.LOST,
                    detail=outcome.reason[:120],
                    message=outcome.message[:400],
                    # A pod that no node took held no GPU, and costs nothing.
                    started_at=outcome.finished_at if outcome.started_at is None else outcome.started_at,
                    finished_at=outcome.finished_at,
                )
            )
            return
        case outcomes.Invalid():
            folded.places[key] = Place(outcome.pod_uid, outcome.node)
            folded.finished.append(
                replace(
                    record,
                    phase=TrialPhase.INVALID,
                    reason=outcome.reason,
                    message=outcome.message[:400],
                    started_at=outcome.started_at,
                    finished_at=outcome.finished_at,
                )
            )
            return
        case outcomes.RunFault():
            folded.hindrances.append(Hindrance(_FAULTS[outcome.reason], outcome.message))
            folded.faulty.append(key)
        case outcomes.Waiting():
            _wait(folded, job, outcome, now, options)
        case outcomes.Running():
            folded.places[key] = Place(outcome.pod_uid, outcome.node)
            if outcome.training_since is not None:
                folded.training.add(key)
            if outcome.look_again_at is not None:
                folded.look_by(outcome.look_again_at)
    known = state.running.get(key)
    name = job["metadata"]["name"] if job is not None else known.job if known else ""
    waits = isinstance(outcome, outcomes.Waiting) and outcome.node is None
    folded.running[key] = Running(record, name, known.created_at if known else now, seen=job is not None, waits=waits)


def _wait(folded: Folded, job: Object | None, waiting: outcomes.Waiting, now: float, options: Options) -> None:
    """Why a trial has not begun, once it has lasted."""
    if waiting.reason in _WAITS:
        patience = _PATIENCE if waiting.reason is outcomes.Wait.UNSCHEDULABLE else 0.0
        if now - waiting.since >= patience:
            folded.hindrances.append(Hindrance(_WAITS[waiting.reason], waiting.message))
        else:
            folded.look_by(waiting.since + patience)
    elif job is not None and waiting.node is None:
        if now - waiting.since >= options.silent_job_after:
            folded.silent.append(job)
        else:
            folded.look_by(waiting.since + options.silent_job_after)


def _finished(folded: Folded, running: TrialRecord, outcome: outcomes.Finished) -> TrialRecord:
    record = replace(running, started_at=outcome.started_at)
    try:
        record = finished_record(record, outcome.result, finished_at=outcome.finished_at)
    except UnreadableResult as error:
        return replace(
            record,
            phase=TrialPhase.LOST,
            detail="UnreadableResult",
            message=str(error)[:400],
            finished_at=outcome.finished_at,
        )
    if record.phase is TrialPhase.LOST:
        return record
    here = Hardware(outcome.product or None, outcome.driver or None, outcome.image_id or None)
    pinned = folded.hardware.get(record.tier)
    if pinned is None and record.purpose is Purpose.BASELINE and record.phase is TrialPhase.SCORED:
        pinned = folded.hardware[record.tier] = here
    difference = _difference(pinned, here)
    if difference:
        where = f" on node {outcome.node}" if outcome.node else ""
        return replace(
            record,
            phase=TrialPhase.LOST,
            reason=None,
            val_bpb=None,
            detail=HARDWARE_CHANGED,
            message=f"not scored: it ran{where} with {difference}; scores of different hardware do not compare"[:400],
        )
    isolation = outcome.result.get("isolation")
    if record.phase is TrialPhase.SCORED and isinstance(isolation, Mapping):
        folded.isolation = isolation
    return record


def _difference(pinned: Hardware | None, here: Hardware) -> str:
    """In words, what differs from what the tier's baseline ran on; empty when nothing known does."""
    if pinned is None:
        return ""
    pairs = (
        ("product", pinned.product, here.product),
        ("driver", pinned.driver, here.driver),
        ("image", pinned.image_id, here.image_id),
    )
    return ", ".join(f"{what} {new} (the baseline: {old})" for what, old, new in pairs if old and new and old != new)


def nodes_to_avoid(state: RunState, experiment: int, seed: int) -> list[str]:
    """Nodes that lost two attempts of one measurement, and nodes whose hardware is not the baseline's.

    None when no other node is known: it is a hard rule for the scheduler, and a pod that may go nowhere waits for ever.
    """
    lost: defaultdict[str, int] = defaultdict(int)
    other: set[str] = set()
    known = {place.node for place in state.places.values() if place.node}
    for key, place in state.places.items():
        trial = state.trials.get(key)
        if trial is None or trial.phase is not TrialPhase.LOST or not place.node:
            continue
        if trial.detail == HARDWARE_CHANGED:
            other.add(place.node)
        elif (key.experiment, key.seed) == (experiment, seed):
            lost[place.node] += 1
    avoided = other | {node for node, times in lost.items() if times >= 2}
    return sorted(avoided) if known - avoided else []


def _by_owner(pods: Mapping[str, Object]) -> dict[str | None, list[Object]]:
    found: dict[str | None, list[Object]] = defaultdict(list)
    for pod in pods.values():
        for owner in pod["metadata"].get("ownerReferences") or ():
            found[owner.get("uid")].append(pod)
    return found


def _orphan(pods: Mapping[str, Object], known: Running) -> Object | None:
    """The pod that a deleted Job left behind, should it still tell how it ended."""
    mine: Sequence[Object] = [
        pod
        for pod in pods.values()
        if (pod["metadata"].get("labels") or {}).get("batch.kubernetes.io/job-name") == known.job
    ]
    return mine[0] if len(mine) == 1 else None
