"""A script in two parts: the numbers of its settings, and its frame, which is all the rest.

Nearly every candidate of a search is the frame of another one with other numbers. What follows from the frame alone
(whether it is valid Python, what it touches, which names it binds) is worked out once for all of them: that made the
checks of a candidate 30 times cheaper.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from autoresearch_operator.proposers.literals import NotALiteral, literal_value, number

_DIGITS = r"\d[\d_]*"
_SETTING = re.compile(
    rf"^[A-Za-z_]\w*[ \t]*=[ \t]*(?P<number>[+-]?(?:{_DIGITS}(?:\.[\d_]*)?|\.{_DIGITS})(?:[eE][+-]?{_DIGITS})?"
    rf"(?:[ ]?\*\*?[ ]?{_DIGITS})?)(?=[ \t]*(?:#[^\n]*)?(?:\r?\n|\Z))",
    re.ASCII | re.MULTILINE,
)
_PLACE = "0"
"""Stands in the frame where a number was: it has to be valid Python too."""


@dataclass(frozen=True, slots=True)
class Number:
    """The number of one line NAME = number; `start` is the character in the text that it begins at."""

    line: int
    start: int
    literal: str
    value: int | float


@dataclass(frozen=True, slots=True)
class Split:
    """A text as its frame and its numbers. Texts with one frame differ in nothing but their numbers."""

    frame: str
    numbers: tuple[Number, ...]
    text: str

    def keeping(self, lines: Collection[int]) -> str:
        """The frame with the numbers of these lines put back."""
        return _framed(self.text, [found for found in self.numbers if found.line not in lines])


@functools.lru_cache(maxsize=64)
def split(text: str) -> Split:
    """Takes the numbers out of lines NAME = number that are statements of the module. A text that is no Python has
    none."""
    if "\r" in text.replace("\r\n", "\n"):
        return Split(text, (), text)  # lines end where the pattern does not see it
    numbers = list(_numbers(text))
    frame = _framed(text, numbers)
    statements = _assignments(frame)
    # A line inside a long string looks the same.
    real = [found for found in numbers if found.line in statements]
    return Split(frame if len(real) == len(numbers) else _framed(text, real), tuple(real), text)


@functools.lru_cache(maxsize=16)
def tree_of(text: str) -> ast.Module:
    """The text's syntax tree, shared: never change it. Raises what ast.parse raises."""
    return ast.parse(text)


def _numbers(text: str) -> Iterator[Number]:
    line, counted = 1, 0
    for match in _SETTING.finditer(text):
        literal = match["number"]
        try:
            value = _value(literal)
        except (SyntaxError, ValueError, MemoryError):
            continue
        start = match.start("number")
        line, counted = line + text.count("\n", counted, start), start
        yield Number(line, start, literal, value)


@functools.lru_cache(maxsize=4096)
def _value(literal: str) -> int | float:
    """Raises SyntaxError, and ValueError (NotALiteral) for what is too large."""
    body = ast.parse(literal, mode="eval").body
    if not isinstance(body, ast.expr):
        raise NotALiteral(literal)
    return number(literal_value(body))


def _framed(text: str, numbers: Collection[Number]) -> str:
    parts, end = [], 0
    for found in numbers:
        parts += [text[end : found.start], _PLACE]
        end = found.start + len(found.literal)
    return "".join([*parts, text[end:]])


@functools.lru_cache(maxsize=16)
def _assignments(frame: str) -> frozenset[int]:
    """Lines on which an assignment to one name begins and ends, at the top level."""
    try:
        body = tree_of(frame.removeprefix("\ufeff")).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return frozenset()
    return frozenset(
        statement.lineno
        for statement in body
        if isinstance(statement, ast.Assign)
        and len(statement.targets) == 1
        and isinstance(statement.targets[0], ast.Name)
        and statement.lineno == statement.end_lineno
    )
