"""The table of operators keeps its promise: pure, without randomness, with known sizes."""

import numpy as np
import pytest
import torch
from autoresearch_trainer.judge.audit import Audit, bound
from autoresearch_trainer.judge.operators import _CHECKS, ALLOWED, ATTENTION, lookup
from autoresearch_trainer.judge.rows import ScoredRows

GUARDED = {"aten.index.Tensor", "aten.one_hot.default", "aten.scaled_dot_product_attention.default"}
"""Impure, or of unknown size, under some arguments only; those are refused or fail without data."""


@pytest.mark.parametrize("name", sorted(ALLOWED))
def test_an_allowed_operator_is_pure_and_its_arguments_are_checked(name: str) -> None:
    operator = lookup(name)
    overload = torch.ops.autoresearch.attention.default if name == ATTENTION else operator.call
    assert not overload._schema.is_mutable
    if name not in GUARDED:
        unwanted = {torch.Tag.nondeterministic_seeded, torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
        assert not unwanted & set(overload.tags)
    for kind in operator.kinds.values():
        inner = kind
        while "[" in inner:
            inner = inner[inner.index("[") + 1 : -1]
        assert inner in _CHECKS, kind


def test_the_bound_is_the_one_the_decision_page_states() -> None:
    assert bound(2048) == pytest.approx(0.00146, abs=1e-5)
    assert bound(128) == pytest.approx(0.0231, abs=1e-4)
    assert bound(0) == 1.0


def rows(batches: int) -> ScoredRows:
    random = np.random.default_rng(1)
    windows = random.integers(0, 90, (batches, 6, 17))
    windows[:, 2, 5] = 99
    text = random.integers(0, 90, (50, 16))
    return ScoredRows(windows, np.ones(100, np.int16), 99, text, text)


@pytest.mark.parametrize(("batches", "pairs"), [(1, 4), (1, 128), (3, 128), (5, 60)])
def test_at_least_the_pairs_asked_for_are_drawn_and_cuts_fall_on_document_starts_too(batches: int, pairs: int) -> None:
    audit = Audit(rows(batches), 100, pairs, np.random.default_rng(2))
    drawn = [pair for group in audit._plan for pair in group if pair]
    assert pairs <= len(drawn) < pairs + 6
    starts = [pair for pair in drawn if pair.at_start]
    assert starts
    assert {(pair.slot, pair.cut) for pair in starts} == {(2, 5)}


def test_a_decoy_keeps_the_prefix_and_changes_the_next_token() -> None:
    audit = Audit(rows(3), 100, 60, np.random.default_rng(3))
    for group in audit._plan:
        tokens = audit._decoys(group)
        for slot, pair in enumerate(group):
            assert pair is not None
            original = audit._rows.windows[pair.batch, slot, :-1]
            assert (tokens[slot, : pair.cut + 1] == original[: pair.cut + 1]).all()
            assert tokens[slot, pair.cut + 1] != original[pair.cut + 1]
