"""Reads what became of a trial from its Job and its pod. Control-plane facts only: no exit code is believed.

A trial's failure is the infrastructure's when the control plane says so, or when the trusted judge wrote nothing. The
latter cannot be told from a fault of a node, so it is measured again; five times at most, and then the plan gives the
experiment up without a score. A candidate that could bring it about would gain nothing by it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from autoresearch_operator.api.reasons import VerdictReason
from autoresearch_operator.manifests import podstatus
from autoresearch_operator.manifests.names import (
    ANNOTATION_TRIAL,
    GATE,
    JUDGE,
    LABEL_QUEUE,
    TRAIN,
    Object,
    seconds,
)
from autoresearch_operator.manifests.outcomes import (
    Fault,
    Finished,
    Invalid,
    Lost,
    Outcome,
    RunFault,
    Running,
    Wait,
    Waiting,
)
from autoresearch_operator.manifests.placement import driver_label, label_spelling, product_labels
from autoresearch_operator.research.records import Purpose, TrialKey, TrialPhase, TrialRecord

DELETION_PATIENCE = 10.0
"""Seconds past the end of its grace that a pod in deletion may take to tell how it ended: the kubelet reports within
two, and clocks differ. Then its node does not answer."""

ADMISSION_RETRIES = (1.0, 2.0, 5.0)
"""Seconds before the next attempt after a node refused a pod: it still held the last one's GPUs."""

_ADMISSION = ("UnexpectedAdmissionError", "NodeAffinity", "NodeShutdown", "Preempting", "TopologyAffinityError")
_NEVER_RAN = ("StartError", "ContainerCannotRun", "ContainerStatusUnknown")
_IMAGE = (
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "ImageInspectError",
    "RegistryUnavailable",
    "SignatureValidationFailed",
)
_GATE_STARTS = 3
"""A gate that ended this often before it was ready will not be."""


class NotATrial(ValueError):
    """A Job without a readable annotation: not one of the operator's."""


