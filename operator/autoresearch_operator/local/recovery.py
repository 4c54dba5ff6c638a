"""Bringing a work folder back after a crash: each side of the record is restored from the other."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoresearch_operator.engine.results import UnreadableResult, finished_record
from autoresearch_operator.gateways.codec import RecordError, experiment_from_json, trial_from_json
from autoresearch_operator.gateways.ledger import Contents
from autoresearch_operator.local.durable import DamagedFile, quarantine, read_json
from autoresearch_operator.local.index import Index
from autoresearch_operator.local.workfiles import experiment_path, trial_path
from autoresearch_operator.research.records import ExperimentRecord, TrialKey, TrialRecord

_EXPERIMENT_FILE = re.compile(r"(\d{5,})\.json")
_TRIAL_FILE = re.compile(r".+-s\d+-a\d+\.json")


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a work folder holds."""

    experiments: tuple[ExperimentRecord, ...]
    """In order of number, without gaps."""
    trials: tuple[TrialRecord, ...]
    """Finished ones, in order of (experiment, seed, attempt)."""
    restore_experiments: tuple[ExperimentRecord, ...] = ()
    """Those whose files have to be written again."""
    restore_trials: tuple[TrialRecord, ...] = ()
    ledger: Contents | None = None
    """What the ledger said; None when it was not read, because nothing had changed since it was written."""


def load(
    workdir: Path,
    index: Index,
    ledger: Callable[[], Contents | None],
    notes: list[str],
    *,
    unchanged: bool,
    readonly: bool,
) -> Loaded:
    """Reads all records; for each, the most finished of file, index and ledger counts.

    A verdict or a finished trial never goes back, whichever copy was lost. `unchanged`: the ledger is where it was
    when the index was written; then it is read only when a file is not as it was. Unless `readonly`, damaged files
    are renamed.
    """
    reader = _Reader(workdir, index, notes, readonly)
    files = _experiment_files(reader)
    trial_files = _trial_files(reader)
    contents = None if unchanged and reader.as_indexed() else ledger()
    experiments, restore = _experiments(reader, files, contents)
    trials, restore_trials = _trials(reader, trial_files, contents, {record.number for record in experiments})
    return Loaded(tuple(experiments), tuple(trials), tuple(restore), tuple(restore_trials), contents)


class _Reader:
    """Record files, through the index where it is up to date."""

    def __init__(self, workdir: Path, index: Index, notes: list[str], readonly: bool) -> None:
        self.workdir = workdir
        self.index = index
        self.readonly = readonly
        self._notes = notes
        self._indexed: set[str] = set()
        self._all_indexed = True

    def as_indexed(self) -> bool:
        """Whether every record came from the index, and the index has no others."""
        known = {path for path in self.index.entries if path.startswith(("experiments/", "trials/"))}
        return self._all_indexed and known == self._indexed

    def note(self, sentence: str) -> None:
        self._notes.append(sentence)

    def set_aside(self, path: Path, why: str) -> None:
        if self.readonly:
            self.note(why)
        else:
            self.note(f"{why}; it is now {quarantine(path).name}")

    def record(self, path: str, facts: os.stat_result) -> dict[str, Any] | None:
        """The record in a file; None when the file is damaged."""
        line = self.index.entries.get(path)
        if line is not None and line.matches(facts):
            self._indexed.add(path)
            return line.record
        self._all_indexed = False
        try:
            document = read_json(self.workdir / path)
            record = document.get("record") if document else None
            if not isinstance(record, dict):
                raise DamagedFile(f"{self.workdir / path} holds no record")
        except DamagedFile as error:
            self.set_aside(self.workdir / path, str(error))
            return None
        if not self.readonly:
            self.index.put(path, facts, record, sync=False)
        return record

    def backup(self, path: str) -> dict[str, Any] | None:
        line = self.index.entries.get(path)
        return line.record if line else None


def _experiment_files(reader: _Reader) -> dict[int, ExperimentRecord]:
    files: dict[int, ExperimentRecord] = {}
    for name, facts in _listing(reader.workdir / "experiments", _EXPERIMENT_FILE):
        path = f"experiments/{name}"
        record = reader.record(path, facts)
        with _unreadable_as_damage(reader, path):
            if record is not None:
                files[int(name.split(".")[0])] = experiment_from_json(record)
    return files


