"""What became of a trial, from statuses shaped as the control plane writes them."""

from __future__ import annotations

from typing import Any

import podshapes as shapes
import pytest
from autoresearch_operator.api.reasons import VerdictReason
from autoresearch_operator.manifests.names import stamp
from autoresearch_operator.manifests.observe import (
    DELETION_PATIENCE,
    holds_slot,
    outcome,
)
from autoresearch_operator.manifests.outcomes import (
    Finished,
    Invalid,
    Lost,
    Running,
    Waiting,
)
from podshapes import T0, disrupted, ended, finished_pod, pod, running, running_job, waiting

NOW = T0 + 100
JOB = running_job()


def test_a_scored_trial_is_finished_with_all_that_identifies_its_hardware() -> None:
    found = outcome(JOB, finished_pod(), NOW)
    assert isinstance(found, Finished)
    assert found.result["valBPB"] == 0.9812
    assert (found.node, found.pod_uid, found.finished_at, found.started_at) == ("gpu-1", "pod-uid", T0 + 65, T0)
    assert (found.product, found.driver) == ("NVIDIA-H100-80GB-HBM3", "575.57.08")
    assert found.image_id.endswith("@sha256:" + "9" * 64)


def test_a_result_without_hardware_takes_product_and_driver_from_the_nodes_labels() -> None:
    labels = {"nvidia.com/gpu.product": "NVIDIA-L4", "nvidia.com/cuda.driver-version.full": "570.1"}
    found = outcome(JOB, finished_pod({**shapes.RESULT, "hardware": {}}), NOW, node_labels=labels)
    assert isinstance(found, Finished)
    assert (found.product, found.driver) == ("NVIDIA-L4", "570.1")


def test_the_judges_result_counts_as_soon_as_it_has_ended_whatever_pod_and_job_say() -> None:
    early = finished_pod(phase="Running", gate=running(T0 + 1))
    assert isinstance(outcome(JOB, early, NOW), Finished)
    assert not holds_slot(early)
    disrupted_after = finished_pod(phase="Failed", conditions=[disrupted("DeletionByTaintManager")])
    assert isinstance(outcome(JOB, disrupted_after, NOW), Finished)
    assert isinstance(outcome(None, finished_pod(), NOW), Finished)


def test_only_the_judges_termination_message_is_a_result() -> None:
    forged = pod("Failed", train=ended("Error", 1, message='{"version": 1, "outcome": "Scored", "valBPB": 0.1}'))
    assert isinstance(outcome(JOB, forged, NOW), Lost)


@pytest.mark.parametrize(
    "message", ["", "Traceback (most recent call last)", '{"version": 1, "outc', "[]", "{}", "0.98"]
)
def test_a_judge_that_wrote_nothing_readable_is_measured_again(message: str) -> None:
    found = outcome(JOB, finished_pod(message), NOW)
    assert isinstance(found, Lost)
    assert found.reason == "NoResult"
    assert found.node == "gpu-1"
    assert "judge Completed (exit code 0)" in found.message


# The candidate's own doing ------------------------------------------------------------------------------------------


def test_a_candidate_that_the_kernel_killed_for_memory_is_invalid() -> None:
    found = outcome(JOB, pod("Failed", gate=ended("Completed", 0), train=ended("OOMKilled", 137)), NOW)
    assert isinstance(found, Invalid)
    assert found.reason is VerdictReason.HOST_OUT_OF_MEMORY
    assert found.finished_at == T0 + 60


def test_a_model_that_the_judge_cannot_hold_is_invalid() -> None:
    found = outcome(JOB, finished_pod("", phase="Failed", judge=ended("OOMKilled", 137)), NOW)
    assert isinstance(found, Invalid)
    assert "handed over" in found.message


def test_exit_code_137_alone_says_nothing_about_memory() -> None:
    found = outcome(JOB, pod("Failed", train=ended("Error", 137)), NOW)
    assert isinstance(found, Lost)
    assert found.reason == "NoResult"


@pytest.mark.parametrize(
    "message",
    [
        'Usage of EmptyDir volume "work" exceeds the limit "2Gi". ',
        'Container train exceeded its local ephemeral storage limit "2Gi". ',
        "Pod ephemeral local storage usage exceeds the total limit of containers 4Gi. ",
    ],
)
def test_an_eviction_for_the_pods_own_storage_is_the_candidates_doing(message: str) -> None:
    found = outcome(JOB, pod("Failed", train=ended("Error", 137), reason="Evicted", message=message), NOW)
    assert isinstance(found, Invalid)
    assert found.reason is VerdictReason.HOST_STORAGE
    assert found.message == message


def test_an_eviction_for_storage_that_only_we_write_to_is_not() -> None:
    message = 'Usage of EmptyDir volume "account" exceeds the limit "1Gi". '
    found = outcome(JOB, pod("Failed", train=ended("Error", 137), reason="Evicted", message=message), NOW)
    assert isinstance(found, Lost)


def test_the_last_backstop_is_a_timeout_of_a_candidate_that_had_begun_and_of_no_other() -> None:
    late: dict[str, Any] = {
        "reason": "DeadlineExceeded",
        "message": "Pod was active on the node longer than the deadline",
    }
    found = outcome(JOB, pod("Failed", train=ended("Error", 137), **late), NOW)
    assert isinstance(found, Invalid)
    assert found.reason is VerdictReason.TIMEOUT
    never = pod("Failed", gate=waiting("PodInitializing"), train=waiting("PodInitializing"), **late)
    found = outcome(JOB, never, NOW)
    assert isinstance(found, Lost)
    assert found.reason == "DeadlineExceeded"


