"""What an Experiment may say, as far as that needs no older version of it."""

from typing import Any

import pytest
from autoresearch_operator.api.experiment import Experiment
from pydantic import ValidationError

COMMIT = "ab" * 20


def experiment(status: dict[str, Any] | None = None, **spec: Any) -> Experiment:
    return Experiment.model_validate(
        {
            "metadata": {"name": "h100-to-h200-17", "labels": {"autoresearch.dev/run": "h100-to-h200"}},
            "spec": {
                "number": 17,
                "kind": "Proposal",
                "commit": COMMIT,
                "tree": "cd" * 20,
                "base": "ef" * 20,
                "title": "matrix LR .04 -> .03",
                "proposer": "qwen3-coder",
                **spec,
            },
            "status": status,
        }
    )


TRIAL = {"name": "h100-s1-a1", "tier": "h100", "seed": 1, "attempt": 1, "phase": "Scored", "valBPB": 0.9812}


def test_the_experiment_of_the_api_page_is_valid_and_keeps_its_spelling() -> None:
    status = {
        "phase": "Done",
        "verdict": "Rejected",
        "reason": "NotBetter",
        "valBPB": 0.9812,
        "delta": 0.0021,
        "trials": [{**TRIAL, "peakVRAMBytes": 47248000000, "tokensPerSecond": 1660000, "podUID": "1-2", "node": "n"}],
    }
    made = experiment(status)
    assert made.status is not None and made.status.trials[0].peak_vram_bytes == 47_248_000_000
    written = made.model_dump(mode="json", exclude_none=True)
    assert written["status"]["trials"][0]["peakVRAMBytes"] == 47_248_000_000
    assert Experiment.model_validate(written) == made


def test_status_null_is_no_status() -> None:
    assert experiment(None).status is None


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        ({"phase": "Done", "verdict": "Accepted", "reason": "Improved"}, "Accepted needs landedCommit"),
        (
            {"phase": "Done", "verdict": "Rejected", "reason": "NotBetter", "landedCommit": COMMIT},
            "is set without the verdict Accepted",
        ),
        ({"phase": "Done", "verdict": "Rejected"}, "a verdict has a reason"),
        ({"phase": "Screening", "verdict": "Rejected", "reason": "NotBetter"}, "Done exactly when there is a verdict"),
        ({"phase": "Done"}, "Done exactly when there is a verdict"),
        ({"trials": [TRIAL, TRIAL]}, "two trials have the same name"),
        ({"trials": [{**TRIAL, "name": f"t{n}"} for n in range(33)]}, "at most 32"),
        ({"trials": [{**TRIAL, "valBPB": None}]}, "a score exactly when its phase is Scored"),
        ({"trials": [{**TRIAL, "phase": "Lost"}]}, "a score exactly when its phase is Scored"),
        ({"trials": [{**TRIAL, "valBPB": float("nan")}]}, "finite number"),
        ({"verdicts": 1}, "Extra inputs"),
    ],
)
def test_a_status_that_contradicts_itself_is_refused(status: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        experiment(status)


def test_an_accepted_experiment_names_the_commit_that_landed() -> None:
    status = {"phase": "Done", "verdict": "Accepted", "reason": "Improved", "landedCommit": COMMIT}
    assert experiment(status).status is not None


@pytest.mark.parametrize("commit", ["ab", 17, "AB" * 20, "ab" * 20 + "\n", "g" * 40])
def test_commits_are_full_ids(commit: object) -> None:
    with pytest.raises(ValidationError):
        experiment(commit=commit)
