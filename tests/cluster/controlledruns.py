"""The operator's real process on a real API server, the runs that it carries out, and what they should come to."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoresearch_operator.cluster.controller import parsed
from autoresearch_operator.cluster.repositories import Repositories
from autoresearch_operator.cluster.runrepository import RunRepository
from autoresearch_operator.engine.asking import proposers_of
from autoresearch_operator.engine.candidates import CandidateMaker
from autoresearch_operator.engine.decisions import decided
from autoresearch_operator.manifests.source import pack
from autoresearch_operator.research.names import random_seed
from autoresearch_operator.research.plan import plan
from autoresearch_operator.research.records import ExperimentRecord, Observed, TrialPhase, TrialRecord, TrialStart
from clusterlab.cluster import Cluster
from clusterlab.controlplane import ControlPlane
from clusterlab.simtrainer import Ending, TrialPod, landscape
from clusterlab.tools import cache

PROGRAM = "import sys; from autoresearch_operator.handlers.command import serve; sys.exit(serve())"
GROUP = "/apis/autoresearch.dev/v1alpha1"


def request(namespace: str, name: str = "first", **spec: Any) -> dict[str, Any]:
    """A ResearchRun under a step budget on one GPU a trial."""
    return {
        "apiVersion": "autoresearch.dev/v1alpha1",
        "kind": "ResearchRun",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "tiers": [{"name": "sim", "gpus": 1, "budget": {"steps": 10}, "maxParallel": 4}],
            "limits": {"experiments": 8},
            **spec,
        },
    }


class OperatorProcess:
    """`autoresearch operator`, started, killed and started again on the same volume."""

    def __init__(
        self, cluster: Cluster, namespace: str, folder: Path, *, name: str = "operator", **variables: str
    ) -> None:
        """`variables`: more of the operator's environment."""
        self.volume = folder / f"{name}-volume"
        self.log = folder / f"{name}.log"
        self._environment = {
            **{name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"},
            # As in the image: without compiled modules half of a start is the compiler.
            "PYTHONPYCACHEPREFIX": str(cache().parent / "bytecode"),
            "KUBECONFIG": str(cluster.kubeconfig),
            "AUTORESEARCH_NAMESPACES": namespace,
            "AUTORESEARCH_LEASE_NAMESPACE": namespace,
            "AUTORESEARCH_LEASE_NAME": name,
            "AUTORESEARCH_IDENTITY": name,
            "AUTORESEARCH_TRAINER_IMAGE": "trainer.invalid/trainer:1",
            "AUTORESEARCH_DATA_FOLDER": str(self.volume),
            "AUTORESEARCH_HTTP_PORT": "0",
            "AUTORESEARCH_GIT_PORT": "0",
            "AUTORESEARCH_LOG_FORMAT": "text",
            **variables,
        }
        self.process: subprocess.Popen[bytes] | None = None
        self.kills = 0

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM], env=self._environment, stdout=log, stderr=log
            )

    def kill(self) -> None:
        """SIGKILL: nothing is said good-bye to."""
        self._end(signal.SIGKILL)
        self.kills += 1

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> None:
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait(timeout=30)
            self.process = None

    def __enter__(self) -> OperatorProcess:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end(signal.SIGKILL)


@dataclass
class Watched:
    """One run as kubectl shows it."""

    cluster: Cluster
    namespace: str
    name: str = "first"

    def path(self, plural: str, name: str = "") -> str:
        group = "/apis/batch/v1" if plural == "jobs" else "/api/v1" if plural == "pods" else GROUP
        return f"{group}/namespaces/{self.namespace}/{plural}{'/' + name if name else ''}"

    def status(self) -> Mapping[str, Any]:
        found = self.cluster.api.find(self.path("researchruns", self.name))
        return (found or {}).get("status") or {}

    def condition(self, type_: str) -> Mapping[str, Any]:
        return next((c for c in self.status().get("conditions", ()) if c["type"] == type_), {})

    def items(self, plural: str) -> list[dict[str, Any]]:
        return list(self.cluster.api.list(self.path(plural)))

    def wait(self, done: Any, what: str, seconds: float = 120) -> None:
        until = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < until, f"waited {seconds:g} s for {what}: {json.dumps(self.status(), indent=1)}"
            time.sleep(0.1)

    def wait_complete(self, seconds: float = 180) -> None:
        self.wait(lambda: self.condition("Complete") or self.condition("Failed"), "the run to end", seconds)


