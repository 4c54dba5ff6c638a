"""Common Expression Language: the rules that the API server checks, and the few words they are put together from.

A rule says in CEL what a pydantic validator beside the models says in Python, in the same sentence; rules that compare
with the older object (`oldSelf`) exist here only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Rule:
    """One entry of `x-kubernetes-validations`."""

    rule: str
    """The CEL expression that must hold. With `oldSelf` in it, it is checked on updates only."""
    message: str
    """The sentence; with `told` the one for when that cannot be computed."""
    told: str = ""
    """A CEL expression of the sentence, where it shows what was seen."""
    at: str = ""
    """The field below that the refusal names, such as `.branch`."""

    def entry(self) -> dict[str, Any]:
        # FieldValueForbidden prints the sentence alone. FieldValueInvalid would print the value before it, and a
        # refused URL may hold a password.
        entry = {"rule": self.rule, "message": self.message, "reason": "FieldValueForbidden"}
        if self.told:
            entry["messageExpression"] = self.told
        if self.at:
            entry["fieldPath"] = self.at
        return entry


def text(value: str) -> str:
    """A CEL string literal."""
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def pattern(expression: str) -> str:
    """A CEL raw string literal for a regular expression (RE2)."""
    if "'" in expression:
        raise ValueError(f"a raw literal cannot hold a quote: {expression}")
    return f"r'{expression}'"


def matches(expression: str, value: str = "self") -> str:
    return f"{value}.matches({pattern(expression)})"


def quoted(value: str = "self") -> str:
    """CEL for a string as `base.shown` shows it: in quotes and at most 60 characters."""
    return f"'\"' + (size({value}) <= 60 ? {value} : {value}.substring(0, 57) + '…') + '\"'"


def choose(cases: Sequence[tuple[str, str]], otherwise: str) -> str:
    """CEL for the first value whose condition holds: `[(condition, value), …]`."""
    expression = otherwise
    for condition, value in reversed(cases):
        expression = f"{condition} ? {value} : {expression}"
    return expression


def same(field: str) -> str:
    """CEL that holds when a field is as it was. (`self.?x == oldSelf.?x` is shorter, but the API server cannot tell
    how large an optional is, and refuses it as too dear.)"""
    return f"has(self.{field}) == has(oldSelf.{field}) && (!has(self.{field}) || self.{field} == oldSelf.{field})"


def fixed(field: str, mend: str) -> Rule:
    """A field that never changes once the object exists; setting and unsetting it are changes too."""
    return Rule(same(field), f"cannot change: {mend}", at=f".{field}")
