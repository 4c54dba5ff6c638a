"""The operators that the judge runs, and what each of their arguments may be.

An operator is here when it is a pure function of its arguments: it changes nothing, draws no random number, reads no
file and no uninitialised memory, has results whose sizes follow from its arguments' sizes, and checks its own bounds.
So the program that a graph describes is a pure function too, and cannot keep state or look at anything but its row of
tokens. `torch.empty` is left out because memory that somebody used before is an input nobody declared; `as_strided`
because it reaches outside its argument's elements.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from .refused import OPERATOR_NOT_ALLOWED, Refused, malformed, quoted

_OVERLOADS = """
abs acos acosh add.Scalar add.Tensor addcdiv addcmul addmm alias all all.dim all.dims amax amin aminmax any any.dim
any.dims arange arange.start arange.start_step argmax argmin argsort argsort.stable asin asinh atan atan2 atanh
avg_pool1d baddbmm batch_norm bitwise_and.Scalar bitwise_and.Scalar_Tensor bitwise_and.Tensor bitwise_left_shift.Tensor
bitwise_left_shift.Tensor_Scalar bitwise_not bitwise_or.Scalar bitwise_or.Scalar_Tensor bitwise_or.Tensor
bitwise_right_shift.Tensor bitwise_right_shift.Tensor_Scalar bitwise_xor.Scalar bitwise_xor.Tensor block_diag bmm
broadcast_tensors broadcast_to bucketize.Scalar bucketize.Tensor cat ceil celu chunk clamp clamp.Tensor clamp_max
clamp_max.Tensor clamp_min clamp_min.Tensor clone column_stack complex concat conj constant_pad_nd contiguous conv1d
conv1d.padding copy copysign.Scalar copysign.Tensor cos cosh cosine_similarity cummax cummin cumprod cumsum detach diag
diag_embed diagonal diff div.Scalar div.Scalar_mode div.Tensor div.Tensor_mode divide.Scalar divide.Scalar_mode
divide.Tensor divide.Tensor_mode dot dstack einsum elu embedding eq.Scalar eq.Tensor erf erfc erfinv exp exp2 expand
expand_as expm1 eye eye.m fill.Scalar fill.Tensor flatten.using_ints flip floor floor_divide floor_divide.Scalar
fmod.Scalar fmod.Tensor frac full full_like gather ge.Scalar ge.Tensor gelu glu greater.Scalar greater.Tensor group_norm
gt.Scalar gt.Tensor hardsigmoid hardswish hardtanh heaviside hstack hypot imag index.Tensor index_add index_copy
index_fill.int_Scalar index_fill.int_Tensor index_put index_select inner isfinite isinf isnan isneginf isposinf
ldexp.Tensor le.Scalar le.Tensor leaky_relu lerp.Scalar lerp.Tensor lgamma linalg_vecdot linalg_vector_norm linear
linspace log log10 log1p log2 log_sigmoid log_softmax.int logaddexp logaddexp2 logcumsumexp logical_and logical_not
logical_or logical_xor logit logsumexp lt.Scalar lt.Tensor layer_norm masked_fill.Scalar masked_fill.Tensor matmul max
max.dim max.other max_pool1d maximum mean mean.dim meshgrid meshgrid.indexing min min.dim min.other minimum mish mm
movedim.int movedim.intlist mul.Scalar mul.Tensor multiply.Scalar multiply.Tensor mv nan_to_num narrow ne.Scalar
ne.Tensor neg negative new_full new_ones new_zeros norm.Scalar norm.ScalarOpt_dim norm.ScalarOpt_dim_dtype
norm.ScalarOpt_dtype numpy_T one_hot ones ones_like outer pad permute polar positive pow.Scalar pow.Tensor_Scalar
pow.Tensor_Tensor prelu prod prod.dim_int ravel real reciprocal relu relu6 remainder.Scalar remainder.Scalar_Tensor
remainder.Tensor repeat repeat_interleave.self_int reshape reshape_as rms_norm roll round round.decimals rsqrt
rsub.Scalar rsub.Tensor scalar_tensor scaled_dot_product_attention scatter.reduce scatter.src scatter.value
scatter.value_reduce scatter_add scatter_reduce.two searchsorted.Scalar searchsorted.Tensor select.int select_scatter
selu sgn sigmoid sign signbit silu sin sinc sinh slice.Tensor slice_scatter softmax.int softplus softshrink sort
sort.stable special_expit split.Tensor split.sizes split_with_sizes sqrt square squeeze squeeze.dim squeeze.dims stack
std std.correction std.dim std_mean.correction std_mean.dim sub.Scalar sub.Tensor subtract.Scalar subtract.Tensor sum
sum.dim_IntList swapaxes swapdims t take_along_dim tan tanh tensor_split.indices tensor_split.sections tensordot
threshold tile to.dtype topk trace transpose.int tril tril_indices triu triu_indices true_divide.Scalar
true_divide.Tensor trunc type_as unbind.int unflatten.int unfold unsafe_chunk unsafe_split.Tensor
unsafe_split_with_sizes unsqueeze upsample_nearest1d.vec var var.correction var.dim var_mean.correction var_mean.dim
view view.dtype view_as view_as_complex view_as_real vstack where.Scalar where.ScalarOther where.ScalarSelf where.self
xlogy.Tensor zeros zeros_like _softmax _log_softmax _safe_softmax _to_copy _unsafe_view _weight_norm __and__.Scalar
__and__.Tensor __or__.Scalar __or__.Tensor __xor__.Scalar __xor__.Tensor __lshift__.Scalar __lshift__.Tensor
__rshift__.Scalar __rshift__.Tensor
"""

ATTENTION = "autoresearch::attention.default"
"""Stands for a fused attention kernel (FlashAttention, Triton), which the judge has no reason to run as such: the
candidate's side exports its kernel as this operator, and the judge computes the same function with torch's own
attention."""

ALLOWED = frozenset(
    {f"aten.{name}" if "." in name else f"aten.{name}.default" for name in _OVERLOADS.split()} | {ATTENTION}
)

WITHHELD = frozenset({"layout", "device", "pin_memory", "memory_format", "generator", "non_blocking", "out"})
"""Arguments that no graph may set: where and how to store is the judge's business."""

