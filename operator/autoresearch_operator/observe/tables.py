"""`results` and `show` for terminals, from one RunSummary."""

from __future__ import annotations

import io
from collections.abc import Iterable

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from autoresearch_operator.api.reasons import Verdict, VerdictReason
from autoresearch_operator.observe.exports import results_json, results_tsv
from autoresearch_operator.observe.resultsview import Line, ResultsView, results_layout
from autoresearch_operator.observe.summary import Row, RunSummary
from autoresearch_operator.observe.text import (
    MISSING,
    bpb,
    clean,
    clean_block,
    duration,
    plural,
    rate,
    signed,
    size,
    visible,
    with_error,
)
from autoresearch_operator.observe.why import explain, helps_words, purpose_words
from autoresearch_operator.research.records import Purpose, TrialRecord

__all__ = [
    "diff_text",
    "effects_table",
    "headline",
    "render",
    "results_json",
    "results_text",
    "results_tsv",
    "results_view",
    "select_rows",
    "show_text",
]

SHOWN_ROWS = 200
DIFF_LINES = 400
# A mark beside every colour: one reader in twelve cannot tell red from green.
_MARKS = {Verdict.ACCEPTED: ("✓", "green"), Verdict.REJECTED: ("·", "dim"), Verdict.INVALID: ("✗", "yellow")}


def outcome(row: Row) -> tuple[str, str]:
    """The reason with its mark, and its colour; a phase where there is no verdict."""
    if row.verdict is None:
        return f"… {row.phase.value}", "cyan"
    if row.reason is VerdictReason.MEASURED:
        return f"= {row.outcome}", ""
    mark, style = _MARKS[row.verdict]
    return f"{mark} {row.outcome}", style


def results_view(summary: RunSummary, *, limit: int | None = SHOWN_ROWS) -> ResultsView:
    """What `results` prints, newest experiment last.

    Args:
        limit: Rows at most (None: all): accepted edits stay, the oldest others go. Laying out a row takes about
            0.2 ms, so a table of 5,000 would be a second that nobody reads.
    """
    rows = select_rows(summary, limit)
    return ResultsView(
        headline=tuple(headline(summary)),
        lines=tuple(_line(row) for row in rows),
        left_out=len(summary.rows) - len(rows),
        hidden_split=any(row.split == "test" for row in summary.rows),
    )


def _line(row: Row) -> Line:
    shown, style = outcome(row)
    return Line(
        number=str(row.number),
        outcome=shown,
        style=style,
        val_bpb=bpb(row.val_bpb) + ("*" if row.split == "test" and row.val_bpb is not None else ""),
        gain=signed(row.delta),
        gain_with_error=with_error(row.delta, row.delta_error),
        runs=str(row.trials),
        noise_units=signed(row.noise_units, 1),
        rate=rate(row.tokens_per_second),
        memory=size(row.peak_memory_bytes),
        proposer=clean(row.proposer, 40),
        commit=row.commit[:7],
        title=clean(row.title, 160) or "(no title)",
        kept=row.accepted,
    )


def select_rows(summary: RunSummary, limit: int | None) -> list[Row]:
    """The rows that fit: accepted and undecided ones first, then the newest; in order of number."""
    if limit is None or len(summary.rows) <= limit:
        return list(summary.rows)
    important = [row for row in summary.rows if row.accepted or not row.decided][:limit]
    kept = {row.number for row in important}
    for row in reversed(summary.rows):
        if len(kept) >= limit:
            break
        kept.add(row.number)
    return [row for row in summary.rows if row.number in kept]


def headline(summary: RunSummary) -> list[str]:
    """The lines above the table: best score, gain, final comparison, noise, spend, state."""
    verdicts = summary.verdicts
    lines = []
    if summary.baseline is not None and summary.incumbent_score is not None:
        lines.append(
            f"val_bpb {bpb(summary.baseline.mean)} -> {bpb(summary.incumbent_score.mean)}"
            f" (gain {signed(summary.gain)}), {plural(verdicts['Accepted'], 'edit')} kept of "
            f"{plural(summary.candidates_decided, 'candidate')}"
            f" ({verdicts['Rejected']} rejected, {verdicts['Invalid']} invalid)"
        )
    final = summary.final_gain
    if final is not None and summary.final is not None:
        lines.append(
            f"hidden split: {bpb(summary.final.baseline.mean)} -> {bpb(summary.final.head.mean)}, "
            f"gain {signed(final[0])} (95 %: {signed(final[1])} to {signed(final[2])})"
        )
    if summary.noise.sd is not None:
        effect = summary.noise.smallest_effect
        lines.append(
            f"noise of one run: {summary.noise.sd:.4f} ({summary.noise.degrees} degrees of freedom)"
            + (f"; a true gain of {effect:.4f} is found four times in five" if effect is not None else "")
        )
    spend = summary.spend
    used = f"spent: {plural(spend.trials, 'trial')}, {duration(spend.slot_seconds)} of slots"
    if spend.cpu_seconds is not None:
        used += f", {spend.cpu_seconds:,.0f} CPU-seconds of training"
    if spend.gpu_hours > 0:
        used += f", {spend.gpu_hours:.2f} GPU-hours"
        used += f", ${spend.dollars:,.2f}" if spend.dollars is not None else ""
    lines.append(used)
    if summary.state:
        lines.append(clean(summary.state, 300))
    if summary.eta_seconds and summary.eta_seconds >= 1:
        lines.append(f"about {duration(summary.eta_seconds)} to go")
    if summary.facts.evaluation == "SelfReported":
        lines.append("SELF-REPORTED: the scripts printed these scores and nothing checked them")
    return lines


