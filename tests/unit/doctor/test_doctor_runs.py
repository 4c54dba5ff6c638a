"""What doctor says of what a run names."""

from __future__ import annotations

from typing import Any

import pytest
from autoresearch_operator.cluster.doctor_runs import (
    NamedSecret,
    changed,
    claim_finding,
    queue_finding,
    refusal,
    secret_finding,
    secrets_of,
)
from doctorobjects import claim, run, secret

HTTPS = NamedSecret("s", "https://git.lab.example/a/b.git", "git", "spec.source.secretName")
SSH = NamedSecret("s", "git@git.lab.example:a/b.git", "git", "spec.source.secretName")
MODEL = NamedSecret("s", "http://git.lab.example/v1", "model", "spec.proposers[0].openai.secretName")
BOTH = {"username": "eA==", "password": "eA=="}
PULL = NamedSecret("s", None, "pull", "spec.trainer.imagePullSecrets[0]")


def test_every_secret_that_a_run_names_is_found() -> None:
    asked = run(
        {
            "source": {"url": "https://git.lab.example/a/b.git", "secretName": "one"},
            "proposers": [
                {"search": {}},
                {"openai": {"baseURL": "https://api.lab.example/v1", "model": "m", "secretName": "two"}},
            ],
            "trainer": {"imagePullSecrets": [{"name": "three"}]},
        }
    )
    assert [(one.name, one.kind, one.field) for one in secrets_of(asked)] == [
        ("one", "git", "spec.source.secretName"),
        ("two", "model", "spec.proposers[1].openai.secretName"),
        ("three", "pull", "spec.trainer.imagePullSecrets[0]"),
    ]
    assert not list(secrets_of(run({})))


@pytest.mark.parametrize(
    ("wanted", "found", "words"),
    [
        (HTTPS, None, "there is no Secret s (spec.source.secretName)"),
        (HTTPS, secret("Opaque", **BOTH), "it is of type Opaque"),
        (HTTPS, secret(username="eA=="), "it has no password"),
        (HTTPS, secret(hosts="github.com", **BOTH), "the URL leads to git.lab.example"),
        (SSH, secret("kubernetes.io/ssh-auth", **{"ssh-privatekey": "eA=="}), "it has no known_hosts"),
        (SSH, secret(**BOTH), "needs kubernetes.io/ssh-auth"),
        (MODEL, secret("Opaque", key="eA=="), "it has no key api-key"),
        (PULL, secret("Opaque"), "it is of type Opaque"),
    ],
)
def test_a_secret_that_cannot_be_used_says_why_and_how_to_make_it(
    wanted: NamedSecret, found: dict[str, Any] | None, words: str
) -> None:
    finding = secret_finding("s", wanted, found)
    assert finding.status == "fail" and words in finding.value
    assert "kubectl" in finding.advice or "adds that to its annotation" in finding.advice


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (HTTPS, secret(**BOTH)),
        (SSH, secret("kubernetes.io/ssh-auth", **{"ssh-privatekey": "eA==", "known_hosts": "eA=="})),
        (MODEL, secret("Opaque", **{"api-key": "eA=="})),
        (PULL, secret("kubernetes.io/dockerconfigjson")),
    ],
)
def test_a_secret_that_can_be_used_is_fine(wanted: NamedSecret, found: dict[str, Any]) -> None:
    finding = secret_finding("s", wanted, found)
    assert finding.status == "ok" and "eA==" not in finding.value


@pytest.mark.parametrize(
    ("mode", "parallel", "nodes", "status", "words"),
    [
        ("ReadWriteMany", 4, 3, "ok", "Bound, ReadWriteMany"),
        ("ReadOnlyMany", 4, None, "ok", "Bound, ReadOnlyMany"),
        ("ReadWriteOnce", 1, 3, "ok", "Bound, ReadWriteOnce"),
        ("ReadWriteOnce", 4, 1, "ok", "Bound, ReadWriteOnce"),
        ("ReadWriteOnce", 4, 3, "fail", "one node at a time, and 4 trials may run at once, on 3 nodes"),
        ("ReadWriteOnce", 4, None, "fail", "one node at a time"),
        ("ReadWriteOncePod", 2, 1, "fail", "one pod at a time, and 2 trials"),
        ("ReadWriteOncePod", 1, 1, "ok", "Bound"),
    ],
)
def test_a_claim_has_to_be_mountable_by_all_trials_at_once(
    mode: str, parallel: int, nodes: int | None, status: str, words: str
) -> None:
    asked = run({"trainer": {"data": {"claimName": "d"}}, "tiers": [{"name": "t", "maxParallel": parallel}]})
    found = claim_finding("c", asked, claim(mode), nodes=nodes)
    assert (found.status, words in found.value) == (status, True), found


def test_a_claim_that_is_missing_lost_or_pending_says_so() -> None:
    asked = run({"trainer": {"data": {"claimName": "d"}}})
    assert "prepare --claim d" in claim_finding("c", asked, None, nodes=1).advice
    assert claim_finding("c", asked, claim("ReadWriteMany", "Lost"), nodes=1).status == "fail"
    assert claim_finding("c", asked, claim("ReadWriteMany", "Pending"), nodes=1).status == "warn"


def test_a_queue_is_there_and_admits_or_says_what_is_missing() -> None:
    groups = {"preferredVersion": {"version": "v1beta2"}}
    conditions = [{"type": "Active", "status": "False", "message": "Can't submit new workloads: stopped"}]
    there = {"spec": {"clusterQueue": "lab"}}
    assert "no Kueue" in queue_finding("q", "research", None, None).value
    assert "no LocalQueue research" in queue_finding("q", "research", groups, None).value
    stopped = queue_finding("q", "research", groups, {**there, "status": {"conditions": conditions}})
    assert stopped.status == "fail" and "stopped" in stopped.value and "lab" in stopped.advice
    assert queue_finding("q", "research", groups, there).status == "ok"


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        (
            'pods "x" is forbidden: exceeded quota: q, requested: requests.nvidia.com/gpu=1, used: 4, limited: 4',
            "quota",
        ),
        ('pods "x" is forbidden: violates PodSecurity "restricted:latest": runAsNonRoot != true', "restricted"),
        ('pods "x" is forbidden: maximum memory usage per Container is 1Gi, but limit is 10Gi', "LimitRange"),
        ('pods "x" is forbidden: no PriorityClass with name low was found', "priorityClass"),
        ('admission webhook "policy.lab" denied the request: images must be signed', "render"),
        ("something new", "sentence is the API server's"),
    ],
)
def test_a_refused_pod_keeps_the_servers_sentence_and_gets_advice(said: str, advice: str) -> None:
    found = refusal("pods", said)
    assert (found.status, found.value) == ("fail", said)
    assert advice in found.advice


def test_what_admission_changes_is_named() -> None:
    asked = {"containers": [{"name": "judge", "resources": {"limits": {"cpu": "1"}}}]}
    same = {"containers": [{"name": "judge", "resources": {"limits": {"cpu": "1"}}, "image": "i"}]}
    other = {"containers": [{"name": "judge", "resources": {"limits": {"cpu": "2"}}}, {"name": "proxy"}]}
    assert changed(asked, same) == []
    assert changed(asked, other) == ["the resources of judge", "the pod by a container proxy"]
