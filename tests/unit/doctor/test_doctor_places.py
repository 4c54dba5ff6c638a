"""What doctor says of nodes."""

from __future__ import annotations

from typing import Any

import pytest
from autoresearch_operator.api.reasons import ExperimentKind
from autoresearch_operator.cluster.doctor_places import add_taken, amount, gpu_findings, requests, tier_finding
from autoresearch_operator.manifests.job import trial_job
from autoresearch_operator.manifests.settings import TrialSettings
from autoresearch_operator.observe.findings import Finding
from autoresearch_operator.research.records import ExperimentRecord, Purpose, TrialKey, TrialStart
from doctorobjects import TAINT, node, run, standing


def pod_of(spec: dict[str, Any]) -> dict[str, Any]:
    body = {"metadata": {"name": "r", "namespace": "lab"}}
    asked = run(spec)
    start = TrialStart(TrialKey(0, 0, 1), asked.spec.tiers[0].name, Purpose.BASELINE, 0, "val", 64)
    record = ExperimentRecord(0, ExperimentKind.BASELINE, "a" * 40, "a" * 40, 0, "t", "source")
    made = trial_job(body, asked.spec, start, record, "0" * 64, TrialSettings(image="i"), now=0.0)
    pod: dict[str, Any] = made["spec"]["template"]["spec"]
    return pod


def judged(tier: dict[str, Any], *nodes: dict[str, Any], **more: Any) -> Finding:
    spec = {"tiers": [{"name": "t", **tier}]}
    return tier_finding("tier t", run(spec).spec.tiers[0], pod_of(spec), standing(*nodes, **more))


def test_gpus_are_counted_by_product_with_what_is_free_and_the_driver() -> None:
    taken = {"a": {"nvidia.com/gpu": 3.0}}
    found = gpu_findings(standing(node("a"), node("b"), node("c", product="NVIDIA-H100", gpus=8), taken=taken))
    lines = {one.name: one for one in found}
    assert lines["gpus NVIDIA-L4"].value == "8 nvidia.com/gpu on 2 nodes, 5 free; driver 570.86.15"
    assert lines["gpus NVIDIA-H100"].value == "8 nvidia.com/gpu on 1 node, 8 free; driver 570.86.15"
    assert {one.status for one in found} == {"ok"}


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        ({"ready": False}, "not ready or cordoned: b"),
        ({"cordoned": True}, "not ready or cordoned: b"),
        ({"driver": "560.35.03"}, "driver 560.35.03, 570.86.15"),
    ],
)
def test_a_node_apart_is_a_warning(odd: dict[str, Any], words: str) -> None:
    (found,) = gpu_findings(standing(node("a"), node("b", **odd)))
    assert found.status == "warn" and words in found.value


def test_gpus_without_a_product_or_none_at_all_say_what_to_install() -> None:
    (unnamed,) = gpu_findings(standing(node("a", product=None)))
    assert unnamed.status == "warn" and "feature discovery" in unnamed.advice
    (none,) = gpu_findings(standing(node("a", gpus=0)))
    assert none.value == "no GPU on 1 node" and "device plugin" in none.advice


@pytest.mark.parametrize(
    "shared",
    [
        node("a", sharing="time-slicing"),
        node("a", sharing="mps"),
        node("a", labels={"nvidia.com/gpu.replicas": "4"}),
        node("a", resource="nvidia.com/gpu.shared"),
    ],
)
def test_shared_gpus_are_named_with_their_node(shared: dict[str, Any]) -> None:
    lines = [one for one in gpu_findings(standing(shared)) if one.name == "sharing on a"]
    assert len(lines) == 1 and lines[0].status == "warn"


def test_a_tier_that_has_its_place_says_how_many_trials_fit_now() -> None:
    found = judged({"maxParallel": 3}, node("a"), node("b"), taken={"a": {"nvidia.com/gpu": 4.0}})
    assert found.status == "ok"
    assert found.value == "room for 8 trials on 2 nodes, 4 now; wanted: 3"


