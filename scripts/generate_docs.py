#!/usr/bin/env python
"""Writes docs/reference/ from the API's models and enums and the list of metrics, or with --check tells whether it is
up to date."""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from types import ModuleType
from typing import Any

import annotated_types
from autoresearch_operator.api import proposers, reasons, run, trainer
from autoresearch_operator.api.base import Duration, Model, Quantity
from autoresearch_operator.api.experiment import Experiment
from autoresearch_operator.api.fields import Type, by_alias, documented, field_type
from autoresearch_operator.api.run import ResearchRun
from autoresearch_operator.observe.catalogue import METRICS
from autoresearch_operator.operator_settings import PREFIX, OperatorSettings
from generated import ROOT, write_or_check
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

REFERENCE = ROOT / "docs" / "reference"
GENERATED = (
    "<!-- Written by scripts/generate_docs.py from the code: change the docstrings there, then run that script. -->"
)

_BOUNDS = ((annotated_types.Ge, "ge", "≥"), (annotated_types.Gt, "gt", ">"), (annotated_types.Le, "le", "≤"))


def enum_members(module: ModuleType, enum: type[StrEnum]) -> list[tuple[str, str]]:
    """Each member's value and the docstring under it, which Python itself does not keep."""
    tree = ast.parse(inspect.getsource(module))
    body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == enum.__name__)
    found = []
    for statement, after in zip(body, [*body[1:], None], strict=True):
        if not isinstance(statement, ast.Assign):
            continue
        assert isinstance(statement.targets[0], ast.Name)  # noqa: S101 - the members of an enum
        member = enum[statement.targets[0].id]
        if not (isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)):
            raise SystemExit(f"{enum.__name__}.{member.name} has no docstring under it: say what made it true")
        found.append((str(member.value), " ".join(str(after.value.value).split())))
    return found


def enums_of(module: ModuleType) -> list[type[StrEnum]]:
    return [
        value
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, StrEnum) and value.__module__ == module.__name__
    ]


def reasons_page() -> str:
    lines = ["# Phases, verdicts, conditions and reasons", "", GENERATED, ""]
    for module in (reasons, run, trainer, proposers):
        for enum in enums_of(module):
            lines += [f"## {enum.__name__}", "", inspect.getdoc(enum) or "", "", "| value | meaning |", "|---|---|"]
            lines += [f"| `{value}` | {_cell(text)} |" for value, text in enum_members(module, enum)]
            lines.append("")
    return "\n".join(lines)


def api_page() -> str:
    lines = ["# The API, `autoresearch.dev/v1alpha1`", "", GENERATED, ""]
    lines += [
        "Durations are strings such as `3m` or `1h30m` (units h, m, s, ms); quantities are Kubernetes' own, such as",
        "`64Gi` or `500m`. An unknown field is refused. What a default of *none* or *unset* means is said under the",
        "field. The operator writes `status`, and nobody else does.",
        "",
    ]
    for kind in (ResearchRun, Experiment):
        lines += [f"## {kind.__name__}", "", inspect.getdoc(kind) or "", ""]
        lines += _model_tables(kind, "")
    return "\n".join(lines)


def _model_tables(model: type[Model], path: str) -> list[str]:
    lines = ["| field | type | default | meaning | may change |", "|---|---|---|---|---|"]
    below: list[str] = []
    for alias, field in by_alias(model).items():
        kind = field_type(field)
        here = f"{path}.{alias}" if path else alias
        meaning, change = documented(field)
        if not meaning:
            raise SystemExit(f"{model.__name__}: {alias} has no docstring under it")
        lines.append(f"| `{here}` | {_type(kind)} | {_default(field)} | {_cell(meaning)} | {_cell(change) or '—'} |")
        inner = kind.model or (kind.item.model if kind.item else None)
        if inner is not None:
            place = here if kind.model else f"{here}[]"
            below += [f"### {place}", "", inspect.getdoc(inner) or "", "", *_model_tables(inner, place)]
    return [*lines, "", *below]


