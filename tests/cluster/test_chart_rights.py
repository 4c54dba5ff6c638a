"""The real operator under the chart's exact roles: it is never refused, and uses what it was given."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from charttools import CHART, Helm, one
from clusterlab.controlplane import ControlPlane
from clusterlab.fixtures import missing
from clusterlab.tools import ToolsMissing
from controlledruns import OperatorProcess, Watched, behaviour, request

ACCOUNT = "first-autoresearch-operator"
VALUES = {"crds": {"install": False}, "settings": {"resyncSeconds": 5, "statusSeconds": 1}}

RARE = {
    ("experiments", "delete"): "only git needs to remember more than 200 of them",
    ("experiments", "get"): "one of this name is there already",
    ("configmaps", "get"): "one of this name is there already",
    ("jobs", "get"): "one of this name is there already",
    ("researchruns", "get"): "a watch missed a change",
    ("pods", "get"): "a watch missed a change",
    ("events", "list"): "a Job has no pod for long",
    ("events", "patch"): "the same thing happened again",
    ("persistentvolumeclaims", "get"): "a run names a data claim",
}
"""Rights that a short, undisturbed run does not use, and when they are needed."""


class Installed(OperatorProcess):
    """The operator as the chart's Deployment starts it, but for what only a pod has: identity, volume, ports."""

    def __init__(self, plane: ControlPlane, namespace: str, folder: Path, deployment: dict[str, Any]) -> None:
        super().__init__(plane, namespace, folder)
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        given = {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}
        own = ("AUTORESEARCH_DATA_FOLDER", "AUTORESEARCH_HTTP_PORT", "AUTORESEARCH_GIT_PORT")
        self._environment |= {name: value for name, value in given.items() if name not in own}
        self._environment["KUBECONFIG"] = str(plane.service_account(namespace, ACCOUNT))


@pytest.fixture
def installed(
    components: ControlPlane, namespace: str, kwok_nodes: Callable[..., list[str]], tmp_path: Path
) -> Iterator[Installed]:
    try:
        helm = Helm(tmp_path, components)
    except ToolsMissing as error:
        missing(str(error))
        raise
    components.install_crds(sorted((CHART / "files" / "crds").glob("*.yaml")))
    kwok_nodes(1, gpus=8, product="simulated", driver="1")
    values = helm.arguments("default", VALUES)
    helm("install", "first", CHART, "--namespace", namespace, *values)
    deployment = one(helm.render(namespace=namespace, values=VALUES), "Deployment")
    with Installed(components, namespace, tmp_path, deployment) as running:
        yield running


def granted(plane: ControlPlane, namespace: str) -> set[tuple[str, str]]:
    """(resource, verb) of all roles in the namespace."""
    roles = plane.api.list(f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/roles")
    return {
        (what, verb) for role in roles for rule in role["rules"] for what in rule["resources"] for verb in rule["verbs"]
    }


def test_the_operator_is_never_refused_and_leaves_no_right_unused(
    installed: Installed, components: ControlPlane, namespace: str, sim_trainer: Callable[..., Any]
) -> None:
    mark = components.audit_size()
    sim_trainer(behaviour(0.3))
    run = Watched(components, namespace)
    # Of several GPUs a trial, so that a canary is sent, too.
    tier = {"name": "pair", "gpus": 2, "budget": {"steps": 10}, "maxParallel": 4}
    components.api.create(run.path("researchruns"), request(namespace, tiers=[tier], limits={"experiments": 4}))
    # A run with credentials, so that its Secret is looked at; the server is not there, and the run says so.
    source = {"url": "https://127.0.0.1:1/ml/autoresearch.git", "secretName": "lab-git"}
    components.api.create(run.path("researchruns"), request(namespace, "second", source=source))
    run.wait_complete()
    other = Watched(components, namespace, "second")
    other.wait(lambda: other.condition("Ready").get("status") == "False", "the second run to be stopped")
    time.sleep(6)  # one comparison with the API server
    installed.stop()

    used: defaultdict[tuple[str, str], int] = defaultdict(int)
    refused = []
    canaries = set()
    for event in components.audit_events(mark):
        if event["user"]["username"] != f"system:serviceaccount:{namespace}:{ACCOUNT}":
            continue
        if event.get("responseStatus", {}).get("code") in (401, 403):
            refused.append(f"{event['verb']} {event['requestURI']}")
        if about := event.get("objectRef"):
            what = about["resource"] + (f"/{about['subresource']}" if "subresource" in about else "")
            used[what, event["verb"]] += 1
            if about.get("name", "").startswith("autoresearch-canary-"):
                canaries.add((what, event["verb"]))
    assert not refused
    assert {("jobs", "create"), ("jobs", "delete")} <= canaries, "the canary was sent and removed"
    unused = granted(components, namespace) - set(used)
    assert unused <= set(RARE), unused - set(RARE)
