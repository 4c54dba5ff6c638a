"""The operator's process against a real API server; a recorder stands where the controller stands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from clusterlab.cluster import Cluster
from clusterlab.controlplane import ControlPlane
from clusterlab.processes import free_ports

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(__file__).with_name("recording_operator.py")
API = "/apis/autoresearch.dev/v1alpha1/namespaces"


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 60) -> Any:
    """Patient, because the machine is shared: each test says itself what has to be quick."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError(f"{what} did not happen in {seconds} s")


class Process:
    """One operator's process; what it tells is in `lines()`, its log in `log()`."""

    def __init__(self, cluster: Cluster, namespace: str, folder: Path, name: str, **settings: str) -> None:
        self.name = name
        self.port, git_port = free_ports(2)
        self._told, self._log = folder / f"{name}.jsonl", folder / f"{name}.log"
        environ = {key: value for key, value in os.environ.items() if not key.startswith("AUTORESEARCH_")}
        takes = settings.pop("takes", "0")
        real = [str(Path(sys.executable).with_name("autoresearch")), "operator"]
        command = real if settings.pop("controller", "") == "real" else [sys.executable, str(PROGRAM)]
        variables = {
            "namespaces": namespace,
            "lease_namespace": namespace,
            "lease_seconds": "3",
            "identity": name,
            "http_port": str(self.port),
            "git_port": str(git_port),
            "data_folder": str(folder / name),
            "resync_seconds": "300",
        } | settings
        environ |= {f"AUTORESEARCH_{key.upper()}": value for key, value in variables.items()}
        environ |= {"KUBECONFIG": str(cluster.kubeconfig), "TAKES": takes}
        with self._told.open("w") as told, self._log.open("w") as log:
            self.process = subprocess.Popen(command, env=environ, stdout=told, stderr=log)

    def lines(self, event: str = "begin") -> list[dict[str, Any]]:
        texts = self._told.read_text().splitlines(keepends=True)
        lines = [json.loads(text) for text in texts if text.endswith("\n")]
        return [line for line in lines if line["event"] == event]

    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._log.read_text().splitlines()]

    def said(self, words: str) -> bool:
        return any(words in line["message"] for line in self.log())

    def probe(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError as error:
            return 0, str(error)

    def ready(self) -> bool:
        assert self.process.poll() is None, self._log.read_text()
        return self.probe("/readyz")[0] == 200

    def wait_ready(self) -> Process:
        wait_for(self.ready, f"{self.name} becoming ready")
        return self

    def terminate(self) -> float:
        """Seconds from SIGTERM to the end of the process."""
        began = time.monotonic()
        self.process.terminate()
        self.process.wait(30)
        return time.monotonic() - began

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


Start = Callable[..., Process]


@pytest.fixture
def cluster(control_plane: Cluster) -> Cluster:
    control_plane.install_crds(sorted((ROOT / "crds").glob("*.yaml")))
    return control_plane


@pytest.fixture
def start(cluster: Cluster, namespace: str, tmp_path: Path) -> Iterator[Start]:
    """`start("a", resync_seconds="2")` starts an operator for the test's namespace."""
    running: list[Process] = []

    def begin(name: str = "one", **settings: str) -> Process:
        running.append(Process(cluster, namespace, tmp_path, name, **settings))
        return running[-1]

    yield begin
    for process in running:
        process.kill()


def create_run(cluster: Cluster, namespace: str, name: str) -> dict[str, Any]:
    body = {
        "apiVersion": "autoresearch.dev/v1alpha1",
        "kind": "ResearchRun",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"suspend": True},
    }
    return cluster.api.create(f"{API}/{namespace}/researchruns", body)


