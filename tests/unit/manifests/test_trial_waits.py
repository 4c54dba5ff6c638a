"""What a trial that has no result yet waits for, from statuses shaped as the control plane writes them."""

from __future__ import annotations

from typing import Any

import pytest
from autoresearch_operator.manifests.names import stamp
from autoresearch_operator.manifests.observe import (
    NotATrial,
    creation_fault,
    events_fault,
    outcome,
    pod_of,
    running_record,
)
from autoresearch_operator.manifests.outcomes import (
    Fault,
    RunFault,
    Running,
    Wait,
    Waiting,
)
from autoresearch_operator.research.records import Purpose, TrialKey, TrialPhase
from podshapes import T0, finished_pod, pod, running, running_job, waiting

NOW = T0 + 100
JOB = running_job()


def test_a_trial_runs_from_when_its_node_took_the_pod() -> None:
    found = outcome(JOB, pod(), NOW)
    assert found == Running(T0, "gpu-1", "pod-uid", T0 + 2)
    opening = pod("Pending", gate=running(T0 + 1), train=waiting("PodInitializing"))
    assert outcome(JOB, opening, NOW) == Running(T0, "gpu-1", "pod-uid", None)


def test_the_schedulers_sentence_is_passed_on() -> None:
    sentence = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
    unschedulable = pod("Pending", node=None)
    unschedulable["status"] = {
        "phase": "Pending",
        "conditions": [
            {
                "type": "PodScheduled",
                "status": "False",
                "reason": "Unschedulable",
                "message": sentence,
                "lastTransitionTime": stamp(T0 + 7),
            }
        ],
    }
    assert outcome(JOB, unschedulable, NOW) == Waiting(Wait.UNSCHEDULABLE, sentence, T0 + 7)
    unschedulable["status"]["conditions"][0]["reason"] = "SchedulingGated"
    assert getattr(outcome(JOB, unschedulable, NOW), "reason", None) is Wait.QUEUED


def test_a_suspended_job_waits_for_its_queue_or_for_whoever_suspended_it() -> None:
    job = running_job(spec="{queueName: research}")
    job["spec"]["suspend"] = True
    job["status"] = {"conditions": [{"type": "Suspended", "status": "True", "reason": "JobSuspended"}]}
    assert getattr(outcome(job, None, NOW), "reason", None) is Wait.QUEUED
    del job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"]
    assert getattr(outcome(job, None, NOW), "reason", None) is Wait.SUSPENDED


def test_a_new_job_waits_for_its_pod() -> None:
    job = running_job()
    del job["status"]
    assert outcome(job, None, NOW) == Waiting(Wait.STARTING, "the Job controller has not made its pod yet", T0 - 4)
    creating = pod("Pending", gate=waiting("ContainerCreating"), train=waiting("PodInitializing"))
    assert outcome(JOB, creating, NOW) == Waiting(Wait.STARTING, "its containers are being made", T0, "gpu-1")


@pytest.mark.parametrize("reason", ["ErrImagePull", "ImagePullBackOff", "InvalidImageName"])
def test_an_image_that_cannot_be_pulled_stops_the_run_with_the_kubelets_sentence(reason: str) -> None:
    sentence = 'Back-off pulling image "reg.lab.example/trainer:nope"'
    found = outcome(JOB, pod("Pending", gate=waiting(reason, sentence), train=waiting("PodInitializing")), NOW)
    assert found == RunFault(Fault.IMAGE_PULL, sentence, "gpu-1")


def test_a_container_that_names_what_is_missing_stops_the_run() -> None:
    found = outcome(JOB, pod("Pending", gate=waiting("CreateContainerConfigError", "no such user")), NOW)
    assert found == RunFault(Fault.CONTAINER_CONFIG, "container gate: no such user", "gpu-1")


def test_a_refusal_to_create_pods_stops_the_run_and_a_full_quota_does_not() -> None:
    sentence = 'pods "first-17-s1088-a1-" is forbidden: violates PodSecurity "restricted:latest": hostNetwork'
    assert creation_fault(403, sentence, NOW) == RunFault(Fault.PODS_FORBIDDEN, sentence)
    quota = 'pods "first-17-s1088-a1-" is forbidden: exceeded quota: gpus, requested: 1, used: 4, limited: 4'
    assert creation_fault(403, quota, NOW) == Waiting(Wait.QUOTA, quota, NOW)
    assert creation_fault(409, "jobs.batch already exists", NOW) is None
    assert creation_fault(500, "etcdserver: request timed out", NOW) is None
    assert creation_fault(403, "unable to create new content: it is being terminated", NOW) is None


def test_the_job_controllers_events_tell_the_same() -> None:
    def event(message: str, at: float) -> dict[str, Any]:
        return {"reason": "FailedCreate", "message": f"Error creating: {message}", "lastTimestamp": stamp(at)}

    refused = 'pods "x-" is forbidden: violates PodSecurity "restricted:latest"'
    quota = 'pods "x-" is forbidden: exceeded quota: gpus'
    webhook = "Internal error occurred: failed calling webhook"
    assert events_fault([event(quota, T0), event(refused, T0 + 1)], NOW) == RunFault(Fault.PODS_FORBIDDEN, refused)
    assert events_fault([event(refused, T0), event(quota, T0 + 1)], NOW) == Waiting(Wait.QUOTA, quota, NOW)
    assert events_fault([event(webhook, T0)], NOW) is None
    assert events_fault([{"reason": "SuccessfulCreate", "message": "Created pod"}], NOW) is None


# The running record ---------------------------------------------------------------------------------------------------


def test_a_job_alone_tells_which_measurement_it_is() -> None:
    record = running_record(JOB)
    assert record.key == TrialKey(17, 1088, 1)
    assert (record.tier, record.purpose, record.subject, record.phase) == (
        "gpu",
        Purpose.SCREEN,
        17,
        TrialPhase.RUNNING,
    )
    assert record.started_at == T0 - 5
    assert running_record(JOB, pod()).started_at == T0


@pytest.mark.parametrize(
    "annotations", [{}, {"autoresearch.dev/trial": "{"}, {"autoresearch.dev/trial": '{"seed": 1}'}]
)
def test_a_job_that_is_not_ours_is_refused_by_name(annotations: dict[str, str]) -> None:
    with pytest.raises(NotATrial, match="mine"):
        running_record({"metadata": {"name": "mine", "annotations": annotations}})


def test_the_pod_of_a_job_is_found_among_others() -> None:
    other = pod()
    other["metadata"]["ownerReferences"] = [{"kind": "Job", "uid": "another"}]
    assert pod_of(JOB, [other]) is None
    mine = pod()
    assert pod_of(JOB, [other, mine]) is mine
    done, newer = finished_pod(), pod()
    newer["metadata"]["creationTimestamp"] = stamp(NOW)
    assert pod_of(JOB, [newer, mine, done]) is done
    assert pod_of(JOB, [mine, newer]) is newer
