"""Sends what was accepted to the repository that the run started from.

The run's own repository is the record; the server gets branch and ledger in one atomic push after each acceptance
and at the end. A server that is away costs nothing but a note: the next push brings everything. Nothing is ever forced.
"""

from __future__ import annotations

from collections.abc import Callable

from autoresearch_operator.gateways.errors import Outcome
from autoresearch_operator.gateways.git import Change
from autoresearch_operator.gateways.remote import Remote
from autoresearch_operator.local.store import Store


class Publisher:
    """Keeps a server's copy of one run's branch and ledger up to date. Without a source URL it does nothing."""

    def __init__(self, store: Store, note: Callable[[str], None]) -> None:
        self._store = store
        self._note = note
        url = store.run.source_url
        self._remote = None if url is None else Remote(store.repository, url)

    def before_landing(self) -> None:
        """Takes a person's new commits on the server's branch, so that the edit is put on top of them."""
        if self._remote is None:
            return
        ref, repository = self._store.run.branch_ref, self._store.repository
        seen = self._remote.look(ref)
        there, here = seen.refs.get(ref), repository.resolve(ref)
        if not seen.ok:
            self._note(seen.message)
        elif there is not None and there != here and not self._has(there, here):
            fetched = self._remote.fetch({ref: "refs/remote/branch"})
            if not fetched.ok:
                self._note(fetched.message)
            elif repository.is_ancestor(here, there):
                repository.update([Change(ref, here, there)])
            else:
                self._note(self._diverged(there))

    def push(self) -> bool:
        """Brings branch and ledger to the server; False when it could not be done now."""
        if self._remote is None:
            return True
        repository, run = self._store.repository, self._store.run
        seen = self._remote.look(run.branch_ref, run.ledger_ref)
        if not seen.ok:
            self._note(seen.message)
            return False
        changes = [
            Change(ref, seen.refs.get(ref), new)
            for ref in (run.branch_ref, run.ledger_ref)
            if (new := repository.resolve_or_none(ref)) is not None and seen.refs.get(ref) != new
        ]
        if not changes:
            return True
        result = self._remote.push(changes)
        if not result.ok:
            moved = result.outcome in (Outcome.CONFLICT, Outcome.DIVERGED)
            self._note(self._diverged(seen.refs.get(run.branch_ref)) if moved else result.message)
        return result.ok

    def _has(self, old: str, new: str) -> bool:
        return self._store.repository.has(old) and self._store.repository.is_ancestor(old, new)

    def _diverged(self, there: str | None) -> str:
        branch = self._store.run.branch_ref.removeprefix("refs/heads/")
        return (
            f"{self._store.run.source_url}: {branch} is at {(there or 'nothing')[:12]} there, which this run did not "
            f"make; nothing was overwritten, the accepted edits are on {branch} in {self._store.repository.path}"
        )
