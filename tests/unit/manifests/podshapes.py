"""Jobs and pods shaped as the control plane makes them, with the one thing changed that a test is about."""

from __future__ import annotations

import copy
import json
from typing import Any

import yaml
from autoresearch_operator.api import yamltree
from autoresearch_operator.api.load import load_run
from autoresearch_operator.api.reasons import ExperimentKind
from autoresearch_operator.api.run import ResearchRun
from autoresearch_operator.manifests.job import trial_job
from autoresearch_operator.manifests.names import stamp
from autoresearch_operator.manifests.settings import TrialSettings
from autoresearch_operator.research.records import ExperimentRecord, Purpose, TrialKey, TrialStart

T0 = 1_780_000_000.0
"""When the node took the pod."""
IMAGE = "reg.lab.example/autoresearch-trainer:0.2.0"
SETTINGS = TrialSettings(image=IMAGE)
RECORD = ExperimentRecord(
    number=17,
    kind=ExperimentKind.PROPOSAL,
    commit="ab" * 20,
    tree="cd" * 20,
    base=0,
    title="matrix LR .04 -> .03",
    proposer="search",
)
SHA = "5e" * 32


def request(spec: str = "{}", name: str = "first") -> ResearchRun:
    text = f"apiVersion: autoresearch.dev/v1alpha1\nkind: ResearchRun\nmetadata: {{name: {name}}}\nspec: {spec}\n"
    return load_run(text, filename="run.yaml", local=False)


def as_object(run: ResearchRun, uid: str | None = "run-uid") -> dict[str, Any]:
    found: dict[str, Any] = run.model_dump(mode="json", exclude_none=True)
    if uid:
        found["metadata"]["uid"] = uid
    return found


def start(tier: str = "gpu", *, attempt: int = 1, number: int = 17, split: str = "val") -> TrialStart:
    return TrialStart(TrialKey(number, 17 * 64, attempt), tier, Purpose.SCREEN, 17, split, 64)


def job_of(spec: str = "{}", *, tier: str = "gpu", attempt: int = 1, **more: Any) -> dict[str, Any]:
    run = request(spec)
    return trial_job(as_object(run), run.spec, start(tier, attempt=attempt), RECORD, SHA, SETTINGS, now=T0 - 5, **more)


def pod_spec(job: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = job["spec"]["template"]["spec"]
    return found


def containers(job: dict[str, Any]) -> dict[str, dict[str, Any]]:
    spec = pod_spec(job)
    return {one["name"]: one for one in [*spec["initContainers"], *spec["containers"]]}


# What runs ------------------------------------------------------------------------------------------------------------


def running_job(**more: Any) -> dict[str, Any]:
    """As the Job controller leaves it while its pod runs."""
    job = job_of(**more)
    job["metadata"] |= {"uid": "job-uid", "creationTimestamp": stamp(T0 - 4)}
    job["spec"]["suspend"] = False
    job["status"] = {
        "startTime": stamp(T0 - 4),
        "active": 1,
        "ready": 0,
        "terminating": 0,
        "uncountedTerminatedPods": {},
    }
    return job


def _state(kind: str, **fields: Any) -> dict[str, Any]:
    return {kind: fields}


def running(at: float) -> dict[str, Any]:
    return _state("running", startedAt=stamp(at))


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    return _state("waiting", reason=reason, **({"message": message} if message else {}))


def ended(
    reason: str, code: int, *, message: str = "", start_at: float = T0 + 2, end: float = T0 + 60
) -> dict[str, Any]:
    said = {"message": message} if message else {}
    return _state("terminated", reason=reason, exitCode=code, startedAt=stamp(start_at), finishedAt=stamp(end), **said)


def _status(name: str, state: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "image": IMAGE,
        "imageID": "reg.lab.example/autoresearch-trainer@sha256:" + "9" * 64,
        "ready": False,
        "restartCount": 0,
        "started": "running" in state,
        "lastState": {},
        "state": state,
        **more,
    }


def pod(
    phase: str = "Running",
    *,
    gate: dict[str, Any] | None = None,
    train: dict[str, Any] | None = None,
    judge: dict[str, Any] | None = None,
    node: str | None = "gpu-1",
    job: dict[str, Any] | None = None,
    conditions: list[dict[str, Any]] | None = None,
    **status: Any,
) -> dict[str, Any]:
    """A trial's pod; containers that are not given have the state of one whose candidate trains."""
    template = copy.deepcopy((job or running_job())["spec"]["template"])
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            **template["metadata"],
            "name": "first-17-s1088-a1-x7k2p",
            "namespace": "default",
            "uid": "pod-uid",
            "creationTimestamp": stamp(T0 - 3),
            "ownerReferences": [{"kind": "Job", "name": "first-17-s1088-a1", "uid": "job-uid", "controller": True}],
        },
        "spec": {**template["spec"], **({"nodeName": node} if node else {})},
        "status": {
            "phase": phase,
            **({"startTime": stamp(T0)} if node else {}),
            "conditions": [
                {"type": "PodScheduled", "status": "True" if node else "False", "lastTransitionTime": stamp(T0 - 3)},
                *(conditions or []),
            ],
            "initContainerStatuses": [
                _status("gate", gate or running(T0 + 1)),
                _status("train", train or running(T0 + 2)),
            ],
            "containerStatuses": [_status("judge", judge or waiting("PodInitializing"))],
            **status,
        },
    }


def disrupted(reason: str, message: str = "") -> dict[str, Any]:
    return {"type": "DisruptionTarget", "status": "True", "reason": reason, "message": message}


RESULT = {
    "version": 1,
    "outcome": "Scored",
    "reason": None,
    "valBPB": 0.9812,
    "audit": {"pairs": 64, "mismatches": 0, "maxDifference": 0.0},
    "hardware": {"product": "NVIDIA H100 80GB HBM3", "driver": "575.57.08", "torch": "2.15.0"},
}


def finished_pod(result: dict[str, Any] | str = RESULT, phase: str = "Succeeded", **more: Any) -> dict[str, Any]:
    message = result if isinstance(result, str) else json.dumps(result)
    return pod(
        phase,
        **{
            "gate": ended("Completed", 0, end=T0 + 66),
            "train": ended("Completed", 0, end=T0 + 60),
            "judge": ended("Completed", 0, message=message, start_at=T0 + 61, end=T0 + 65),
            **more,
        },
    )


if __name__ == "__main__":
    # python tests/unit/manifests/podshapes.py > tests/unit/manifests/minimal_job.yaml
    print("# The Job of a first attempt at `spec: {}`, as the API server gets it. A test compares it.")
    print(yaml.dump(job_of(), Dumper=yamltree.Dumper, sort_keys=False, width=120), end="")
