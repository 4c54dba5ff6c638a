"""Edits: merged, compared and recognised."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from autoresearch_operator.proposers.edits import Conflict, changes, diff, fingerprint, merge
from autoresearch_operator.research.records import Change
from hypothesis import given, settings
from hypothesis import strategies as st

BASE = {"train.py": "LR = 0.1  # rate\nWIDTH = 8\nDEPTH = 4\n\n\ndef f(x):\n    return x\n\n\nprint(f(LR))\n"}


def edit(old: str, new: str, files: dict[str, str] = BASE) -> dict[str, str]:
    assert old in files["train.py"]
    return {"train.py": files["train.py"].replace(old, new)}


def test_edits_of_neighbouring_knobs_merge_and_can_be_taken_out_again() -> None:
    ours, theirs = edit("WIDTH = 8", "WIDTH = 16"), edit("LR = 0.1", "LR = 0.4")
    merged = merge(BASE, ours, theirs)
    assert merged == edit("LR = 0.1", "LR = 0.4", ours)
    assert merge(theirs, merged, BASE) == ours
    assert changes(BASE, merged) == (Change("train.py", "LR", "0.1", "0.4"), Change("train.py", "WIDTH", "8", "16"))


def test_a_knob_beside_changed_code_merges_with_that_code() -> None:
    theirs = {"train.py": BASE["train.py"].replace("WIDTH = 8\n", "WIDTH = 16\nHEADS = 2\n")}
    assert merge(BASE, edit("DEPTH = 4", "DEPTH = 2"), theirs) == edit("DEPTH = 4", "DEPTH = 2", theirs)


def test_one_knob_with_two_new_values_is_a_conflict_that_names_all_three() -> None:
    found = merge(BASE, edit("LR = 0.1", "LR = 0.2"), edit("LR = 0.1", "LR = 0.4"))
    assert found == Conflict("train.py", "train.py, line 1: LR was 0.1; one edit made it 0.2, the other 0.4")
    agreed = edit("LR = 0.1", "LR = 0.2")
    assert merge(BASE, agreed, agreed) == agreed


def test_two_edits_of_one_place_are_a_conflict() -> None:
    found = merge(BASE, edit("return x", "return x + 1"), edit("return x", "return -x"))
    assert found == Conflict("train.py", "train.py, line 7: both edits change this place")
    assert isinstance(merge(BASE, {}, edit("return x", "return -x")), Conflict)
    assert merge(BASE, {**BASE, "a.py": ""}, {**BASE, "b.py": ""}) == {**BASE, "a.py": "", "b.py": ""}


def test_a_merge_that_is_no_longer_python_is_a_conflict() -> None:
    base = {"train.py": "def f():\n    a()\n\n    b()\n"}
    ours = {"train.py": "def f():\n    a()\n\n"}
    theirs = {"train.py": "def f():\n\n    b()\n"}
    found = merge(base, ours, theirs)
    assert isinstance(found, Conflict)


file_lines = st.lists(st.sampled_from(["A = 1", "A = 2", "B = 1", "B = 2.5", "f()", "# c", ""]), max_size=6)
texts = file_lines.map(lambda lines: "".join(f"{line}\n" for line in lines))


@settings(max_examples=300, deadline=None)
@given(texts, texts, texts)
def test_laws_of_merging(base: str, ours: str, theirs: str) -> None:
    b, o, t = ({"train.py": text} for text in (base, ours, theirs))
    assert merge(b, o, b) == o
    assert merge(b, b, t) == t
    assert merge(b, o, o) == o
    assert isinstance(merge(b, o, t), Conflict) == isinstance(merge(b, t, o), Conflict)


knob_files = st.tuples(*[st.integers(0, 3)] * 5).map(
    lambda values: {"train.py": "".join(f"K{i} = {value}\n" for i, value in enumerate(values))}
)


@settings(max_examples=200, deadline=None)
@given(knob_files, knob_files, knob_files)
def test_taking_out_an_applied_edit_gives_back_what_was_before(
    base: dict[str, str], ours: dict[str, str], theirs: dict[str, str]
) -> None:
    merged = merge(base, ours, theirs)
    mine, others = changes(base, ours), changes(base, theirs)
    if isinstance(merged, Conflict):
        assert {change.name for change in mine} & {change.name for change in others}
    elif not set(mine) & set(others):
        assert merge(theirs, merged, base) == ours


def test_a_diff_can_be_applied_by_git(tmp_path: Path) -> None:
    before = {"train.py": "A = 1\nB = 2", "old.py": "x\n"}
    after = {"train.py": "A = 1\nB = 3\n", "new.py": "y\x0cz\n"}
    for path, text in before.items():
        (tmp_path / path).write_text(text)
    subprocess.run(["git", "apply", "-"], input=diff(before, after), text=True, cwd=tmp_path, check=True)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == after
    assert diff(before, before) == ""


@pytest.mark.parametrize(
    ("other", "same"),
    [
        ('"""Doc."""\nLR   =  0.10 # other\nT = 131072\ndef f(x):\n  "says"\n  return (x)\n', True),
        ("LR = 0.1\r\nT = 2**17\r\ndef f(x):\r\n    return x\r\n", True),
        ("LR = 0.2\nT = 2**17\ndef f(x):\n    return x\n", False),
        ("LR = 0.1\nT = 2**17\ndef f(x):\n    return -x\n", False),
        ("LR = 0.1\nT = 2**17\ndef f(x)\n", False),
    ],
)
def test_programs_that_do_the_same_share_a_fingerprint(other: str, same: bool) -> None:
    plain = {"train.py": "LR = 0.1\nT = 2**17\ndef f(x):\n    return x\n"}
    assert (fingerprint(plain) == fingerprint({"train.py": other})) is same
