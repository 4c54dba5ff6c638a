"""A checked graph made ready to run: first on tensors without data, to learn every size, then for real."""

import contextlib
import importlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from . import lightly
from .graph import Graph, Node
from .operators import Ref, result_count
from .refused import (
    ARTIFACT_REFUSED,
    CUDA_OUT_OF_MEMORY,
    HOST_OUT_OF_MEMORY,
    TIMEOUT,
    Refused,
    malformed,
)

MAX_ELEMENTS = 1 << 36
"""Most elements of one value, real or expanded: an expanded view takes no memory, but walking over it takes for
ever."""
MAX_DIMENSIONS = 12


@dataclass(frozen=True)
class Step:
    """One node as it is run: where its arguments lie, where its results go and what may be forgotten afterwards."""

    node: Node
    fixed: dict[str, Any]
    refs: tuple[tuple[str, int], ...]
    ref_lists: tuple[tuple[str, tuple[Any, ...]], ...]
    forget: tuple[int, ...]


class Program:
    """logits = program(tokens): the graph with its tensors, a pure function.

    Construction runs the graph once on tensors without data; it raises Refused when an operator objects, when a
    value is larger than allowed, or when the live values together would pass `memory_bytes`.
    """

    def __init__(
        self,
        graph: Graph,
        tensors: dict[str, torch.Tensor],
        device: torch.device,
        memory_bytes: int,
    ) -> None:
        self.graph = graph
        self.device = device
        self._tensors = [tensors[stored.name] for stored in graph.tensors]
        self._steps = tuple(self._prepare())
        self.deadline: float | None = None
        """time.monotonic() after which a run raises Refused (Timeout)."""
        try:
            with lightly.without_compiler():
                self.peak_bytes = self._plan(memory_bytes)
        except Refused:
            if lightly.compiler_loaded():
                raise
            # Refusals are rare; that one is not owed to the stand-in is worth the seconds that the compiler takes.
            importlib.import_module("torch._dynamo")
            self.peak_bytes = self._plan(memory_bytes)

    @property
    def parameters(self) -> int:
        """Elements in all tensors that the model calls parameters."""
        return sum(
            tensor.numel()
            for tensor, stored in zip(self._tensors, self.graph.tensors, strict=True)
            if stored.kind == "parameter"
        )

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, T, >=V) float logits for (B, T) int64 tokens. Raises Refused."""
        with torch.inference_mode():
            return self._run(tokens.to(self.device), self._tensors, self._execute)

    def _prepare(self) -> Iterator[Step]:
        last_use = {self.graph.output: len(self.graph.nodes)}
        for position, node in enumerate(self.graph.nodes):
            for value in _references(node):
                last_use[value] = max(last_use.get(value, 0), position)
        forget: dict[int, list[int]] = {}
        for position, node in enumerate(self.graph.nodes):
            for value in range(node.first, node.first + node.results):
                forget.setdefault(last_use.get(value, position), []).append(value)
        for position, node in enumerate(self.graph.nodes):
            fixed, refs, ref_lists = {}, [], []
            for name, item in node.arguments.items():
                if isinstance(item, Ref):
                    refs.append((name, item.value))
                elif isinstance(item, list) and any(isinstance(part, Ref) for part in item):
                    ref_lists.append((name, tuple(item)))
                else:
                    fixed[name] = item
            if node.operator.places_result:
                fixed["device"] = self.device
            yield Step(node, fixed, tuple(refs), tuple(ref_lists), tuple(forget.get(position, ())))

    def _run(
        self,
        tokens: torch.Tensor,
        tensors: list[torch.Tensor],
        execute: Callable[[Step, dict[str, Any]], Any],
    ) -> torch.Tensor:
        values: list[Any] = [tokens, *tensors, *([None] * (self.graph.values - 1 - len(tensors)))]
        for step in self._steps:
            arguments = dict(step.fixed)
            for name, number in step.refs:
                arguments[name] = values[number]
            for name, parts in step.ref_lists:
                arguments[name] = [values[part.value] if isinstance(part, Ref) else part for part in parts]
            results = execute(step, arguments)
            first = step.node.first
            if isinstance(results, torch.Tensor):
                values[first] = results
            else:
                values[first : first + step.node.results] = results
            for number in step.forget:
                values[number] = None
        output = values[self.graph.output]
        assert isinstance(output, torch.Tensor)  # noqa: S101 - _plan has seen it
        return output

    def _execute(self, step: Step, arguments: dict[str, Any]) -> Any:
        if self.deadline is not None and time.monotonic() > self.deadline:
            raise Refused(
                TIMEOUT, "Judge", "The judge's time was up before all rows were scored: make the model faster."
            )
        with _sentences(step):
            return step.node.operator.call(**arguments)

    def _plan(self, memory_bytes: int) -> int:
        """Runs the graph without data and gives the most bytes that its values take at once."""
        graph = self.graph
        with torch.no_grad():
            tokens = torch.empty(graph.batch, graph.seq_len, dtype=torch.int64, device="meta")
            weights = [torch.empty(tensor.shape, dtype=tensor.dtype, device="meta") for tensor in self._tensors]
            meter = _Meter(memory_bytes, CUDA_OUT_OF_MEMORY if self.device.type == "cuda" else HOST_OUT_OF_MEMORY)
            for number, tensor in enumerate((tokens, *weights)):
                meter.add(number, tensor, "weights")
            output = self._run(tokens, weights, meter.execute)
        shape = tuple(output.shape)
        if (
            len(shape) != 3
            or shape[:2] != (graph.batch, graph.seq_len)
            or shape[2] < graph.vocab_size
            or not output.dtype.is_floating_point
        ):
            raise malformed(
                "Output",
                f"The model gives {str(output.dtype).removeprefix('torch.')} {list(shape)}: the judge needs float "
                f"logits [{graph.batch}, {graph.seq_len}, {graph.vocab_size} or more], not a loss.",
            )
        return meter.peak


class _Meter:
    """Runs steps on tensors without data and counts the storage that is alive; views share their base's."""

    def __init__(self, memory_bytes: int, reason: str) -> None:
        self._limit = memory_bytes
        self._reason = reason
        self._storage_of: dict[int, int] = {}
        self._users: dict[int, int] = {}
        self._bytes: dict[int, int] = {}
        self._live = 0
        self.peak = 0

    def add(self, number: int, tensor: torch.Tensor, where: str) -> None:
        """Counts value `number`. Raises Refused when it is too large or the sum of all becomes so."""
        if tensor.numel() > MAX_ELEMENTS or tensor.dim() > MAX_DIMENSIONS:
            raise malformed(
                "TooLarge", f"{where}: a value of shape {list(tensor.shape)[:MAX_DIMENSIONS]} is too large."
            )
        storage = tensor.untyped_storage()
        key = storage._cdata
        self._storage_of[number] = key
        self._users[key] = self._users.get(key, 0) + 1
        if self._users[key] > 1:
            return
        self._bytes[key] = storage.nbytes()
        self._live += self._bytes[key]
        self.peak = max(self.peak, self._live)
        if self._live > self._limit:
            raise Refused(
                self._reason,
                "Judge",
                f"{where}: the model's values take {self._live >> 20} MiB at once; the most is "
                f"{self._limit >> 20} MiB.",
            )

    def execute(self, step: Step, arguments: dict[str, Any]) -> Any:
        """Stands in for the real execution."""
        node = step.node
        where = _where(node)
        if node.operator.places_result:
            arguments["device"] = "meta"
        count = result_count(node.operator, node.arguments, lambda _: tuple(arguments["self"].shape))
        if count is not None and count < node.results:
            raise malformed("Schema", f"{where}: {node.results} results are declared, and it gives {count}.")
        with _sentences(step):
            results = node.operator.call(**arguments)
        given = [results] if isinstance(results, torch.Tensor) else list(results)
        if len(given) != node.results:
            raise malformed("Schema", f"{where}: {node.results} results are declared, and it gives {len(given)}.")
        for number, tensor in enumerate(given, start=node.first):
            self.add(number, tensor, where)
        for number in step.forget:
            self._forget(number)
        return results

    def _forget(self, number: int) -> None:
        key = self._storage_of.pop(number)
        self._users[key] -= 1
        if not self._users[key]:
            del self._users[key]
            self._live -= self._bytes.pop(key)


def _where(node: Node) -> str:
    return f"value {node.first} ({node.operator.name})"


def _references(node: Node) -> Iterator[int]:
    for item in node.arguments.values():
        for part in item if isinstance(item, list) else (item,):
            if isinstance(part, Ref):
                yield part.value


@contextlib.contextmanager
def _sentences(step: Step) -> Iterator[None]:
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError) as error:
        reason = CUDA_OUT_OF_MEMORY if isinstance(error, torch.OutOfMemoryError) else HOST_OUT_OF_MEMORY
        raise Refused(reason, "Judge", f"{step.node.operator.name}: out of memory while scoring.") from error
    except Refused:
        raise
    except Exception as error:
        # An operator may object to foreign arguments with any class of exception; each is the artifact's fault.
        first = str(error).strip().split("\n", 1)[0][:200]
        if "can't allocate memory" in first:
            raise Refused(HOST_OUT_OF_MEMORY, "Judge", f"{step.node.operator.name}: {first}") from error
        raise Refused(ARTIFACT_REFUSED, type(error).__name__, f"{_where(step.node)}: {first}") from error
