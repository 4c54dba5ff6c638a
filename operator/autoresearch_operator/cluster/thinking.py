"""The part of a pass that blocks: loading, planning, proposing, and writing the ledger. Called in a thread.

The order is that of the local loop, and so is what is decided: verdicts are written together with the trials that
they follow from, and an accepted edit together with its place on the branch, before any object tells of them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from autoresearch_operator.api.reasons import Verdict
from autoresearch_operator.api.run import ResearchRun
from autoresearch_operator.cluster.repositories import RunRepository
from autoresearch_operator.cluster.seen import Key, Object
from autoresearch_operator.cluster.state import RunState, hardware_from
from autoresearch_operator.engine.asking import proposers_of
from autoresearch_operator.engine.candidates import CandidateMaker
from autoresearch_operator.engine.decisions import decided
from autoresearch_operator.gateways.errors import Outcome
from autoresearch_operator.manifests.experiment import finished_trials, places_of
from autoresearch_operator.research.plan import plan
from autoresearch_operator.research.records import CandidateWanted, ExperimentRecord, Plan, TrialRecord

logger = logging.getLogger(__name__)


class LedgerMoved(Exception):
    """Another operator wrote the ledger: what we know of it is old, and all of it has to be read again."""


def open_state(key: Key, body: Object, run: ResearchRun, repository: RunRepository) -> RunState:
    """The state of a run as its ledger has it.

    Raises:
        GitError: the ledger cannot be read.
    """
    loaded = repository.load()
    details = repository.details
    seed = _whole(details.get("seed"))
    metadata = body["metadata"]
    state = RunState(
        key=key,
        uid=str(metadata["uid"]),
        body=body,
        run=run,
        generation=int(metadata.get("generation", 0)),
        repository=repository,
        maker=maker_of(run, repository, seed),
        seed=seed,
        experiments=list(loaded.experiments),
        hardware=hardware_from(details),
        active=_active(details, body),
        finished=details.get("finished"),
    )
    state.add_trials(loaded.trials)
    state.tally = state.tally.grown(state.trials, state.experiments)
    state.dirty = set(range(len(state.experiments)))
    return state


def maker_of(run: ResearchRun, repository: RunRepository, seed: int) -> CandidateMaker:
    return CandidateMaker(run.spec, repository.sources, proposers_of(run.spec), seed)


def merge_statuses(state: RunState, objects: Mapping[int, Object], numbers: Sequence[int]) -> None:
    """Takes trials from Experiments that the ledger lacks: its volume was restored from an older copy, or is new.

    Only from an Experiment with the same commit as the record: another one measured something else.
    """
    scored = frozenset(state.scored)
    for number in numbers:
        item = objects.get(number)
        if item is None or item["spec"].get("commit") != state.experiments[number].commit:
            continue
        known = len(state.experiments)
        missing = [
            trial
            for trial in finished_trials(item)
            if trial.key not in state.trials
            and trial.key.experiment < known
            # A second score of the same measurement is another operator's.
            and (trial.key.experiment, trial.key.seed) not in scored
        ]
        if missing:
            state.add_trials(missing)
            state.unsaved = True
        state.places.update(places_of(item))


def think(state: RunState, now: float) -> Plan:
    """Plans; writes verdicts until there is none left to write.

    Raises:
        LedgerMoved, StorageFull, GitError.
    """
    while True:
        current = plan(state.run.spec, state.observed(now), now)
        if not current.decisions or state.diverged:
            return current
        _decide(state, current, now)


def _log(run: str, record: ExperimentRecord) -> None:
    score = "" if record.val_bpb is None else f", {record.val_bpb:.6f} bits per byte"
    more = {"run": run, "experiment": record.number}
    logger.info("#%d %s: %s%s", record.number, record.verdict, record.reason, score, extra=more)


def _decide(state: RunState, current: Plan, now: float) -> None:
    name = f"{state.key.namespace}/{state.key.name}"
    trials = list(state.trials.values())
    records = [
        decided(decision, state.experiments, trials, state.repository.sources, name) for decision in current.decisions
    ]
    landed = [record.number for record in records if record.verdict is Verdict.ACCEPTED and record.number > 0]
    trouble = _save(state, records, landed)
    if trouble and landed:
        # The branch is not where the edit can be put. Nothing is lost by writing the rest, and a person may move it.
        state.diverged, state.diverged_at = trouble, now
        records = [record for record in records if record.number not in landed]
        trouble = _save(state, records, ())
    if trouble:
        raise LedgerMoved(trouble)
    for record in records:
        _log(name, record)
        if record.number in landed:
            gain = f", {record.delta:.5f} better" if record.delta is not None else ""
            score = f"{record.val_bpb:.5f}" if record.val_bpb is not None else "no score"
            message = f"Experiment {record.number} ({record.title}) scored {score}{gain}; it is on the branch"
            state.notes.append(("Normal", "Accepted", f"{message} as {(record.landed_commit or '')[:12]}."))


def _save(state: RunState, records: Sequence[ExperimentRecord], landed: Sequence[int]) -> str:
    """Writes everything known and these verdicts; the sentence why a landing is impossible, or empty."""
    everything = list(state.experiments)
    for record in records:
        everything[record.number] = record
    saved = state.repository.save(everything, list(state.trials.values()), landed=landed, details=state.details())
    if not saved.ok:
        if saved.outcome is Outcome.CONFLICT:
            raise LedgerMoved(saved.message)
        return saved.message or str(saved.outcome)
    state.experiments = list(saved.experiments)
    state.tally = state.tally.grown(state.trials, state.experiments)
    state.unsaved = False
    state.publish_wanted = True
    state.dirty.update(record.number for record in records)
    return ""


def save(state: RunState) -> None:
    """Writes what the ledger lacks.

    Raises:
        LedgerMoved, StorageFull, GitError.
    """
    trouble = _save(state, (), ())
    if trouble:
        raise LedgerMoved(trouble)


def check_current(state: RunState) -> None:
    """To be asked before trials are started on the strength of what is known.

    Raises:
        LedgerMoved: another operator wrote the ledger meanwhile; a trial that it ended would be measured again.
    """
    if not state.repository.is_current():
        raise LedgerMoved("another operator works on this volume")


def make_candidates(state: RunState, wanted: Sequence[CandidateWanted], objects: Mapping[int, Object]) -> int:
    """Makes and records candidates, and gives their number; none when every proposer is exhausted.

    Raises:
        LedgerMoved, StorageFull, GitError; KnobError: the script's own comments are wrong.
    """
    created: list[ExperimentRecord] = []
    for candidate in wanted:
        record = state.maker.make(candidate, [*state.experiments, *created])
        if record is None:
            state.exhausted = True
            break
        created.append(record)
    if created:
        state.experiments += created
        numbers = [record.number for record in created]
        merge_statuses(state, objects, numbers)
        save(state)
        state.dirty.update(numbers)
    return len(created)


def set_finished(state: RunState, why: str | None) -> None:
    """Notes in the ledger that the run has ended, which frees its branch, or that it goes on.

    Raises:
        LedgerMoved, StorageFull, GitError.
    """
    if state.finished != why:
        state.finished = why
        save(state)


def _active(details: Mapping[str, Any], body: Object) -> float:
    """Seconds at work so far: the ledger is written more rarely, the status may have been lost."""
    told = body.get("status", {}).get("activeSeconds")
    noted = details.get("active_seconds")
    return max(float(value) if isinstance(value, int | float) else 0.0 for value in (told, noted))


def _whole(value: object) -> int:
    return value if isinstance(value, int) else 0


def trials_of(state: RunState, number: int) -> list[TrialRecord]:
    """All trials that help to decide an experiment, running ones included."""
    running = [each.record for each in state.running.values() if each.record.subject == number]
    return [*state.by_subject.get(number, ()), *running]
