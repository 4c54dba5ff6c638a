"""What a trainer's answer (TrialResult, version 1) means as a record."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from autoresearch_operator.api.reasons import VerdictReason
from autoresearch_operator.research.records import TrialPhase, TrialRecord

VERSION = 1


class UnreadableResult(ValueError):
    """Not a TrialResult of a version we know."""


def finished_record(running: TrialRecord, result: Mapping[str, Any], *, finished_at: float) -> TrialRecord:
    """The finished form of `running`. `finished_at` is in seconds since the epoch.

    Raises:
        UnreadableResult: the result is of another version, or has no outcome we know.
    """
    if result.get("version") != VERSION:
        raise UnreadableResult(f"a result of version {result.get('version')!r}; this program reads version {VERSION}")
    audit = result.get("audit")
    record = replace(
        running,
        detail=_text(result, "detail", 120),
        message=_text(result, "message", 400),
        audit_pairs=_whole(audit if isinstance(audit, Mapping) else {}, "pairs") or 0,
        train_tokens=_whole(result, "trainTokens") or 0,
        tokens_per_second=_real(result, "tokensPerSecond"),
        reference_seconds=_real(result, "referenceSeconds"),
        peak_memory_bytes=_whole(result, "peakMemoryBytes"),
        peak_vram_bytes=_whole(result, "peakVRAMBytes"),
        cpu_seconds=_real(result, "cpuSeconds"),
        finished_at=finished_at,
        curve=_curve(result.get("curve")),
    )
    outcome = result.get("outcome")
    if outcome == "Scored":
        score = _real(result, "valBPB")
        if score is None:
            raise UnreadableResult("a Scored result without a finite valBPB")
        return replace(record, phase=TrialPhase.SCORED, val_bpb=score)
    if outcome == "Invalid":
        return replace(record, phase=TrialPhase.INVALID, reason=_reason(result.get("reason")))
    if outcome == "Lost":
        return replace(record, phase=TrialPhase.LOST)
    raise UnreadableResult(f"a result with the outcome {outcome!r}")


def _reason(word: object) -> VerdictReason:
    """A newer trainer may know more reasons; what we do not know is a crash, and the message still tells."""
    try:
        return VerdictReason(str(word))
    except ValueError:
        return VerdictReason.CRASHED


def _text(result: Mapping[str, Any], name: str, limit: int) -> str:
    value = result.get(name)
    return value[:limit] if isinstance(value, str) else ""


def _real(result: Mapping[str, Any], name: str) -> float | None:
    value = result.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _whole(result: Mapping[str, Any], name: str) -> int | None:
    value = _real(result, name)
    return None if value is None else int(value)


def _curve(value: object) -> tuple[tuple[int, float], ...]:
    points: list[tuple[int, float]] = []
    for point in value if isinstance(value, list) else []:
        if isinstance(point, list) and len(point) == 2:
            named = {"tokens": point[0], "loss": point[1]}
            tokens, loss = _whole(named, "tokens"), _real(named, "loss")
            if tokens is not None and loss is not None:
                points.append((tokens, loss))
    return tuple(points[:8])
