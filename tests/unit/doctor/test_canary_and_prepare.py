"""The canary's two pods, and the Job that prepares data."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from autoresearch_operator.cli import app
from autoresearch_operator.cluster import canary as looking
from autoresearch_operator.cluster.seen import KubeError
from autoresearch_operator.manifests import canary, prepare
from autoresearch_operator.manifests.settings import TrialSettings
from typer.testing import CliRunner

SETTINGS = TrialSettings(image="reg/trainer:1", image_pull_secrets=("reg",))


def pod_spec(job: Mapping[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = job["spec"]["template"]["spec"]
    return spec


@pytest.mark.parametrize(
    "job",
    [
        canary.listener("lab", SETTINGS),
        canary.client("lab", SETTINGS, "10.0.0.1"),
        prepare.job("lab", "climbmix", ["--demo"], SETTINGS),
    ],
    ids=["listener", "client", "prepare"],
)
def test_small_pods_hold_no_right_and_meet_the_restricted_level(job: Mapping[str, Any]) -> None:
    spec = pod_spec(job)
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in [*spec.get("initContainers", ()), *spec["containers"]]:
        security = container["securityContext"]
        assert security["runAsNonRoot"] and security["readOnlyRootFilesystem"]
        assert security["capabilities"] == {"drop": ["ALL"]} and not security["allowPrivilegeEscalation"]
        assert container["resources"]["requests"] == container["resources"]["limits"]
    assert "autoresearch.dev/run" not in job["spec"]["template"]["metadata"]["labels"], (
        "the operator takes those for trials"
    )
    assert spec["imagePullSecrets"] == [{"name": "reg"}]


def test_the_policy_denies_the_client_all_and_leaves_the_listener_alone() -> None:
    owner = {"metadata": {"name": "canary-listener", "uid": "0123456789abcdef"}}
    policy = canary.policy("lab", owner)
    wanted = policy["spec"]["podSelector"]["matchLabels"].items()
    client = canary.client("lab", SETTINGS, "10.0.0.1")["spec"]["template"]["metadata"]["labels"]
    listener = canary.listener("lab", SETTINGS)["spec"]["template"]["metadata"]["labels"]
    assert wanted <= client.items() and not wanted <= listener.items()
    assert sorted(policy["spec"]["policyTypes"]) == ["Egress", "Ingress"]
    assert "egress" not in policy["spec"] and "ingress" not in policy["spec"]
    assert policy["metadata"]["ownerReferences"][0]["uid"] == "0123456789abcdef"


# The programs in the pods, run for real ----------------------------------------------------------------------------


@contextmanager
def port_that_answers() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        stop = threading.Event()

        def accept() -> None:
            server.settimeout(0.1)
            while not stop.is_set():
                try:
                    server.accept()[0].close()
                except TimeoutError:
                    continue

        thread = threading.Thread(target=accept)
        thread.start()
        yield int(server.getsockname()[1])
        stop.set()
        thread.join()


def tried(job: Mapping[str, Any], container: str, folder: Path, **env: str) -> dict[str, Any]:
    """What the container's program writes when it is run here."""
    spec = pod_spec(job)
    one = next(c for c in [*spec.get("initContainers", ()), *spec["containers"]] if c["name"] == container)
    message = folder / "message"
    variables = {entry["name"]: entry["value"] for entry in one["env"]} | env | {"MESSAGE": str(message)}
    subprocess.run([sys.executable, *one["command"][1:]], env={**os.environ, **variables}, check=True, timeout=60)
    found = canary.reached(message.read_text())
    assert found is not None
    return dict(found)


NOWHERE = "255.255.255.255"  # no TCP connection can go there


def test_the_client_says_what_it_reached_after_it_tried_for_a_while(tmp_path: Path) -> None:
    with port_that_answers() as port:
        server = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(port), "PORT": str(port)}
        job = canary.client("lab", SETTINGS, "127.0.0.1")
        found = tried(job, canary.CLIENT, tmp_path, SETTLE="1", **server)
        assert {"apiServer", "listener"} <= set(found["reached"])
        assert found["seconds"] >= 1, "a policy may take a moment to take hold"


