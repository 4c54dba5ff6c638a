"""The pages that an administrator reads at night name what the program really says."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path

import pytest
import yaml
from autoresearch_operator.api.load import load_run
from autoresearch_operator.api.reasons import (
    BranchUpdatedReason,
    CompleteReason,
    FailedReason,
    IsolatedReason,
    ProgressingReason,
    ReadyReason,
)

ROOT = Path(__file__).resolve().parents[3]
TROUBLE = (ROOT / "docs" / "troubleshooting.md").read_text()
INSTALL = (ROOT / "docs" / "install.md").read_text()


@pytest.mark.parametrize(
    "reasons",
    [ReadyReason, ProgressingReason, BranchUpdatedReason, IsolatedReason, CompleteReason, FailedReason],
    ids=lambda reasons: reasons.__name__,
)
def test_every_reason_of_a_condition_has_an_entry(reasons: type[StrEnum]) -> None:
    headings = re.findall(r"^### (.+)$", TROUBLE, flags=re.MULTILINE)
    known = {name.strip() for heading in headings for name in heading.split(",")}
    assert {str(reason) for reason in reasons} <= known


def test_no_entry_is_about_a_reason_that_is_gone() -> None:
    every = (ReadyReason, ProgressingReason, BranchUpdatedReason, IsolatedReason, CompleteReason, FailedReason)
    known = {str(reason) for reasons in every for reason in reasons}
    headings = re.findall(r"^### (.+)$", TROUBLE, flags=re.MULTILINE)
    assert {name.strip() for heading in headings for name in heading.split(",")} <= known


@pytest.mark.parametrize("page", ["install.md", "troubleshooting.md"])
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / "docs" / page).read_text()
    headings = {
        re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    }
    for target in re.findall(r"\]\(([^)]+)\)", text):
        path, _, anchor = target.partition("#")
        if path:
            assert (ROOT / "docs" / path).exists(), target
        else:
            assert anchor in headings, target


@pytest.mark.parametrize("file", sorted((ROOT / "examples" / "cluster").glob("*.yaml")), ids=lambda file: file.name)
def test_examples_are_what_the_api_takes(file: Path) -> None:
    for body in yaml.safe_load_all(file.read_text()):
        if body["kind"] == "ResearchRun":
            load_run(yaml.safe_dump(body), filename=file.name, local=False)


def test_every_value_that_the_page_sets_is_one_of_the_charts() -> None:
    values = yaml.safe_load((ROOT / "charts" / "autoresearch-operator" / "values.yaml").read_text())
    found = {setting.strip("'") for line in re.findall(r"--set '?([A-Za-z.\[\]0-9]+)=", INSTALL) for setting in [line]}
    assert found
    for setting in found:
        place = values
        for key in re.sub(r"\[.*$", "", setting).split("."):
            assert key in place, setting
            place = place[key]


def test_the_three_line_run_of_the_page_is_the_example() -> None:
    text = re.search(r"<<'EOF'\n(.*?)\nEOF", INSTALL, flags=re.DOTALL)
    assert text is not None
    example = yaml.safe_load((ROOT / "examples" / "cluster" / "first.yaml").read_text())
    assert yaml.safe_load(text[1]) == example
