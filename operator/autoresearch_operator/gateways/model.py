"""What a repository is asked for and answers: files, commits, moves of refs, and how large inputs may be."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from autoresearch_operator.gateways.errors import SourceRefused, SourceTooLarge

PACKED_LIMIT = 700 * 1024
"""Bytes that a candidate's inputs may have when packed; an object of a cluster's API has room for 1 MiB."""
RAW_LIMIT = 16 * 1024 * 1024
"""Bytes of inputs that are looked at; more is refused without packing them."""
TEMPLATE_TIME = 1_735_689_600
"""Date of a template's first commit, 2025-01-01: a template has no date, and runs with one seed share commit names."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of a tree."""

    mode: str
    sha: str


@dataclass(frozen=True, slots=True)
class Change:
    """A ref that is to move from `old` to `new`; None: it does not exist yet."""

    ref: str
    old: str | None
    new: str


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit as it stands in the repository."""

    sha: str
    tree: str
    parents: tuple[str, ...]
    when: int
    """Seconds since the epoch, of the committer."""
    message: str

    @property
    def subject(self) -> str:
        return self.message.split("\n", 1)[0]

    @property
    def trailers(self) -> dict[str, str]:
        """The `Key: value` lines of the last paragraph."""
        last = self.message.rstrip("\n").rsplit("\n\n", 1)[-1]
        return {row[0]: row[2] for row in (line.partition(": ") for line in last.splitlines()) if row[1]}


def check_packed(files: Mapping[str, bytes]) -> int:
    """Bytes of a candidate's inputs when packed.

    Raises:
        SourceTooLarge: over `PACKED_LIMIT`.
    """
    size = sum(len(zlib.compress(content, 6)) + len(path) + 64 for path, content in files.items())
    if size > PACKED_LIMIT:
        largest = max(files, key=lambda path: len(files[path]))
        raise SourceTooLarge(
            f"the declared inputs are {size >> 10} KiB packed, the limit is {PACKED_LIMIT >> 10} KiB; "
            f"the largest file is {largest}: declare fewer files, or put data into the data set"
        )
    return size


def check_regular(path: str, entry: Entry) -> None:
    """Raises SourceRefused: the entry is a symlink or a submodule."""
    if entry.mode == "120000":
        raise SourceRefused(f"{path} is a symlink: declared inputs must be regular files")
    if entry.mode == "160000":
        raise SourceRefused(f"{path} is a submodule: declared inputs must be regular files of this repository")