def test_a_deadline_that_somebody_set_on_the_job_counts_the_same() -> None:
    job = running_job()
    job["status"]["conditions"] = [{"type": "FailureTarget", "status": "True", "reason": "DeadlineExceeded"}]
    found = outcome(job, pod("Failed", train=ended("Error", 137)), NOW)
    assert isinstance(found, Invalid)
    assert found.reason is VerdictReason.TIMEOUT


# The infrastructure's -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reason",
    [
        "PreemptionByScheduler",
        "DeletionByTaintManager",
        "EvictionByEvictionAPI",
        "DeletionByPodGC",
        "TerminationByKubelet",
    ],
)
def test_a_disruption_is_named_as_the_control_plane_names_it(reason: str) -> None:
    found = outcome(JOB, pod("Failed", train=ended("Error", 137), conditions=[disrupted(reason, "why")]), NOW)
    assert isinstance(found, Lost)
    assert (found.reason, found.message, found.retry_after) == (reason, "why", 0.0)
    assert found.training_since == T0 + 2


def test_pressure_on_a_node_is_an_eviction_that_is_not_held_against_the_candidate() -> None:
    message = "The node was low on resource: memory. Threshold quantity: 100Mi, available: 60Mi. "
    evicted = pod(
        "Failed",
        train=ended("Error", 137),
        conditions=[disrupted("TerminationByKubelet")],
        reason="Evicted",
        message=message,
    )
    assert isinstance(outcome(JOB, evicted, NOW), Lost)


@pytest.mark.parametrize(("attempt", "seconds"), [(1, 1.0), (2, 2.0), (3, 5.0), (4, 5.0)])
@pytest.mark.parametrize("reason", ["UnexpectedAdmissionError", "OutOfnvidia.com/gpu", "OutOfcpu"])
def test_a_node_that_still_holds_the_last_gpus_is_asked_again_soon(reason: str, attempt: int, seconds: float) -> None:
    refused = pod("Failed", reason=reason, message="Allocate failed due to requested number of devices unavailable")
    for status in ("initContainerStatuses", "containerStatuses"):
        del refused["status"][status]
    found = outcome(running_job(attempt=attempt), refused, NOW)
    assert isinstance(found, Lost)
    assert (found.reason, found.retry_after) == (reason, seconds)


@pytest.mark.parametrize("reason", ["StartError", "ContainerCannotRun", "ContainerStatusUnknown"])
@pytest.mark.parametrize("container", ["gate", "train", "judge"])
def test_a_container_that_never_ran_is_the_infrastructures_fault(reason: str, container: str) -> None:
    found = outcome(JOB, pod("Failed", **{container: ended(reason, 128, message="no such device")}), NOW)
    assert isinstance(found, Lost)
    assert found.reason == reason
    assert container in found.message


def test_a_node_that_no_longer_answers_loses_the_trial_after_a_while_and_not_before() -> None:
    gone = pod(conditions=[disrupted("DeletionByTaintManager")])
    gone["metadata"]["deletionTimestamp"] = stamp(NOW)
    before = outcome(JOB, gone, NOW + 1)
    assert isinstance(before, Running)
    assert before.look_again_at == NOW + DELETION_PATIENCE
    after = outcome(JOB, gone, NOW + DELETION_PATIENCE + 1)
    assert isinstance(after, Lost)
    assert (after.reason, after.node) == ("DeletionByTaintManager", "gpu-1")
    gone["status"]["conditions"].pop()
    assert getattr(outcome(JOB, gone, NOW + DELETION_PATIENCE + 1), "reason", "") == "NodeLost"


def test_a_pod_that_somebody_deleted_is_lost_once_it_has_ended() -> None:
    deleted = pod("Failed", train=ended("Error", 143))
    deleted["metadata"]["deletionTimestamp"] = stamp(NOW)
    found = outcome(JOB, deleted, NOW)
    assert isinstance(found, Lost)
    assert found.reason == "PodDeleted"


def test_a_job_without_its_pod_is_lost_when_it_had_one() -> None:
    for status in (
        {"failed": 1},
        {"uncountedTerminatedPods": {"failed": ["pod-uid"]}},
        {"conditions": [{"type": "Complete", "status": "True"}]},
        {"conditions": [{"type": "FailureTarget", "status": "True", "reason": "BackoffLimitExceeded"}]},
    ):
        job = running_job()
        job["status"] |= {"active": 0, **status}
        found = outcome(job, None, NOW)
        assert isinstance(found, Lost)
        assert found.reason == "PodDeleted"


def test_a_deleted_job_takes_its_trial_with_it() -> None:
    for left in (None, pod()):
        found = outcome(None, left, NOW)
        assert isinstance(found, Lost)
        assert found.reason == "JobDeleted"


def test_a_queues_eviction_blames_no_node_and_tells_that_the_candidate_was_training() -> None:
    job = running_job(spec="{queueName: research}")
    job["spec"]["suspend"] = True
    found = outcome(job, pod("Failed", train=ended("Error", 137)), NOW)
    assert isinstance(found, Lost)
    assert (found.reason, found.node, found.training_since) == ("QueueEviction", None, T0 + 2)


def test_a_gate_that_cannot_start_is_told_in_its_own_words() -> None:
    broken = pod("Pending", gate=waiting("CrashLoopBackOff"), train=waiting("PodInitializing"))
    gate = broken["status"]["initContainerStatuses"][0]
    gate |= {"restartCount": 3, "lastState": ended("Error", 1, message="no manifest.json in /data", end=T0 + 20)}
    found = outcome(JOB, broken, NOW)
    assert isinstance(found, Lost)
    assert (found.reason, found.message) == ("GateFailed", "the gate could not start: no manifest.json in /data")
    gate["restartCount"] = 2
    assert isinstance(outcome(JOB, broken, NOW), Waiting)
