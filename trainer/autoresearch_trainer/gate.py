"""The gate: serves training batches, keeps the clock and takes in the finished model, over one socket nobody can trust.

A state machine that never blocks: the supervisor calls `on_ready` when bytes have come and goes on with its watch.
Whatever a candidate sends, it gets an answer, an error sentence or the end of the connection; lengths are checked
before they are believed, and no more than a frame is ever buffered.

The clock starts at the third batch request, or earlier with the batch that would take the free ones past 2^20 tokens.
It stops when the last byte of the artifact has arrived.
"""

import contextlib
import fcntl
import json
import math
import mmap
import os
import select
import socket
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from . import wire
from .clock import TreeClock, wall
from .spec import TrialSpec
from .windows import WindowOrder

_RECEIVE_BYTES = 1 << 18
_MAX_UNREAD_ANSWER_BYTES = 1 << 20
_MAX_CURVE_POINTS = 512
_F_ADD_SEALS = 1033
_F_SEAL_SEAL, _F_SEAL_SHRINK, _F_SEAL_GROW = 1, 2, 4


class ArtifactTaker(Protocol):
    """Where the bytes of an artifact go."""

    def write(self, data: bytes) -> None:
        """Takes the next bytes; raises ValueError with a sentence when they cannot be part of an artifact."""

    def close(self) -> str:
        """Ends the artifact; its SHA-256. Raises ValueError when something is missing."""


@dataclass
class Account:
    """What the gate has seen of one trial."""

    served_steps: int = 0
    """Batches served, the free ones included."""
    steps: int = 0
    """Batches served after the clock started."""
    free_tokens: int = 0
    train_tokens: int = 0
    started_wall: float | None = None
    started_cpu: float = 0.0
    stopped_wall: float | None = None
    stopped_cpu: float = 0.0
    artifact_sha256: str | None = None
    artifact_problem: tuple[str, str] | None = None
    """(detail, sentence) when what was handed over was refused on arrival."""
    problem: str | None = None
    """The last refusal, as a sentence."""
    last_step: int = 0
    last_loss: float | None = None
    curve: list[tuple[int, float]] = field(default_factory=list)

    @property
    def handed_over(self) -> bool:
        """True once a whole artifact has arrived."""
        return self.artifact_sha256 is not None


class _Layout:
    """The ring of one batch shape and the order that fills it."""

    def __init__(self, batch: int, seq_len: int, order: WindowOrder) -> None:
        self.tokens = batch * seq_len
        self._order = order
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
            self._order.fill(self._slots[self._next_slot])
        wire.RING_HEADER.pack_into(self._memory, 0, progress, steps, self._next_slot)
        self._next_slot ^= 1
        self._ready = False

    def prepare(self) -> None:
        """Fills the other slot while the candidate computes on the current one."""
        if not self._ready:
            self._order.fill(self._slots[self._next_slot])
            self._ready = True


