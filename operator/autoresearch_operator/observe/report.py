"""report.html: the whole run on one page that asks the network for nothing.

Everything is inside the file: style, script, charts. A content policy forbids requests, so a hostile title could not
make one even if escaping failed. A page of 1,000 experiments stays under 3 MB: long diffs are cut to fit, the shortest
last, and the command that shows the rest stands in their place.
"""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import jinja2
import markupsafe

from autoresearch_operator.api.reasons import ExperimentKind, Verdict, VerdictReason
from autoresearch_operator.observe import text
from autoresearch_operator.observe.chart import chart_alt, chart_png
from autoresearch_operator.observe.summary import Row, RunSummary
from autoresearch_operator.observe.why import explain, helps_words

PAGE_LIMIT = 2_900_000
"""Characters of a page of up to 1,000 experiments; longer runs get in proportion."""
DIFF_BUDGET = 900_000
"""Characters of all diffs together."""
WORDS_BUDGET = 300_000
"""Characters of all hypotheses together, and of all messages."""


@dataclass(frozen=True, slots=True)
class _Limits:
    """Characters of one experiment's texts at most."""

    diff: int
    words: int
    message: int


@dataclass(frozen=True, slots=True)
class _Entry:
    """One experiment as the template writes it."""

    row: Row
    css: str
    title: str
    outcome: str
    hypothesis: str
    why: tuple[str, ...]
    diff: markupsafe.Markup
    cut: int
    """Lines of the diff that were left out."""


@dataclass(frozen=True, slots=True)
class _Kept:
    row: Row
    title: str
    delta: str
    helps: str
    css: str
    message: str


