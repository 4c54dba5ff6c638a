"""The published corpora: where they are, under which licence, how they are divided."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import build
from .build import Recipe, Say
from .corpus import Document
from .errors import DataError
from .files import cache_root
from .manifest import Manifest
from .remote import Hub, RemoteFile

HELD_OUT_BYTES = 1 << 26
"""Most text (UTF-8 bytes) of val and of test: 64 MiB is far more than any evaluation scores."""

_TEXT_COLUMN = "text"


@dataclass(frozen=True)
class Published:
    """One published corpus."""

    name: str
    repository: str
    licence: str
    vocab_size: int
    max_seq_len: int
    eval_batch: int
    default_shards: int
    held_out_rows: int | None
    """Rows at the start that are test, and then as many val; None: the last shard is held out, rows taking turns."""


TINYSTORIES = Published(
    name="tinystories",
    repository="karpathy/tinystories-gpt4-clean",
    licence="CDLA-Sharing-1.0 (share changes of the data under the same terms)",
    vocab_size=4096,
    max_seq_len=256,
    eval_batch=64,
    default_shards=1,
    held_out_rows=10_000,
)
CLIMBMIX = Published(
    name="climbmix",
    repository="karpathy/climbmix-400b-shuffle",
    licence="CC BY-NC 4.0 (no commercial use)",
    vocab_size=8192,
    max_seq_len=2048,
    eval_batch=16,
    default_shards=8,
    held_out_rows=None,
)
DATASETS = {corpus.name: corpus for corpus in (TINYSTORIES, CLIMBMIX)}


class ParquetCorpus:
    """Documents in the `text` column of parquet shards, read a row group at a time."""

    def __init__(self, published: Published, train: Sequence[Path], held_out: Sequence[Path]) -> None:
        self._published, self._train, self._held_out = published, train, held_out

    def documents(self, split: str) -> Iterator[Document]:
        rows = self._published.held_out_rows
        if rows is None:
            if split == "train":
                yield from (document for _, document in read_parquet(self._train))
            else:
                turn = ("val", "test").index(split)
                yield from _capped(document for i, document in read_parquet(self._held_out) if i % 2 == turn)
            return
        first, last = {"test": (0, rows), "val": (rows, 2 * rows), "train": (2 * rows, None)}[split]
        for i, document in read_parquet(self._train):
            if last is not None and i >= last:
                return
            if i >= first:
                yield document


def _capped(documents: Iterator[Document]) -> Iterator[Document]:
    taken = 0
    for document in documents:
        taken += len(document.text.encode())
        if taken > HELD_OUT_BYTES:
            return
        yield document


def read_parquet(paths: Sequence[Path]) -> Iterator[tuple[int, Document]]:
    """(row over all files, document), in order. Raises DataError for a file that is damaged or has no text column."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise DataError(
            "published corpora are parquet files, and pyarrow is not installed: "
            "pip install 'autoresearch-trainer[datasets]'"
        ) from None
    row = 0
    for path in paths:
        try:
            with pyarrow.parquet.ParquetFile(path) as file:
                if _TEXT_COLUMN not in file.schema_arrow.names:
                    raise DataError(f"{path} has no column {_TEXT_COLUMN!r}: it is not one of this corpus' files")
                for group in file.iter_batches(columns=[_TEXT_COLUMN], batch_size=1024):
                    for text in group.column(0).to_pylist():
                        if text:
                            yield row, Document(f"{path.name}#{row}", text)
                        row += 1
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(f"{path} is damaged ({error}): delete it and prepare again") from error


def choose_files(published: Published, files: Sequence[RemoteFile], shards: int | None) -> tuple[int, list[RemoteFile]]:
    """How many files are for training, and the files to fetch: those, and the held-out one where there is one."""
    available = len(files) - (1 if published.held_out_rows is None else 0)
    count = min(shards or published.default_shards, available)
    if count < 1:
        raise DataError(f"{published.repository} has {len(files)} files, too few to train on")
    chosen = list(files[:count])
    return count, chosen + ([files[-1]] if published.held_out_rows is None else [])


def prepare(
    published: Published,
    target: Path | None,
    say: Say,
    *,
    shards: int | None = None,
    vocab_size: int | None = None,
    max_seq_len: int | None = None,
    hub: Hub | None = None,
) -> tuple[Path, Manifest]:
    """Fetches a published corpus and prepares it; gives the folder and its manifest. Raises DataError."""
    say(f"{published.name}: {published.repository}; licence {published.licence}.")
    with hub or Hub(say) as source:
        files = source.files(published.repository)
        count, wanted = choose_files(published, files, shards)
        downloads = cache_root() / "downloads" / published.repository.replace("/", "--")
        # zstd parquet unpacks to about 2.5 times its size in text, of which the tokens take about half.
        expected = 2 * sum(file.size for file in wanted)
        paths = source.fetch(wanted, downloads, expected)
    described = "".join(f"{file.path}\0{file.size}\0{file.sha256}\n" for file in wanted)
    recipe = Recipe(
        published.name,
        published.licence,
        vocab_size or published.vocab_size,
        max_seq_len or published.max_seq_len,
        published.eval_batch,
        hashlib.sha256(described.encode()).hexdigest(),
    )
    folder = target or cache_root() / "data" / recipe.folder_name()
    corpus = ParquetCorpus(published, paths[:count], paths[count:])
    return folder, build.prepare(corpus, recipe, folder, say, expected)
