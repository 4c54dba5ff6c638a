"""Token shards on disk: read as one long sequence, written one file at a time."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from . import manifest as manifests
from .errors import DataError
from .manifest import Manifest, Shard

TokenArray = NDArray[np.uint16]

SHARD_TOKENS = 1 << 26
"""Tokens in one shard (128 MiB): large enough that a corpus has few files, small enough to check one quickly."""


class TokenSplit:
    """One split of a prepared data set, memory-mapped: opening 50 billion tokens reads no data.

    `verify` hashes every shard first (about 1.5 GB/s). Raises DataError when a file is missing, has another length or,
    with `verify`, other contents than the manifest says.
    """

    def __init__(
        self, data_dir: Path | str, split: str, *, verify: bool = False, manifest: Manifest | None = None
    ) -> None:
        folder = Path(data_dir)
        self.manifest = manifest or manifests.load(folder)
        if split not in self.manifest.splits:
            raise DataError(f"{split!r} is not a split: use one of {', '.join(manifests.SPLITS)}")
        self.split = split
        self._record = self.manifest.splits[split]
        if not any((folder / shard.file).parent.is_dir() for shard in self._record.shards):
            raise DataError(
                f"{folder} is the part of a data set that does not hold its {split} split: give the other part"
            )
        self.shards: list[TokenArray] = [_open(folder / shard.file, shard, verify) for shard in self._record.shards]
        """Each shard: (tokens,) uint16, read-only."""
        self._ends = np.cumsum([len(shard) for shard in self.shards], dtype=np.int64)

    @property
    def tokens(self) -> int:
        """Tokens in all shards."""
        return self._record.tokens

    @property
    def bytes(self) -> int:
        """Bytes of text behind the tokens."""
        return self._record.bytes

    def window(self, start: int, length: int) -> TokenArray:
        """Tokens start .. start+length-1 of the split, (length,) uint16; may cross shards (then it is a copy)."""
        if start < 0 or length < 0 or start + length > self.tokens:
            raise DataError(
                f"tokens {start}..{start + length} were asked for, and the {self.split} split has {self.tokens}"
            )
        pieces: list[TokenArray] = []
        number = int(np.searchsorted(self._ends, start, side="right"))
        offset = start - (int(self._ends[number - 1]) if number else 0)
        while length > 0:
            piece = self.shards[number][offset : offset + length]
            pieces.append(piece)
            length -= len(piece)
            number, offset = number + 1, 0
        return pieces[0] if len(pieces) == 1 else np.concatenate([np.empty(0, np.uint16), *pieces])

    def document_starts(self, bos: int) -> NDArray[np.int64]:
        """Positions of the BOS token, ascending: where the documents begin."""
        starts = [0, *self._ends[:-1].tolist()]
        found = [np.flatnonzero(shard == bos) + start for shard, start in zip(self.shards, starts, strict=True)]
        return np.concatenate(found).astype(np.int64)


def token_bytes(data_dir: Path | str, manifest: Manifest) -> NDArray[np.int16]:
    """The byte length of each token, int16 (vocab_size,), 0 for special tokens; hash checked."""
    path = Path(data_dir) / manifest.token_bytes
    manifests.check_file(path, manifest.token_bytes_sha256)
    table: NDArray[np.int16] = np.load(path, allow_pickle=False)
    if table.shape != (manifest.vocab_size,) or table.dtype != np.int16 or int(table.min()) < 0:
        raise DataError(f"{path} is not a table of {manifest.vocab_size} byte lengths: prepare the data set again")
    return table


def _open(path: Path, shard: Shard, verify: bool) -> TokenArray:
    if verify:
        manifests.check_file(path, shard.sha256)
    try:
        size = path.stat().st_size
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; prepare the data set again") from error
    if size != 2 * shard.tokens:
        raise DataError(
            f"{path} is {size} bytes long, and the manifest says {shard.tokens} tokens ({2 * shard.tokens} bytes): "
            "it was cut or replaced; prepare the data set again"
        )
    return np.memmap(path, dtype="<u2", mode="r")


class ShardWriter:
    """Writes documents of one split as shards of about `shard_tokens`; a document never crosses two shards."""

    def __init__(self, folder: Path, split: str, vocab_size: int, shard_tokens: int = SHARD_TOKENS) -> None:
        if not 1 <= vocab_size <= manifests.MAX_VOCAB:
            raise DataError(f"a vocabulary of {vocab_size} does not fit uint16: use at most {manifests.MAX_VOCAB}")
        self._folder, self._split, self._vocab_size, self._limit = folder, split, vocab_size, shard_tokens
        self._shards: list[Shard] = []
        self._buffer: list[TokenArray] = []
        self._buffered = 0
        (folder / split).mkdir(parents=True, exist_ok=True)

    def add(self, ids: Sequence[int] | Iterable[int]) -> int:
        """Appends one document that already starts with BOS; gives its length in tokens."""
        values = np.fromiter(ids, dtype=np.int64)
        if len(values) and (int(values.min()) < 0 or int(values.max()) >= self._vocab_size):
            raise DataError(f"a token id outside 0..{self._vocab_size - 1} was produced: tokenizer and data differ")
        if self._buffered and self._buffered + len(values) > self._limit:
            self._flush()
        self._buffer.append(values.astype("<u2"))
        self._buffered += len(values)
        return len(values)

    def close(self) -> tuple[Shard, ...]:
        """Writes what is left; gives every shard written."""
        self._flush()
        return tuple(self._shards)

    def _flush(self) -> None:
        if not self._buffered:
            return
        data = np.concatenate(self._buffer).tobytes()
        name = f"{self._split}/{len(self._shards):05d}.bin"
        with (self._folder / name).open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        self._shards.append(Shard(name, len(data) // 2, hashlib.sha256(data).hexdigest()))
        self._buffer, self._buffered = [], 0
