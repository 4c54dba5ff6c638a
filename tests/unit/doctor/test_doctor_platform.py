"""What doctor says of the API server, the definitions, the operator and the namespace."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from autoresearch_operator.api.crd import KINDS
from autoresearch_operator.cluster.canary import Look
from autoresearch_operator.cluster.doctor_platform import (
    RIGHTS,
    definition_finding,
    lease_finding,
    namespace_finding,
    operator_finding,
    policy_finding,
    rights_finding,
    server_finding,
    serving,
)


def installed(kind: Any) -> dict[str, Any]:
    found: dict[str, Any] = copy.deepcopy(kind.definition())
    found["status"] = {"conditions": [{"type": "Established", "status": "True"}]}
    # What the API server adds by itself is no difference.
    found["spec"]["conversion"] = {"strategy": "None"}
    return found


def deployment(
    namespace: str, served: str, *, ready: int = 1, replicas: int = 1, version: str = "0.1.0"
) -> dict[str, Any]:
    env = [
        {"name": "AUTORESEARCH_NAMESPACES", "value": served},
        {"name": "AUTORESEARCH_TRAINER_IMAGE", "value": "reg/trainer:1"},
        {"name": "AUTORESEARCH_TRAINER_PULL_SECRETS", "value": "reg,other"},
        {"name": "AUTORESEARCH_LEASE_NAMESPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
    ]
    return {
        "metadata": {"namespace": namespace, "name": "op", "labels": {"app.kubernetes.io/version": version}},
        "spec": {"replicas": replicas, "template": {"spec": {"containers": [{"name": "operator", "env": env}]}}},
        "status": {"readyReplicas": ready} if ready else {},
    }


PULL = {"reason": "ImagePullBackOff", "message": "no such"}


def pod(**status: Any) -> dict[str, Any]:
    return {"metadata": {}, "status": status}


@pytest.mark.parametrize(
    ("version", "status"),
    [("v1.29.0", "ok"), ("v1.36.3-gke.100", "ok"), ("v1.28.9", "fail"), ("v2.0.0", "ok"), ("unknown", "warn")],
)
def test_the_api_server_has_to_be_new_enough(version: str, status: str) -> None:
    assert server_finding("https://api.lab.example", version).status == status


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.plural)
def test_a_definition_is_compared_with_this_version(kind: Any) -> None:
    there = installed(kind)
    assert definition_finding(kind, there).status == "ok"
    assert "not installed" in definition_finding(kind, None).value
    older = copy.deepcopy(there)
    older["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"].popitem()
    assert definition_finding(kind, older).status == "warn"
    foreign = copy.deepcopy(there)
    foreign["spec"]["versions"][0]["name"] = "v2"
    assert definition_finding(kind, foreign).status == "fail"
    clash = {
        **there,
        "status": {"conditions": [{"type": "NamesAccepted", "status": "False", "message": "rr is taken"}]},
    }
    assert "rr is taken" in definition_finding(kind, clash).value


def test_the_operator_that_serves_the_namespace_is_found_and_its_settings_read() -> None:
    found = serving([deployment("other", "other"), deployment("ops", "lab,b")], "lab")
    assert found is not None and found.namespace == "ops"
    trials = found.trials("default:1")
    assert (trials.image, trials.image_pull_secrets) == ("reg/trainer:1", ("reg", "other"))
    assert serving([deployment("ops", "*")], "lab") is not None
    assert serving([deployment("lab", "")], "lab") is not None, "without namespaces it serves its own"
    assert serving([deployment("ops", "b")], "lab") is None


@pytest.mark.parametrize(
    ("which", "pods", "status", "words"),
    [
        ({}, [], "ok", "ops/op is ready"),
        ({"version": "0.0.9"}, [], "warn", "version 0.0.9; this program is 0.1.0"),
        ({"ready": 0, "replicas": 0}, [], "fail", "scaled to 0"),
        ({"ready": 0}, [], "fail", "it has no pod"),
        (
            {"ready": 0},
            [pod(conditions=[{"type": "PodScheduled", "status": "False", "message": "0/2 nodes"}])],
            "fail",
            "0/2 nodes",
        ),
        (
            {"ready": 0},
            [pod(containerStatuses=[{"name": "operator", "state": {"waiting": PULL}}])],
            "fail",
            "ImagePullBackOff no such",
        ),
        ({"ready": 0}, [pod(phase="Running")], "fail", "readiness probe fails"),
    ],
)  # fmt: skip
def test_an_operator_that_is_not_well_says_why(
    which: dict[str, Any], pods: list[dict[str, Any]], status: str, words: str
) -> None:
    one = deployment("ops", "lab", **which)
    found = operator_finding(serving([one], "lab"), [one], "lab", pods, "0.1.0")
    assert (found.status, words in found.value) == (status, True), found
    assert found.advice or status == "ok"


def test_no_operator_at_all_and_one_for_others_are_told_apart() -> None:
    assert "helm install" in operator_finding(None, [], "lab", [], "0.1.0").advice
    other = operator_finding(None, [deployment("ops", "b")], "lab", [], "0.1.0")
    assert "there is ops/op" in other.value and "watchNamespaces" in other.advice


@pytest.mark.parametrize(
    ("spec", "status"),
    [
        (None, "fail"),
        ({}, "fail"),
        ({"holderIdentity": "", "renewTime": "2026-01-01T00:00:00.000000Z"}, "fail"),
        ({"holderIdentity": "a", "renewTime": "2026-01-01T00:00:00.000000Z", "leaseDurationSeconds": 15}, "ok"),
        ({"holderIdentity": "a", "renewTime": "2025-12-31T23:50:00.000000Z", "leaseDurationSeconds": 15}, "fail"),
        ({"holderIdentity": "a", "renewTime": "2026-01-01T00:00:30.000000Z", "leaseDurationSeconds": 15}, "ok"),
    ],
)
def test_a_lease_has_to_be_fresh(spec: dict[str, Any] | None, status: str) -> None:
    now = 1767225600.0  # 2026-01-01T00:00:00Z
    assert lease_finding(None if spec is None else {"spec": spec}, "l", now).status == status


def test_rights_that_a_run_needs_fail_and_others_warn() -> None:
    everything = dict.fromkeys(RIGHTS, True)
    assert rights_finding(everything, "lab").status == "ok"
    secrets = next(right for right in RIGHTS if right.resource == "secrets")
    found = rights_finding({**everything, secrets: False}, "lab")
    assert found.status == "warn" and "get secrets" in found.value
    create = next(right for right in RIGHTS if right.needed)
    assert rights_finding({**everything, create: False}, "lab").status == "fail"


def test_a_namespace_is_there_and_says_its_level() -> None:
    assert namespace_finding("lab", None).status == "fail"
    assert namespace_finding("lab", {"metadata": {}, "status": {"phase": "Terminating"}}).status == "fail"
    assert "pod-security" in namespace_finding("lab", {"metadata": {}}).advice
    level = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
    assert "restricted" in namespace_finding("lab", level).value


def test_policies_that_do_not_hold_are_a_warning_that_says_for_whom() -> None:
    assert policy_finding(Look(True, True, "m")).status == "ok"
    assert policy_finding(Look(True, None, "no answer")).value == "unknown: no answer"
    found = policy_finding(Look(True, False, "m"))
    assert found.status == "warn" and "several GPUs" in found.advice
