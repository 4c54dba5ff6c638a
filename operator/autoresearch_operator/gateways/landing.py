"""Putting an accepted edit on the branch: messages, and what to do when a person committed in the meantime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autoresearch_operator.gateways.errors import SourceRefused
from autoresearch_operator.gateways.git import Repository


def trailers(values: Mapping[str, str | int | float | None]) -> str:
    """The last paragraph of a commit message: `Autoresearch-<Key>: value` lines; None is left out."""
    rows = []
    for key, value in values.items():
        if value is not None:
            text = f"{value:.6f}" if isinstance(value, float) else str(value)
            rows.append(f"Autoresearch-{key}: {' '.join(text.split())}\n")
    return "".join(rows)


def commit_message(title: str, body: str, values: Mapping[str, str | int | float | None]) -> str:
    """A commit message: one line of title, the body, the trailers."""
    subject = " ".join(title.split()) or "an edit without a title"
    parts = [subject, *([body.strip()] if body.strip() else []), trailers(values).rstrip("\n")]
    return "\n\n".join(part for part in parts if part) + "\n"


def reparent(repository: Repository, landing: str, onto: str, inputs: Sequence[str]) -> str | None:
    """The landing commit `landing`, written again on top of the branch head `onto`; None when it must be measured.

    It needs no measurement when `onto` is a continuation of the landing's parent that leaves the run's `inputs`
    (globs; none: every file) as they were, and the edit touches only those. The result follows from the arguments
    alone: repeated, it has the same name.
    """
    commit = repository.commit(landing)
    parent = commit.parents[0]
    if onto == parent:
        return landing
    if not repository.is_ancestor(parent, onto) or not repository.same_files(parent, onto, inputs or ("*",)):
        return None
    changed = repository.changed_files(parent, landing)
    before, after = repository.entries(parent), repository.entries(onto)
    if changed is None or any(before.get(path) != after.get(path) for path in changed):
        return None
    modes = {path: repository.entries(landing)[path].mode for path in changed}
    if any(mode not in {"100644", "100755"} for mode in modes.values()):
        raise SourceRefused(f"the edit {landing[:12]} holds something that is no regular file")
    with repository.writer() as writer:
        return writer.commit(parents=(onto,), message=commit.message, when=commit.when, changed=changed, modes=modes)[0]


@dataclass(frozen=True, slots=True)
class Foreign:
    """Commits of somebody else that cannot be taken over without measuring."""

    base: str | None
    """The newest commit that they have in common with the run; None: nothing."""
    paths: tuple[str, ...]
    """The run's inputs that they change; empty: the histories have nothing in common, or an edit collides."""


def join(repository: Repository, ours: str, theirs: str, inputs: Sequence[str]) -> str | Foreign:
    """The branch head that holds both `ours` (recorded landings) and `theirs` (a person's commits on the branch).

    It is one of the two where that contains the other, else a merge commit: landings that were recorded keep their
    names, because records and statuses quote them. Foreign: `theirs` changes what trials read (`inputs`, globs; none:
    every file), so scores made before say nothing about it. The result follows from the arguments alone.
    """
    if repository.is_ancestor(theirs, ours):
        return ours
    base = repository.merge_base(ours, theirs)
    if base is None:
        return Foreign(None, ())
    changed_inputs = repository.differing(base, theirs, inputs or ("*",))
    if changed_inputs:
        return Foreign(base, changed_inputs)
    if base == ours:
        return theirs
    edits = repository.changed_files(base, ours)
    before, after, mine = repository.entries(base), repository.entries(theirs), repository.entries(ours)
    if edits is None or any(before.get(path) != after.get(path) and mine[path] != after.get(path) for path in edits):
        return Foreign(base, ())
    modes = {path: mine[path].mode for path in edits}
    if any(mode not in {"100644", "100755"} for mode in modes.values()):
        raise SourceRefused(f"{ours[:12]} holds something that is no regular file")
    when = max(repository.commit(ours).when, repository.commit(theirs).when)
    message = f"Merge {theirs[:12]}, which leaves the files that trials read as they were\n"
    with repository.writer() as writer:
        _, tree = writer.commit(parents=(theirs,), message=message, when=when, changed=edits, modes=modes)
        return writer.commit(parents=(ours, theirs), message=message, when=when, tree=tree)[0]
