"""Putting an accepted edit on the branch: messages, and what to do when a person committed in the meantime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
