"""Optuna's distributions, made cheap to keep a few hundred times. Importing this module imports Optuna."""

from __future__ import annotations

from typing import Self

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

# Optuna's memory storage copies every distribution of every trial and compares them one by one: nine tenths of the cost
# of a suggestion. They never change, so one object serves all trials.


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
