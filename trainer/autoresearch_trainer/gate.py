"""The gate: serves training batches, keeps the clock and takes in the finished model, over sockets nobody can trust.

A state machine that never blocks: whoever runs it calls a channel's `on_ready` when bytes have come and goes on with
its watch. There is one channel a rank; all share the clock, the account and the one model that may be handed over.

The clock starts at a rank's third batch request, or earlier with the batch that would take its free ones past 2^20
tokens. It stops when the last byte of the artifact has arrived.
"""

import json
import math
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from . import wire
from .account import Account
from .channel import ArtifactTaker, Channel, frame
from .clock import Clock, wall
from .data import manifest as manifests
from .data.shards import TokenSplit, token_bytes
from .fields import Terms
from .receiver import Receiver
from .windows import WindowOrder

_MAX_CURVE_POINTS = 512


class Gate:
    """One trial's gate over a prepared data set with a training split.

    Training shards are opened at the first layout: who asks for nothing has nothing read. Raises DataError when
    data_dir is no data set.
    """

    def __init__(
        self,
        connections: Sequence[socket.socket],
        terms: Terms,
        data_dir: Path,
        artifact_dir: Path,
        clock: Clock,
        *,
        shown_data_dir: Path | None = None,
    ) -> None:
        """connections: one a rank, in order. shown_data_dir: where a SelfReported script finds the data itself."""
        manifest = manifests.load(data_dir)
        self.terms = terms
        self.account = Account()
        self.max_seq_len = manifest.max_seq_len
        hello = {
            "budget": terms.budget.as_json(),
            "seed": terms.seed,
            "vocabSize": manifest.vocab_size,
            "maxSeqLen": manifest.max_seq_len,
            "evalBatch": manifest.eval_batch,
            "selfReported": terms.self_reported,
            "dataDir": None if shown_data_dir is None else str(shown_data_dir),
            "ranks": len(connections),
        }
        lengths = token_bytes(data_dir, manifest)
        self.greeting = wire.OK + frame(json.dumps(hello).encode()) + frame(lengths.astype("<i2").tobytes())
        self._open_shards: Callable[[], list[Any]] = lambda: list(
            TokenSplit(data_dir, "train", manifest=manifest).shards
        )
        self._artifact_dir = artifact_dir
        self._artifact_begun = False
        self._clock = clock
        self._shards: list[Any] | None = None
        self._orders: dict[tuple[int, int], WindowOrder] = {}
        self.channels = [
            Channel(self, connection, rank, len(connections)) for rank, connection in enumerate(connections)
        ]

    def spent(self) -> float:
        """How much of the budget is used, in its unit; 0 before the clock starts."""
        account = self.account
        if account.started_wall is None:
            return 0.0
        if self.terms.budget.kind == "steps":
            return float(account.steps)
        if self.terms.budget.kind == "seconds":
            return wall() - account.started_wall
        return self._clock.quick() - account.started_cpu

    @property
    def ended(self) -> bool:
        """Whether a batch was refused because the budget is spent: there is no training after that."""
        return any(channel.ended for channel in self.channels)

    def progress(self) -> float:
        """Share of the budget that is used, 0..1."""
        return min(1.0, self.spent() / self.terms.budget.amount)

    def admit(self, channel: Channel, tokens: int) -> float | None:
        """See `channel.Owner`."""
        account = self.account
        if not channel.counting and (
            channel.served >= wire.FREE_BATCHES or channel.free_tokens + tokens > wire.MAX_BATCH_TOKENS
        ):
            channel.counting = True
            if account.started_wall is None:
                account.started_cpu = self._clock.scan()
                account.started_wall = wall()
        progress = 0.0
        if channel.counting:
            # Steps are counted rank by rank, so that all ranks get the same number whoever asks first.
            spent = channel.steps if self.terms.budget.kind == "steps" else self.spent()
            progress = spent / self.terms.budget.amount
            if channel.ended or progress >= 1.0:
                return None
            channel.steps += 1
            account.steps = max(account.steps, channel.steps)
            account.train_tokens += tokens
        else:
            channel.free_tokens += tokens
            account.free_tokens += tokens
        channel.served += 1
        return progress

    def order(self, channel: Channel, seq_len: int) -> WindowOrder:
        """One order for each sequence length, shared by all batch sizes of a rank."""
        key = (channel.rank, seq_len)
        if key not in self._orders:
            if self._shards is None:
                self._shards = self._open_shards()
            self._orders[key] = WindowOrder(self._shards, seq_len, self.terms.seed)
        return self._orders[key]

    def log(self, channel: Channel, step: int, loss: float) -> None:
        """Takes down the loss that the first rank states."""
        if channel.rank:
            return
        account = self.account
        account.last_step, account.last_loss = step, loss
        if math.isfinite(loss):
            account.curve.append((account.train_tokens + account.free_tokens, loss))
            if len(account.curve) > _MAX_CURVE_POINTS:
                del account.curve[::2]

    def open_artifact(self) -> ArtifactTaker | None:
        """See `channel.Owner`."""
        if self._artifact_begun:
            return None
        self._artifact_begun = True
        return Receiver(self._artifact_dir)

    def artifact_done(self, sha256: str) -> None:
        """See `channel.Owner`."""
        self.account.stopped_cpu = self._clock.scan()
        self.account.stopped_wall = wall()
        self.account.artifact_sha256 = sha256
