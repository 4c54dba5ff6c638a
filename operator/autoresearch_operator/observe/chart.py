"""progress.png: the incumbent's score over experiments, what was tried on the way, and the final comparison.

matplotlib is imported when a chart is drawn, not before: it costs half a second that `results` need not pay.
"""

from __future__ import annotations

import io
import itertools
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from autoresearch_operator.api.reasons import ExperimentKind, Verdict
from autoresearch_operator.observe.power import confidence_factor
from autoresearch_operator.observe.summary import Row, RunSummary, Step
from autoresearch_operator.observe.text import clean, finite

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_LABELS = 14


@dataclass(frozen=True, slots=True)
class Palette:
    """Colours that stay apart for the colour-blind (Okabe and Ito's set), one set for each ground."""

    ground: str
    ink: str
    faint: str
    kept: str
    rejected: str
    invalid: str
    head: str


LIGHT = Palette("#ffffff", "#1a1a1a", "#d8d8d8", "#0072b2", "#9a9a9a", "#d55e00", "#00795a")
DARK = Palette("#16181c", "#e8e8e8", "#3a3e45", "#56b4e9", "#8b9098", "#e69f00", "#2fc79a")


def progress_png(summary: RunSummary, path: Path) -> None:
    """Writes the chart, 1600 x 900 pixels. Raises OSError when it cannot be written."""
    path.write_bytes(chart_png(summary))


