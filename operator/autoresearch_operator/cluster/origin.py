"""The first contents of a run's repository: from the built-in template or from a git server."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoresearch_operator.api.run import ResearchRunSpec
from autoresearch_operator.cluster.document import Document, facts_of, read_document
from autoresearch_operator.cluster.seen import Key
from autoresearch_operator.engine.sources import declared_inputs
from autoresearch_operator.gateways.errors import (
    GitError,
    Outcome,
    RemoteError,
    RepositoryDamaged,
    Result,
    SourceNotFound,
)
from autoresearch_operator.gateways.git import Change, Repository
from autoresearch_operator.gateways.landing import Foreign, join
from autoresearch_operator.gateways.ledger import Ledger, read_run
from autoresearch_operator.gateways.model import TEMPLATE_TIME
from autoresearch_operator.gateways.process import Access
from autoresearch_operator.gateways.publish import SEEN, foreign_owner
from autoresearch_operator.gateways.remote import Remote, failure, source_name

TEMPLATES = "AUTORESEARCH_TEMPLATES"
LOOK_SECONDS = 20.0
"""Deadline of a look at a server that is not needed to go on."""
_SOURCE = "refs/remote/source"
_BRANCH = "refs/remote/branch"


@dataclass(frozen=True, slots=True)
class Origin:
    """What a run's repository begins from, and under which names."""

    key: Key
    spec: ResearchRunSpec
    branch_ref: str
    ledger_ref: str
    base: Access
    """How git works here, without credentials."""

    def document(self, source_commit: str, inputs: Sequence[str]) -> Document:
        source = self.spec.source
        return Document(
            namespace=self.key.namespace,
            name=self.key.name,
            branch_ref=self.branch_ref,
            ledger_ref=self.ledger_ref,
            source_commit=source_commit,
            source_url=source.url,
            source_ref=source.ref if source.url is not None else None,
            inputs=tuple(inputs),
            facts=facts_of(self.spec),
        )


