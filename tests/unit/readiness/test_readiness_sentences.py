"""What a run is told that lacks data or nodes, and that nothing is held against it that nobody can know."""

from __future__ import annotations

from typing import Any

import pytest
from autoresearch_operator.api.reasons import ExperimentKind
from autoresearch_operator.api.run import ResearchRun
from autoresearch_operator.cluster.controller import parsed
from autoresearch_operator.cluster.readiness import claim_sentence, claim_warning, matching, node_sentence
from autoresearch_operator.manifests.job import trial_job
from autoresearch_operator.manifests.settings import TrialSettings
from autoresearch_operator.research.records import ExperimentRecord, Purpose, TrialKey, TrialStart

PREPARE = "autoresearch prepare --claim climbmix --apply"


def body(parallel: int = 4, **tier: Any) -> dict[str, Any]:
    return {
        "apiVersion": "autoresearch.dev/v1alpha1",
        "kind": "ResearchRun",
        "metadata": {"name": "r", "namespace": "lab", "uid": "u"},
        "spec": {
            "trainer": {"data": {"claimName": "climbmix"}},
            "tiers": [{"name": "gpu", "maxParallel": parallel, **tier}],
        },
    }


def run(parallel: int = 4, **tier: Any) -> ResearchRun:
    return parsed(body(parallel, **tier))


def claim(mode: str = "ReadWriteOnce", phase: str = "Bound", **more: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "climbmix", **more.pop("metadata", {})},
        "spec": {"accessModes": [mode], **more},
        "status": {"phase": phase} if phase == "Pending" else {"phase": phase, "accessModes": [mode]},
    }


@pytest.mark.parametrize(
    ("found", "nodes", "parallel", "words"),
    [
        (None, None, 1, ("there is no PersistentVolumeClaim climbmix", PREPARE)),
        (claim(phase="Pending"), None, 1, ("has no volume yet", PREPARE, "kubectl describe pvc climbmix")),
        (claim(phase="Lost"), None, 1, ("PersistentVolumeClaim climbmix: Lost", "prepare the data again")),
        (claim(metadata={"deletionTimestamp": "2026-01-01T00:00:00Z"}), 1, 1, ("is being deleted", "make it anew")),
        (claim(), 3, 4, ("one node at a time, and 4 trials may run at once, on 3 nodes", "nodeSelector")),
        (claim("ReadWriteOncePod"), 1, 4, ("one pod at a time, and 4 trials", "maxParallel: 1")),
        (claim("ReadWriteOncePod"), None, 4, ("one pod at a time, and 4 trials", "maxParallel: 1")),
    ],
)
def test_a_claim_that_cannot_serve_the_trials_is_named_with_what_to_do(
    found: dict[str, Any] | None, nodes: int | None, parallel: int, words: tuple[str, ...]
) -> None:
    sentence = claim_sentence(run(parallel), found, nodes=nodes)
    assert sentence is not None
    for part in words:
        assert part in sentence
    assert sentence.startswith(("PersistentVolumeClaim climbmix", "there is no"))


@pytest.mark.parametrize(
    ("found", "nodes", "parallel"),
    [
        (claim(), 3, 1),  # one trial at a time goes where the volume is
        (claim(), 1, 4),  # several pods of one node share it
        (claim(), None, 4),  # nobody knows how many nodes there are
        (claim("ReadWriteOncePod"), 3, 1),
        (claim("ReadWriteMany"), 9, 64),
        (claim("ReadOnlyMany"), 9, 64),
        (claim("ReadWriteMany", "Pending", dataSource={"kind": "VolumeSnapshot", "name": "s"}), 9, 64),
    ],
)
def test_a_claim_that_may_serve_them_is_taken(found: dict[str, Any], nodes: int | None, parallel: int) -> None:
    assert claim_sentence(run(parallel), found, nodes=nodes) is None


def test_the_demo_corpus_needs_no_claim() -> None:
    spec = body()
    del spec["spec"]["trainer"]
    assert claim_sentence(parsed(spec), None, nodes=None) is None


def test_where_nodes_are_not_known_a_claim_for_one_node_is_warned_about() -> None:
    assert claim_warning(run(1), claim()) is None
    assert claim_warning(run(4), claim("ReadWriteMany")) is None
    warning = claim_warning(run(4), claim())
    assert warning is not None
    assert "ReadWriteOnce, and 4 trials may run at once" in warning


def node(name: str = "n1", gpus: int = 8, product: str = "NVIDIA-L4", **more: Any) -> dict[str, Any]:
    labels = {"nvidia.com/gpu.product": product, "zone": "a", **more.pop("labels", {})}
    amounts = {"cpu": "64", "memory": "512Gi", "ephemeral-storage": "1Ti"}
    return {
        "metadata": {"name": name, "labels": labels if gpus else {}},
        "spec": {"taints": [], **more},
        "status": {
            "allocatable": amounts | ({"nvidia.com/gpu": str(gpus)} if gpus else {}),
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


def asked(nodes: list[dict[str, Any]], **tier: Any) -> tuple[str | None, int]:
    """What is said about a tier, and on how many nodes it fits."""
    spec = run(**tier).spec
    record = ExperimentRecord(0, ExperimentKind.BASELINE, "c" * 40, "t" * 40, 0, "the unedited source", "source")
    start = TrialStart(TrialKey(0, 1, 1), "gpu", Purpose.BASELINE, 0, "val", 1)
    made = trial_job(body(**tier), spec, start, record, "0" * 64, TrialSettings(image="i"), now=0.0)
    pod = made["spec"]["template"]["spec"]
    return node_sentence(spec.tiers[0], pod, nodes), matching(spec.tiers[0], pod, nodes)


@pytest.mark.parametrize(
    ("tier", "words"),
    [
        ({"resourceName": "amd.com/gpu"}, "no node offers amd.com/gpu"),
        ({"gpus": 16}, "no node has 16 nvidia.com/gpu; the largest has 8"),
        ({"product": "NVIDIA-H200"}, "no node has the product NVIDIA-H200; there are: NVIDIA-L4"),
        ({"nodeSelector": {"zone": "b"}}, "1 node could carry it, and none matches nodeSelector and affinity"),
    ],
)
def test_a_tier_that_fits_no_node_is_told_why(tier: dict[str, Any], words: str) -> None:
    sentence, fits = asked([node(), node("cpu", gpus=0)], **tier)
    assert sentence is not None
    assert sentence.startswith(f"tier gpu: {words}")
    assert sentence.endswith(".")
    assert fits == 0


def test_a_taint_that_is_not_tolerated_keeps_a_tier_away() -> None:
    sentence, _ = asked([node(taints=[{"key": "team", "value": "other", "effect": "NoSchedule"}])])
    assert sentence is not None
    assert "all tainted: team=other:NoSchedule" in sentence


def test_a_node_that_is_cordoned_or_not_ready_now_will_do_later() -> None:
    lost = node("n2")
    lost["status"]["conditions"] = [{"type": "Ready", "status": "Unknown"}]
    assert asked([node(unschedulable=True), lost]) == (None, 2)
