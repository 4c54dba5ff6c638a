"""From a plan's decision to the record that is kept, and to the commit of an accepted edit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from autoresearch_operator.api.reasons import ExperimentPhase, Verdict
from autoresearch_operator.engine.sources import Sources
from autoresearch_operator.gateways.landing import commit_message
from autoresearch_operator.research.records import Decision, ExperimentRecord, TrialRecord


def decided(
    decision: Decision,
    experiments: Sequence[ExperimentRecord],
    trials: Sequence[TrialRecord],
    sources: Sources,
    run: str,
) -> ExperimentRecord:
    """The record of a decided experiment. An accepted one has its landing commit written, on no ref yet.

    `run` is "<namespace>/<name>", for the commit's trailer. The result follows from the arguments alone, so a decision
    that is carried out twice gives the same commit.
    """
    record = experiments[decision.number]
    when = sources.time_of(record.number, last_end(record, trials))
    result = replace(
        record,
        phase=ExperimentPhase.DONE,
        verdict=decision.verdict,
        reason=decision.reason,
        message=decision.message,
        val_bpb=decision.val_bpb,
        delta=decision.delta,
        delta_error=decision.delta_error,
        decided_at=when,
    )
    if decision.verdict is not Verdict.ACCEPTED or record.number == 0:
        return result
    parent = experiments[record.base]  # nothing is accepted on another base than the incumbent
    message = commit_message(
        record.title,
        f"{record.hypothesis}\n\n{decision.message}",
        {
            "Run": run,
            "Experiment": record.number,
            "Candidate": record.commit,
            "Proposer": record.proposer,
            "Val-BPB": decision.val_bpb,
            "Delta": decision.delta,
            "Delta-Error": decision.delta_error,
        },
    )
    return replace(result, landed_commit=sources.land(record, parent, message, when))


def last_end(record: ExperimentRecord, trials: Sequence[TrialRecord]) -> float:
    """When the last trial that decided it ended: a fact of the record, not of the pass that noticed."""
    ends = (trial.finished_at for trial in trials if trial.subject == record.number)
    return max((end for end in ends if end is not None), default=record.created_at)
