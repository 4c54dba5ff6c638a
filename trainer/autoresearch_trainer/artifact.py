"""A model as data: its computation as graph.json, its weights as safetensors. No code travels.

The candidate's side. `trace` runs once, before training, where time is free; it records which tensors of the model the
computation reads, by name. `Traced.write` reads those tensors as they are when it is called. What is written is checked
again by `judge.loader`, which trusts nothing of it; format and operators are documented in `judge.graph` and
`judge.operators`.
"""

import hashlib
import json
import math
import os
import struct
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import torch

from .export import Exported, OperatorNotAllowed, TraceError, export
from .judge import graph, tensors
from .judge.program import Program
from .judge.refused import OPERATOR_NOT_ALLOWED, Refused

__all__ = ["OperatorNotAllowed", "Receiver", "TraceError", "Traced", "trace", "warm"]

_LENGTHS = struct.Struct("<Q")
_DTYPE_NAMES = {dtype: name for name, dtype in tensors.DTYPES.items()}


class Writable(Protocol):
    """What `Traced.write` writes to."""

    def write(self, data: Any, /) -> Any: ...


class Traced:
    """The computation of one model at fixed (B, T), with the model to read the weights from."""

    def __init__(self, exported: Exported, batch: int, seq_len: int, vocab_size: int) -> None:
        self._exported = exported
        self._graph = json.dumps(
            {
                "version": graph.VERSION,
                "batch": batch,
                "seqLen": seq_len,
                "vocabSize": vocab_size,
                "tensors": [{"name": source.name, "kind": source.kind} for source in exported.sources],
                "nodes": exported.nodes,
                "output": exported.output,
            },
            separators=(",", ":"),
            allow_nan=False,
        ).encode()

    def graph_json(self) -> bytes:
        """The document graph.json, UTF-8."""
        return self._graph

    def tensors(self) -> dict[str, torch.Tensor]:
        """Every tensor that the graph reads, as it is now: contiguous, on the CPU, by its name in graph.json."""
        return {source.name: source.read() for source in self._exported.sources}

    def check(self) -> None:
        """Reads the graph as the judge will, without its weights. Raises TraceError.

        What the judge would refuse after the training is better known before it.
        """
        empty = {
            source.name: torch.empty(source.shape, dtype=source.dtype, device="meta")
            for source in self._exported.sources
        }
        try:
            Program(graph.parse(self._graph), empty, torch.device("meta"), memory_bytes=1 << 60)
        except Refused as refusal:
            kind = OperatorNotAllowed if refusal.reason == OPERATOR_NOT_ALLOWED else TraceError
            raise kind(refusal.message) from refusal

    def write(self, stream: Writable) -> None:
        """Writes the artifact as one stream: the length of graph.json (uint64), graph.json, then weights.safetensors.

        One tensor at a time is copied to the CPU, so a model of any size takes no more memory than its largest tensor.
        (The library's own writer wants all of them at once; its header, which is written here, is a line of JSON.)
        """
        stream.write(_LENGTHS.pack(len(self._graph)))
        stream.write(self._graph)
        header: dict[str, Any] = {}
        position = 0
        # largest elements first, as the library orders them: every tensor then starts at a multiple of its element
        sources = sorted(self._exported.sources, key=lambda source: (-source.dtype.itemsize, source.name))
        for source in sources:
            length = math.prod(source.shape) * source.dtype.itemsize
            header[source.name] = {
                "dtype": _DTYPE_NAMES[source.dtype],
                "shape": list(source.shape),
                "data_offsets": [position, position + length],
            }
            position += length
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        stream.write(_LENGTHS.pack(len(text)))
        stream.write(text)
        for source in sources:
            tensor = source.read()
            if tensor.numel():
                stream.write(tensor.reshape(-1).view(torch.uint8).numpy().data)


