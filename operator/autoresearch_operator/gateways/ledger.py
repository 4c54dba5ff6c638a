"""The ledger: one ref that holds a run's record and keeps every candidate alive.

The ref `refs/autoresearch/<namespace>-<name>/ledger` points to a chain of commits. The tree of each holds the
records; the first parent of each is the one before, the other parents are candidates (and landings) new since then.
So whoever has the ref has every candidate, and a candidate is in it before it runs.

    run.json                  what the run is
    experiments/00017.tsv     rows of experiments 1700-1799, upstream's columns first
    trials/00017.tsv          rows of the trials of those experiments

Rows are in files of a hundred, because each commit writes a touched file anew: with one file, 5,000 candidates would
write 5 GB.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autoresearch_operator.gateways.codec import (
    RecordError,
    experiments_from_tsv,
    experiments_tsv,
    trials_from_tsv,
    trials_tsv,
)
from autoresearch_operator.gateways.errors import GitError, RepositoryDamaged, Result
from autoresearch_operator.gateways.git import Change, Repository
from autoresearch_operator.gateways.names import check_ref
from autoresearch_operator.gateways.writer import Writer
from autoresearch_operator.research.records import ExperimentRecord, TrialRecord

ROWS = 100
"""Experiments a file."""
PARENTS = 64
"""Candidates that one commit takes as parents; a rebuilt ledger of 5,000 is a chain of 79 commits."""


@dataclass(frozen=True, slots=True)
class Contents:
    """What a ledger's newest commit says."""

    experiments: tuple[ExperimentRecord, ...]
    trials: tuple[TrialRecord, ...]
    run: Mapping[str, Any]


