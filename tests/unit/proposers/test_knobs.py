"""Knobs: found in any script by its module-level literals, set without touching anything else."""

from __future__ import annotations

import ast

import pytest
from autoresearch_operator.proposers.domains import Choices, Range
from autoresearch_operator.proposers.knobs import KnobError, knob_values, read_knobs, splice
from hypothesis import given, settings
from hypothesis import strategies as st

SCRIPT = '''"""Trains a model. Café."""
import math

# Size of the model
LAYERS = 8               # how many blocks
WIDTH_PER_LAYER = 64     # width = layers x this
TOTAL_TOKENS = 2**19     # tokens of one step
ROW_TOKENS = 64 * 1024
BIG = 1_000_000
EMBEDDING_LR = 0.6       # search: log 0.1..2  # for Adam
MATRIX_LR: float = 4e-2
DECAY = -0.5
BETAS = (
    0.8,
    0.95,
)
PATTERN = "SSSL"         # search: choice L, SL, SSSL
USE_CAP = False
é = 3; AFTER = 4         # search: int 1..9
A, B = 1, 2
C = D = 5
step = 0
while step < 3:
    step += 1
late = 1
def f():
    global late
    late = 2
computed = math.pi * LAYERS
nothing = None
__version__ = "1"
note = """
# require: nothing here
X = 3  # search: log 1..2
"""
# require: TOTAL_TOKENS % ROW_TOKENS == 0 and LAYERS >= 1
'''


def test_every_single_literal_at_module_level_is_a_knob_and_nothing_else() -> None:
    values = read_knobs(SCRIPT).values
    assert values == {
        "LAYERS": 8,
        "WIDTH_PER_LAYER": 64,
        "TOTAL_TOKENS": 2**19,
        "ROW_TOKENS": 65536,
        "BIG": 1_000_000,
        "EMBEDDING_LR": 0.6,
        "MATRIX_LR": 0.04,
        "DECAY": -0.5,
        "BETAS": (0.8, 0.95),
        "PATTERN": "SSSL",
        "USE_CAP": False,
        "é": 3,
        "AFTER": 4,
        "note": values["note"],
    }
    assert knob_values({"a.py": "X = 1", "b.py": "def", "c.txt": "Y = 2"}) == {"a.py:X": 1}


