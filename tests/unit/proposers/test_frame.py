"""A script's frame and its numbers: what is worked out once for a frame is what the whole text would have given."""

import ast
from pathlib import Path

import autoresearch_trainer
import pytest
from autoresearch_operator.proposers import knobs, lint
from autoresearch_operator.proposers.checks import check
from autoresearch_operator.proposers.edits import fingerprint
from autoresearch_operator.proposers.frame import split
from hypothesis import given
from hypothesis import strategies as st

TEMPLATE = (Path(autoresearch_trainer.__file__).parent / "templates" / "tiny-gpt" / "train.py").read_text()

LINES = st.sampled_from(
    [
        "A = 5",
        "A = 6  # search: int 1..9",
        "B=-0.25",
        "C = 2**17  # a comment",
        "D = 2 * 8",
        "E = .5e-3",
        "SEED = 42",
        "SEED = 43",
        "F = 1; G = 2",
        "H = (3)",
        "I = J = 4",
        "K: int = 7",
        "L = True",
        "M = 'text'",
        'N = """',
        'end = """',
        '"""',
        "call(",
        ")",
        "X = \\",
        "if A:",
        "    inner = 5",
        "import torch",
        "torch.manual_seed(5)",
        "# require: A > 0",
        "",
    ]
)
TEXTS = st.lists(LINES, max_size=12).flatmap(
    lambda lines: st.sampled_from(["\n", "\r\n"]).map(lambda end: end.join(lines) + end)
)


@given(TEXTS)
def test_a_text_is_its_frame_with_the_numbers_put_back(text: str) -> None:
    parts = split(text)
    assert parts.keeping({number.line for number in parts.numbers}) == text
    for number in parts.numbers:
        assert text[number.start :].startswith(number.literal)
        assert text.splitlines()[number.line - 1].count(number.literal)
    if parts.numbers:
        ast.parse(parts.frame)


@given(TEXTS)
def test_findings_are_those_of_the_whole_text(text: str) -> None:
    assert lint.findings(text) == list(lint._findings(text))


@given(TEXTS)
def test_knobs_are_where_the_text_has_them(text: str) -> None:
    try:
        found = knobs.read_knobs(text)
    except knobs.KnobError:
        return
    values = {}
    for statement in ast.parse(text).body:
        if (literal := knobs._literal(statement)) is not None:
            values[literal[0]] = literal[2]
    for name, knob in found.knobs.items():
        assert text[knob.start : knob.end] == knob.literal
        assert values[name] == knob.value


@given(TEXTS, TEXTS)
def test_programs_differ_by_their_syntax_trees_alone(one: str, other: str) -> None:
    def tree(text: str) -> str:
        try:
            return ast.dump(ast.parse(text))
        except SyntaxError:
            return text.replace("\r\n", "\n")

    if tree(one) == tree(other):
        assert fingerprint({"a.py": one}) == fingerprint({"a.py": other})


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("A = 131072\n", "A = 2**17\n", True),
        ("A = 5\n", "A = (5)  # five\n", True),
        ("A = 5\nB = 6\n", "A = 5; B = 6\n", True),
        ("A = 5\n", "A = 6\n", False),
        ("A = 5\n", "A = 5.0\n", False),
        ("A = 1\nB = 2\n", "A = 2\nB = 1\n", False),
        ("A = ...\nB = 5\n", "A = 5\nB = ...\n", False),
        ('T = """\nA = 5\n"""\n', 'T = """\nA = 6\n"""\n', False),
        ('"""\nA = 5\n"""\n', '"""\nA = 6\n"""\n', True),
        ("call(\nA = 5\n)\n", "call(\nA = 6\n)\n", False),
        ("X = \\\nA = 5\n", "X = \\\nA = 6\n", False),
    ],
)
def test_a_number_counts_where_it_is_one_of_the_program(one: str, other: str, same: bool) -> None:
    assert (fingerprint({"a.py": one}) == fingerprint({"a.py": other})) is same


def test_a_candidate_with_another_number_shares_everything_with_its_base() -> None:
    base = {"train.py": TEMPLATE}
    name, knob = next((n, k) for n, k in knobs.read_knobs(TEMPLATE).knobs.items() if isinstance(k.value, float))
    edited = {"train.py": knobs.splice(TEMPLATE, {name: float(knob.value) * 1.5})}
    assert check(base, edited, ["train.py"]) == []
    assert split(edited["train.py"]).frame == split(TEMPLATE).frame
    assert fingerprint(base) != fingerprint(edited)
