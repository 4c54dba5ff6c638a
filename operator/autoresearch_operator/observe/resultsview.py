"""The table of `results` as plain words, and its layout. Imports nothing heavy: a kept view is shown at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

WIDE, WIDEST = 100, 140
"""Columns of a terminal from which more figures are shown."""


@dataclass(frozen=True, slots=True)
class Line:
    """One experiment; every field is what is printed."""

    number: str
    outcome: str
    style: str
    val_bpb: str
    gain: str
    gain_with_error: str
    runs: str
    noise_units: str
    rate: str
    memory: str
    proposer: str
    commit: str
    title: str
    kept: bool


@dataclass(frozen=True, slots=True)
class ResultsView:
    """What `results` prints, before it is fitted to a terminal."""

    headline: tuple[str, ...]
    lines: tuple[Line, ...]
    left_out: int
    hidden_split: bool
    """Some figures are of the hidden test split; a footnote says so."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> ResultsView:
        """Raises KeyError, TypeError or ValueError when it is not what `as_json` gave."""
        if set(document) != {field.name for field in fields(cls)}:
            raise ValueError("not a view of results")
        return cls(
            headline=tuple(str(line) for line in document["headline"]),
            lines=tuple(Line(**line) for line in document["lines"]),
            left_out=int(document["left_out"]),
            hidden_split=bool(document["hidden_split"]),
        )


def results_layout(view: ResultsView, *, width: int = 80) -> Group:
    """Headline, table and the footnote that the table needs."""
    parts: list[RenderableType] = [Text(line) for line in view.headline]
    parts += [Text(""), _table(view, width)] if view.lines else [Text("no experiment yet")]
    if view.hidden_split:
        parts.append(
            Text("* the final version without one accepted edit, scored on the hidden test split", style="dim")
        )
    return Group(*parts)


def _table(view: ResultsView, width: int) -> Table:
    """One row an experiment, newest last."""
    left_out = f"{view.left_out:,} rejected rows left out; --all shows them"
    table = Table(
        caption=Text(left_out, style="dim") if view.left_out else None,
        caption_justify="left",
        box=None,
        pad_edge=False,
        header_style="bold",
        expand=False,
        width=min(width, 180),
    )
    table.add_column("No", justify="right", no_wrap=True)
    table.add_column("Outcome", no_wrap=True, overflow="ellipsis", max_width=20)
    table.add_column("val_bpb", justify="right", no_wrap=True)
    table.add_column("Gain" if width < WIDE else "Gain ± se", justify="right", no_wrap=True)
    table.add_column("Runs", justify="right", no_wrap=True)
    if width >= WIDE:
        table.add_column("In noise", justify="right", no_wrap=True)
        table.add_column("tok/s", justify="right", no_wrap=True)
    if width >= WIDEST:
        table.add_column("Memory", justify="right", no_wrap=True)
        table.add_column("Proposer", no_wrap=True, overflow="ellipsis", max_width=14)
        table.add_column("Commit", no_wrap=True)
    table.add_column("Title", no_wrap=True, overflow="ellipsis", ratio=1)
    for line in view.lines:
        cells: list[RenderableType] = [line.number, Text(line.outcome, style=line.style), line.val_bpb]
        cells += [line.gain if width < WIDE else line.gain_with_error, line.runs]
        if width >= WIDE:
            cells += [line.noise_units, line.rate]
        if width >= WIDEST:
            cells += [line.memory, Text(line.proposer), line.commit]
        cells.append(Text(line.title, style="bold" if line.kept else ""))
        table.add_row(*cells)
    return table
