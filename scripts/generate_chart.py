#!/usr/bin/env python
"""Writes the chart's values.yaml and values.schema.json from chart_values.py, or with --check tells whether both are
up to date."""

from __future__ import annotations

import json
import sys
import textwrap
from pathlib import Path
from typing import Any

import yaml
from chart_values import ChartValues, Values
from generated import ROOT, write_or_check

CHART = ROOT / "charts" / "autoresearch-operator"
WIDTH = 110
HEAD = """\
# Values of the chart autoresearch-operator. Written by scripts/generate_chart.py from scripts/chart_values.py: change
# that, then run `make generate`. values.schema.json checks what you set; an unknown key is an error.
"""


def values_yaml() -> str:
    return HEAD + "\n" + "\n".join(_section(ChartValues(), 0)) + "\n"


def _section(values: Values, depth: int) -> list[str]:
    lines: list[str] = []
    for name, field in type(values).model_fields.items():
        key, value = str(field.alias), getattr(values, name)
        if depth == 0 and lines:
            lines.append("")
        # A group is told by its class, a value by its own docstring.
        text = type(value).__doc__ if isinstance(value, Values) else field.description
        if depth == 1 and isinstance(value, Values):
            text = field.description
        lines += _comment(text or "", depth)
        if field.examples:
            lines += _comment(f"Example: {_flow(field.examples[0])}", depth)
        if isinstance(value, Values):
            lines += [f"{'  ' * depth}{key}:", *_section(value, depth + 1)]
        else:
            lines += textwrap.indent(_dumped(key, value), "  " * depth).splitlines()
    return lines


def _comment(text: str, depth: int) -> list[str]:
    indent = "  " * depth + "# "
    return textwrap.wrap(" ".join(text.split()), WIDTH, initial_indent=indent, subsequent_indent=indent)


def _flow(value: object) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=1000).strip()


def _dumped(key: str, value: object) -> str:
    value = int(value) if isinstance(value, float) and value.is_integer() else value
    return yaml.safe_dump({key: value}, sort_keys=False, width=WIDTH).rstrip("\n").replace("''", '""')


def schema() -> dict[str, Any]:
    made = ChartValues.model_json_schema(by_alias=True)
    tidy: dict[str, Any] = _tidied(made)
    tidy["properties"]["global"] = {
        "type": "object",
        "description": "Values that Helm shares between a chart and its subcharts; not used here.",
    }
    return {"$schema": "http://json-schema.org/draft-07/schema#", **tidy, "title": "autoresearch-operator"}


def _tidied(part: Any) -> Any:
    """Without titles and defaults: defaults are in values.yaml, and a title repeats its key."""
    if isinstance(part, list):
        return [_tidied(entry) for entry in part]
    if not isinstance(part, dict):
        return " ".join(part.split()) if isinstance(part, str) else part
    kept = {}
    for key, value in part.items():
        if key in ("title", "default", "examples") and not isinstance(value, dict):
            continue
        if key == "default":
            continue
        kept[key] = {name: _tidied(entry) for name, entry in value.items()} if key == "properties" else _tidied(value)
    return kept


def files() -> dict[Path, str]:
    """Every generated file with its text."""
    return {
        CHART / "values.yaml": values_yaml(),
        CHART / "values.schema.json": json.dumps(schema(), indent=2, ensure_ascii=False) + "\n",
    }


if __name__ == "__main__":
    sys.exit(write_or_check(__doc__, files()))