def results_text(summary: RunSummary, *, width: int = 80, limit: int | None = SHOWN_ROWS) -> Group:
    """What `results` prints: headline, table, and the footnote that the table needs."""
    return results_layout(results_view(summary, limit=limit), width=width)


def show_text(summary: RunSummary, number: int, *, diff: str = "", reproduce: str = "") -> Group:
    """What `show N` prints.

    Args:
        diff: The edit as a unified diff.
        reproduce: The command that measures this candidate again.

    Raises:
        KeyError: the run has no experiment of that number; the message says which it has.
    """
    row = summary.row(number)
    if row is None:
        have = f"it has 0 to {len(summary.rows) - 1}" if summary.rows else "it has none yet"
        raise KeyError(f"run {summary.facts.name!r} has no experiment {number}: {have}")
    why = explain(summary, row)
    parts: list[RenderableType] = [
        Text.assemble((f"#{row.number} ", "bold"), (clean(row.title, 500) or "(no title)", "bold")),
        Text.assemble(
            Text(*outcome(row)),
            f"   {row.kind.value} by {clean(row.proposer, 60)} on #{row.base}   commit {row.commit[:12] or MISSING}",
        ),
    ]
    if row.hypothesis:
        parts += [Text(""), Text("Hypothesis", style="bold"), _indent(Text(clean_block(row.hypothesis)))]
    parts += [Text(""), Text("Why", style="bold"), _indent(Text(why.headline))]
    parts += [_indent(Text(sentence)) for sentence in why.sentences]
    if why.more:
        parts.append(_indent(Text(why.more)))
    trials = _relevant_trials(summary, number)
    if trials:
        parts += [Text(""), Text("Runs", style="bold"), _indent(_trials_table(trials))]
    beside = sum(
        trial.purpose is Purpose.REFERENCE and trial.subject != number for trial in summary.own_trials.get(number, ())
    )
    if beside:
        parts.append(
            _indent(Text(f"and {plural(beside, 'run')} as the incumbent beside later candidates", style="dim"))
        )
    parts += [Text(""), Text("Edit", style="bold"), _indent(diff_text(diff))]
    isolation = summary.isolation
    held = "; ".join(f"{words.lower()}: {how}" for words, _, how in isolation.protections)
    parts += [
        Text(""),
        Text("Isolation", style="bold"),
        _indent(Text(f"{isolation.headline}: {isolation.because}." + (f" {held}." if held else ""))),
    ]
    if reproduce:
        parts += [Text(""), Text("Measure it again", style="bold"), _indent(Text(visible(reproduce)))]
    return Group(*parts)


def diff_text(diff: str, *, lines: int = DIFF_LINES) -> RenderableType:
    """A unified diff, coloured, escapes made visible, at most `lines` lines."""
    if not diff.strip():
        return Text("no edit to show", style="dim")
    kept = diff.splitlines()
    shown = "\n".join(visible(line.expandtabs(4)) if len(line) < 2000 else clean(line, 2000) for line in kept[:lines])
    if len(kept) > lines:
        shown += f"\n… {len(kept) - lines:,} more lines"
    return Syntax(shown, "diff", theme="ansi_dark", background_color="default", word_wrap=True)


def render(renderable: RenderableType, *, width: int = 80, color: bool = False) -> str:
    """The text that a terminal of that width would show."""
    stream = io.StringIO()
    Console(file=stream, width=width, force_terminal=color, no_color=not color, highlight=False, emoji=False).print(
        renderable
    )
    return stream.getvalue()


def effects_table(summary: RunSummary) -> Table | None:
    """Leave-one-out on the hidden split, one row a kept edit; None before it was measured."""
    if summary.final is None or not summary.final.effects:
        return None
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("No", "Gain on hidden split ± se", "Verdict", "Title"):
        table.add_column(name, no_wrap=True, overflow="ellipsis", justify="right" if name in ("No",) else "left")
    for effect in summary.final.effects:
        row = summary.row(effect.number)
        title = clean(row.title, 100) if row is not None else ""
        table.add_row(
            str(effect.number), with_error(effect.delta, effect.error), helps_words(effect.helps), Text(title)
        )
    return table


def _relevant_trials(summary: RunSummary, number: int) -> list[TrialRecord]:
    """Runs that helped to decide this experiment, and its own later ones but for those beside other candidates."""
    deciding = summary.decisive_trials.get(number, ())
    own = [
        trial
        for trial in summary.own_trials.get(number, ())
        if trial.subject != number and trial.purpose is not Purpose.REFERENCE
    ]
    return sorted([*deciding, *own], key=lambda trial: (trial.key.seed, trial.key.experiment, trial.key.attempt))


def _trials_table(trials: Iterable[TrialRecord]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, right in (
        ("Run", False),
        ("Of", True),
        ("Seed", True),
        ("State", False),
        ("bpb", True),
        ("tok/s", True),
        ("Memory", True),
        ("Time", True),
    ):
        table.add_column(name, justify="right" if right else "left", no_wrap=True, overflow="ellipsis")
    for trial in trials:
        state = trial.phase.value if trial.reason is None else trial.reason.value
        seconds = None if trial.finished_at is None else max(0.0, trial.finished_at - trial.started_at)
        table.add_row(
            purpose_words(trial.purpose, trial.subject),
            f"#{trial.key.experiment}",
            str(trial.key.seed) + (f" (attempt {trial.key.attempt})" if trial.key.attempt > 1 else ""),
            Text(state + (f": {clean(trial.detail, 24)}" if trial.detail else "")),
            bpb(trial.val_bpb),
            rate(trial.tokens_per_second),
            size(trial.peak_vram_bytes or trial.peak_memory_bytes),
            duration(seconds),
        )
    return table


def _indent(renderable: RenderableType) -> Padding:
    return Padding(renderable, (0, 0, 0, 2))
