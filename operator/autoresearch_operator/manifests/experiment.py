"""The Experiment object of a candidate, its status, and the trials that a status tells of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from autoresearch_operator.api.base import API_VERSION
from autoresearch_operator.api.experiment import MAX_TRIALS, TrialStatus
from autoresearch_operator.api.reasons import ConditionType, ExperimentPhase, Verdict
from autoresearch_operator.manifests.names import (
    EXPERIMENT_KIND,
    LABEL_EXPERIMENT,
    RUN_KIND,
    Object,
    experiment_name,
    ownership,
    run_labels,
    seconds,
    stamp,
    trial_name,
)
from autoresearch_operator.research.records import ExperimentRecord, Purpose, TrialKey, TrialPhase, TrialRecord

_DIGITS = 6
"""Decimals of what people read, far below any noise; trials keep every bit, because a lost ledger is made from them."""
_LINE = 200
"""Characters of a title or a proposer's name."""
_SENTENCE = 1024
_TRIAL_SENTENCE = 512
_LEAST_SCORE, _MOST_SCORE = 1e-9, 100.0
"""The API's range of scores. A model that diverged may be worse than 100 bits per byte, and the ledger says by how
much; a status that the API server refuses would hold up everything else."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a trial ran; empty words are not known."""

    pod_uid: str = ""
    node: str = ""
    product: str = ""
    driver: str = ""


def experiment(run: Object, record: ExperimentRecord, experiments: Sequence[ExperimentRecord]) -> dict[str, Any]:
    """The Experiment of a candidate. `experiments` in order of number; its base is among them.

    The body follows from the record alone, so a repeated creation that meets an object with the same
    `spec.commit` has nothing left to do.
    """
    base = record if record.base == record.number else experiments[record.base]
    name = run["metadata"]["name"]
    return {
        "apiVersion": API_VERSION,
        "kind": EXPERIMENT_KIND,
        "metadata": {
            "name": experiment_name(name, record.number),
            "namespace": run["metadata"]["namespace"],
            "labels": {**run_labels(name), LABEL_EXPERIMENT: str(record.number)},
            **ownership(run, RUN_KIND),
        },
        "spec": {
            "number": record.number,
            "kind": str(record.kind),
            "commit": record.commit,
            "tree": record.tree,
            "base": base.landed_commit or base.commit,
            "title": _line(record.title) or "untitled",
            "proposer": _line(record.proposer) or "unknown",
        },
    }


def status(
    record: ExperimentRecord,
    trials: Iterable[TrialRecord],
    previous: Object | None,
    now: float,
    *,
    phase: ExperimentPhase | None = None,
    places: Mapping[TrialKey, Place] | None = None,
) -> dict[str, Any]:
    """The whole status that the Experiment should have; the same arguments give the same status.

    `trials` are those with `subject` = this experiment, in any order; others are left out. `previous` is the status
    that it has: finished trials in it stay as they are, because they are final. `phase` is the plan's word for a
    candidate that is not done; `places` tells where trials ran, and what it leaves out is taken from `previous`.
    """
    before = previous or {}
    whole: dict[str, Any] = {
        "phase": str(record.phase if record.verdict or phase is None else phase),
        "conditions": [_finished_condition(record, before, now)],
        "trials": _trials(record, trials, before, places or {}),
    }
    if record.message:
        whole["message"] = record.message[:_SENTENCE]
    if record.verdict is not None and record.reason is not None:
        whole["verdict"], whole["reason"] = str(record.verdict), str(record.reason)
    if record.val_bpb is not None:
        whole["valBPB"] = round(_score(record.val_bpb), _DIGITS)
    if record.delta is not None:
        whole["delta"] = round(record.delta, _DIGITS)
    # The baseline stands on its own commit from the beginning; the API knows a landed commit with its verdict only.
    if record.verdict is Verdict.ACCEPTED and record.landed_commit is not None:
        whole["landedCommit"] = record.landed_commit
    return whole


def finished_trials(item: Object) -> list[TrialRecord]:
    """The finished trials that an Experiment's status tells of, for a ledger that lost its last minutes.

    A trial that is not readable, or without its purpose, is left out: the measurement is made again.
    """
    number = int(item["spec"]["number"])
    records = []
    for entry in item.get("status", {}).get("trials") or ():
        try:
            trial = TrialStatus.model_validate(entry, by_alias=True, by_name=False)
        except ValidationError:
            continue
        record = _record(trial, number)
        if record is not None and record.finished:
            records.append(record)
    return records


def places_of(item: Object) -> dict[TrialKey, Place]:
    """Where the trials that an Experiment's status tells of ran."""
    number = int(item["spec"]["number"])
    return {
        TrialKey(int(entry.get("experiment", number)), int(entry["seed"]), int(entry["attempt"])): Place(
            str(entry.get("podUID", "")),
            str(entry.get("node", "")),
            str(entry.get("product", "")),
            str(entry.get("driver", "")),
        )
        for entry in item.get("status", {}).get("trials") or ()
    }