class Gate:
    """One trial's gate. `open_shards` is called at the first layout: who asks for nothing has nothing read."""

    def __init__(
        self,
        connection: socket.socket,
        spec: TrialSpec,
        hello: dict[str, Any],
        token_bytes: bytes,
        open_shards: Callable[[], list[Any]],
        open_artifact: Callable[[], ArtifactTaker],
        tree_clock: TreeClock,
    ) -> None:
        connection.setblocking(False)
        self._connection = connection
        self._spec = spec
        self._max_seq_len: int = hello["maxSeqLen"]
        self._hello, self._token_bytes = json.dumps(hello).encode(), token_bytes
        self._open_shards, self._open_artifact = open_shards, open_artifact
        self._clock = tree_clock
        self._shards: list[Any] | None = None
        self._orders: dict[int, WindowOrder] = {}
        self._layouts: list[_Layout] = []
        self._shapes: dict[tuple[int, int], int] = {}
        self._in = bytearray()
        self._out = bytearray()
        self._taker: ArtifactTaker | None = None
        self._artifact_left = 0
        self._artifact_total = 0
        self._ended = False
        self._to_prepare: _Layout | None = None
        self._waiting = False
        self.on_interest: Callable[[int], None] = lambda _: None
        """Called with the epoll events to wait for, whenever they change."""
        self.account = Account()
        self.open = True
        """False once the connection is at its end, by either side."""

    def fileno(self) -> int:
        """The descriptor to select on."""
        return self._connection.fileno()

    def spent(self, *, exact: bool = False) -> float:
        """How much of the budget is used, in its unit; 0 before the clock starts."""
        account = self.account
        if account.started_wall is None:
            return 0.0
        if self._spec.budget.kind == "steps":
            return float(account.steps)
        if self._spec.budget.kind == "seconds":
            return wall() - account.started_wall
        return (self._clock.scan() if exact else self._clock.quick()) - account.started_cpu

    def progress(self) -> float:
        """Share of the budget that is used, 0..1."""
        return min(1.0, self.spent() / self._spec.budget.amount)

    def close(self) -> None:
        """Ends the connection; the candidate's next request fails with a sentence."""
        self.open = False
        self._connection.close()

    def on_ready(self, event: int) -> bool:
        """Answers what has come (EPOLLIN and ends), sends on what did not fit (EPOLLOUT); False when it is over."""
        if event & select.EPOLLOUT:
            self._flush()
        if event & ~select.EPOLLOUT and self.open:
            self._receive()
        return self.open

    def _receive(self) -> None:
        """Reads at most one buffer and answers it."""
        try:
            data = self._connection.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        self._in += data
        more = True
        while self.open and more:
            try:
                more = self._step()
            except _Refusal as refusal:
                self._refuse(str(refusal), fatal=refusal.fatal)
        if self._to_prepare is not None:
            layout, self._to_prepare = self._to_prepare, None
            layout.prepare()

    # What follows takes one message each from the front of the input; False means that it is not complete yet.

    def _step(self) -> bool:
        if self._taker is not None:
            return self._artifact_bytes()
        if not self._in:
            return False
        kind = bytes(self._in[:1])
        needed = 1 + {wire.BATCH: 1, wire.LAYOUT: wire.LAYOUT_ARGUMENTS.size, wire.LOG: wire.LOG_ARGUMENTS.size}.get(
            kind, 0
        )
        if len(self._in) < needed:
            return False
        body = bytes(self._in[1:needed])
        del self._in[:needed]
        if kind == wire.BATCH:
            self._batch(body[0])
        elif kind == wire.LOG:
            self._log(*wire.LOG_ARGUMENTS.unpack(body))
        elif kind == wire.LAYOUT:
            self._layout(*wire.LAYOUT_ARGUMENTS.unpack(body))
        elif kind == wire.ARTIFACT:
            self._artifact()
        elif kind == wire.HELLO:
            self._send(wire.OK + _frame(self._hello) + _frame(self._token_bytes))
        else:
            raise _Refusal(f"The gate was sent {kind!r}, which begins no request; the connection ends.", fatal=True)
        return True

    def _batch(self, number: int) -> None:
        account = self.account
        if account.handed_over:
            raise _Refusal("A batch was asked for after the model had been handed over; training has ended.")
        if number >= len(self._layouts):
            raise _Refusal("A batch was asked for before its shape.")
        layout = self._layouts[number]
        progress = 0.0
        if account.started_wall is None and (
            account.served_steps >= wire.FREE_BATCHES or account.free_tokens + layout.tokens > wire.MAX_BATCH_TOKENS
        ):
            account.started_cpu = self._clock.scan()
            account.started_wall = wall()
        if account.started_wall is not None:
            progress = self.spent() / self._spec.budget.amount
            if self._ended or progress >= 1.0:
                self._ended = True
                self._send(wire.END)
                return
            account.steps += 1
            account.train_tokens += layout.tokens
        else:
            account.free_tokens += layout.tokens
        account.served_steps += 1
        layout.publish(progress, account.served_steps)
        self._send(wire.OK)
        self._to_prepare = layout

    def _layout(self, batch: int, seq_len: int) -> None:
        problem = wire.layout_problem(batch, seq_len, self._max_seq_len)
        if problem:
            raise _Refusal(problem)
        number = self._shapes.get((batch, seq_len))
        if number is None:
            if len(self._layouts) >= wire.MAX_LAYOUTS:
                raise _Refusal(f"More than {wire.MAX_LAYOUTS} batch shapes were asked for: use fewer.")
            layout = _Layout(batch, seq_len, self._order(seq_len))
            number = len(self._layouts)
            self._layouts.append(layout)
            self._shapes[(batch, seq_len)] = number
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [self._layouts[number].descriptor]))]
        try:
            if self._out:
                raise BlockingIOError
            self._connection.sendmsg([wire.OK], rights)
        except OSError:
            self._drop("The candidate does not read the gate's answers; the connection ends.")
            return
        self._send(bytes([number]))

    def _order(self, seq_len: int) -> WindowOrder:
        """One order for each sequence length, shared by all batch sizes."""
        if seq_len not in self._orders:
            if self._shards is None:
                self._shards = self._open_shards()
            try:
                self._orders[seq_len] = WindowOrder(self._shards, seq_len, self._spec.seed)
            except ValueError as error:
                raise _Refusal(f"A sequence length of {seq_len} was asked for: {error}.") from error
        return self._orders[seq_len]

    def _log(self, step: int, loss: float) -> None:
        account = self.account
        account.last_step, account.last_loss = step, loss
        if math.isfinite(loss):
            account.curve.append((account.train_tokens + account.free_tokens, loss))
            if len(account.curve) > _MAX_CURVE_POINTS:
                del account.curve[::2]

    def _artifact(self) -> None:
        if self._spec.evaluation != "Verified":
            raise _Refusal("This trial is SelfReported: no model is handed over.")
        if self.account.handed_over or self.account.artifact_problem:
            raise _Refusal("A model was handed over twice; the first one counts.", fatal=True)
        self._taker = self._open_artifact()
        self._artifact_left = self._artifact_total = 0

    def _artifact_bytes(self) -> bool:
        taker = self._taker
        assert taker is not None  # noqa: S101 - asked by _step
        if self._artifact_left == 0:
            if len(self._in) < wire.LENGTH.size:
                return False
            (length,) = wire.LENGTH.unpack(self._in[: wire.LENGTH.size])
            del self._in[: wire.LENGTH.size]
            if length == 0:
                self._finish_artifact(taker)
                return True
            self._artifact_total += length
            if length > wire.MAX_FRAME_BYTES:
                raise self._bad_artifact(
                    "Frame", f"A frame of {length} bytes was announced; {wire.MAX_FRAME_BYTES} fit."
                )
            if self._artifact_total > self._spec.limits.artifact_bytes:
                most = self._spec.limits.artifact_bytes
                raise self._bad_artifact("TooLarge", f"The artifact is larger than limits.artifactBytes, {most} bytes.")
            self._artifact_left = length
        piece = bytes(self._in[: self._artifact_left])
        if not piece:
            return False
        del self._in[: len(piece)]
        self._artifact_left -= len(piece)
        try:
            taker.write(piece)
        except ValueError as error:
            raise self._bad_artifact("Malformed", str(error)) from error
        return True

    def _finish_artifact(self, taker: ArtifactTaker) -> None:
        account = self.account
        self._taker = None
        try:
            digest = taker.close()
        except ValueError as error:
            raise self._bad_artifact("Malformed", str(error)) from error
        account.stopped_cpu = self._clock.scan()
        account.stopped_wall = wall()
        account.artifact_sha256 = digest
        self._send(wire.OK)

    def _bad_artifact(self, detail: str, sentence: str) -> "_Refusal":
        self._taker = None
        self.account.artifact_problem = (detail, sentence)
        return _Refusal(sentence, fatal=True)

    def _refuse(self, sentence: str, *, fatal: bool) -> None:
        self.account.problem = sentence
        self._send(wire.ERROR + _frame(sentence.encode()))
        if fatal and self.open:
            # Nothing after a broken message can be understood. The sentence is still read; then the stream ends.
            self.open = False
            with contextlib.suppress(OSError):
                self._connection.shutdown(socket.SHUT_RDWR)

    def _send(self, data: bytes) -> None:
        self._out += data
        self._flush()
        if len(self._out) > _MAX_UNREAD_ANSWER_BYTES:
            self._drop("The candidate does not read the gate's answers; the connection ends.")

    def _flush(self) -> None:
        if not self.open:
            return
        try:
            sent = self._connection.send(self._out)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.close()
            return
        del self._out[:sent]
        if bool(self._out) != self._waiting:
            self._waiting = bool(self._out)
            self.on_interest(select.EPOLLIN | (select.EPOLLOUT if self._waiting else 0))

    def _drop(self, sentence: str) -> None:
        self.account.problem = sentence
        self.close()


class _Refusal(Exception):
    """A request that is not granted; fatal when nothing after it can be understood."""

    def __init__(self, sentence: str, *, fatal: bool = False) -> None:
        super().__init__(sentence)
        self.fatal = fatal


def _frame(data: bytes) -> bytes:
    return wire.LENGTH.pack(len(data)) + data
