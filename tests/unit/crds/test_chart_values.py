"""The chart's values: written from one place, explained one by one, and agreeing with the operator's own settings."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from autoresearch_operator.operator_settings import PREFIX, OperatorSettings

ROOT = Path(__file__).resolve().parents[3]
CHART = ROOT / "charts" / "autoresearch-operator"


@pytest.fixture(scope="module")
def generator() -> Iterator[ModuleType]:
    sys.path.insert(0, str(ROOT / "scripts"))
    spec = importlib.util.spec_from_file_location("generate_chart", ROOT / "scripts" / "generate_chart.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(ROOT / "scripts"))


def test_values_and_schema_are_what_the_generator_writes(generator: ModuleType) -> None:
    stale = [path.name for path, text in generator.files().items() if path.read_text() != text]
    assert not stale, "run `make generate`"


def test_every_value_has_a_comment_above_it() -> None:
    lines = (CHART / "values.yaml").read_text().splitlines()
    free = ("resources", "podSecurityContext", "securityContext")
    inside = ""
    for number, line in enumerate(lines):
        if match := re.fullmatch(r"( *)([A-Za-z]+):.*", line):
            inside = match[2] if not match[1] else inside
            # What Kubernetes itself defines is not explained again.
            if inside in free and match[1]:
                continue
            assert lines[number - 1].lstrip().startswith("#"), line


def test_unknown_values_are_refused_everywhere(generator: ModuleType) -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert schema["additionalProperties"] is False
    for name, part in schema["$defs"].items():
        assert part["additionalProperties"] is False, name


def test_settings_have_the_defaults_of_the_operator() -> None:
    values: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
    for key, value in values["settings"].items():
        name = re.sub(r"([A-Z])", lambda match: "_" + match[1].lower(), key)
        assert OperatorSettings.model_fields[name].default == value, key


def test_every_variable_that_the_chart_sets_is_a_setting() -> None:
    template = (CHART / "templates" / "deployment.yaml").read_text()
    known = {f"{PREFIX}{name.upper()}" for name in OperatorSettings.model_fields}
    assert set(re.findall(r"name: (AUTORESEARCH_\w+)", template)) <= known


def test_the_chart_is_released_with_the_operator() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    version = re.search(r'^version = "(.*)"$', (ROOT / "operator" / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None
    assert chart["appVersion"] == version[1]
