"""A model as data: its computation as graph.json, its weights as safetensors. No code travels.

The candidate's side. `trace` runs once, before training, where time is free; it records which tensors of the model the
computation reads, by name. `Traced.write` reads those tensors as they are when it is called. What is written is checked
again by `judge.loader`, which trusts nothing of it; format and operators are documented in `judge.graph` and
`judge.operators`.
"""

import json
import math
import struct
from typing import Any, Protocol

import torch

from .export import Exported, OperatorNotAllowed, TraceError, export
from .judge import graph, tensors
from .judge.program import Program
from .judge.refused import OPERATOR_NOT_ALLOWED, Refused
from .receiver import GRAPH_LENGTH, Receiver

__all__ = ["OperatorNotAllowed", "Receiver", "TraceError", "Traced", "trace", "warm"]

_HEADER_LENGTH = struct.Struct("<Q")
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
        stream.write(GRAPH_LENGTH.pack(len(self._graph)))
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
        stream.write(_HEADER_LENGTH.pack(len(text)))
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
