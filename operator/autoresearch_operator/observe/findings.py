"""What a doctor finds, and how it is shown: one line a finding, with what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rich.table import Table
from rich.text import Text

from autoresearch_operator.observe.text import clean

Status = Literal["ok", "warn", "fail"]
_MARKS = {"ok": ("✓", "green"), "warn": ("!", "yellow"), "fail": ("✗", "bold red")}
_MOST = 600
"""Characters of a value: sentences of the API server are passed on whole, and some are long."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at."""

    name: str
    status: Status
    value: str
    advice: str = ""
    """What to do; empty when nothing needs doing."""


def exit_code(findings: Sequence[Finding]) -> int:
    """1 when something fails, else 0."""
    return int(any(finding.status == "fail" for finding in findings))


def findings_json(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """The findings for a script."""
    return [asdict(finding) for finding in findings]


def findings_table(findings: Sequence[Finding], *, width: int = 80) -> Table:
    """The findings for a person; advice stands under the value it is about."""
    table = Table(box=None, show_header=False, pad_edge=False, width=min(width, 120))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, max_width=34)
    table.add_column(ratio=1)
    for finding in findings:
        mark, style = _MARKS[finding.status]
        words = Text(clean(finding.value, _MOST))
        if finding.advice:
            words.append(f"\n{finding.advice}", style=style)
        table.add_row(Text(mark, style=style), Text(clean(finding.name, 80), style="bold"), words)
    return table
