"""What an error that a pass raised means for its run: a condition, a delay, or a fault of this program."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from autoresearch_operator.api.load import InvalidResource
from autoresearch_operator.api.reasons import ReadyReason
from autoresearch_operator.cluster import thinking
from autoresearch_operator.cluster.objects import NotOurs
from autoresearch_operator.cluster.repositories import NotReady
from autoresearch_operator.cluster.runrepository import SaveFailed
from autoresearch_operator.cluster.seen import KubeError
from autoresearch_operator.gateways.errors import GitError, SourceTooLarge, StorageFull
from autoresearch_operator.manifests import source
from autoresearch_operator.proposers.knobs import KnobError

STOPPED_FOR = 60.0
"""Seconds that a run rests after another operator's objects were found."""
UNREACHABLE_FOR = 5.0


@dataclass(frozen=True, slots=True)
class Fault:
    """What a raised error means for the run."""

    reason: StrEnum | None
    """None: nothing that a person has to know."""
    message: str
    retry_after: float | None
    rests: bool = False
    """Events before `retry_after` do not wake it."""


def fault_of(error: BaseException) -> Fault | None:
    """None: a fault of this program."""
    text = str(error)
    fault: Fault | None = None
    match error:
        case InvalidResource():
            problems = "; ".join(f"{each.path}: {each.sentence}" for each in error.problems)
            fault = Fault(ReadyReason.INVALID_SPEC, problems, None)
        case SaveFailed():
            fault = Fault(None, text, 0.5)
        case NotReady():
            fault = Fault(error.reason, text, error.retry_after)
        case thinking.LedgerMoved():
            fault = Fault(None, text, 0.5)
        case NotOurs():
            fault = Fault(ReadyReason.BRANCH_IN_USE, text, STOPPED_FOR, rests=True)
        case source.SourceTooLarge() | SourceTooLarge():
            fault = Fault(ReadyReason.SOURCE_TOO_LARGE, text, STOPPED_FOR)
        case KnobError():
            fault = Fault(ReadyReason.SOURCE_NOT_FOUND, text, STOPPED_FOR)
        case StorageFull() | GitError():
            message = f"the run's repository on the operator's volume cannot be written: {text}"
            fault = Fault(ReadyReason.REPOSITORY_UNUSABLE, message, 10.0)
        case KubeError():
            fault = _kube_fault(error)
    return fault


def _kube_fault(error: KubeError) -> Fault:
    if error.status in (401, 403) and "being terminated" in error.message:
        return Fault(None, error.message, None)
    if error.status in (403, 422):
        return Fault(ReadyReason.PODS_FORBIDDEN, error.message, STOPPED_FOR / 2)
    # 404 and 409: an object went or came between look and write. 0, 429 and 5xx: the API server is busy.
    return Fault(None, error.message, 1.0 if error.status in (404, 409) else UNREACHABLE_FOR)