Secrets = Mapping[tuple[str, str], Mapping[str, Any]]
"""By namespace and name."""


def repository(folder: Path, body: Mapping[str, Any], secrets: Secrets | None = None) -> RunRepository:
    """The run's repository on an operator's volume, or a new one."""
    run, given = parsed(body), secrets or {}
    return Repositories(folder, secrets=lambda namespace, name: given.get((namespace, name))).open(body, run.spec)


def ledger(folder: Path, body: Mapping[str, Any], secrets: Secrets | None = None) -> tuple[list[Any], str]:
    """Verdicts and the branch's head; no measurement is in it twice."""
    opened = repository(folder, body, secrets)
    loaded = opened.load()
    scored = Counter((t.key.experiment, t.key.seed) for t in loaded.trials if t.phase is TrialPhase.SCORED)
    assert not [key for key, times in scored.items() if times > 1]
    head = opened.repository.resolve(opened.branch_ref)
    opened.close()
    return verdicts(loaded.experiments), head


def verdicts(experiments: Any) -> list[Any]:
    return [(r.number, r.commit, r.verdict, r.reason, r.val_bpb, r.landed_commit) for r in experiments]


def planned(folder: Path, body: Mapping[str, Any], secrets: Secrets | None = None) -> tuple[list[Any], str]:
    """What the plan alone decides with the same scores: what local mode does."""
    run, opened = parsed(body), repository(folder, body, secrets)
    name = f"{body['metadata']['namespace']}/{body['metadata']['name']}"
    maker = CandidateMaker(run.spec, opened.sources, proposers_of(run.spec), 0)
    experiments: list[ExperimentRecord] = []
    trials: list[TrialRecord] = []
    while True:
        slots = run.spec.tiers[0].max_parallel or 1
        current = plan(run.spec, Observed(experiments, trials, 0.0, slots=slots), 1.0)
        if current.finished:
            landed = [record.landed_commit for record in experiments if record.landed_commit]
            opened.close()
            return verdicts(experiments), str(landed[-1])
        for decision in current.decisions:
            experiments[decision.number] = decided(decision, experiments, trials, opened.sources, name)
        if current.decisions:
            continue
        for wanted in current.candidates:
            made = maker.make(wanted, experiments)
            assert made is not None
            experiments.append(made)
        for start in current.starts:
            sha256 = pack(opened.sources.files(experiments[start.key.experiment]))[1]
            trials.append(scored(start, score(sha256, random_seed(0, start.key.seed))))


def scored(start: TrialStart, value: float) -> TrialRecord:
    return TrialRecord(
        start.key, start.tier, start.purpose, start.subject, TrialPhase.SCORED, val_bpb=value, audit_pairs=2048
    )  # fmt: skip


def score(sha256: str, seed: int) -> float:
    """Bits per byte by source and seed, as `clusterlab.simtrainer.landscape` has them."""
    fake = _Asked({"sourceSHA256": sha256, "seed": seed})
    message: float = landscape(fake).message  # type: ignore[arg-type, assignment]  # what `_Asked.scored` gave
    return message


class _Asked(TrialPod):
    """A pod that is only asked what it would score."""

    def __init__(self, trial: dict[str, Any]) -> None:
        self.pod, self._trial = {"metadata": {}}, trial

    @property
    def trial(self) -> dict[str, Any]:
        return self._trial

    def scored(self, val_bpb: float, **_: Any) -> Any:  # type: ignore[override]  # the figure itself, not a message
        return val_bpb


def behaviour(seconds: float) -> Any:
    """`landscape` in pods that take this long."""

    def end(pod: TrialPod) -> Ending:
        return landscape(pod).after(seconds)

    return end


def writes(plane: ControlPlane, mark: Any, namespace: str) -> Counter[str]:
    """Requests of the operator since `mark` that changed something, by verb, kind and subresource."""
    found: Counter[str] = Counter()
    for event in plane.audit_events(mark):
        about = event.get("objectRef") or {}
        if about.get("namespace") != namespace or event["verb"] not in ("create", "patch", "update", "delete"):
            continue
        if event.get("userAgent", "") == "autoresearch-operator":
            resource = about["resource"] + (f"/{about['subresource']}" if about.get("subresource") else "")
            found[f"{event['verb']} {resource}"] += 1
    return found
