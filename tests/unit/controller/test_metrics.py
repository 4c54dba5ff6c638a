"""/metrics of an operator in memory: everything that is documented, the same figures as status and ledger, and no more
series than agreed."""

from __future__ import annotations

import math
import random
import zlib
from collections import Counter
from dataclasses import replace
from statistics import fmean
from typing import Any

import pytest
from autoresearch_operator.api.reasons import BranchUpdatedReason, ExperimentKind, Verdict, VerdictReason
from autoresearch_operator.cluster import runmetrics
from autoresearch_operator.cluster.meters import Meters
from autoresearch_operator.cluster.publishing import PublishState
from autoresearch_operator.cluster.seen import Key, KubeError
from autoresearch_operator.cluster.tally import USES, Tally
from autoresearch_operator.handlers.view import View
from autoresearch_operator.observe.catalogue import METRICS, Kind
from autoresearch_operator.research.noise import t_quantile
from autoresearch_operator.research.records import Purpose, TrialKey, TrialPhase, TrialRecord
from controller_world import KEY, World, request
from memory_cluster import Writes, scored
from memory_volume import MemoryRepository
from scraping import by, families, metrics_of, scrape, series, text_of, value

TIER = {
    "name": "gpu",
    "gpus": 2,
    "budget": {"steps": 10},
    "maxParallel": 3,
    "maxVRAM": "40Gi",
    "pricePerGPUHour": 3.5,
}
LIMITS = {"experiments": 8, "dollars": 1000, "gpuHours": 500, "duration": "10h"}


def result(files: dict[str, str], pod: Any) -> dict[str, Any]:
    return scored(files, pod) | {"peakVRAMBytes": 30_000_000_000}


def pushed(_repository: MemoryRepository, _now: float) -> PublishState:
    return PublishState(BranchUpdatedReason.UP_TO_DATE, "pushed", {"refs/heads/a": "1"}, None, 0.75)


