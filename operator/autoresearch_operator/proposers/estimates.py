"""Optuna's distributions and trials, made cheap to keep a few hundred times. Importing this module imports Optuna."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Self

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

# Optuna's memory storage copies every trial with all of its distributions and compares them one by one: nine tenths of
# the cost of a suggestion. They never change, so one object serves all trials, and one trial all studies in turn.


class SharedFloat(FloatDistribution):
    """A range of floats that is its own copy."""

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        return self

    def __eq__(self, other: object) -> bool:
        return self is other or bool(super().__eq__(other))

    __hash__ = FloatDistribution.__hash__


class SharedInt(IntDistribution):
    """A range of whole numbers that is its own copy."""

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        return self

    def __eq__(self, other: object) -> bool:
        return self is other or bool(super().__eq__(other))

    __hash__ = IntDistribution.__hash__


class SharedChoice(CategoricalDistribution):
    """Choices by index, their own copy."""

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        return self

    def __eq__(self, other: object) -> bool:
        return self is other or bool(super().__eq__(other))

    __hash__ = CategoricalDistribution.__hash__

    def to_internal_repr(self, param_value_in_external_repr: object) -> float:
        return float(self.choices.index(param_value_in_external_repr))


class _SharedTrial(FrozenTrial):
    """A finished trial that is its own copy; a study that it is added to gives it a number."""

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        return self


def shared_trial(
    params: dict[str, int | float], distributions: Mapping[str, BaseDistribution], value: float
) -> FrozenTrial:
    """A finished trial, to be in one study at a time."""
    when = datetime.now(UTC)
    return _SharedTrial(
        number=-1, trial_id=-1, state=TrialState.COMPLETE, value=value, datetime_start=when, datetime_complete=when,
        params=params, distributions=dict(distributions), user_attrs={}, system_attrs={}, intermediate_values={},
    )  # fmt: skip