def create_pod(cluster: Cluster, namespace: str, name: str, labels: dict[str, str]) -> None:
    """A pod that no node takes: its object is all that is needed."""
    container = {
        "name": "train",
        "image": "registry.invalid/trainer",
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    spec = {
        "containers": [container],
        "nodeSelector": {"kubernetes.io/hostname": "none"},
        "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
        "automountServiceAccountToken": False,
    }
    metadata = {"name": name, "namespace": namespace, "labels": labels}
    body = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
    wait_for(lambda: cluster.api.create(f"/api/v1/namespaces/{namespace}/pods", body), "the pod's creation", 5)


def holder(cluster: Cluster, namespace: str) -> str:
    lease = cluster.api.find(f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/autoresearch-operator")
    return "" if lease is None else str(lease["spec"].get("holderIdentity") or "")


def test_it_sees_a_run_and_what_belongs_to_it_and_nothing_else(cluster: Cluster, namespace: str, start: Start) -> None:
    create_run(cluster, namespace, "before")
    operator = start().wait_ready()
    wait_for(operator.lines, "the first pass")
    assert [line["key"] for line in operator.lines()] == [f"{namespace}/before"]
    assert operator.lines()[0]["run"]["spec"]["suspend"] is True

    create_run(cluster, namespace, "after")
    create_pod(cluster, namespace, "mine", {"autoresearch.dev/run": "after"})
    create_pod(cluster, namespace, "other", {"app": "something"})
    wait_for(lambda: any(line["pods"] == ["mine"] for line in operator.lines()), "a pass that sees the pod")
    assert not any("other" in line["pods"] for line in operator.lines())

    cluster.api.delete(f"/api/v1/namespaces/{namespace}/pods/mine", grace_seconds=0)
    cluster.api.delete(f"{API}/{namespace}/researchruns/after")
    gone = wait_for(
        lambda: [line for line in operator.lines() if line["run"] is None and not line["pods"]], "a pass after the end"
    )
    assert gone[0]["key"] == f"{namespace}/after"
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in operator.log())
    assert not [line for line in operator.log() if line["level"] in ("warning", "error")]


def test_a_burst_of_events_is_a_few_passes_and_never_two_at_once(
    cluster: Cluster, namespace: str, start: Start
) -> None:
    create_run(cluster, namespace, "busy")
    operator = start(takes="1").wait_ready()
    wait_for(lambda: operator.lines("end"), "the first pass")
    for number in range(40):
        cluster.api.patch(f"{API}/{namespace}/researchruns/busy", {"metadata": {"labels": {"n": str(number)}}})
    wait_for(
        lambda: (
            operator.lines()[-1]["run"]["metadata"].get("labels", {}).get("n") == "39"
            and len(operator.lines()) == len(operator.lines("end"))
        ),
        "a pass that sees the last change",
    )
    begins, ends = operator.lines(), operator.lines("end")
    assert len(begins) < 20
    for end, begin in zip(ends, begins[1:], strict=False):
        assert begin["time"] >= end["time"]


def test_of_two_operators_one_works_and_the_other_takes_over_at_once(
    cluster: Cluster, namespace: str, start: Start
) -> None:
    create_run(cluster, namespace, "first")
    one = start("one").wait_ready()
    two = start("two")
    wait_for(lambda: two.said("is held by one"), "the second one waiting")
    assert two.probe("/healthz")[0] == 200
    code, why = two.probe("/readyz")
    assert (code, why) == (503, "waiting for the lease\n")
    assert not two.lines()

    assert one.terminate() < 10
    assert one.process.returncode == 0
    wait_for(two.lines, "the second one working", 10)
    assert holder(cluster, namespace) == "two"


def test_a_killed_operators_lease_runs_out(cluster: Cluster, namespace: str, start: Start) -> None:
    one = start("one").wait_ready()
    one.kill()
    assert holder(cluster, namespace) == "one"
    start("two").wait_ready()
    assert holder(cluster, namespace) == "two"


def test_an_operator_whose_lease_another_took_ends(cluster: Cluster, namespace: str, start: Start) -> None:
    one = start("one").wait_ready()
    path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/autoresearch-operator"
    cluster.api.patch(path, {"spec": {"holderIdentity": "somebody", "leaseDurationSeconds": 60}})
    assert one.process.wait(30) == 1
    assert one.said("somebody has taken the lease")
    assert holder(cluster, namespace) == "somebody"


def test_sigterm_lets_the_pass_in_flight_finish_and_gives_the_lease_up(
    cluster: Cluster, namespace: str, start: Start
) -> None:
    create_run(cluster, namespace, "slow")
    operator = start(takes="3").wait_ready()
    wait_for(operator.lines, "a pass in flight")
    assert operator.terminate() < 10
    assert operator.process.returncode == 0
    assert len(operator.lines("end")) == len(operator.lines()) == 1
    assert operator.lines("close")
    assert holder(cluster, namespace) == ""


def test_it_survives_a_restart_of_the_api_server(
    components: ControlPlane, cluster: Cluster, namespace: str, start: Start
) -> None:
    create_run(cluster, namespace, "first")
    operator = start().wait_ready()
    components.restart("kube-apiserver", away_seconds=4)
    wait_for(lambda: create_run_again(cluster, namespace, "second"), "the API server taking writes")
    wait_for(
        lambda: any(line["key"] == f"{namespace}/second" for line in operator.lines()), "a pass for the new run", 60
    )
    assert operator.process.poll() is None
    assert operator.probe("/healthz")[0] == 200


def create_run_again(cluster: Cluster, namespace: str, name: str) -> bool:
    from clusterlab.api import ApiError

    try:
        create_run(cluster, namespace, name)
    except ApiError as error:
        return error.status == 409
    except OSError:
        return False
    return True


def test_what_no_watch_tells_is_found_by_the_comparison(cluster: Cluster, namespace: str, start: Start) -> None:
    """ConfigMaps are not watched at all, so only the comparison can tell."""
    create_run(cluster, namespace, "first")
    operator = start(resync_seconds="2").wait_ready()
    wait_for(lambda: len(operator.lines()) >= 3, "passes of the slow resync")
    config_map = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "first-0", "namespace": namespace, "labels": {"autoresearch.dev/run": "first"}},
    }
    cluster.api.create(f"/api/v1/namespaces/{namespace}/configmaps", config_map)
    wait_for(lambda: operator.lines()[-1]["config_maps"] == ["first-0"], "a pass that knows of the ConfigMap")
    cluster.api.delete(f"/api/v1/namespaces/{namespace}/configmaps/first-0")
    wait_for(lambda: operator.lines()[-1]["config_maps"] == [], "a pass that knows it is gone")


