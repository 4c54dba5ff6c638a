"""Trials on simulated nodes: the real scheduler and Job controller bring about what the readers tell apart."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import pytest
from autoresearch_operator.api.load import load_run
from autoresearch_operator.api.reasons import ExperimentKind, VerdictReason
from autoresearch_operator.manifests.job import trial_job
from autoresearch_operator.manifests.names import selector
from autoresearch_operator.manifests.observe import events_fault, outcome, pod_of, running_record
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
from autoresearch_operator.manifests.settings import TrialSettings
from autoresearch_operator.manifests.source import config_map
from autoresearch_operator.research.records import ExperimentRecord, Purpose, TrialKey, TrialStart
from clusterlab.cluster import Cluster
from clusterlab.kwok import Kwok
from clusterlab.simtrainer import Ending, SimTrainer

Nodes = Callable[..., list[str]]
Trainers = Callable[..., SimTrainer]
RECORD = ExperimentRecord(0, ExperimentKind.BASELINE, "ab" * 20, "cd" * 20, 0, "the unedited source", "source")
JOB = "first-0-s0-a1"
HEAD = "apiVersion: autoresearch.dev/v1alpha1\nkind: ResearchRun\n"
Ends = TypeVar("Ends", bound=Outcome)


class Trial:
    """One trial in a namespace of the test."""

    def __init__(self, cluster: Cluster, namespace: str, spec: str = "{}", **settings: Any) -> None:
        self.cluster, self.namespace = cluster, namespace
        text = f"{HEAD}metadata: {{name: first, namespace: {namespace}}}\nspec: {spec}\n"
        run = load_run(text, filename="run.yaml", local=False)
        body = run.model_dump(mode="json", exclude_none=True)
        files = config_map(body, RECORD, {"train.py": "print(1)\n"})
        start = TrialStart(TrialKey(0, 0, 1), run.spec.tiers[0].name, Purpose.BASELINE, 0, "val", 64)
        sha256 = files["metadata"]["annotations"]["autoresearch.dev/source-sha256"]
        chosen = TrialSettings(**{"image": "trainer:test", "node_loss_seconds": 1, **settings})
        job = trial_job(body, run.spec, start, RECORD, sha256, chosen, now=time.time())
        cluster.api.create(f"/api/v1/namespaces/{namespace}/configmaps", files)
        cluster.api.create(self.jobs, job)

    @property
    def jobs(self) -> str:
        return f"/apis/batch/v1/namespaces/{self.namespace}/jobs"

    def job(self) -> dict[str, Any] | None:
        return self.cluster.api.find(f"{self.jobs}/{JOB}")

    def pod(self) -> dict[str, Any] | None:
        job = self.job()
        pods = self.cluster.api.list(f"/api/v1/namespaces/{self.namespace}/pods", labels=selector("first"))
        found = pod_of(job, pods) if job is not None else None
        return dict(found) if found is not None else None

    def outcome(self, node_labels: Mapping[str, str] | None = None) -> Outcome:
        return outcome(self.job(), self.pod(), time.time(), node_labels=node_labels)

    def until(self, kind: type[Ends], seconds: float = 40.0) -> Ends:
        """The first outcome of that kind; any other that would end the trial is a failure of the test."""
        seen: Outcome | None = None
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            seen = self.outcome()
            if isinstance(seen, kind):
                return seen
            assert isinstance(seen, Waiting | Running), f"wanted {kind.__name__}, got {seen}"
            time.sleep(0.05)
        raise AssertionError(f"no {kind.__name__} in {seconds:g} s; last seen: {seen}")


def test_a_trial_goes_from_waiting_through_running_to_finished(
    control_plane: Cluster, namespace: str, kwok_nodes: Nodes, sim_trainer: Trainers
) -> None:
    trial = Trial(control_plane, namespace)
    waiting = trial.until(Waiting)
    assert waiting.reason in (Wait.STARTING, Wait.UNSCHEDULABLE)
    (node,) = kwok_nodes(1)
    running = trial.until(Running)
    assert running.node == node
    job = trial.job()
    assert job is not None
    assert running_record(job, trial.pod()).started_at == running.started_at
    sim_trainer(lambda pod: Ending.success(pod.scored(val_bpb=1.25)))
    finished = trial.until(Finished)
    assert (finished.result["valBPB"], finished.node) == (1.25, node)
    assert finished.result["seed"] == job_seed(trial)
    assert finished.started_at <= finished.finished_at


def job_seed(trial: Trial) -> int:
    job = trial.job()
    assert job is not None
    document = json.loads(job["spec"]["template"]["spec"]["containers"][0]["env"][0]["value"])
    return int(document["seed"])


OVERRUN = 'Usage of EmptyDir volume "work" exceeds the limit "10Gi". '
ENDINGS: list[tuple[str, Ending, type[Outcome], str]] = [
    ("judge-crashed", Ending.crash("judge", 1, "Traceback"), Lost, "NoResult"),
    ("launcher-crashed", Ending.crash("train", 137), Lost, "NoResult"),
    ("out-of-memory", Ending.oom(), Invalid, VerdictReason.HOST_OUT_OF_MEMORY),
    (
        "own-storage",
        Ending.evicted('Usage of EmptyDir volume "work" exceeds the limit "10Gi". '),
        Invalid,
        VerdictReason.HOST_STORAGE,
    ),
    ("node-pressure", Ending.disrupted(), Lost, "TerminationByKubelet"),
    ("start-error", Ending.start_error(), Lost, "StartError"),
    ("devices-not-free", Ending.admission_error(), Lost, "UnexpectedAdmissionError"),
    ("node-restarted", Ending.status_unknown(), Lost, "ContainerStatusUnknown"),
    ("deleted", Ending.deleted(), Lost, "PodDeleted"),
]


@pytest.mark.parametrize(
    ("ending", "kind", "reason"), [case[1:] for case in ENDINGS], ids=[case[0] for case in ENDINGS]
)
def test_each_end_is_told_apart(
    control_plane: Cluster,
    namespace: str,
    kwok_nodes: Nodes,
    sim_trainer: Trainers,
    ending: Ending,
    kind: type[Outcome],
    reason: str,
) -> None:
    kwok_nodes(1)
    sim_trainer(lambda _pod: ending)
    found = Trial(control_plane, namespace).until(kind)
    assert getattr(found, "reason", None) == reason
    if reason == "UnexpectedAdmissionError":
        assert getattr(found, "retry_after", None) == 1.0


def test_a_lost_node_loses_its_trial_though_its_pod_never_goes(
    control_plane: Cluster, namespace: str, kwok: Kwok, kwok_nodes: Nodes
) -> None:
    (node,) = kwok_nodes(1)
    trial = Trial(control_plane, namespace)
    trial.until(Running)
    kwok.lose(node)
    lost = trial.until(Lost, seconds=60.0)
    assert (lost.reason, lost.node) == ("DeletionByTaintManager", node)


def test_a_shared_gpu_is_never_used_and_the_schedulers_sentence_is_passed_on(
    control_plane: Cluster, namespace: str, kwok_nodes: Nodes
) -> None:
    kwok_nodes(1, sharing="time-slicing")
    trial = Trial(control_plane, namespace)
    waiting = trial.until(Waiting)
    while waiting.reason is not Wait.UNSCHEDULABLE:
        time.sleep(0.1)
        waiting = trial.until(Waiting)
    assert "didn't match Pod's node affinity" in waiting.message


def test_an_image_that_cannot_be_pulled_stops_the_run(
    control_plane: Cluster, namespace: str, kwok_nodes: Nodes
) -> None:
    kwok_nodes(1)
    fault = Trial(control_plane, namespace, image="registry.invalid/trainer:1").until(RunFault)
    assert fault.reason is Fault.IMAGE_PULL
    assert "registry.invalid/trainer:1" in fault.message


def refusal(trial: Trial) -> RunFault | Waiting:
    """What the Events of the trial's Job say, once the Job controller was refused."""
    path, about = f"/api/v1/namespaces/{trial.namespace}/events", f"involvedObject.name={JOB},reason=FailedCreate"
    api = trial.cluster.api
    found: RunFault | Waiting = api.wait(
        lambda: events_fault(api.list(path, fields=about), time.time()), "the Job controller's refusal"
    )
    return found


