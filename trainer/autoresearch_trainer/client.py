"""The candidate's side of the gate: batches in, loss figures and the finished model out.

Under a trial the connection is already open (`AUTORESEARCH_GATE_FD`). Without one `connect()` gives a stand-in that
reads the prepared data itself, so that `python train.py` works by hand. Nothing here is trusted: a candidate may
rewrite all of it, and gains nothing, because the clock, the data order and the score are on the other side of the
socket.
"""

import array
import io
import json
import mmap
import os
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from . import wire

if TYPE_CHECKING:
    import torch

    from .artifact import Traced

    Batch = tuple[torch.Tensor, torch.Tensor]


class GateError(RuntimeError):
    """The gate refused a request; the message says what and why."""


class Gate(Protocol):
    """What a training script may use. One thread at a time."""

    budget: dict[str, float]
    """One of {"seconds": x}, {"cpuSeconds": x}, {"steps": n}."""
    seed: int
    vocab_size: int
    max_seq_len: int
    """The sequence length of the judge; training may use any other."""
    eval_batch: int
    """The batch of the judge: the model is traced at (eval_batch, max_seq_len)."""
    token_bytes: NDArray[np.int16]
    """(vocab_size,) raw bytes of each token; 0 for special tokens, which are not scored."""
    self_reported: bool
    """True when the script measures its own score, so that `submit` hands nothing over."""
    ranks: int
    """Processes among which the gate deals out the batches; 1: each one that reads gets all of them."""
    data_dir: Path | None
    """The prepared data where the script may read it (SelfReported, or by hand); None in a verified trial."""

    @property
    def progress(self) -> float:
        """Share of the budget that was spent when the last batch was asked for, 0..1."""

    def batches(self, batch: int, seq_len: int) -> "Iterator[Batch]":
        """Endless (x, y), int64 (batch, seq_len) on the CPU in fresh memory, until the budget is spent.

        Raises GateError when the shape is not allowed.
        """

    def log(self, step: int, loss: float) -> None:
        """Shows loss (nats per token) in the live view and the curve; has no part in the score."""

    def trace(self, model: "torch.nn.Module") -> None:
        """Traces model ahead of the clock, so that `submit` only sends weights."""

    def submit(self, model: "torch.nn.Module") -> dict[str, Any] | None:
        """Hands model over and stops the clock; the result when run by hand, None in a trial."""


class GateStream(io.RawIOBase):
    """A writable stream whose bytes go to the gate as frames of one artifact."""

    def __init__(self, send: "Callable[[bytes | memoryview], None]") -> None:
        self._send = send

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        for start in range(0, len(view), wire.ARTIFACT_CHUNK_BYTES):
            piece = view[start : start + wire.ARTIFACT_CHUNK_BYTES]
            self._send(wire.LENGTH.pack(len(piece)))
            self._send(piece)
        return len(view)


