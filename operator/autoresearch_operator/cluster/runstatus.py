"""A run's status: what it is derived from is the plan, the records and the repository; nothing in it is truth."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from autoresearch_operator.api.reasons import (
    BranchUpdatedReason,
    ConditionType,
    IsolatedReason,
    ProgressingReason,
    ReadyReason,
    Verdict,
)
from autoresearch_operator.api.run import RunPhase
from autoresearch_operator.api.trainer import Evaluation
from autoresearch_operator.cluster.canaries import Network
from autoresearch_operator.cluster.conditions import Wanted, kept, merged
from autoresearch_operator.cluster.objects import says
from autoresearch_operator.cluster.pauses import HARDWARE_TRIES, evicted, on_other_hardware
from autoresearch_operator.cluster.state import RunState
from autoresearch_operator.manifests.names import stamp
from autoresearch_operator.research.noise import t_quantile
from autoresearch_operator.research.records import ExperimentRecord, Interval

_UNTIL_KNOWN = frozenset({ConditionType.BRANCH_UPDATED, ConditionType.ISOLATED})
"""Conditions that stay as they were until a push or a trial tells anew, as after a start of the operator."""
_DATA = "the validation data is in no place that a candidate can read"


def status_of(state: RunState, previous: Mapping[str, Any], now: float) -> dict[str, Any]:
    """The whole status to write. `previous` is the one in the cluster: transitions are counted from it."""
    before = kept(previous.get("conditions") or ())
    wanted = conditions_of(state, before)
    told = {want.type for want in wanted}
    wanted += [each for each in before if each.type in _UNTIL_KNOWN and each.type not in told]
    phase, reason = _phase(state, wanted)
    standing, tier = state.plan.standing, state.tier
    baseline, head = standing.baseline_score, standing.incumbent_score
    hours = gpu_hours(state, now)
    result: dict[str, Any] = {
        "phase": str(phase),
        "reason": reason,
        "conditions": merged(previous.get("conditions") or (), wanted, generation=state.generation, now=now),
        "observedGeneration": state.generation,
        "branch": state.repository.branch,
        "repository": state.repository.clone_url,
        "ledgerRef": state.repository.ledger_ref,
        "activeSeconds": float(int(state.active)),
        "counts": _counts(state),
        "tiers": [_tier(state, name, baseline, head) for name in (each.name for each in state.run.spec.tiers)],
        "spend": {
            "gpuHours": round(hours, 3),
            "dollars": round(hours * (tier.price_per_gpu_hour or 0.0), 2),
            "tokens": 0,
        },
    }
    started = state.repository.details.get("started_at")
    if isinstance(started, int | float):
        result["startedAt"] = stamp(float(started))
    if head is not None and state.experiments:
        record = state.experiments[standing.incumbent]
        result["best"] = {
            "tier": tier.name,
            "commit": _commit(record),
            "valBPB": round(head.mean, 6),
            "experiment": record.number,
        }
        if baseline is not None:
            result["gain"] = round(baseline.mean - head.mean, 6)
    return result


def patch_of(desired: Mapping[str, Any], previous: Mapping[str, Any]) -> dict[str, Any]:
    """A merge patch from one status to the other: fields that are gone are nulled, or they would stay for ever."""
    patch = {name: value for name, value in desired.items() if not says(previous.get(name), value)}
    patch.update({name: None for name in previous if name not in desired})
    return patch


def conditions_of(state: RunState, before: Sequence[Wanted] = ()) -> list[Wanted]:
    """What the conditions should say; `before` is what they say."""
    found = [_ready(state), _progressing(state)]
    found += [condition for condition in (_branch(state), _isolated(state, before)) if condition is not None]
    plan = state.plan
    if state.finished is not None:
        if plan.failed is not None:
            found.append(Wanted(ConditionType.FAILED, True, plan.failed, plan.message))
        elif plan.complete is not None:
            found.append(Wanted(ConditionType.COMPLETE, True, plan.complete, plan.message))
    return found


def _ready(state: RunState) -> Wanted:
    stopping = next((one for one in state.obstacles if one.stops), None)
    if stopping is not None:
        return Wanted(ConditionType.READY, False, stopping.reason, stopping.message)
    source = state.repository.source_commit[:12]
    return Wanted(ConditionType.READY, True, ReadyReason.VERIFIED, f"The source is there (commit {source}).")


def _progressing(state: RunState) -> Wanted:
    plan, hindered = state.plan, [one for one in state.obstacles if not one.stops]
    if state.finished is not None:
        return Wanted(ConditionType.PROGRESSING, False, plan.failed or plan.complete or "Finished", plan.message)
    if still := _standstill(state):
        return Wanted(ConditionType.PROGRESSING, False, *still)
    if hindered:
        waiting = f"{len(hindered)} of {len(state.running)} trials wait: {hindered[0].message}"
        moves = len(hindered) < len(state.running)
        return Wanted(ConditionType.PROGRESSING, moves, hindered[0].reason, waiting)
    message = plan.message or f"{len(state.running)} of {state.slots} slots are in use."
    if len(state.run.spec.tiers) > 1:
        message += f" This version measures on the first tier ({state.tier.name}) only."
    return Wanted(ConditionType.PROGRESSING, True, plan.progressing, message)


def _standstill(state: RunState) -> tuple[ProgressingReason, str] | None:
    """Why nothing is started although the run is not over."""
    if state.run.spec.suspend:
        left = f"{len(state.running)} trials are finishing" if state.running else "nothing runs"
        return ProgressingReason.SUSPENDED, f"spec.suspend is true: nothing starts, {left}."
    other = on_other_hardware(state)
    if len(other) >= HARDWARE_TRIES:
        return ProgressingReason.HARDWARE_CHANGED, other[-1].message
    if evicted(state):
        return (
            ProgressingReason.KUEUE_PODS_READY_TIMEOUT,
            "The queue took back the place of trials that were training, before they were ready in its sense: a trial "
            "trains in an init container. Switch waitForPodsReady off for this queue, or raise its timeout above the "
            "length of a trial.",
        )
    if state.slots == 0:
        return ProgressingReason.NO_CAPACITY, "spec.tiers[0].maxParallel is 0, so nothing starts: raise it."
    return None


def _branch(state: RunState) -> Wanted | None:
    if state.diverged:
        return Wanted(ConditionType.BRANCH_UPDATED, False, BranchUpdatedReason.DIVERGED, state.diverged)
    if state.published is None:
        return None
    reason, message = state.published.reason, state.published.message
    return Wanted(ConditionType.BRANCH_UPDATED, state.published.ok, reason, message)


def _isolated(state: RunState, before: Sequence[Wanted]) -> Wanted | None:
    """From what the trusted launcher reported of the last scored trial and, where only a NetworkPolicy holds the
    candidate, from what the namespace's canary showed. Silent until one of them tells something."""
    if state.run.spec.trainer.evaluation is Evaluation.SELF_REPORTED:
        message = "Scores are what the candidates printed: nothing here can tell a result from a claim."
        return Wanted(ConditionType.ISOLATED, False, IsolatedReason.SELF_REPORTED, message)
    said = None if state.isolation is None else str(state.isolation.get("network", "none"))
    if said == "seccomp":
        message = f"Candidates can open no network socket; {_DATA}."
        return Wanted(ConditionType.ISOLATED, True, IsolatedReason.ENFORCED, message)
    if said is None and state.network is None:
        return None
    if said is None or said == "networkpolicy":
        why = "A trial of several GPUs needs the network of its own pod, so only a NetworkPolicy keeps it from others"
    else:
        why = f"The last trial's launcher could not close the network to the candidate (it says {said!r})"
    return _by_policy(why, state.network, next((each for each in before if each.type is ConditionType.ISOLATED), None))


