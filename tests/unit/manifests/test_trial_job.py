"""What single fields of a request bring about in the Job of a trial."""

from __future__ import annotations

import json
from typing import Any

import podshapes as shapes
import pytest
import yaml
from autoresearch_operator.manifests.job import trial_job
from autoresearch_operator.manifests.names import experiment_name, job_name, network_policy_name
from autoresearch_operator.manifests.network import network_policy
from autoresearch_operator.manifests.placement import label_spelling
from autoresearch_operator.manifests.settings import Hardware, TrialSettings, cores, size
from autoresearch_operator.manifests.shares import shares
from autoresearch_operator.research.records import TrialKey
from podshapes import containers, job_of, pod_spec

GIB = 1 << 30


def document_of(job: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(containers(job)["judge"]["env"][0]["value"])
    return found


def terms(job: dict[str, Any]) -> list[dict[str, Any]]:
    required = pod_spec(job)["affinity"]["nodeAffinity"][REQUIRED]
    found: list[dict[str, Any]] = required["nodeSelectorTerms"]
    return found


UNSHARED = {"key": "nvidia.com/gpu.sharing-strategy", "operator": "NotIn", "values": ["time-slicing", "mps"]}


def test_candidate_and_judge_ask_for_the_gpus_and_the_gate_does_not() -> None:
    made = containers(job_of("{tiers: [{name: gpu, gpus: 8}]}"))
    for name in ("train", "judge"):
        assert made[name]["resources"]["limits"]["nvidia.com/gpu"] == "8"
        assert not [one for one in made[name]["env"] if one["name"] == "NVIDIA_VISIBLE_DEVICES"]
    assert "nvidia.com/gpu" not in made["gate"]["resources"]["limits"]
    assert {"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"} in made["gate"]["env"]
    assert document_of(job_of("{tiers: [{name: gpu, gpus: 8}]}"))["gpus"] == 8


def test_a_cpu_tier_asks_for_no_gpu_and_shows_none() -> None:
    job = job_of("{tiers: [{name: gpu, gpus: 0}]}")
    for one in containers(job).values():
        assert set(one["resources"]["limits"]) == {"cpu", "memory", "ephemeral-storage"}
        assert {"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"} in one["env"]
    assert "affinity" not in pod_spec(job)
    document = document_of(job)
    assert (document["device"], document["gpus"], document["threads"]) == ("cpu", 0, 1)
    assert document["budget"] == {"cpuSeconds": 300.0}
    assert document["evalTokens"] == 1 << 14


def test_a_product_that_was_asked_for_is_required() -> None:
    assert terms(job_of("{tiers: [{name: gpu, product: NVIDIA-L4}]}")) == [
        {"matchExpressions": [{"key": "nvidia.com/gpu.product", "operator": "In", "values": ["NVIDIA-L4"]}, UNSHARED]}
    ]


def test_a_mig_slice_may_be_named_by_its_own_label_or_its_gpus() -> None:
    slices = terms(
        job_of("{tiers: [{name: gpu, resourceName: nvidia.com/mig-3g.40gb, product: NVIDIA-H100-MIG-3g.40gb}]}")
    )
    keys = [term["matchExpressions"][0]["key"] for term in slices]
    assert keys == ["nvidia.com/gpu.product", "nvidia.com/mig-3g.40gb.product"]


def test_amd_gpus_are_found_by_amds_labels() -> None:
    job = job_of("{tiers: [{name: gpu, resourceName: amd.com/gpu, product: Instinct_MI300X}]}")
    assert [term["matchExpressions"][0]["key"] for term in terms(job)] == [
        "amd.com/gpu.product-name",
        "beta.amd.com/gpu.product-name",
    ]
    assert {"key": "amd.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in pod_spec(job)["tolerations"]


def test_a_pinned_product_binds_only_where_nodes_say_their_product() -> None:
    pinned = terms(job_of(pinned=Hardware("NVIDIA H100 80GB HBM3")))
    assert pinned == [
        {
            "matchExpressions": [
                {"key": "nvidia.com/gpu.product", "operator": "In", "values": ["NVIDIA-H100-80GB-HBM3"]},
                UNSHARED,
            ]
        },
        {"matchExpressions": [{"key": "nvidia.com/gpu.product", "operator": "DoesNotExist"}, UNSHARED]},
    ]
    assert label_spelling("NVIDIA H100 80GB HBM3") == "NVIDIA-H100-80GB-HBM3"


def with_affinity(affinity: dict[str, Any]) -> str:
    return json.dumps({"tiers": [{"name": "gpu", "affinity": affinity}]})


PREFERRED, REQUIRED = (f"{word}DuringSchedulingIgnoredDuringExecution" for word in ("preferred", "required"))
ZONES = [{"matchExpressions": [{"key": "zone", "operator": "In", "values": [zone]}]} for zone in "ab"]
USERS = {
    "podAntiAffinity": {PREFERRED: []},
    "nodeAffinity": {
        PREFERRED: [{"weight": 1, "preference": {"matchExpressions": [{"key": "ssd", "operator": "Exists"}]}}],
        REQUIRED: {"nodeSelectorTerms": ZONES},
    },
}


def test_our_rules_are_put_to_each_of_the_users_alternatives() -> None:
    job = job_of(with_affinity(USERS), avoid_nodes=["bad"])
    avoid = {"key": "metadata.name", "operator": "NotIn", "values": ["bad"]}
    assert terms(job) == [
        {
            "matchExpressions": [{"key": "zone", "operator": "In", "values": [zone]}, UNSHARED],
            "matchFields": [avoid],
        }
        for zone in "ab"
    ]
    affinity = pod_spec(job)["affinity"]
    assert affinity["nodeAffinity"][PREFERRED][0]["weight"] == 1
    assert "podAntiAffinity" in affinity


@pytest.mark.parametrize(
    "given_affinity",
    [
        {"nodeAffinity": "gpu-nodes"},
        {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": [{}]}}},
        {"nodeAffinity": {REQUIRED: ["x"]}},
    ],
)
def test_an_affinity_that_matches_nothing_is_never_made_to_match_something(given_affinity: dict[str, Any]) -> None:
    job = job_of(with_affinity(given_affinity))
    assert pod_spec(job)["affinity"] == given_affinity


def test_a_lost_node_is_left_after_a_minute_unless_the_user_says_otherwise() -> None:
    def lost_nodes(spec: str) -> dict[str, int | None]:
        return {
            one["key"]: one.get("tolerationSeconds")
            for one in pod_spec(job_of(spec))["tolerations"]
            if one.get("effect") == "NoExecute"
        }

    both = {"node.kubernetes.io/not-ready": 60, "node.kubernetes.io/unreachable": 60}
    assert lost_nodes("{}") == both
    theirs = "{key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 5}"
    assert lost_nodes(f"{{tiers: [{{name: gpu, tolerations: [{theirs}]}}]}}") == {
        **both,
        "node.kubernetes.io/unreachable": 5,
    }


def test_a_mig_slice_tolerates_the_taint_of_its_gpu() -> None:
    tolerated = pod_spec(job_of("{tiers: [{name: gpu, resourceName: nvidia.com/mig-1g.10gb}]}"))["tolerations"]
    keys = [one["key"] for one in tolerated if one.get("effect") == "NoSchedule"]
    assert keys == ["nvidia.com/mig-1g.10gb", "nvidia.com/gpu"]


def test_a_queue_is_named_on_the_job_and_not_on_its_pod() -> None:
    job = job_of("{queueName: research}")
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "research"
    assert "kueue.x-k8s.io/queue-name" not in job["spec"]["template"]["metadata"]["labels"]
    assert "suspend" not in job["spec"], "Kueue suspends it by itself"


def test_claims_are_mounted_in_parts_and_the_demo_corpus_otherwise() -> None:
    def data_dirs(job: dict[str, Any]) -> dict[str, str]:
        return {
            name: variable["value"]
            for name, one in containers(job).items()
            for variable in one["env"]
            if variable["name"] == "AUTORESEARCH_DATA_DIR"
        }

    assert data_dirs(job_of()) == {"gate": "/opt/autoresearch/data/train", "judge": "/opt/autoresearch/data/val"}
    claimed = job_of("{trainer: {data: {claimName: climbmix}}}")
    assert data_dirs(claimed) == {"gate": "/data", "judge": "/data"}
    made = containers(claimed)
    assert {"name": "data", "mountPath": "/data", "subPath": "train", "readOnly": True} in made["gate"]["volumeMounts"]
    assert {"name": "data", "mountPath": "/data", "subPath": "val", "readOnly": True} in made["judge"]["volumeMounts"]


def test_an_image_of_the_runs_own_is_pulled_with_the_runs_own_secrets() -> None:
    ours = TrialSettings(image="ours:1", image_pull_secrets=("chart",))
    for spec, image, secrets in (
        ("{}", "ours:1", [{"name": "chart"}]),
        (
            "{trainer: {image: theirs:2, evaluation: SelfReported, imagePullSecrets: [{name: reg}]}}",
            "theirs:2",
            [{"name": "reg"}],
        ),
    ):
        run = shapes.request(spec)
        job = trial_job(shapes.as_object(run), run.spec, shapes.start(), shapes.RECORD, shapes.SHA, ours, now=0.0)
        assert {one["image"] for one in containers(job).values()} == {image}
        assert pod_spec(job)["imagePullSecrets"] == secrets


def test_the_candidate_is_told_less_than_its_container_has() -> None:
    spec = shapes.request("{trainer: {resources: {cpu: 8, memory: 64Gi, ephemeralStorage: 40Gi}}}").spec
    share = shares(spec, spec.tiers[0], shapes.SETTINGS)
    assert share.train.quantities() == {"cpu": "8", "memory": "64Gi", "ephemeral-storage": "40Gi"}
    assert share.train.memory - share.limits.memory == 512 << 20
    assert share.limits.disk < share.train.storage == share.work_bytes
    assert share.limits.artifact + (16 << 20) <= share.account_bytes < share.gate.storage
    assert share.threads == 8


def test_defaults_grow_with_the_gpus_of_a_trial() -> None:
    spec = shapes.request("{tiers: [{name: gpu, gpus: 4}]}").spec
    share = shares(spec, spec.tiers[0], shapes.SETTINGS)
    assert (share.train.cpu, share.train.memory, share.threads) == (8, 40 * GIB, 2)
    assert share.limits.processes == 256


def test_quantities_are_exact() -> None:
    assert [size(value) for value in (64 * GIB, 1536 << 20, 3 << 10, 1_500_000_001)] == [
        "64Gi",
        "1536Mi",
        "3Ki",
        "1500000001",
    ]
    assert [cores(value) for value in (8.0, 0.25, 1.5, 0.0001)] == ["8", "250m", "1500m", "1m"]


def test_the_longest_names_fit() -> None:
    run, key = "r" * 40, TrialKey(1_000_000, 64_000_063, 100)
    assert len(job_name(run, key)) == 63
    assert max(len(experiment_name(run, 1_000_000)), len(network_policy_name(run))) <= 63


def test_children_go_with_their_owners() -> None:
    owner = {"metadata": {"name": "first-17", "uid": "exp-uid"}}
    assert job_of(experiment=owner)["metadata"]["ownerReferences"] == [
        {
            "apiVersion": "autoresearch.dev/v1alpha1",
            "kind": "Experiment",
            "name": "first-17",
            "uid": "exp-uid",
            "controller": True,
        }
    ]
    assert network_policy(shapes.as_object(shapes.request()))["metadata"]["ownerReferences"][0]["kind"] == "ResearchRun"


def test_the_network_policy_denies_both_ways() -> None:
    assert network_policy(shapes.as_object(shapes.request()))["spec"] == {
        "podSelector": {"matchLabels": {"autoresearch.dev/run": "first"}},
        "policyTypes": ["Ingress", "Egress"],
    }


def test_the_minimal_runs_job_reads_as_the_golden_file_does(request: pytest.FixtureRequest) -> None:
    golden = request.path.with_name("minimal_job.yaml")
    assert yaml.safe_load(golden.read_text(encoding="utf-8")) == job_of(), (
        "the Job of `spec: {}` changed; when that is meant, write it anew: see the end of podshapes.py"
    )
