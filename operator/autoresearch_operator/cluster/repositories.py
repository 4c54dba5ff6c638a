"""The repositories of a cluster's runs: one bare repository each, on the operator's volume.

    <root>/<namespace>/<name>.git       branch and ledger; the truth of a run
    <root>/<namespace>/.<name>.making   one that is being made; it gets its name when it is complete

A run with `source.url` has a second copy on the git server. Whichever of the two is there brings the other back.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from autoresearch_operator.api.reasons import ExperimentKind, ReadyReason
from autoresearch_operator.api.run import ResearchRunSpec
from autoresearch_operator.cluster.claims import Claims, claim_of
from autoresearch_operator.cluster.credentials import SecretNotAllowed
from autoresearch_operator.cluster.document import DELETED, Document, NotReady, read_document
from autoresearch_operator.cluster.origin import Origin, fetch_ledger, from_template, from_url
from autoresearch_operator.cluster.publishing import PUSH_SECONDS, Pace, PublishState
from autoresearch_operator.cluster.runrepository import (
    Loaded,
    RunRepository,
    Saved,
    SaveFailed,
    Secrets,
    secret_access,
)
from autoresearch_operator.cluster.seen import Key, KubeError
from autoresearch_operator.gateways.errors import (
    GitError,
    Outcome,
    RemoteError,
    RepositoryDamaged,
    SourceNotFound,
    SourceRefused,
    SourceTooLarge,
    StorageFull,
)
from autoresearch_operator.gateways.git import Change, Repository
from autoresearch_operator.gateways.ledger import read_run
from autoresearch_operator.gateways.process import Access
from autoresearch_operator.gateways.repair import clear_stale_locks, quarantine, salvage
from autoresearch_operator.research.names import default_branch, ledger_ref
from autoresearch_operator.research.records import ExperimentRecord

__all__ = [
    "DELETED",
    "Loaded",
    "NotReady",
    "PublishState",
    "Repositories",
    "RunRepository",
    "SaveFailed",
    "Saved",
    "Secrets",
]

logger = logging.getLogger(__name__)

EXPORTED = "git-daemon-export-ok"
"""git's own mark of a repository that may be served to everybody. Only runs from the built-in template get it: what
came from a server with credentials is not handed out without."""


class Repositories:
    """All runs' repositories on one volume. Safe for use from several threads; one operator works on a volume."""

    def __init__(
        self,
        root: Path,
        *,
        secrets: Secrets,
        templates: Path | None = None,
        access: Access | None = None,
        served_at: str = "",
        pushes_per_minute: float = 60.0 / PUSH_SECONDS,
    ) -> None:
        """`templates`: the folder of the built-in templates; unset, AUTORESEARCH_TEMPLATES, else the trainer's own
        where it is installed beside this package. `access`: how git reaches servers, without credentials.
        `served_at`: the URL that `gateways.githttp` answers at, for people to clone from.
        `pushes_per_minute`: conversations with one repository on a server at most."""
        self._root = root
        self._secrets = secrets
        self._templates = templates
        self._base = access or Access()
        self._served_at = served_at.rstrip("/")
        self._pace = Pace(60.0 / pushes_per_minute)
        self._guard = threading.RLock()
        self._locks: dict[Key, threading.Lock] = {}
        self._open: dict[Key, RunRepository] = {}
        self._claims = Claims(self._documents)
        root.mkdir(parents=True, exist_ok=True)

    # --- opening --------------------------------------------------------------------------------------------------

    def open(self, run: Mapping[str, Any], spec: ResearchRunSpec) -> RunRepository:
        """The repository of a ResearchRun: made, taken over from the server, or opened and repaired.

        Raises:
            NotReady: it cannot be had now; the reason is one of the condition Ready.
        """
        key = Key(run["metadata"]["namespace"], run["metadata"]["name"])
        with self._lock(key):
            try:
                known = self.get(key)
                if known is not None:
                    known.adopt(spec)
                    return known
                opened = self._prepare(key, spec)
                try:
                    opened.adopt(spec)
                    if opened.details.get("finished") == DELETED:
                        opened.set_details(finished=None)
                    self._check_source(opened)
                except BaseException:
                    opened.close()
                    raise
            except (GitError, SecretNotAllowed, KubeError, StorageFull) as error:
                raise _not_ready(error, self._path(key)) from error
            with self._guard:
                self._open[key] = opened
            return opened

    def get(self, key: Key) -> RunRepository | None:
        """The run's repository when it is open."""
        with self._guard:
            return self._open.get(key)

    def keys(self) -> list[Key]:
        """All runs that have a repository on the volume, open or not."""
        return sorted(Key(path.parent.name, path.name.removesuffix(".git")) for path in self._root.glob("[!.]*/*.git"))

    def release(self, key: Key) -> None:
        """Says in the ledger that the ResearchRun was deleted, which frees its branch; nothing is removed.

        The git server is told too, once: where it gives no answer, that is logged.

        Raises:
            GitError, StorageFull: it could not be written.
        """
        with self._lock(key):
            with self._guard:
                opened = self._open.pop(key, None)
            if opened is None:
                if not self._path(key).exists():
                    return
                opened = self._existing(key, None)
            try:
                said = opened.release()
                if said is not None and not said.ok:
                    logger.warning("%s/%s was deleted, and its server does not know it yet: %s", *key, said.message)
                self._claims.drop(claim_of(opened.url, opened.branch_ref), key)
            finally:
                opened.close()

    def close(self) -> None:
        with self._guard:
            for opened in self._open.values():
                opened.close()
            self._open.clear()

    # --- inside ---------------------------------------------------------------------------------------------------

    def _lock(self, key: Key) -> threading.Lock:
        with self._guard:
            return self._locks.setdefault(key, threading.Lock())

    def _path(self, key: Key) -> Path:
        return self._root / key.namespace / f"{key.name}.git"

    def _prepare(self, key: Key, spec: ResearchRunSpec) -> RunRepository:
        """Opens what is on the volume, or makes it. Raises what the caller turns into NotReady."""
        claim = claim_of(spec.source.url, f"refs/heads/{spec.source.branch or default_branch(*key)}")
        known = self._glance(key) if self._path(key).exists() else None
        if known is None or known.details.get("finished") in (None, DELETED):
            self._claims.take(claim, key)
        try:
            if self._path(key).exists():
                return self._reopen(key, spec)
            self._make(key, spec)
            return self._existing(key, spec)
        except BaseException:
            if not self._path(key).exists():
                self._claims.drop(claim, key)
            raise

    def _reopen(self, key: Key, spec: ResearchRunSpec) -> RunRepository:
        path, notes = self._path(key), list[str]()
        clear_stale_locks(path, notes)
        try:
            opened = self._existing(key, spec)
            try:
                opened.load()
                if problems := opened.repository.check(contents=False):
                    raise RepositoryDamaged(problems[0])
            except BaseException:
                opened.close()
                raise
        except RepositoryDamaged as error:
            notes.append(self._restore(key, spec, error))
            opened = self._existing(key, spec)
        try:
            if spec.source.url is not None and spec.source.url == opened.url:
                self._catch_up(opened, spec, notes)
            opened.load()
        except BaseException:
            opened.close()
            raise
        opened.notes = notes + opened.notes
        return opened

    def _existing(self, key: Key, spec: ResearchRunSpec | None) -> RunRepository:
        path, ref = self._path(key), ledger_ref(*key)
        repository = Repository.open(path, access=self._base)
        try:
            tip = repository.resolve_or_none(ref)
            if tip is None:
                raise RepositoryDamaged(f"{ref} is not in {path}")
            document = read_document(read_run(repository, tip), f"run.json of {ref}")
            if (document.namespace, document.name) != (key.namespace, key.name):
                raise NotReady(
                    ReadyReason.BRANCH_IN_USE,
                    f"{ref} holds the run {document.namespace}/{document.name}, whose name is written the same way: "
                    "choose another metadata.name",
                )
            return RunRepository(
                repository, document, spec, secrets=self._secrets, base=self._base, pace=self._pace,
                clone_url=self._clone_url(key, document.source_url), on_finished=self._on_finished,
            )  # fmt: skip
        except BaseException:
            repository.close()
            raise

    def _clone_url(self, key: Key, url: str | None) -> str:
        if url is not None:
            return url
        return f"{self._served_at}/{key.namespace}/{key.name}.git" if self._served_at else ""

    def _check_source(self, opened: RunRepository) -> None:
        """Reads what the unedited source's trials get: a missing, huge or binary file is found before any of them."""
        sources = opened.sources
        sources.files(
            ExperimentRecord(
                number=0, kind=ExperimentKind.BASELINE, commit=sources.commit, tree=sources.tree, base=0,
                title="the unedited source", proposer="source",
            )
        )  # fmt: skip

    # --- making and mending ---------------------------------------------------------------------------------------

    def _origin(self, key: Key, spec: ResearchRunSpec) -> Origin:
        return Origin(
            key=key,
            spec=spec,
            branch_ref=f"refs/heads/{spec.source.branch or default_branch(*key)}",
            ledger_ref=ledger_ref(*key),
            base=self._base,
        )

    @contextlib.contextmanager
    def _access(self, key: Key, spec: ResearchRunSpec) -> Iterator[Access]:
        source = spec.source
        with secret_access(
            self._secrets, key.namespace, source.secret_name, source.url or "", self._base
        ) as access:  # fmt: skip
            yield access

    def _make(self, key: Key, spec: ResearchRunSpec) -> None:
        """Makes the repository under a passing name; a crash leaves nothing that looks like a run."""
        with self._making(key) as making:
            origin = self._origin(key, spec)
            if spec.source.url is None:
                from_template(making, origin, self._templates)
                (making / EXPORTED).touch()
            else:
                with self._access(key, spec) as access:
                    from_url(making, origin, access)

    @contextlib.contextmanager
    def _making(self, key: Key) -> Iterator[Path]:
        path = self._path(key)
        making = path.with_name(f".{key.name}.making")
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(making, ignore_errors=True)  # it never got its name, so it never was a run
        try:
            yield making
            making.rename(path)
            handle = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        finally:
            shutil.rmtree(making, ignore_errors=True)

    def _catch_up(self, opened: RunRepository, spec: ResearchRunSpec, notes: list[str]) -> None:
        """Takes over a ledger that the server has further than the volume: a restored backup, for example.

        Work goes on without a server that gives no answer: the volume has all that is needed, and pushing says it.
        """
        try:
            with self._access(opened.key, spec) as access:
                note = fetch_ledger(opened.repository, self._origin(opened.key, spec), access)
        except (RemoteError, SourceNotFound, SecretNotAllowed, KubeError) as error:
            if isinstance(error, RemoteError) and error.outcome is Outcome.BRANCH_IN_USE:
                raise
            notes.append(f"the git server could not be asked for a newer ledger: {error}")
            return
        if note:
            notes.append(note)

    def _restore(self, key: Key, spec: ResearchRunSpec, trouble: Exception) -> str:
        """Builds a damaged repository anew from the server and from what can still be read; gives a sentence.

        Raises:
            NotReady: neither has enough.
        """
        path, origin = self._path(key), self._origin(key, spec)
        with contextlib.ExitStack() as stack:
            making = stack.enter_context(self._making(key))
            why = "it has no source.url to restore it from"
            if spec.source.url is not None:
                try:
                    with self._access(key, spec) as access:
                        from_url(making, origin, access)
                except (GitError, SecretNotAllowed, KubeError) as error:
                    why = f"it could not be restored from the server: {error}"
                    shutil.rmtree(making, ignore_errors=True)
            fresh = (
                Repository.open(making, access=self._base)
                if making.exists()
                else Repository.init(making, access=self._base)
            )
            try:
                found = salvage(path, fresh)
                _newer(fresh, origin.ledger_ref, found)
                if fresh.resolve_or_none(origin.ledger_ref) is None:
                    raise NotReady(
                        ReadyReason.REPOSITORY_UNUSABLE,
                        f"{path} is damaged ({trouble}) and {why}: put a backup in its place, or move it away, and "
                        "the run begins anew",
                        300.0,
                    )
                _newer(fresh, origin.branch_ref, found)
                fresh.set_head(origin.branch_ref)
            finally:
                fresh.close()
            if (path / EXPORTED).exists():
                (making / EXPORTED).touch()
            kept = quarantine(path)
        return f"the repository was damaged ({trouble}) and was restored; the damaged one is kept as {kept.name}"

    # --- what is on the volume ------------------------------------------------------------------------------------

    def _documents(self) -> Iterator[tuple[Key, Document]]:
        """What every run on the volume is; one that cannot be read says so when it is opened."""
        for key in self.keys():
            if (document := self._glance(key)) is not None:
                yield key, document

    def _glance(self, key: Key) -> Document | None:
        repository = Repository(self._path(key), self._base, "")
        try:
            tip = repository.resolve_or_none(ledger_ref(*key))
            return None if tip is None else read_document(read_run(repository, tip), str(key))
        except GitError:
            return None
        finally:
            repository.close()

    def _on_finished(self, key: Key, finished: bool) -> None:
        opened = self.get(key)
        if opened is not None:
            claim = claim_of(opened.url, opened.branch_ref)
            if finished:
                self._claims.drop(claim, key)
            else:
                self._claims.keep(claim, key)