def _type(kind: Type) -> str:
    if kind.model is not None:
        return "map"
    if kind.item is not None:
        item = "map" if kind.item.model is not None else _type(kind.item)
        return f"{'list' if kind.is_list else 'map'} of {item}{_bounds(kind)}"
    if isinstance(kind.bare, type) and issubclass(kind.bare, StrEnum):
        name = kind.bare.__name__
        return f"one of [{name}](reasons.md#{name.lower()})" if len(kind.bare) > 8 else _choices(list(kind.bare))
    if arguments := getattr(kind.bare, "__args__", ()):
        literal = all(isinstance(argument, str) for argument in arguments)
        return _choices(arguments) if literal else f"list of {len(arguments)} numbers"
    names: dict[Any, str] = {int: "integer", float: "number", bool: "boolean", str: "string"}
    names |= {Duration: "duration", Quantity: "quantity"}
    return names.get(kind.bare, "any value") + _bounds(kind)


def _choices(values: Sequence[str]) -> str:
    return _cell(" | ".join(f"`{value}`" for value in values))


def _bounds(kind: Type) -> str:
    texts = []
    for entry in _flattened(kind.metadata):
        texts += [f"{sign} {getattr(entry, name):g}" for type_, name, sign in _BOUNDS if isinstance(entry, type_)]
        if isinstance(entry, annotated_types.MaxLen):
            texts.append(f"at most {entry.max_length}")
    return f" ({', '.join(texts)})" if texts else ""


def _flattened(metadata: tuple[Any, ...]) -> list[Any]:
    """Field(...) inside a nested Annotated keeps its bounds in a FieldInfo of its own."""
    return [part for entry in metadata for part in (entry.metadata if isinstance(entry, FieldInfo) else [entry])]


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "*required*"
    if field.default is PydanticUndefined:
        return "*none*" if field.default_factory is dict else "*see meaning*"
    match field.default:
        case None:
            return "*unset*"
        case () | "":
            return "*none*"
        case BaseModel() | (BaseModel(), *_):
            return "*see meaning*"
        case value:
            return f"`{_literal(value)}`"


def _literal(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(str, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def settings_page() -> str:
    lines = ["# Settings of the operator", "", GENERATED, ""]
    lines += [" ".join((OperatorSettings.__doc__ or "").split()), ""]
    lines += [
        "The chart's values set the ones that installations differ in; any of them can be given in `extraEnv`.",
        "",
    ]
    lines += ["| variable | default | meaning |", "|---|---|---|"]
    for name, field in OperatorSettings.model_fields.items():
        meaning = " ".join((field.description or "").split())
        if not meaning:
            raise SystemExit(f"OperatorSettings: {name} has no docstring under it")
        # A factory asks the machine that the page is made on; the meaning says what it finds.
        default = "*see meaning*" if field.default_factory is not None else _default(field)
        lines.append(f"| `{PREFIX}{name.upper()}` | {default} | {_cell(meaning)} |")
    return "\n".join(lines)


def metrics_page() -> str:
    lines = ["# Metrics of the operator", "", GENERATED, ""]
    lines += [
        "`GET /metrics` on the operator's HTTP port (8080), in Prometheus' text format or OpenMetrics. How to scrape",
        "it, and queries to begin with: [observability.md](../observability.md).",
        "",
        "Labels are few and bounded: a namespace, a run, a tier, and words from [reasons.md](reasons.md). No series",
        "carries the name of an experiment or a trial, nor any text that a candidate, a proposer or a server wrote.",
        "",
        "A run's series go when the run is deleted. What follows from a run's ledger (all `_run_` metrics but",
        "`pushes_total`, `phase` and `condition`) is read from it at each scrape, and a restart changes none of it; it",
        "is absent while the run cannot be opened. What the process measures of itself begins anew with it. The",
        "library adds `process_` metrics: CPU, memory, open files.",
        "",
        "| name | type | unit | labels | meaning | answers |",
        "|---|---|---|---|---|---|",
    ]
    for metric in METRICS:
        labels = ", ".join(f"`{label}`" for label in metric.labels) or "—"
        unit = metric.unit.replace("_", " ") or "—"
        cells = (f"`{metric.name}`", metric.kind, unit, labels, metric.meaning, metric.question)
        lines.append(f"| {' | '.join(_cell(cell) for cell in cells)} |")
    return "\n".join(lines)


def pages() -> dict[Path, str]:
    made = {
        "api.md": api_page(),
        "metrics.md": metrics_page(),
        "reasons.md": reasons_page(),
        "settings.md": settings_page(),
    }
    return {REFERENCE / name: text + "\n" for name, text in made.items()}


if __name__ == "__main__":
    sys.exit(write_or_check(__doc__, {path: text.rstrip("\n") + "\n" for path, text in pages().items()}))
