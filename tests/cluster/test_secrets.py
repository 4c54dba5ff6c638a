"""A run with credentials: they are in the Secret that holds them, and nowhere else that anybody can read."""

from __future__ import annotations

import base64
import contextlib
import json
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from clusterlab.controlplane import ControlPlane
from clusterlab.processes import free_ports
from controlledruns import OperatorProcess, Watched, behaviour, request
from gitservers import GitServer, http_server
from runrepositories import secret

ROOT = Path(__file__).resolve().parents[2]
PASSWORD, WRONG, UNUSED = "pA55-of-the-lab%2", "an-0ld-pA55-of-the-lab", "of-an0ther-team"
MARKS = [PASSWORD, WRONG, UNUSED]
KINDS = ("researchruns", "experiments", "jobs", "pods", "configmaps", "events", "networkpolicies")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[GitServer]:
    with http_server(tmp_path, tls=True) as git_server:
        git_server.person("refs/heads/main", train__py="LR = 0.1  # search: log 0.001..1\n")
        git_server.password = PASSWORD
        yield git_server


def put(cluster: ControlPlane, namespace: str, server: GitServer, word: str, *, name: str = "lab-git") -> None:
    """Creates the Secret, or replaces it: a rotated password."""
    assert server.ca is not None
    ca, host = server.ca.read_text(), server.url.split("/")[2]
    body = secret("kubernetes.io/basic-auth", host, name=name, username="me", word=word, ca=ca)
    path = f"/api/v1/namespaces/{namespace}/secrets"
    cluster.api.delete(f"{path}/{name}")
    cluster.api.create(path, {"apiVersion": "v1", "kind": "Secret", **body})


def forms(mark: str) -> list[bytes]:
    """A secret as it is, and as others may have written it down."""
    quoted = mark.replace("%", "%25")
    return [mark.encode(), quoted.encode(), base64.b64encode(mark.encode()), base64.b64encode(f"me:{mark}".encode())]


def objects_of(folder: Path) -> bytes:
    """Every object of every repository below, unpacked."""
    found = b""
    for head in folder.rglob("HEAD"):
        git = ["git", "--git-dir", str(head.parent), "cat-file", "--batch-all-objects", "--batch"]
        if (head.parent / "objects").is_dir():
            found += subprocess.run(git, capture_output=True, check=True).stdout
    return found


def test_a_password_is_nowhere_but_in_its_secret(
    components: ControlPlane,
    namespace: str,
    kwok_nodes: Callable[..., list[str]],
    sim_trainer: Callable[..., Any],
    server: GitServer,
    tmp_path: Path,
) -> None:
    components.install_crds(sorted((ROOT / "crds").glob("*.yaml")))
    kwok_nodes(1, gpus=8, product="simulated", driver="1")
    sim_trainer(behaviour(0.2))
    run, (port,) = Watched(components, namespace), free_ports(1)
    put(components, namespace, server, WRONG)
    put(components, namespace, server, UNUSED, name="not-asked-for")
    with OperatorProcess(components, namespace, tmp_path) as operator:
        operator.kill()
        operator._environment |= {
            "AUTORESEARCH_HTTP_PORT": str(port),
            "AUTORESEARCH_LOG_LEVEL": "debug",
            "AUTORESEARCH_PUSHES_PER_MINUTE": "60",
        }
        operator.start()
        source = {"url": server.url, "ref": "main", "secretName": "lab-git"}
        components.api.create(run.path("researchruns"), request(namespace, source=source, limits={"experiments": 4}))
        run.wait(lambda: run.condition("Ready").get("status") == "False", "the wrong password to be told")
        put(components, namespace, server, PASSWORD)
        # Looked at again at once when the request is touched.
        components.api.patch(run.path("researchruns", run.name), {"spec": {"limits": {"experiments": 5}}})
        run.wait_complete()
        run.wait(lambda: any("autoresearch" in ref for ref in server.refs()), "a push", 60)
        places = {}
        # Without metrics there is nothing to leak.
        with (
            contextlib.suppress(urllib.error.HTTPError),
            urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer,
        ):
            places["metrics"] = answer.read()
        operator.stop()
        places["log"] = operator.log.read_bytes()
    for kind in KINDS:
        places[kind] = components.kubectl("get", kind, "-n", namespace, "-o", "json").encode()
    places["ConfigMaps' files"] = b"".join(
        base64.b64decode(value)
        for item in json.loads(places["configmaps"])["items"]
        for value in (item.get("binaryData") or {}).values()
    )
    places["git on the volume"] = objects_of(operator.volume)
    places["git on the server"] = objects_of(server.root)
    places["files on the volume"] = b"".join(path.read_bytes() for path in operator.volume.rglob("*") if path.is_file())
    assert len(places["git on the server"]) > 1000
    assert places["ConfigMaps' files"]
    found = [(mark, place) for place, text in places.items() for mark in MARKS for form in forms(mark) if form in text]
    assert not found
