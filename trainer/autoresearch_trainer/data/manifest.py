"""`manifest.json`: what a prepared data set holds, and the hash that identifies it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import DataError
from .files import file_sha256, write_synced

VERSION = 1
FILE_NAME = "manifest.json"
SPLITS = ("train", "val", "test")
"""train is served by the gate; val decides; test is looked at once, at the end of a run."""

MAX_VOCAB = 1 << 16
"""Shards hold uint16, so a token id is at most 65,535."""

MAX_SCORED_LENGTH = 1 << 20


@dataclass(frozen=True)
class Shard:
    """One file of little-endian uint16 token ids without a header; each document starts with the BOS id."""

    file: str
    """Relative to the data set's folder."""
    tokens: int
    sha256: str


@dataclass(frozen=True)
class Split:
    shards: tuple[Shard, ...]
    tokens: int
    bytes: int
    """UTF-8 bytes of the text behind the tokens; special tokens count 0."""


@dataclass(frozen=True)
class Manifest:
    """A prepared data set as its manifest states it. Two sets with the same `identity` hold the same bytes."""

    name: str
    vocab_size: int
    max_seq_len: int
    """Sequence length T at which models are scored, in tokens."""
    eval_batch: int
    """Rows B at which models are traced and scored."""
    tokenizer: str
    tokenizer_sha256: str
    token_bytes: str
    """File with the byte length of each token: int16 (vocab_size,), 0 for special tokens."""
    token_bytes_sha256: str
    corpus_sha256: str
    """Hash over the names and contents of the documents that went in."""
    licence: str
    splits: dict[str, Split]
    identity: str = ""

    def document(self) -> dict[str, Any]:
        """The manifest as JSON, with its identity: SHA-256 over the rest in canonical form."""
        body: dict[str, Any] = {
            "version": VERSION,
            "name": self.name,
            "vocabSize": self.vocab_size,
            "maxSeqLen": self.max_seq_len,
            "evalBatch": self.eval_batch,
            "tokenizer": self.tokenizer,
            "tokenizerSHA256": self.tokenizer_sha256,
            "tokenBytes": self.token_bytes,
            "tokenBytesSHA256": self.token_bytes_sha256,
            "corpusSHA256": self.corpus_sha256,
            "licence": self.licence,
            "splits": {
                name: {"shards": [vars(shard) for shard in split.shards], "tokens": split.tokens, "bytes": split.bytes}
                for name, split in self.splits.items()
            },
        }
        return {**body, "identity": _identity(body)}

    def write(self, folder: Path) -> Manifest:
        """Writes manifest.json into folder, last of all its files, and gives the manifest with its identity."""
        document = self.document()
        write_synced(folder / FILE_NAME, (json.dumps(document, indent=1) + "\n").encode())
        return parse(document, str(folder / FILE_NAME))

    def verify(self, folder: Path, splits: Sequence[str] = SPLITS) -> None:
        """Hashes every file of the set, or of the part with those splits. Raises DataError naming the first one that
        differs.
        """
        wanted = [(self.tokenizer, self.tokenizer_sha256), (self.token_bytes, self.token_bytes_sha256)]
        wanted += [(shard.file, shard.sha256) for split in splits for shard in self.splits[split].shards]
        for name, sha256 in wanted:
            check_file(folder / name, sha256)


def check_file(path: Path, sha256: str) -> None:
    """Raises DataError unless path is a file with that SHA-256."""
    if not path.is_file():
        raise DataError(f"{path} is missing: prepare the data set again")
    found = file_sha256(path)
    if found != sha256:
        raise DataError(
            f"{path} has changed since it was prepared (SHA-256 {found[:12]}…, the manifest says {sha256[:12]}…): "
            "delete the data set's folder and prepare it again"
        )


def load(data_dir: Path | str) -> Manifest:
    """The manifest of a prepared data set. Raises DataError for a missing, wrong or edited one."""
    path = Path(data_dir) / FILE_NAME
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DataError(
            f"{data_dir} is not a prepared data set (no {FILE_NAME}): make one with `autoresearch prepare --demo`"
        ) from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error}): prepare the data set again") from error
    return parse(document, str(path))