def template_files(name: str, folder: Path | None) -> dict[str, bytes]:
    """The files of a built-in template: path to content.

    They belong to the trainer, whose image runs them. The operator's image has a copy of that folder and names it in
    AUTORESEARCH_TEMPLATES; elsewhere the trainer's package, which is found without importing it.

    Raises:
        SourceNotFound: there is none; the message says what to set.
    """
    places = [folder, Path(explicit) if (explicit := os.environ.get(TEMPLATES)) else None, _trainer_templates()]
    chosen = next((place for place in places if place is not None), None)
    if chosen is None:
        raise SourceNotFound(
            f"the built-in template {name} is not here: set {TEMPLATES} to the folder with the trainer's templates"
        )
    files = {
        path.relative_to(chosen / name).as_posix(): path.read_bytes()
        for path in sorted((chosen / name).rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }
    if not files:
        raise SourceNotFound(f"there is no template {name} in {chosen}: {TEMPLATES} names the wrong folder")
    return files


def _trainer_templates() -> Path | None:
    found = importlib.util.find_spec("autoresearch_trainer")
    if found is None or not found.submodule_search_locations:
        return None
    return Path(found.submodule_search_locations[0]) / "templates"


def from_template(path: Path, origin: Origin, templates: Path | None) -> None:
    """Makes the repository of a run without a URL. The same request gives the same commits as in local mode."""
    name = origin.spec.source.template_name or ""
    files = template_files(name, templates)
    repository = Repository.create(
        path, files, branch_ref=origin.branch_ref, message=f"{origin.key.name}: the source\n", when=TEMPLATE_TIME,
        access=origin.base,
    )  # fmt: skip
    try:
        source = repository.resolve(origin.branch_ref)
        _begin(repository, origin.document(source, declared_inputs(origin.spec, sorted(files))))
    finally:
        repository.close()


def from_url(path: Path, origin: Origin, access: Access) -> None:
    """Makes the repository of a run from its server: from its ledger when there is one, else from the source.

    Raises:
        SourceNotFound, SourceRefused, RemoteError, GitError: each a sentence.
    """
    url = origin.spec.source.url or ""
    repository = Repository.init(path, access=origin.base)
    try:
        remote = Remote(repository, url, access)
        looked = remote.look()
        if not looked.ok:
            raise failure(looked)
        _refuse_owned(repository, origin, access, looked.refs)
        repository.set_head(origin.branch_ref)
        if origin.ledger_ref in looked.refs:
            _continue(repository, remote, origin)
        else:
            _start(repository, remote, origin)
    finally:
        repository.close()


def _refuse_owned(repository: Repository, origin: Origin, access: Access, refs: Mapping[str, Any]) -> None:
    ledgers = [ref for ref in refs if ref.startswith("refs/autoresearch/") and ref.endswith("/ledger")]
    url = origin.spec.source.url or ""
    result = foreign_owner(repository, url, access, ledgers, origin.branch_ref, origin.ledger_ref)
    if not result.ok:
        raise failure(result)


def _start(repository: Repository, remote: Remote, origin: Origin) -> None:
    """The run is new: its branch begins at the source, or where a person put it when trials cannot tell the
    difference."""
    wanted = {source_name(remote, origin.spec.source.ref): _SOURCE}
    if origin.branch_ref in remote.refs:
        wanted[origin.branch_ref] = _BRANCH
    _require(remote.fetch(wanted))
    source = repository.resolve(_SOURCE)
    inputs = _inputs(repository, source, origin.spec)
    head, there = source, repository.resolve_or_none(_BRANCH)
    if there is not None:
        joined = join(repository, source, there, inputs)
        if isinstance(joined, Foreign):
            raise RemoteError(
                f"{origin.branch_ref} at {remote.url} exists and is not part of the source {origin.spec.source.ref} "
                f"({source[:12]}): choose another source.branch, or set source.ref to that branch to go on from it",
                Outcome.BRANCH_IN_USE,
            )
        head = joined
    _require(repository.update([Change(origin.branch_ref, None, head)]))
    _begin(repository, origin.document(source, inputs))


def _continue(repository: Repository, remote: Remote, origin: Origin) -> None:
    """The server holds the run's ledger: the volume was lost, or the run is applied again."""
    wanted = {origin.ledger_ref: origin.ledger_ref}
    if origin.branch_ref in remote.refs:
        wanted[origin.branch_ref] = _BRANCH
    _require(remote.fetch(wanted))
    tip = repository.resolve(origin.ledger_ref)
    document = read_document(read_run(repository, tip), f"run.json of {origin.ledger_ref} at {remote.url}")
    if not repository.has(document.source_commit):
        raise RepositoryDamaged(
            f"{origin.ledger_ref} at {remote.url} begins from {document.source_commit[:12]}, which is not there"
        )
    # Only the way to the last accepted edit is ours to set; what a person put on top is taken over when pushing.
    _require(repository.update([Change(origin.branch_ref, None, document.source_commit)]))


def _begin(repository: Repository, document: Document) -> None:
    when = repository.commit(document.source_commit).when
    _require(Ledger(repository, document.ledger_ref).save([], [], document.as_json(), when=when))


def _inputs(repository: Repository, source: str, spec: ResearchRunSpec) -> tuple[str, ...]:
    """The patterns of the files that trials get; a source without any Python file has no use for `*.py`."""
    present = list(repository.entries(source))
    return tuple(
        pattern
        for pattern in declared_inputs(spec, present)
        if pattern != "*.py" or any(path.endswith(".py") for path in present)
    )


def fetch_ledger(repository: Repository, origin: Origin, access: Access) -> str | None:
    """Takes the server's ledger over where it goes on from ours, and gives a sentence when it did.

    Raises:
        RemoteError: no answer, no right; or (BRANCH_IN_USE) both went on by themselves.
        SourceNotFound: the server has no such repository.
    """
    remote = Remote(repository, origin.spec.source.url or "", access)
    looked = remote.look(origin.ledger_ref, timeout=LOOK_SECONDS)
    if not looked.ok:
        raise failure(looked)
    there, here = looked.refs.get(origin.ledger_ref), repository.resolve(origin.ledger_ref)
    if there is None or (repository.has(there) and repository.is_ancestor(there, here)):
        return None
    seen = SEEN + origin.ledger_ref.removeprefix("refs/")
    fetched = remote.fetch({origin.ledger_ref: seen})
    if not fetched.ok:
        raise failure(fetched)
    if not repository.is_ancestor(here, there):
        raise RemoteError(
            f"{origin.ledger_ref} at {remote.url} and the one on this volume both went on by themselves: the same run "
            "is at work elsewhere. Delete one of the two; if the other is gone for good, delete that ref on the server",
            Outcome.BRANCH_IN_USE,
        )
    _require(repository.update([Change(origin.ledger_ref, here, there)]))
    return f"{origin.ledger_ref} on this volume was older than the server's, which was taken over"


def _require(result: Result) -> None:
    if not result.ok:
        raise failure(result) if result.outcome is not Outcome.CONFLICT else GitError(result.message)
