"""The chart in a real API server: install, upgrade, roll back, uninstall; and what its roles grant."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from charttools import CHART, Helm, HelmFailed
from clusterlab.cluster import Cluster
from clusterlab.controlplane import ControlPlane
from clusterlab.fixtures import missing
from clusterlab.tools import ToolsMissing

Object = dict[str, Any]
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    """A control plane of this module's own: installing and removing CRDs would disturb others' tests."""
    try:
        made = ControlPlane.start_new()
    except ToolsMissing as error:
        missing(str(error))
        raise
    with made:
        yield made


@pytest.fixture(scope="module")
def helm(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Helm:
    try:
        return Helm(tmp_path_factory.mktemp("helm"), plane)
    except ToolsMissing as error:
        missing(str(error))
        raise


@pytest.fixture
def lab(plane: ControlPlane, helm: Helm) -> Iterator[str]:
    """A restricted namespace; what a test installed in it as `first` is gone afterwards, CRDs too."""
    name = f"lab-{uuid.uuid4().hex[:8]}"
    plane.create_namespace(name)
    yield name
    for release in helm("list", "--short", "--namespace", name).split():
        helm("uninstall", release, "--namespace", name)
    definitions = [f"{CRDS}/{crd}.autoresearch.dev" for crd in ("researchruns", "experiments")]
    for definition in definitions:
        plane.api.delete(definition)
    for definition in definitions:
        plane.api.wait(lambda gone=definition: plane.api.find(gone) is None, f"{definition} gone")
    plane.delete_namespace(name)


def install(helm: Helm, lab: str, *more: str | Path, chart: Path = CHART) -> str:
    # Nothing runs pods here: what is waited for are objects.
    return helm("upgrade", "--install", "first", chart, "--namespace", lab, *more)


def established(plane: Cluster) -> None:
    plane.install_crds([])
    plane.api.wait(lambda: plane.api.list("/apis/autoresearch.dev/v1alpha1/researchruns") is not None, "the API served")


def older(folder: Path) -> Path:
    """The chart as a version before this one would have been: another number, and CRDs that lack a field."""
    copy = folder / "older"
    shutil.copytree(CHART, copy)
    chart = yaml.safe_load((copy / "Chart.yaml").read_text())
    (copy / "Chart.yaml").write_text(yaml.safe_dump(chart | {"version": "0.0.9", "appVersion": "0.0.9"}))
    path = copy / "files" / "crds" / "researchruns.autoresearch.dev.yaml"
    crd = yaml.safe_load(path.read_text())
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    del schema["status"]["properties"]["gain"]
    path.write_text(yaml.safe_dump(crd))
    return copy


def test_an_upgrade_finds_the_run_in_progress_as_it_was_and_can_be_rolled_back(
    helm: Helm, plane: ControlPlane, lab: str, tmp_path: Path
) -> None:
    install(helm, lab, chart=older(tmp_path))
    established(plane)
    runs = f"/apis/autoresearch.dev/v1alpha1/namespaces/{lab}/researchruns"
    plane.api.create(
        runs, {"apiVersion": "autoresearch.dev/v1alpha1", "kind": "ResearchRun", "metadata": {"name": "first"}}
    )
    plane.api.patch(f"{runs}/first/status", {"status": {"phase": "Running", "counts": {"done": 7}}})
    before = plane.api.get(f"{runs}/first")
    claim = plane.api.get(f"/api/v1/namespaces/{lab}/persistentvolumeclaims/first-autoresearch-operator-data")

    install(helm, lab)
    deployments = f"/apis/apps/v1/namespaces/{lab}/deployments"
    deployment = plane.api.get(f"{deployments}/first-autoresearch-operator")
    assert deployment["metadata"]["labels"]["helm.sh/chart"] == "autoresearch-operator-0.1.0"
    after = plane.api.get(f"{runs}/first")
    assert (after["spec"], after["status"]["counts"]["done"]) == (before["spec"], 7)
    plane.api.wait(lambda: _takes_gain(plane, f"{runs}/first/status"), "the new field taken")

    helm("rollback", "first", "1", "--namespace", lab)
    deployment = plane.api.get(f"{deployments}/first-autoresearch-operator")
    assert deployment["metadata"]["labels"]["helm.sh/chart"] == "autoresearch-operator-0.0.9"
    assert plane.api.get(f"{runs}/first")["metadata"]["uid"] == before["metadata"]["uid"]
    same = plane.api.get(f"/api/v1/namespaces/{lab}/persistentvolumeclaims/first-autoresearch-operator-data")
    assert same["metadata"]["uid"] == claim["metadata"]["uid"]


def _takes_gain(plane: ControlPlane, path: str) -> bool:
    return plane.api.patch(path, {"status": {"gain": 0.01}})["status"].get("gain") == 0.01


def test_uninstalling_keeps_runs_and_repositories_and_installing_again_takes_them_up(
    helm: Helm, plane: ControlPlane, lab: str
) -> None:
    install(helm, lab)
    established(plane)
    runs = f"/apis/autoresearch.dev/v1alpha1/namespaces/{lab}/researchruns"
    body = {"apiVersion": "autoresearch.dev/v1alpha1", "kind": "ResearchRun", "metadata": {"name": "first"}}
    run = plane.api.create(runs, body)
    claims = f"/api/v1/namespaces/{lab}/persistentvolumeclaims"
    claim = plane.api.get(f"{claims}/first-autoresearch-operator-data")
    said = helm("uninstall", "first", "--namespace", lab)
    assert "PersistentVolumeClaim" in said and "CustomResourceDefinition" in said
    assert plane.api.find(f"/apis/apps/v1/namespaces/{lab}/deployments/first-autoresearch-operator") is None
    assert plane.api.get(f"{runs}/first")["metadata"]["uid"] == run["metadata"]["uid"]
    install(helm, lab)
    assert plane.api.get(f"{runs}/first")["metadata"]["uid"] == run["metadata"]["uid"]
    taken_up = plane.api.get(f"{claims}/first-autoresearch-operator-data")
    assert taken_up["metadata"]["uid"] == claim["metadata"]["uid"]


def test_with_keep_off_everything_goes(helm: Helm, plane: ControlPlane, lab: str) -> None:
    install(helm, lab, "--set", "crds.keep=false", "--set", "persistence.keep=false")
    established(plane)
    helm("uninstall", "first", "--namespace", lab)
    for path in (
        f"{CRDS}/researchruns.autoresearch.dev",
        f"/api/v1/namespaces/{lab}/persistentvolumeclaims/first-autoresearch-operator-data",
    ):
        plane.api.wait(lambda path=path: plane.api.find(path) is None, f"{path} gone")


def test_a_second_installation_leaves_the_crds_to_the_first(helm: Helm, plane: ControlPlane, lab: str) -> None:
    install(helm, lab)
    with pytest.raises(HelmFailed, match=r"(?s)CustomResourceDefinition.*exists and cannot be imported"):
        helm("install", "second", CHART, "--namespace", lab)
    helm("install", "second", CHART, "--namespace", lab, "--set", "crds.install=false")


def test_the_operator_s_pod_is_made_in_a_restricted_namespace(helm: Helm, plane: ControlPlane, lab: str) -> None:
    install(helm, lab)
    pod = plane.api.wait(
        lambda: plane.api.list(f"/api/v1/namespaces/{lab}/pods", labels="app.kubernetes.io/instance=first"),
        "the operator's pod",
    )[0]
    assert pod["spec"]["serviceAccountName"] == "first-autoresearch-operator"


def test_the_notes_name_commands_that_work(helm: Helm, plane: ControlPlane, lab: str) -> None:
    notes = install(helm, lab).split("NOTES:")[1]
    established(plane)
    run = notes.split("<<'EOF'\n")[1].split("EOF")[0]
    plane.kubectl("apply", "-n", lab, "-f", "-", input="\n".join(line.strip() for line in run.splitlines()))
    listing = plane.kubectl("get", "rr,exp", "-n", lab)
    assert "researchrun.autoresearch.dev/first" in listing
    assert f"kubectl port-forward -n {lab} service/first-autoresearch-operator 8081" in notes
    plane.kubectl("get", "-n", lab, "service/first-autoresearch-operator")
    assert f"git clone -b autoresearch/{lab}-first http://localhost:8081/{lab}/first.git" in notes
    cpu = notes.split("write `")[1].split("`")[0]
    body = yaml.safe_load(cpu) | {"apiVersion": "autoresearch.dev/v1alpha1", "kind": "ResearchRun"}
    plane.kubectl("create", "-n", lab, "-f", "-", input=body | {"metadata": {"name": "second"}})


# --------------------------------------------------------------------------------------------------------------------
# Rights

GRANTED = {
    "researchruns.autoresearch.dev": "get list watch",
    "researchruns.autoresearch.dev/status": "patch",
    "experiments.autoresearch.dev": "get list watch create delete",
    "experiments.autoresearch.dev/status": "patch",
    "jobs.batch": "get list watch create delete",
    "pods": "get list watch",
    "configmaps": "get list create",
    "networkpolicies.networking.k8s.io": "create",
    "secrets": "get",
    "persistentvolumeclaims": "get",
    "events.events.k8s.io": "list create patch",
}


def granted(plane: ControlPlane, lab: str, where: str, account: str = "first-autoresearch-operator") -> Object:
    """What `kubectl auth can-i --list` says, without what everybody may ask about itself."""
    listing = plane.kubectl("auth", "can-i", "--list", f"--as=system:serviceaccount:{lab}:{account}", "-n", where)
    found: Object = {}
    for line in listing.splitlines()[1:]:
        resource, rest = line.split(" ", 1)
        columns = rest.strip()
        verbs = columns[columns.rindex("[") + 1 : -1]
        names = columns.split("]")[1].strip(" [")
        if resource.endswith("k8s.io") and resource.startswith("self"):
            continue
        if resource and not resource.startswith(("[", "/")):
            found[f"{resource} {names}".strip()] = " ".join(
                [*found.get(f"{resource} {names}".strip(), "").split(), verbs]
            )
    return found


def test_the_role_grants_what_the_operator_needs_in_the_release_s_namespace_and_nothing_elsewhere(
    helm: Helm, plane: ControlPlane, lab: str
) -> None:
    install(helm, lab)
    lease = {"leases.coordination.k8s.io": "create", "leases.coordination.k8s.io autoresearch-operator": "get patch"}
    assert granted(plane, lab, lab) == GRANTED | lease
    assert granted(plane, lab, "default") == {}


def test_the_roles_of_teams_grant_the_same_in_their_namespaces_only(helm: Helm, plane: ControlPlane, lab: str) -> None:
    teams = [f"{lab}-a", f"{lab}-b"]
    for team in teams:
        plane.create_namespace(team)
    install(helm, lab, "--set", f"watchNamespaces={{{','.join(teams)}}}")
    assert [granted(plane, lab, team) for team in teams] == [GRANTED, GRANTED]
    assert "secrets" not in granted(plane, lab, lab)
    for team in teams:
        plane.delete_namespace(team)


def test_the_cluster_role_grants_the_same_everywhere_and_nodes_when_asked(
    helm: Helm, plane: ControlPlane, lab: str
) -> None:
    install(helm, lab, "--set", "clusterWide=true", "--set", "rbac.nodes=true")
    assert granted(plane, lab, "default") == GRANTED | {"nodes": "get list"}


def test_viewers_and_editors_get_the_api_when_asked(helm: Helm, plane: ControlPlane, lab: str) -> None:
    install(helm, lab, "--set", "rbac.aggregate=true")
    plane.api.create(f"/api/v1/namespaces/{lab}/serviceaccounts", {"metadata": {"name": "person"}})
    for role, verb, answer in (("view", "get", "yes"), ("view", "create", "no"), ("edit", "create", "yes")):
        plane.kubectl(
            "create",
            "rolebinding",
            f"{role}-{verb}",
            f"--clusterrole={role}",
            f"--serviceaccount={lab}:person",
            "-n",
            lab,
        )
        who = f"--as=system:serviceaccount:{lab}:person"
        plane.api.wait(
            lambda verb=verb, who=who, answer=answer: (
                plane.kubectl(
                    "auth", "can-i", verb, "researchruns.autoresearch.dev", who, "-n", lab, check=False
                ).strip()
                == answer
            ),
            f"{role} may {verb}: {answer}",
        )
        plane.kubectl("delete", "rolebinding", f"{role}-{verb}", "-n", lab)