def _experiments(
    reader: _Reader, files: dict[int, ExperimentRecord], ledger: Contents | None
) -> tuple[list[ExperimentRecord], list[ExperimentRecord]]:
    indexed: dict[int, ExperimentRecord] = {}
    for path, line in reader.index.entries.items():
        match = _EXPERIMENT_FILE.fullmatch(path.removeprefix("experiments/"))
        if match and int(match.group(1)) not in files:
            with contextlib.suppress(RecordError):
                indexed[int(match.group(1))] = experiment_from_json(line.record)
    recorded = {record.number: record for record in ledger.experiments} if ledger else {}
    kept: list[ExperimentRecord] = []
    restore: list[ExperimentRecord] = []
    for number in range(max([*files, *indexed, *recorded], default=-1) + 1):
        copies = [record for record in (recorded.get(number), files.get(number), indexed.get(number)) if record]
        if not copies:
            break
        # The ledger comes first: what is accepted there is on the branch.
        best = next((record for record in copies if record.verdict is not None), None)
        best = best or files.get(number) or copies[0]
        kept.append(best)
        if files.get(number) != best:
            restore.append(best)
            reader.note(f"experiment {number} was restored from the {'ledger' if best is copies[0] else 'index'}")
    for number in sorted(files.keys() - {record.number for record in kept}):
        why = f"experiment {number} was recorded, but one before it was not: it is proposed again"
        reader.set_aside(reader.workdir / experiment_path(number), why)
    return kept, restore


def _trial_files(reader: _Reader) -> dict[TrialKey, TrialRecord]:
    files: dict[TrialKey, TrialRecord] = {}
    for folder in sorted(_folders(reader.workdir / "trials")):
        if not reader.readonly:
            # Says that the candidate's files were laid out; after a crash they are laid out again rather than trusted.
            (reader.workdir / "trials" / folder / "source.complete").unlink(missing_ok=True)
        for name, facts in _listing(reader.workdir / "trials" / folder, _TRIAL_FILE):
            path = f"trials/{folder}/{name}"
            record = reader.record(path, facts)
            with _unreadable_as_damage(reader, path):
                if record is not None:
                    trial = trial_from_json(record)
                    files[trial.key] = trial
    return files


def _trials(
    reader: _Reader, files: dict[TrialKey, TrialRecord], ledger: Contents | None, numbers: set[int]
) -> tuple[list[TrialRecord], list[TrialRecord]]:
    recorded = {trial.key: trial for trial in ledger.trials} if ledger else {}
    indexed: dict[TrialKey, TrialRecord] = {}
    for path, line in reader.index.entries.items():
        if path.startswith("trials/"):
            with contextlib.suppress(RecordError):
                trial = trial_from_json(line.record) if not _same(files, line.record) else None
                if trial is not None:
                    indexed[trial.key] = trial
    kept: list[TrialRecord] = []
    restore: list[TrialRecord] = []
    order = sorted(files.keys() | indexed.keys() | recorded.keys(), key=lambda k: (k.experiment, k.seed, k.attempt))
    for key in order:
        if key.experiment not in numbers:
            continue
        copies = [trial for trial in (files.get(key), indexed.get(key), recorded.get(key)) if trial]
        best = next((trial for trial in copies if trial.finished), None) or _from_result(reader, copies[0])
        if best is None:
            continue
        kept.append(best)
        if files.get(key) != best:
            restore.append(best)
    return kept, restore


def _same(files: dict[TrialKey, TrialRecord], record: dict[str, Any]) -> bool:
    """Whether a file of the trial in an index line was read and is finished, so that the line adds nothing."""
    key = record.get("key")
    if not isinstance(key, dict):
        return False
    found = files.get(TrialKey(key.get("experiment", -1), key.get("seed", -1), key.get("attempt", -1)))
    return found is not None and found.finished


def _from_result(reader: _Reader, running: TrialRecord) -> TrialRecord | None:
    """The finished form of a trial whose result the trainer wrote and nobody recorded."""
    folder = (reader.workdir / trial_path(running.key, running.tier)).with_suffix("")
    path = folder / "result.json"
    try:
        result = read_json(path)
        if result is None:
            return None
        return finished_record(running, result, finished_at=path.stat().st_mtime)
    except (DamagedFile, UnreadableResult) as error:
        reader.set_aside(path, f"{error}: the trial is measured again")
        return None


@contextlib.contextmanager
def _unreadable_as_damage(reader: _Reader, path: str) -> Iterator[None]:
    """A file that is JSON and no record is as damaged as one that is cut off."""
    try:
        yield
    except RecordError as error:
        reader.set_aside(reader.workdir / path, f"{reader.workdir / path}: {error}")


def _listing(folder: Path, wanted: re.Pattern[str]) -> list[tuple[str, os.stat_result]]:
    try:
        with os.scandir(folder) as entries:
            found = [
                (entry.name, entry.stat(follow_symlinks=False)) for entry in entries if wanted.fullmatch(entry.name)
            ]
    except FileNotFoundError:
        return []
    return sorted(found)


def _folders(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries if entry.name.isdigit() and entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []
