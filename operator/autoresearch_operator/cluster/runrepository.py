"""One run's repository on the operator's volume: its records, its branch, and the copy of both on the git server."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from autoresearch_operator.api.reasons import BranchUpdatedReason, Verdict
from autoresearch_operator.api.run import ResearchRunSpec
from autoresearch_operator.cluster.credentials import SecretNotAllowed, credentials
from autoresearch_operator.cluster.document import DELETED, Document, check_facts, read_document
from autoresearch_operator.cluster.publishing import OBJECTS, Pace, Publisher, PublishState
from autoresearch_operator.cluster.seen import Key, KubeError
from autoresearch_operator.engine.sources import Sources
from autoresearch_operator.gateways.errors import GitError, Outcome, RepositoryDamaged, Result, StorageFull
from autoresearch_operator.gateways.git import Change, Repository
from autoresearch_operator.gateways.landing import Foreign, join, reparent
from autoresearch_operator.gateways.ledger import Ledger
from autoresearch_operator.gateways.process import Access
from autoresearch_operator.research.records import ExperimentRecord, TrialPhase, TrialRecord

logger = logging.getLogger(__name__)

Secrets = Callable[[str, str], Mapping[str, Any] | None]
"""(namespace, name) to a Secret as the API server gives it; None: there is none. May raise KubeError."""

SECRET_NAME = "secretName"  # noqa: S105 - a key of `details`, for a run that is deleted while no operator works
_ATTEMPTS = 5
"""A save is tried again when a person's commits were taken over at the same moment; more than once is unheard of."""


class SaveFailed(GitError):
    """Nothing was written: the ledger is not where it was left. Load it and plan again."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What the ledger holds: experiments in order of number, and finished trials."""

    experiments: tuple[ExperimentRecord, ...]
    trials: tuple[TrialRecord, ...]


@dataclass(frozen=True, slots=True)
class Saved:
    """What became of a save."""

    outcome: Outcome
    message: str
    experiments: tuple[ExperimentRecord, ...]
    """As they were written."""

    @property
    def ok(self) -> bool:
        return self.outcome is Outcome.PUSHED