def parse(document: object, where: str) -> Manifest:
    """The manifest in a decoded JSON document; `where` is named in errors."""
    reader = _Reader(document, where)
    version = reader.integer("version", 0, 1 << 31)
    if version != VERSION:
        raise DataError(f"{where}: version is {version}, and this program reads {VERSION}: prepare the data set again")
    splits = reader.mapping("splits")
    splits.only(SPLITS)
    manifest = Manifest(
        name=reader.text("name"),
        vocab_size=reader.integer("vocabSize", 257, MAX_VOCAB),
        max_seq_len=reader.integer("maxSeqLen", 2, MAX_SCORED_LENGTH),
        eval_batch=reader.integer("evalBatch", 1, MAX_SCORED_LENGTH),
        tokenizer=reader.file("tokenizer"),
        tokenizer_sha256=reader.sha256("tokenizerSHA256"),
        token_bytes=reader.file("tokenBytes"),
        token_bytes_sha256=reader.sha256("tokenBytesSHA256"),
        corpus_sha256=reader.sha256("corpusSHA256"),
        licence=reader.text("licence"),
        splits={name: _split(splits.mapping(name)) for name in SPLITS},
        identity=reader.sha256("identity"),
    )
    wanted = manifest.document()
    reader.only(wanted)
    if wanted["identity"] != manifest.identity:
        raise DataError(f"{where}: identity does not fit the rest, so the file was edited: prepare the data set again")
    return manifest


def _split(reader: _Reader) -> Split:
    reader.only(("shards", "tokens", "bytes"))
    shards = []
    for item in reader.items("shards"):
        item.only(("file", "tokens", "sha256"))
        shards.append(Shard(item.file("file"), item.integer("tokens", 1, 1 << 40), item.sha256("sha256")))
    split = Split(tuple(shards), reader.integer("tokens", 1, 1 << 50), reader.integer("bytes", 1, 1 << 50))
    if sum(shard.tokens for shard in shards) != split.tokens:
        raise DataError(f"{reader.where}: tokens is {split.tokens}, but the shards hold another number in sum")
    return split


def _identity(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


class _Reader:
    """Takes typed members out of a decoded JSON object; errors name the path to the member."""

    def __init__(self, value: object, where: str) -> None:
        if not isinstance(value, dict):
            raise DataError(f"{where}: an object was expected, not {type(value).__name__}")
        self._value: dict[str, object] = value
        self.where = where

    def only(self, allowed: Any) -> None:
        if unknown := sorted(set(self._value) - set(allowed)):
            raise DataError(f"{self.where}: unknown member {unknown[0]!r}")

    def _get(self, name: str) -> object:
        if name not in self._value:
            raise DataError(f"{self.where}: {name} is missing")
        return self._value[name]

    def text(self, name: str) -> str:
        value = self._get(name)
        if not isinstance(value, str) or not value:
            raise DataError(f"{self.where}: {name} must be a text that is not empty")
        return value

    def integer(self, name: str, low: int, high: int) -> int:
        value = self._get(name)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise DataError(f"{self.where}: {name} must be a whole number from {low} to {high}, not {value!r}")
        return value

    def sha256(self, name: str) -> str:
        value = self.text(name)
        if len(value) != 64 or set(value) - set("0123456789abcdef"):
            raise DataError(f"{self.where}: {name} must be 64 hexadecimal digits")
        return value

    def file(self, name: str) -> str:
        """A path below the data set's folder: the gate opens these files, so nothing may point elsewhere."""
        value = self.text(name)
        parts = Path(value).parts
        if Path(value).is_absolute() or ".." in parts or "\0" in value:
            raise DataError(f"{self.where}: {name} must be a path inside the data set's folder, not {value!r}")
        return value

    def mapping(self, name: str) -> _Reader:
        return _Reader(self._get(name), f"{self.where}: {name}")

    def items(self, name: str) -> list[_Reader]:
        value = self._get(name)
        if not isinstance(value, list) or not value:
            raise DataError(f"{self.where}: {name} must be a list that is not empty")
        return [_Reader(item, f"{self.where}: {name}[{i}]") for i, item in enumerate(value)]
