"""A small campaign written through the store as the loop writes it."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from autoresearch_operator.api.reasons import ExperimentKind, ExperimentPhase, Verdict, VerdictReason
from autoresearch_operator.gateways.landing import commit_message
from autoresearch_operator.local.store import Store
from autoresearch_operator.research.records import (
    ExperimentRecord,
    Purpose,
    TrialKey,
    TrialPhase,
    TrialRecord,
    TrialStart,
)

FILES = {"train.py": b"LR = 0.1\n", "prepare.py": b"T = 128\n"}
REQUEST = "apiVersion: autoresearch.dev/v1alpha1\nkind: ResearchRun\nmetadata: {name: first}\nspec: {}\n"


def result(score: float) -> dict[str, Any]:
    return {
        "version": 1,
        "outcome": "Scored",
        "valBPB": score,
        "audit": {"pairs": 128, "mismatches": 0},
        "trainTokens": 1000,
        "tokensPerSecond": 100.5,
        "cpuSeconds": 9.5,
        "curve": [[100, 5.5], [1000, 3.25]],
    }


@dataclass
class Campaign:
    """Experiments that are accepted when their number is even, each with one screen run."""

    store: Store
    experiments: list[ExperimentRecord] = field(default_factory=list)
    trials: list[TrialRecord] = field(default_factory=list)

    @property
    def head(self) -> str:
        landed = [item.landed_commit for item in self.experiments if item.verdict is Verdict.ACCEPTED]
        return next((commit for commit in reversed(landed) if commit), self.store.run.source_commit)

    def baseline(self) -> None:
        source = self.store.run.source_commit
        tree = self.store.repository.commit(source).tree
        record = ExperimentRecord(
            0, ExperimentKind.BASELINE, source, tree, 0, "the unedited source", "source", landed_commit=source
        )
        self._add(record)
        self.run(0)
        self.decide(0, Verdict.REJECTED, VerdictReason.MEASURED)

    def propose(self) -> int:
        number = len(self.experiments)
        edit = {"train.py": f"LR = 0.{number:04d}\n".encode()}
        commit, tree = self.store.repository.write_candidate(self.head, edit, f"try {number}\n", 1_700_000_000 + number)
        self._add(ExperimentRecord(number, ExperimentKind.PROPOSAL, commit, tree, 0, f"try {number}", "search"))
        return number

    def _add(self, record: ExperimentRecord) -> None:
        self.experiments.append(record)
        self.store.save_candidates([record], self.experiments, self.trials)

    def start(self, number: int) -> tuple[TrialRecord, Path]:
        key = TrialKey(number, 64 * number, 1)
        folder = self.store.trial_folder(TrialStart(key, "cpu", Purpose.SCREEN, number, "val", 128))
        running = TrialRecord(
            key, "cpu", Purpose.SCREEN, number, TrialPhase.RUNNING, started_at=1000.0 + number, slot=number % 2
        )
        self.store.save_trial_start(running, {"version": 1, "name": f"cpu-s{key.seed}-a1@{number}"})
        return running, folder

    def run(self, number: int) -> None:
        running, folder = self.start(number)
        answer = result(2.5 - number / 100)
        (folder / "result.json").write_text(json.dumps(answer))
        (folder / "output.log").write_text("step 1\n")
        self.trials.append(self.store.finish_trial(running, answer, finished_at=1010.0 + number))

    def decide(self, number: int, verdict: Verdict, reason: VerdictReason) -> None:
        record = dataclasses.replace(
            self.experiments[number],
            phase=ExperimentPhase.DONE,
            verdict=verdict,
            reason=reason,
            message="because",
            val_bpb=2.5 - number / 100,
            delta=0.01,
            decided_at=1020.0 + number,
        )
        if verdict is Verdict.ACCEPTED:
            message = commit_message(record.title, "", {"Experiment": number, "Val-BPB": record.val_bpb})
            landed = self.store.repository.landing_commit(self.head, record.tree, message, 1_700_001_000 + number)
            record = dataclasses.replace(record, landed_commit=landed)
        self.experiments[number] = record
        self.experiments[number] = self.store.save_decisions([record], self.experiments, self.trials)[0]

    def grow(self, count: int) -> Campaign:
        if not self.experiments:
            self.baseline()
        for _ in range(count):
            number = self.propose()
            self.run(number)
            if number % 2:
                self.decide(number, Verdict.REJECTED, VerdictReason.NOT_BETTER)
            else:
                self.decide(number, Verdict.ACCEPTED, VerdictReason.IMPROVED)
        return self


@pytest.fixture
def campaign(tmp_path: Path) -> Campaign:
    store = Store.create(
        tmp_path / "run", request=REQUEST, namespace="default", name="first", seed=7, files=FILES, started_at=1.5
    )
    return Campaign(store)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    """A campaign of six decided experiments and one whose run is over; packed and loose objects both occur."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    store = Store.create(
        workdir, request=REQUEST, namespace="default", name="first", seed=7, files=FILES, started_at=1.5
    )
    campaign = Campaign(store).grow(3)
    store.repository.repack()
    campaign.grow(2)
    campaign.run(campaign.propose())
    store.save_active_seconds(3.0)
    store.close()
    return campaign
