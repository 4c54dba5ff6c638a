"""A volume in a dictionary: the seam of `cluster.repositories` without git, for hundreds of restarts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from autoresearch_operator.api.reasons import BranchUpdatedReason, Verdict
from autoresearch_operator.api.run import ResearchRunSpec
from autoresearch_operator.cluster.publishing import PublishState
from autoresearch_operator.cluster.runrepository import Loaded, Saved
from autoresearch_operator.cluster.seen import Key
from autoresearch_operator.gateways.errors import Outcome
from autoresearch_operator.research.records import ExperimentRecord, TrialRecord
from memory_cluster import Killed, Writes

SCRIPT = """\
LEARNING_RATE = 0.002  # search: log 0.0001..0.5
DEPTH = 4  # search: int 1..12
WIDTH = 64  # search: int 16..256 step 16
"""


def sha(*parts: object) -> str:
    return hashlib.sha1(json.dumps(parts, sort_keys=True, default=str).encode(), usedforsecurity=False).hexdigest()


class MemorySources:
    """`engine.sources.Sources` without git: a commit's name follows from what it holds."""

    def __init__(self, commits: dict[str, dict[str, str]]) -> None:
        self.commits = commits
        files = {"train.py": SCRIPT}
        self.tree = sha(files)
        self.commit = sha(self.tree, "source")
        self.when = 1_700_000_000
        commits[self.commit] = files

    def time_of(self, number: int, real: float | None = None) -> float:
        del real
        return float(self.when + number)

    def files(self, record: ExperimentRecord) -> Mapping[str, str]:
        return self.commits[record.commit]

    def write(self, base: ExperimentRecord, changed: Mapping[str, str], message: str, when: float) -> tuple[str, str]:
        parent = base.landed_commit or base.commit
        files = {**self.commits[parent], **changed}
        commit = sha(parent, files, message, when)
        self.commits[commit] = files
        return commit, sha(files)

    def land(self, record: ExperimentRecord, parent: ExperimentRecord, message: str, when: float) -> str:
        commit = sha(parent.landed_commit or parent.commit, record.tree, message, when)
        self.commits[commit] = self.commits[record.commit]
        return commit


@dataclass
class Volume:
    """What outlives the operator."""

    writes: Writes
    version: int = 0
    experiments: tuple[ExperimentRecord, ...] = ()
    trials: tuple[TrialRecord, ...] = ()
    details: dict[str, Any] = field(default_factory=dict)
    commits: dict[str, dict[str, str]] = field(default_factory=dict)
    branch: list[str] = field(default_factory=list)
    landing_impossible: bool = False


class MemoryRepository:
    """One opening of a run's repository."""

    url = None
    branch = "autoresearch/default-first"
    branch_ref = "refs/heads/autoresearch/default-first"
    ledger_ref = "refs/autoresearch/default-first/ledger"
    clone_url = "http://git.example/default/first.git"

    def __init__(self, key: Key, volume: Volume) -> None:
        self.key = key
        self.volume = volume
        self.sources = MemorySources(volume.commits)
        self.source_commit = self.sources.commit
        self.notes: list[str] = []
        self.version = volume.version

    @property
    def details(self) -> Mapping[str, Any]:
        return self.volume.details

    def load(self) -> Loaded:
        if self.volume.writes.dead:
            raise Killed
        self.version = self.volume.version
        return Loaded(self.volume.experiments, self.volume.trials)

    def adopt(self, spec: ResearchRunSpec) -> None:
        del spec

    def save(
        self,
        experiments: Sequence[ExperimentRecord],
        trials: Sequence[TrialRecord],
        *,
        landed: Sequence[int] = (),
        details: Mapping[str, Any] | None = None,
    ) -> Saved:
        volume = self.volume
        if self.version != volume.version:
            return Saved(Outcome.CONFLICT, "another operator works on this volume", tuple(experiments))
        if landed and volume.landing_impossible:
            return Saved(Outcome.DIVERGED, "the branch is elsewhere", tuple(experiments))
        ordered = tuple(sorted(trials, key=lambda trial: (trial.key.experiment, trial.key.seed, trial.key.attempt)))
        new = (tuple(experiments), ordered, {**volume.details, **(details or {})})
        if new == (volume.experiments, volume.trials, volume.details):
            return Saved(Outcome.PUSHED, "", tuple(experiments))
        with volume.writes.one("save"):
            check_history(volume, new[0], new[1])
            volume.experiments, volume.trials, volume.details = new
            volume.version += 1
            self.version = volume.version
            volume.branch += [experiments[number].landed_commit or "" for number in landed]
        return Saved(Outcome.PUSHED, "", tuple(experiments))

    def is_current(self) -> bool:
        return self.version == self.volume.version

    def publish(self, now: float) -> PublishState:
        del now
        return PublishState(BranchUpdatedReason.UP_TO_DATE, "on the volume")


class MemoryRepositories:
    """One operator's view of the volume."""

    def __init__(self, volume: Volume) -> None:
        self.volume = volume
        self.open_now: dict[Key, MemoryRepository] = {}
        self.released: list[Key] = []

    def open(self, run: Mapping[str, Any], spec: ResearchRunSpec) -> MemoryRepository:
        del spec
        key = Key(run["metadata"]["namespace"], run["metadata"]["name"])
        if key not in self.open_now:
            self.open_now[key] = MemoryRepository(key, self.volume)
        return self.open_now[key]

    def release(self, key: Key) -> None:
        self.released.append(key)
        self.open_now.pop(key, None)


def check_history(volume: Volume, experiments: Sequence[ExperimentRecord], trials: Sequence[TrialRecord]) -> None:
    """The laws of every ledger: what is written is never changed and never counted twice."""
    assert [record.number for record in experiments] == list(range(len(experiments)))
    for old, new in zip(volume.experiments, experiments, strict=False):
        assert old.commit == new.commit
        if old.verdict is not None:
            assert old == new, f"the verdict on experiment {old.number} was changed"
    assert len(experiments) >= len(volume.experiments)
    found = {trial.key: trial for trial in trials}
    assert len(found) == len(trials), "a trial is in the ledger twice"
    for trial in volume.trials:
        assert found.get(trial.key) == trial, f"{trial.key} was lost or changed"
    for record in experiments:
        assert (record.verdict is Verdict.ACCEPTED) == (record.number > 0 and record.landed_commit is not None)
