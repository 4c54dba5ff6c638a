"""`# require:` comments: conditions between knobs, evaluated without running any of the script."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from autoresearch_operator.proposers.literals import KnobValue, NotALiteral, arithmetic, literal_value

_CALLS: dict[str, Callable[..., Any]] = {"min": min, "max": max, "abs": abs}
_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: lambda a, b: a == b,
    ast.NotEq: lambda a, b: a != b,
    ast.Lt: lambda a, b: a < b,
    ast.LtE: lambda a, b: a <= b,
    ast.Gt: lambda a, b: a > b,
    ast.GtE: lambda a, b: a >= b,
    ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,
}


@dataclass(frozen=True, slots=True)
class Requirement:
    """A condition over knobs that every candidate must meet."""

    text: str
    line: int
    names: frozenset[str]
    _tree: ast.expr

    def holds(self, values: Mapping[str, KnobValue]) -> bool:
        """Whether the condition is true. What cannot be computed (a division by zero) does not hold."""
        try:
            return bool(_evaluate(self._tree, values))
        except (NotALiteral, TypeError, ValueError, KeyError, ArithmeticError):
            return False


def parse_requirement(text: str, line: int) -> Requirement:
    """A condition such as `TOTAL_BATCH % MICRO_BATCH == 0`. Raises ValueError with a sentence for anything else."""
    text = text.strip()
    try:
        tree = ast.parse(text, mode="eval").body
        names = frozenset(_names(tree))
    except (SyntaxError, RecursionError, NotALiteral) as error:
        reason = error.msg if isinstance(error, SyntaxError) else str(error)
        raise ValueError(
            f"{text!r} is not a condition over knobs ({reason}): use names, literals, + - * / // % **, "
            "comparisons, and, or, not, min, max and abs"
        ) from error
    return Requirement(text, line, names, tree)


def _names(node: ast.expr) -> set[str]:
    """The knobs that an expression reads; NotALiteral for anything that is not on the short list of forms."""
    match node:
        case ast.Name(id=name):
            return {name}
        case ast.Constant():
            literal_value(node)
            return set()
        case ast.Tuple(elts=parts) | ast.List(elts=parts) | ast.BoolOp(values=parts):
            children = parts
        case ast.UnaryOp(operand=operand, op=ast.USub() | ast.UAdd() | ast.Not()):
            children = [operand]
        case ast.BinOp(left=left, right=right):
            children = [left, right]
        case ast.Compare(left=left, ops=ops, comparators=others) if all(type(op) in _COMPARISONS for op in ops):
            children = [left, *others]
        case ast.Call(func=ast.Name(id=function), args=arguments, keywords=[]) if function in _CALLS and arguments:
            children = arguments
        case _:
            raise NotALiteral(f"{ast.unparse(node)!r} is not allowed here")
    return set().union(*(_names(child) for child in children))


def _evaluate(node: ast.expr, values: Mapping[str, KnobValue]) -> Any:  # noqa: PLR0911 (a table of forms)
    match node:
        case ast.Name(id=name):
            return values[name]
        case ast.Constant(value=value):
            return value
        case ast.Tuple(elts=parts) | ast.List(elts=parts):
            return tuple(_evaluate(part, values) for part in parts)
        case ast.BoolOp(op=ast.And(), values=parts):
            return all(_evaluate(part, values) for part in parts)
        case ast.BoolOp(values=parts):
            return any(_evaluate(part, values) for part in parts)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return not _evaluate(operand, values)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_evaluate(operand, values)
        case ast.UnaryOp(operand=operand):
            return +_evaluate(operand, values)
        case ast.BinOp(left=left, op=operator, right=right):
            numbers = _evaluate(left, values), _evaluate(right, values)
            if not all(isinstance(number, int | float) for number in numbers):
                raise NotALiteral("arithmetic needs numbers")
            return arithmetic(operator, *numbers)
        case ast.Compare(left=left, ops=ops, comparators=others):
            terms = [_evaluate(term, values) for term in (left, *others)]
            return all(_COMPARISONS[type(op)](a, b) for op, a, b in zip(ops, terms, terms[1:], strict=False))
        case ast.Call(func=ast.Name(id=function), args=arguments):
            return _CALLS[function](*(_evaluate(argument, values) for argument in arguments))
    raise NotALiteral(f"{type(node).__name__} is not allowed here")
