"""Results for scripts: tab-separated values with upstream's columns first, and JSON."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any

from autoresearch_operator.api.reasons import ExperimentKind, Verdict
from autoresearch_operator.observe.summary import RunSummary
from autoresearch_operator.observe.text import clean

_UPSTREAM = ("commit", "val_bpb", "memory_gb", "status", "description")
_OURS = (
    "number",
    "kind",
    "verdict",
    "reason",
    "delta",
    "delta_error",
    "noise_units",
    "trials",
    "tokens_per_second",
    "proposer",
    "base",
    "seconds",
)


def results_tsv(summary: RunSummary) -> str:
    """Decided experiments as tab-separated values: upstream's five columns first, then ours.

    As upstream does it, `status` is keep, discard or crash, memory is in GB (GiB, one decimal), and a crash scores
    0.000000. Ablations are left out: they are scored on the hidden split, and a plot of this file would mix the two.
    Tabs and line ends in titles become spaces.
    """
    lines = ["\t".join(_UPSTREAM + _OURS)]
    for row in summary.rows:
        if row.kind is ExperimentKind.ABLATION or not (row.decided or (row.number == 0 and row.val_bpb is not None)):
            continue
        status = "keep" if row.accepted else "crash" if row.verdict is Verdict.INVALID else "discard"
        memory = 0.0 if row.peak_memory_bytes is None else row.peak_memory_bytes / 2**30
        cells = (
            row.commit[:7],
            f"{row.val_bpb if row.val_bpb is not None else 0.0:.6f}",
            f"{memory:.1f}",
            status,
            clean(row.title, 500),
            str(row.number),
            row.kind.value,
            row.verdict.value if row.verdict is not None else "",
            row.reason.value if row.reason is not None else "",
            _figure(row.delta, 6),
            _figure(row.delta_error, 6),
            _figure(row.noise_units, 2),
            str(row.trials),
            _figure(row.tokens_per_second, 0),
            clean(row.proposer, 80),
            str(row.base),
            f"{row.seconds:.1f}",
        )
        lines.append("\t".join(cells))
    return "\n".join(lines) + "\n"


def results_json(summary: RunSummary) -> dict[str, Any]:
    """The whole summary as JSON values: camelCase, null for every figure that is missing or not finite."""
    document = {
        "version": 1,
        "run": asdict(summary.facts),
        "state": summary.state,
        "finished": summary.finished,
        "baseline": asdict(summary.baseline) if summary.baseline else None,
        "incumbent": {
            "number": summary.incumbent,
            "score": asdict(summary.incumbent_score) if summary.incumbent_score else None,
        },
        "gain": summary.gain,
        "final": asdict(summary.final) if summary.final else None,
        "finalGain": summary.final_gain,
        "noise": asdict(summary.noise),
        "spend": asdict(summary.spend),
        "verdicts": _Literal(summary.verdicts),
        "reasons": _Literal(summary.reasons),
        "isolation": asdict(summary.isolation),
        "running": summary.running,
        "etaSeconds": summary.eta_seconds,
        "experiments": [asdict(row) | {"outcome": row.outcome, "accepted": row.accepted} for row in summary.rows],
        "steps": [asdict(step) for step in summary.steps],
    }
    converted: dict[str, Any] = _jsonable(document)
    return converted


class _Literal(dict[str, int]):
    """A mapping whose keys are data, not field names."""


def _jsonable(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()  # a lone surrogate cannot be written to a file
    if isinstance(value, _Literal):
        return dict(value)
    if isinstance(value, dict):
        return {_camel(str(key)): _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    return value


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join("BPB" if part == "bpb" else part.capitalize() for part in rest)


def write_json(summary: RunSummary) -> str:
    """`results --json`: one document, stable key order."""
    return json.dumps(results_json(summary), ensure_ascii=False, allow_nan=False)


def _figure(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