def test_a_full_quota_is_waited_for(control_plane: Cluster, namespace: str) -> None:
    path = f"/api/v1/namespaces/{namespace}/resourcequotas"
    quota = {"spec": {"hard": {"requests.nvidia.com/gpu": "0"}}, "metadata": {"name": "gpus"}}
    control_plane.api.create(path, quota)
    control_plane.api.wait(
        lambda: control_plane.api.get(f"{path}/gpus").get("status", {}).get("hard"), "the quota counts"
    )
    trial = Trial(control_plane, namespace)
    full = refusal(trial)
    assert isinstance(full, Waiting)
    assert full.reason is Wait.QUOTA
    assert "exceeded quota: gpus" in full.message
    assert isinstance(trial.outcome(), Waiting), "Job and pod alone do not tell"


def test_a_namespace_that_forbids_the_pod_stops_the_run_with_the_servers_sentence(
    control_plane: Cluster, namespace: str
) -> None:
    limit = {"spec": {"limits": [{"type": "Container", "max": {"memory": "1Gi"}}]}, "metadata": {"name": "small"}}
    control_plane.api.create(f"/api/v1/namespaces/{namespace}/limitranges", limit)
    fault = refusal(Trial(control_plane, namespace))
    assert isinstance(fault, RunFault)
    assert fault.reason is Fault.PODS_FORBIDDEN
    assert "maximum memory usage per Container is 1Gi" in fault.message


def test_a_suspended_job_waits_and_one_that_was_taken_back_is_lost(
    control_plane: Cluster, namespace: str, kwok_nodes: Nodes
) -> None:
    kwok_nodes(1)
    trial = Trial(control_plane, namespace, "{queueName: research}")
    trial.until(Running)
    # As a queue does when it needs the place for somebody else.
    control_plane.api.patch(f"{trial.jobs}/{JOB}", {"spec": {"suspend": True}})
    seen: list[Outcome] = []
    end = time.monotonic() + 30
    while time.monotonic() < end:
        seen.append(trial.outcome())
        if isinstance(seen[-1], Waiting):
            break
        time.sleep(0.02)
    assert isinstance(seen[-1], Waiting)
    assert seen[-1].reason is Wait.QUEUED
    evictions = [one for one in seen if isinstance(one, Lost)]
    assert {one.reason for one in evictions} <= {"QueueEviction"}, "an eviction is never taken for another fault"
