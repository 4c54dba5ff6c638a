"""What the project promises: the chart installed, a request applied, and a branch that has advanced.

One installation serves two runs at once: one in the repository that the operator keeps, one on a git server behind TLS
and a password. The tests look at what they left. They stand in the order of an installation's life.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest
import yaml
from autoresearch_operator.local.store import Store
from autoresearch_operator.research.records import TrialPhase
from clusterlab import tools
from clusterlab.api import ApiError
from clusterlab.fixtures import missing
from clusterlab.images import Image
from clusterlab.images_archive import Archive
from clusterlab.node import Node
from gitservers import GitServer, http_server
from installation import GROUP, NAME, RELEASE, Lab, Object, git, landings
from witness import Witness

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = ROOT / "trainer" / "autoresearch_trainer" / "templates" / "tiny-gpt"
REQUEST = ROOT / "examples" / "cluster" / "cpu.yaml"
PASSWORD = "marked-password-5b0c41"  # noqa: S105 - of a server that lives as long as this test
UNUSED = "marked-unused-9d27ae"
"""In a Secret that no run names."""
SCORE = "development_bpb: "
"""What the template's script prints last."""
RUN_SECONDS = 1500
"""For both runs together; a limit against hanging, not a figure."""

pytestmark = pytest.mark.timeout(2400)
_numbers = count(1)


@dataclass(frozen=True)
class Done:
    """Two finished runs and what was seen on the way."""

    lab: Lab
    server: GitServer
    witness: Witness
    log_of_a_job: str
    """`kubectl logs job/…` of one trial while its pod was there."""


@pytest.fixture(scope="module")
def server(real_node: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GitServer]:
    """A git server that pods reach, with the template's files on main."""
    folder = tmp_path_factory.mktemp("git")
    with http_server(folder, tls=True, address=real_node.network.host_address) as started:
        files = {path.name.replace(".", "__"): path.read_text() for path in TEMPLATE.glob("*.py")}
        started.person("refs/heads/main", **files)
        started.password = PASSWORD
        yield started


@pytest.fixture(scope="module")
def lab(
    real_node: Node,
    operator_image: Image,
    trainer_image: Image,
    server: GitServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Lab]:
    """The operator, installed and ready, in a namespace that enforces the restricted level."""
    if not tools.is_built("helm"):
        try:
            tools.build(["helm"])
        except tools.ToolsMissing as error:
            missing(str(error))
    namespace = f"lab{os.getpid()}-{next(_numbers)}"
    real_node.plane.create_namespace(namespace)
    images = {part: {"tag": image.name.rpartition(":")[2]} for part, image in parts(operator_image, trainer_image)}
    values = {
        "image": {"registry": operator_image.name.rpartition("/")[0], **images},
        "caBundle": {"configMapName": "lab-ca"},
        "persistence": {"storageClassName": "-"},
        "settings": {"pushesPerMinute": 60},
    }
    lab = Lab(real_node, namespace, tmp_path_factory.mktemp("lab"), values)
    lab.provide_volume()
    assert server.ca is not None
    lab.kubectl("create", "configmap", "lab-ca", f"--from-file=ca.crt={server.ca}", check=True)
    said = lab.install()
    assert "autoresearch/" in said and "git clone" in said
    yield lab
    # What is left of its runs must not take the node's time from other tests.
    real_node.plane.delete_namespace(namespace)


def parts(operator: Image, trainer: Image) -> Iterator[tuple[str, Image]]:
    yield "operator", operator
    yield "trainer", trainer


def request(name: str, **source: str) -> Object:
    """The example for nodes without GPUs, but short, repeatable to the bit, and two trials at once on 2 cores."""
    body: Object = yaml.safe_load(REQUEST.read_text())
    body["metadata"]["name"] = name
    body["spec"]["tiers"][0] |= {"budget": {"steps": 8}, "maxParallel": 1}
    body["spec"] |= {"limits": {"experiments": 2}, "trainer": {"resources": {"cpu": "600m"}}}
    if source:
        body["spec"]["source"] = source
    return body


def secret(name: str, password: str, **metadata: dict[str, str]) -> Object:
    data = {"username": "me", "password": password}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, **metadata},
        "type": "kubernetes.io/basic-auth",
        "data": {key: base64.b64encode(value.encode()).decode() for key, value in data.items()},
    }