def running_record(job: Object, pod: Object | None = None) -> TrialRecord:
    """The record of a trial that runs; `started_at` is the Job's creation until the pod is on a node.

    Raises:
        NotATrial: the Job carries no readable trial annotation.
    """
    metadata = job["metadata"]
    try:
        identity = json.loads(metadata["annotations"][ANNOTATION_TRIAL])
        created = seconds(identity["startedAt"]) or podstatus.created(job)
        return TrialRecord(
            key=TrialKey(int(identity["experiment"]), int(identity["seed"]), int(identity["attempt"])),
            tier=str(identity["tier"]),
            purpose=Purpose(identity["purpose"]),
            subject=int(identity["subject"]),
            phase=TrialPhase.RUNNING,
            started_at=(podstatus.started(pod) if pod is not None else None) or created,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise NotATrial(
            f"Job {metadata.get('name')}: its annotation {ANNOTATION_TRIAL} is not readable: {error}"
        ) from None


def pod_of(job: Object, pods: Iterable[Object]) -> Object | None:
    """The Job's pod: one that has ended well before others, then the newest (a queue may have made several)."""
    uid = job["metadata"].get("uid")
    own = [pod for pod in pods if any(owner.get("uid") == uid for owner in pod["metadata"].get("ownerReferences", ()))]
    return max(own, key=lambda pod: (podstatus.phase(pod) == "Succeeded", podstatus.created(pod)), default=None)


def holds_slot(pod: Object) -> bool:
    """Whether a pod still keeps GPUs from others: not once its phase is final or its judge has ended.

    The Job's own status follows seconds later and is not waited for.
    """
    return podstatus.phase(pod) not in podstatus.FINAL and podstatus.terminated(pod, JUDGE) is None


def outcome(
    job: Object | None, pod: Object | None, now: float, *, node_labels: Mapping[str, str] | None = None
) -> Outcome:
    """What became of a trial. `now` is in seconds since the epoch; `node_labels` those of the pod's node, if known.

    `job` None: it was deleted. `pod` is the Job's, as `pod_of` finds it; None: there is none, or none yet.
    """
    if pod is not None:
        result = podstatus.result(pod, JUDGE)
        if result is not None:
            return _finished(pod, result, now, job, node_labels or {})
        if not holds_slot(pod):
            return _failed(pod, now, job)
    if job is None:
        return _lost(pod, "JobDeleted", "the trial's Job was deleted before its pod had ended", now)
    if pod is None:
        return _without_pod(job, now)
    deleted = seconds(pod["metadata"].get("deletionTimestamp"))
    if deleted is not None and now > deleted + DELETION_PATIENCE:
        # The deletion timestamp is the end of the grace, not its beginning.
        return _vanished(pod, now, suspended=bool(job["spec"].get("suspend")))
    return _alive(pod, None if deleted is None else deleted + DELETION_PATIENCE)


def creation_fault(status: int, message: str, now: float) -> RunFault | Waiting | None:
    """What the API server's refusal to create a Job or pod means; None: nothing that a run has to wait for.

    `status` is the HTTP code. A full quota empties again; any other refusal needs a person. A namespace that is being
    deleted takes the run with it.
    """
    if "exceeded quota" in message:
        return Waiting(Wait.QUOTA, message, now)
    if status in (400, 403, 422) and "being terminated" not in message:
        return RunFault(Fault.PODS_FORBIDDEN, message)
    return None


def events_fault(events: Sequence[Object], now: float) -> RunFault | Waiting | None:
    """The same from the Events of a Job without a pod: only they tell that the Job controller was refused."""
    failed = [event for event in events if event.get("reason") == "FailedCreate"]
    if not failed:
        return None
    newest = max(failed, key=lambda event: str(event.get("lastTimestamp") or event.get("eventTime") or ""))
    message = str(newest.get("message", "")).removeprefix("Error creating: ")
    # Anything else, such as a webhook that did not answer, the Job controller tries again by itself.
    refused = " is forbidden: " in message or " is invalid: " in message
    return creation_fault(403, message, now) if refused else None


# The pod has ended --------------------------------------------------------------------------------------------------


def _finished(
    pod: Object, result: Mapping[str, Any], now: float, job: Object | None, node_labels: Mapping[str, str]
) -> Finished:
    hardware = result.get("hardware")
    hardware = hardware if isinstance(hardware, Mapping) else {}
    resource = podstatus.accelerator(pod)
    product, driver = str(hardware.get("product") or ""), str(hardware.get("driver") or "")
    if resource is not None:
        product = label_spelling(product) or next(
            (node_labels[label] for label in product_labels(resource) if label in node_labels), ""
        )
        driver = driver or node_labels.get(driver_label(resource), "")
    return Finished(
        result=result,
        node=podstatus.node(pod) or "",
        pod_uid=str(pod["metadata"].get("uid", "")),
        image_id=podstatus.image_id(pod, JUDGE),
        product=product,
        driver=driver,
        started_at=_started(pod, job, now),
        finished_at=podstatus.finished(pod, JUDGE) or now,
    )


def _failed(pod: Object, now: float, job: Object | None) -> Outcome:
    """A pod that has ended without a result. The order matters: what the control plane did comes before what it saw."""
    status = pod.get("status", {})
    reason, message = str(status.get("reason", "")), str(status.get("message", ""))
    if disrupted := podstatus.disruption(pod):
        return _lost(pod, *disrupted, now)
    if reason == "Evicted" and not _ours_overran(message):
        return _invalid(pod, VerdictReason.HOST_STORAGE, message, now, job)
    if podstatus.began(pod, TRAIN) and "DeadlineExceeded" in (reason, _job_failure(job)):
        sentence = message or "the trial ran longer than all of its allowances together"
        return _invalid(pod, VerdictReason.TIMEOUT, sentence, now, job)
    if reason:
        attempt = running_record(job).key.attempt if job is not None else 1
        again = ADMISSION_RETRIES[min(attempt, len(ADMISSION_RETRIES)) - 1] if _refused_by_node(reason) else 0.0
        return _lost(pod, reason, message, now, retry_after=again)
    return _ended(pod, now, job)


def _ended(pod: Object, now: float, job: Object | None) -> Outcome:
    """The same, told by the containers."""
    for name in (GATE, TRAIN, JUDGE):
        ended = podstatus.terminated(pod, name)
        if ended is not None and ended.get("reason") in _NEVER_RAN:
            return _lost(pod, str(ended["reason"]), f"container {name}: {ended.get('message', '')}", now)
    for name, what in ((TRAIN, "the candidate"), (JUDGE, "the model that was handed over")):
        ended = podstatus.terminated(pod, name)
        if ended is not None and ended.get("reason") == "OOMKilled":
            # The judge loads torch and the candidate's model; the first has room, so it is the second that has not.
            sentence = f"{what} needed more host memory than container {name} may use"
            return _invalid(pod, VerdictReason.HOST_OUT_OF_MEMORY, sentence, now, job)
    if job is not None and job["spec"].get("suspend"):
        return _evicted_by_queue(pod, now)
    reason = "PodDeleted" if pod["metadata"].get("deletionTimestamp") else "NoResult"
    return _lost(pod, reason, f"the judge wrote no result: {podstatus.endings(pod)}", now)


def _evicted_by_queue(pod: Object, now: float) -> Lost:
    return _lost(pod, "QueueEviction", "its queue took the trial's place back", now, blame_node=False)


def _job_failure(job: Object | None) -> str:
    conditions = (job or {}).get("status", {}).get("conditions") or ()
    wanted = ("Failed", "FailureTarget")
    return next((str(one.get("reason")) for one in conditions if one.get("type") in wanted), "")


def _refused_by_node(reason: str) -> bool:
    return reason in _ADMISSION or reason.startswith("OutOf")


def _ours_overran(message: str) -> bool:
    """Whether an eviction names storage that only our own processes write to."""
    ours = ('volume "account"', 'volume "socket"', 'volume "gate-tmp"', 'volume "judge-tmp"')
    return any(name in message for name in (*ours, f"ontainer {GATE} ", f"ontainer {JUDGE} "))


def _vanished(pod: Object, now: float, *, suspended: bool) -> Lost:
    if suspended:
        return _evicted_by_queue(pod, now)
    reason, _ = podstatus.disruption(pod) or ("NodeLost", "")
    return _lost(pod, reason, "the pod was deleted, and its node has not told how it ended", now)


# The pod lives, or there is none ------------------------------------------------------------------------------------


def _alive(pod: Object, look_again_at: float | None) -> Outcome:
    node = podstatus.node(pod)
    since = podstatus.created(pod)
    if node is None:
        return _unscheduled(pod, since)
    for name, waiting in podstatus.waits(pod):
        reason, message = str(waiting.get("reason", "")), str(waiting.get("message", ""))
        if reason in _IMAGE:
            return RunFault(Fault.IMAGE_PULL, message or reason, node)
        if reason == "CreateContainerConfigError":
            return RunFault(Fault.CONTAINER_CONFIG, f"container {name}: {message}", node)
    gate = podstatus.container(pod, GATE)
    if not gate.get("started") and int(gate.get("restartCount", 0)) >= _GATE_STARTS:
        last = gate.get("lastState", {}).get("terminated", {})
        said = str(last.get("message") or f"exit code {last.get('exitCode')}").strip()
        return _lost(
            pod, "GateFailed", f"the gate could not start: {said}"[:400], seconds(last.get("finishedAt")) or since
        )
    started = podstatus.started(pod)
    if started is None or not any(podstatus.began(pod, name) for name in (GATE, TRAIN, JUDGE)):
        return Waiting(Wait.STARTING, podstatus.why_waiting(pod), started or since, node)
    return Running(
        started_at=started,
        node=node,
        pod_uid=str(pod["metadata"].get("uid", "")),
        training_since=podstatus.began(pod, TRAIN),
        look_again_at=look_again_at,
    )


def _unscheduled(pod: Object, since: float) -> Waiting:
    scheduled = podstatus.condition(pod, "PodScheduled")
    if scheduled is None or scheduled.get("status") != "False":
        return Waiting(Wait.STARTING, "the scheduler has not looked at it yet", since)
    reason = Wait.QUEUED if scheduled.get("reason") == "SchedulingGated" else Wait.UNSCHEDULABLE
    return Waiting(reason, str(scheduled.get("message", "")), seconds(scheduled.get("lastTransitionTime")) or since)


def _without_pod(job: Object, now: float) -> Outcome:
    status = job.get("status", {})
    since = seconds(status.get("startTime")) or podstatus.created(job)
    for condition in status.get("conditions", ()):
        if condition.get("status") == "True" and condition.get("type") in ("Failed", "FailureTarget", "Complete"):
            said = f"{condition.get('reason', '')}: {condition.get('message', '')}".strip(": ")
            sentence = "the pod was deleted before its result was read"
            return _lost(None, "PodDeleted", f"{sentence}; the Job says {said}" if said else sentence, now)
    if job["spec"].get("suspend"):
        if LABEL_QUEUE in job["metadata"].get("labels", {}):
            return Waiting(Wait.QUEUED, "its queue has not admitted it", podstatus.created(job))
        return Waiting(Wait.SUSPENDED, "the Job is suspended, and no queue has it", podstatus.created(job))
    ended = int(status.get("failed", 0)) + int(status.get("succeeded", 0)) + int(status.get("terminating", 0))
    uncounted = status.get("uncountedTerminatedPods", {})
    if ended or uncounted.get("failed") or uncounted.get("succeeded"):
        return _lost(None, "PodDeleted", "the pod was deleted before its result was read", now)
    return Waiting(Wait.STARTING, "the Job controller has not made its pod yet", since)


# Shared -------------------------------------------------------------------------------------------------------------


def _started(pod: Object, job: Object | None, now: float) -> float:
    started = podstatus.started(pod)
    if started is None and job is not None:
        started = running_record(job).started_at
    return now if started is None else started


def _lost(
    pod: Object | None, reason: str, message: str, now: float, *, retry_after: float = 0.0, blame_node: bool = True
) -> Lost:
    return Lost(
        reason=reason,
        message=message or reason,
        node=podstatus.node(pod) if pod is not None and blame_node else None,
        pod_uid=str(pod["metadata"].get("uid", "")) if pod is not None else "",
        retry_after=retry_after,
        started_at=podstatus.started(pod) if pod is not None else None,
        training_since=podstatus.began(pod, TRAIN) if pod is not None else None,
        finished_at=(podstatus.finished(pod) if pod is not None else None) or now,
    )


def _invalid(pod: Object, reason: VerdictReason, message: str, now: float, job: Object | None) -> Invalid:
    return Invalid(
        reason=reason,
        message=message or str(reason),
        node=podstatus.node(pod) or "",
        pod_uid=str(pod["metadata"].get("uid", "")),
        started_at=_started(pod, job, now),
        finished_at=podstatus.finished(pod) or now,
    )
