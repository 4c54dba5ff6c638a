"""What strangers write is shown harmless and short."""

from __future__ import annotations

import unicodedata

import pytest
from autoresearch_operator.observe import text
from hypothesis import given
from hypothesis import strategies as st


@given(st.text(), st.integers(2, 200))
def test_a_cleaned_title_is_one_short_line_without_control_characters(words: str, limit: int) -> None:
    shown = text.clean(words, limit)
    assert len(shown) <= limit
    assert not {unicodedata.category(char) for char in shown} & {"Cc", "Cs", "Zl", "Zp"}
    shown.encode("utf-8")


@given(st.text(max_size=500))
def test_a_cleaned_block_keeps_its_lines_and_loses_its_escapes(words: str) -> None:
    shown = text.clean_block(words)
    assert len(shown.splitlines()) == len(words.splitlines()) or "" in words.splitlines()
    assert not {unicodedata.category(char) for char in shown.replace("\n", "")} & {"Cc", "Cs"}


def test_hidden_characters_are_shown_not_dropped() -> None:
    assert text.clean("\x1b[31mred") == "\\x1b[31mred"
    assert text.clean("a\u202eb") == "a\\u202eb"
    assert text.clean("joined \U0001f469\u200d\U0001f52c") == "joined \U0001f469\u200d\U0001f52c"


def test_a_long_title_ends_in_an_ellipsis() -> None:
    assert text.clean("x" * 4096, 40) == "x" * 39 + "…"
    assert text.clean("short", 40) == "short"
    assert text.clean("  two\n lines\t", 40) == "two lines"


@pytest.mark.parametrize(
    ("value", "shown"), [(None, "–"), (float("nan"), "–"), (float("inf"), "–"), (1.98768, "1.9877"), (0.0, "0.0000")]
)
def test_scores_have_four_decimals_and_what_is_no_score_has_none(value: float | None, shown: str) -> None:
    assert text.bpb(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"), [(0.01234, "+0.0123"), (-0.5, "-0.5000"), (0.00001, "0.0000"), (None, "–")]
)
def test_differences_have_a_sign_unless_they_are_nothing(value: float | None, shown: str) -> None:
    assert text.signed(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "–"), (512, "512 B"), (612 << 20, "612 MiB"), (3 << 30, "3.0 GiB"), (5 << 40, "5.0 TiB")],
)
def test_sizes_are_in_binary_units(value: int | None, shown: str) -> None:
    assert text.size(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.2, "0 s"),
        (59, "59 s"),
        (200, "3 min 20 s"),
        (7500, "2 h 05 min"),
        (273_600, "3 d 4 h"),
        (None, "–"),
        (-5, "0 s"),
    ],
)
def test_durations_are_in_words_a_person_uses(value: float | None, shown: str) -> None:
    assert text.duration(value) == shown


@pytest.mark.parametrize(("value", "shown"), [(812, "812"), (18_300, "18.3k"), (1_660_000, "1.66M"), (2.5e9, "2.5G")])
def test_counts_have_three_figures(value: float, shown: str) -> None:
    assert text.count(value) == shown
