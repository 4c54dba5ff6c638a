"""report.html: valid, self-contained, harmless, small."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from xml.etree.ElementTree import Element

import html5lib
import pytest
from autoresearch_operator.observe import report as reports
from autoresearch_operator.observe.report import diff_markup, fair_share, report_html, write_report
from autoresearch_operator.observe.summary import RunSummary, summarise
from autoresearch_operator.research.records import Effect, Observed, Standing
from hypothesis import given, settings
from observed_runs import FACTS, hostile, made_up, made_up_records
from strange_runs import summaries

DIFF = "--- a/train.py\n+++ b/train.py\n@@ -1 +1 @@\n-LR = 1 < 2\n+LR = '</pre><script>alert(1)</script>'\n"


@pytest.fixture(autouse=True)
def _quick_charts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Charts have tests of their own and take a second a page."""
    if "real_charts" not in request.fixturenames:
        monkeypatch.setattr(reports, "chart_png", lambda *_args, **_named: b"picture")


@pytest.fixture
def real_charts() -> None:
    """Asked for by tests about a page's size."""


def parsed(page: str) -> Element:
    """The page's tree; a page that is not valid HTML is an error."""
    return html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(page)


def elements(root: Element) -> Iterator[Element]:
    return (element for element in root.iter() if isinstance(element.tag, str))


def words_of(element: Element) -> str:
    return " ".join("".join(element.itertext()).split())


