"""Literals as they stand in a script: their values, and how to write a new value in the same style."""

from __future__ import annotations

import ast
import math
import re
from typing import TypeAlias

KnobValue: TypeAlias = "bool | int | float | str | tuple[KnobValue, ...]"

_MAX_BITS = 256
"""An arithmetic literal may not grow past this: 10**10**10 in a candidate must not stop the operator."""

_POWER_OF_TWO = re.compile(r"2(\s*)\*\*(\s*)\d[\d_]*\Z")
_PRODUCT = re.compile(r"(\d[\d_]*)(\s*\*\s*)(\d[\d_]*)\Z")


class NotALiteral(ValueError):
    """The expression is not a number, text, truth value, or tuple or arithmetic of those."""


def literal_value(node: ast.expr) -> KnobValue:
    """The value of a literal expression, arithmetic of number literals included (`2**17` is 131072).

    Lists come back as tuples. Raises NotALiteral for names, calls, None, bytes, NaN and absurdly large numbers.
    """
    match node:
        case ast.Constant(value=bool() | int() | float() | str() as value):
            return _bounded(value)
        case ast.Tuple(elts=items) | ast.List(elts=items):
            return tuple(literal_value(item) for item in items)
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=operand):
            amount = number(literal_value(operand))
            return -amount if isinstance(sign, ast.USub) else amount
        case ast.BinOp(left=left, op=operator, right=right):
            return _bounded(arithmetic(operator, number(literal_value(left)), number(literal_value(right))))
    raise NotALiteral(f"{ast.unparse(node)!r} is not a literal")


def arithmetic(operator: ast.operator, left: float, right: float) -> float:  # noqa: PLR0911 (a table of operators)
    """`left operator right` for numbers, bounded in size; NotALiteral where it has no sensible result."""
    try:
        match operator:
            case ast.Add():
                return left + right
            case ast.Sub():
                return left - right
            case ast.Mult():
                return left * right
            case ast.Div():
                return left / right
            case ast.FloorDiv():
                return left // right
            case ast.Mod():
                return left % right
            case ast.Pow() if abs(right) * max(1.0, math.log2(abs(left) + 1)) <= _MAX_BITS:
                result = left**right
                if isinstance(result, int | float):
                    return result
    except (ZeroDivisionError, OverflowError) as error:
        raise NotALiteral(f"{left} {type(operator).__name__} {right}: {error}") from error
    raise NotALiteral(f"{left} {type(operator).__name__} {right} has no plain number as its result")


def format_literal(value: KnobValue, like: str) -> str:
    """`value` as source text in the style of the literal `like`: quotes, underscores, exponents, powers of two.

    Floats are written with at most 10 significant digits, so 0.012000000000000002 becomes 0.012.
    """
    like = like.strip()
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, int):
        return _format_int(value, like)
    if isinstance(value, float):
        return _format_float(value, like)
    if isinstance(value, str):
        return _format_text(value, like)
    opening, closing = ("[", "]") if like.startswith("[") else ("(", ")")
    inner = ", ".join(format_literal(item, "") for item in value)
    return f"{opening}{inner}{',' if len(value) == 1 and opening == '(' else ''}{closing}"


def round_significant(value: float, digits: int) -> float:
    """`value` with `digits` significant digits: what a person would write."""
    return float(f"{value:.{digits}g}")


def same_value(left: KnobValue, right: KnobValue) -> bool:
    """Whether two literals mean the same to a script. True and 1 differ, as do 2 and 2.0 (an int may be a size)."""
    if isinstance(left, tuple) and isinstance(right, tuple):
        return len(left) == len(right) and all(map(same_value, left, right))
    return type(left) is type(right) and left == right


def number(value: KnobValue) -> int | float:
    """`value` when it is a number; NotALiteral for text, truth values and tuples."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise NotALiteral(f"{value!r} is not a number")
    return value


def _bounded(value: KnobValue) -> KnobValue:
    if isinstance(value, float) and not math.isfinite(value):
        raise NotALiteral("the number is not finite")
    if isinstance(value, int) and value.bit_length() > _MAX_BITS:
        raise NotALiteral("the number is too large")
    return value


def _format_int(value: int, like: str) -> str:
    if (power := _POWER_OF_TWO.match(like)) and value > 1 and value & (value - 1) == 0:
        return f"2{power[1]}**{power[2]}{value.bit_length() - 1}"
    if product := _PRODUCT.match(like):
        unit = int(product[3])
        if unit and value >= unit and value % unit == 0:
            return f"{value // unit}{product[2]}{product[3]}"
    return f"{value:_}" if "_" in like else str(value)


def _format_float(value: float, like: str) -> str:
    value = round_significant(value, 10)
    plain = repr(value)
    # An exponent is kept as a habit of the author's, and used where a plain number would be all zeros.
    if value and ("e" in like.lower() or "e" in plain):
        mantissa, _, exponent = f"{value:.9e}".partition("e")
        mantissa = mantissa.rstrip("0").rstrip(".")
        return f"{mantissa}e{int(exponent)}"
    return plain


def _format_text(value: str, like: str) -> str:
    text = repr(value)
    prefers_double = not like.startswith("'")
    if prefers_double and text.startswith("'") and '"' not in value:
        return f'"{text[1:-1]}"'.replace("\\'", "'")
    return text