def test_a_refused_connection_is_not_reached_because_some_networks_deny_by_refusing(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
    env = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": port, "SETTLE": "0"}
    assert "apiServer" not in tried(canary.listener("lab", SETTINGS), canary.CONTROL, tmp_path, **env)["reached"]


def test_a_client_that_reaches_nothing_ends_at_once(tmp_path: Path) -> None:
    env = {"KUBERNETES_SERVICE_HOST": NOWHERE, "KUBERNETES_SERVICE_PORT": "443", "PORT": "1", "SETTLE": "0"}
    found = tried(canary.client("lab", SETTINGS, NOWHERE), canary.CLIENT, tmp_path, **env)
    assert not {"apiServer", "listener"} & set(found["reached"])


# Looking -----------------------------------------------------------------------------------------------------------


class Pods:
    """A cluster with Jobs that somebody else turns into pods."""

    def __init__(self) -> None:
        self.made: dict[tuple[str, str], dict[str, Any]] = {}
        self.pods: list[dict[str, Any]] = []
        self.order: list[str] = []

    async def create(self, kind: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        key = (kind, body["metadata"]["name"])
        if key in self.made:
            raise KubeError(409, "AlreadyExists", "there is one")
        self.made[key] = {**body, "metadata": {**body["metadata"], "uid": f"uid-{len(self.made)}"}}
        self.order.append(kind + "/" + key[1].removeprefix("autoresearch-canary-"))
        return self.made[key]

    async def get(self, kind: str, namespace: str, name: str) -> Mapping[str, Any] | None:
        assert namespace == "lab"
        return self.made.get((kind, name))

    async def list(self, kind: str, namespace: str | None, selector: str = "") -> Sequence[Mapping[str, Any]]:
        assert (kind, namespace) == ("pods", "lab")
        key, _, value = selector.partition("=")
        return [pod for pod in self.pods if pod["metadata"]["labels"].get(key) == value]

    async def delete(self, kind: str, namespace: str, name: str) -> None:
        assert namespace == "lab"
        self.made.pop((kind, name), None)

    def start(self, part: str, **status: Any) -> None:
        labels = canary.labels(canary.NAME, part)
        self.pods = [pod for pod in self.pods if pod["metadata"]["labels"] != labels]
        self.pods.append({"metadata": {"labels": labels}, "status": status})

    def look(self) -> looking.Look:
        return asyncio.run(looking.look(self, "lab", SETTINGS))  # type: ignore[arg-type]  # the four methods it uses


def ended(name: str, reached: Sequence[str] | None, seconds: float = 0.1) -> dict[str, Any]:
    message = json.dumps({"version": 1, "reached": list(reached), "seconds": seconds}) if reached is not None else "?"
    return {"name": name, "state": {"terminated": {"message": message}}}


def listening(reached: Sequence[str] | None = ("apiServer", "dns")) -> dict[str, Any]:
    return {
        "phase": "Running",
        "podIP": "10.0.0.1",
        "conditions": [{"type": "Ready", "status": "True"}],
        "initContainerStatuses": [ended(canary.CONTROL, reached)],
    }


def answered(open_pod: Sequence[str], closed_pod: Sequence[str] | None, seconds: float = 0.1) -> looking.Look:
    world = Pods()
    assert not world.look().done
    world.start(canary.LISTENER, **listening(open_pod))
    assert not world.look().done
    world.start(canary.CLIENT, phase="Succeeded", containerStatuses=[ended(canary.CLIENT, closed_pod, seconds)])
    return world.look()


def test_the_policy_is_there_before_the_client_and_looking_again_makes_nothing_twice() -> None:
    world = Pods()
    world.look()
    assert world.order == ["jobs/listener"]
    world.start(canary.LISTENER, phase="Pending")
    world.look()
    world.start(canary.LISTENER, **listening())
    world.look()
    world.look()
    assert [entry.partition("/")[0] for entry in world.order] == ["jobs", "networkpolicies", "jobs"]
    assert world.order[-1] == "jobs/client"


def test_only_a_closed_pod_beside_an_open_one_proves_that_policies_hold() -> None:
    assert answered(["apiServer", "dns"], []).enforced is True
    assert answered(["apiServer"], ["listener"]).enforced is False
    assert answered(["apiServer"], ["dns", "listener"]).message.endswith("still reached DNS and another pod")
    neither = answered([], [])
    assert neither.done and neither.enforced is None and "neither did a pod without one" in neither.message
    assert "4.5 s after" in answered(["dns"], [], 4.5).message


def test_a_client_without_an_answer_and_a_listener_that_ended_prove_nothing() -> None:
    assert answered(["dns"], None) == looking.Look(True, None, "the canary's client ended without an answer: Succeeded")
    world = Pods()
    world.start(canary.LISTENER, phase="Failed", message="Pod was active on the node longer than the deadline")
    found = world.look()
    assert found.done and found.enforced is None and "deadline" in found.message


def test_a_job_in_deletion_is_waited_for() -> None:
    world = Pods()
    world.look()
    world.made["jobs", "autoresearch-canary-listener"]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert world.look() == looking.Look(False, None, "an earlier canary is being deleted")


# Prepare -----------------------------------------------------------------------------------------------------------


def prepared(*arguments: str) -> list[dict[str, Any]]:
    done = CliRunner().invoke(app, ["prepare", *arguments])
    assert done.exit_code == 0, done.output
    return list(yaml.safe_load_all(done.stdout))


def test_prepare_on_a_claim_prints_a_policy_and_a_job() -> None:
    policy, job = prepared("--claim", "climbmix", "-n", "lab", "--dataset", "climbmix", "--shards", "8")
    (container,) = pod_spec(job)["containers"]
    assert container["command"][1:] == [
        *(
            "-m",
            "autoresearch_trainer",
            "prepare",
            "--dataset",
            "climbmix",
            "--shards",
            "8",
            "--parts",
            "--out",
            "/data",
        )
    ]
    assert pod_spec(job)["securityContext"]["fsGroup"] == 65533, "a fresh volume belongs to root"
    assert {port["port"] for port in policy["spec"]["egress"][0]["ports"]} == {53, 443}
    selected = policy["spec"]["podSelector"]["matchLabels"].items()
    assert selected <= job["spec"]["template"]["metadata"]["labels"].items()
    assert {policy["metadata"]["namespace"], job["metadata"]["namespace"]} == {"lab"}


def test_a_proxy_is_named_to_the_job_and_let_through_the_policy() -> None:
    policy, job = prepared("--claim", "c", "--demo", "--proxy", "http://proxy.lab:3128")
    assert {"protocol": "TCP", "port": 3128} in policy["spec"]["egress"][0]["ports"]
    (container,) = pod_spec(job)["containers"]
    assert {"name": "HTTPS_PROXY", "value": "http://proxy.lab:3128"} in container["env"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--text", "corpus"], "files of this machine"),
        (["--demo", "--out", "x"], "--out does not go with --claim"),
        ([], "no corpus is chosen"),
        (["--demo", "--proxy", "proxy:3128"], "is not a URL"),
        (["--demo", "--proxy", "http://u:p@proxy:3128"], "holds a password"),
    ],
)
def test_what_does_not_go_with_a_claim_is_refused_in_a_sentence(arguments: list[str], sentence: str) -> None:
    done = CliRunner().invoke(app, ["prepare", "--claim", "c", *arguments])
    assert done.exit_code == 2 and sentence in done.stderr, done.output


def test_a_long_claims_name_still_gives_names_that_the_api_takes() -> None:
    job = prepare.job("lab", "a" * 60 + ".b", ["--demo"], SETTINGS)
    assert len(job["metadata"]["name"]) <= 63
    assert all(len(value) <= 63 for value in job["metadata"]["labels"].values())