MAX_SIZE = 1 << 40
"""Largest whole number as a size, index or dimension; beyond it kernels' own products may overflow."""
MAX_RESULTS = 4096
"""Most tensors that one operator may give (split, unbind)."""
_WORDS = frozenset(
    {
        "none", "tanh", "trunc", "floor", "constant", "reflect", "replicate", "circular", "valid", "same", "ij", "xy",
        "add", "multiply", "sum", "prod", "mean", "amax", "amin", "left", "right",
    }
)  # fmt: skip
_EINSUM = re.compile(r"[a-zA-Z.,>\- ]{1,120}")

DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
        torch.uint8, torch.bool, torch.complex64,
    )
}  # fmt: skip


@dataclass(frozen=True)
class Ref:
    """A tensor argument: the number of an earlier value."""

    value: int


@dataclass(frozen=True)
class Operator:
    """One entry of the table, ready to call with named arguments."""

    name: str
    call: Callable[..., Any]
    kinds: dict[str, str]
    """Argument -> its type in the operator's schema."""
    required: frozenset[str]
    places_result: bool
    """Makes a tensor from nothing, so that it must be told the device."""
    lists_result: bool
    """Gives a list of tensors, whose length follows from the arguments."""
    results: int
    """Tensors given, where lists_result is false."""


@cache
def lookup(name: str) -> Operator:
    """The operator of that name. Raises Refused (OperatorNotAllowed) for one off the list."""
    if name not in ALLOWED:
        raise Refused(
            OPERATOR_NOT_ALLOWED,
            "Operator",
            f"{quoted(name)} is not an operator that the judge runs{_hint(name)}. docs/reference lists those it does.",
        )
    if name == ATTENTION:
        from .attention import attention, define

        define()
        overload, call = torch.ops.autoresearch.attention.default, attention
    else:
        _, packet, variant = name.split(".")
        overload = call = getattr(getattr(torch.ops.aten, packet), variant)
    schema = overload._schema
    if schema.is_mutable:
        raise AssertionError(f"{name} changes its arguments and must not be in the table")
    arguments = [argument for argument in schema.arguments if argument.name not in WITHHELD]
    kinds = {argument.name: _kind(argument) for argument in arguments}
    takes_tensor = any("Tensor" in kind for kind in kinds.values())
    returned = [str(returned.type) for returned in schema.returns]
    return Operator(
        name=name,
        call=call,
        kinds=kinds,
        required=frozenset(a.name for a in arguments if not a.has_default_value()),
        places_result=not takes_tensor and any(a.name == "device" for a in schema.arguments),
        lists_result=returned == ["List[Tensor]"],
        results=len(returned),
    )


def _kind(argument: Any) -> str:
    return "Optional[ScalarType]" if argument.name == "dtype" else str(argument.type)


def _hint(name: str) -> str:
    for part, hint in (
        ("dropout", ": dropout must be off in eval mode, so pass `self.training`"),
        ("empty", ": it reads memory that nothing has written, use zeros"),
        ("as_strided", ": it reaches outside its tensor, use slicing, view or unfold"),
        ("rand", ": it draws random numbers"),
        ("bernoulli", ": it draws random numbers"),
        ("multinomial", ": it draws random numbers"),
        ("flex_attention", ": use scaled_dot_product_attention with a mask"),
        ("nonzero", ": the size of its result depends on the data, use a mask"),
        ("_local_scalar_dense", ": it turns a tensor into a Python number (.item()), keep it a tensor"),
    ):
        if part in name:
            return hint
    return ""


