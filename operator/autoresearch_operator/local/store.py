"""The work folder of a run: every record durable before the loop goes on, and readable after any crash.

There are two records of everything: small JSON files here and the ledger in `repo.git`. Whichever of them is damaged
is restored from the other when the folder is opened, damaged files are renamed to `*.corrupt-<n>`, and `notes` says
what was done.
"""

from __future__ import annotations

import dataclasses
import gc
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from autoresearch_operator.api.reasons import Verdict
from autoresearch_operator.engine.results import UnreadableResult, finished_record
from autoresearch_operator.gateways.codec import as_json, dumps
from autoresearch_operator.gateways.errors import GitError, Outcome, Result
from autoresearch_operator.gateways.git import Change, Repository
from autoresearch_operator.gateways.landing import reparent
from autoresearch_operator.gateways.ledger import Ledger
from autoresearch_operator.gateways.process import Access
from autoresearch_operator.gateways.publish import follow, publish
from autoresearch_operator.gateways.repair import clear_stale_locks
from autoresearch_operator.local import rebuild, recovery
from autoresearch_operator.local.creation import make_run
from autoresearch_operator.local.durable import (
    DamagedFile,
    RunLock,
    quarantine,
    read_json,
    sync_folder,
    write_durable,
)
from autoresearch_operator.local.index import Index
from autoresearch_operator.local.recovery import Loaded
from autoresearch_operator.local.workfiles import (
    BranchMoved,
    NotARun,
    RunFile,
    StoreError,
    experiment_document,
    experiment_path,
    run_as_json,
    trial_folder,
    trial_path,
)
from autoresearch_operator.research.records import ExperimentRecord, TrialKey, TrialPhase, TrialRecord, TrialStart

__all__ = ["BranchMoved", "Loaded", "NotARun", "Store", "StoreError"]


