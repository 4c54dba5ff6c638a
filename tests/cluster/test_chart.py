"""What the chart makes, and whether a real API server takes it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from charttools import CHART, EXAMPLES, Helm, HelmFailed, kubeconform, names, one, strict_schemas
from clusterlab.cluster import RESTRICTED, Cluster
from clusterlab.tools import ToolsMissing

SETS = ("default", *EXAMPLES)


@pytest.fixture(scope="module")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    from clusterlab.fixtures import missing

    try:
        return Helm(tmp_path_factory.mktemp("helm"))
    except ToolsMissing as error:
        missing(str(error))
        raise


@pytest.fixture(scope="module")
def schemas(control_plane: Cluster, tmp_path_factory: pytest.TempPathFactory) -> str:
    control_plane.install_crds(sorted((CHART / "files" / "crds").glob("*.yaml")))
    return strict_schemas(control_plane, tmp_path_factory.mktemp("schemas"))


@pytest.fixture(scope="module")
def lab(control_plane: Cluster) -> Iterator[str]:
    """A restricted namespace, and those of two teams."""
    name = f"lab-{uuid.uuid4().hex[:8]}"
    control_plane.create_namespace(name)
    yield name
    control_plane.delete_namespace(name)


# --------------------------------------------------------------------------------------------------------------------
# Lint, schemas, dry run


@pytest.mark.parametrize("example", SETS)
def test_lint_finds_nothing(example: str, helm: Helm) -> None:
    helm("lint", "--strict", CHART, *helm.arguments(example, None))


FOREIGN = {"ServiceMonitor"}
"""Kinds of an operator that is not installed here: no schema of theirs is at hand."""


@pytest.mark.parametrize("example", SETS)
def test_every_object_fits_the_schemas_of_the_api_server(example: str, helm: Helm, schemas: str) -> None:
    kubeconform([o for o in helm.render(example) if o["kind"] not in FOREIGN], schemas)


@pytest.mark.parametrize("example", SETS)
def test_the_api_server_takes_every_object(example: str, helm: Helm, control_plane: Cluster, lab: str) -> None:
    values = {"watchNamespaces": [lab]} if example in ("namespaced", "everything") else None
    objects = helm.render(example, namespace=lab, values=values)
    # Definitions are installed, and tried in test_crds.py.
    objects = [o for o in objects if o["kind"] not in {"CustomResourceDefinition", *FOREIGN}]
    for o in objects:
        # A pod is looked at together with its service account, which a dry run does not leave behind.
        if o["kind"] == "Pod":
            o["spec"]["serviceAccountName"] = "default"
    text = yaml.safe_dump_all(objects)
    control_plane.kubectl("create", "--dry-run=server", "--validate=strict", "-n", lab, "-f", "-", input=text)


# --------------------------------------------------------------------------------------------------------------------
# What is made


def test_the_defaults_serve_the_release_s_namespace_and_need_nothing_of_the_cluster_but_the_crds(helm: Helm) -> None:
    objects = helm.render()
    assert names(objects) == {
        "CustomResourceDefinition/experiments.autoresearch.dev",
        "CustomResourceDefinition/researchruns.autoresearch.dev",
        "Deployment/first-autoresearch-operator",
        "NetworkPolicy/first-autoresearch-operator",
        "PersistentVolumeClaim/first-autoresearch-operator-data",
        "Pod/first-autoresearch-operator-test",
        "Role/first-autoresearch-operator-lease",
        "Role/lab-first-autoresearch-operator",
        "RoleBinding/first-autoresearch-operator-lease",
        "RoleBinding/lab-first-autoresearch-operator",
        "Service/first-autoresearch-operator",
        "ServiceAccount/first-autoresearch-operator",
    }
    assert {o["metadata"]["namespace"] for o in objects if "namespace" in o["metadata"]} == {"lab"}
    assert environment(one(objects, "Deployment"))["AUTORESEARCH_NAMESPACES"] == "lab"


def test_a_namespace_gets_a_role_of_its_own(helm: Helm) -> None:
    objects = helm.render("namespaced")
    roles = [o["metadata"]["namespace"] for o in objects if o["metadata"]["name"] == "lab-first-autoresearch-operator"]
    assert sorted(roles) == ["team-a", "team-a", "team-b", "team-b"]
    assert environment(one(objects, "Deployment"))["AUTORESEARCH_NAMESPACES"] == "team-a,team-b"
    assert not any(o["kind"].startswith("ClusterRole") for o in objects)


def test_the_whole_cluster_is_served_by_a_cluster_role(helm: Helm) -> None:
    objects = helm.render("cluster-wide")
    assert environment(one(objects, "Deployment"))["AUTORESEARCH_NAMESPACES"] == "*"
    wide = one(objects, "ClusterRole", "lab-first-autoresearch-operator")
    narrow = one(helm.render(), "Role", "lab-first-autoresearch-operator")
    assert wide["rules"] == narrow["rules"]
    assert environment(one(objects, "Deployment"))["AUTORESEARCH_NODES_READABLE"] == "true"
    assert one(objects, "ClusterRole", "lab-first-autoresearch-operator-nodes")["rules"] == [
        {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list"]}
    ]


def test_no_role_has_a_wildcard_and_none_may_list_secrets(helm: Helm) -> None:
    for example in SETS:
        for o in helm.render(example):
            for rule in o.get("rules", ()):
                assert "*" not in [*rule["verbs"], *rule["resources"], *rule["apiGroups"]]
                if "secrets" in rule["resources"]:
                    assert rule["verbs"] == ["get"]


def environment(deployment: dict[str, Any]) -> dict[str, str]:
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    return {entry["name"]: entry.get("value", "") for entry in container["env"]}


def test_values_reach_the_operator(helm: Helm) -> None:
    deployment = one(helm.render("everything"), "Deployment")
    seen = environment(deployment)
    assert seen["AUTORESEARCH_TRAINER_IMAGE"] == "reg.lab.example:5000/ml/trainer:1.2"
    assert seen["AUTORESEARCH_TRAINER_PULL_POLICY"] == "Never"
    assert seen["AUTORESEARCH_TRAINER_PULL_SECRETS"] == "registry,other"
    assert seen["AUTORESEARCH_TRAINER_PRIORITY_CLASS"] == "lab-low"
    assert seen["AUTORESEARCH_GIT_BASE_URL"] == "https://git.lab.example/autoresearch"
    assert seen["AUTORESEARCH_RESYNC_SECONDS"] == "60"
    assert seen["AUTORESEARCH_PUSHES_PER_MINUTE"] == "2.5"
    assert seen["AUTORESEARCH_LEASE_NAME"] == "lab"
    assert seen["GIT_SSL_CAINFO"] == "/etc/autoresearch/ca/bundle.pem"
    assert seen["HTTPS_PROXY"] == "http://proxy.lab.example:3128"
    pod = deployment["spec"]["template"]["spec"]
    assert pod["containers"][0]["image"].startswith("reg.lab.example:5000/ml/operator@sha256:0123456789abcdef")
    assert pod["serviceAccountName"] == "researcher"
    assert pod["imagePullSecrets"] == [{"name": "registry"}]


def test_the_operator_reads_these_variables_as_its_settings(helm: Helm) -> None:
    from autoresearch_operator.operator_settings import OperatorSettings

    for example in SETS:
        seen = {k: v for k, v in environment(one(helm.render(example), "Deployment")).items() if v}
        settings = OperatorSettings.from_env(seen)
        assert settings.trainer_image
        assert (settings.served is None) == (example == "cluster-wide")


def test_every_object_carries_the_common_labels_and_annotations(helm: Helm) -> None:
    for o in helm.render("everything"):
        if o["metadata"]["name"] == "lab-research-test":
            continue
        assert o["metadata"]["labels"]["team"] == "ml", o["metadata"]["name"]
        assert o["metadata"]["annotations"]["contact"] == "ml@lab.example", o["metadata"]["name"]
        assert o["metadata"]["labels"]["app.kubernetes.io/name"] == "research"


def test_the_pod_is_as_narrow_as_the_restricted_level_wants_it(helm: Helm) -> None:
    deployment = one(helm.render(), "Deployment")
    assert deployment["spec"]["strategy"] == {"type": "Recreate"}
    assert deployment["spec"]["replicas"] == 1
    pod = deployment["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 65532
    (container,) = pod["containers"]
    assert container["args"] == ["operator"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    writable = [m["mountPath"] for m in container["volumeMounts"] if not m.get("readOnly")]
    assert writable == ["/var/lib/autoresearch", "/tmp"]


@pytest.mark.parametrize(
    ("values", "volume"),
    [
        ({}, {"persistentVolumeClaim": {"claimName": "first-autoresearch-operator-data"}}),
        ({"existingClaim": "mine"}, {"persistentVolumeClaim": {"claimName": "mine"}}),
        ({"enabled": False}, {"emptyDir": {"sizeLimit": "10Gi"}}),
    ],
)
def test_the_volume(values: dict[str, Any], volume: dict[str, Any], helm: Helm) -> None:
    objects = helm.render(values={"persistence": values})
    volumes = one(objects, "Deployment")["spec"]["template"]["spec"]["volumes"]
    assert volumes[0] == {"name": "data", **volume}
    assert any(o["kind"] == "PersistentVolumeClaim" for o in objects) == (not values)


def test_what_is_worth_keeping_is_kept_unless_said_otherwise(helm: Helm) -> None:
    def kept(example: str) -> set[str]:
        objects = helm.render(example)
        return {
            o["kind"] for o in objects if o["metadata"].get("annotations", {}).get("helm.sh/resource-policy") == "keep"
        }

    assert kept("default") == {"CustomResourceDefinition", "PersistentVolumeClaim"}
    assert kept("everything") == set()


def test_the_crds_of_the_chart_are_the_generated_ones(helm: Helm) -> None:
    made = {o["metadata"]["name"]: o["spec"] for o in helm.render() if o["kind"] == "CustomResourceDefinition"}
    for path in (CHART / "files" / "crds").glob("*.yaml"):
        assert made[path.stem] == yaml.safe_load(path.read_text())["spec"]
        assert path.read_text() == (CHART.parents[1] / "crds" / path.name).read_text()


def test_trials_can_give_way_to_other_work(helm: Helm) -> None:
    made = one(helm.render("cluster-wide"), "PriorityClass")
    assert (made["value"], made["preemptionPolicy"], made["globalDefault"]) == (-10, "Never", False)


def test_egress_is_closed_but_for_what_is_listed(helm: Helm) -> None:
    assert one(helm.render(), "NetworkPolicy")["spec"]["policyTypes"] == ["Ingress"]
    spec = one(helm.render("everything"), "NetworkPolicy")["spec"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    assert [rule["ports"][0]["port"] for rule in spec["egress"]] == [53, 443]


def test_a_service_monitor_is_made_for_who_asks_for_it_and_finds_the_service_s_port(helm: Helm) -> None:
    assert not any(o["kind"] == "ServiceMonitor" for o in helm.render())
    objects = helm.render("everything")
    monitor, service = one(objects, "ServiceMonitor"), one(objects, "Service")
    assert monitor["metadata"]["namespace"] == "monitoring"
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    spec = monitor["spec"]
    assert spec["namespaceSelector"] == {"matchNames": [service["metadata"]["namespace"]]}
    assert spec["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert spec["endpoints"] == [{"port": "metrics", "path": "/metrics", "honorLabels": True, "interval": "15s"}]
    assert spec["endpoints"][0]["port"] in [port["name"] for port in service["spec"]["ports"]]
    plain = one(helm.render(values={"metrics": {"serviceMonitor": {"create": True, "interval": ""}}}), "ServiceMonitor")
    assert plain["metadata"]["namespace"] == "lab"
    assert "interval" not in plain["spec"]["endpoints"][0]


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"metrics": {"serviceMonitor": {"interval": "fast"}}}, "/metrics/serviceMonitor/interval"),
        ({"replicas": 2}, "additional properties 'replicas' not allowed"),
        ({"persistence": {"enable": True}}, "additional properties 'enable' not allowed"),
        ({"persistence": {"size": "10GB"}}, "/persistence/size"),
        ({"image": {"operator": {"digest": "sha256:1"}}}, "/image/operator/digest"),
        ({"settings": {"logLevel": "loud"}}, "value must be one of 'debug', 'info', 'warning', 'error'"),
        ({"watchNamespaces": "team-a"}, "got string, want array"),
        ({"clusterWide": True, "watchNamespaces": ["a"]}, "clusterWide and watchNamespaces are both set: take"),
    ],
)
def test_values_that_make_no_sense_are_refused(values: dict[str, Any], sentence: str, helm: Helm) -> None:
    with pytest.raises(HelmFailed) as error:
        helm.render(values=values)
    assert sentence in str(error.value)


def test_values_of_a_parent_chart_are_let_through(helm: Helm) -> None:
    assert helm.render(values={"global": {"anything": 1}})


def test_the_pods_are_admitted_at_the_restricted_level(helm: Helm, control_plane: Cluster, lab: str) -> None:
    assert RESTRICTED
    objects = helm.render(namespace=lab)
    template = one(objects, "Deployment")["spec"]["template"]
    for pod in (template, one(objects, "Pod")):
        spec = {**pod["spec"], "serviceAccountName": "default"}
        body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "tried", "labels": {}}, "spec": spec}
        control_plane.kubectl("create", "--dry-run=server", "-n", lab, "-f", "-", input=body)


def test_the_test_of_the_chart_is_python_that_compiles(helm: Helm) -> None:
    (container,) = one(helm.render(), "Pod")["spec"]["containers"]
    (program,) = container["args"]
    compile(program, "probe.py", "exec")
    assert program.strip() == (CHART / "files" / "probe.py").read_text().strip()


def test_the_files_of_the_chart_leave_the_release_small(tmp_path: Path, helm: Helm) -> None:
    helm("package", CHART, "--destination", tmp_path)
    (archive,) = tmp_path.glob("*.tgz")
    assert archive.stat().st_size < 100_000