class RunRepository:
    """Made by `Repositories.open`. Blocking; `publish` may run beside everything else, the rest one call at a time."""

    def __init__(
        self,
        repository: Repository,
        document: Document,
        spec: ResearchRunSpec | None,
        *,
        secrets: Secrets,
        base: Access,
        pace: Pace,
        clone_url: str,
        on_finished: Callable[[Key, bool], None],
    ) -> None:
        """`on_finished` is told whenever the run finishes or goes on again. `spec` None: only to be released."""
        self.key = Key(document.namespace, document.name)
        self.branch_ref, self.ledger_ref = document.branch_ref, document.ledger_ref
        self.branch = document.branch_ref.removeprefix("refs/heads/")
        self.url = document.source_url
        self.clone_url = clone_url
        self.source_commit = document.source_commit
        self.repository = repository
        self.notes: list[str] = []
        """What had to be repaired or was taken over when the repository was opened, one sentence each."""
        self._document = document
        self._secret_name = document.details.get(SECRET_NAME) if spec is None else spec.source.secret_name
        self._secrets, self._base, self._on_finished = secrets, base, on_finished
        self._ledger = Ledger(repository, document.ledger_ref)
        self._loaded: Loaded | None = None
        self._guard = threading.Lock()
        repeatable = spec is not None and spec.tiers[0].budget.kind == "steps"
        self.sources = Sources(repository, document.source_commit, document.inputs, repeatable=repeatable)
        self._publisher: Publisher | None = None
        if document.source_url is not None:
            self._publisher = Publisher(
                repository, document.source_url, document.branch_ref, document.ledger_ref, document.inputs,
                self._access, pace, lambda: self.details.get("finished") is not None,
            )  # fmt: skip

    def close(self) -> None:
        self.repository.close()

    # --- reading --------------------------------------------------------------------------------------------------

    @property
    def details(self) -> Mapping[str, Any]:
        """What was remembered with `set_details` and `save`; read-only."""
        return MappingProxyType(self._document.details)

    def load(self) -> Loaded:
        """The records as the ledger has them now; read again only when the ref was moved by somebody else.

        Raises:
            RepositoryDamaged: they cannot be read.
        """
        with self._guard:
            return self._load()

    def is_current(self) -> bool:
        """Whether the ledger is where this object left it; False once somebody else has written it."""
        with self._guard:
            return self.repository.resolve_or_none(self.ledger_ref) == self._ledger.tip

    def _load(self) -> Loaded:
        if self.repository.resolve_or_none(self.ledger_ref) != self._ledger.tip:
            self._ledger.reload()
            self._loaded = None
        if self._loaded is None:
            contents = self._ledger.read()
            if contents is None:
                raise RepositoryDamaged(f"{self.ledger_ref} is not in {self.repository.path}")
            self._document = read_document(dict(contents.run), self.ledger_ref)
            self._loaded = Loaded(contents.experiments, contents.trials)
            self._restore_branch(contents.experiments)
        return self._loaded

    def _restore_branch(self, experiments: Sequence[ExperimentRecord]) -> None:
        """Brings the branch to the last accepted edit when its ref was lost or is an older copy."""
        landed = [commit for record in experiments if (commit := _landed(record)) is not None]
        target = landed[-1] if landed else self.source_commit
        head = self.repository.resolve_or_none(self.branch_ref)
        if head is None or (head != target and self.repository.is_ancestor(head, target)):
            result = self.repository.update([Change(self.branch_ref, head, target)])
            if not result.ok:
                raise GitError(result.message)
            self.notes.append(f"{self.branch_ref} was brought to {target[:12]}, the last accepted edit")

    # --- writing --------------------------------------------------------------------------------------------------

    def save(
        self,
        experiments: Sequence[ExperimentRecord],
        trials: Sequence[TrialRecord],
        *,
        landed: Sequence[int] = (),
        details: Mapping[str, Any] | None = None,
    ) -> Saved:
        """Makes exactly these records the ledger's, durable when it returns; candidates' commits must be written.

        `landed` are the numbers of experiments whose landing commit goes onto the branch with it: both refs move or
        neither. `details` are added to what is remembered. Trials that are not finished are left out.

        Raises:
            StorageFull: nothing of it counts; the same call can be made again.
            GitError: the repository is damaged.
        """
        with self._guard:
            document = self._document
            if details:
                document = dataclasses.replace(document, details=document.details | dict(details))
            return self._save(tuple(experiments), tuple(trials), tuple(sorted(landed)), document)

    def set_details(self, **values: Any) -> None:
        """Remembers JSON values, at once. A value of None is remembered as None.

        Raises:
            SaveFailed: the ledger was moved by somebody else.
            StorageFull, GitError.
        """
        with self._guard:
            self._write(dataclasses.replace(self._document, details=self._document.details | values))

    def adopt(self, spec: ResearchRunSpec) -> None:
        """Takes a changed spec: remembers new tiers and which Secret to use.

        Raises:
            NotReady: something changed that scores depend on.
            SaveFailed, StorageFull, GitError.
        """
        with self._guard:
            loaded = self._load()
            scored = any(trial.phase is TrialPhase.SCORED for trial in loaded.trials)
            facts = check_facts(self._document, spec, scored=scored)
            self._secret_name = secret = spec.source.secret_name
            details = self._document.details
            if secret != details.get(SECRET_NAME):
                details = details | {SECRET_NAME: secret}
            if (facts, details) != (self._document.facts, self._document.details):
                self._write(dataclasses.replace(self._document, facts=facts, details=details))

    def release(self) -> PublishState | None:
        """Marks the run as deleted, here and, if that can be, at once on the server; what the server said.

        Raises:
            SaveFailed, StorageFull, GitError: it could not be marked here.
        """
        self.load()
        if self.details.get("finished") is None:
            self.set_details(finished=DELETED)
        return None if self._publisher is None else self._publisher.hurry()

    def _write(self, document: Document) -> None:
        loaded = self._load()
        saved = self._save(loaded.experiments, loaded.trials, (), document)
        if not saved.ok:
            raise SaveFailed(saved.message)

    def _save(
        self,
        experiments: tuple[ExperimentRecord, ...],
        trials: tuple[TrialRecord, ...],
        landed: tuple[int, ...],
        document: Document,
    ) -> Saved:
        finished, run = tuple(trial for trial in trials if trial.finished), document.as_json()
        when = int(max((record.decided_at or record.created_at for record in experiments), default=self.sources.when))
        result = Result(Outcome.LOCKED, f"{self.branch_ref} keeps moving")
        for _ in range(_ATTEMPTS):
            if self.repository.resolve_or_none(self.ledger_ref) != self._ledger.tip:
                message = f"{self.ledger_ref} was moved by somebody else: another operator works on this volume"
                return Saved(Outcome.CONFLICT, message, experiments)
            ready = self._land(experiments, landed)
            if isinstance(ready, Result):
                return Saved(ready.outcome, ready.message, experiments)
            experiments, changes = ready
            tip = self._ledger.tip
            if changes or not self._ledger.same(experiments, finished, run):
                with self.repository.writer() as writer:
                    tip = self._ledger.compose(experiments, finished, run, when=when, writer=writer)
                changes = [Change(self.ledger_ref, self._ledger.tip, tip), *changes]
            result = self.repository.update(changes) if changes else Result(Outcome.PUSHED)
            if result.ok and tip is not None:
                return self._written(tip, experiments, finished, document)
            if result.outcome is not Outcome.CONFLICT:
                break
        return Saved(result.outcome, result.message, experiments)

    def _written(
        self,
        tip: str,
        experiments: tuple[ExperimentRecord, ...],
        trials: tuple[TrialRecord, ...],
        document: Document,
    ) -> Saved:
        self._ledger.moved(tip, experiments, trials, document.as_json())
        before, ended = (item.details.get("finished") is not None for item in (self._document, document))
        if before and not ended and self._publisher is not None:
            self._publisher.reopened()
        self._document, self._loaded = document, Loaded(experiments, trials)
        self._on_finished(self.key, ended)
        return Saved(Outcome.PUSHED, "", experiments)

    def _land(
        self, experiments: tuple[ExperimentRecord, ...], landed: tuple[int, ...]
    ) -> Result | tuple[tuple[ExperimentRecord, ...], list[Change]]:
        """The branch's move that puts the landings on it, and the records with the commits that did."""
        commits = {number: _landed(experiments[number]) for number in landed}
        if missing := [number for number, commit in commits.items() if commit is None]:
            raise ValueError(f"experiment {missing[0]} is not accepted with a landing commit")
        chain = [commit for commit in commits.values() if commit is not None]
        head = self.repository.resolve(self.branch_ref)
        if not chain or self.repository.is_ancestor(chain[-1], head):
            return experiments, []
        if self.repository.is_ancestor(head, chain[-1]):
            return experiments, [Change(self.branch_ref, head, chain[-1])]
        moved: str | None
        if len(chain) == 1:
            moved = reparent(self.repository, chain[0], head, self._document.inputs)
            if moved is not None:
                number = landed[0]
                record = dataclasses.replace(experiments[number], landed_commit=moved)
                experiments = (*experiments[:number], record, *experiments[number + 1 :])
        else:
            joined = join(self.repository, chain[-1], head, self._document.inputs)
            moved = None if isinstance(joined, Foreign) else joined
        if moved is None:
            return Result(
                Outcome.DIVERGED,
                f"{self.branch_ref} is at {head[:12]}, which is not where experiment {landed[-1]} was measured: its "
                "edit cannot be put there without measuring it again",
            )
        return experiments, [Change(self.branch_ref, head, moved)]

    # --- the server's copy ----------------------------------------------------------------------------------------

    def publish(self, now: float) -> PublishState:
        """Brings the git server up to date when it is time (see `Publisher`); a run without a URL has none.

        `now` in seconds. Cheap when there is nothing to do; else it may take minutes, so call it beside the rest.
        It raises nothing: what the server says, and what is wrong on this volume, is in the state.
        """
        if self._publisher is None:
            message = f"git clone {self.clone_url}" if self.clone_url else "the branch is on the operator's volume"
            state = PublishState(BranchUpdatedReason.UP_TO_DATE, message)
        else:
            state = self._publisher.publish(now)
        if state.ok and not state.pushed and self.repository.loose_objects() > OBJECTS:
            try:
                self.repository.repack()
            except (GitError, StorageFull) as error:
                logger.warning("%s: the repository stays unpacked: %s", self.key, error)
        return state

    @contextlib.contextmanager
    def _access(self) -> Iterator[Access]:
        """Credentials as the Secret has them now: a rotated password or a withdrawn label counts at once."""
        with secret_access(self._secrets, self.key.namespace, self._secret_name, self.url or "", self._base) as access:
            yield access


@contextlib.contextmanager
def secret_access(
    secrets: Secrets, namespace: str, secret_name: str | None, url: str, base: Access
) -> Iterator[Access]:
    """As `credentials`, with the Secret read anew. Raises SecretNotAllowed, KubeError."""
    secret = None
    try:
        missing = secret_name is not None and (secret := secrets(namespace, secret_name)) is None
    except TimeoutError:
        raise KubeError(0, "Timeout", f"the API server did not give the Secret {secret_name} in time") from None
    if missing:
        raise SecretNotAllowed(f"spec.source.secretName: there is no Secret {secret_name} in namespace {namespace}")
    manager: AbstractContextManager[Access] = credentials(secret, url, base)
    with manager as access:
        yield access


def _landed(record: ExperimentRecord) -> str | None:
    accepted = record.number > 0 and record.verdict is Verdict.ACCEPTED
    return record.landed_commit if accepted else None
