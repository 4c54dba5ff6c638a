"""The refusals of an Experiment, each tried against a real API server: what is decided and measured is final."""

from __future__ import annotations

import pytest
from apifixtures import installed, runs
from apiobjects import COMMIT, OTHER, Object, Runs, condition, refused
from clusterlab.api import ApiError

__all__ = ["installed", "runs"]

RUNNING = {"name": "h100-s1-a1", "tier": "h100", "seed": 1, "attempt": 1, "phase": "Running"}
SCORED = {**RUNNING, "phase": "Scored", "valBPB": 0.9812, "tokensPerSecond": 1660000, "podUID": "u"}
REFERENCE = {**SCORED, "experiment": 3, "purpose": "Reference", "valBPB": 0.99}
DONE = {"phase": "Done", "verdict": "Rejected", "reason": "NotBetter", "valBPB": 0.9812, "delta": -0.002}
ACCEPTED = {"phase": "Done", "verdict": "Accepted", "reason": "Improved", "landedCommit": OTHER}


def test_14_what_a_candidate_is_never_changes(runs: Runs) -> None:
    name = runs.experiment()
    for change in ({"title": "x"}, {"commit": OTHER}, {"number": 18}, {"kind": "Combination"}):
        with pytest.raises(ApiError) as error:
            runs.change(name, change)
        assert "spec: Forbidden: cannot change: what was measured is what is written here" in refused(error)


def test_an_experiment_is_named_by_its_number(runs: Runs) -> None:
    for name in ("first-18", "first-017", "first17", "first"):
        with pytest.raises(ApiError) as error:
            runs.experiment(name=name)
        assert "an Experiment is named <run>-<number>" in refused(error)
    assert runs.experiment(name="first-0", number=0, kind="Baseline", base=COMMIT)
    assert runs.experiment(name="first-18", number=18, kind="Ablation")


@pytest.mark.parametrize(
    "second",
    [
        {"verdict": "Accepted", "reason": "Improved", "landedCommit": OTHER},
        {"verdict": "Invalid", "reason": "Crashed"},
        {"reason": "NotSignificant"},
        {"verdict": None, "reason": None, "phase": "Pending"},
    ],
)
def test_15_a_second_verdict_is_refused(second: Object, runs: Runs) -> None:
    name = runs.experiment(DONE)
    with pytest.raises(ApiError) as error:
        runs.tell(name, second)
    assert (
        "status: Forbidden: a verdict is final: it is Rejected, and verdict, reason and landedCommit cannot change"
        in refused(error)
    )


def test_15_a_verdict_does_not_go_with_its_status(runs: Runs) -> None:
    name = runs.experiment(DONE)
    with pytest.raises(ApiError) as error:
        runs.tell(name, None)
    assert "a verdict is final" in refused(error)


def test_15_what_landed_cannot_land_elsewhere(runs: Runs) -> None:
    name = runs.experiment(ACCEPTED)
    with pytest.raises(ApiError) as error:
        runs.tell(name, {"landedCommit": "12" * 20})
    assert "a verdict is final: it is Accepted" in refused(error)
    runs.tell(name, {"conditions": [condition("Finished")]})


def test_15_accepted_needs_the_commit_that_landed(runs: Runs) -> None:
    name = runs.experiment({"phase": "Landing"})
    with pytest.raises(ApiError) as error:
        runs.tell(name, {"phase": "Done", "verdict": "Accepted", "reason": "Improved"})
    assert (
        "status.verdict: Forbidden: Accepted needs landedCommit: an edit is accepted when it is in git, not before"
        in refused(error)
    )
    runs.tell(name, ACCEPTED)


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        ({**DONE, "landedCommit": OTHER}, "status.landedCommit: Forbidden: is set without the verdict Accepted"),
        ({"phase": "Done", "verdict": "Rejected"}, "status.reason: Forbidden: a verdict has a reason"),
        ({**DONE, "phase": "Screening"}, "status.phase: Forbidden: is Screening: it is Done exactly when there is a"),
        ({"phase": "Done"}, "status.phase: Forbidden: is Done: it is Done exactly when there is a verdict"),
        ({"trials": [SCORED, SCORED]}, "status.trials: Forbidden: two trials have the same name"),
        ({"trials": [{**RUNNING, "phase": "Scored"}]}, "status.trials[0].valBPB: Forbidden: a trial has a score"),
        ({"trials": [{**SCORED, "phase": "Lost"}]}, "has a score exactly when its phase is Scored, and it is Lost"),
        ({"trials": [{**RUNNING, "name": f"t{n}"} for n in range(33)]}, "status.trials: Too many: 33: must have"),
    ],
)  # fmt: skip
def test_a_status_that_contradicts_itself_is_refused(status: Object, sentence: str, runs: Runs) -> None:
    name = runs.experiment()
    with pytest.raises(ApiError) as error:
        runs.tell(name, status)
    assert sentence in refused(error)


@pytest.mark.parametrize(
    "trials",
    [
        [{**SCORED, "valBPB": 0.9}, RUNNING | {"name": "h100-s2-a1"}],
        [{**RUNNING}],
        [{**SCORED, "podUID": "other"}],
        [{**SCORED, "experiment": 3}],
        [],
        None,
    ],
)
def test_15_a_finished_trial_neither_changes_nor_vanishes(trials: list[Object] | None, runs: Runs) -> None:
    name = runs.experiment({"phase": "Screening", "trials": [SCORED, REFERENCE]})
    with pytest.raises(ApiError) as error:
        runs.tell(name, {"trials": trials})
    assert "status: Forbidden: a finished trial is final: it can neither change nor be taken off the list" in refused(
        error
    )


def test_15_other_trials_come_and_go_beside_a_finished_one(runs: Runs) -> None:
    second = {**RUNNING, "name": "h100-s2-a1", "seed": 2}
    name = runs.experiment({"phase": "Screening", "trials": [SCORED, second]})
    runs.tell(name, {"trials": [REFERENCE, SCORED, {**second, "phase": "Lost"}]})
    runs.tell(name, {"trials": [REFERENCE, SCORED, {**second, "phase": "Lost"}, {**second, "name": "h100-s2-a2"}]})
    runs.tell(name, DONE)


def test_commit_ids_of_digits_only_have_to_be_quoted(runs: Runs) -> None:
    with pytest.raises(ApiError) as error:
        runs.experiment(commit=int("1" * 18))
    assert "spec.commit" in refused(error)
