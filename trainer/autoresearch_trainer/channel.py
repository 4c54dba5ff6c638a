"""One candidate's connection to the gate: reads requests that nobody can trust, and never blocks.

Whatever a candidate sends, it gets an answer, an error sentence or the end of the connection; lengths are checked
before they are believed, and no more than a frame is ever buffered. What may be served, and when, the gate says.
"""

import contextlib
import select
import socket
from array import array
from collections.abc import Callable
from typing import Protocol

from . import wire
from .account import Account
from .fields import Terms
from .ring import Ring
from .windows import WindowOrder

_RECEIVE_BYTES = 1 << 18
_MAX_UNREAD_ANSWER_BYTES = 1 << 20
_ARGUMENT_BYTES = {
    wire.BATCH: 1,
    wire.LAYOUT: wire.LAYOUT_ARGUMENTS.size,
    wire.LOG: wire.LOG_ARGUMENTS.size,
    wire.MEMORY: wire.MEMORY_ARGUMENTS.size,
}


class ArtifactTaker(Protocol):
    """Where the bytes of an artifact go."""

    def write(self, data: bytes) -> None:
        """Takes the next bytes; raises ValueError with a sentence when they cannot be part of an artifact."""

    def close(self) -> str:
        """Ends the artifact; its SHA-256. Raises ValueError when something is missing."""


class Owner(Protocol):
    """What a connection asks of its gate."""

    terms: Terms
    account: Account
    max_seq_len: int
    greeting: bytes
    """The answer to a hello."""

    def admit(self, channel: "Channel", tokens: int) -> float | None:
        """The share of the budget that is used, and counts the batch; None when the budget is spent."""

    def order(self, channel: "Channel", seq_len: int) -> WindowOrder:
        """The order of windows for this connection. Raises ValueError when no window is that long."""

    def open_artifact(self) -> ArtifactTaker | None:
        """Where the model goes; None when one was begun before."""

    def artifact_done(self, sha256: str) -> None:
        """Stops the clock."""

    def log(self, channel: "Channel", step: int, loss: float) -> None:
        """Takes down a figure that the candidate states."""


class Channel:
    """The connection of one rank."""

    def __init__(self, owner: Owner, connection: socket.socket, rank: int, ranks: int) -> None:
        connection.setblocking(False)
        self._connection = connection
        self._owner = owner
        self.rank, self._ranks = rank, ranks
        self._layouts: list[Ring] = []
        self._shapes: dict[tuple[int, int], int] = {}
        self._in = bytearray()
        self._out = bytearray()
        self._taker: ArtifactTaker | None = None
        self._artifact_left = 0
        self._artifact_total = 0
        self._to_prepare: Ring | None = None
        self._waiting = False
        self.on_interest: Callable[[int], None] = lambda _: None
        """Called with the epoll events to wait for, whenever they change."""
        self.open = True
        """False once the connection is at its end, by either side."""
        self.counting = False
        """Whether this rank's batches count: from its third on, or with the one that passes 2^20 free tokens."""
        self.served = 0
        """Batches served, the free ones included."""
        self.steps = 0
        """Batches served that count."""
        self.free_tokens = 0
        self.ended = False
        """Whether a batch was refused because the budget is spent."""

    def fileno(self) -> int:
        """The descriptor to select on."""
        return self._connection.fileno()

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

    def drain(self) -> None:
        """Answers everything that has already arrived: what a candidate sent before it ended counts."""
        while self.open and select.select([self._connection], [], [], 0)[0]:
            self._receive()

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
        needed = 1 + _ARGUMENT_BYTES.get(kind, 0)
        if len(self._in) < needed:
            return False
        body = bytes(self._in[1:needed])
        del self._in[:needed]
        if kind == wire.BATCH:
            self._batch(body[0])
        elif kind == wire.LOG:
            self._owner.log(self, *wire.LOG_ARGUMENTS.unpack(body))
        elif kind == wire.MEMORY:
            account = self._owner.account
            account.device_bytes = max(account.device_bytes, *wire.MEMORY_ARGUMENTS.unpack(body))
        elif kind == wire.LAYOUT:
            self._layout(*wire.LAYOUT_ARGUMENTS.unpack(body))
        elif kind == wire.ARTIFACT:
            self._artifact()
        elif kind == wire.HELLO:
            self._send(self._owner.greeting)
        else:
            raise _Refusal(f"The gate was sent {kind!r}, which begins no request; the connection ends.", fatal=True)
        return True

    def _batch(self, number: int) -> None:
        if self._owner.account.handed_over:
            raise _Refusal("A batch was asked for after the model had been handed over; training has ended.")
        if number >= len(self._layouts):
            raise _Refusal("A batch was asked for before its shape.")
        layout = self._layouts[number]
        progress = self._owner.admit(self, layout.tokens)
        if progress is None:
            self.ended = True
            self._send(wire.END)
            return
        layout.publish(progress, self.served)
        self._send(wire.OK)
        self._to_prepare = layout

    def _layout(self, batch: int, seq_len: int) -> None:
        problem = wire.layout_problem(batch, seq_len, self._owner.max_seq_len)
        if problem:
            raise _Refusal(problem)
        number = self._shapes.get((batch, seq_len))
        if number is None:
            if len(self._layouts) >= wire.MAX_LAYOUTS:
                raise _Refusal(f"More than {wire.MAX_LAYOUTS} batch shapes were asked for: use fewer.")
            layout = Ring(batch, seq_len, self._order(seq_len), self.rank, self._ranks)
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
        try:
            return self._owner.order(self, seq_len)
        except ValueError as error:
            raise _Refusal(f"A sequence length of {seq_len} was asked for: {error}.") from error

    def _artifact(self) -> None:
        if self._owner.terms.self_reported:
            raise _Refusal("This trial is SelfReported: no model is handed over.")
        self._taker = self._owner.open_artifact()
        if self._taker is None:
            raise _Refusal("A model was handed over twice; the first one counts.", fatal=True)
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
            if self._artifact_total > self._owner.terms.limits.artifact_bytes:
                most = self._owner.terms.limits.artifact_bytes
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
        self._taker = None
        try:
            digest = taker.close()
        except ValueError as error:
            raise self._bad_artifact("Malformed", str(error)) from error
        self._owner.artifact_done(digest)
        self._send(wire.OK)

    def _bad_artifact(self, detail: str, sentence: str) -> "_Refusal":
        self._taker = None
        self._owner.account.artifact_problem = (detail, sentence)
        return _Refusal(sentence, fatal=True)

    def _refuse(self, sentence: str, *, fatal: bool) -> None:
        self._owner.account.problem = sentence
        self._send(wire.ERROR + frame(sentence.encode()))
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
        self._owner.account.problem = sentence
        self.close()


class _Refusal(Exception):
    """A request that is not granted; fatal when nothing after it can be understood."""

    def __init__(self, sentence: str, *, fatal: bool = False) -> None:
        super().__init__(sentence)
        self.fatal = fatal


def frame(data: bytes) -> bytes:
    """data behind its length, as `wire` describes."""
    return wire.LENGTH.pack(len(data)) + data
