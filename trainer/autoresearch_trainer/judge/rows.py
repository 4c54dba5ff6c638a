"""Which rows of a split are scored: the same ones for every candidate, whatever its seed."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..data import manifest as manifests
from ..data.errors import DataError
from ..data.shards import TokenSplit, token_bytes

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class ScoredRows:
    """The scored part of a split, as (batches, B, T+1) int64: inputs are columns 0..T-1, targets columns 1..T."""

    windows: Rows
    token_bytes: NDArray[np.int16]
    """(V,) bytes of each token; 0 for special tokens, which are not scored."""
    bos: int
    """The token that starts each document."""
    documents: Rows
    """(n, T) the first T tokens of documents of this split, for decoys."""
    foreign: Rows
    """(m, T) stretches of the split for decoys, drawn over all of it."""

    @property
    def batches(self) -> int:
        return int(self.windows.shape[0])


MAX_DECOYS = 256


def read_rows(data_dir: Path, split: str, eval_tokens: int, decoys: np.random.Generator) -> ScoredRows:
    """The rows that score a split, in whole batches of the manifest's (evalBatch, maxSeqLen).

    Windows of T+1 tokens that do not overlap, spread evenly over the split. eval_tokens is rounded up to whole batches;
    a split with fewer tokens is scored as far as whole batches go, so no batch is ever padded or cut and every row
    counts in full. Neighbours in a batch lie far apart in the text. `decoys` draws the replacements of the audit, which
    have no part in the score. Raises DataError when the split holds less than one batch.
    """
    manifest = manifests.load(data_dir)
    tokens = TokenSplit(data_dir, split, manifest=manifest)
    batch, length = manifest.eval_batch, manifest.max_seq_len
    available = tokens.tokens // (length + 1)
    batches = min(-(-eval_tokens // (batch * length)), available // batch)
    if batches < 1:
        raise DataError(
            f"The {split} split of {data_dir} has {tokens.tokens} tokens, and one batch takes {batch * (length + 1)}: "
            "prepare more data, or a smaller evalBatch."
        )
    rows = batches * batch
    starts = np.arange(rows, dtype=np.int64) * available // rows * (length + 1)
    # row r goes to batch r % batches, so that mates in a batch are `batches` rows of text apart
    windows = np.stack([tokens.window(int(start), length + 1) for start in starts]).astype(np.int64)
    bos = int(tokens.shards[0][0])
    beginnings = tokens.document_starts(bos)
    beginnings = beginnings[beginnings + length <= tokens.tokens]
    return ScoredRows(
        windows=windows.reshape(batch, batches, length + 1).swapaxes(0, 1).copy(),
        token_bytes=token_bytes(data_dir, manifest),
        bos=bos,
        documents=_stretches(tokens, decoys.permutation(beginnings)[:MAX_DECOYS], length),
        foreign=_stretches(tokens, decoys.integers(0, tokens.tokens - length + 1, MAX_DECOYS), length),
    )


def _stretches(tokens: TokenSplit, starts: Rows, length: int) -> Rows:
    pieces = [tokens.window(int(start), length) for start in starts]
    return np.stack(pieces).astype(np.int64) if pieces else np.empty((0, length), np.int64)
