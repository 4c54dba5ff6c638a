"""Conditions of a run: one list, one place that knows when a transition happened."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from autoresearch_operator.api.reasons import ConditionType
from autoresearch_operator.manifests.names import stamp

_OURS = frozenset(str(type_) for type_ in ConditionType)
MOST_TEXT = 1024
"""Characters that a condition's message may have."""

ORDER = (
    ConditionType.READY,
    ConditionType.PROGRESSING,
    ConditionType.BRANCH_UPDATED,
    ConditionType.ISOLATED,
    ConditionType.COMPLETE,
    ConditionType.FAILED,
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a condition should say now. `status` None: it is not known yet, and is being found out."""

    type: ConditionType
    status: bool | None
    reason: StrEnum | str
    message: str = ""

    @property
    def word(self) -> str:
        return "Unknown" if self.status is None else str(self.status)


def merged(
    previous: Iterable[Mapping[str, Any]], wanted: Sequence[Wanted], *, generation: int, now: float
) -> list[dict[str, Any]]:
    """The list to write: every condition wanted, in a fixed order; others of ours are gone, foreign ones stay.

    `lastTransitionTime` moves only when `status` does, as Kubernetes has it.
    """
    before = {str(condition.get("type")): condition for condition in previous}
    result: list[dict[str, Any]] = []
    for want in sorted(wanted, key=lambda want: ORDER.index(want.type)):
        old = before.get(want.type, {})
        same = old.get("status") == want.word and isinstance(old.get("lastTransitionTime"), str)
        result.append(
            {
                "type": str(want.type),
                "status": want.word,
                "reason": str(want.reason),
                "message": shortened(want.message),
                "observedGeneration": generation,
                "lastTransitionTime": old["lastTransitionTime"] if same else stamp(now),
            }
        )
    return result + [dict(condition) for name, condition in before.items() if name not in _OURS]


def kept(previous: Iterable[Mapping[str, Any]]) -> list[Wanted]:
    """Our conditions as they stand, to be written again."""
    words = {"True": True, "False": False}
    return [
        Wanted(ConditionType(str(c["type"])), words.get(c["status"]), str(c["reason"]), str(c.get("message", "")))
        for c in previous
        if c.get("type") in _OURS
    ]


def changed(previous: Iterable[Mapping[str, Any]], current: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Conditions whose status or reason is new: what a person wants to be told, messages that count up are not."""
    before = {(condition.get("type"), condition.get("status"), condition.get("reason")) for condition in previous}
    return [
        condition
        for condition in current
        if (condition["type"], condition["status"], condition["reason"]) not in before
    ]


def shortened(text: str, most: int = MOST_TEXT) -> str:
    """One paragraph of at most `most` characters."""
    flat = " ".join(text.split())
    return flat if len(flat) <= most else flat[: most - 1] + "…"