@pytest.fixture(scope="module")
def done(lab: Lab, server: GitServer) -> Iterator[Done]:
    hosts = {"autoresearch.dev/hosts": f"{server.address}:{server.port}"}
    usable = secret("lab-git", PASSWORD, labels={"autoresearch.dev/usable": "true"}, annotations=hosts)
    for body in (usable, secret("unused", UNUSED)):
        lab.kubectl("apply", "-f", "-", input=body, check=True)
    began = time.monotonic()
    with Witness(lab.api, lab.namespace) as witness:
        lab.kubectl("apply", "-f", "-", input=request("first"), check=True)
        remote = request("remote", url=server.url, ref="main", branch="autoresearch/found", secretName="lab-git")
        lab.kubectl("apply", "-f", "-", input=remote, check=True)
        log = log_of_a_job(lab)
        for name in ("first", "remote"):
            lab.wait_for("Complete", name, RUN_SECONDS)
            lab.seconds[f"run {name} applied until Complete"] = time.monotonic() - began
        print(lab.kubectl("get", "rr,exp", "-o", "wide"))
        print(json.dumps({**lab.seconds, "trial pods": witness.seconds()}))
        yield Done(lab, server, witness, log)


def log_of_a_job(lab: Lab) -> str:
    """What `kubectl logs job/…` says of the first trial whose candidate has printed its own score."""

    def look() -> str:
        for job in lab.kubectl("get", "jobs", "-o", "name").split():
            said = lab.kubectl("logs", job)
            if SCORE in said:
                return said
        return ""

    try:
        return str(lab.api.wait(look, "kubectl logs job/… shows a score", timeout_seconds=300, every_seconds=0.5))
    except TimeoutError as error:
        raise AssertionError(f"{error}\n{lab.told('first')}\n{lab.log()[-6000:]}") from None


def test_the_branch_of_the_minimal_run_has_what_its_experiments_say(done: Done, tmp_path: Path) -> None:
    status = done.lab.run("first")["status"]
    with done.lab.git_server():
        git(tmp_path, "clone", "-q", "-b", status["branch"], status["repository"], "clone")
    agrees_with_experiments(done.lab, "first", tmp_path / "clone", "HEAD")


def test_the_git_server_has_the_branch_and_the_ledger(done: Done) -> None:
    refs = done.server.refs()
    assert "refs/heads/autoresearch/found" in refs
    assert f"refs/autoresearch/{done.lab.namespace}-remote/ledger" in refs
    agrees_with_experiments(done.lab, "remote", done.server.path, "refs/heads/autoresearch/found")
    condition = {c["type"]: c for c in done.lab.run("remote")["status"]["conditions"]}["BranchUpdated"]
    assert (condition["status"], condition["reason"]) == ("True", "UpToDate")


def agrees_with_experiments(lab: Lab, name: str, repository: Path, head: str) -> None:
    """The branch's commits are the accepted Experiments, in order and figure for figure; at least one there is."""
    experiments = lab.experiments(name)
    accepted = [body for body in experiments if body["spec"]["number"] and body["status"].get("verdict") == "Accepted"]
    assert accepted, lab.told(name)
    source = experiments[0]["spec"]["commit"]
    found = landings(repository, git(repository, "rev-parse", head), source)
    assert [row["commit"] for row in found] == [body["status"]["landedCommit"] for body in accepted]
    for row, body in zip(found, accepted, strict=True):
        assert row["Autoresearch-Experiment"] == str(body["spec"]["number"])
        assert row["Autoresearch-Val-BPB"] == f"{body['status']['valBPB']:.6f}"
    status = lab.run(name)["status"]
    assert status["counts"]["accepted"] == len(accepted)
    assert status["counts"]["done"] == len(experiments) - 1


def test_both_runs_found_the_same(done: Done) -> None:
    """Where the code is kept plays no part in a score, nor does which trial ran beside which."""

    def verdicts(name: str) -> list[tuple[object, ...]]:
        rows = [(body["spec"]["number"], body["status"]) for body in done.lab.experiments(name)]
        return [(number, s.get("verdict"), s.get("reason"), s.get("valBPB")) for number, s in rows]

    assert verdicts("first") == verdicts("remote")


