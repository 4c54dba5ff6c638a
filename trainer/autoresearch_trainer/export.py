"""torch.export's graph, rewritten as the nodes of graph.json.

Everything that says where or how tensors are stored is dropped (devices, memory formats, assertions); sizes are folded
to numbers; changes in place and torch.autocast become nodes without side effects; dropout in eval mode vanishes.
"""

import contextlib
import math
import operator
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch.export.graph_signature import InputKind, OutputKind
from torch.fx import Graph, Node

from .judge.operators import ATTENTION, DTYPES, MAX_SIZE, WITHHELD, lookup
from .judge.refused import Refused
from .judge.tensors import DTYPES as STORED_DTYPES
from .judge.tensors import NAME

_DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}

_IDENTITY = frozenset(
    {
        "alias",
        "alpha_dropout",
        "detach",
        "detach_",
        "dropout",
        "feature_dropout",
        "lift",
        "lift_fresh",
        "lift_fresh_copy",
    }
)
"""Nothing changes a value after it was made, so that another name for it is the same value; dropout is off in eval
mode."""
_CASTS = frozenset({"to", "_to_copy", "type_as"})
_CASTS_INSIDE = frozenset({"einsum", "inner", "tensordot"})
"""They call matrix products that autocast casts, but appear as one operator that it does not."""
_ZEROED = {
    "empty.memory_format": "zeros.default",
    "empty_like.default": "zeros_like.default",
    "empty_strided.default": "zeros.default",
    "new_empty.default": "new_zeros.default",
    "new_empty_strided.default": "new_zeros.default",
}
"""Memory that nothing has written yet: a program whose logits depend on it is wrong, and with zeros it is at least
pure."""


class TraceError(RuntimeError):
    """The model cannot be handed to the judge; the message says what to change."""


class OperatorNotAllowed(TraceError):
    """The model uses an operator that the judge does not run."""


@dataclass
class Source:
    """One tensor that the graph reads, and where it comes from in the model."""

    name: str
    """In graph.json and weights.safetensors."""
    kind: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    owner: torch.nn.Module | None
    """The module whose attribute it is; None for a constant made in `forward`."""
    attribute: str
    constant: torch.Tensor | None

    def read(self) -> torch.Tensor:
        """A contiguous copy on the CPU, or the tensor itself where it is one. Complex numbers are pairs in a last
        dimension.

        Raises TraceError when the tensor is gone or has another shape or type than when it was traced.
        """
        tensor = self.constant if self.owner is None else getattr(self.owner, self.attribute, None)
        if not isinstance(tensor, torch.Tensor):
            raise TraceError(f"{self.name} was a tensor when the model was traced and is none now: trace again.")
        tensor = tensor.detach()
        if tensor.is_complex():
            tensor = torch.view_as_real(tensor.resolve_conj())
        if tuple(tensor.shape) != self.shape or tensor.dtype != self.dtype:
            raise TraceError(
                f"{self.name} was {list(self.shape)} {self.dtype} when the model was traced and is "
                f"{list(tensor.shape)} {tensor.dtype} now: trace again."
            )
        return tensor.to("cpu").contiguous()


@dataclass
class Exported:
    """What `artifact.Traced` writes down; `judge.graph` explains nodes and numbers."""

    sources: list[Source] = field(default_factory=list)
    nodes: list[dict[str, Any]] = field(default_factory=list)
    output: int = 0


def export(model: torch.nn.Module, batch: int, seq_len: int, vocab_size: int) -> Exported:
    """model(tokens (batch, seq_len)) as nodes. The model is in eval mode. Raises TraceError."""
    device = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    tokens = torch.zeros(batch, seq_len, dtype=torch.int64, device=device)
    ambient = torch.is_autocast_enabled(device.type)
    try:
        with torch.no_grad():
            program = torch.export.export(model, (tokens,), strict=False)
            if ambient or _needs_lowering(program.graph):
                _refuse_hidden_casts(program.graph_module, ambient)
                program = program.run_decompositions({})
    except TraceError:
        raise
    except Exception as error:
        # torch.export reports what it cannot trace with a dozen private classes; all mean the same to the author.
        first = str(error).strip().split("\n", 1)[0][:300]
        raise TraceError(
            f"torch.export could not trace the model ({type(error).__name__}: {first}). The judge runs a fixed graph: "
            "avoid .item(), control flow that depends on values, and code that leaves torch."
        ) from error
    return _Writer(program, model).write((batch, seq_len, vocab_size))


def _overloads(graph: Graph) -> Iterator[Any]:
    return (node.target for node in graph.nodes if node.op == "call_function")


