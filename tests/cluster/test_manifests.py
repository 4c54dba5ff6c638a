"""Every kind of trial is taken by a real API server, in a namespace that enforces the restricted Pod Security level."""

from __future__ import annotations

import copy
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from autoresearch_operator.api.load import load_run
from autoresearch_operator.api.reasons import ExperimentKind
from autoresearch_operator.manifests.job import trial_job
from autoresearch_operator.manifests.network import network_policy
from autoresearch_operator.manifests.settings import Hardware, TrialSettings
from autoresearch_operator.manifests.source import MAX_BYTES, config_map
from autoresearch_operator.render import render
from autoresearch_operator.research.records import ExperimentRecord, Purpose, TrialKey, TrialStart
from clusterlab.api import ApiError
from clusterlab.cluster import Cluster, KubectlFailed

ROOT = Path(__file__).resolve().parents[2]
RECORD = ExperimentRecord(1, ExperimentKind.PROPOSAL, "ab" * 20, "cd" * 20, 0, "a title", "search")
SETTINGS = TrialSettings(image="reg.lab.example/trainer@sha256:" + "0" * 64, image_pull_secrets=("chart",))

AFFINITY = {
    "nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchExpressions": [{"key": "rack", "operator": "In", "values": ["a", "b"]}]}]
        }
    }
}
TOLERATION = {"key": "team", "operator": "Equal", "value": "ml", "effect": "NoExecute", "tolerationSeconds": 5}
VARIANTS: dict[str, dict[str, Any]] = {
    "minimal": {},
    "cpu": {"tiers": [{"name": "t", "gpus": 0}]},
    "cpu-steps": {"tiers": [{"name": "t", "gpus": 0, "budget": {"steps": 40}}]},
    "one-gpu": {"tiers": [{"name": "t", "product": "NVIDIA-H100-80GB-HBM3"}]},
    "amd": {"tiers": [{"name": "t", "resourceName": "amd.com/gpu", "product": "Instinct_MI300X"}]},
    "mig": {"tiers": [{"name": "t", "resourceName": "nvidia.com/mig-3g.40gb", "product": "NVIDIA-H100-MIG-3g.40gb"}]},
    "eight-gpus": {"tiers": [{"name": "t", "gpus": 8}]},
    "claim": {"trainer": {"data": {"claimName": "climbmix", "trainPath": "a/train", "valPath": "a/val"}}},
    "queue": {"queueName": "research"},
    "everything-of-a-tier": {
        "tiers": [
            {
                "name": "a-name-of-twenty-chr",
                "runtimeClassName": "nvidia",
                "priorityClassName": "research-low",
                "nodeSelector": {"pool": "gpu"},
                "affinity": AFFINITY,
                "tolerations": [TOLERATION, {"operator": "Exists"}],
            }
        ]
    },
    "own-image": {
        "trainer": {
            "image": "reg.lab.example/me/trainer:1.4",
            "evaluation": "SelfReported",
            "imagePullSecrets": [{"name": "reg"}],
            "command": ["bash", "-c", 'echo $(HOME) $$ "quoted" é'],
            "env": [{"name": "A", "value": "$(B)"}],
            "resources": {"cpu": "500m", "memory": "64Gi", "ephemeralStorage": "40G"},
        }
    },
}


@pytest.fixture(scope="module")
def namespace(control_plane: Cluster) -> Iterator[str]:
    name = f"manifests-{uuid.uuid4().hex[:8]}"
    control_plane.create_namespace(name)
    yield name
    control_plane.delete_namespace(name)


@pytest.fixture(scope="module")
def classes(control_plane: Cluster) -> Cluster:
    """The cluster with the classes that pods name; their absence is a refusal of its own."""
    for group, kind, name, rest in (
        ("node.k8s.io/v1", "RuntimeClass", "nvidia", {"handler": "nvidia"}),
        ("scheduling.k8s.io/v1", "PriorityClass", "research-low", {"value": -10}),
    ):
        body = {"apiVersion": group, "kind": kind, "metadata": {"name": name}, **rest}
        control_plane.api.apply(f"/apis/{group}/{kind.lower()}es/{name}", body)
    return control_plane


def objects(namespace: str, spec: dict[str, Any], name: str = "first") -> dict[str, Any]:
    head = {"apiVersion": "autoresearch.dev/v1alpha1", "kind": "ResearchRun"}
    text = json.dumps({**head, "metadata": {"name": name, "namespace": namespace}, "spec": spec})
    run = load_run(text, filename="run.yaml", local=False)
    body = run.model_dump(mode="json", exclude_none=True)
    start = TrialStart(TrialKey(1, 64, 1), run.spec.tiers[0].name, Purpose.SCREEN, 1, "val", 64)
    return {
        "job": trial_job(
            body,
            run.spec,
            start,
            RECORD,
            "5e" * 32,
            SETTINGS,
            pinned=Hardware("NVIDIA H100 80GB HBM3"),
            avoid_nodes=["bad-1", "bad-2"],
            now=1.78e9,
        ),
        "files": config_map(body, RECORD, {"train.py": "print(1)\n"}),
        "policy": network_policy(body),
    }