def test_local_mode_decides_the_same_to_the_bit(done: Done, trainer_image: Image, tmp_path: Path) -> None:
    """One plan, one trainer and the image's data: whether pods or processes measure plays no part."""
    request_file, data = tmp_path / "first.yaml", tmp_path / "data"
    request_file.write_text(yaml.safe_dump(request("first")))
    demo_corpus(trainer_image, data)
    program = [sys.executable, "-c", "from autoresearch_operator.cli import main; main()"]
    workdir = ["--workdir", str(tmp_path / "work")]
    ran = subprocess.run(
        [*program, "run", str(request_file), *workdir, "--data", str(data), "--plain"],
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    with Store.open(tmp_path / "work", readonly=True) as store:
        loaded = store.load()
    local = [[r.number, r.verdict and str(r.verdict), r.val_bpb and round(r.val_bpb, 6)] for r in loaded.experiments]
    experiments = done.lab.experiments("first")
    cluster = [
        [body["spec"]["number"], body["status"].get("verdict"), body["status"].get("valBPB")] for body in experiments
    ]
    assert local == cluster
    measured = {(t.key.experiment, t.key.seed): t.val_bpb for t in loaded.trials if t.phase is TrialPhase.SCORED}
    both = [
        (entry["valBPB"], measured[key])
        for body in experiments
        for entry in body["status"]["trials"]
        if entry["phase"] == "Scored"
        and (key := (entry.get("experiment", body["spec"]["number"]), entry["seed"])) in measured
    ]
    # Runs ahead of their turn on idle slots may differ; those that decide are the same.
    assert len(both) >= 15 and all(one == other for one, other in both), both


def demo_corpus(trainer: Image, target: Path) -> None:
    """The data set in the image, its two parts put together as local mode has it."""
    root = "opt/autoresearch/data/"
    archive = Archive(trainer.archive)
    for entry in archive.entries(len(archive.layer_bytes) - 3):  # behind torch
        if entry.path.startswith(root) and entry.data:
            path = target / entry.path.removeprefix(root).partition("/")[2]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(entry.data)


def test_kubectl_shows_results_as_a_table(done: Done) -> None:
    runs = done.lab.kubectl("get", "rr").splitlines()
    assert runs[0].split()[:5] == ["NAME", "PHASE", "BEST", "GAIN", "DONE"]
    assert re.search(r"^first +Complete +\d\.\d+ ", "\n".join(runs), re.MULTILINE)
    rows = done.lab.kubectl("get", "exp", "-l", "autoresearch.dev/run=first").splitlines()
    assert rows[0].split()[:6] == ["NAME", "RUN", "NO", "PHASE", "VERDICT", "REASON"]
    assert all(" Done " in row for row in rows[1:])


def test_kubectl_logs_of_a_job_are_the_candidates_output(done: Done) -> None:
    assert SCORE in done.log_of_a_job


def test_events_tell_every_acceptance(done: Done) -> None:
    events = done.lab.api.list(f"/apis/events.k8s.io/v1/namespaces/{done.lab.namespace}/events")
    for name in ("first", "remote"):
        about = [e for e in events if e["regarding"].get("name") == name and e["regarding"]["kind"] == "ResearchRun"]
        accepted = done.lab.run(name)["status"]["counts"]["accepted"]
        assert len([e for e in about if e["reason"] == "Accepted"]) == accepted, [e["reason"] for e in about]


def test_trial_pods_kept_every_wall_and_nothing_restarted(done: Done) -> None:
    assert len(done.witness.pods) >= 20
    for pod in done.witness.pods.values():
        assert pod["spec"]["automountServiceAccountToken"] is False
        assert pod["status"]["phase"] != "Failed", (pod["metadata"]["name"], pod["status"])
    operator = done.lab.api.list(
        f"/api/v1/namespaces/{done.lab.namespace}/pods", labels="app.kubernetes.io/name=autoresearch-operator"
    )
    restarts = [status["restartCount"] for pod in operator for status in pod["status"]["containerStatuses"]]
    assert restarts == [0]


def test_no_secret_is_anywhere(done: Done) -> None:
    """Marked values of Secrets, in every form, in everything that a person or another pod could read."""
    lab, base = done.lab, f"/namespaces/{done.lab.namespace}"
    collections = [f"/api/v1{base}/{kind}" for kind in ("pods", "configmaps", "events")]
    collections += [f"{GROUP}{base}/{kind}" for kind in ("researchruns", "experiments")]
    collections += [f"/apis/batch/v1{base}/jobs", f"/apis/apps/v1{base}/deployments"]
    places = {path: json.dumps(lab.api.list(path)) for path in collections}
    places["log of the operator"] = lab.log()
    places["trial pods and their logs"] = done.witness.text()
    with contextlib.suppress(ApiError):  # without metrics there is nothing to leak
        places["metrics"] = lab.api.raw(f"/api/v1{base}/services/{NAME}:metrics/proxy/metrics")
    for name, repository in repositories(done):
        objects = subprocess.run(
            ["git", "-c", "safe.directory=*", "-C", str(repository), "cat-file", "--batch", "--batch-all-objects"],
            capture_output=True,
            check=True,
        ).stdout
        places[f"git objects of {name}"] = objects.decode("latin-1")
    for path in sorted(lab.volume.rglob("*")):
        if path.is_file():
            places[f"file {path.relative_to(lab.volume)}"] = path.read_bytes().decode("latin-1")
    # What was looked at is there: three repositories with objects, and the words of many pods.
    assert len([place for place, text in places.items() if place.startswith("git objects") and text]) == 3
    assert len(places["trial pods and their logs"]) > 10_000
    plain = [form for value in (PASSWORD, UNUSED) for form in (value, f"me:{value}")]
    marks = plain + [base64.b64encode(form.encode()).decode() for form in plain]
    assert not [place for place, text in places.items() if any(mark in text for mark in marks)]


def repositories(done: Done) -> Iterator[tuple[str, Path]]:
    yield "the server", done.server.path
    for path in sorted(done.lab.volume.glob("*/*.git")):
        yield path.name, path


def test_helm_test_passes(done: Done) -> None:
    said = done.lab.helm("test", RELEASE, "--logs", "--timeout", "4m")
    assert "Succeeded" in said
    for check in ("operator is ready", "git server answers", "api is installed"):
        assert f"ok: {check}" in said


def complete(lab: Lab) -> bool:
    return {c["type"]: c["status"] for c in lab.run("first")["status"]["conditions"]}.get("Complete") == "True"


def test_runs_outlive_the_operator_and_go_on_when_limits_are_raised(done: Done) -> None:
    lab = done.lab
    before = {name: (lab.run(name), lab.experiments(name)) for name in ("first", "remote")}
    lab.helm("uninstall", RELEASE, "--wait", "--timeout", "3m")
    assert lab.kubectl("get", "deployments", "-o", "name") == ""
    for name, (run, experiments) in before.items():
        assert lab.run(name)["metadata"]["uid"] == run["metadata"]["uid"]
        assert len(lab.experiments(name)) == len(experiments)
    assert any(lab.volume.iterdir())
    lab.install()
    # A pass over both runs: nothing is measured again, and what is finished stays finished.
    lab.api.wait(lambda: "at work after" in lab.log(), "the operator to look at both runs", timeout_seconds=60)
    time.sleep(5)
    assert lab.kubectl("get", "jobs", "-o", "name") == ""
    for name, (run, experiments) in before.items():
        assert lab.experiments(name) == experiments
        assert lab.run(name)["status"]["counts"] == run["status"]["counts"]

    raised = before["first"][0]["spec"]["limits"]["experiments"] + 1
    lab.kubectl("patch", "rr/first", "--type=merge", "-p", json.dumps({"spec": {"limits": {"experiments": raised}}}))
    lab.api.wait(lambda: not complete(lab), "the run to be open again", every_seconds=0.2)
    lab.api.wait(lambda: complete(lab), "its end", timeout_seconds=RUN_SECONDS)
    assert lab.run("first")["status"]["counts"]["done"] == raised
    kept = before["first"][1]
    now = lab.experiments("first")[: len(kept)]
    assert [body["status"].get("valBPB") for body in now] == [body["status"].get("valBPB") for body in kept]