def test_comments_give_ranges_and_plain_values_get_a_range_of_their_own() -> None:
    knobs = read_knobs(SCRIPT).knobs
    assert knobs["EMBEDDING_LR"].domain == Range(0.1, 2.0, log=True)
    assert knobs["AFTER"].domain == Range(1, 9, integer=True)
    assert knobs["é"].domain == Range(1, 6, log=True, integer=True)
    assert knobs["PATTERN"].domain == Choices(("L", "SL", "SSSL"))
    assert knobs["MATRIX_LR"].domain == Range(0.01, 0.16, log=True)
    assert knobs["LAYERS"].domain == Choices((4, 8, 16))
    assert knobs["USE_CAP"].domain == Choices((False, True))
    assert knobs["BETAS"].domain is None
    assert read_knobs("M = 0.9").knobs["M"].domain == Range(0.6, 0.975)
    assert read_knobs("SEED = 4\nEVAL_ROWS = 4\nLR = 1.0  # search: off").knobs["LR"].domain is None
    assert all(knob.domain is None for knob in read_knobs("SEED = 4\nEVAL_ROWS = 4").knobs.values())


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_splice_changes_the_literals_and_not_one_other_byte(line_end: str, mark: str) -> None:
    source = mark + SCRIPT.replace("\n", line_end)
    new = splice(
        source,
        {
            "LAYERS": 2,
            "TOTAL_TOKENS": 2**16,
            "ROW_TOKENS": 32 * 1024,
            "BIG": 2_500_000,
            "EMBEDDING_LR": 0.012000000000000002,
            "MATRIX_LR": 0.012,
            "BETAS": (0.9, 0.95),
            "PATTERN": "L",
            "USE_CAP": True,
            "é": 5,
            "AFTER": 6,
        },
    )
    expected = source
    for old, wanted in [
        ("LAYERS = 8 ", "LAYERS = 2 "),
        ("2**19", "2**16"),
        ("64 * 1024", "32 * 1024"),
        ("1_000_000", "2_500_000"),
        ("EMBEDDING_LR = 0.6 ", "EMBEDDING_LR = 0.012 "),
        ("4e-2", "1.2e-2"),
        (line_end.join(["(", "    0.8,", "    0.95,", ")"]), "(0.9, 0.95)"),
        ('"SSSL"', '"L"'),
        ("False", "True"),
        ("é = 3", "é = 5"),
        ("AFTER = 4", "AFTER = 6"),
    ]:
        assert expected.count(old) == 1
        expected = expected.replace(old, wanted)
    assert new == expected


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("X = 1\nLR = 0.1  # search: log 0..1", r"train.py, line 2: LR: a log range must start above 0"),
        ("LR = 0.1  # search: lgo 0.1..1", r"line 1: LR: 'lgo 0.1..1' is not a search range: write"),
        ("LR = 0.1  # search: linear 2..1", r"line 1: LR: the range 2..1 is empty"),
        ('O = "a"  # search: linear 1..2', r"a range needs a number, and the value is 'a'"),
        ("N = 1.5  # search: int 1..2", r"int needs whole numbers"),
        ('O = "a"  # search: choice a', r"gives no choice"),
        ('O = "a"  # search: choice a, 1', r"of different kinds"),
        ('O = "a"  # search: choice a-b, c', r"quote unusual words"),
        ("n = 1\nn += 1\nn = 2  # search: int 1..2", r"line 3: a search comment must end a line"),
        ("A = 1\n# require: A % B == 0", r"line 2: B in the condition 'A % B == 0' is not a knob"),
        ("A = 1\n# require: open(A)", r"line 2: 'open\(A\)' is not a condition over knobs"),
        ("A = 1\n# require: A.real == 1", r"not a condition over knobs"),
        ("A = (", r"line 1: this is not valid Python"),
        ("A = 1\0", r"this is not valid Python"),
    ],
)
def test_a_wrong_comment_is_a_sentence_with_its_line(source: str, sentence: str) -> None:
    with pytest.raises(KnobError, match=sentence):
        read_knobs(source)


def test_conditions_are_checked_without_running_anything() -> None:
    knobs = read_knobs(
        "A = 8\nB = 2\nO = 'x'\n# require: A % B == 0 and (O in ('x', 'y') or min(A, B) > 1) and 2 < A < 99"
    )
    assert knobs.violations({}) == []
    assert [broken.line for broken in knobs.violations({"B": 3})] == [4]
    assert knobs.violations({"B": 0}), "a division by zero does not hold"
    assert read_knobs("A = 3\n# require: A ** (10 ** 9) > 0").violations({}), "and no time is spent on huge powers"


names = st.from_regex(r"[A-Z][A-Z_]{0,6}", fullmatch=True)
numbers = st.one_of(
    st.integers(-(10**9), 10**9),
    st.booleans(),
    st.floats(-1e6, 1e6, allow_nan=False).map(lambda x: float(f"{x:.6g}")),
    st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), max_size=8),
)
lines = st.sampled_from(["", "# é comment", "import os", "x = os.getcwd()", "print('A = 1')", '"""text\nA = 1\n"""'])


@st.composite
def scripts(draw: st.DrawFn) -> tuple[str, dict[str, object]]:
    values = draw(st.dictionaries(names, numbers, min_size=1, max_size=5))
    parts = []
    for name, value in values.items():
        parts += [draw(lines), f"{name} = {value!r}{draw(st.sampled_from(['', '  # note', '  # search: off']))}"]
    return "\n".join(parts) + draw(st.sampled_from(["", "\n"])), dict(values)


@settings(max_examples=150, deadline=None)
@given(scripts(), st.data())
def test_splicing_is_the_inverse_of_reading(script: tuple[str, dict[str, object]], data: st.DataObject) -> None:
    source, values = script
    read = read_knobs(source).values
    assert {name: read[name] for name in values} == values
    assert splice(source, read) == source
    name = data.draw(st.sampled_from(sorted(values)))
    new = data.draw(numbers)
    changed = splice(source, {name: new})
    assert read_knobs(changed).values == {**read, name: new}
    old, other = source.split("\n"), changed.split("\n")
    assert len(old) == len(other)
    assert sum(a != b for a, b in zip(old, other, strict=True)) <= 1
    ast.parse(changed)