def chart_png(summary: RunSummary, *, dark: bool = False, narrow: bool = False) -> bytes:
    """The chart as PNG bytes. `narrow` is drawn for a phone: 5 x 5.4 inches with the same letters."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image  # matplotlib's own dependency

    figure = _draw(summary, DARK if dark else LIGHT, narrow)
    FigureCanvasAgg(figure)
    stream = io.BytesIO()
    with warnings.catch_warnings():
        # A title may hold letters that the font lacks; a box is drawn for them, and that is enough.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(stream, format="png", dpi=160, facecolor=figure.get_facecolor())
    # A chart has few colours: an indexed picture is a third of the size, and a report carries four of them.
    # MAXCOVERAGE keeps rare colours, such as the few ticks of invalid candidates.
    picture = (
        Image.open(stream).convert("RGB").quantize(96, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    )
    small = io.BytesIO()
    picture.save(small, format="png", optimize=True)
    return small.getvalue()


def chart_alt(summary: RunSummary) -> str:
    """The chart in one sentence, for those who do not see it."""
    if not summary.steps:
        return "Chart of scores over experiments; no score yet."
    first, last = summary.steps[0], summary.steps[-1]
    words = (
        f"Chart of validation bits per byte over {len(summary.rows)} experiments: from {first.score.mean:.4f} for the "
        f"baseline to {last.score.mean:.4f} after {len(summary.steps) - 1} accepted edits."
    )
    gain = summary.final_gain
    return words if gain is None else words + f" On the hidden split the head is better by {gain[0]:.4f}."


def _draw(summary: RunSummary, palette: Palette, narrow: bool) -> Figure:
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(5.0, 5.4) if narrow else (10.0, 5.625), layout="constrained", facecolor=palette.ground)
    has_final = summary.final_gain is not None
    if has_final:
        grid = figure.add_gridspec(1, 2, width_ratios=(2.6, 1) if narrow else (6, 1))
        main = figure.add_subplot(grid[0, 0])
        final = figure.add_subplot(grid[0, 1], sharey=main)
    else:
        main, final = figure.add_subplot(), None
    for axes in (main, *([final] if final is not None else [])):
        _style(axes, palette)
    low, high = _limits(summary)
    _tried(main, summary, palette, high)
    _staircase(main, summary, palette, narrow)
    main.set_ylim(low, high)
    last = max((row.number for row in summary.rows if row.kind is not ExperimentKind.ABLATION), default=0)
    main.set_xlim(-0.03 * max(last, 4), max(last, 4) * 1.03)
    main.set_xlabel("experiment")
    main.set_ylabel("val_bpb, bits per byte (lower is better)")
    main.xaxis.set_major_locator(MaxNLocator(nbins="auto", integer=True))
    if final is not None:
        _final(final, summary, palette)
    title = f"{clean(summary.facts.name, 40)}: {len(summary.kept)} of {summary.candidates_decided} candidates kept"
    main.set_title(title, loc="left", color=palette.ink, fontsize=11, fontweight="bold", parse_math=False)
    if summary.steps:
        figure.legend(
            loc="outside lower center", ncols=2 if narrow else 4, fontsize=8, frameon=False, labelcolor=palette.ink
        )
    else:
        main.text(0.5, 0.5, "no score yet", transform=main.transAxes, ha="center", color=palette.ink)
    if not any(math.isfinite(tick) for tick in main.get_yticks()):
        main.set_yticks([])
    return figure


def _style(axes: Axes, palette: Palette) -> None:
    axes.set_facecolor(palette.ground)
    axes.tick_params(colors=palette.ink, labelsize=9)
    axes.xaxis.label.set_color(palette.ink)
    axes.yaxis.label.set_color(palette.ink)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(palette.faint)
    axes.grid(axis="y", color=palette.faint, linewidth=0.6, alpha=0.7)
    axes.set_axisbelow(True)


def _tried(axes: Axes, summary: RunSummary, palette: Palette, top: float) -> None:
    """Grey points for rejected candidates, triangles for those off the scale, ticks at the top for invalid ones."""
    tried = [row for row in summary.rows if not row.accepted and row.kind is not ExperimentKind.ABLATION]
    scored = [(row.number, row.val_bpb) for row in tried if row.verdict is Verdict.REJECTED and row.val_bpb is not None]
    inside = [(number, score) for number, score in scored if score <= top]
    above = [number for number, score in scored if score > top]
    invalid = [row.number for row in tried if row.verdict is Verdict.INVALID]
    crowd = len(scored) > 500
    if inside:
        axes.scatter(
            [number for number, _ in inside], [score for _, score in inside], s=6 if crowd else 18,
            color=palette.rejected, alpha=0.35 if crowd else 0.75,
            linewidths=0, zorder=2, label="rejected (first run)",
        )  # fmt: skip
    strip = axes.get_xaxis_transform()
    if above:
        axes.scatter(
            above, [0.965] * len(above), s=14, marker="^", color=palette.rejected, alpha=0.6, linewidths=0,
            transform=strip, zorder=2, label="rejected, above the scale",
        )  # fmt: skip
    if invalid:
        axes.vlines(
            invalid, 0.98, 1.0, color=palette.invalid, linewidth=0.8 if crowd else 1.6, transform=strip, zorder=2,
            label="invalid",
        )  # fmt: skip


def _staircase(axes: Axes, summary: RunSummary, palette: Palette, narrow: bool) -> None:
    steps = summary.steps
    if not steps:
        return
    end = max(row.number for row in summary.rows)
    edges = [step.number for step in steps] + [max(end, steps[-1].number + 1)]
    means = [step.score.mean for step in steps]
    axes.stairs(means, edges, baseline=None, color=palette.kept, linewidth=1.8, zorder=3)
    for step, left, right in zip(steps, edges, edges[1:], strict=False):
        if step.high > step.low:
            axes.fill_between((left, right), step.low, step.high, color=palette.kept, alpha=0.13, linewidth=0, zorder=1)
    axes.errorbar(
        [step.number for step in steps], means, yerr=[step.high - step.score.mean for step in steps], fmt="o",
        color=palette.kept, markersize=5, capsize=2.5, elinewidth=1.2, linestyle="none", zorder=4,
        label="accepted: mean and 95 % interval",
    )  # fmt: skip
    span = max(edges[-1] - edges[0], 1)
    for step in _labelled(steps, span, narrow):
        words = f"#{step.number} {clean(step.title, 16 if narrow else 34)}" if step.number else "baseline"
        # The ground under a falling staircase is empty; only at its left end is there no room for words.
        under = step.number - edges[0] > 0.4 * span
        label = axes.annotate(
            words, (step.number, step.low if under else step.high), xytext=(-2, -4) if under else (3, 5),
            textcoords="offset points", rotation=28, rotation_mode="anchor", fontsize=7.5, color=palette.kept,
            ha="right" if under else "left", va="top" if under else "bottom", zorder=5, parse_math=False,
            annotation_clip=True,
        )  # fmt: skip
        label.set_in_layout(False)


def _labelled(steps: Sequence[Step], span: float, narrow: bool) -> list[Step]:
    """The steps that get words: the largest gains first, none closer to another than a line of text is high."""
    gap = span * (0.09 if narrow else 0.045)
    gains = {step.number: before.score.mean - step.score.mean for before, step in itertools.pairwise(steps)}
    chosen: list[Step] = []
    for step in sorted(steps, key=lambda item: gains.get(item.number, math.inf), reverse=True):
        if all(abs(step.number - other.number) >= gap for other in chosen):
            chosen.append(step)
        if len(chosen) == (MAX_LABELS // 2 if narrow else MAX_LABELS):
            break
    return chosen


def _final(axes: Axes, summary: RunSummary, palette: Palette) -> None:
    final, gain = summary.final, summary.final_gain
    if final is None or gain is None:
        return
    factor = confidence_factor(summary.noise.degrees)
    for place, side, color in ((0, final.baseline, palette.ink), (1, final.head, palette.head)):
        axes.errorbar(
            [place], [side.mean], yerr=[factor * (finite(side.error) or 0.0)], fmt="D", color=color,
            markersize=7, capsize=4, elinewidth=1.6, zorder=4,
        )  # fmt: skip
        axes.annotate(
            f"{side.mean:.4f}", (place, side.mean - factor * (finite(side.error) or 0.0)), xytext=(0, -6),
            textcoords="offset points", ha="center", va="top", fontsize=8, color=color,
        )  # fmt: skip
    axes.set_xlim(-0.7, 1.7)
    axes.set_xticks([0, 1], ["baseline", "head"], fontsize=8)
    axes.tick_params(axis="y", labelleft=False, length=0)
    axes.set_title(f"hidden split\ngain {gain[0]:+.4f}", fontsize=9, color=palette.ink)


def _limits(summary: RunSummary) -> tuple[float, float]:
    """Lower and upper end of the scale. Far outliers do not squash the staircase: they are drawn at the edge."""
    core = [value for step in summary.steps for value in (step.low, step.high)]
    final = summary.final
    if summary.final_gain is not None and final is not None:
        core += [
            value
            for side in (final.baseline, final.head)
            for value in (side.mean - 2 * side.error, side.mean + 2 * side.error)
        ]
    core = [value for value in core if math.isfinite(value)]
    scores = sorted(row.val_bpb for row in summary.rows if _plotted(row) and row.val_bpb is not None)
    if not core:
        core = scores[:1] + scores[len(scores) // 2 : len(scores) // 2 + 1]
    if not core:
        return 0.0, 1.0
    low, high = min(core), max(core)
    span = max(high - low, 4 * (summary.noise.sd or 0.0), 1e-3 * abs(high), 1e-6)
    if scores:
        low = min(low, max(scores[0], low - span))
        # Nine in ten of the scores, as long as the staircase keeps half of the height.
        high = max(high, min(scores[int(0.9 * (len(scores) - 1))], high + span))
    margin = max(high - low, span)
    return low - 0.22 * margin, high + 0.18 * margin


def _plotted(row: Row) -> bool:
    return row.kind is not ExperimentKind.ABLATION and row.val_bpb is not None and math.isfinite(row.val_bpb)