def argument(operator: Operator, name: str, value: Any, known: int, where: str) -> Any:
    """One argument as graph.json gives it, checked against the schema; tensors become Ref.

    `known` is the number of values that exist before this node: a reference at or above it would be a forward
    reference or a cycle. Raises Refused.
    """
    kind = operator.kinds.get(name)
    if kind is None:
        raise malformed("Argument", f"{where}: {operator.name} has no argument {quoted(name)} that a graph may set.")
    inner = kind
    if kind.startswith("Optional["):
        if value is None:
            return None
        inner = kind[len("Optional[") : -1]
    if inner.startswith("List["):
        if not isinstance(value, list) or len(value) > MAX_RESULTS:
            raise malformed("Argument", f"{where}: {name} must be a list of at most {MAX_RESULTS} items.")
        return [_scalar(inner[len("List[") : -1], item, known, f"{where}: {name}") for item in value]
    return _scalar(inner, value, known, f"{where}: {name}")


def _scalar(kind: str, value: Any, known: int, where: str) -> Any:
    if kind == "Optional[Tensor]" and value is None:
        return None
    check = _CHECKS.get(kind.removeprefix("Optional[").removesuffix("]"))
    if check is None:
        raise malformed("Argument", f"{where}: an argument of type {kind} cannot be given.")
    result = check(value, known)
    if result is None:
        raise malformed("Argument", f"{where}: {quoted(value)} is not a valid {kind}.")
    return result


def _tensor(value: Any, known: int) -> Ref | bool | int | float | None:
    """A reference; or a number, which an operator takes for a tensor without dimensions (`x * 2` is traced so)."""
    if isinstance(value, int | float):
        return value
    if isinstance(value, dict) and value.keys() == {"tensor"}:
        number = value["tensor"]
        if isinstance(number, int) and not isinstance(number, bool) and 0 <= number < known:
            return Ref(number)
    return None


def _int(value: Any, _: int) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= MAX_SIZE else None


def _float(value: Any, _: int) -> float | None:
    if isinstance(value, dict) and value.keys() == {"float"}:
        return {"inf": float("inf"), "-inf": float("-inf")}.get(value["float"]) if _text(value["float"]) else None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _number(value: Any, _: int) -> bool | int | float | None:
    return value if isinstance(value, int | float) else _float(value, 0)


def _bool(value: Any, _: int) -> bool | None:
    return value if isinstance(value, bool) else None


def _text(value: Any, _: int = 0) -> str | None:
    return value if isinstance(value, str) and (value in _WORDS or value in ("inf", "-inf")) else None


def _equation(value: Any, _: int) -> str | None:
    return value if isinstance(value, str) and (value in _WORDS or _EINSUM.fullmatch(value)) else None


def _dtype(value: Any, _: int) -> torch.dtype | None:
    if isinstance(value, dict) and value.keys() == {"dtype"} and isinstance(value["dtype"], str):
        return DTYPES.get(value["dtype"])
    return None


_CHECKS: dict[str, Callable[[Any, int], Any]] = {
    "Tensor": _tensor,
    "int": _int,
    "float": _float,
    "number": _number,
    "bool": _bool,
    "str": _equation,
    "ScalarType": _dtype,
}


def forbidden_use(operator: Operator, arguments: dict[str, Any]) -> str | None:
    """Why this use of an allowed operator is none that the judge runs; None when it is.

    These operators are pure only under some arguments.
    """
    packet = operator.name.split(".")[1]
    if packet == "scaled_dot_product_attention" and arguments.get("dropout_p", 0.0) != 0.0:
        return "dropout_p is not 0: it draws random numbers, so pass `self.dropout if self.training else 0.0`"
    if packet == "batch_norm" and arguments.get("training") is not False:
        return "training is not false: it would change the running statistics and mix rows"
    if packet == "one_hot" and arguments.get("num_classes", -1) < 1:
        return "num_classes must be given: without it the size of the result depends on the data"
    return None


def result_count(operator: Operator, arguments: dict[str, Any], sizes: Callable[[Ref], tuple[int, ...]]) -> int | None:
    """How many tensors an operator that gives a list will give, before it is run; None where only it can tell.

    Raises Refused when they are more than MAX_RESULTS: each takes memory, even without elements.
    """
    if not operator.lists_result or "self" not in operator.kinds:
        return None
    if not isinstance(arguments["self"], Ref):
        return None
    shape = sizes(arguments["self"])
    dim = arguments.get("dim", 0)
    size = shape[dim] if -len(shape) <= dim < len(shape) else 0
    count = size
    for name in ("split_size", "split_size_or_sections", "chunks", "sections", "split_sizes", "indices"):
        given = arguments.get(name)
        if isinstance(given, list):
            return None
        if isinstance(given, int):
            count = -(-size // max(1, given)) if name.startswith("split") else given
    if count > MAX_RESULTS:
        raise malformed("Argument", f"{operator.name} would give {count} tensors; the most is {MAX_RESULTS}.")
    return count
