"""The kept answer of `results` is shown only while it is true."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from autoresearch_operator.local.answers import facts_now, keep_results, kept_results
from autoresearch_operator.observe.resultsview import Line, ResultsView, results_layout
from autoresearch_operator.observe.tables import render

LINE = Line("1", "✓ Improved", "green", "2.0", "+0.1", "+0.1 ± 0.0", "3", "+2.0", "9 k", "1 MB", "me", "abc", "t", True)
VIEW = ResultsView(("spent: 3 trials",), (LINE,), 7, True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("run.json", "researchrun.yaml", "index.jsonl"):
        (tmp_path / name).write_text("{}")
    return tmp_path


def test_what_was_kept_comes_back_as_it_was(folder: Path) -> None:
    assert kept_results(folder) is None
    keep_results(folder, VIEW, facts_now(folder))
    assert kept_results(folder) == VIEW
    text = render(results_layout(VIEW, width=100), width=100)
    assert "7 rejected rows left out" in text
    assert "Improved" in text


@pytest.mark.parametrize("name", ["run.json", "researchrun.yaml", "index.jsonl", "state.json"])
def test_any_change_of_the_record_ends_its_life(folder: Path, name: str) -> None:
    keep_results(folder, VIEW, facts_now(folder))
    (folder / name).write_text("{ }")
    assert kept_results(folder) is None


def test_a_change_between_reading_and_keeping_is_seen(folder: Path) -> None:
    before = facts_now(folder)
    os.utime(folder / "index.jsonl", ns=(1, 1))
    keep_results(folder, VIEW, before)
    assert kept_results(folder) is None


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"madeFrom": 1}', b'{"madeFrom": [], "view": {}}'])
def test_a_damaged_answer_is_no_answer(folder: Path, damage: bytes) -> None:
    (folder / "results.view.json").write_bytes(damage)
    assert kept_results(folder) is None
