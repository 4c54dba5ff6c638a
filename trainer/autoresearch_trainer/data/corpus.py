"""What a data set is made from: named documents, already assigned to splits."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from .errors import DataError

HELD_OUT_SHARE = 0.05
"""Share of the text (by bytes) that each of val and test gets."""

_FEW_FILES = 40
_PIECES = 400


class Document(NamedTuple):
    name: str
    """Where it came from, for reports: a path or "file#row"."""
    text: str


class Corpus(Protocol):
    """Documents by split; every call of `documents` starts from the beginning and gives the same ones."""

    def documents(self, split: str) -> Iterator[Document]: ...


@dataclass(frozen=True)
class MemoryCorpus:
    """A corpus that is small enough to be held whole."""

    splits: Mapping[str, Sequence[Document]]

    def documents(self, split: str) -> Iterator[Document]:
        yield from self.splits[split]


def assign_splits(documents: Iterable[Document], share: float = HELD_OUT_SHARE) -> MemoryCorpus:
    """Splits by the SHA-256 of each document's name: in that order the first go to test, the next to val, until each
    holds `share` of the bytes, and the rest to train.

    So the split depends on names alone up to one document at each border, every split has its size whatever the sizes
    of the files, and no split is in alphabetical (that is, topical) order. Raises DataError for too few documents.
    """
    ordered = sorted(documents, key=lambda document: hashlib.sha256(document.name.encode()).digest())
    total = sum(len(document.text.encode()) for document in ordered)
    splits: dict[str, list[Document]] = {"test": [], "val": [], "train": []}
    filled, split = 0, "test"
    for document in ordered:
        splits[split].append(document)
        filled += len(document.text.encode())
        if split != "train" and filled >= total * share:
            split, filled = ("val" if split == "test" else "train"), 0
    if empty := [name for name, found in splits.items() if not found]:
        raise DataError(
            f"{len(ordered)} documents cannot be divided into train, val and test ({empty[0]} got none): "
            "give more files"
        )
    return MemoryCorpus(splits)


def read_text_files(paths: Sequence[Path]) -> list[Document]:
    """Each file as a document; a few large files are cut at line ends into a few hundred, so that they can be split.

    Folders stand for all the files below them. Raises DataError for a file that is missing or not UTF-8.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            files += sorted(found for found in path.rglob("*") if found.is_file() and not found.is_symlink())
        elif path.is_file():
            files.append(path)
        else:
            raise DataError(f"--text: there is no file or folder {path}")
    documents = []
    for path in files:
        try:
            text = path.read_bytes().decode()
        except UnicodeDecodeError as error:
            raise DataError(
                f"--text: {path} is not UTF-8 text (byte {error.start}): convert it, or leave it out"
            ) from None
        except OSError as error:
            raise DataError(f"--text: {path} cannot be read: {error.strerror}") from error
        if text:
            documents.append(Document(str(path), text))
    if len(documents) < _FEW_FILES:
        size = max(1, sum(len(document.text) for document in documents) // _PIECES)
        documents = [piece for document in documents for piece in _pieces(document, size)]
    return documents


def _pieces(document: Document, size: int) -> Iterator[Document]:
    """The document in pieces of at least `size` characters that end where a line ends."""
    start, number = 0, 0
    text = document.text
    while start < len(text):
        end = text.find("\n", min(len(text), start + size))
        end = len(text) if end < 0 else end + 1
        yield Document(f"{document.name}#{number}", text[start:end])
        start, number = end, number + 1
