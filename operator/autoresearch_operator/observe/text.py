"""How a figure or a stranger's words are written, everywhere: tables, live view, report.

Titles, hypotheses and messages come from proposers and from candidates. They may hold terminal escapes, control
characters that turn text around, or kilobytes. `clean` makes them harmless and one line long; HTML escaping is
the template engine's business and comes on top.
"""

from __future__ import annotations

import math
import unicodedata

_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
# Part of ordinary emoji and of several scripts; they join glyphs and hide nothing.
_JOINERS = {"\u200c", "\u200d"}
MISSING = "–"


def clean(words: str, limit: int = 120) -> str:
    """One harmless line of at most `limit` characters.

    White space collapses to single spaces. Control, format and surrogate characters are shown as their escapes
    (`\\x1b`), because a character that is dropped in silence can change what a line says. Longer text ends in `…`.
    """
    # Escaping only grows text, so the tail of a very long input cannot matter.
    line = " ".join(words[: 4 * limit].split())
    shown = visible(line)
    return shown if len(shown) <= limit and len(words) <= 4 * limit else shown[: max(0, limit - 1)].rstrip() + "…"


def clean_block(words: str, limit: int = 4000) -> str:
    """Like `clean`, but lines stay lines and tabs become spaces."""
    cut = words[:limit]
    lines = [visible(line.expandtabs(4)) for line in cut.splitlines()]
    return "\n".join(lines) + ("…" if len(words) > limit else "")


def visible(line: str) -> str:
    """The line with every control, format and surrogate character shown as an escape."""
    if line.isascii() and line.isprintable():
        return line
    return "".join(
        char.encode("unicode_escape").decode()
        if unicodedata.category(char) in _HIDDEN and char not in _JOINERS
        else char
        for char in line
    )


def finite(value: float | None) -> float | None:
    """The value, or None for None, NaN and infinities: none of them is a score."""
    return value if value is not None and math.isfinite(value) else None


def bpb(value: float | None) -> str:
    """Bits per byte with four decimals: a tenth of a typical noise unit of a small model."""
    shown = finite(value)
    return MISSING if shown is None else f"{shown:.4f}"


def signed(value: float | None, digits: int = 4) -> str:
    """A difference with its sign; zero has none."""
    shown = finite(value)
    if shown is None:
        return MISSING
    rounded = f"{shown:+.{digits}f}"
    return rounded if float(rounded) != 0 else rounded[1:]


def with_error(value: float | None, error: float | None) -> str:
    """`+0.0123 ± 0.0040`: a difference and its standard error."""
    shown = finite(error)
    return signed(value) if shown is None or finite(value) is None else f"{signed(value)} ± {shown:.4f}"


def size(count: int | None) -> str:
    """Bytes in binary units, three figures."""
    if count is None:
        return MISSING
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def rate(tokens_per_second: float | None) -> str:
    """Tokens a second, in thousands or millions where that is shorter."""
    shown = finite(tokens_per_second)
    if shown is None:
        return MISSING
    return count(shown)


def count(value: float) -> str:
    """A count in three figures: 812, 18.3k, 1.66M."""
    for limit, divisor, unit in ((1e3, 1.0, ""), (1e6, 1e3, "k"), (1e9, 1e6, "M")):
        if abs(value) < limit:
            scaled = value / divisor
            return f"{scaled:.0f}{unit}" if not unit or abs(scaled) >= 100 else f"{scaled:.3g}{unit}"
    return f"{value / 1e9:.3g}G"


def duration(seconds: float | None) -> str:
    """`41 s`, `3 min 20 s`, `2 h 05 min`, `3 d 4 h`."""
    shown = finite(seconds)
    if shown is None:
        return MISSING
    whole = max(0, round(shown))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def plural(number: int, noun: str, many: str = "") -> str:
    """`1 run`, `2 runs`."""
    return f"{number:,} {noun if number == 1 else many or noun + 's'}"