def pod_of(job: dict[str, Any]) -> dict[str, Any]:
    """The pod that the Job controller would make: only pods are held against a namespace's security level."""
    template = copy.deepcopy(job["spec"]["template"])
    template["metadata"]["name"] = "the-pod"
    return {"apiVersion": "v1", "kind": "Pod", **template}


def dry_run_pod(cluster: Cluster, namespace: str, pod: dict[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = cluster.api.create(f"/api/v1/namespaces/{namespace}/pods?dryRun=All", pod)
    return made


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_kind_of_trial_is_taken(classes: Cluster, namespace: str, variant: str) -> None:
    made = objects(namespace, VARIANTS[variant])
    for body in made.values():
        classes.kubectl("--warnings-as-errors", "apply", "--dry-run=server", "-f", "-", input=body)
    answer = dry_run_pod(classes, namespace, pod_of(made["job"]))
    assert answer["status"]["qosClass"] == "Guaranteed"
    sent = {one["name"]: one for one in [*answer["spec"]["initContainers"], *answer["spec"]["containers"]]}
    told = json.loads(sent["train"]["env"][0]["value"])
    assert told["command"] == VARIANTS[variant].get("trainer", {}).get("command", ["python", "train.py"])


def test_the_server_keeps_every_field_that_is_sent(classes: Cluster, namespace: str) -> None:
    job = objects(namespace, VARIANTS["everything-of-a-tier"])["job"]
    answer = classes.api.create(f"/apis/batch/v1/namespaces/{namespace}/jobs?dryRun=All&fieldValidation=Strict", job)
    lost = list(missing(job["spec"], answer["spec"]))
    assert not lost


def missing(sent: Any, got: Any, path: str = "spec") -> Iterator[str]:
    """What was sent and did not come back. Quantities come back in the server's spelling."""
    if isinstance(sent, dict):
        for key, value in sent.items():
            if not isinstance(got, dict) or key not in got:
                yield f"{path}.{key}"
            elif key not in ("limits", "requests"):
                yield from missing(value, got[key], f"{path}.{key}")
    elif isinstance(sent, list):
        if not isinstance(got, list) or len(got) < len(sent):
            yield path
        else:
            for index, value in enumerate(sent):
                yield from missing(value, got[index], f"{path}[{index}]")
    elif sent != got:
        yield f"{path}: {sent!r} came back as {got!r}"


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("runAsNonRoot", False),
        ("allowPrivilegeEscalation", True),
        ("capabilities", {"add": ["SYS_ADMIN"]}),
    ],
)
def test_the_namespace_does_hold_pods_to_the_restricted_level(
    control_plane: Cluster, namespace: str, part: str, value: object
) -> None:
    pod = pod_of(objects(namespace, {})["job"])
    pod["spec"]["initContainers"][1]["securityContext"][part] = value
    with pytest.raises(ApiError, match="violates PodSecurity"):
        dry_run_pod(control_plane, namespace, pod)


def test_a_malformed_affinity_is_refused_in_the_servers_words(control_plane: Cluster, namespace: str) -> None:
    job = objects(namespace, {"tiers": [{"name": "t", "affinity": {"nodeAffinity": {"required": 3}}}]})["job"]
    with pytest.raises(KubectlFailed, match=r"unknown field .*nodeAffinity\.required"):
        control_plane.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", "-", input=job)


def test_the_largest_source_fits_into_the_api_server(control_plane: Cluster, namespace: str) -> None:
    body = {"metadata": {"name": "large", "namespace": namespace}}
    made = config_map(body, RECORD, {"train.py": "x" * (MAX_BYTES - 10240)})
    control_plane.api.create(f"/api/v1/namespaces/{namespace}/configmaps", made)


@pytest.mark.parametrize("example", ["{}", "{tiers: [{name: cpu, gpus: 0, budget: {steps: 40}}], queueName: research}"])
def test_what_render_prints_can_be_applied(
    control_plane: Cluster, namespace: str, tmp_path: Path, example: str
) -> None:
    control_plane.install_crds(sorted((ROOT / "crds").glob("*.yaml")))
    file = tmp_path / "run.yaml"
    head = "apiVersion: autoresearch.dev/v1alpha1\nkind: ResearchRun\nmetadata: {name: rendered}\n"
    file.write_text(f"{head}spec: {example}\n", encoding="utf-8")
    printed = render(file, namespace=namespace, image="reg.lab.example/trainer:1")
    assert [body["kind"] for body in yaml.safe_load_all(printed)] == [
        "ResearchRun", "Experiment", "ConfigMap", "Job", "NetworkPolicy",
    ]  # fmt: skip
    said = control_plane.kubectl("--warnings-as-errors", "apply", "--dry-run=server", "-f", "-", input=printed)
    assert said.count("(server dry run)") == 5