def write_report(summary: RunSummary, diffs: Mapping[int, str], path: Path) -> None:
    """Writes the page. `diffs`: unified diff by experiment number; a missing one is shown as missing.

    The file appears whole or not at all. Raises OSError when it cannot be written.
    """
    page = report_html(summary, diffs)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(page, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def report_html(summary: RunSummary, diffs: Mapping[int, str]) -> str:
    """The page as text."""
    shown = [row for row in summary.rows if row.kind is not ExperimentKind.ABLATION]
    charts = {
        name: base64.b64encode(chart_png(summary, dark=dark, narrow=narrow)).decode("ascii")
        for name, dark, narrow in (
            ("light", False, False),
            ("dark", True, False),
            ("light_narrow", False, True),
            ("dark_narrow", True, True),
        )
    }
    page, share = "", 1.0
    # Escaping and colours can multiply a text's size, by how much is known only afterwards.
    for _ in range(4):
        page = _page(summary, shown, diffs, charts, share)
        if len(page) <= max(PAGE_LIMIT, PAGE_LIMIT * len(shown) // 1000):
            break
        share *= min(0.5, 0.6 * PAGE_LIMIT / len(page))
    return page


def _page(
    summary: RunSummary, shown: list[Row], diffs: Mapping[int, str], charts: Mapping[str, str], share: float
) -> str:
    limits = _Limits(
        fair_share((len(diffs.get(row.number, "")) for row in shown), int(DIFF_BUDGET * share)),
        max(80, fair_share((len(row.hypothesis) for row in shown), int(WORDS_BUDGET * share))),
        max(80, fair_share((len(row.message) for row in shown), int(WORDS_BUDGET * share))),
    )
    # Colours and escapes can make ten characters of one. A sample tells by how much, before the page is made twice.
    sample = [diffs[row.number][: limits.diff] for row in shown[:: max(1, len(shown) // 20)] if row.number in diffs]
    grown = sum(len(diff_markup(diff.splitlines())) for diff in sample) / max(1, sum(map(len, sample)))
    if grown > 1.6:
        limits = replace(limits, diff=int(limits.diff * 1.6 / grown))
    entries = [_entry(summary, row, diffs.get(row.number, ""), limits) for row in shown]
    return _template().render(
        s=summary,
        t=text,
        name=text.clean(summary.facts.name, 80),
        entries=entries,
        kept=_kept(summary),
        charts=charts,
        chart_alt=chart_alt(summary),
        hardware=[(text.clean(k, 40), text.clean(v, 120)) for k, v in summary.facts.hardware.items()],
        state=text.clean(summary.state, 300),
        made=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(summary.now)),
        filters=_filters(entries),
        commands=_commands(summary),
    )


def fair_share(sizes: Iterable[int], budget: int) -> int:
    """The largest cut at which all sizes, each cut to it, fit the budget together: short ones stay whole."""
    ordered = sorted(sizes)
    left = budget
    for place, size in enumerate(ordered):
        share = left // (len(ordered) - place)
        if size > share:
            return share
        left -= size
    return max(ordered, default=0)


def _entry(summary: RunSummary, row: Row, diff: str, limits: _Limits) -> _Entry:
    why = explain(summary, row)
    sentences = (why.headline, *why.sentences, why.more)
    lines = diff[: limits.diff].splitlines()
    if len(diff) > limits.diff and lines:
        lines.pop()  # the last one is cut in the middle
    return _Entry(
        row=row,
        css=_css(row),
        title=text.clean(row.title, 200) or "(no title)",
        outcome=row.outcome,
        hypothesis=text.clean_block(row.hypothesis, limits.words),
        why=tuple(text.clean(sentence, 400) for sentence in sentences if sentence),
        diff=diff_markup(lines),
        cut=diff.count("\n", sum(len(line) + 1 for line in lines)) if len(diff) > limits.diff else 0,
    )


def diff_markup(lines: Iterable[str]) -> markupsafe.Markup:
    """A diff, escaped, with one element for neighbouring lines of a kind: one for each would triple the page."""
    groups: list[tuple[str, list[str]]] = []
    for line in lines:
        css = "h" if line.startswith(("+++", "---", "@@")) else {"+": "a", "-": "d"}.get(line[:1], "")
        shown = text.visible(line.expandtabs(4))
        if groups and groups[-1][0] == css:
            groups[-1][1].append(shown)
        else:
            groups.append((css, [shown]))
    plain, coloured = markupsafe.Markup("{1}"), markupsafe.Markup('<span class="{0}">{1}</span>')
    return markupsafe.Markup("\n").join(
        (coloured if css else plain).format(css, "\n".join(kept)) for css, kept in groups
    )


def _css(row: Row) -> str:
    if row.verdict is None:
        return "open"
    if row.reason is VerdictReason.MEASURED:
        return "measured"
    return {Verdict.ACCEPTED: "accepted", Verdict.REJECTED: "rejected", Verdict.INVALID: "invalid"}[row.verdict]


def _kept(summary: RunSummary) -> list[_Kept]:
    effects = {effect.number: effect for effect in summary.final.effects} if summary.final is not None else {}
    kept = []
    for row in summary.kept:
        effect = effects.get(row.number)
        title = text.clean(row.title, 160) or "(no title)"
        if effect is None:
            kept.append(_Kept(row, title, text.MISSING, "not measured yet", "open", ""))
            continue
        css = {True: "accepted", False: "invalid", None: "rejected"}[effect.helps]
        words = helps_words(effect.helps)
        figure = text.with_error(effect.delta, effect.error)
        message = text.clean(effect.message, 200) if figure == text.MISSING else ""
        kept.append(_Kept(row, title, figure, words, css, message))
    return kept


def _filters(entries: list[_Entry]) -> list[tuple[str, str, int]]:
    names = (
        ("accepted", "Accepted"),
        ("rejected", "Rejected"),
        ("invalid", "Invalid"),
        ("measured", "Baseline"),
        ("open", "Under way"),
    )
    counted = [(css, words, sum(entry.css == css for entry in entries)) for css, words in names]
    return [item for item in counted if item[2]]


def _commands(summary: RunSummary) -> list[str]:
    facts = summary.facts
    if not facts.branch or not facts.repository:
        return []
    where, branch = _quoted(facts.repository), _quoted(facts.branch)
    since = f"{facts.base_commit[:12]}.." if facts.base_commit else ""
    log = f"git -C {where} log --patch {since}{branch}"
    return [log, f"git clone --branch {branch} {where} improved"]


def _quoted(words: str) -> str:
    import shlex

    return shlex.quote(text.visible(words))


@lru_cache(maxsize=1)
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("autoresearch_operator.observe"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("report.html.j2")
