"""From documents to a prepared data set: tokenizer, uint16 shards, byte table, near-duplicate report, manifest."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from . import tokenizer as tokenizers
from .corpus import Corpus, Document
from .errors import DataError
from .files import file_sha256, require_free_space, whole_folder, write_synced
from .manifest import SPLITS, Manifest, Split, load
from .shards import SHARD_TOKENS, ShardWriter
from .tokenizer import Tokenizer

RECIPE_VERSION = 1
"""Part of every data set's folder name: raise it when the same documents would give other tokens."""

TOKENIZER_BYTES = 1 << 28
"""Most text the tokenizer is trained on: more changes almost no merge, and takes memory."""

_BATCH_DOCUMENTS = 256

Say = Callable[[str], None]


@dataclass(frozen=True)
class Recipe:
    """How a corpus becomes a data set."""

    name: str
    licence: str
    vocab_size: int
    max_seq_len: int
    eval_batch: int
    source: str
    """Hash that stands for the documents before they are read (hashes of files), so that a folder name can be known."""
    shard_tokens: int = SHARD_TOKENS

    def folder_name(self) -> str:
        """`name` and 12 digits of the hash over everything that decides the result."""
        parts = [RECIPE_VERSION, tokenizers.PATTERN, self.source, self.vocab_size, self.max_seq_len, self.eval_batch]
        return f"{tokenizers.safe_name(self.name)}-{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]}"


def prepare(corpus: Corpus, recipe: Recipe, target: Path, say: Say, expected_bytes: int = 0) -> Manifest:
    """Builds the data set at target, or finds it there whole; never leaves half of one.

    Takes about 2.5 bytes of disk for each 3 bytes of text. Raises DataError with a sentence for everything that can be
    wrong with the documents, the disk or an older folder of that name.
    """
    if target.exists() and any(target.iterdir()):
        manifest = load(target)
        manifest.verify(target)
        _same_recipe(manifest, recipe, target)
        say(f"{target} is there already and its hashes are right.")
        return manifest
    require_free_space(target.parent, expected_bytes + (64 << 20), f"The data set {recipe.name}")
    with whole_folder(target) as folder:
        try:
            _fill(corpus, recipe, folder, say)
        except OSError as error:
            raise DataError(f"{target} cannot be written: {error.strerror}; nothing was left behind") from error
    return load(target)


def _same_recipe(manifest: Manifest, recipe: Recipe, target: Path) -> None:
    wanted = {"vocabSize": recipe.vocab_size, "maxSeqLen": recipe.max_seq_len, "name": recipe.name}
    found = {"vocabSize": manifest.vocab_size, "maxSeqLen": manifest.max_seq_len, "name": manifest.name}
    for field, value in wanted.items():
        if found[field] != value:
            raise DataError(
                f"{target} holds another data set ({field} is {found[field]}, {value} was asked for): "
                "choose another --out"
            )


def _fill(corpus: Corpus, recipe: Recipe, folder: Path, say: Say) -> None:
    # Imported here: its library loads scipy, 1.5 s that nobody need wait for when the data set is there already.
    from .duplicates import DuplicateFinder

    tokenizer = tokenizers.train(_training_text(corpus), recipe.vocab_size)
    say(f"Tokenizer: {tokenizer.vocab_size} tokens.")
    finder = DuplicateFinder()
    held_out = {split: list(_encoded(corpus, split, tokenizer)) for split in ("val", "test")}
    for split, documents in held_out.items():
        for number, (document, ids) in enumerate(documents):
            finder.add_held_out(split, number, document.name, ids)

    digest = hashlib.sha256()
    writer = ShardWriter(folder, "train", tokenizer.vocab_size, recipe.shard_tokens)
    splits: dict[str, Split] = {}
    counts = _Counts()
    for document, ids in _encoded(corpus, "train", tokenizer):
        finder.check_train(document.name, ids)
        writer.add(ids)
        counts.add("train", document, ids, digest)
        if counts.documents % 100_000 == 0:
            say(f"Tokenised {counts.documents} documents, {counts.tokens / 1e6:.0f} M tokens.")
    splits["train"] = counts.split(writer)

    report = finder.report()
    for split in ("val", "test"):
        writer, counts = ShardWriter(folder, split, tokenizer.vocab_size, recipe.shard_tokens), _Counts()
        for number, (document, ids) in enumerate(held_out[split]):
            if (split, number) not in finder.removed():
                writer.add(ids)
                counts.add(split, document, ids, digest)
        splits[split] = counts.split(writer)
    for split in SPLITS:
        if splits[split].tokens <= recipe.max_seq_len:
            raise DataError(
                f"the {split} split has {splits[split].tokens} tokens, and one row of the judge needs "
                f"{recipe.max_seq_len + 1}: give more text or a smaller --max-seq-len"
            )
    say(report.sentence())
    write_synced(folder / "near_duplicates.json", (json.dumps(report.document(), indent=1) + "\n").encode())

    tokenizer.save(folder / "tokenizer.json")
    table = io.BytesIO()
    np.save(table, tokenizer.token_bytes(), allow_pickle=False)
    write_synced(folder / "token_bytes.npy", table.getvalue())
    Manifest(
        name=recipe.name,
        vocab_size=tokenizer.vocab_size,
        max_seq_len=recipe.max_seq_len,
        eval_batch=recipe.eval_batch,
        tokenizer="tokenizer.json",
        tokenizer_sha256=file_sha256(folder / "tokenizer.json"),
        token_bytes="token_bytes.npy",  # noqa: S106 - a file name, no password
        token_bytes_sha256=file_sha256(folder / "token_bytes.npy"),
        corpus_sha256=digest.hexdigest(),
        licence=recipe.licence,
        splits={split: splits[split] for split in SPLITS},
    ).write(folder)
    tokens = ", ".join(f"{split} {splits[split].tokens:,}" for split in SPLITS)
    bytes_per_token = splits["train"].bytes / splits["train"].tokens
    say(f"Tokens: {tokens}; {bytes_per_token:.2f} bytes a token.")


class _Counts:
    """Running sums over the documents of one split."""

    def __init__(self) -> None:
        self.documents = self.tokens = self.bytes = 0

    def add(self, split: str, document: Document, ids: NDArray[np.uint16], digest: hashlib._Hash) -> None:
        data = document.text.encode()
        digest.update(f"{split}\0{document.name}\0{hashlib.sha256(data).hexdigest()}\n".encode())
        self.documents += 1
        self.tokens += len(ids)
        self.bytes += len(data)

    def split(self, writer: ShardWriter) -> Split:
        return Split(writer.close(), self.tokens, self.bytes)


def _training_text(corpus: Corpus) -> Iterator[str]:
    """Text of train alone: a tokenizer that has seen val would fit it a little."""
    taken = 0
    for document in corpus.documents("train"):
        yield document.text
        taken += len(document.text)
        if taken >= TOKENIZER_BYTES:
            return


def _encoded(corpus: Corpus, split: str, tokenizer: Tokenizer) -> Iterator[tuple[Document, NDArray[np.uint16]]]:
    documents = corpus.documents(split)
    while batch := list(islice(documents, _BATCH_DOCUMENTS)):
        texts = [document.text for document in batch]
        for document, ids in zip(batch, tokenizer.encode_documents(texts), strict=True):
            yield document, np.asarray(ids, dtype=np.uint16)