@pytest.mark.parametrize(
    ("tier", "nodes", "status", "words"),
    [
        ({}, [node("a", gpus=0)], "fail", "no node offers nvidia.com/gpu"),
        ({"gpus": 8}, [node("a")], "fail", "no node has 8 nvidia.com/gpu; the largest has 4"),
        ({"product": "NVIDIA-B200"}, [node("a")], "fail", "no node has the product NVIDIA-B200; there are: NVIDIA-L4"),
        ({"nodeSelector": {"zone": "b"}}, [node("a")], "fail", "none matches nodeSelector and affinity"),
        ({}, [node("a", sharing="mps")], "fail", "every node with nvidia.com/gpu shares its GPUs: a"),
        (
            {},
            [node("a", taints=(TAINT, {"key": "team", "value": "x", "effect": "NoSchedule"}))],
            "fail",
            "all tainted: team=x:NoSchedule",
        ),
        ({}, [node("a", memory="8Gi")], "fail", "a trial asks for"),
        ({}, [node("a", cordoned=True)], "fail", "a: not ready or cordoned"),
        ({"maxParallel": 9}, [node("a")], "warn", "room for 4 trials on a, 4 now; wanted: 9"),
        ({}, [node("a"), node("b", product="NVIDIA-A10")], "warn", "products: NVIDIA-A10, NVIDIA-L4"),
    ],
)  # fmt: skip
def test_what_stands_in_a_tiers_way_is_named(
    tier: dict[str, Any], nodes: list[dict[str, Any]], status: str, words: str
) -> None:
    found = judged(tier, *nodes)
    assert (found.status, words in found.value) == (status, True), found
    assert found.advice


def test_a_place_that_others_hold_now_is_a_warning() -> None:
    found = judged({}, node("a"), taken={"a": {"nvidia.com/gpu": 4.0}})
    assert found.status == "warn" and "Others hold the place" in found.advice


@pytest.mark.parametrize(
    "toleration",
    [
        {"key": "team", "operator": "Exists"},
        {"key": "team", "value": "x"},
        {"key": "team", "value": "x", "effect": "NoSchedule"},
        {"operator": "Exists"},
    ],
)
def test_a_tolerated_taint_is_no_obstacle(toleration: dict[str, str]) -> None:
    tainted = node("a", taints=({"key": "team", "value": "x", "effect": "NoSchedule"},))
    assert judged({"tolerations": [toleration]}, tainted).status == "ok"


@pytest.mark.parametrize(
    ("expression", "fits"),
    [
        ({"key": "zone", "operator": "In", "values": ["b"]}, True),
        ({"key": "zone", "operator": "NotIn", "values": ["b"]}, False),
        ({"key": "zone", "operator": "Exists"}, True),
        ({"key": "zone", "operator": "DoesNotExist"}, False),
        ({"key": "rank", "operator": "Gt", "values": ["3"]}, True),
        ({"key": "rank", "operator": "Lt", "values": ["3"]}, False),
        ({"key": "zone", "operator": "Gt", "values": ["3"]}, False),
    ],
)
def test_affinity_is_read_as_the_scheduler_reads_it(expression: dict[str, Any], fits: bool) -> None:
    required = {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}
    found = judged({"affinity": affinity}, node("a", labels={"zone": "b", "rank": "5"}))
    assert (found.status == "ok") is fits, found


def test_a_pods_needs_are_its_containers_and_sidecars_or_its_largest_init_container() -> None:
    def container(cpu: str, **more: str) -> dict[str, Any]:
        return {"resources": {"requests": {"cpu": cpu}}, **more}

    spec = {
        "initContainers": [container("500m", restartPolicy="Always"), container("4")],
        "containers": [container("2")],
    }
    assert requests(spec) == {"cpu": 4.5}


def test_ended_pods_and_pods_without_a_node_hold_nothing() -> None:
    def pod(node_name: str | None, phase: str) -> dict[str, Any]:
        asked = {"containers": [{"resources": {"limits": {"nvidia.com/gpu": "1"}}}]}
        return {"spec": {**asked, **({"nodeName": node_name} if node_name else {})}, "status": {"phase": phase}}

    taken: dict[str, dict[str, float]] = {}
    add_taken(taken, [pod("a", "Running"), pod("a", "Succeeded"), pod(None, "Pending"), pod("a", "Pending")])
    assert taken == {"a": {"nvidia.com/gpu": 2.0}}


def test_an_amount_that_is_none_counts_nothing() -> None:
    assert [amount(text) for text in ("1500m", "2Gi", 3, None, "many")] == [1.5, 2 * 2**30, 3.0, 0.0, 0.0]
