"""Byte-level BPE: trained by rustbpe, used through tiktoken, stored as JSON (a pickle would run code when opened)."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import tiktoken
from numpy.typing import NDArray

from .errors import DataError
from .files import write_synced

VERSION = 1
BOS = "<|bos|>"
PATTERN = r" ?[^\s\p{L}\p{N}]*\p{L}+|\p{N}{1,2}|[^\s\p{L}\p{N}]+(?:\n[ \t]*)*|(?:\n[ \t]*)+|[ \t]+|\s"
"""How text is cut before merging: a word with the space and the signs before it; at most two digits, for a small
vocabulary has no room for three; signs with the line ends and the indentation after them, so that `):` and the start
of the next line are one token in most code. With 1,024 tokens this gives 5 % more bytes a token on code than cutting
words and signs apart."""

_BYTE_TOKENS = 256


class Tokenizer:
    """Text to token ids and back. BOS is the last id."""

    def __init__(self, ranks: dict[bytes, int], pattern: str = PATTERN) -> None:
        missing = next((byte for byte in range(_BYTE_TOKENS) if bytes([byte]) not in ranks), None)
        if missing is not None:
            raise DataError(f"the tokenizer has no token for byte {missing}, so it could not encode every text")
        if sorted(ranks.values()) != list(range(len(ranks))):
            raise DataError("the tokenizer's ids are not 0, 1, 2 … without gaps")
        self.ranks, self.pattern = ranks, pattern
        self.vocab_size = len(ranks) + 1
        self.bos = len(ranks)
        self.encoding = tiktoken.Encoding(
            "autoresearch", pat_str=pattern, mergeable_ranks=ranks, special_tokens={BOS: self.bos}
        )

    def encode(self, text: str) -> list[int]:
        """Ids of text without BOS. The characters of a special token are ordinary text here."""
        return self.encoding.encode_ordinary(text)

    def encode_documents(self, texts: list[str], threads: int = 4) -> list[list[int]]:
        """Ids of each text, each starting with BOS."""
        return [[self.bos, *ids] for ids in self.encoding.encode_ordinary_batch(texts, num_threads=threads)]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids; bytes that are no UTF-8 become U+FFFD."""
        return self.encoding.decode(list(ids))

    def token_bytes(self) -> NDArray[np.int16]:
        """Raw byte length of every token, int16 (vocab_size,); 0 for BOS, which is not scored.

        Taken from the token's bytes, not its text: a token that is part of a character decodes to U+FFFD, 3 bytes.
        """
        lengths = [len(self.encoding.decode_single_token_bytes(token)) for token in range(self.bos)]
        return np.asarray([*lengths, 0], dtype=np.int16)

    def save(self, path: Path) -> None:
        """Writes the tokenizer as JSON: the tokens in order of their ids, in base64."""
        tokens = sorted(self.ranks, key=self.ranks.__getitem__)
        document = {
            "version": VERSION,
            "pattern": self.pattern,
            "specialTokens": {BOS: self.bos},
            "tokens": [base64.b64encode(token).decode() for token in tokens],
        }
        write_synced(path, (json.dumps(document) + "\n").encode())


def load(path: Path | str) -> Tokenizer:
    """The tokenizer in a JSON file. Raises DataError for anything else."""
    path = Path(path)
    try:
        document: Any = json.loads(path.read_bytes())
        if document["version"] != VERSION:
            raise DataError(f"{path}: version is {document['version']!r}, and this program reads {VERSION}")
        tokens = [base64.b64decode(token, validate=True) for token in document["tokens"]]
        pattern, special = document["pattern"], document["specialTokens"]
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; prepare the data set again") from error
    except (ValueError, KeyError, TypeError, binascii.Error) as error:
        raise DataError(f"{path} is not a tokenizer ({error!r}): prepare the data set again") from error
    ranks = {token: rank for rank, token in enumerate(tokens)}
    if len(ranks) != len(tokens) or special != {BOS: len(tokens)} or not isinstance(pattern, str):
        raise DataError(f"{path}: tokens repeat, or the special tokens are not {BOS} alone: prepare the data set again")
    try:
        return Tokenizer(ranks, pattern)
    except ValueError as error:  # tiktoken's word for a pattern that is no regular expression
        raise DataError(f"{path}: the pattern cannot be used ({error}): prepare the data set again") from error


def train(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """A tokenizer with vocab_size ids, BOS included. The same texts in the same order give the same tokenizer.

    Raises DataError when the text is too short for so many tokens.
    """
    import rustbpe

    if not _BYTE_TOKENS + 1 <= vocab_size <= 1 << 16:
        raise DataError(f"a vocabulary of {vocab_size} was asked for: 257 to 65536 are possible (shards hold uint16)")
    trainer = rustbpe.Tokenizer()
    trainer.train_from_iterator(iter(texts), vocab_size - 1, pattern=PATTERN)
    ranks = {bytes(token): rank for token, rank in trainer.get_mergeable_ranks()}
    if len(ranks) != vocab_size - 1:
        raise DataError(
            f"the text gives only {len(ranks) + 1} tokens, and --vocab-size asks for {vocab_size}: "
            "use more text or a smaller vocabulary"
        )
    return Tokenizer(ranks)


def safe_name(name: str) -> str:
    """name with everything but letters, digits, dot, dash and underscore replaced, for use in a folder's name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "data"