def _newer(repository: Repository, ref: str, found: Mapping[str, str]) -> None:
    """Moves `ref` to what was salvaged where that continues what is there."""
    commit, here = found.get(ref), repository.resolve_or_none(ref)
    if commit is not None and repository.has(commit) and (here is None or repository.is_ancestor(here, commit)):
        repository.update([Change(ref, here, commit)])


_REMOTE = {
    Outcome.CREDENTIALS: ReadyReason.CREDENTIALS_REJECTED,
    Outcome.BRANCH_IN_USE: ReadyReason.BRANCH_IN_USE,
    Outcome.DIVERGED: ReadyReason.BRANCH_IN_USE,
}


def _not_ready(error: Exception, path: Path) -> NotReady:
    """The condition Ready for what went wrong."""
    reason, wait = ReadyReason.REPOSITORY_UNUSABLE, 60.0
    match error:
        case RemoteError():
            reason = _REMOTE.get(error.outcome, ReadyReason.GIT_UNAVAILABLE)
        case KubeError():
            reason = ReadyReason.GIT_UNAVAILABLE
        case SecretNotAllowed():
            reason = ReadyReason.SECRET_NOT_ALLOWED
        case SourceTooLarge():
            reason, wait = ReadyReason.SOURCE_TOO_LARGE, 300.0
        case SourceNotFound() | SourceRefused():
            reason = ReadyReason.SOURCE_NOT_FOUND
    if reason is ReadyReason.GIT_UNAVAILABLE:
        wait = 15.0
    where = f"{path}: " if reason is ReadyReason.REPOSITORY_UNUSABLE else ""
    return NotReady(reason, f"{where}{error}", wait)