class SocketGate:
    """The gate of a trial; see `Gate` for the meaning of each member."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._traced: Traced | None = None
        self._traced_model: torch.nn.Module | None = None
        self._layouts: dict[tuple[int, int], tuple[int, mmap.mmap]] = {}
        self._progress = 0.0
        self._send(wire.HELLO)
        self._expect_ok()
        hello = json.loads(self._frame())
        self.budget: dict[str, float] = hello["budget"]
        self.seed: int = hello["seed"]
        self.vocab_size: int = hello["vocabSize"]
        self.max_seq_len: int = hello["maxSeqLen"]
        self.eval_batch: int = hello["evalBatch"]
        self.self_reported: bool = hello["selfReported"]
        self.data_dir: Path | None = Path(hello["dataDir"]) if hello["dataDir"] else None
        self.ranks: int = hello["ranks"]
        self.token_bytes: NDArray[np.int16] = np.frombuffer(self._frame(), dtype="<i2").astype(np.int16)

    @property
    def progress(self) -> float:
        return self._progress

    def _send(self, data: bytes | memoryview) -> None:
        try:
            self._connection.sendall(data)
        except (BrokenPipeError, ConnectionResetError) as error:
            self._expect_ok()  # the gate said why before it hung up
            raise GateError("The gate closed the connection.") from error

    def _read(self, count: int) -> bytes:
        parts = bytearray()
        while len(parts) < count:
            piece = self._connection.recv(count - len(parts))
            if not piece:
                raise GateError("The gate closed the connection.")
            parts += piece
        return bytes(parts)

    def _frame(self) -> bytes:
        (length,) = wire.LENGTH.unpack(self._read(wire.LENGTH.size))
        return self._read(length)

    def _expect_ok(self) -> None:
        answer = self._read(1)
        if answer == wire.ERROR:
            raise GateError(self._frame().decode())
        if answer != wire.OK:
            raise GateError(f"The gate answered {answer!r} where an acknowledgement was due.")

    def _layout(self, batch: int, seq_len: int) -> tuple[int, mmap.mmap]:
        known = self._layouts.get((batch, seq_len))
        if known is not None:
            return known
        problem = wire.layout_problem(batch, seq_len, self.max_seq_len)
        if problem:
            raise GateError(problem)
        self._send(wire.LAYOUT + wire.LAYOUT_ARGUMENTS.pack(batch, seq_len))
        descriptors = array.array("i")
        answer, ancillary, _, _ = self._connection.recvmsg(1, socket.CMSG_SPACE(struct.calcsize("i")))
        if answer == wire.ERROR:
            raise GateError(self._frame().decode())
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
        if answer != wire.OK or len(descriptors) != 1:
            raise GateError("The gate gave no shared memory for this batch shape.")
        number = self._read(1)[0]
        ring = mmap.mmap(descriptors[0], wire.ring_bytes(batch, seq_len))
        os.close(descriptors[0])
        self._layouts[(batch, seq_len)] = (number, ring)
        return number, ring

    def batches(self, batch: int, seq_len: int) -> "Iterator[Batch]":
        import torch

        number, ring = self._layout(batch, seq_len)
        request = wire.BATCH + bytes([number])
        slot_bytes = wire.slot_bytes(batch, seq_len)
        slots = [
            np.frombuffer(
                ring, dtype="<u2", count=batch * (seq_len + 1), offset=wire.RING_HEADER_BYTES + slot * slot_bytes
            ).reshape(batch, seq_len + 1)
            for slot in (0, 1)
        ]
        connection = self._connection
        while True:
            self._send(request)
            answer = connection.recv(1)
            if answer == wire.END:
                self._progress = 1.0
                return
            if answer == wire.ERROR:
                raise GateError(self._frame().decode())
            if answer != wire.OK:
                raise GateError("The gate closed the connection.")
            self._progress, _, slot = wire.RING_HEADER.unpack_from(ring)
            window = slots[slot]
            x = torch.from_numpy(window[:, :-1].astype(np.int64, order="C"))
            y = torch.from_numpy(window[:, 1:].astype(np.int64, order="C"))
            yield x, y

    def log(self, step: int, loss: float) -> None:
        self._send(wire.LOG + wire.LOG_ARGUMENTS.pack(int(step), float(loss)))

    def trace(self, model: "torch.nn.Module") -> None:
        if self.self_reported:
            return
        from .artifact import trace

        self._traced = trace(model, self.eval_batch, self.max_seq_len, self.vocab_size)
        self._traced_model = model

    def submit(self, model: "torch.nn.Module") -> dict[str, Any] | None:
        if self.self_reported:
            return None
        if self._traced is None or self._traced_model is not model:
            self.trace(model)
        assert self._traced is not None  # noqa: S101 - set by trace() just above
        self._tell_memory()
        self._send(wire.ARTIFACT)
        # Buffered, so that a writer of many small tensors does not cost one system call each.
        stream = io.BufferedWriter(GateStream(self._send), wire.ARTIFACT_CHUNK_BYTES)
        self._traced.write(stream)
        stream.flush()
        self._send(wire.LENGTH.pack(0))
        self._expect_ok()
        return None

    def _tell_memory(self) -> None:
        import torch

        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch gives no types here
            peaks = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
            self._send(wire.MEMORY + wire.MEMORY_ARGUMENTS.pack(*peaks))


_gate: Gate | None = None


def connect() -> Gate:
    """The gate of this process, the same object at every call."""
    global _gate  # noqa: PLW0603 - one connection a process, as there is one socket
    if _gate is None:
        descriptor = os.environ.get(wire.GATE_FD_VARIABLE)
        if descriptor is not None:
            _gate = SocketGate(socket.socket(fileno=int(descriptor)))
        else:
            from .standalone import StandaloneGate

            _gate = StandaloneGate.from_environment()
    return _gate
