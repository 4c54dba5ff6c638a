"""Batches in shared memory: the gate's end of what `wire` describes as the ring."""

import fcntl
import mmap
import os

import numpy as np
from numpy.typing import NDArray

from . import wire
from .windows import WindowOrder

_F_ADD_SEALS = 1033
_F_SEAL_SEAL, _F_SEAL_SHRINK, _F_SEAL_GROW = 1, 2, 4


class Ring:
    """The ring of one batch shape and the order that fills it."""

    def __init__(self, batch: int, seq_len: int, order: WindowOrder, rank: int = 0, ranks: int = 1) -> None:
        """With several ranks batch k of the order goes to rank k % ranks; each rank has a ring and an order."""
        self.tokens = batch * seq_len
        self._order = order
        self._skip_before, self._skip_after = rank * batch, (ranks - 1 - rank) * batch
        size = wire.ring_bytes(batch, seq_len)
        self.descriptor = os.memfd_create("autoresearch-batches", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.descriptor, size)
        # Without the seals a candidate could cut the memory from under the gate, which would die of SIGBUS.
        fcntl.fcntl(self.descriptor, _F_ADD_SEALS, _F_SEAL_SHRINK | _F_SEAL_GROW | _F_SEAL_SEAL)
        self._memory = mmap.mmap(self.descriptor, size)
        slot_bytes = wire.slot_bytes(batch, seq_len)
        self._slots: list[NDArray[np.uint16]] = [
            np.frombuffer(
                self._memory,
                dtype="<u2",
                count=batch * (seq_len + 1),
                offset=wire.RING_HEADER_BYTES + slot * slot_bytes,
            ).reshape(batch, seq_len + 1)
            for slot in (0, 1)
        ]
        self._next_slot = 0
        self._ready = False

    def publish(self, progress: float, steps: int) -> None:
        """Makes the next batch the current one."""
        if not self._ready:
            self._fill()
        wire.RING_HEADER.pack_into(self._memory, 0, progress, steps, self._next_slot)
        self._next_slot ^= 1
        self._ready = False

    def prepare(self) -> None:
        """Fills the other slot while the candidate computes on the current one."""
        if not self._ready:
            self._fill()
            self._ready = True

    def _fill(self) -> None:
        self._order.skip(self._skip_before)
        self._order.fill(self._slots[self._next_slot])
        self._order.skip(self._skip_after)
