"""Pure parts of a trial: its spec, its result, the order of its data and the words for its failures."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from autoresearch_trainer import classify, spec
from autoresearch_trainer.result import MAX_BYTES, Audit, TrialResult, encode, write_durably
from autoresearch_trainer.windows import Permutation, WindowOrder


def document(folder: Path, **changes: Any) -> dict[str, Any]:
    paths = {name: str(folder) for name in ("sourceDir", "workDir", "dataDir")}
    return {"version": 1, "name": "cpu-s1-a1@1", "seed": 1, "budget": {"steps": 3}, **paths, **changes}


def test_a_spec_gets_the_documented_defaults(tmp_path: Path) -> None:
    parsed = spec.parse(document(tmp_path))
    assert (parsed.split, parsed.script, parsed.eval_tokens, parsed.threads) == ("val", "train.py", 32768, 1)
    assert parsed.budget.as_json() == {"steps": 3}


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"budget": {"steps": 0}}, "budget.steps"),
        ({"budget": {"steps": 1, "seconds": 1}}, "budget"),
        ({"budget": {"seconds": float("nan")}}, "budget.seconds"),
        ({"script": "../train.py"}, "script"),
        ({"sourceDir": "relative"}, "sourceDir"),
        ({"device": "tpu"}, "device"),
        ({"cpus": [100_000]}, "cpus"),
        ({"env": {"LD_PRELOAD": "x.so"}}, "env"),
        ({"env": {"A": 1}}, "env"),
        ({"limits": {"memory": 1}}, "limits.memory"),
        ({"seed": True}, "seed"),
        ({"version": 2}, "version"),
        ({"sped": 1}, "sped"),
    ],
)
def test_a_wrong_field_is_named(tmp_path: Path, changes: dict[str, Any], word: str) -> None:
    with pytest.raises(spec.SpecError, match=word):
        spec.parse(document(tmp_path, **changes))


def test_the_longest_result_fits_and_keeps_its_figures() -> None:
    result = TrialResult(
        outcome="Invalid",
        reason="HostStorageExceeded",
        detail="d" * 100,
        message="\u2603" * 5000,
        val_bpb=1.2345678901234567,
        audit=Audit(2048, 0, 0.0),
        curve=[(10**12 + i, 3.14159) for i in range(500)],
        artifact_sha256="a" * 64,
        source_sha256="b" * 64,
        hardware={"product": "p" * 500, "torch": "2.15.0", "python": "3.11.7"},
    )
    shortened = result.as_json()
    assert len(encode(shortened)) <= MAX_BYTES
    assert shortened["valBPB"] == 1.2345678901234567 and shortened["artifactSHA256"] == "a" * 64
    assert shortened["message"]


def test_a_result_that_is_no_number_becomes_null(tmp_path: Path) -> None:
    result = TrialResult(outcome="Scored", val_bpb=float("inf"), curve=[(1, float("nan")), (2, 1.0)])
    write_durably(tmp_path / "result.json", result.as_json())
    read = json.loads((tmp_path / "result.json").read_text())
    assert read["valBPB"] is None and read["curve"] == [[2, 1.0]]
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 64, 1000, 4097])
def test_a_permutation_visits_everything_once(size: int) -> None:
    shuffled = Permutation(size, (1, 2, 3))(np.arange(size))
    assert sorted(shuffled.tolist()) == list(range(size))
    if size > 10:
        assert abs(np.corrcoef(np.arange(size), shuffled)[0, 1]) < 0.3


def test_the_order_depends_on_the_seed_and_not_on_the_batch() -> None:
    shards = [np.arange(1000, dtype=np.uint16), np.arange(1000, 1777, dtype=np.uint16)]

    def rows(batch: int, seed: int) -> np.ndarray:
        order = WindowOrder(shards, 16, seed)
        pieces = []
        for _ in range(160 // batch):
            out = np.empty((batch, 17), dtype=np.uint16)
            order.fill(out)
            pieces.append(out)
        return np.concatenate(pieces)

    first = rows(4, 7)
    assert np.array_equal(first, rows(10, 7)) and not np.array_equal(first, rows(4, 8))
    assert (np.diff(first.astype(int), axis=1) == 1).all(), "a window crosses a shard"
    order = WindowOrder(shards, 16, 7)
    assert len({int(row[0]) for row in first[: order.windows]}) == order.windows


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ('Traceback (most recent call last):\n  File "x"\nValueError: bad\n', ("ValueError", "bad")),
        ("Traceback (most recent call last):\n  x\npackage.module.Odd: why\n", ("Odd", "why")),
        ("  File x\n    def f(:\nSyntaxError: invalid syntax\n", ("SyntaxError", "invalid syntax")),
        ("loss: 3.1\n", None),
    ],
)
def test_the_last_exception_is_read_from_the_output(output: str, expected: tuple[str, str] | None) -> None:
    assert classify.last_exception(output) == expected


def test_facts_win_over_text() -> None:
    text = "Traceback (most recent call last):\n  x\nMemoryError\n"
    assert classify.why(classify.Ending(signal=9), text, None, None).reason == "Crashed"
    assert classify.why(classify.Ending(code=0), text, None, None).reason == "NoArtifact"
    assert classify.why(classify.Ending(code=1), text, None, None).reason == "HostOutOfMemory"
