"""progress.png is drawn whatever the run looks like."""

from __future__ import annotations

import io
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
from autoresearch_operator.observe.chart import chart_alt, chart_png, progress_png
from autoresearch_operator.observe.summary import RunSummary, summarise
from autoresearch_operator.research.records import Observed, Standing
from hypothesis import given, settings
from observed_runs import FACTS, hostile, made_up, made_up_records
from PIL import Image
from strange_runs import summaries


def drawn(summary: RunSummary, *, dark: bool = False, narrow: bool = False) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return Image.open(io.BytesIO(chart_png(summary, dark=dark, narrow=narrow)))


@pytest.mark.parametrize("candidates", [0, 1, 40, 5000])
def test_a_chart_has_its_size_whatever_the_number_of_experiments(candidates: int, tmp_path: Path) -> None:
    progress_png(made_up(candidates), tmp_path / "progress.png")
    with Image.open(tmp_path / "progress.png") as picture:
        assert picture.size == (1600, 900)


def test_a_run_without_any_experiment_has_a_chart_that_says_so() -> None:
    empty = summarise(FACTS, Observed([], [], 0.0), Standing(0, None, None, None, 0), now=1.0)
    assert drawn(empty).size == (1600, 900)
    assert chart_alt(empty).endswith("no score yet.")


def test_titles_with_mathematics_escapes_and_letters_without_glyphs_are_drawn_without_a_warning() -> None:
    observed, standing = made_up_records(13)
    for title in ("$\\frac{broken$ %d {", "\x1b[31m \U0001f680 中文 \ud800", "_^{}$$"):
        experiments = [replace(record, title=title) for record in observed.experiments]
        drawn(summarise(FACTS, replace(observed, experiments=experiments), standing, now=1.8e9))
    drawn(hostile())


def test_dark_and_light_differ_and_the_phone_s_chart_is_upright() -> None:
    summary = made_up(20)
    light, dark = drawn(summary).convert("RGB"), drawn(summary, dark=True).convert("RGB")
    assert light.getpixel((2, 2)) == (255, 255, 255)
    assert max(dark.getpixel((2, 2))) < 60
    narrow = drawn(summary, narrow=True)
    assert narrow.height > narrow.width


def test_invalid_candidates_are_ticks_of_a_colour_of_their_own() -> None:
    colours = {colour for _, colour in drawn(made_up(40)).convert("RGB").getcolors(maxcolors=1 << 24) or []}
    assert any(abs(r - 0xD5) < 12 and abs(g - 0x5E) < 12 and b < 12 for r, g, b in colours)


def test_the_chart_in_words_has_the_final_gain() -> None:
    assert "accepted edits" in chart_alt(made_up(20))
    assert "hidden split" in chart_alt(made_up(20))


@settings(max_examples=12, deadline=None)
@given(summaries())
def test_strange_records_are_drawn(summary: RunSummary) -> None:
    assert drawn(summary, narrow=True).width == 800