def _by_policy(why: str, network: Network | None, before: Wanted | None) -> Wanted:
    answer = None if network is None else network.answer
    if network is None or answer is None:
        if network is not None and not network.tried and before is not None and before.status:
            return before  # proven before the operator's start, and about to be tried again
        unknown = "and it is not known yet whether this cluster carries NetworkPolicies out"
        doubt = (network.doubt if network is not None else "") or "run `autoresearch doctor`"
        message = f"{why}, {unknown}: {doubt}."
        # Unknown only while the first canary is under way: what could not be proven counts as not isolated.
        status = None if network is not None and not network.tried else False
        return Wanted(ConditionType.ISOLATED, status, IsolatedReason.NETWORK_POLICY_NOT_ENFORCED, message)
    when = datetime.fromtimestamp(answer.at, UTC).strftime("%Y-%m-%d %H:%M UTC")
    later = f" What was tried later told nothing: {network.doubt}." if network.doubt else ""
    if answer.enforced:
        message = f"{why}, and this cluster carries it out (tried {when}): {answer.message}; {_DATA}.{later}"
        return Wanted(ConditionType.ISOLATED, True, IsolatedReason.ENFORCED, message)
    advice = "Install a network that does, or use tiers of one GPU."
    message = f"{why}, and this cluster does not carry it out (tried {when}): {answer.message}. {advice}{later}"
    return Wanted(ConditionType.ISOLATED, False, IsolatedReason.NETWORK_POLICY_NOT_ENFORCED, message)