def trace(model: torch.nn.Module, batch: int, seq_len: int, vocab_size: int) -> Traced:
    """The computation of model(tokens) for int64 tokens (batch, seq_len), in eval mode and under the autocast now in
    force.

    The model's mode and the random state are left as they were. Raises TraceError with what to change when the model
    cannot be written down: control flow that depends on data, buffers that it changes, no float logits
    (batch, seq_len, vocab_size or more) among its outputs, or an operator that the judge does not run.
    """
    inner = getattr(model, "_orig_mod", model)  # torch.compile's wrapper; compiled code is not exported
    modes = [(module, module.training) for module in inner.modules()]
    inner.eval()
    try:
        with torch.random.fork_rng(devices=[]):
            traced = Traced(export(inner, batch, seq_len, vocab_size), batch, seq_len, vocab_size)
            traced.check()
            return traced
    finally:
        for module, training in modes:
            module.training = training


class _Warm(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(8, 8)
        self.linear = torch.nn.Linear(8, 24, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embedding(tokens)
        x = torch.nn.functional.rms_norm(x, (8,))
        q, k, v = (part.view(1, 4, 2, 4).transpose(1, 2) for part in self.linear(x).split(8, dim=2))
        y = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        y = torch.cat([y[..., :2] * y[..., 2:].relu().square(), y[..., 2:].float()], dim=-1)
        return torch.nn.functional.linear(y.transpose(1, 2).reshape(1, 4, 8), self.embedding.weight)


def warm() -> None:
    """Does once what torch does at a first export (some seconds of imports), so that forks of this process need not.

    Starts no thread of its own.
    """
    trace(_Warm(), 1, 4, 8)


class Receiver:
    """Splits the stream of `Traced.write` into the two files of an artifact, in a folder that the sender cannot reach.

    The trusted side. It looks at lengths only; what is in the files is for the judge to check. `close` gives the
    SHA-256 of the whole stream. A length out of bounds or an end before the last byte is a ValueError with a sentence.
    """

    def __init__(self, folder: Path, max_bytes: int = 1 << 45) -> None:
        self._folder = folder
        self._left = max_bytes
        self._max_bytes = max_bytes
        self._digest = hashlib.sha256()
        self._head = bytearray()
        self._graph_left: int | None = None
        self._weights_bytes = 0
        self._file: BinaryIO | None = None

    def write(self, data: bytes | memoryview) -> None:
        """Takes the next bytes of the stream."""
        view = memoryview(data).cast("B")
        self._left -= len(view)
        if self._left < 0:
            raise ValueError(f"The artifact is longer than {self._max_bytes} bytes (limits.artifactBytes).")
        self._digest.update(view)
        if self._graph_left is None:
            take = min(len(view), _LENGTHS.size - len(self._head))
            self._head += view[:take]
            view = view[take:]
            if len(self._head) < _LENGTHS.size:
                return
            (self._graph_left,) = _LENGTHS.unpack(self._head)
            if not 0 < self._graph_left <= graph.MAX_BYTES:
                raise ValueError(
                    f"The artifact announces {self._graph_left} bytes of graph.json; the most is {graph.MAX_BYTES}."
                )
            self._file = self._open(graph.FILE_NAME)
        assert self._file is not None  # noqa: S101 - opened when the length was known
        if self._graph_left:
            piece = view[: self._graph_left]
            self._file.write(piece)
            self._graph_left -= len(piece)
            view = view[len(piece) :]
            if self._graph_left:
                return
            self._file.close()
            self._file = self._open(tensors.FILE_NAME)
        self._file.write(view)
        self._weights_bytes += len(view)

    def close(self) -> str:
        """Ends the artifact and gives its SHA-256."""
        if self._file is not None:
            self._file.close()
        if self._graph_left is None or self._graph_left or not self._weights_bytes:
            raise ValueError("The artifact ended before its weights.")
        return self._digest.hexdigest()

    def _open(self, name: str) -> BinaryIO:
        # exclusive and never through a link, as a folder left by an earlier attempt might hold anything
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.fdopen(os.open(self._folder / name, flags, 0o600), "wb")