def test_it_writes_nothing_to_the_objects_and_a_namespace_can_be_deleted_without_it(
    cluster: Cluster, namespace: str, start: Start
) -> None:
    made = create_run(cluster, namespace, "first")
    operator = start().wait_ready()
    wait_for(operator.lines, "a pass")
    operator.kill()
    now = cluster.api.get(f"{API}/{namespace}/researchruns/first")
    assert now["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]
    cluster.delete_namespace(namespace, wait_seconds=60)
    assert cluster.api.find(f"/api/v1/namespaces/{namespace}") is None


def test_a_missing_permission_is_a_sentence_until_it_is_given(
    cluster: Cluster, namespace: str, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = [{"apiGroups": ["autoresearch.dev"], "resources": ["*"], "verbs": ["*"]}]
    monkeypatch.setattr(cluster, "kubeconfig", cluster.service_account(namespace, "operator", rules=rules))
    operator = start()
    wait_for(lambda: operator.said("jobs cannot be listed in namespace"), "the sentence")
    assert operator.probe("/healthz")[0] == 200
    code, why = operator.probe("/readyz")
    assert code == 503
    assert "Give the operator's role get, list and watch on them" in why


def test_a_wrong_setting_is_a_sentence_and_exit_code_2(start: Start) -> None:
    operator = start(workers="many")
    assert operator.process.wait(30) == 2
    assert 'error: AUTORESEARCH_WORKERS is "many", want an integer; unset, it is 4\n' in operator._log.read_text()


# What Prometheus reads ------------------------------------------------------------------------------------------------


def test_metrics_tell_of_runs_while_they_are_there(cluster: Cluster, namespace: str, start: Start) -> None:
    create_run(cluster, namespace, "first")
    operator = start(controller="real", trainer_image="registry.invalid/trainer:1").wait_ready()

    def line(text: str) -> Callable[[], bool]:
        return lambda: f"\n{text}\n" in operator.probe("/metrics")[1]

    of_run = f'namespace="{namespace}",run="first"'
    wait_for(line(f'autoresearch_run_phase{{{of_run},state="Suspended"}} 1.0'), "the phase")
    wait_for(line(f'autoresearch_run_slots_limit{{{of_run},tier="gpu"}} 1.0'), "what the ledger tells")
    assert line("autoresearch_ready 1.0")()
    assert line('autoresearch_api_requests_total{code="200",resource="researchruns/status",verb="patch"} 1.0')()

    cluster.api.delete(f"{API}/{namespace}/researchruns/first")
    wait_for(lambda: 'run="first"' not in operator.probe("/metrics")[1], "the end of its series")
    assert line("autoresearch_pass_failures_total 0.0")()


def test_one_that_waits_for_the_lease_tells_that_it_is_not_at_work(namespace: str, start: Start) -> None:
    start("one").wait_ready()
    two = start("two")
    wait_for(lambda: two.said("is held by one"), "the second one waiting")
    text = two.probe("/metrics")[1]
    assert "\nautoresearch_ready 0.0\n" in text
    assert 'resource="leases",verb="get"' in text