def _needs_lowering(graph: Graph) -> bool:
    return any(
        isinstance(target, torch._ops.HigherOrderOperator)
        or (
            isinstance(target, torch._ops.OpOverload) and target._schema.is_mutable and _packet(target) not in _IDENTITY
        )
        for target in _overloads(graph)
    )


def _refuse_hidden_casts(module: Any, active: bool) -> None:
    """Raises TraceError where autocast, if active, would cast inside an operator that is written down whole."""
    for node in module.graph.nodes:
        if node.op != "call_function":
            continue
        if isinstance(node.target, torch._ops.HigherOrderOperator):
            inside = node.args[2] if "autocast" in str(node.target) else active
            for argument in node.args:
                if isinstance(argument, Node) and argument.op == "get_attr":
                    _refuse_hidden_casts(getattr(module, str(argument.target)), inside)
        elif active and isinstance(node.target, torch._ops.OpOverload) and _packet(node.target) in _CASTS_INSIDE:
            raise TraceError(
                f"{_packet(node.target)} under torch.autocast cannot be written down: cast its arguments explicitly "
                "outside autocast, or use matmul."
            )


def _packet(target: Any) -> str:
    return str(target._schema.name).rsplit("::", maxsplit=1)[-1]


def _value(node: Node) -> Any:
    return node.meta.get("val")


