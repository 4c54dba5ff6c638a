"""Which run lands on which branch of which repository: two runs on one branch would undo each other's work."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from autoresearch_operator.api.reasons import ReadyReason
from autoresearch_operator.cluster.credentials import address
from autoresearch_operator.cluster.document import Document, NotReady
from autoresearch_operator.cluster.seen import Key

Claim = tuple[tuple[str, str], str]
"""A branch of a repository on a server: ((host, path), full ref name)."""


def claim_of(url: str | None, branch_ref: str) -> Claim | None:
    """None: a run without a URL has a repository of its own."""
    return None if url is None else (address(url).repository, branch_ref)


class Claims:
    """The branches of all unfinished runs on one volume, open or not."""

    def __init__(self, documents: Callable[[], Iterable[tuple[Key, Document]]]) -> None:
        """`documents` gives what every run on the volume is; it is asked once, when it is first needed."""
        self._documents = documents
        self._owners: dict[Claim, Key] | None = None
        self._guard = threading.Lock()

    def take(self, claim: Claim | None, key: Key) -> None:
        """Gives the branch to the run, unless it has an owner.

        Raises:
            NotReady: another unfinished run lands there.
        """
        if claim is None:
            return
        with self._guard:
            owner = self._known().setdefault(claim, key)
        if owner != key:
            raise NotReady(
                ReadyReason.BRANCH_IN_USE,
                f"the run {owner.name} in namespace {owner.namespace} lands on {claim[1]} of the same repository: "
                "choose another source.branch, or wait until that run is finished or deleted",
            )

    def keep(self, claim: Claim | None, key: Key) -> None:
        """The run goes on; where its branch was given away meanwhile, pushing will say it."""
        if claim is not None:
            with self._guard:
                self._known().setdefault(claim, key)

    def drop(self, claim: Claim | None, key: Key) -> None:
        """The run is over: its branch is free."""
        if claim is not None:
            with self._guard:
                if self._known().get(claim) == key:
                    del self._known()[claim]

    def _known(self) -> dict[Claim, Key]:
        if self._owners is None:
            self._owners = {}
            for key, document in self._documents():
                claim = claim_of(document.source_url, document.branch_ref)
                if claim is not None and not document.details.get("finished"):
                    self._owners.setdefault(claim, key)
        return self._owners
