"""What a trainer's answer means."""

import pytest
from autoresearch_operator.api.reasons import VerdictReason
from autoresearch_operator.engine.results import UnreadableResult, finished_record
from autoresearch_operator.research.records import Purpose, TrialKey, TrialPhase, TrialRecord

RUNNING = TrialRecord(TrialKey(3, 192, 1), "cpu", Purpose.SCREEN, 3, TrialPhase.RUNNING, started_at=5.0, slot=1)
SCORED = {"version": 1, "outcome": "Scored", "valBPB": 2.5}


def test_a_score_keeps_what_was_measured_and_who_asked() -> None:
    answer = SCORED | {
        "audit": {"pairs": 128, "mismatches": 0, "maxDifference": 0.0},
        "trainTokens": 12,
        "peakMemoryBytes": 7,
        "curve": [[1, 2.5], ["x", 1], [2, float("nan")], [3, 1]],
    }
    record = finished_record(RUNNING, answer, finished_at=9.0)
    assert (record.phase, record.val_bpb, record.audit_pairs, record.train_tokens) == (TrialPhase.SCORED, 2.5, 128, 12)
    assert (record.key, record.slot, record.started_at, record.finished_at) == (RUNNING.key, 1, 5.0, 9.0)
    assert record.curve == ((1, 2.5), (3, 1.0))


def test_the_candidates_own_fault_has_its_reason() -> None:
    answer = {"version": 1, "outcome": "Invalid", "reason": "NotCausal", "detail": "d", "message": "m" * 900}
    record = finished_record(RUNNING, answer, finished_at=9.0)
    assert (record.phase, record.reason, record.detail) == (TrialPhase.INVALID, VerdictReason.NOT_CAUSAL, "d")
    assert len(record.message) == 400
    newer = finished_record(RUNNING, answer | {"reason": "Gremlins"}, finished_at=9.0)
    assert newer.reason is VerdictReason.CRASHED


def test_a_lost_trial_is_nobodys_fault() -> None:
    record = finished_record(RUNNING, {"version": 1, "outcome": "Lost", "reason": None}, finished_at=9.0)
    assert (record.phase, record.reason) == (TrialPhase.LOST, None)


@pytest.mark.parametrize(
    "answer",
    [
        {},
        SCORED | {"version": 2},
        SCORED | {"valBPB": None},
        SCORED | {"valBPB": float("nan")},
        SCORED | {"valBPB": True},
        SCORED | {"outcome": "Splendid"},
    ],
)
def test_what_is_no_result_is_never_read_as_a_score(answer: dict[str, object]) -> None:
    with pytest.raises(UnreadableResult):
        finished_record(RUNNING, answer, finished_at=9.0)
