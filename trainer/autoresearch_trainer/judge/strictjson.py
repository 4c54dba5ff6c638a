"""JSON from a hostile author: size, depth, number and key are checked before or while the library parses."""

import json
import math
import re
from typing import Any

from .refused import malformed, quoted

MAX_DEPTH = 16
"""graph.json nests six levels; nothing honest comes near."""
MAX_INTEGER = (1 << 63) - 1
_LONGEST_NUMBER = 40

# Possessive quantifiers: a string that is never closed must not make the scan try again from every quote.
_TOKENS = re.compile(rb'"(?:[^"\\]|\\.)*+"|[\[{]|[\]}]|"', re.DOTALL)


def parse(data: bytes, where: str) -> Any:
    """The value that data, UTF-8 JSON, holds. `where` names the file in sentences.

    Raises Refused for what JSON forbids, for duplicate keys, NaN and infinities, integers beyond 64 bits, and nesting
    deeper than MAX_DEPTH. The caller bounds len(data).
    """
    _check_depth(data, where)

    def integer(text: str) -> int:
        value = int(text) if len(text) <= _LONGEST_NUMBER else MAX_INTEGER + 1
        if not -MAX_INTEGER <= value <= MAX_INTEGER:
            raise malformed("Number", f"{where}: {quoted(text)} does not fit 64 bits.")
        return value

    def real(text: str) -> float:
        value = float(text) if len(text) <= _LONGEST_NUMBER else math.inf
        if not math.isfinite(value):
            raise malformed("Number", f"{where}: {quoted(text)} is not a finite number.")
        return value

    def constant(text: str) -> Any:
        raise malformed("Number", f"{where}: {text} is not a number that JSON knows.")

    def pairs(members: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(members)
        if len(found) != len(members):
            names = [name for name, _ in members]
            twice = next(name for name in names if names.count(name) > 1)
            raise malformed("DuplicateKey", f"{where}: the key {quoted(twice)} stands twice in one object.")
        return found

    try:
        text = data.decode("utf-8")
        return json.loads(text, parse_int=integer, parse_float=real, parse_constant=constant, object_pairs_hook=pairs)
    except UnicodeDecodeError as error:
        raise malformed("JSON", f"{where}: byte {error.start} is not UTF-8.") from error
    except json.JSONDecodeError as error:
        raise malformed("JSON", f"{where}: {error.msg} at character {error.pos}.") from error


def _check_depth(data: bytes, where: str) -> None:
    depth = 0
    for match in _TOKENS.finditer(data):
        first = match[0][:1]
        if first in b"[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise malformed("Depth", f"{where}: nested deeper than {MAX_DEPTH} levels at byte {match.start()}.")
        elif first in b"]}":
            depth -= 1
        elif match[0] == b'"':
            raise malformed("JSON", f"{where}: the string at byte {match.start()} has no end.")


def only(value: Any, keys: set[str], where: str) -> dict[str, Any]:
    """value as an object with exactly these keys. Raises Refused otherwise."""
    if not isinstance(value, dict):
        raise malformed("Schema", f"{where}: an object was expected, not {quoted(value)}.")
    if value.keys() != keys:
        missing, unknown = sorted(keys - value.keys()), sorted(value.keys() - keys)
        what = f"{missing[0]} is missing" if missing else f"{quoted(unknown[0])} is not a field"
        raise malformed("Schema", f"{where}: {what}.")
    return value


def whole(value: Any, low: int, high: int, where: str) -> int:
    """value as an int in low..high (true and false are none). Raises Refused otherwise."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise malformed("Schema", f"{where}: a whole number from {low} to {high} was expected, not {quoted(value)}.")
    return value


def items(value: Any, most: int, where: str) -> list[Any]:
    """value as a list of at most `most` items. Raises Refused otherwise."""
    if not isinstance(value, list):
        raise malformed("Schema", f"{where}: a list was expected, not {quoted(value)}.")
    if len(value) > most:
        raise malformed("Schema", f"{where}: {len(value)} items; the most is {most}.")
    return value


def text(value: Any, pattern: re.Pattern[str], where: str) -> str:
    """value as a string that pattern matches in full. Raises Refused otherwise."""
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise malformed("Schema", f"{where}: {quoted(value)} is not a name that is allowed here.")
    return value
