"""A point suggested by Optuna's tree-structured Parzen estimator from all that was measured."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from autoresearch_operator.proposers.domains import Choices, Domain, Range
from autoresearch_operator.proposers.edits import fingerprint
from autoresearch_operator.proposers.interface import HistoryEntry
from autoresearch_operator.proposers.literals import KnobValue, number
from autoresearch_operator.proposers.space import Space

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

MOST_ENTRIES = 150
"""History given to the estimator: the best and the latest halves of this many; keeps a suggestion under 50 ms."""
FEWEST_ENTRIES = 6
"""With fewer scores than this there is nothing to estimate."""


@dataclass(slots=True)
class Told:
    """Optuna's trials of the last suggestion: from one to the next only a few are new, and making one costs half a
    millisecond. Whatever is in here, the answer is the same."""

    base: str = ""
    """Fingerprint of the files that the knobs and their present values were read from."""
    distributions: dict[str, BaseDistribution] = field(default_factory=dict)
    trials: dict[tuple[str, float], FrozenTrial] = field(default_factory=dict)
    """By a candidate's fingerprint and the score that it counts with."""


def suggest(space: Space, seed: int, told: Told) -> dict[str, KnobValue] | None:
    """A full set of values, or None while there are too few scores.

    The study is rebuilt from the history at every call, so that the answer depends on the request alone. Candidates
    without a score, and pending ones, count as the worst score seen: the estimator then keeps away from both.
    """
    entries = _most_telling(space.request.history)
    scores = [entry.score for entry in entries if entry.score is not None]
    if len(scores) < FEWEST_ENTRIES:
        return None
    import optuna  # half a second that `autoresearch --help` should not pay

    from autoresearch_operator.proposers.estimates import shared_trial

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    base = fingerprint(space.request.files)
    if told.base != base:
        told.base, told.trials = base, {}
        told.distributions = {key: _distribution(domain) for key, domain in space.domains.items()}
    known, told.trials = told.trials, {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(seed=seed & 0x7FFF_FFFF, multivariate=True, n_startup_trials=1)
        study = optuna.create_study(sampler=sampler)
        worst = max(scores)
        for entry in (*entries, *space.request.pending):
            key = entry.fingerprint, worst if entry.score is None else entry.score
            trial = known.get(key)
            if trial is None or key in told.trials:  # a study numbers its trials: none may be in it twice
                params = {name: _encode(space, name, entry) for name in told.distributions}
                trial = shared_trial(params, told.distributions, key[1])
            told.trials[key] = trial
            study.add_trial(trial)
        asked = study.ask(told.distributions)
    return {key: _decode(domain, asked.params[key]) for key, domain in space.domains.items()}


def _most_telling(history: Sequence[HistoryEntry]) -> list[HistoryEntry]:
    if len(history) <= MOST_ENTRIES:
        return list(history)
    half = MOST_ENTRIES // 2
    older, latest = history[:-half], history[-half:]
    best = sorted(older, key=lambda entry: (entry.score is None, entry.score or 0.0, entry.number))[:half]
    return [*sorted(best, key=lambda entry: entry.number), *latest]


def _distribution(domain: Domain) -> BaseDistribution:
    from autoresearch_operator.proposers.estimates import SharedChoice, SharedFloat, SharedInt

    if isinstance(domain, Choices):
        # By index, because a choice may be a tuple, and 1, 1.0 and True are one category to Optuna.
        return SharedChoice(tuple(range(len(domain.values))))
    if domain.integer:
        if domain.log and domain.step == 1:
            return SharedInt(int(domain.low), int(domain.high), log=True)
        high = int(domain.low) + (int(domain.high) - int(domain.low)) // domain.step * domain.step
        return SharedInt(int(domain.low), high, step=domain.step)
    return SharedFloat(domain.low, domain.high, log=domain.log)


def _encode(space: Space, key: str, entry: HistoryEntry) -> int | float:
    """A candidate's value as the estimator takes it; knobs that it did not have count as the present value."""
    domain, value = space.domains[key], entry.values.get(key, space.value(key))
    if isinstance(domain, Range):
        if not isinstance(value, int | float):
            value = space.value(key)
        return domain.clip(number(value)) if domain.integer else min(max(float(number(value)), domain.low), domain.high)
    index = domain.index(value)
    if index is None:
        index = domain.index(space.value(key))
    return index or 0


def _decode(domain: Domain, value: int | float) -> KnobValue:
    return domain.values[int(value)] if isinstance(domain, Choices) else domain.clip(value)