def _phase(state: RunState, wanted: list[Wanted]) -> tuple[RunPhase, str]:
    by_type = {condition.type: condition for condition in wanted}
    if failed := by_type.get(ConditionType.FAILED):
        return RunPhase.FAILED, str(failed.reason)
    if complete := by_type.get(ConditionType.COMPLETE):
        return RunPhase.COMPLETE, str(complete.reason)
    ready, progressing = by_type[ConditionType.READY], by_type[ConditionType.PROGRESSING]
    telling = str(progressing.reason if ready.status else ready.reason)
    if state.run.spec.suspend:
        return RunPhase.SUSPENDED, telling
    measured = bool(state.experiments) and state.experiments[0].verdict is not None
    return RunPhase.RUNNING if measured else RunPhase.PENDING, telling


def _counts(state: RunState) -> dict[str, int]:
    counted = state.counted()
    verdicts = [record.verdict for record in counted]
    begun = {running.record.subject for running in state.running.values()}
    pending = sum(
        1 for r in counted if r.verdict is None and r.number not in begun and not state.by_subject.get(r.number)
    )
    return {
        "done": sum(1 for verdict in verdicts if verdict is not None),
        "accepted": verdicts.count(Verdict.ACCEPTED),
        "rejected": verdicts.count(Verdict.REJECTED),
        "invalid": verdicts.count(Verdict.INVALID),
        "pending": pending,
        "running": len(state.running),
    }


def _tier(state: RunState, name: str, baseline: Interval | None, head: Interval | None) -> dict[str, Any]:
    result: dict[str, Any] = {"name": name}
    if name == state.tier.name and state.experiments:
        standing = state.plan.standing
        result["noiseDegrees"] = standing.noise_degrees
        if standing.noise is not None:
            result["noise"] = _significant(standing.noise)
        if baseline is not None:
            result["baseline"] = _measured(state.experiments[0], baseline, standing.noise_degrees)
        if head is not None:
            result["incumbent"] = _measured(state.experiments[standing.incumbent], head, standing.noise_degrees)
    pinned = state.hardware.get(name)
    if pinned is not None:
        known = {"product": pinned.product, "driver": pinned.driver, "imageID": pinned.image_id}
        result.update({field: value for field, value in known.items() if value})
    return result


def _measured(record: ExperimentRecord, score: Interval, degrees: int) -> dict[str, Any]:
    result: dict[str, Any] = {"commit": _commit(record), "valBPB": round(score.mean, 6), "runs": score.runs}
    if (ends := interval(score, degrees)) is not None:
        result["interval"] = [round(end, 6) for end in ends]
    return result


def interval(score: Interval, degrees: int) -> tuple[float, float] | None:
    """The 95 % interval of a mean, bits per byte; None while nothing is known of the noise."""
    if not math.isfinite(score.error) or degrees <= 0:
        return None
    reach = t_quantile(0.025, degrees) * score.error
    return max(0.0, score.mean - reach), score.mean + reach


def _commit(record: ExperimentRecord) -> str:
    return record.landed_commit or record.commit


def _significant(value: float) -> float:
    """Four digits: noise is known to two at best."""
    return float(f"{value:.4g}")


def gpu_hours(state: RunState, now: float) -> float:
    """GPU-hours of all trials, those that run included."""
    running = sum(max(0.0, now - each.charged_from(now).started_at) for each in state.running.values())
    return (state.search_seconds + running) * state.tier.gpus / 3600.0
