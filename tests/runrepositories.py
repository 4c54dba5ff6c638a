"""Runs for tests of their repositories: specs, Secrets, and experiments with real commits."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from autoresearch_operator.api.load import load_run
from autoresearch_operator.api.reasons import ExperimentKind, ExperimentPhase, Verdict, VerdictReason
from autoresearch_operator.api.run import ResearchRunSpec
from autoresearch_operator.cluster.repositories import Repositories, RunRepository
from autoresearch_operator.gateways.landing import commit_message
from autoresearch_operator.gateways.process import Access
from autoresearch_operator.research.records import ExperimentRecord, Purpose, TrialKey, TrialPhase, TrialRecord

WHEN = 1_767_225_600


def spec_of(name: str = "first", **spec: Any) -> ResearchRunSpec:
    """A validated spec; one CPU tier unless `tiers` says otherwise."""
    spec.setdefault("tiers", [{"name": "cpu", "gpus": 0, "budget": {"cpuSeconds": 5}}])
    document = {
        "apiVersion": "autoresearch.dev/v1alpha1", "kind": "ResearchRun", "metadata": {"name": name}, "spec": spec,
    }  # fmt: skip
    return load_run(json.dumps(document), filename="run.yaml", local=False).spec


def run_of(name: str = "first", namespace: str = "default") -> dict[str, Any]:
    return {"metadata": {"namespace": namespace, "name": name, "uid": "1"}}


def secret(kind: str, hosts: str, *, name: str = "lab-git", usable: str | None = "true", **data: str) -> dict[str, Any]:
    """A Secret as the API server gives it; keys that are no names in Python are spelled as in `names`."""
    names = {"ssh_privatekey": "ssh-privatekey", "ca": "ca.crt", "word": "password"}
    return {
        "metadata": {
            "name": name,
            "labels": {} if usable is None else {"autoresearch.dev/usable": usable},
            "annotations": {"autoresearch.dev/hosts": hosts},
        },
        "type": kind,
        "data": {names.get(key, key): base64.b64encode(value.encode()).decode() for key, value in data.items()},
    }


class Store(dict[tuple[str, str], Mapping[str, Any]]):
    """Secrets by (namespace, name), to be read as the controller reads them."""

    def __call__(self, namespace: str, name: str) -> Mapping[str, Any] | None:
        return self.get((namespace, name))


def repositories(root: Path, secrets: Store | None = None, *, ca: Path | None = None) -> Repositories:
    access = Access(environment={} if ca is None else {"GIT_SSL_CAINFO": str(ca)})
    return Repositories(root, secrets=secrets or Store(), access=access, served_at="http://git.example")


def baseline(opened: RunRepository) -> ExperimentRecord:
    sources = opened.sources
    return ExperimentRecord(
        number=0, kind=ExperimentKind.BASELINE, commit=sources.commit, tree=sources.tree, base=0, title="the source",
        proposer="source", landed_commit=sources.commit, created_at=WHEN,
    )  # fmt: skip


def candidate(opened: RunRepository, base: ExperimentRecord, number: int, text: str) -> ExperimentRecord:
    """A recorded edit of train.py."""
    commit, tree = opened.sources.write(base, {"train.py": text}, f"edit {number}\n", WHEN + number)
    return ExperimentRecord(
        number=number, kind=ExperimentKind.PROPOSAL, commit=commit, tree=tree, base=base.number, title=f"edit {number}",
        proposer="search", created_at=WHEN + number,
    )  # fmt: skip


def accepted(opened: RunRepository, record: ExperimentRecord, parent: ExperimentRecord) -> ExperimentRecord:
    """The record with a verdict and its landing commit written, on no ref yet."""
    message = commit_message(record.title, "", {"Run": "default/first", "Experiment": record.number})
    landed = opened.sources.land(record, parent, message, WHEN + record.number)
    return replace(
        record, phase=ExperimentPhase.DONE, verdict=Verdict.ACCEPTED, reason=VerdictReason.IMPROVED,
        landed_commit=landed, decided_at=WHEN + record.number,
    )  # fmt: skip


def trial(number: int, *, seed: int = 1, bpb: float = 1.5) -> TrialRecord:
    return TrialRecord(
        key=TrialKey(number, seed, 1), tier="cpu", purpose=Purpose.SCREEN, subject=number, phase=TrialPhase.SCORED,
        val_bpb=bpb, started_at=WHEN, finished_at=WHEN + 5,
    )  # fmt: skip


def land(opened: RunRepository, text: str) -> list[ExperimentRecord]:
    """One more accepted edit, saved; gives all records as they are then."""
    loaded = opened.load()
    records: Sequence[ExperimentRecord] = loaded.experiments or (baseline(opened),)
    parent = next(item for item in reversed(records) if item.number == 0 or item.verdict is Verdict.ACCEPTED)
    record = accepted(opened, candidate(opened, parent, len(records), text), parent)
    saved = opened.save([*records, record], [*loaded.trials, trial(record.number)], landed=[record.number])
    assert saved.ok, saved.message
    return list(saved.experiments)
