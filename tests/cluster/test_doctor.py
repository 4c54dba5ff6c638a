"""`autoresearch doctor --namespace` against a real API server, scheduler and simulated GPU nodes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from autoresearch_operator.cli import app
from clusterlab.cluster import Cluster
from typer.testing import CliRunner

ROOT = Path(__file__).resolve().parents[2]
RUNS = "/apis/autoresearch.dev/v1alpha1/namespaces/{}/researchruns"
URL = "https://git.lab.example/ml/autoresearch.git"

Findings = dict[str, dict[str, str]]


@pytest.fixture(scope="module")
def plane(control_plane: Cluster) -> Cluster:
    control_plane.install_crds(sorted((ROOT / "crds").glob("*.yaml")))
    return control_plane


@pytest.fixture
def examine(plane: Cluster, namespace: str) -> Callable[..., Findings]:
    """`examine(...)` runs the command on the test's namespace; findings by name, `code` the exit code."""

    def run(*arguments: str, kubeconfig: Path | None = None) -> Findings:
        way = ["--namespace", namespace, "--kubeconfig", str(kubeconfig or plane.kubeconfig), "--json"]
        done = CliRunner().invoke(app, ["doctor", *way, "--no-canary", *arguments])
        assert done.stdout.startswith("["), done.output
        found: list[dict[str, str]] = json.loads(done.stdout)
        assert done.exit_code == int(any(one["status"] == "fail" for one in found))
        return {one["name"]: one for one in found}

    return run


@pytest.fixture
def start(plane: Cluster, namespace: str) -> Callable[..., str]:
    """`start(spec)` applies a ResearchRun named r."""

    def apply(spec: dict[str, Any]) -> str:
        body = {
            "apiVersion": "autoresearch.dev/v1alpha1",
            "kind": "ResearchRun",
            "metadata": {"name": "r"},
            "spec": spec,
        }
        plane.api.create(RUNS.format(namespace), body)
        return "r"

    return apply


@pytest.fixture
def l4(kwok_nodes: Callable[..., list[str]]) -> Iterator[list[str]]:
    yield kwok_nodes(2, gpus=4, product="NVIDIA-L4", driver="570.86.15", prefix="doctor-")


def deployment(served: str, *, image: str = "reg.lab.example/trainer:1") -> dict[str, Any]:
    """What the chart makes, as far as doctor reads it."""
    labels = {"app.kubernetes.io/part-of": "autoresearch", "app.kubernetes.io/version": "0.1.0", "app": "operator"}
    env = [
        {"name": "AUTORESEARCH_NAMESPACES", "value": served},
        {"name": "AUTORESEARCH_TRAINER_IMAGE", "value": image},
        {"name": "AUTORESEARCH_LEASE_NAME", "value": "autoresearch-operator"},
    ]
    pod = {"containers": [{"name": "operator", "image": "reg.lab.example/operator:1", "env": env}]}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "autoresearch-operator", "labels": labels},
        "spec": {
            "replicas": 0,
            "selector": {"matchLabels": {"app": "operator"}},
            "template": {"metadata": {"labels": {"app": "operator"}}, "spec": pod},
        },
    }


def secret(name: str, **more: Any) -> dict[str, Any]:
    metadata = {"name": name, **more}
    data = {"username": "git", "password": "hush-hush-hush"}
    return {"metadata": metadata, "type": "kubernetes.io/basic-auth", "stringData": data}


def test_an_empty_namespace_is_told_what_it_lacks_and_the_gpus_that_are_there(
    examine: Callable[..., Findings], namespace: str, l4: list[str]
) -> None:
    found = examine()
    assert found["api server"]["status"] == "ok"
    assert found["definition researchruns"] == found["definition researchruns"] | {"status": "ok"}
    assert found["definition experiments"]["status"] == "ok"
    assert found["operator"]["status"] == "fail" and "helm install" in found["operator"]["advice"]
    assert found["your rights"]["status"] == "ok"
    assert "enforces the Pod Security level restricted" in found["namespace"]["value"]
    gpus = found["gpus NVIDIA-L4"]
    assert gpus["value"] == "8 nvidia.com/gpu on 2 nodes, 8 free; driver 570.86.15"
    tier = found["a run with spec: {}: tier gpu"]
    assert tier["status"] == "ok" and "wanted: 1" in tier["value"], tier
    assert found["a run with spec: {}: pods gpu"]["status"] == "ok", "the restricted level takes a trial's pod"


