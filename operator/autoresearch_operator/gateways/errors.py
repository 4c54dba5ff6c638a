"""What a gateway raises. Facts about a remote server are results (`Outcome`), never exceptions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class GitError(Exception):
    """git could not do what it must be able to do in a healthy repository; the message is a sentence for a person."""


class RepositoryDamaged(GitError):
    """An object or a ref that must be there is missing or cannot be read."""


class ObjectMissing(RepositoryDamaged):
    """Nothing in the repository has the name asked for."""


class RepositoryLocked(GitError):
    """Another process holds a lock file; the message names it."""


class SourceNotFound(GitError):
    """The URL, the ref or a declared file does not exist."""


class SourceTooLarge(GitError):
    """The declared inputs of a candidate are over the limit."""


class SourceRefused(GitError):
    """A URL, ref or path that is never used, such as a symlink among the inputs or a password in a URL."""


class StorageFull(OSError):
    """The disk is full. Whatever was there before is intact."""


class Outcome(StrEnum):
    """What became of a change of refs."""

    PUSHED = "Pushed"
    """All refs are where they were asked to be; also when an earlier, unanswered push had already moved them."""
    CONFLICT = "Conflict"
    """A ref was not where it was expected; nothing moved."""
    DIVERGED = "Diverged"
    """A person changed the branch in a way that asks for a measurement or a decision; nothing moved."""
    BRANCH_IN_USE = "BranchInUse"
    """Another run's ledger says that it owns the branch."""
    UNAVAILABLE = "Unavailable"
    """No answer: the push may or may not have been applied. Repeat it; the same commits make it a success."""
    REJECTED = "Rejected"
    """The server said no: a protected branch or a hook. Nothing moved."""
    CREDENTIALS = "CredentialsRejected"
    """The server did not accept who we are."""
    NOT_FOUND = "NotFound"
    """The server has no such repository."""
    LOCKED = "Locked"
    """A lock file of another process stayed for longer than we wait; nothing moved."""


class RemoteError(GitError):
    """A server did not give what a clone needs; `outcome` is the fact, the message the sentence."""

    def __init__(self, message: str, outcome: Outcome) -> None:
        super().__init__(message)
        self.outcome = outcome


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of talking to a repository, with a sentence when it is not PUSHED."""

    outcome: Outcome
    message: str = ""
    refs: Mapping[str, str | None] = field(default_factory=dict)
    """Where the refs asked about are now, as far as it is known; None: absent."""

    @property
    def ok(self) -> bool:
        return self.outcome is Outcome.PUSHED