class _Writer:
    """Turns one exported program into an Exported."""

    def __init__(self, program: torch.export.ExportedProgram, model: torch.nn.Module) -> None:
        self._program, self._model = program, model
        self._out = Exported()
        self._number: dict[Node, int] = {}
        self._next = 0

    def write(self, sizes: tuple[int, int, int]) -> Exported:
        signature = self._program.graph_signature
        changed = [spec.target for spec in signature.output_specs if spec.kind is not OutputKind.USER_OUTPUT]
        if changed:
            raise TraceError(
                f"The model changes {changed[0]} when it is called: in eval mode a model must "
                "keep nothing between calls."
            )
        wanted = self._logits(sizes)
        needed = _ancestors(wanted)
        inputs = {spec.arg.name: spec for spec in signature.input_specs}
        complex_sources: list[Node] = []
        self._next = 1
        for node in self._program.graph.nodes:
            if node.op != "placeholder":
                continue
            spec = inputs[node.name]
            if spec.kind is InputKind.USER_INPUT:
                self._number[node] = 0
            elif node in needed:
                self._number[node] = self._next
                self._next += 1
                self._out.sources.append(self._source(spec))
                if isinstance(_value(node), torch.Tensor) and _value(node).is_complex():
                    complex_sources.append(node)
        for node in complex_sources:
            self._number[node] = self._emit("aten.view_as_complex.default", {"self": {"tensor": self._number[node]}}, 1)
        for node in self._program.graph.nodes:
            if node in needed and node.op != "placeholder":
                self._call(node)
        self._out.output = self._number[wanted]
        return self._out

    def _logits(self, sizes: tuple[int, int, int]) -> Node:
        """The first float (B, T, >=V) output."""
        results: Any = next(node for node in self._program.graph.nodes if node.op == "output").args[0]
        seen = []
        for node in results if isinstance(results, tuple | list) else (results,):
            if not isinstance(node, Node):
                continue
            value = _value(node)
            if isinstance(value, torch.Tensor):
                shape = tuple(value.shape)
                if value.is_floating_point() and shape[:2] == sizes[:2] and len(shape) == 3 and shape[2] >= sizes[2]:
                    return node
                seen.append(f"{value.dtype} {list(shape)}")
        raise TraceError(
            f"model(tokens) gave {', '.join(seen) or 'no tensor'}: the judge needs float logits of shape "
            f"[{sizes[0]}, {sizes[1]}, {sizes[2]} or more] when it is called with tokens alone, not a loss."
        )

    def _source(self, spec: Any) -> Source:
        path = str(spec.target)
        kind = {
            InputKind.PARAMETER: "parameter",
            InputKind.BUFFER: "buffer",
            InputKind.CONSTANT_TENSOR: "constant",
        }.get(spec.kind)
        if kind is None:
            raise TraceError(f"{path} is a {spec.kind.name.lower()}, and an artifact holds tensors only.")
        parent, _, attribute = path.rpartition(".")
        owner: torch.nn.Module | None = None
        with contextlib.suppress(AttributeError):
            owner = self._model.get_submodule(parent)
        tensor = getattr(owner, attribute, None) if owner is not None else None
        constant = None
        if not isinstance(tensor, torch.Tensor):
            owner, constant = None, self._program.constants.get(path)
            if not isinstance(constant, torch.Tensor):
                raise TraceError(f"{path} is not a tensor of the model.")
            tensor = constant
        name = path if NAME.fullmatch(path) else f"tensor_{len(self._out.sources)}"
        plain = torch.view_as_real(tensor.detach().resolve_conj()) if tensor.is_complex() else tensor
        if plain.dtype not in STORED_DTYPES.values() or plain.layout is not torch.strided:
            raise TraceError(
                f"{path} is {plain.dtype} {plain.layout}: keep weights as dense {', '.join(_DTYPE_NAMES.values())}."
            )
        return Source(name, kind, tuple(plain.shape), plain.dtype, owner, attribute, constant)

    def _emit(self, name: str, arguments: dict[str, Any], results: int) -> int:
        self._out.nodes.append({"op": name, "args": arguments, "results": results})
        first = self._next
        self._next += results
        return first

    def _call(self, node: Node) -> None:
        target: Any = node.target
        value = _value(node)
        if isinstance(value, int | float | bool) or (value is None and target is not operator.getitem):
            return  # a size: folded into whoever uses it
        if target is operator.getitem:
            base, index = cast(tuple[Node, int], node.args)
            self._number[node] = self._number[base] + index
            return
        if not isinstance(target, torch._ops.OpOverload) or isinstance(
            value, torch.SymInt | torch.SymFloat | torch.SymBool
        ):
            _lookup(str(target))
            raise TraceError(f"{target} gives something that is not a tensor, and depends on values: keep to tensors.")
        packet = _packet(target)
        arguments = self._arguments(node, target)
        if packet in _IDENTITY and not (arguments.get("train") and arguments.get("p")):
            self._number[node] = self._number[node.args[0]]  # type: ignore[index]  # fx types no arguments
            return
        name = f"{packet}.{target._overloadname}"
        if packet in _CASTS:
            own = arguments["self"]
            arguments = {"self": own, "dtype": {"dtype": _dtype_name(value.dtype)}}
            name = "to.dtype"
        elif packet == "clone" and node.kwargs.get("memory_format") is torch.contiguous_format:
            name = "contiguous.default"
        elif name in ("view.default", "_unsafe_view.default"):
            # the same, but free of the strides that an operator happened to give on the device it was traced on
            name, arguments = "reshape.default", {"self": arguments["self"], "shape": arguments["size"]}
        elif name in _ZEROED:
            name = _ZEROED[name]
            arguments.pop("stride", None)
        results = len(value) if isinstance(value, tuple | list) else 1
        full = ATTENTION if target.namespace == "autoresearch" else f"{target.namespace}.{name}"
        _lookup(full)
        self._number[node] = self._emit(full, arguments, results)

    def _arguments(self, node: Node, target: Any) -> dict[str, Any]:
        schema = target._schema.arguments
        given = {argument.name: value for argument, value in zip(schema, node.args, strict=False)} | dict(node.kwargs)
        written = {}
        for argument in schema:
            name = argument.name
            if name not in given or name in WITHHELD or (given[name] is None and argument.has_default_value()):
                continue
            value = self._argument(given[name], target)
            if name == "end" and isinstance(value, int) and value > MAX_SIZE:
                continue  # "to the end" is 2^63 - 1 in the trace and absent here
            written[name] = value
        return written

    def _argument(self, value: Any, target: Any) -> Any:
        if isinstance(value, Node):
            if value in self._number:
                return {"tensor": self._number[value]}
            return self._argument(_value(value), target)
        if isinstance(value, tuple | list):
            return [self._argument(item, target) for item in value]
        if isinstance(value, torch.dtype):
            return {"dtype": _dtype_name(value)}
        if isinstance(value, float) and not math.isfinite(value):
            if math.isnan(value):
                raise TraceError(f"{target} is given NaN as a constant.")
            return {"float": "inf" if value > 0 else "-inf"}
        if value is None or isinstance(value, bool | int | float | str):
            return value
        raise TraceError(f"{target} is given {type(value).__name__}, which an artifact cannot hold.")


def _ancestors(node: Node) -> set[Node]:
    found, waiting = {node}, [node]
    while waiting:
        for parent in waiting.pop().all_input_nodes:
            if parent not in found:
                found.add(parent)
                waiting.append(parent)
    return found


def _dtype_name(dtype: torch.dtype) -> str:
    if dtype not in _DTYPE_NAMES:
        raise TraceError(f"{dtype} is not an element type of the judge; it knows {', '.join(DTYPES)}.")
    return _DTYPE_NAMES[dtype]


def _lookup(name: str) -> None:
    try:
        lookup(name)
    except Refused as refusal:
        raise OperatorNotAllowed(refusal.message) from refusal
