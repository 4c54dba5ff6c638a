"""Near-duplicates between splits: text that is in train as well makes val and test easier than they look.

Documents are compared as sets of 8-token shingles. A held-out document is a near-duplicate when its Jaccard similarity
with a document of an earlier split (train, then val) is at least THRESHOLD, estimated by MinHash (128 permutations:
standard error 0.04 at 0.8). Hashing every training document 128 times would take hours for a real corpus, so a document
is only sketched when enough of its shingles occur in the held-out text at all, which numpy decides for millions a
second.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from datasketch import MinHash, MinHashLSH
from numpy.typing import NDArray

from .errors import DataError

THRESHOLD = 0.8
SHINGLE_TOKENS = 8
PERMUTATIONS = 128
MAX_REMOVED = 0.2
"""More than this share of a held-out split being copies means that the corpus is not what it seems: refused."""

Shingles = NDArray[np.uint64]


@dataclass(frozen=True)
class NearDuplicate:
    split: str
    document: str
    of: str
    similarity: float
    """Estimated Jaccard similarity, 0..1."""


@dataclass
class Report:
    """What was compared, and what was taken out of val and test because of it."""

    threshold: float = THRESHOLD
    compared: dict[str, int] = field(default_factory=dict)
    """Documents per split."""
    removed: list[NearDuplicate] = field(default_factory=list)

    def document(self) -> dict[str, Any]:
        return {"version": 1, **asdict(self)}

    def sentence(self) -> str:
        held_out = self.compared.get("val", 0) + self.compared.get("test", 0)
        found = f"{len(self.removed)} of {held_out} held-out documents were near-duplicates"
        return f"{found} (Jaccard >= {self.threshold}){' and were removed' if self.removed else ''}."


def shingles(ids: NDArray[np.uint16]) -> Shingles:
    """The distinct hashes of all runs of 8 tokens, uint64, ascending; a shorter document is one shingle."""
    values = ids.astype(np.uint64)
    if len(values) < SHINGLE_TOKENS:
        values = np.pad(values, (0, SHINGLE_TOKENS - len(values)))
    count = len(values) - SHINGLE_TOKENS + 1
    hashes = np.zeros(count, np.uint64)
    for offset in range(SHINGLE_TOKENS):
        hashes = hashes * np.uint64(0x100000001B3) + values[offset : offset + count] + np.uint64(1)
    hashes ^= hashes >> np.uint64(31)
    hashes *= np.uint64(0x9E3779B97F4A7C15)
    return np.unique(hashes >> np.uint64(32))


def sketch(found: Shingles) -> MinHash:
    """The MinHash of a document's shingles, which are 32-bit hashes already."""
    result = MinHash(num_perm=PERMUTATIONS, hashfunc=int)
    result.update_batch(found.tolist())
    return result


class DuplicateFinder:
    """Give it the held-out documents, then those of train; it says which held-out ones to leave out."""

    def __init__(self) -> None:
        self._documents: dict[tuple[str, int], tuple[str, MinHash]] = {}
        self._index = MinHashLSH(threshold=THRESHOLD, num_perm=PERMUTATIONS, weights=(0.2, 0.8))
        self._known: list[Shingles] = []
        self._sorted: Shingles | None = None
        self._matches: dict[tuple[str, int], NearDuplicate] = {}
        self._compared: dict[str, int] = {}

    def add_held_out(self, split: str, number: int, name: str, ids: NDArray[np.uint16]) -> None:
        """Registers document `number` of val, and then of test; each is compared with those given before."""
        found = shingles(ids)
        minhash = sketch(found)
        self._compare(name, minhash, by=split)
        self._documents[(split, number)] = (name, minhash)
        self._index.insert((split, number), minhash)
        self._known.append(found)
        self._sorted = None
        self._compared[split] = self._compared.get(split, 0) + 1

    def check_train(self, name: str, ids: NDArray[np.uint16]) -> None:
        """Compares one training document with all that is held out."""
        self._compared["train"] = self._compared.get("train", 0) + 1
        if self._sorted is None:
            self._sorted = np.unique(np.concatenate([np.empty(0, np.uint64), *self._known]))
        if not len(self._sorted):
            return
        found = shingles(ids)
        places = np.minimum(np.searchsorted(self._sorted, found), len(self._sorted) - 1)
        # Jaccard >= t needs |both| >= t * |this|: half of that is a bound no estimate can cross by chance.
        if np.count_nonzero(self._sorted[places] == found) >= THRESHOLD / 2 * len(found):
            self._compare(name, sketch(found), by="train")

    def _compare(self, name: str, minhash: MinHash, by: str) -> None:
        for key in self._index.query(minhash):
            split, number = key
            other, held_out = self._documents[key]
            similarity = float(minhash.jaccard(held_out))
            if similarity < THRESHOLD or key in self._matches:
                continue
            if by == split:
                continue  # a repetition inside one split biases nothing
            if by == "test":
                # The newcomer is the test document; val keeps its own, test loses the copy.
                self._matches[("test", self._compared.get("test", 0))] = NearDuplicate("test", name, other, similarity)
                continue
            self._matches[(split, number)] = NearDuplicate(split, other, name, similarity)

    def report(self) -> Report:
        """The removals. Raises DataError when more than a fifth of a held-out split would go."""
        removed = [self._matches[key] for key in sorted(self._matches)]
        for split in ("val", "test"):
            count, total = sum(match.split == split for match in removed), self._compared.get(split, 0)
            if count > MAX_REMOVED * total:
                example = next(match for match in removed if match.split == split)
                raise DataError(
                    f"{count} of the {total} documents of {split} are near-duplicates of other splits (for example "
                    f"{example.document} of {example.of}, similarity {example.similarity:.2f}): remove the copies first"
                )
        return Report(compared=dict(self._compared), removed=removed)

    def removed(self) -> set[tuple[str, int]]:
        """(split, number) of every document to leave out."""
        return set(self._matches)
