"""A work folder's repository and run.json: opened, checked, and built anew when they are damaged."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from autoresearch_operator.gateways.codec import dumps
from autoresearch_operator.gateways.errors import GitError, RepositoryDamaged
from autoresearch_operator.gateways.git import Change, Repository
from autoresearch_operator.gateways.ledger import read_contents
from autoresearch_operator.gateways.process import Access
from autoresearch_operator.gateways.repair import salvage
from autoresearch_operator.local.durable import DamagedFile, quarantine, read_json, sync_folder, write_durable
from autoresearch_operator.local.workfiles import RunFile, rewrite_commits, run_as_json, run_from_json


def read_run(workdir: Path, access: Access, repair: bool, notes: list[str]) -> RunFile | None:
    """run.json, or the ledger's copy of it when it is damaged; None: the run was never completely made.

    Raises:
        DamagedFile: it is damaged and so is the copy.
    """
    path = workdir / "run.json"
    try:
        value = read_json(path)
        if value is not None:
            return run_from_json(value, str(path))
        trouble = DamagedFile(f"{path} is missing")
    except DamagedFile as error:
        trouble = error
    run = _run_from_ledger(workdir, access)
    if run is None:
        if not path.exists():
            return None
        raise trouble
    if repair:
        if path.exists():
            quarantine(path)
        write_durable(path, dumps(run_as_json(run)))
    notes.append(f"{trouble}; it was restored from the ledger")
    return run


def _run_from_ledger(workdir: Path, access: Access) -> RunFile | None:
    try:
        repository = Repository.open(workdir / "repo.git", access=access)
        for ref, commit in repository.refs("refs/autoresearch/").items():
            run = run_from_json(dict(read_contents(repository, commit).run), ref)
            if run.ledger_ref == ref:
                return run
    except (GitError, DamagedFile):
        return None
    return None


def ensure_request(workdir: Path, run: RunFile, notes: list[str]) -> None:
    """Restores researchrun.yaml from run.json when it is missing. A person may edit it, so content is not compared."""
    path = workdir / "researchrun.yaml"
    if not path.exists() or (not path.read_bytes() and run.request):
        write_durable(path, run.request.encode("utf-8", "replace"))
        notes.append(f"{path} was missing and was restored")


def ensure_repository(workdir: Path, run: RunFile, access: Access, notes: list[str]) -> Repository:
    """Opens repo.git; when anything in it is damaged, builds it anew from the files beside it.

    Raises:
        RepositoryDamaged: that is not possible either; the sentence says what is missing.
    """
    path = workdir / "repo.git"
    try:
        repository = Repository.open(path, access=access)
        problems = repository.check()
        if not problems:
            repository.commit(run.source_commit)
            _ensure_pack(workdir, run, repository, notes)
            return repository
        trouble = problems[0]
    except RepositoryDamaged as error:
        trouble = str(error)
    repository = _rebuild(workdir, run, access)
    if path.exists():
        notes.append(f"the repository was damaged ({trouble}); the old one is now {quarantine(path).name}")
    else:
        notes.append("the repository was missing")
    repository.close()
    repository.path.rename(path)
    sync_folder(workdir)
    rebuilt = Repository.open(path, access=access)
    _ensure_pack(workdir, run, rebuilt, notes)
    return rebuilt


def _ensure_pack(workdir: Path, run: RunFile, repository: Repository, notes: list[str]) -> None:
    path = workdir / "source.pack"
    if _pack(path, run) is None:
        if path.exists():
            notes.append(f"source.pack was damaged; it is now {quarantine(path).name}")
        pack = repository.snapshot(run.source_commit)
        write_durable(path, pack)
        digest = hashlib.sha256(pack).hexdigest()
        if digest != run.pack_sha256:
            # Another git version packs differently; what counts is that the content is there.
            (workdir / "source.pack.sha256").write_text(digest)


def _pack(path: Path, run: RunFile) -> bytes | None:
    try:
        content = path.read_bytes()
        known = {run.pack_sha256}
        other = path.with_name("source.pack.sha256")
        if other.exists():
            known.add(other.read_text().strip())
    except OSError:
        return None
    return content if hashlib.sha256(content).hexdigest() in known else None


def _rebuild(workdir: Path, run: RunFile, access: Access) -> Repository:
    fresh = workdir / "repo.git.rebuilt"
    shutil.rmtree(fresh, ignore_errors=True)
    repository = Repository.init(fresh, access=access)
    pack = _pack(workdir / "source.pack", run)
    if pack is not None:
        repository.restore_snapshot(pack, run.source_commit)
    salvaged = salvage(workdir / "repo.git", repository)
    if not repository.has(run.source_commit):
        raise RepositoryDamaged(
            "the repository is damaged and so is source.pack: restore one of them from a backup, or start a new run"
        )
    _rewrite(workdir, repository)
    for ref, commit in salvaged.items():
        if repository.has(commit):
            repository.update([Change(ref, None, commit)])
    repository.set_head(run.branch_ref)
    problems = repository.check()
    if problems:
        raise RepositoryDamaged(f"the repository could not be rebuilt: {problems[0]}")
    return repository


def _rewrite(workdir: Path, repository: Repository) -> None:
    """Writes the commits of all experiments again that are missing; their names come out the same."""
    documents = []
    for path in sorted((workdir / "experiments").glob("*.json")):
        try:
            document = read_json(path)
        except DamagedFile:
            continue  # restored later, from the ledger or the index
        if document is not None:
            documents.append(document)
    wanted = {
        record.get(name) for record in (d.get("record", {}) for d in documents) for name in ("commit", "landed_commit")
    }
    present = {commit for commit in wanted if isinstance(commit, str) and repository.has(commit)}
    with repository.writer() as writer:
        for document in documents:
            present |= rewrite_commits(document, writer, present)
