"""What a knob may be set to: ranges and choices, from `# search:` comments or guessed from the value."""

from __future__ import annotations

import ast
import math
import re
from dataclasses import dataclass
from typing import TypeAlias

from autoresearch_operator.proposers.literals import (
    KnobValue,
    NotALiteral,
    literal_value,
    round_significant,
    same_value,
)


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers from `low` to `high`, both included. `step` (integers only) counts from `low`."""

    low: float
    high: float
    log: bool = False
    integer: bool = False
    step: int = 1

    def clip(self, value: float) -> float:
        """The nearest value of the range that a person would write: 2 (log) or 3 (linear) significant digits."""
        value = min(max(value, self.low), self.high)
        if self.integer:
            steps = round((value - self.low) / self.step)
            value = self.low + steps * self.step
            return int(value if value <= self.high else value - self.step)
        # Rounding may step over an end of the range; the ends themselves are always as written.
        return min(max(round_significant(value, 2 if self.log else 3), self.low), self.high)

    def unit(self, value: float) -> float:
        """Where `value` lies in the range: 0 at `low`, 1 at `high`, on a log scale where the range has one."""
        if self.high <= self.low:
            return 0.0
        value = min(max(value, self.low), self.high)
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def at(self, unit: float) -> float:
        """The value at `unit` (0..1) of the range."""
        if self.log:
            return self.clip(self.low * (self.high / self.low) ** unit)
        return self.clip(self.low + (self.high - self.low) * unit)

    def including(self, value: KnobValue) -> Range:
        """The range widened to hold a current value that its author wrote outside it."""
        if not isinstance(value, int | float) or self.low <= value <= self.high or (self.log and value <= 0):
            return self
        return Range(min(self.low, value), max(self.high, value), self.log, self.integer, 1)


@dataclass(frozen=True, slots=True)
class Choices:
    """One of several values, in the author's order."""

    values: tuple[KnobValue, ...]

    def index(self, value: KnobValue) -> int | None:
        return next((i for i, choice in enumerate(self.values) if same_value(choice, value)), None)

    def including(self, value: KnobValue) -> Choices:
        """The choices with a current value that is not among them put first."""
        return self if self.index(value) is not None else Choices((value, *self.values))


Domain: TypeAlias = Range | Choices

_NUMBER = r"[-+]?(?:\d[\d_]*)?\.?\d+(?:[eE][-+]?\d+)?"
_RANGE = re.compile(
    rf"(?P<kind>log|linear|int)\s+(?P<low>{_NUMBER})\s*\.\.\s*(?P<high>{_NUMBER})(?:\s+step\s+(?P<step>\d+))?\Z"
)
GRAMMAR = 'write "log 0.005..0.2", "linear 0..0.3", "int 1..12", "int 32..256 step 32", "choice AdamW, Muon" or "off"'


def parse_search(text: str, value: KnobValue) -> Domain | None:
    """The domain that a `# search:` comment gives a knob whose current value is `value`; None for "off".

    Raises ValueError with a sentence when the text does not follow the grammar or does not fit the value.
    """
    text = text.strip()
    if text == "off":
        return None
    if text.startswith("choice ") or text == "choice":
        return _parse_choices(text[len("choice") :].strip(), value)
    match = _RANGE.match(text)
    if match is None:
        raise ValueError(f"{text!r} is not a search range: {GRAMMAR}")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"a range needs a number, and the value is {value!r}: use choice instead")
    low, high = float(match["low"].replace("_", "")), float(match["high"].replace("_", ""))
    log = match["kind"] == "log"
    whole = low.is_integer() and high.is_integer()
    if match["kind"] == "int" and not (whole and isinstance(value, int)):
        raise ValueError(f"int needs whole numbers, and got {text!r} for the value {value!r}")
    if not low < high:
        raise ValueError(f"the range {match['low']}..{match['high']} is empty: put the smaller number first")
    if log and low <= 0:
        raise ValueError(f"a log range must start above 0, not at {match['low']}: use linear instead")
    # A whole number between whole ends stays a whole number (a log range over widths); otherwise it was 1 for 1.0.
    integer = isinstance(value, int) and whole
    if match["step"] and (not integer or int(match["step"]) < 1):
        raise ValueError("step goes with whole numbers only, and is 1 or more")
    return Range(int(low) if integer else low, int(high) if integer else high, log, integer, int(match["step"] or 1))


def _parse_choices(text: str, value: KnobValue) -> Choices:
    try:
        parsed = ast.parse(f"({text},)", mode="eval").body
        items = parsed.elts if isinstance(parsed, ast.Tuple) else []
        values = tuple(item.id if isinstance(item, ast.Name) else literal_value(item) for item in items)
    except (SyntaxError, NotALiteral, RecursionError) as error:
        raise ValueError(f"{text!r} is not a list of choices: separate them by commas, quote unusual words") from error
    if len({repr(item) for item in values}) < 2:
        raise ValueError(f"{text!r} gives no choice: name at least two different values")
    # 1, 2 for a knob that is 0.5 means 1.0, 2.0: a script may divide by it or print it.
    if isinstance(value, float):
        values = tuple(float(item) if type(item) is int else item for item in values)
    if any(isinstance(item, str) != isinstance(value, str) for item in values):
        raise ValueError(f"the choices {text!r} and the value {value!r} are of different kinds")
    return Choices(values)


def guess_domain(value: KnobValue) -> Domain | None:  # noqa: PLR0911 (a table of kinds)
    """A domain for a knob without a `# search:` comment: floats x/÷4, ints x/÷2, truth values both, others none."""
    if isinstance(value, bool):
        return Choices((False, True))
    if isinstance(value, int) and value >= 1:
        if value >= 8 and value & (value - 1) == 0:
            # A power of two usually has to divide, or be divided by, something else in the script.
            return Choices((value // 2, value, value * 2))
        return Range(max(1, value // 2), value * 2, log=True, integer=True)
    if isinstance(value, float) and 0.5 <= value < 1:
        # A fraction near one (a momentum, a beta) is about its distance from one; four times 0.9 is nonsense.
        return Range(
            round_significant(max(value / 4, 1 - 4 * (1 - value)), 3), 1 - round_significant((1 - value) / 4, 3)
        )
    if isinstance(value, float) and value > 0:
        return Range(value / 4, value * 4, log=True)
    if isinstance(value, float) and value < 0:
        return Range(value * 4, value / 4)
    return None