def test_nothing_is_left_behind_and_nothing_was_made(
    examine: Callable[..., Findings], plane: Cluster, namespace: str, l4: list[str]
) -> None:
    mark = plane.audit_size()
    examine()
    writes = [
        event
        for event in plane.audit_events(mark)
        if event["verb"] in ("create", "update", "patch", "delete")
        and event.get("userAgent") == "autoresearch-operator"
        and "dryRun=All" not in event["requestURI"]
        and "selfsubjectaccessreviews" not in event["requestURI"]
    ]
    assert not writes


def test_an_operator_that_does_not_run_is_named_with_its_lease(
    examine: Callable[..., Findings], plane: Cluster, namespace: str
) -> None:
    plane.api.create(f"/apis/apps/v1/namespaces/{namespace}/deployments", deployment(namespace))
    lease = {
        "metadata": {"name": "autoresearch-operator"},
        "spec": {
            "holderIdentity": "old-pod",
            "leaseDurationSeconds": 15,
            "renewTime": "2020-01-01T00:00:00.000000Z",
        },
    }
    plane.api.create(f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases", lease)
    found = examine()
    assert found["operator"]["status"] == "fail" and "scaled to 0" in found["operator"]["value"]
    assert "--replicas=1" in found["operator"]["advice"]
    assert found["lease"]["status"] == "fail" and "by old-pod" in found["lease"]["value"]


def test_an_operator_of_other_namespaces_does_not_count(
    examine: Callable[..., Findings], plane: Cluster, namespace: str
) -> None:
    plane.api.create(f"/apis/apps/v1/namespaces/{namespace}/deployments", deployment("elsewhere"))
    found = examine()["operator"]
    assert found["status"] == "fail" and f"none serves the namespace {namespace}" in found["value"]
    assert "watchNamespaces" in found["advice"]


def test_shared_gpus_are_flagged_and_not_counted_for_a_tier(
    examine: Callable[..., Findings], kwok_nodes: Callable[..., list[str]], start: Callable[..., str]
) -> None:
    (name,) = kwok_nodes(1, gpus=4, product="NVIDIA-A10", prefix="shared-", sharing="time-slicing")
    start({"tiers": [{"name": "a10", "product": "NVIDIA-A10"}]})
    found = examine()
    assert found[f"sharing on {name}"]["status"] == "warn"
    assert found["run r: tier a10"]["status"] == "fail"
    assert "shares its GPUs" in found["run r: tier a10"]["value"]


def test_a_tier_without_a_node_says_what_there_is(
    examine: Callable[..., Findings], kwok_nodes: Callable[..., list[str]], start: Callable[..., str], plane: Cluster
) -> None:
    (tainted,) = kwok_nodes(1, gpus=2, product="NVIDIA-H100", prefix="own-", labels={"lab": "own"})
    node = plane.api.get(f"/api/v1/nodes/{tainted}")
    taints = [*node["spec"].get("taints", []), {"key": "lab/own", "value": "vision", "effect": "NoSchedule"}]
    plane.api.patch(f"/api/v1/nodes/{tainted}", {"spec": {"taints": taints}})
    start(
        {
            "trainer": {"resources": {"cpu": 8, "memory": "16Gi"}},
            "tiers": [
                {"name": "b200", "product": "NVIDIA-B200"},
                {"name": "many", "gpus": 16},
                {"name": "tainted", "product": "NVIDIA-H100"},
                {"name": "tpu", "resourceName": "google.com/tpu"},
            ],
        }
    )
    found = examine()
    assert "no node has the product NVIDIA-B200; there are:" in found["run r: tier b200"]["value"]
    assert "NVIDIA-H100" in found["run r: tier b200"]["value"]
    assert "no node has 16 nvidia.com/gpu" in found["run r: tier many"]["value"]
    assert "lab/own=vision:NoSchedule" in found["run r: tier tainted"]["value"]
    assert "tolerations" in found["run r: tier tainted"]["advice"]
    assert found["run r: tier tpu"]["value"] == "no node offers google.com/tpu"
    assert {found[f"run r: tier {name}"]["status"] for name in ("b200", "many", "tainted", "tpu")} == {"fail"}


def test_a_trial_that_is_larger_than_every_node_is_said_before_it_waits_for_ever(
    examine: Callable[..., Findings], l4: list[str], start: Callable[..., str]
) -> None:
    start({"trainer": {"resources": {"cpu": 500, "memory": "16Gi"}}, "tiers": [{"name": "l4", "product": "NVIDIA-L4"}]})
    found = examine()["run r: tier l4"]
    assert found["status"] == "fail" and "a trial asks for 500" in found["value"]


def test_secrets_are_checked_for_label_host_and_type_and_never_shown(
    examine: Callable[..., Findings], plane: Cluster, namespace: str, start: Callable[..., str]
) -> None:
    start({"source": {"url": URL, "secretName": "lab-git"}, "tiers": [{"name": "cpu", "gpus": 0}]})
    secrets = f"/api/v1/namespaces/{namespace}/secrets"
    name = "run r: secret lab-git"
    found = examine()
    assert found[name]["value"] == "there is no Secret lab-git (spec.source.secretName)"
    assert "kubectl create secret generic lab-git" in found[name]["advice"]
    plane.api.create(secrets, secret("lab-git"))
    found = examine()
    assert "not marked for use" in found[name]["value"]
    assert "kubectl label secret lab-git autoresearch.dev/usable=true" in found[name]["advice"]
    plane.api.patch(
        f"{secrets}/lab-git",
        {
            "metadata": {
                "labels": {"autoresearch.dev/usable": "true"},
                "annotations": {"autoresearch.dev/hosts": "github.com"},
            }
        },
    )
    found = examine()
    assert "is for github.com, and the URL leads to git.lab.example" in found[name]["value"]
    plane.api.patch(f"{secrets}/lab-git", {"metadata": {"annotations": {"autoresearch.dev/hosts": "git.lab.example"}}})
    found = examine()
    assert found[name]["status"] == "ok"
    assert found["run r: push"]["status"] == "fail", "the host does not exist"
    assert URL in found["run r: push"]["value"]
    assert "hush" not in json.dumps(found)


def test_a_claim_of_one_node_is_refused_for_several_trials(
    examine: Callable[..., Findings], plane: Cluster, namespace: str, l4: list[str], start: Callable[..., str]
) -> None:
    start(
        {
            "trainer": {"data": {"claimName": "climbmix"}},
            "tiers": [{"name": "l4", "product": "NVIDIA-L4", "maxParallel": 4}],
        }
    )
    name = "run r: claim climbmix"
    assert "autoresearch prepare --claim climbmix" in examine()[name]["advice"]
    claims = f"/api/v1/namespaces/{namespace}/persistentvolumeclaims"
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    plane.api.create(claims, {"metadata": {"name": "climbmix"}, "spec": spec})
    found = examine()[name]
    assert found["status"] == "fail"
    assert "one node at a time, and 4 trials may run at once, on 2 nodes" in found["value"]
    plane.api.delete(f"{claims}/climbmix")
    plane.api.wait(lambda: plane.api.find(f"{claims}/climbmix") is None, "the claim is gone")
    plane.api.create(claims, {"metadata": {"name": "climbmix"}, "spec": spec | {"accessModes": ["ReadWriteMany"]}})
    found = examine()[name]
    assert found["status"] == "warn" and "no volume yet" in found["advice"]


def test_a_quota_and_a_limit_range_refuse_in_the_api_servers_own_words(
    examine: Callable[..., Findings], plane: Cluster, namespace: str, l4: list[str]
) -> None:
    name = "a run with spec: {}: pods gpu"
    quotas, ranges = f"/api/v1/namespaces/{namespace}/resourcequotas", f"/api/v1/namespaces/{namespace}/limitranges"
    plane.api.create(quotas, {"metadata": {"name": "no-gpus"}, "spec": {"hard": {"requests.nvidia.com/gpu": "0"}}})
    plane.api.wait(lambda: plane.api.get(f"{quotas}/no-gpus").get("status", {}).get("hard"), "the quota is counted")
    found = examine()[name]
    assert found["status"] == "fail" and "exceeded quota: no-gpus" in found["value"]
    assert "quota" in found["advice"]
    plane.api.delete(f"{quotas}/no-gpus")
    plane.api.create(
        ranges,
        {"metadata": {"name": "small"}, "spec": {"limits": [{"type": "Container", "max": {"memory": "1Gi"}}]}},
    )

    def refused() -> dict[str, str] | None:
        answer = examine()[name]
        return answer if "maximum memory usage" in answer["value"] else None

    found = plane.api.wait(refused, "the limit range is known", timeout_seconds=60, every_seconds=0.5)
    assert found["status"] == "fail" and "LimitRange" in found["advice"]


def test_a_queue_without_kueue_and_a_run_from_a_file(
    examine: Callable[..., Findings], tmp_path: Path, namespace: str
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(
        "apiVersion: autoresearch.dev/v1alpha1\nkind: ResearchRun\nmetadata: {name: planned}\n"
        "spec: {queueName: research, tiers: [{name: cpu, gpus: 0}]}\n"
    )
    found = examine("--file", str(file))
    assert found["run planned: queue"]["status"] == "fail"
    assert "no Kueue" in found["run planned: queue"]["value"]
    assert found["run planned: pods cpu"]["status"] == "ok"


def test_a_person_with_few_rights_gets_what_can_be_said(
    examine: Callable[..., Findings], plane: Cluster, namespace: str
) -> None:
    rules = [{"apiGroups": ["autoresearch.dev"], "resources": ["*"], "verbs": ["get", "list", "create"]}]
    found = examine(kubeconfig=plane.service_account(namespace, "reader", rules=rules))
    assert found["your rights"]["status"] == "warn"
    assert "delete researchruns" in found["your rights"]["value"]
    assert found["nodes"]["status"] == "warn" and "unknown" in found["nodes"]["value"]
    assert found["operator"]["status"] == "warn"
    assert "may not create pods" in found["a run with spec: {}: pods gpu"]["value"]


def test_a_person_without_rights_to_runs_fails(
    examine: Callable[..., Findings], plane: Cluster, namespace: str
) -> None:
    found = examine(kubeconfig=plane.service_account(namespace, "nobody", rules=[]))
    assert found["your rights"]["status"] == "fail"
    assert "rbac.aggregate" in found["your rights"]["advice"]


def test_a_server_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:9"}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    file = tmp_path / "kubeconfig"
    file.write_text(json.dumps(config))
    done = CliRunner().invoke(app, ["doctor", "--namespace", "n", "--kubeconfig", str(file), "--json"])
    (found,) = json.loads(done.stdout)
    assert done.exit_code == 1 and found["status"] == "fail" and "127.0.0.1:9" in found["value"]
    done = CliRunner().invoke(app, ["doctor", "--namespace", "n", "--kubeconfig", str(file), "--context", "y"])
    assert done.exit_code == 2 and "context y cannot be used" in done.stderr


def test_prepare_on_a_claim_is_taken_at_the_restricted_level(plane: Cluster, namespace: str) -> None:
    way = ["--claim", "tinystories", "--namespace", namespace, "--kubeconfig", str(plane.kubeconfig)]
    done = CliRunner().invoke(app, ["prepare", *way, "--dataset", "tinystories", "--apply"])
    assert done.exit_code == 0, done.output
    assert "job/prepare-tinystories created" in done.stdout
    job = plane.api.get(f"/apis/batch/v1/namespaces/{namespace}/jobs/prepare-tinystories")
    pods = plane.api.wait(
        lambda: plane.api.list(f"/api/v1/namespaces/{namespace}/pods", labels="job-name=prepare-tinystories"),
        "the restricted level let the pod in",
    )
    assert pods[0]["spec"]["automountServiceAccountToken"] is False
    policy = plane.api.get(f"/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies/prepare-tinystories")
    wanted = policy["spec"]["podSelector"]["matchLabels"]
    assert wanted.items() <= job["spec"]["template"]["metadata"]["labels"].items()
    done = CliRunner().invoke(app, ["prepare", *way, "--dataset", "tinystories", "--apply"])
    assert done.exit_code == 0 and "is there already" in done.stdout