def _trials(
    record: ExperimentRecord, trials: Iterable[TrialRecord], before: Object, places: Mapping[TrialKey, Place]
) -> list[dict[str, Any]]:
    """Entries in the order in which they were first told, then by start. 32 fit; scores go before faults."""
    kept = {_identity(entry): dict(entry) for entry in before.get("trials") or ()}
    fresh: dict[tuple[str, int | None], tuple[TrialRecord, dict[str, Any]]] = {}
    for trial in trials:
        if trial.subject != record.number:
            continue
        entry = _entry(trial, record.number, places.get(trial.key, Place()))
        told = kept.get(_identity(entry))
        if told is None:
            fresh[_identity(entry)] = (trial, entry)
        elif told.get("phase") == str(TrialPhase.RUNNING):
            kept[_identity(entry)] = {**told, **entry}
    room = MAX_TRIALS - len(kept)
    wanted = sorted(fresh.values(), key=lambda pair: (pair[0].phase is TrialPhase.LOST, *_order(pair[0])))[
        : max(0, room)
    ]
    return [*kept.values(), *(entry for trial, entry in sorted(wanted, key=lambda pair: _order(pair[0])))]


def _order(trial: TrialRecord) -> tuple[float, int, int, int]:
    return trial.started_at, trial.key.experiment, trial.key.seed, trial.key.attempt


def _identity(entry: Mapping[str, Any]) -> tuple[str, int | None]:
    return str(entry["name"]), entry.get("experiment")


def _entry(trial: TrialRecord, number: int, place: Place) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "name": trial_name(trial.tier, trial.key),
        "tier": trial.tier,
        "seed": trial.key.seed,
        "attempt": trial.key.attempt,
        "purpose": str(trial.purpose),
        "phase": str(trial.phase),
        "startedAt": stamp(trial.started_at),
    }
    scored = trial.phase is TrialPhase.SCORED and trial.val_bpb is not None
    optional = {
        "experiment": trial.key.experiment if trial.key.experiment != number else None,
        "reason": str(trial.reason) if trial.reason is not None else None,
        "message": _sentence(trial) or None,
        "valBPB": _score(trial.val_bpb) if scored and trial.val_bpb is not None else None,
        "auditPairs": trial.audit_pairs or None,
        "trainTokens": trial.train_tokens or None,
        "peakVRAMBytes": trial.peak_vram_bytes,
        "peakMemoryBytes": trial.peak_memory_bytes,
        "tokensPerSecond": trial.tokens_per_second,
        "referenceSeconds": trial.reference_seconds,
        "cpuSeconds": trial.cpu_seconds,
        "finishedAt": stamp(trial.finished_at) if trial.finished_at is not None else None,
        "podUID": place.pod_uid or None,
        "node": place.node or None,
        "product": place.product[:128] or None,
        "driver": place.driver[:64] or None,
    }
    return {**entry, **{key: value for key, value in optional.items() if value is not None}}


def _record(trial: TrialStatus, number: int) -> TrialRecord | None:
    if trial.purpose is None:
        return None
    measured = number if trial.experiment is None else trial.experiment
    return TrialRecord(
        key=TrialKey(measured, trial.seed, trial.attempt),
        tier=trial.tier,
        purpose=Purpose(str(trial.purpose)),
        subject=number,
        phase=TrialPhase(str(trial.phase)),
        reason=trial.reason,
        message=trial.message,
        val_bpb=trial.val_bpb,
        audit_pairs=trial.audit_pairs or 0,
        train_tokens=trial.train_tokens or 0,
        tokens_per_second=trial.tokens_per_second,
        reference_seconds=trial.reference_seconds,
        peak_memory_bytes=trial.peak_memory_bytes,
        peak_vram_bytes=trial.peak_vram_bytes,
        started_at=seconds(trial.started_at) or 0.0,
        finished_at=seconds(trial.finished_at),
        cpu_seconds=trial.cpu_seconds,
    )


def _finished_condition(record: ExperimentRecord, before: Object, now: float) -> dict[str, Any]:
    done = record.verdict is not None and record.reason is not None
    state = "True" if done else "False"
    told: Mapping[str, Any] = next(
        (one for one in before.get("conditions") or () if one.get("type") == ConditionType.FINISHED), {}
    )
    since = told.get("lastTransitionTime") if told.get("status") == state else None
    return {
        "type": str(ConditionType.FINISHED),
        "status": state,
        "reason": str(record.reason) if done else str(ExperimentPhase.PENDING),
        "message": record.message[:_SENTENCE] if done else "",
        "lastTransitionTime": since or stamp(now),
    }


def _sentence(trial: TrialRecord) -> str:
    """The finer name of the reason has no field of its own, so it stands before the sentence."""
    named = trial.detail and trial.detail not in trial.message
    return (f"{trial.detail}: {trial.message}" if named else trial.message).rstrip(": ")[:_TRIAL_SENTENCE]


def _score(value: float) -> float:
    return min(_MOST_SCORE, max(_LEAST_SCORE, value))


def _line(text: str) -> str:
    """One line that fits, without characters that a terminal would obey."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())[:_LINE]