class Store:
    """One work folder, held under its lock unless it was opened `readonly`."""

    def __init__(self, workdir: Path, run: RunFile, repository: Repository, lock: RunLock | None) -> None:
        """For `create` and `open`."""
        self.workdir = workdir
        self.run = run
        self.repository = repository
        self.notes: list[str] = []
        """What had to be repaired when the folder was opened, one sentence each."""
        self._lock = lock
        self._index = Index(workdir / "index.jsonl", readonly=lock is None)
        self.ledger: Ledger | None = None
        self._loaded: Loaded | None = None

    # --- opening --------------------------------------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        workdir: Path,
        *,
        request: str,
        namespace: str,
        name: str,
        seed: int,
        files: Mapping[str, bytes] | None = None,
        url: str | None = None,
        source_ref: str = "HEAD",
        branch: str | None = None,
        inputs: Sequence[str] = (),
        details: Mapping[str, Any] | None = None,
        access: Access | None = None,
        started_at: float | None = None,
    ) -> Store:
        """Makes the work folder of a new run, from a template's `files` or from the repository at `url`.

        `branch` is a name such as `autoresearch/h100`; unset, it follows from namespace and name. Interrupted
        anywhere, it can be called again: the run exists when run.json does.

        Raises:
            StoreError: there is a run in the folder.
            RunLocked, StorageFull, SourceNotFound, SourceRefused, GitError.
        """
        if (files is None) == (url is None):
            raise StoreError("a run starts either from a template or from a URL")
        workdir.mkdir(parents=True, exist_ok=True)
        lock = RunLock(workdir / "lock")
        try:
            run, repository = make_run(
                workdir,
                request=request,
                namespace=namespace,
                name=name,
                seed=seed,
                files=files,
                url=url,
                source_ref=source_ref,
                branch=branch,
                inputs=inputs,
                details=details or {},
                access=access or Access.local(),
                started_at=time.time() if started_at is None else started_at,
            )
            store = cls(workdir, run, repository, lock)
            store.ledger = Ledger(repository, run.ledger_ref)
            store._save_ledger((), ())
        except BaseException:
            lock.release()
            raise
        return store

    @classmethod
    def open(cls, workdir: Path, *, readonly: bool = False, access: Access | None = None) -> Store:
        """Opens a run and repairs what is damaged; `readonly` takes no lock and changes nothing.

        Raises:
            NotARun: there is none.
            RunLocked: another process works on it.
            StoreError: it is damaged beyond what can be restored.
        """
        if not (workdir / "run.json").exists() and not (workdir / "repo.git").exists():
            raise NotARun(f"{workdir} holds no run: start one with `autoresearch run FILE --workdir {workdir}`")
        lock = None if readonly else RunLock(workdir / "lock")
        try:
            return cls._open(workdir, lock, access or Access.local())
        except GitError as error:
            _release(lock)
            raise StoreError(f"{workdir}: {error}") from error
        except BaseException:
            _release(lock)
            raise

    @classmethod
    def _open(cls, workdir: Path, lock: RunLock | None, access: Access) -> Store:
        notes: list[str] = []
        path = workdir / "repo.git"
        if lock is not None:
            clear_stale_locks(path, notes)
        try:
            run = rebuild.read_run(workdir, access, lock is not None, notes)
        except DamagedFile as error:
            raise StoreError(f"{error}, and the ledger has no copy of it") from error
        if run is None:
            raise NotARun(f"{workdir} was left while it was being made: start the run again")
        if lock is not None:
            for folder in ("experiments", "trials"):
                (workdir / folder).mkdir(exist_ok=True)
            rebuild.ensure_request(workdir, run, notes)
            repository = rebuild.ensure_repository(workdir, run, access, notes)
        else:
            repository = Repository.open(path, access=access)
        store = cls(workdir, run, repository, lock)
        store.notes = notes
        store.ledger = Ledger(repository, run.ledger_ref)
        return store

    def close(self) -> None:
        self.repository.close()
        _release(self._lock)
        self._lock = None

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- reading --------------------------------------------------------------------------------------------------

    def load(self) -> Loaded:
        """All experiments in order of number, and all finished trials; damaged files are restored on the way.

        A trial that was started and never finished is not in it: it is to be started again under the same name.
        """
        # The collector would walk the growing records again and again, and none of them is garbage.
        collecting = gc.isenabled()
        gc.disable()
        try:
            return self._load()
        finally:
            if collecting:
                gc.enable()

    def _load(self) -> Loaded:
        ledger, noted = self._ledger(), self._index.entries.get("ledger")
        unchanged = noted is not None and noted.record == {"tip": ledger.tip}
        loaded = recovery.load(
            self.workdir,
            self._index,
            ledger.read,
            self.notes,
            unchanged=unchanged,
            readonly=self._lock is None,
        )
        if self._lock is not None:
            for record in loaded.restore_experiments:
                self._write_experiment(record)
            for trial in loaded.restore_trials:
                self._write_trial(trial)
            told = loaded.ledger
            current = (
                unchanged
                if told is None
                else (told.experiments, told.run)
                == (
                    loaded.experiments,
                    run_as_json(self.run),
                )
            )
            if not current:
                self._save_ledger(loaded.experiments, loaded.trials)
            self._note_ledger()
            self._restore_branch(loaded.experiments)
        self._loaded = loaded
        return loaded

    def trial_spec(self, key: TrialKey, tier: str) -> dict[str, Any] | None:
        """What the trainer was told about a trial, for the command that reproduces it."""
        try:
            document = read_json(self.workdir / trial_path(key, tier))
        except DamagedFile:
            return None
        spec = (document or {}).get("spec")
        return spec if isinstance(spec, dict) else None

    def state(self, name: str) -> Any:
        """A small figure of an earlier start; None when there is none."""
        try:
            return (read_json(self.workdir / "state.json") or {}).get(name)
        except DamagedFile:
            entry = self._index.entries.get("state.json")
            return entry.record.get(name) if entry else None

    def active_seconds(self) -> float:
        """Seconds the run was at work in earlier starts."""
        value = self.state("active_seconds")
        return float(value) if isinstance(value, int | float) else 0.0

    # --- folders --------------------------------------------------------------------------------------------------

    def trial_folder(self, start: TrialStart) -> Path:
        """The folder that a trial may fill; it exists afterwards."""
        return self._folder(trial_folder(self.workdir, start.key, start.tier))

    def source_folder(self, number: int) -> Path:
        """Where a candidate's files are put for its trials. May not exist, and may be incomplete after a crash."""
        return self._folder(self.workdir / "trials" / f"{number:05d}") / "source"

    # --- writing --------------------------------------------------------------------------------------------------

    def save_state(self, **values: Any) -> None:
        """Remembers small figures for `state`."""
        path = self.workdir / "state.json"
        try:
            known = read_json(path) or {}
        except DamagedFile:
            entry = self._index.entries.get("state.json")
            known = entry.record if entry else {}
        facts = write_durable(path, dumps(known | values))
        self._index.put("state.json", facts, known | values, sync=False)

    def save_active_seconds(self, seconds: float) -> None:
        self.save_state(active_seconds=seconds)

    def save_experiment(self, record: ExperimentRecord) -> None:
        """Writes one experiment's file. Its commit must be in the repository."""
        self._write_experiment(record)

    def save_candidates(
        self,
        created: Sequence[ExperimentRecord],
        experiments: Sequence[ExperimentRecord],
        trials: Sequence[TrialRecord],
    ) -> None:
        """Records new candidates, whose commits are written, before any of them runs.

        Raises:
            StorageFull: nothing of it counts; the same call can be made again.
            StoreError: the ledger could not be moved.
        """
        for record in created:
            self._write_experiment(record)
        self._save_ledger(experiments, trials)
        self._note_ledger()

    def save_decisions(
        self,
        decided: Sequence[ExperimentRecord],
        experiments: Sequence[ExperimentRecord],
        trials: Sequence[TrialRecord],
    ) -> list[ExperimentRecord]:
        """Records verdicts; branch and ledger move in one transaction, and that is the acceptance.

        `experiments` holds the decided ones already. Gives the decided records as they were written: where a person
        had committed to the branch without touching the run's inputs, a landing was put on top of that.

        Raises:
            BranchMoved: a person's commits change the inputs, so the edit has to be measured on them.
            StorageFull, StoreError.
        """
        decided = list(decided)
        everything = list(experiments)
        for attempt in range(5):
            result = self._save_ledger(everything, trials, decided)
            if result.ok:
                break
            if result.outcome is not Outcome.CONFLICT or attempt == 4:
                raise StoreError(result.message)
            head = self.repository.resolve(self.run.branch_ref)
            onto: str = head
            for place, record in enumerate(decided):
                if record.landed_commit is None or record.verdict is not Verdict.ACCEPTED:
                    continue
                moved = reparent(self.repository, record.landed_commit, onto, self.run.inputs)
                if moved is None:
                    raise BranchMoved(
                        f"{self.run.branch_ref} was changed by somebody else: its head {head[:12]} changes files that "
                        f"the trials read, so experiment {record.number} cannot be landed on it; move the branch back, "
                        "or start a new run with source.ref set to this branch"
                    )
                decided[place] = dataclasses.replace(record, landed_commit=moved)
                everything = [decided[place] if item.number == record.number else item for item in everything]
                onto = moved
        for record in decided:
            self._write_experiment(record)
        self._note_ledger()
        return decided

    def save_trial_start(self, trial: TrialRecord, spec: Mapping[str, Any]) -> None:
        """Records that a trial is about to start: from here on its result will be found, whatever happens."""
        folder = self._folder(trial_folder(self.workdir, trial.key, trial.tier))
        if (folder / "result.json").exists():
            quarantine(folder / "result.json")
        (folder / "spec.json").write_bytes(dumps(dict(spec)))
        self._write_trial(trial, spec)

    def finish_trial(self, running: TrialRecord, result: Mapping[str, Any], *, finished_at: float) -> TrialRecord:
        """Records a trial's end and gives the finished record.

        An answer that is no result is an infrastructure fault, never the candidate's.
        """
        try:
            record = finished_record(running, result, finished_at=finished_at)
        except UnreadableResult as error:
            record = dataclasses.replace(
                running,
                phase=TrialPhase.LOST,
                detail="UnreadableResult",
                message=str(error)[:400],
                finished_at=finished_at,
            )
        self._write_trial(record, self.trial_spec(running.key, running.tier))
        return record

    def finish(self, why: str, experiments: Sequence[ExperimentRecord], trials: Sequence[TrialRecord]) -> None:
        """Marks the run as finished, in run.json and in the ledger, which frees its branch for other runs."""
        self.run = dataclasses.replace(self.run, finished=why)
        write_durable(self.workdir / "run.json", dumps(run_as_json(self.run)))
        self._save_ledger(experiments, trials)

    def follow(self) -> Result:
        """Takes over what a person added to the branch on the server; nothing to do for a template's."""
        if self.run.source_url is None:
            return Result(Outcome.PUSHED)
        return follow(self.repository, self.run.source_url, self.run.branch_ref)

    def publish(self) -> Result:
        """Pushes branch and ledger to the repository that the run was cloned from; nothing to do for a template's.

        What the server says is in the result. Calling it again continues.
        """
        if self.run.source_url is None:
            return Result(Outcome.PUSHED)
        return publish(self.repository, self.run.source_url, self.run.branch_ref, self.run.ledger_ref)

    # --- inside ---------------------------------------------------------------------------------------------------

    def _ledger(self) -> Ledger:
        if self.ledger is None:
            raise StoreError(f"{self.workdir} is not open")
        return self.ledger

    def _folder(self, folder: Path) -> Path:
        if not folder.is_dir():
            folder.mkdir(parents=True)
            for parent in (folder.parent, folder.parent.parent):
                sync_folder(parent)
        return folder

    def _write_experiment(self, record: ExperimentRecord) -> None:
        path = experiment_path(record.number)
        document = experiment_document(record, self.repository, self.run.source_commit)
        facts = write_durable(self.workdir / path, dumps(document))
        self._index.put(path, facts, document["record"], sync=False)

    def _write_trial(self, record: TrialRecord, spec: Mapping[str, Any] | None = None) -> None:
        path = trial_path(record.key, record.tier)
        self._folder((self.workdir / path).parent)
        document = {"version": 1, "record": as_json(record), "spec": dict(spec) if spec else None}
        facts = write_durable(self.workdir / path, dumps(document))
        self._index.put(path, facts, as_json(record), sync=False)

    def _save_ledger(
        self,
        experiments: Sequence[ExperimentRecord],
        trials: Iterable[TrialRecord],
        decided: Sequence[ExperimentRecord] = (),
    ) -> Result:
        """Moves the ledger, and with accepted edits the branch, in one transaction."""
        ledger, run = self._ledger(), run_as_json(self.run)
        finished = [trial for trial in trials if trial.finished]
        times = [record.decided_at or record.created_at for record in experiments]
        with self.repository.writer() as writer:
            tip = ledger.compose(
                experiments, finished, run, when=int(max(times, default=self.run.started_at)), writer=writer
            )
        changes = [Change(ledger.ref, ledger.tip, tip)] if tip != ledger.tip else []
        landed = [item.landed_commit for item in decided if item.verdict is Verdict.ACCEPTED and item.landed_commit]
        head = self.repository.resolve(self.run.branch_ref) if landed else None
        if landed and head:
            if self.repository.commit(landed[0]).parents[:1] == (head,):
                changes.append(Change(self.run.branch_ref, head, landed[-1]))
            elif not self.repository.is_ancestor(landed[-1], head):
                message = f"{self.run.branch_ref} is at {head[:12]}, which is not where the edit was made"
                return Result(Outcome.CONFLICT, message, {self.run.branch_ref: head})
        result = self.repository.update(changes) if changes else Result(Outcome.PUSHED)
        if result.ok:
            ledger.moved(tip, experiments, finished, run)
        elif not decided:
            raise StoreError(f"{ledger.ref}: {result.message}")
        return result

    def _note_ledger(self) -> None:
        """Says in the index that files and ledger agree: the next start need not read the ledger. Written last."""
        self._index.note("ledger", {"tip": self._ledger().tip})

    def _restore_branch(self, experiments: Sequence[ExperimentRecord]) -> None:
        """Brings the branch to the last landed edit when its ref was lost."""
        landed = [item.landed_commit for item in experiments if item.verdict is Verdict.ACCEPTED and item.landed_commit]
        target = landed[-1] if landed else self.run.source_commit
        head = self.repository.resolve_or_none(self.run.branch_ref)
        if head is None or (head != target and self.repository.is_ancestor(head, target)):
            result = self.repository.update([Change(self.run.branch_ref, head, target)])
            if not result.ok:
                raise StoreError(result.message)
            self.notes.append(f"{self.run.branch_ref} was brought back to {target[:12]}, the last accepted edit")


def _release(lock: RunLock | None) -> None:
    if lock is not None:
        lock.release()