def assert_self_contained(page: str) -> None:
    root = parsed(page)
    for element in elements(root):
        assert element.tag not in {"link", "iframe", "object", "embed", "form", "base", "audio", "video"} or (
            element.tag == "link" and element.get("href") == "data:,"
        )
        for name, value in element.attrib.items():
            assert not name.startswith("on"), f"{element.tag} has {name}"
            if name in {"src", "srcset", "href", "action", "poster", "data"}:
                assert value.startswith(("data:", "#")), value
    scripts = [element for element in elements(root) if element.tag == "script"]
    assert len(scripts) == 1
    assert "alert" not in (scripts[0].text or "")
    style = next(element for element in elements(root) if element.tag == "style")
    assert "url(" not in (style.text or "") and "@import" not in (style.text or "")
    policy = next(e.get("content", "") for e in elements(root) if e.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'unsafe-inline'")


def test_a_finished_run_opens_with_the_comparison_on_the_hidden_split() -> None:
    summary = made_up(20)
    assert summary.final is not None
    lead = next(e for e in elements(parsed(report_html(summary, {}))) if e.get("class") == "lead")
    assert f"{summary.final.head.mean:.4f}" in words_of(lead)
    assert f"{summary.final.baseline.mean:.4f}" in words_of(lead)
    assert "no decision has seen" in words_of(lead)


def test_a_comparison_whose_interval_holds_zero_says_that_it_shows_nothing() -> None:
    observed, standing = made_up_records(20)
    assert standing.final is not None
    level = replace(standing, final=replace(standing.final, head=standing.final.baseline))
    assert "does not show an improvement" in report_html(summarise(FACTS, observed, level, now=1.8e9), {})


def test_the_page_is_valid_and_asks_for_nothing_whatever_a_proposer_writes() -> None:
    summary = hostile()
    page = report_html(summary, dict.fromkeys(range(len(summary.rows)), DIFF))
    assert_self_contained(page)
    assert "\x1b" not in page and "\u202e" not in page and "\x00" not in page
    shown = words_of(parsed(page))
    assert "<script>alert(1)</script>" in shown, "a title is shown as it was written"
    page.encode("utf-8")


@settings(max_examples=20, deadline=None)
@given(summaries())
def test_strange_records_make_a_valid_page(summary: RunSummary) -> None:
    assert_self_contained(report_html(summary, {0: DIFF, 1: ""}))


@pytest.mark.parametrize("candidates", [0, 1])
def test_a_run_that_has_hardly_begun_has_a_page(candidates: int) -> None:
    assert_self_contained(report_html(made_up(candidates, finished=False), {}))
    empty = summarise(FACTS, Observed([], [], 0.0), Standing(0, None, None, None, 0), now=1.0)
    assert "There is no score yet." in report_html(empty, {})


def test_every_experiment_has_a_row_with_its_diff_and_its_reason() -> None:
    summary = made_up(12)
    root = parsed(report_html(summary, dict.fromkeys(range(1, 13), DIFF)))
    rows = {e.get("id"): e for e in elements(root) if e.tag == "tr" and e.get("id")}
    assert set(rows) == {f"e{number}" for number in range(13)}
    assert "LR = 1 < 2" in words_of(rows["e5"])
    assert summary.rows[5].outcome in words_of(rows["e5"])
    assert rows["e5"].get("data-v") == "rejected"


def test_tables_have_headers_images_have_words_and_buttons_work_from_the_keyboard() -> None:
    root = parsed(report_html(made_up(12), {}))
    for table in (e for e in elements(root) if e.tag == "table"):
        heads = [e for e in table.iter("th") if e.get("scope") == "col"]
        assert heads and all(e.get("scope") in {"col", "row"} for e in table.iter("th"))
        for row in table.iter("tr"):
            assert len(list(row)) == len(heads)
    assert all(e.get("alt") for e in elements(root) if e.tag == "img")
    assert all(e.get("type") == "button" for e in elements(root) if e.tag == "button")
    html = next(e for e in elements(root) if e.tag == "html")
    assert html.get("lang") == "en"
    ids = [e.get("id") for e in elements(root) if e.get("id")]
    assert len(ids) == len(set(ids))


def test_filters_stay_hidden_without_a_script() -> None:
    root = parsed(report_html(made_up(12), {}))
    bar = next(e for e in elements(root) if e.get("id") == "f")
    assert bar.get("hidden") is not None
    assert not [e for e in elements(root) if e.tag == "tr" and e.get("hidden") is not None]


def test_each_kept_edit_says_whether_it_still_helps() -> None:
    observed, standing = made_up_records(30)
    assert standing.final is not None
    summary = summarise(FACTS, observed, standing, now=1.8e9)
    page = report_html(summary, {})
    assert "still helps" in page and "cannot tell" in page and "does not help" in page
    number = summary.kept[0].number
    stuck = Effect(number, float("nan"), float("nan"), None, "The edit could not be taken out by itself: conflict")
    final = replace(standing.final, effects=(stuck,))
    assert "could not be taken out by itself" in report_html(
        summarise(FACTS, observed, replace(standing, final=final), now=1.8e9), {}
    )


def test_the_page_says_how_to_get_the_branch_and_what_protected_the_score() -> None:
    page = words_of(parsed(report_html(made_up(12), {})))
    assert "git -C runs/quickstart/repo.git log --patch c0ffee000000..autoresearch/default-quickstart" in page
    assert "Verified, not isolated" in page and "demo corpus is public on this machine" in page
    assert "landlock-7" in page


def test_commands_quote_what_a_shell_would_take_apart() -> None:
    facts = replace(FACTS, repository="my runs/a;b", branch="x")
    assert "git -C 'my runs/a;b' log" in words_of(parsed(report_html(made_up(5, facts=facts), {})))


def test_self_reported_scores_are_marked() -> None:
    assert "self-reported" in report_html(made_up(5, facts=replace(FACTS, evaluation="SelfReported")), {})


def test_colours_of_text_contrast_with_their_ground() -> None:
    """WCAG AA: 4.5 to 1 for text, in both schemes."""
    style = report_html(made_up(1), {}).split("<style>")[1].split("</style>")[0]
    schemes = re.findall(r":root\{([^}]*)\}", style)
    assert len(schemes) == 2
    for scheme in schemes:
        colours = dict(part.split(":") for part in scheme.removeprefix("--").split(";--"))
        colours = {name.removeprefix("--"): value for name, value in colours.items()}
        for ink in ("i", "m", "ok", "bad"):
            for ground in ("g", "s"):
                assert contrast(colours[ink], colours[ground]) >= 4.5, (ink, ground)
        for ground in ("add", "del"):
            assert contrast(colours["i"], colours[ground]) >= 4.5


def contrast(one: str, other: str) -> float:
    def luminance(colour: str) -> float:
        digits = colour.lstrip("#")
        digits = digits if len(digits) == 6 else "".join(2 * digit for digit in digits)
        parts = [int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4)]
        linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_a_thousand_experiments_with_whole_file_edits_stay_under_three_megabytes(real_charts: None) -> None:
    summary = made_up(1000)
    page = report_html(summary, {row.number: DIFF * 80 for row in summary.rows})
    assert len(page.encode()) <= 3_000_000
    assert "more lines: git show" in page


def test_hostile_texts_do_not_make_the_page_larger() -> None:
    summary = hostile(1000)
    assert len(report_html(summary, {row.number: "-<\n+>\n" * 800 for row in summary.rows}).encode()) <= 3_000_000


def test_short_diffs_stay_whole_when_long_ones_are_cut() -> None:
    assert fair_share([10, 10, 1000], 120) == 100
    assert fair_share([10, 10], 120) == 10
    assert fair_share([], 120) == 0


def test_a_diff_is_escaped_and_its_lines_are_marked() -> None:
    shown = str(diff_markup(["--- a", "+++ b", "+x < 1", "+\x1b[2J", "-y", " z"]))
    head, added = '<span class="h">--- a\n+++ b</span>', '<span class="a">+x &lt; 1\n+\\x1b[2J</span>'
    assert shown == f'{head}\n{added}\n<span class="d">-y</span>\n z'


def test_the_page_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.html"
    write_report(made_up(3), {}, path)
    before = path.read_text(encoding="utf-8")
    assert before.endswith("</html>")

    def full(*_args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space"):
        write_report(made_up(4), {}, path)
    assert path.read_text(encoding="utf-8") == before
    assert list(tmp_path.iterdir()) == [path]


def test_titles_of_four_kilobytes_are_cut() -> None:
    assert "<summary>" + "x" * 199 + "…</summary>" in report_html(hostile(), {})
