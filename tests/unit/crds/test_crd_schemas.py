"""What the CustomResourceDefinitions must be, whatever the models say."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import pytest
import yaml
from autoresearch_operator.api import reasons, structural
from autoresearch_operator.api.base import Model
from autoresearch_operator.api.crd import EXPERIMENT, KINDS, RESEARCH_RUN, Kind
from autoresearch_operator.api.load import load_run
from autoresearch_operator.api.run import ResearchRun, ResearchRunSpec
from autoresearch_operator.research import records
from pydantic import Field

ROOT = Path(__file__).resolve().parents[3]


def generator() -> ModuleType:
    sys.path.insert(0, str(ROOT / "scripts"))
    spec = importlib.util.spec_from_file_location("generate_crds", ROOT / "scripts" / "generate_crds.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.path.remove(str(ROOT / "scripts"))
    return module


def schema_of(kind: Kind) -> dict[str, Any]:
    schema: dict[str, Any] = kind.definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return schema


def everything(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Each schema below, with its path."""
    for name, below in schema.get("properties", {}).items():
        here = f"{path}.{name}" if path else name
        yield here, below
        yield from everything(below, here)
    if "items" in schema:
        yield f"{path}[]", schema["items"]
        yield from everything(schema["items"], f"{path}[]")
    if isinstance(schema.get("additionalProperties"), dict):
        yield f"{path}.*", schema["additionalProperties"]


def fields(kind: Kind) -> list[tuple[str, dict[str, Any]]]:
    return [(path, schema) for path, schema in everything(schema_of(kind)) if path.split(".")[0] not in OURS_NOT]


OURS_NOT = ("apiVersion", "kind", "metadata")


def test_the_files_are_what_the_generator_writes() -> None:
    stale = [path for path, text in generator().files().items() if not path.exists() or path.read_text() != text]
    assert not stale, "run `make generate`"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.plural)
def test_every_string_list_and_map_is_bounded(kind: Kind) -> None:
    for path, schema in fields(kind):
        match schema.get("type"):
            case "string":
                assert "maxLength" in schema or "enum" in schema, path
            case "array":
                assert schema["maxItems"] <= 64, path
                assert schema["x-kubernetes-list-type"] in ("map", "atomic"), path
            case "object" if "properties" not in schema:
                assert schema["maxProperties"] <= 64, path
            case None:
                assert schema["x-kubernetes-int-or-string"] and schema["maxLength"], path


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.plural)
def test_every_field_is_described_in_sentences(kind: Kind) -> None:
    for path, schema in fields(kind):
        if not path.endswith(("[]", ".*")):
            assert re.fullmatch(r"\S.*[.:]", schema["description"]), path
            assert "\n" not in schema["description"], path


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.plural)
def test_nothing_in_a_schema_is_unstructural(kind: Kind) -> None:
    text = yaml.safe_dump(schema_of(kind))
    for word in ("$ref", "$defs", "oneOf", "allOf", "'null'", "nullable"):
        assert word not in text
    for path, schema in fields(kind):
        if "anyOf" in schema:
            assert schema["x-kubernetes-int-or-string"] is True, path


def test_the_default_of_a_spec_is_written_out_and_means_what_the_models_mean() -> None:
    default = schema_of(RESEARCH_RUN)["properties"]["spec"]["default"]
    assert ResearchRunSpec.model_validate(default) == ResearchRunSpec()
    assert default["limits"] == {"experiments": 100, "consecutiveFailures": 12}
    assert default["tiers"] == [
        {"name": "gpu", "gpus": 1, "resourceName": "nvidia.com/gpu", "budget": {"seconds": 300}}
    ]


def test_a_tier_without_a_budget_stays_without_one_because_its_default_depends_on_gpus() -> None:
    tier = schema_of(RESEARCH_RUN)["properties"]["spec"]["properties"]["tiers"]["items"]
    assert "default" not in tier["properties"]["budget"]


def test_columns_name_fields_that_exist() -> None:
    for kind in KINDS:
        paths = {f".{path}" for path, _ in everything(schema_of(kind))}
        for column in kind.columns:
            assert column.path in paths or column.path.startswith(".metadata."), column


def test_the_purposes_of_trials_are_those_of_the_plan() -> None:
    assert {purpose.value for purpose in reasons.TrialPurpose} == {purpose.value for purpose in records.Purpose}
    assert {phase.value for phase in reasons.TrialStatusPhase} == {phase.value for phase in records.TrialPhase}


def documents() -> list[Any]:
    """Every whole ResearchRun in examples/ and in the code blocks of README and docs/."""
    found = [
        pytest.param(text, id=f"{path.name}-{index}")
        for path in sorted((ROOT / "examples").rglob("*.yaml"))
        for index, text in enumerate(re.split(r"^---$", path.read_text(), flags=re.MULTILINE))
        if re.search(r"^kind: ResearchRun$", text, re.MULTILINE)
    ]
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        for index, block in enumerate(re.findall(r"^```yaml\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)):
            if re.search(r"^kind: ResearchRun$", block, re.MULTILINE):
                found.append(pytest.param(block, id=f"{page.name}-{index}"))
    return found


@pytest.mark.parametrize("text", documents())
def test_every_example_is_a_valid_run(text: str) -> None:
    assert isinstance(load_run(text, filename="example", local=False), ResearchRun)


class _Unbounded(Model):
    spec: str
    """A text."""


class _Bare(Model):
    spec: Annotated[str, Field(max_length=3)]


def test_a_field_without_a_bound_or_a_docstring_stops_the_generator_with_its_path() -> None:
    with pytest.raises(structural.NotStructural, match="spec is a string without a bound"):
        structural.structural(_Unbounded, {}, {})
    with pytest.raises(structural.NotStructural, match="spec has no docstring"):
        structural.structural(_Bare, {}, {})


def test_a_rule_at_a_field_that_does_not_exist_stops_the_generator() -> None:
    with pytest.raises(structural.NotStructural, match=r"no field spec\.nothing"):
        structural.structural(EXPERIMENT.model, {"spec.nothing": ()}, {})
