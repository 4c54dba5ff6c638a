"""Keeping a run's branch and ledger and those of the repository it was cloned from together. Nothing is forced."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from autoresearch_operator.gateways.errors import Outcome, Result
from autoresearch_operator.gateways.git import Change, Repository
from autoresearch_operator.gateways.ledger import branch_owner
from autoresearch_operator.gateways.process import Access
from autoresearch_operator.gateways.remote import Remote

SEEN = "refs/remote/seen/"
"""Where a server's refs are kept here while they are compared."""


def follow(repository: Repository, url: str, branch_ref: str) -> Result:
    """Takes over what a person committed to the server's branch, where that only adds to ours.

    An edit accepted afterwards is put on top of it. Anything else is DIVERGED and moves nothing.
    """
    remote = Remote(repository, url)
    looked = remote.look(branch_ref)
    there = looked.refs.get(branch_ref)
    if not looked.ok or there is None:
        return looked
    here = repository.resolve(branch_ref)
    if repository.has(there) and repository.is_ancestor(there, here):
        return looked
    fetched = remote.fetch({branch_ref: SEEN + branch_ref.removeprefix("refs/")})
    if not fetched.ok:
        return fetched
    if not repository.is_ancestor(here, there):
        return Result(Outcome.DIVERGED, f"{branch_ref} at {url} is at {there[:12]}, which is not part of this run")
    return repository.update([Change(branch_ref, here, there)])


def publish(repository: Repository, url: str, branch_ref: str, ledger_ref: str) -> Result:
    """Pushes branch and ledger, both or neither, and never over anything that we do not have.

    A server that did not answer is asked again with the same commits by calling this again.
    """
    remote = Remote(repository, url)
    looked = remote.look()
    if not looked.ok:
        return looked
    wanted = {ref: sha for ref, sha in remote.refs.items() if ref.startswith("refs/autoresearch/") or ref == branch_ref}
    if wanted:
        fetched = remote.fetch({ref: SEEN + ref.removeprefix("refs/") for ref in wanted})
        if not fetched.ok:
            return fetched
    owner = branch_owner(repository, branch_ref, SEEN + ledger_ref.removeprefix("refs/"), SEEN + "autoresearch/")
    if owner is not None:
        other = "refs/" + owner.removeprefix(SEEN)
        return Result(Outcome.BRANCH_IN_USE, f"{branch_ref} at {url} belongs to the unfinished run of {other}")
    changes = []
    for ref in (branch_ref, ledger_ref):
        ours, theirs = repository.resolve(ref), remote.refs.get(ref)
        if theirs is not None and not repository.is_ancestor(theirs, ours):
            what = f"{ref} at {url} is at {theirs[:12]}, which is not part of this run"
            return Result(Outcome.DIVERGED, f"{what}: set source.branch to a new name", {ref: theirs})
        if ours != theirs:
            changes.append(Change(ref, theirs, ours))
    return remote.push(changes) if changes else Result(Outcome.PUSHED, refs={})


def foreign_owner(
    repository: Repository, url: str, access: Access, ledgers: Iterable[str], branch_ref: str, own_ref: str
) -> Result:
    """BRANCH_IN_USE when one of a server's other `ledgers` says that its unfinished run lands on `branch_ref`.

    Only the newest commits of the ledgers are fetched, and into a repository that is thrown away: a ledger's history
    holds every candidate of its run.
    """
    others = sorted(ref for ref in ledgers if ref != own_ref)
    if not others:
        return Result(Outcome.PUSHED)
    folder = Path(tempfile.mkdtemp(prefix=".owners-", dir=repository.path.parent))
    try:
        scratch = Repository.init(folder / "owners.git", access=repository.access)
        try:
            fetched = Remote(scratch, url, access).fetch(
                {ref: SEEN + ref.removeprefix("refs/") for ref in others}, tips_only=True
            )
            if not fetched.ok:
                return fetched
            owner = branch_owner(scratch, branch_ref, "", SEEN)
        finally:
            scratch.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # a copy, made by this call
    if owner is None:
        return Result(Outcome.PUSHED)
    other = "refs/" + owner.removeprefix(SEEN)
    return Result(
        Outcome.BRANCH_IN_USE,
        f"{branch_ref} at {url} belongs to the unfinished run of {other}: choose another source.branch, or, if that "
        f"run is gone for good, delete {other} on the server",
    )
