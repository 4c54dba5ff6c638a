"""The Experiment object and its status: what a person reads, and the second copy of what was measured."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import podshapes as shapes
from autoresearch_operator.api.experiment import MAX_TRIALS, Experiment, ExperimentStatus
from autoresearch_operator.api.reasons import ExperimentKind, ExperimentPhase, Verdict, VerdictReason
from autoresearch_operator.manifests.experiment import Place, experiment, finished_trials, places_of, status
from autoresearch_operator.manifests.names import stamp
from autoresearch_operator.research.records import ExperimentRecord, Purpose, TrialKey, TrialPhase, TrialRecord
from hypothesis import given, settings
from hypothesis import strategies as st
from podshapes import RECORD, T0

BASE = ExperimentRecord(
    0, ExperimentKind.BASELINE, "11" * 20, "22" * 20, 0, "the unedited source", "source", landed_commit="11" * 20
)
RUN = shapes.as_object(shapes.request())


def trial(index: int = 0, *, number: int = 17, subject: int = 17, attempt: int = 1, **more: Any) -> TrialRecord:
    fields: dict[str, Any] = {
        "phase": TrialPhase.SCORED,
        "val_bpb": 0.98,
        "purpose": Purpose.CONFIRM if number == subject else Purpose.REFERENCE,
        "started_at": T0 + index,
        "finished_at": T0 + index + 300,
        **more,
    }
    return TrialRecord(TrialKey(number, subject * 64 + index, attempt), "gpu", subject=subject, **fields)


def running(index: int = 0) -> TrialRecord:
    return trial(index, phase=TrialPhase.RUNNING, val_bpb=None, finished_at=None)


def as_experiment(whole: dict[str, Any], record: ExperimentRecord = RECORD) -> dict[str, Any]:
    item = experiment(RUN, record, [BASE])
    item["status"] = copy.deepcopy(whole)
    Experiment.model_validate(item, by_alias=True, by_name=False)
    return item


def names(whole: dict[str, Any]) -> list[str]:
    return [entry["name"] for entry in whole["trials"]]


def test_an_experiment_names_its_commit_and_the_commit_it_was_made_on() -> None:
    landed = replace(BASE, landed_commit="33" * 20)
    item = experiment(RUN, RECORD, [landed])
    assert item["metadata"]["name"] == "first-17"
    assert item["metadata"]["labels"]["autoresearch.dev/experiment"] == "17"
    assert (item["spec"]["commit"], item["spec"]["base"]) == (RECORD.commit, "33" * 20)
    assert experiment(RUN, BASE, [])["spec"]["base"] == BASE.commit


def test_a_title_of_any_kind_fits_on_one_line() -> None:
    spec = experiment(RUN, replace(RECORD, title="a\n\x1b[31m" + "b" * 500, proposer=""), [BASE])["spec"]
    assert len(spec["title"]) == 200
    assert spec["title"].isprintable()
    assert spec["proposer"] == "unknown"


def test_a_measured_trial_comes_back_from_the_status() -> None:
    told = trial(
        3,
        val_bpb=0.98125,
        audit_pairs=64,
        train_tokens=1 << 20,
        tokens_per_second=1.66e6,
        reference_seconds=0.0021,
        peak_memory_bytes=5 << 30,
        peak_vram_bytes=47 << 30,
        cpu_seconds=12.5,
    )
    place = Place("pod-uid", "gpu-1", "NVIDIA-L4", "570.1")
    item = as_experiment(status(RECORD, [told], None, T0, places={told.key: place}))
    assert finished_trials(item) == [told]
    assert places_of(item) == {told.key: place}


def test_the_incumbents_runs_are_told_with_its_number_beside_the_candidates() -> None:
    reference = trial(8, number=3)
    item = as_experiment(status(RECORD, [trial(8), reference, trial(9, subject=18)], None, T0))
    assert [entry.get("experiment") for entry in item["status"]["trials"]] == [3, None]
    assert {found.key for found in finished_trials(item)} == {reference.key, trial(8).key}


def test_a_finer_reason_stands_before_the_sentence() -> None:
    crashed = trial(
        0,
        phase=TrialPhase.INVALID,
        val_bpb=None,
        reason=VerdictReason.CRASHED,
        detail="ValueError",
        message="not 2-D",
    )
    assert status(RECORD, [crashed], None, T0)["trials"][0]["message"] == "ValueError: not 2-D"


def test_a_running_trial_is_updated_and_a_finished_one_never() -> None:
    first = status(RECORD, [running()], None, T0)
    second = status(RECORD, [trial()], first, T0 + 300)
    assert [entry["phase"] for entry in second["trials"]] == ["Scored"]
    assert second["trials"][0]["finishedAt"] == stamp(T0 + 300)
    other = status(RECORD, [trial(val_bpb=0.5)], second, T0 + 400)
    assert other["trials"] == second["trials"]
    assert status(RECORD, [], second, T0 + 500)["trials"] == second["trials"], "what was told is not taken back"


def test_where_a_trial_runs_is_kept_from_the_status_before() -> None:
    first = status(RECORD, [running()], None, T0, places={running().key: Place("pod-uid", "gpu-1")})
    second = status(RECORD, [trial()], first, T0 + 300)
    assert (second["trials"][0]["podUID"], second["trials"][0]["node"]) == ("pod-uid", "gpu-1")


def test_thirty_two_trials_fit_and_lost_attempts_go_last() -> None:
    lost = [trial(0, attempt=n, phase=TrialPhase.LOST, val_bpb=None) for n in range(1, 6)]
    scored = [trial(index) for index in range(1, 40)]
    whole = status(RECORD, [*lost, *scored], None, T0)
    as_experiment(whole)
    assert len(whole["trials"]) == MAX_TRIALS
    assert {entry["phase"] for entry in whole["trials"]} == {"Scored"}
    full = status(RECORD, [*lost, *scored], whole, T0)
    assert names(full) == names(whole)


def test_a_verdict_finishes_it_once() -> None:
    before = status(RECORD, [], None, T0, phase=ExperimentPhase.SCREENING)
    assert before["phase"] == "Screening"
    assert before["conditions"][0] | {"lastTransitionTime": ""} == {
        "type": "Finished", "status": "False", "reason": "Pending", "message": "", "lastTransitionTime": "",
    }  # fmt: skip
    decided = replace(
        RECORD,
        phase=ExperimentPhase.DONE,
        verdict=Verdict.REJECTED,
        reason=VerdictReason.NOT_BETTER,
        message="0.9812 is not under 0.9790",
        val_bpb=0.9812,
        delta=-0.0022,
    )
    done = status(decided, [trial()], before, T0 + 9, phase=ExperimentPhase.SCREENING)
    ExperimentStatus.model_validate(done, by_alias=True, by_name=False)
    assert (done["phase"], done["verdict"], done["reason"]) == ("Done", "Rejected", "NotBetter")
    assert done["conditions"][0]["lastTransitionTime"] == stamp(T0 + 9)
    assert status(decided, [trial()], done, T0 + 99) == done, "the same facts give the same status"


def test_the_baseline_has_no_landed_commit_before_its_verdict() -> None:
    assert "landedCommit" not in status(BASE, [], None, T0)
    accepted = replace(BASE, phase=ExperimentPhase.DONE, verdict=Verdict.ACCEPTED, reason=VerdictReason.MEASURED)
    assert status(accepted, [], None, T0)["landedCommit"] == BASE.commit


def test_a_model_that_diverged_still_has_a_status_that_the_api_takes() -> None:
    as_experiment(status(RECORD, [trial(val_bpb=31415.9)], None, T0))


def test_an_entry_of_another_version_is_measured_again() -> None:
    item = as_experiment(status(RECORD, [trial(1), trial(2)], None, T0))
    item["status"]["trials"][0]["phase"] = "Paused"
    del item["status"]["trials"][1]["purpose"]
    assert finished_trials(item) == []


phases = st.sampled_from(
    [TrialPhase.RUNNING, TrialPhase.SCORED, TrialPhase.INVALID, TrialPhase.STARVED, TrialPhase.LOST]
)
texts = st.text(max_size=700)


@st.composite
def histories(draw: st.DrawFn) -> list[list[TrialRecord]]:
    """What a run knows at successive passes: trials are added and end, in any order, and none is forgotten."""
    count = draw(st.integers(1, 40))
    ends = [draw(phases.filter(lambda phase: phase is not TrialPhase.RUNNING)) for _ in range(count)]
    cuts = sorted(draw(st.lists(st.integers(0, count), min_size=1, max_size=4)))
    passes = []
    for cut in cuts:
        known = []
        for index in range(cut):
            ended = draw(st.booleans()) or cut is not cuts[0]
            phase = ends[index] if ended else TrialPhase.RUNNING
            score = 0.9 if phase is TrialPhase.SCORED else None
            reason = VerdictReason.CRASHED if phase is TrialPhase.INVALID else None
            known.append(trial(index, phase=phase, val_bpb=score, reason=reason, message=draw(texts)))
        passes.append(known)
    return passes


@settings(max_examples=40, deadline=None)
@given(histories())
def test_whatever_happens_a_status_is_valid_and_finished_trials_are_final(passes: list[list[TrialRecord]]) -> None:
    told: dict[str, Any] | None = None
    for known in passes:
        new = status(RECORD, known, told, T0)
        as_experiment(new)
        assert status(RECORD, list(reversed(known)), told, T0) == new
        final = [entry for entry in (told or {}).get("trials", ()) if entry["phase"] != "Running"]
        assert [entry for entry in new["trials"] if entry in final] == final
        told = new
