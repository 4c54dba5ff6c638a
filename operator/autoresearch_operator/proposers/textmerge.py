"""Three-way merge of text by lines.

Written here and not taken from a library: the maintained ones are under the GPL, or merge by characters and so put
halves of two lines together.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass

_LINES = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+\Z")


def split_lines(text: str) -> list[str]:
    """The lines of `text` with their ends, as git and Python count them (a form feed ends no line)."""
    return _LINES.findall(text)


@dataclass(frozen=True, slots=True)
class Overlap:
    """Both sides changed the same place, or places that touch. `line` counts from 1 in `ours`."""

    line: int


def merge_text(base: str, ours: str, theirs: str) -> str | Overlap:
    """`ours` with the changes from `base` to `theirs` made as well. Changes that touch each other are an Overlap."""
    old, our, their = (split_lines(text) for text in (base, ours, theirs))
    merged: list[str] = []
    at, at_our, at_their = 0, 0, 0
    for start, start_our, start_their, size in _common(old, our, their):
        before, one, other = old[at:start], our[at_our:start_our], their[at_their:start_their]
        if one in (other, before):
            merged += other
        elif other == before:
            merged += one
        else:
            return Overlap(at_our + 1)
        merged += old[start : start + size]
        at, at_our, at_their = start + size, start_our + size, start_their + size
    return "".join(merged)


def _common(old: list[str], our: list[str], their: list[str]) -> Iterator[tuple[int, int, int, int]]:
    """Runs of lines that all three have, as (place in old, in our, in their, length); the last is empty, at the end."""
    left = difflib.SequenceMatcher(None, old, our, autojunk=False).get_matching_blocks()
    right = difflib.SequenceMatcher(None, old, their, autojunk=False).get_matching_blocks()
    i = j = 0
    while i < len(left) - 1 and j < len(right) - 1:
        start = max(left[i].a, right[j].a)
        end = min(left[i].a + left[i].size, right[j].a + right[j].size)
        if start < end:
            yield start, left[i].b + start - left[i].a, right[j].b + start - right[j].a, end - start
        if left[i].a + left[i].size < right[j].a + right[j].size:
            i += 1
        else:
            j += 1
    yield len(old), len(our), len(their), 0