@pytest.fixture
def finished(monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(MemoryRepository, "publish", pushed)
    return World(request(tiers=[TIER], limits=LIMITS), result=result).finish()


def test_a_finished_run_has_every_metric_that_is_documented(finished: World) -> None:
    metrics = metrics_of(finished)
    with metrics.one_pass():
        pass
    exposed = {family.name: family for family in families(text_of(metrics))}
    for metric in METRICS:
        family = exposed[metric.name.removesuffix("_total")]
        assert family.type == metric.kind, metric.name
        assert family.documentation == metric.meaning
        assert family.samples, metric.name
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(metric.labels), metric.name
    undocumented = {name for name in exposed if not name.startswith("process_")}
    assert undocumented == {metric.name.removesuffix("_total") for metric in METRICS}


def test_names_and_labels_keep_the_rules() -> None:
    allowed = {"namespace", "run", "tier", "verdict", "reason", "state", "use", "verb", "code", "resource"}
    allowed |= {"condition", "status", "version"}
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    for metric in METRICS:
        assert set(metric.labels) <= allowed
        assert metric.name.endswith("_total") == (metric.kind is Kind.COUNTER)
        assert not metric.unit or metric.name.removesuffix("_total").endswith(f"_{metric.unit}")
        assert metric.meaning.endswith(".") and metric.question.endswith("?")
        assert list(metric.buckets) == sorted(set(metric.buckets))


def test_scores_are_those_of_the_status(finished: World) -> None:
    found, status = scrape(finished), finished.status
    (tier,) = status["tiers"]
    for name in ("baseline", "incumbent"):
        assert round(value(found, f"run_{name}_bits_per_byte"), 6) == tier[name]["valBPB"]
        ends = [round(value(found, f"run_{name}_{end}_bits_per_byte"), 6) for end in ("low", "high")]
        assert ends == tier[name]["interval"]
    assert float(f"{value(found, 'run_noise_bits_per_byte'):.4g}") == tier["noise"]
    assert value(found, "run_noise_degrees_of_freedom") == tier["noiseDegrees"]
    reported = (Purpose.BASELINE, Purpose.REFERENCE, Purpose.REFRESH)
    baseline = [trial for trial in finished.volume.trials if trial.key.experiment == 0 and trial.purpose in reported]
    runs = [trial.val_bpb for trial in baseline if trial.val_bpb is not None]
    assert value(found, "run_baseline_bits_per_byte") == pytest.approx(fmean(runs))
    reach = t_quantile(0.025, tier["noiseDegrees"]) * value(found, "run_noise_bits_per_byte") / math.sqrt(len(runs))
    high = value(found, "run_baseline_high_bits_per_byte")
    assert high - value(found, "run_baseline_bits_per_byte") == pytest.approx(reach)
    gain = value(found, "run_baseline_bits_per_byte") - value(found, "run_incumbent_bits_per_byte")
    assert round(gain, 6) == status["gain"] > 0


def test_counts_are_those_of_status_and_ledger(finished: World) -> None:
    found, counts = scrape(finished), finished.status["counts"]
    proposals = (ExperimentKind.PROPOSAL, ExperimentKind.COMBINATION)
    ledger = Counter((r.verdict, r.reason) for r in finished.volume.experiments if r.kind in proposals)
    assert by(found, "run_experiments_total", "verdict", "reason") == ledger
    for verdict in Verdict:
        told = sum(n for (of, _), n in by(found, "run_experiments_total", "verdict", "reason").items() if of == verdict)
        assert told == counts[verdict.lower()]
    assert counts["accepted"] > 0
    assert sum(by(found, "run_experiments_open", "state").values()) == 0
    trials = Counter((trial.phase, trial.reason or "") for trial in finished.volume.trials)
    assert by(found, "run_trials_total", "state", "reason") == trials

    last = max(
        (trial for trial in finished.volume.trials if trial.purpose is not Purpose.FINAL),
        key=lambda trial: (trial.finished_at, trial.key.experiment, trial.key.seed),
    )
    assert value(found, "run_last_trial_bits_per_byte") == last.val_bpb
    assert value(found, "run_last_trial_timestamp_seconds") == last.finished_at
    assert value(found, "run_last_trial_peak_vram_bytes") == 30_000_000_000
    accepted = [r.decided_at for r in finished.volume.experiments if r.number and r.verdict is Verdict.ACCEPTED]
    assert value(found, "run_last_accepted_timestamp_seconds") == max(when for when in accepted if when)


def test_money_and_time_are_those_of_the_status(finished: World) -> None:
    found, spend = scrape(finished), finished.status["spend"]
    assert round(value(found, "run_spent_gpu_seconds") / 3600, 3) == spend["gpuHours"] > 0
    assert round(value(found, "run_spent_dollars"), 2) == spend["dollars"] > 0
    assert int(value(found, "run_active_seconds")) == finished.status["activeSeconds"]
    held = sum((trial.finished_at or 0.0) - trial.started_at for trial in finished.volume.trials)
    uses = by(found, "run_slot_seconds_total", "use")
    assert {use for (use,) in uses} == set(USES)
    assert {use for (use,), seconds in uses.items() if seconds} == {"search", "final"}
    assert sum(uses.values()) == pytest.approx(held)
    assert by(found, "run_gpu_seconds_total", "use") == {use: 2 * seconds for use, seconds in uses.items()}
    limits = {"dollars": 1000, "gpu_seconds": 500 * 3600, "active_seconds": 36000}
    assert {name: value(found, f"run_limit_{name}") for name in limits} == limits
    assert value(found, "run_experiments_limit") == 8


def test_phase_and_conditions_are_those_of_the_status(finished: World) -> None:
    found = scrape(finished)
    phases = by(found, "run_phase", "state")
    assert [phase for (phase,), on in phases.items() if on] == [finished.status["phase"]] == ["Complete"]
    conditions = {(c["type"], c["status"], c["reason"]): 1 for c in finished.status["conditions"]}
    assert by(found, "run_condition", "condition", "status", "reason") == conditions


def test_slots_are_told_while_a_run_goes_on_and_rest_when_it_is_over(finished: World) -> None:
    assert by(scrape(finished), "run_slots", "state") == {("running",): 0, ("waiting",): 0, ("idle",): 0}
    world = World()
    world.reconcile()
    assert by(scrape(world), "run_slots", "state") == {("running",): 3, ("waiting",): 0, ("idle",): 0}
    world.cluster.refuse = lambda kind, _: KubeError(403, "Forbidden", "exceeded quota") if kind == "jobs" else None
    world.step(end_pods=False)
    for pod in world.cluster.running_pods()[:2]:
        world.end(pod)
    world.step(end_pods=False)
    assert by(scrape(world), "run_slots", "state") == {("running",): 1, ("waiting",): 0, ("idle",): 2}
    world.cluster.edit("researchruns", *KEY, {"spec": {"suspend": True}})
    world.step(end_pods=False)
    assert by(scrape(world), "run_slots", "state")["idle",] == 0


def test_the_time_that_a_slot_stands_empty_is_measured() -> None:
    world = World()
    world.step(end_pods=False)
    world.step(end_pods=False)
    assert len(world.cluster.running_pods()) == 3
    for pod in world.cluster.running_pods():
        world.end(pod)
    refusal = KubeError(403, "Forbidden", "exceeded quota")
    world.cluster.refuse = lambda kind, _: refusal if kind == "jobs" else None
    world.step(end_pods=False)
    world.now += 20
    world.cluster.refuse = lambda *_: None
    world.step(end_pods=False)
    gaps = by(scrape(world), "slot_gap_seconds_bucket", "le")
    # Seen at one step, and the next trials began one step and 20 s later.
    assert (gaps["10.0",], gaps["30.0",], gaps["+Inf",]) == (0, 3, 3)
    assert by(scrape(world), "slot_gap_seconds_sum") == {(): 63.0}


def test_a_suspended_run_s_free_slots_are_not_gaps() -> None:
    now = [0.0]
    meters = Meters(lambda: now[0])
    meters.freed(KEY, 2, 3)
    meters.at_rest(KEY)
    now[0] = 100.0
    meters.filled(KEY)
    assert meters.gaps.count == 0
    meters.freed(KEY, 5, 3)
    now[0] = 101.0
    for _ in range(5):
        meters.filled(KEY)
    assert (meters.gaps.count, meters.gaps.total) == (3, 3.0), "no more slots than there are"


def test_pushes_are_counted_by_reason_and_looks_are_not() -> None:
    meters = Meters()
    meters.published(KEY, pushed(None, 0.0))  # type: ignore[arg-type]  # it does not look at it
    meters.published(KEY, PublishState(BranchUpdatedReason.GIT_UNAVAILABLE, "no route", {}, 10.0, 5.0))
    meters.published(KEY, PublishState(BranchUpdatedReason.UP_TO_DATE, "nothing new", {}, 300.0, 0.2))
    meters.published(KEY, PublishState(BranchUpdatedReason.GIT_UNAVAILABLE, "not its turn", {}, 10.0))
    assert meters.pushes(KEY) == {"UpToDate": 1, "GitUnavailable": 1}
    assert (meters.push_seconds.count, meters.push_seconds.total) == (2, 5.75)
    meters.forget(KEY)
    assert meters.pushes(KEY) == {}


@pytest.mark.parametrize("seed", range(4))
def test_what_follows_from_the_ledger_never_runs_backwards_whenever_the_operator_dies(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A counter that falls by one is taken for one that began anew: its rate would jump by all that was counted. It is
    read before each write, so also right before the operator dies at one."""
    chance, before = random.Random(seed), dict[Any, float]()
    world: World | None = None

    def look() -> None:
        if world is None or world.controller.state(KEY) is None:
            return
        now = {
            name: value for name, value in scrape(world).items() if name[0].endswith("_total") and "_run_" in name[0]
        }
        assert all(now.get(name, -1.0) >= value for name, value in before.items())
        # A trial that was seen and is not in the ledger yet can be lost with its Job.
        assert sum(by(now, "run_trials_total", "state", "reason").values()) == len(world.volume.trials)
        before.update(now)

    def one(writes: Writes, what: str) -> Any:
        look()
        return write(writes, what)

    write = Writes.one
    monkeypatch.setattr(Writes, "one", one)
    world = World(seed=seed)
    for _ in range(60):
        world.step(kill_after=lambda: chance.choice([1, 2, 3, 5, 8, None]))
        look()
    assert world.kills > 5
    assert before


def test_a_restart_tells_the_same(finished: World) -> None:
    def of_ledger() -> dict[Any, float]:
        return {
            name: value
            for name, value in scrape(finished).items()
            if name[0].startswith("autoresearch_run_") and "pushes" not in name[0]
        }

    before = of_ledger()
    finished.restart()
    finished.step()
    assert of_ledger() == before


# What may not be in it ------------------------------------------------------------------------------------------------


def test_the_series_of_a_deleted_run_go_with_it(finished: World) -> None:
    view = View()
    view.put("researchruns", finished.run)
    metrics = metrics_of(finished, view.requests)
    assert 'run="first"' in text_of(metrics)
    run = finished.run["metadata"]
    view.drop("researchruns", *KEY, run["uid"], int(run["resourceVersion"]))
    finished.cluster.remove("researchruns", *KEY)
    finished.reconcile()
    text = text_of(metrics)
    assert 'run="' not in text
    assert "autoresearch_build_info" in text
    assert finished.controller.meters.pushes(KEY) == {}


def test_a_run_that_was_made_anew_does_not_show_the_old_one_s_figures(finished: World) -> None:
    finished.cluster.remove("researchruns", *KEY)
    finished.apply()
    found = scrape(finished)
    assert not by(found, "run_incumbent_bits_per_byte")
    assert set(by(found, "run_phase", "state").values()) == {0}


def test_fifty_busy_runs_are_at_most_five_thousand_series(finished: World) -> None:
    """Each has met a dozen reasons for a verdict, four of the cluster's faults, and every condition."""
    state = finished.controller.state(KEY)
    assert state is not None
    template = next(record for record in state.counted() if record.verdict is Verdict.REJECTED)
    reasons = list(VerdictReason)[:12]
    invalid = [replace(template, verdict=Verdict.INVALID, reason=reason) for reason in reasons]
    trial = next(iter(state.trials.values()))
    odd = [replace(trial, phase=TrialPhase.INVALID, reason=reason) for reason in reasons]
    odd += [
        replace(trial, phase=TrialPhase.LOST, detail=detail) for detail in ("NodeLost", "Evicted", "x", "JobDeleted")
    ]
    trials = {TrialKey(1, number, 9): each for number, each in enumerate(odd)}
    experiments = [*state.experiments, *invalid]
    tally = Tally().grown({**state.trials, **trials}, experiments)
    busy = replace(state, experiments=experiments, tally=tally)
    conditions = [
        {"type": name, "status": "True", "reason": "Enforced"}
        for name in ("Ready", "Progressing", "BranchUpdated", "Isolated", "Complete", "Failed")
    ]
    run = {"metadata": finished.run["metadata"], "status": {"phase": "Running", "conditions": conditions}}
    keys = [Key("lab", f"run-{number}") for number in range(50)]
    samples = [
        sample for key in keys for sample in runmetrics.of_run(key, run, replace(busy, key=key), Meters(), finished.now)
    ]
    names = {(sample.metric.name, sample.labels) for sample in samples}
    assert len(names) == len(samples)
    own = len(series(text_of(metrics_of(finished, tuple))))
    assert own < 250
    assert len(samples) + own <= 5000, (len(samples), own)


HOSTILE = ['a"} 1\nevil 1', "a\\", "a\\n", "\x00\x1b[31m", "{}", "日本\u2028", "x" * 4096, '"', ""]


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_can_break_out_of_its_label(finished: World, name: str) -> None:
    state = finished.controller.state(KEY)
    assert state is not None
    key, renamed = Key(name, name), replace(state, key=Key(name, name))
    metrics = metrics_of(finished, lambda: [(key, finished.run)], lambda _: renamed)
    found = series(text_of(metrics))
    assert not any(each.startswith("evil") for each, _ in found)
    about = [of for each, of in found if each.startswith("autoresearch_run_")]
    assert len(about) > 30
    assert all(("run", name) in of and ("namespace", name) in of for of in about)


def test_nothing_that_a_candidate_or_a_server_wrote_is_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    mark = "hunter2"

    def refused(_repository: Any, _now: float) -> PublishState:
        return PublishState(BranchUpdatedReason.CREDENTIALS_REJECTED, f"https://me:{mark}@git", {}, None, 1.0)

    def bad(files: dict[str, str], pod: Any) -> dict[str, Any]:
        if pod["metadata"]["labels"]["autoresearch.dev/experiment"] == "0":
            return scored(files, pod)
        told = {"version": 1, "detail": f"{mark}Error", "message": mark}
        if zlib.crc32(pod["metadata"]["name"].encode()) % 2:
            return told | {"outcome": "Lost"}
        return told | {"outcome": "Invalid", "reason": mark}

    monkeypatch.setattr(MemoryRepository, "publish", refused)
    world = World(result=bad)
    for _ in range(25):
        world.step()
    said = repr(world.volume.trials) + repr(world.status)
    assert said.count(mark) > 5, "it is in the records and in the status"
    text = text_of(metrics_of(world))
    assert mark not in text
    assert all(f'reason="{word}"' in text for word in ("CredentialsRejected", "Crashed", "Other"))
    for record in world.volume.experiments[1:]:
        assert record.title not in text
        assert record.commit[:12] not in text


def test_words_that_others_put_into_a_status_become_no_label() -> None:
    status = {
        "phase": "Odd",
        "conditions": [
            {"type": "Ready", "status": "Maybe", "reason": "Whatever"},
            {"type": "Mine", "status": "True", "reason": "Verified"},
        ],
    }
    samples = list(runmetrics.of_status(KEY, status))
    assert [sample.labels[2:] for sample in samples if sample.metric.name.endswith("_condition")] == [
        ("Ready", "Unknown", "Other")
    ]
    assert {sample.value for sample in samples if sample.metric.name.endswith("_phase")} == {0.0}


def test_a_score_that_is_no_number_is_left_out(finished: World) -> None:
    state = finished.controller.state(KEY)
    assert state is not None
    trial = TrialRecord(
        TrialKey(1, 1, 1), "gpu", Purpose.SCREEN, 1, TrialPhase.SCORED, val_bpb=float("nan"), finished_at=1e12
    )
    odd = replace(state, tally=state.tally.grown({**state.trials, trial.key: trial}, state.experiments))
    metrics = {sample.metric.name for sample in runmetrics.of_state(odd, finished.now)}
    assert "autoresearch_run_last_trial_bits_per_byte" not in metrics
    assert "autoresearch_run_baseline_bits_per_byte" in metrics
