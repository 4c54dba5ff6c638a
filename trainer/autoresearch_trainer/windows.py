"""The order in which training tokens are served: a function of the seed and the sequence length, never of the batch.

The training split is cut into windows of T+1 tokens that start every T tokens, shard by shard. An epoch visits every
window once, in an order given by a keyed permutation; batch k of size B holds windows k*B .. k*B+B-1 of that order. So
a candidate that changes B, or accumulates differently, still reads the same windows in the same order.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.uint16]

_ROUNDS = 4


class Permutation:
    """A keyed permutation of range(size) that needs no table.

    A table for the windows of a 50-billion-token corpus would be 400 MB and take seconds; a four-round Feistel network
    with cycle walking gives any stretch of the order in microseconds. It mixes well enough for shuffling; it is no
    cipher.
    """

    def __init__(self, size: int, key: Sequence[int]) -> None:
        if size < 1:
            raise ValueError(f"a permutation of {size} items was asked for: 1 or more are needed")
        self.size = size
        half = max(1, ((size - 1).bit_length() + 1) // 2)
        self._half = np.uint64(half)
        self._mask = np.uint64((1 << half) - 1)
        state = np.random.SeedSequence([int(part) for part in key]).generate_state(_ROUNDS, np.uint64)
        self._keys: list[np.uint64] = [np.uint64(word) for word in state]

    def _shuffle(self, value: NDArray[np.uint64]) -> NDArray[np.uint64]:
        left, right = value >> self._half, value & self._mask
        for key in self._keys:
            mixed = (right ^ key) * np.uint64(0x9E3779B97F4A7C15)
            mixed ^= mixed >> np.uint64(29)
            mixed *= np.uint64(0xBF58476D1CE4E5B9)
            mixed ^= mixed >> np.uint64(32)
            left, right = right, left ^ (mixed & self._mask)
        return (left << self._half) | right

    def __call__(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where positions (any shape, each in range(size)) go; same shape, int64."""
        value = self._shuffle(positions.astype(np.uint64))
        outside = value >= np.uint64(self.size)
        while outside.any():  # cycle walking: the network permutes a power of four, of which range(size) is a part
            value[outside] = self._shuffle(value[outside])
            outside = value >= np.uint64(self.size)
        return value.astype(np.int64)


class WindowOrder:
    """Endless shuffled windows of seq_len+1 tokens over `shards` (one-dimensional uint16 arrays, mapped or not)."""

    def __init__(self, shards: Sequence[Any], seq_len: int, seed: int) -> None:
        self._shards = shards
        self._seq_len = seq_len
        self._seed = seed
        counts = [max(0, (len(shard) - 1) // seq_len) for shard in shards]
        self._ends: NDArray[np.int64] = np.cumsum(np.asarray(counts, dtype=np.int64))
        self.windows = int(self._ends[-1]) if counts else 0
        if self.windows < 1:
            raise ValueError(
                f"the training split has no stretch of {seq_len + 1} tokens inside one shard: use a shorter sequence"
            )
        self._next = 0
        self._epoch = -1
        self._permutation: Permutation | None = None

    @property
    def epoch(self) -> int:
        """Full passes over the windows that have been completed."""
        return self._next // self.windows

    def skip(self, count: int) -> None:
        """Passes over the next count windows: they are another rank's."""
        self._next += count

    def fill(self, out: NDArray[np.uint16]) -> None:
        """Writes the next len(out) windows into out, (B, seq_len+1) uint16."""
        done = 0
        while done < len(out):
            epoch, offset = divmod(self._next, self.windows)
            if epoch != self._epoch or self._permutation is None:
                self._permutation = Permutation(self.windows, (self._seed, self._seq_len, epoch))
                self._epoch = epoch
            count = min(len(out) - done, self.windows - offset)
            places = self._permutation(np.arange(offset, offset + count, dtype=np.int64))
            shards = np.searchsorted(self._ends, places, side="right")
            for row, (place, shard) in enumerate(zip(places.tolist(), shards.tolist(), strict=True), start=done):
                first = place - (int(self._ends[shard - 1]) if shard else 0)
                start = first * self._seq_len
                out[row] = self._shards[shard][start : start + self._seq_len + 1]
            done += count
            self._next += count