class Ledger:
    """Reads and writes one run's ledger. One writer at a time; compare-and-swap finds out about a second."""

    def __init__(self, repository: Repository, ref: str) -> None:
        """Opens the ledger on `ref`; it does not have to exist yet. Its records are read when they are needed."""
        self.repository = repository
        self.ref = check_ref(ref)
        self.tip: str | None = None
        self._written: dict[str, Any] | None = None
        """File to the records in it, as of `tip`; None: not read yet."""
        self._parents: set[str] = set()
        self._last: tuple[object, object, dict[str, Any]] | None = None
        self.reload()

    def reload(self) -> None:
        """Takes what the ref points to now as the state to go on from."""
        self.tip = self.repository.resolve_or_none(self.ref)
        self._written, self._parents = None, set()

    def read(self) -> Contents | None:
        """The records as of the newest commit, in order of number and of (experiment, seed, attempt).

        None where there is no ledger yet.

        Raises:
            RepositoryDamaged: what the ref holds cannot be read.
        """
        if self.tip is None:
            return None
        contents = read_contents(self.repository, self.tip)
        self._remember(contents.experiments, contents.trials, contents.run)
        return contents

    def compose(
        self,
        experiments: Sequence[ExperimentRecord],
        trials: Iterable[TrialRecord],
        run: Mapping[str, Any],
        *,
        when: int,
        writer: Writer,
    ) -> str:
        """Writes a ledger commit with exactly these records and gives its name; the ref stays where it is.

        Only files whose rows changed are written; rows are compared by identity first, so callers keep their records.
        """
        if self._written is None:
            self.read()
        written = self._written or {}
        blocks = self._grouped(experiments, trials)
        commits = {record.number: record.commit for record in experiments}
        memory: dict[int, int] = {}
        changed: dict[str, bytes] = {}
        for path, rows in blocks.items():
            if written.get(path) == rows:
                continue
            if path.startswith("trials/"):
                changed[path] = trials_tsv(rows, commits)
            else:
                if not memory:
                    memory = _peaks(blocks)
                changed[path] = experiments_tsv(rows, memory)
        if written.get("run.json") != run:
            changed["run.json"] = (json.dumps(run, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode(
                "utf-8", "replace"
            )
        fresh = _alive(experiments, self._parents)
        last = max((record.number for record in experiments), default=0)
        message = f"ledger: {len(experiments)} experiments, up to {last}\n"
        tip = self.tip
        for start in range(0, max(len(fresh), 1), PARENTS):
            parents = ([tip] if tip else []) + fresh[start : start + PARENTS]
            if tip is None:
                # The first commit has no ledger before it; its tree must not be a candidate's.
                root, _ = writer.commit(parents=(), message="ledger\n", when=when, changed=changed)
                parents = [root, *parents]
            tip, _ = writer.commit(parents=parents, message=message, when=when, changed=changed)
            changed = {}
        if tip is None:
            raise GitError("a ledger commit was not written")
        return tip

    def same(
        self, experiments: Sequence[ExperimentRecord], trials: Iterable[TrialRecord], run: Mapping[str, Any]
    ) -> bool:
        """Whether the newest commit says exactly this already, so that there is nothing to write."""
        if self.tip is None:
            return False
        if self._written is None:
            self.read()
        blocks = {**self._grouped(experiments, trials), "run.json": run}
        return self._written == blocks and not _alive(experiments, self._parents)

    def moved(
        self,
        tip: str,
        experiments: Sequence[ExperimentRecord],
        trials: Iterable[TrialRecord],
        run: Mapping[str, Any],
    ) -> None:
        """Takes a commit of `compose` as the state, after the ref was moved to it."""
        self.tip = tip
        self._remember(experiments, trials, run)

    def save(
        self,
        experiments: Sequence[ExperimentRecord],
        trials: Sequence[TrialRecord],
        run: Mapping[str, Any],
        *,
        when: int,
    ) -> Result:
        """Writes the records and moves the ref. When it returns PUSHED they are on disk and reachable."""
        with self.repository.writer() as writer:
            tip = self.compose(experiments, trials, run, when=when, writer=writer)
        result = self.repository.update([Change(self.ref, self.tip, tip)])
        if result.ok:
            self.moved(tip, experiments, trials, run)
        return result

    def _grouped(self, experiments: Sequence[ExperimentRecord], trials: Iterable[TrialRecord]) -> dict[str, Any]:
        """`_blocks`, which one save asks for three times: tuples cannot change, so the last answer is kept for them."""
        if self._last is not None and self._last[0] is experiments and self._last[1] is trials:
            return self._last[2]
        blocks = _blocks(experiments, trials)
        self._last = (
            (experiments, trials, blocks) if isinstance(experiments, tuple) and isinstance(trials, tuple) else None
        )
        return blocks

    def _remember(
        self, experiments: Sequence[ExperimentRecord], trials: Iterable[TrialRecord], run: Mapping[str, Any]
    ) -> None:
        self._written = {**self._grouped(experiments, trials), "run.json": dict(run)}
        self._parents.update(_alive(experiments, set()))


def read_contents(repository: Repository, commit: str) -> Contents:
    """The records in one ledger commit.

    Raises:
        RepositoryDamaged: a file of it is missing or not readable.
    """
    experiments: list[ExperimentRecord] = []
    trials: list[TrialRecord] = []
    run: Any = {}
    for path, entry in sorted(repository.entries(commit).items()):
        content = repository.blob(entry.sha)
        try:
            if path.startswith("experiments/"):
                experiments.extend(experiments_from_tsv(content))
            elif path.startswith("trials/"):
                trials.extend(trials_from_tsv(content))
            elif path == "run.json":
                run = json.loads(content)
        except (RecordError, ValueError) as error:
            raise RepositoryDamaged(f"{path} in ledger commit {commit[:12]}: {error}") from None
    if not isinstance(run, dict):
        raise RepositoryDamaged(f"run.json in ledger commit {commit[:12]} is not an object")
    return Contents(tuple(experiments), tuple(trials), run)


def read_run(repository: Repository, commit: str) -> dict[str, Any]:
    """What one ledger commit says that the run is, without its records.

    Raises:
        RepositoryDamaged: it is missing or not readable.
    """
    entry = repository.entries(commit).get("run.json")
    try:
        run = json.loads(repository.blob(entry.sha)) if entry else None
    except ValueError as error:
        raise RepositoryDamaged(f"run.json in ledger commit {commit[:12]}: {error}") from None
    if not isinstance(run, dict):
        raise RepositoryDamaged(f"run.json in ledger commit {commit[:12]} is not an object")
    return run


def branch_owner(
    repository: Repository, branch_ref: str, own_ref: str, prefix: str = "refs/autoresearch/"
) -> str | None:
    """The ledger ref of another, unfinished run that lands on `branch_ref`; None when the branch is free.

    Looks at the ledgers under `prefix`.

    A ledger that cannot be read counts as an owner: two runs on one branch would undo each other's work.
    """
    for ref, commit in sorted(repository.refs(prefix).items()):
        if ref == own_ref:
            continue
        entry = repository.entries(commit).get("run.json")
        try:
            run = json.loads(repository.blob(entry.sha)) if entry else {}
        except ValueError:
            return ref
        if isinstance(run, dict) and run.get("branch_ref") == branch_ref and not run.get("finished"):
            return ref
    return None


def _blocks(experiments: Sequence[ExperimentRecord], trials: Iterable[TrialRecord]) -> dict[str, Any]:
    """Path to the records of that file."""
    found: dict[str, list[ExperimentRecord | TrialRecord]] = {}
    for record in sorted(experiments, key=lambda item: item.number):
        found.setdefault(f"experiments/{record.number // ROWS:05d}.tsv", []).append(record)
    for trial in sorted(trials, key=lambda item: (item.key.experiment, item.key.seed, item.key.attempt)):
        found.setdefault(f"trials/{trial.key.experiment // ROWS:05d}.tsv", []).append(trial)
    return dict(found)


def _peaks(blocks: Mapping[str, Any]) -> dict[int, int]:
    peaks: dict[int, int] = {}
    for path, rows in blocks.items():
        if path.startswith("trials/"):
            for row in rows:
                peak = row.peak_vram_bytes or row.peak_memory_bytes or 0
                peaks[row.key.experiment] = max(peak, peaks.get(row.key.experiment, 0))
    return peaks


def _alive(experiments: Iterable[ExperimentRecord], known: set[str]) -> list[str]:
    """Commits that the ledger has to keep reachable and does not yet, in order of number."""
    found: dict[str, None] = {}
    for record in experiments:
        for commit in (record.commit, record.landed_commit):
            if commit and commit not in known:
                found[commit] = None
    return list(found)
