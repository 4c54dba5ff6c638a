"""The gate: serves training batches, keeps the clock and takes in the finished model, over one socket nobody can trust.

A state machine that never blocks: the supervisor calls `on_ready` when bytes have come and goes on with its watch.
Whatever a candidate sends, it gets an answer, an error sentence or the end of the connection; lengths are checked
before they are believed, and no more than a frame is ever buffered.

The clock starts at the third batch request, or earlier with the batch that would take the free ones past 2^20 tokens.
It stops when the last byte of the artifact has arrived.
"""

import contextlib
import json
import math
import select
import socket
from array import array
from collections.abc import Callable
from typing import Any, Protocol

from . import wire
from .account import Account
from .clock import TreeClock, wall
from .ring import Ring
from .spec import TrialSpec
from .windows import WindowOrder

_RECEIVE_BYTES = 1 << 18
_MAX_UNREAD_ANSWER_BYTES = 1 << 20
_MAX_CURVE_POINTS = 512


class ArtifactTaker(Protocol):
    """Where the bytes of an artifact go."""

    def write(self, data: bytes) -> None:
        """Takes the next bytes; raises ValueError with a sentence when they cannot be part of an artifact."""

    def close(self) -> str:
        """Ends the artifact; its SHA-256. Raises ValueError when something is missing."""


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
        self._layouts: list[Ring] = []
        self._shapes: dict[tuple[int, int], int] = {}
        self._in = bytearray()
        self._out = bytearray()
        self._taker: ArtifactTaker | None = None
        self._artifact_left = 0
        self._artifact_total = 0
        self._ended = False
        self._to_prepare: Ring | None = None
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

    @property
    def ended(self) -> bool:
        """Whether a batch was refused because the budget is spent: there is no training after that."""
        return self._ended

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
            layout = Ring(batch, seq_len, self._order(seq_len))
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
