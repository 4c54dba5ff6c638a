"""One thing that happens to a run at a time."""

from __future__ import annotations

import random
from typing import Any

import memory_volume
import pytest
from autoresearch_operator.cluster.options import Options
from autoresearch_operator.cluster.seen import KubeError, Seen
from autoresearch_operator.manifests.names import LABEL_RUN
from autoresearch_operator.research.records import TrialPhase
from controller_world import KEY, World, request
from memory_cluster import MemoryCluster, Writes, result_of, scored
from memory_volume import SCRIPT, Volume


def undisturbed(**spec: Any) -> Any:
    return World(request(**spec)).finish().ledger()


def until(world: World, done: Any, most: int = 200) -> None:
    for _ in range(most):
        if done():
            return
        world.step()
    raise AssertionError(world.status)


# Cost -----------------------------------------------------------------------------------------------------------------


def test_a_rejected_idea_costs_four_writes_and_two_deletions() -> None:
    """Experiment, ConfigMap, Job, one status; then the Job is deleted, and long after the Experiment."""
    spec = request(limits={"experiments": 60}, tiers=[{"name": "cpu", "gpus": 0, "budget": {"steps": 1}}])
    world = World(spec, Options(keep_experiments=5), result=lambda files, pod: result_of(level(files, pod)))
    world.finish()
    kinds = world.writes.kinds
    ideas = 60

    assert all(record.verdict != "Accepted" for record in world.volume.experiments)
    baseline_trials = 5
    assert kinds["create experiments"] == kinds["create configmaps"] == ideas + 1
    assert kinds["create jobs"] == kinds["delete jobs"] == ideas + baseline_trials
    assert kinds["patch experiments/status"] <= ideas + 3
    assert kinds["delete experiments"] == ideas - 5


def level(files: dict[str, str], pod: Any) -> float:
    """No idea is better than the source."""
    noise = random.Random(pod["metadata"]["name"].rsplit("-", 1)[0]).uniform(-0.001, 0.001)
    return (1.5 if files["train.py"] == SCRIPT else 1.6) + noise


def test_nothing_is_written_when_nothing_happens() -> None:
    world = World().finish()
    before = world.writes.done
    for _ in range(5):
        world.step()

    assert world.writes.done == before
    assert world.delay is None


def test_the_status_of_a_run_is_written_every_ten_seconds_at_most() -> None:
    world = World(request(limits={"experiments": 30}), result=scored)
    world.finish()
    seconds = world.now - 1_700_000_000
    accepted = sum(1 for _, reason, _ in world.cluster.events if reason == "Accepted")

    assert world.writes.kinds["patch researchruns/status"] <= seconds / 10 + accepted + 6


def test_a_long_first_trial_is_told_of_and_a_short_one_is_not() -> None:
    world = World()
    until(world, lambda: world.status.get("phase") == "Running")
    world.step(end_pods=False)
    name = world.cluster.running_pods()[0]["metadata"]["labels"]["autoresearch.dev/experiment"]
    for _ in range(35):
        world.step(end_pods=False)
    item = world.cluster.get_now("experiments", KEY.namespace, f"first-{name}")

    assert item["status"]["phase"] == "Screening"
    assert item["status"]["trials"][0]["phase"] == "Running"


def test_every_verdict_is_one_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="autoresearch_operator.cluster.thinking"):
        world = World(request(limits={"experiments": 2})).finish()
    told = [(record.run, record.experiment) for record in caplog.records]  # type: ignore[attr-defined]  # from `extra`

    assert told == [("default/first", record.number) for record in world.volume.experiments]
    assert "bits per byte" in caplog.records[0].message


# People ---------------------------------------------------------------------------------------------------------------


def test_a_suspended_run_finishes_its_trials_and_starts_nothing() -> None:
    world = World()
    until(world, lambda: len(world.cluster.running_pods()) == 3)
    world.cluster.edit("researchruns", *KEY, {"spec": {"suspend": True}})
    jobs = world.writes.kinds["create jobs"]
    world.step(end_pods=False)
    assert world.condition("Progressing")["reason"] == "Suspended"
    assert world.status["phase"] == "Suspended"
    for _ in range(20):
        world.step()
    assert world.writes.kinds["create jobs"] == jobs
    assert not world.cluster.running_pods()
    assert all(trial.phase is TrialPhase.SCORED for trial in world.volume.trials)

    world.cluster.edit("researchruns", *KEY, {"spec": {"suspend": False}})
    assert world.finish().ledger() == undisturbed()


def test_a_suspended_run_does_not_age() -> None:
    world = World(request(limits={"duration": "5m"}))
    until(world, lambda: len(world.volume.trials) > 3)
    world.cluster.edit("researchruns", *KEY, {"spec": {"suspend": True}})
    for _ in range(10):
        world.step()
    world.now += 3600
    world.cluster.edit("researchruns", *KEY, {"spec": {"suspend": False}})
    world.finish()

    assert world.condition("Complete")["reason"] == "ExperimentLimit"


def test_a_run_ends_when_its_time_is_over_whatever_restarts_came_between() -> None:
    world = World(request(limits={"duration": "30s", "experiments": 1000}))
    for number in range(200):
        world.step(end_pods=number % 3 == 0)
        if number % 15 == 14:
            world.restart()
        if world.condition("Complete"):
            break

    assert world.condition("Complete")["reason"] == "DurationLimit"


def test_waiting_for_a_node_costs_no_gpu_hours() -> None:
    tier = {"name": "gpu", "gpus": 8, "budget": {"steps": 10}, "maxParallel": 3}
    world = World(request(tiers=[tier], limits={"gpuHours": 1, "experiments": 3}))
    world.reconcile()
    for _ in range(10):
        world.now += 3600
        world.reconcile()
    trials = [job for job in world.cluster.of("jobs").values() if LABEL_RUN in job["metadata"]["labels"]]
    assert len(trials) == 3
    assert world.status["spend"]["gpuHours"] < 0.1
    world.finish()

    assert world.condition("Complete")["reason"] == "ExperimentLimit"


def test_raised_limits_reopen_a_complete_run() -> None:
    world = World().finish()
    assert world.volume.details["finished"].startswith("ExperimentLimit")
    world.cluster.edit("researchruns", *KEY, {"spec": {"limits": {"experiments": 12}}})
    world.step()
    assert not world.condition("Complete")
    assert world.volume.details["finished"] is None
    world.finish()

    assert world.status["counts"]["done"] >= 12


def test_more_slots_are_used_at_once() -> None:
    world = World(request(limits={"experiments": 40}))
    until(world, lambda: world.status.get("phase") == "Running")
    world.spec["spec"]["tiers"][0]["maxParallel"] = 6
    world.cluster.edit("researchruns", *KEY, {"spec": {"tiers": world.spec["spec"]["tiers"]}})
    world.step(end_pods=False)
    world.step(end_pods=False)

    assert len(world.cluster.running_pods()) == 6


def test_no_slots_mean_that_nothing_starts_and_that_it_says_so() -> None:
    world = World(request(tiers=[{"name": "cpu", "gpus": 0, "budget": {"steps": 1}, "maxParallel": 0}]))
    world.step()

    assert not world.cluster.of("jobs")
    assert "maxParallel" in world.condition("Progressing")["message"]


def test_all_jobs_deleted() -> None:
    world = World()
    until(world, lambda: len(world.cluster.running_pods()) == 3)
    for namespace, name in list(world.cluster.of("jobs")):
        world.cluster.remove("jobs", namespace, name)
    world.finish()

    lost = [trial for trial in world.volume.trials if trial.phase is TrialPhase.LOST]
    assert {trial.detail for trial in lost} == {"JobDeleted"}
    assert world.ledger() == undisturbed()


@pytest.mark.parametrize("lazy", [False, True])
def test_all_experiments_deleted(lazy: bool) -> None:
    world = World()
    until(world, lambda: len(world.volume.experiments) > 5)
    world.cluster.lazy_collector = lazy
    told = {
        place: item["status"]["trials"]
        for place, item in world.cluster.of("experiments").items()
        if item.get("status", {}).get("verdict")
    }
    for namespace, name in list(world.cluster.of("experiments")):
        world.cluster.remove("experiments", namespace, name)
    world.step()
    world.cluster.lazy_collector = False
    world.cluster.collect()
    for _ in range(3):
        world.step()
    for place, trials in told.items():
        kept = world.cluster.of("experiments")
        if place in kept:
            assert [t["valBPB"] for t in kept[place]["status"]["trials"]] == [t["valBPB"] for t in trials]
    world.finish()

    assert world.ledger() == undisturbed()


def test_all_config_maps_deleted_while_trials_start() -> None:
    world = World()
    until(world, lambda: len(world.cluster.running_pods()) == 3)
    world.cluster.of("configmaps").clear()
    for _ in range(12):
        world.step(end_pods=False)
    world.finish()

    assert world.ledger() == undisturbed()


def test_a_deleted_run_is_forgotten_and_one_applied_again_goes_on() -> None:
    world = World()
    until(world, lambda: len(world.volume.trials) > 8)
    before = world.volume.trials
    world.cluster.remove("researchruns", *KEY)
    world.reconcile()
    assert world.repositories.released == [KEY]
    assert not world.cluster.of("experiments") and not world.cluster.of("jobs")

    world.apply()
    world.finish()
    assert set(before) <= set(world.volume.trials)
    assert world.ledger() == undisturbed()


# Faults ---------------------------------------------------------------------------------------------------------------


def test_a_trial_on_other_hardware_is_not_scored() -> None:
    odd = iter([True])

    def result(files: dict[str, str], pod: Any) -> dict[str, Any]:
        other = pod["metadata"]["labels"]["autoresearch.dev/experiment"] != "0" and next(odd, False)
        return scored(files, pod, product="other" if other else "cpu")

    world = World(result=result).finish()

    lost = [trial for trial in world.volume.trials if trial.phase is TrialPhase.LOST]
    assert [trial.detail for trial in lost] == ["HardwareChanged"]
    assert "the baseline: cpu" in lost[0].message
    assert world.ledger() == undisturbed()


def test_hardware_that_changed_for_good_stops_the_starts() -> None:
    def result(files: dict[str, str], pod: Any) -> dict[str, Any]:
        baseline = pod["metadata"]["labels"]["autoresearch.dev/experiment"] == "0"
        return scored(files, pod, product="cpu" if baseline else "other")

    world = World(result=result)
    until(world, lambda: world.condition("Progressing").get("reason") == "HardwareChanged")
    jobs = world.writes.kinds["create jobs"]
    for _ in range(20):
        world.step()

    assert world.writes.kinds["create jobs"] <= jobs + 3
    assert not any(record.verdict for record in world.volume.experiments[1:])


def test_an_image_that_cannot_be_pulled_stops_the_run_with_the_kubelets_sentence() -> None:
    world = World()
    world.step(end_pods=False)
    world.cluster.make_pods()
    sentence = 'Failed to pull image "trainer:1": not found'
    for pod in world.cluster.of("pods").values():
        waiting = {"reason": "ImagePullBackOff", "message": sentence}
        pod["status"]["initContainerStatuses"] = [{"name": "gate", "state": {"waiting": waiting}}]
    world.reconcile()

    assert world.condition("Ready")["reason"] == "ImagePull"
    assert world.condition("Ready")["message"] == sentence
    assert world.condition("Ready")["status"] == "False"
    assert ("Warning", "ImagePull", sentence) in world.cluster.events


def test_a_full_quota_is_told_and_tried_again() -> None:
    world = World()
    full = KubeError(403, "Forbidden", 'jobs "x" is forbidden: exceeded quota: team, used: count/jobs.batch=4')
    world.cluster.refuse = lambda kind, _body: full if kind == "jobs" else None
    world.step()
    assert world.condition("Ready")["reason"] == "PodsForbidden"
    assert "exceeded quota" in world.condition("Ready")["message"]

    world.cluster.refuse = lambda _kind, _body: None
    world.now += 20
    world.step()
    world.step()
    assert world.condition("Ready")["status"] == "True"
    assert world.finish().ledger() == undisturbed()


def test_a_forbidden_pod_is_found_in_the_events_of_its_job() -> None:
    world = World()
    world.step(end_pods=False)
    sentence = 'pods "first-0-s0-a1-x" is forbidden: violates PodSecurity "restricted:latest"'
    job = next(iter(world.cluster.of("jobs").values()))
    world.cluster.put(
        "events",
        {
            "metadata": {"name": "event", "namespace": KEY.namespace},
            "reason": "FailedCreate",
            "note": f"Error creating: {sentence}",
            "regarding": {"uid": job["metadata"]["uid"]},
        },
    )
    world.now += 6
    world.reconcile()

    assert world.condition("Ready")["reason"] == "PodsForbidden"
    assert world.condition("Ready")["message"] == sentence


def test_a_pod_that_nodes_refuse_is_tried_again_after_a_moment() -> None:
    world = World()
    until(world, lambda: len(world.cluster.running_pods()) == 3)
    pod = world.cluster.running_pods()[0]
    pod["status"] = {"phase": "Failed", "reason": "UnexpectedAdmissionError", "message": "no healthy devices"}
    jobs = world.writes.kinds["create jobs"]
    world.reconcile()
    assert world.writes.kinds["create jobs"] == jobs
    assert world.delay is not None and world.delay <= 1.0

    assert world.finish().ledger() == undisturbed()


def test_five_faults_in_a_row_are_not_held_against_the_idea() -> None:
    def result(files: dict[str, str], pod: Any) -> dict[str, Any]:
        if pod["metadata"]["labels"]["autoresearch.dev/experiment"] == "1":
            return {"version": 1, "outcome": "Lost", "detail": "NoAccount", "message": "gone"}
        return scored(files, pod)

    world = World(result=result).finish()

    assert world.volume.experiments[1].reason == "InfrastructureFailed"
    assert len([t for t in world.volume.trials if t.key.experiment == 1]) == 5


def test_a_branch_that_somebody_moved_holds_the_landing_and_nothing_else() -> None:
    world = World()
    world.volume.landing_impossible = True
    until(world, lambda: world.condition("BranchUpdated").get("reason") == "Diverged")
    assert world.volume.branch == []
    assert all(record.verdict != "Accepted" for record in world.volume.experiments)

    world.volume.landing_impossible = False
    world.now += 31
    assert world.finish().ledger() == undisturbed()


def test_two_operators_on_one_volume_decide_once() -> None:
    world = World()
    second = World(world.spec)
    second.cluster, second.volume, second.writes = world.cluster, world.volume, world.writes
    second.restart()
    for _ in range(400):
        second.now = world.now
        world.step()
        second.now = world.now
        second.reconcile()
        if world.condition("Complete"):
            break

    assert world.ledger() == undisturbed()


def test_an_operator_with_another_volume_stops_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    until(world, lambda: len(world.volume.experiments) > 3)
    other = World(world.spec)
    other.cluster, other.volume = world.cluster, Volume(Writes())
    other.restart()
    # Its own candidates come out differently, as after a change of the template.
    monkeypatch.setattr(memory_volume, "SCRIPT", SCRIPT.replace("DEPTH = 4", "DEPTH = 5"))
    other.now = world.now
    other.reconcile()

    assert world.condition("Ready")["reason"] == "BranchInUse"
    assert "another operator" in world.condition("Ready")["message"]
    before = world.writes.done
    other.reconcile()
    assert world.writes.done == before


def test_a_spec_that_slipped_past_the_schema_is_told() -> None:
    world = World(request(limits={"experiments": -3}))
    world.step()

    assert world.condition("Ready")["reason"] == "InvalidSpec"
    assert "spec.limits.experiments" in world.condition("Ready")["message"]
    assert not world.cluster.of("experiments")


def test_a_late_watch_starts_nothing_twice() -> None:
    world = World()
    shown: list[Seen] = []

    def late(cluster: MemoryCluster) -> Seen:
        shown.append(MemoryCluster.seen(cluster, KEY))
        del shown[:-3]
        return shown[0]

    world.cluster.seen = lambda _key: late(world.cluster)  # type: ignore[method-assign]
    world.finish()

    assert world.ledger() == undisturbed()
    assert not [trial for trial in world.volume.trials if trial.phase is TrialPhase.LOST]
    assert world.most_running <= 3


def test_a_run_without_a_proposer_that_can_be_asked_says_so() -> None:
    model = {"openai": {"baseURL": "http://llm.example/v1", "model": "m"}}
    world = World(request(proposers=[model]))
    world.step()

    assert world.condition("Ready")["reason"] == "InvalidSpec"
    assert "add {search: {}}" in world.condition("Ready")["message"]


def test_an_image_that_was_mended_is_used_by_the_trials_that_could_not_begin() -> None:
    world = World(request(trainer={"image": "trainer:typo", "evaluation": "SelfReported"}))
    world.step(end_pods=False)
    world.cluster.make_pods()
    for pod in world.cluster.of("pods").values():
        waiting = {"reason": "ErrImagePull", "message": "not found"}
        pod["status"]["initContainerStatuses"] = [{"name": "gate", "state": {"waiting": waiting}}]
    world.reconcile()
    assert world.condition("Ready")["reason"] == "ImagePull"

    world.cluster.edit("researchruns", *KEY, {"spec": {"trainer": {"image": "trainer:1"}}})
    world.reconcile()
    world.step()
    images = {job["spec"]["template"]["spec"]["containers"][0]["image"] for job in world.cluster.of("jobs").values()}
    assert images == {"trainer:1"}
    world.finish()
    assert not [trial for trial in world.volume.trials if trial.phase is TrialPhase.LOST]
    assert world.condition("Ready")["status"] == "True"


def taken_back(world: World, why: str) -> None:
    """A queue suspends the Job of a trial that is training, for this reason."""
    world.step(end_pods=False)
    world.step(end_pods=False)
    pod = world.cluster.running_pods()[0]
    name = pod["metadata"]["labels"]["batch.kubernetes.io/job-name"]
    world.cluster.get_now("jobs", KEY.namespace, name)["spec"]["suspend"] = True
    pod["metadata"]["deletionTimestamp"] = "2020-01-01T00:00:00Z"
    world.cluster.put(
        "events",
        {
            "metadata": {"name": f"event-{name}", "namespace": KEY.namespace},
            "reason": f"EvictedDueTo{why}",
            "regarding": {"kind": "Workload", "name": f"job-{name}-1a2b3"},
        },
    )
    world.reconcile()
    world.now += 2.5
    world.reconcile()


def test_a_queue_without_patience_for_training_pods_is_named() -> None:
    world = World()
    until(world, lambda: len(world.cluster.running_pods()) == 3)
    for _ in range(2):
        taken_back(world, "PodsReadyTimeout")

    assert world.condition("Progressing")["reason"] == "KueuePodsReadyTimeout"
    assert "waitForPodsReady" in world.condition("Progressing")["message"]


def test_a_queue_that_takes_places_back_for_others_costs_a_run_nothing() -> None:
    world = World()
    until(world, lambda: len(world.cluster.running_pods()) == 3)
    for _ in range(3):
        taken_back(world, "Preempted")

    assert world.condition("Progressing")["reason"] == "Searching"
    assert world.finish().ledger() == undisturbed()


def test_conditions_survive_a_restart_with_their_times() -> None:
    world = World()
    until(world, lambda: world.condition("Isolated"))
    before = {c["type"]: (c["status"], c["lastTransitionTime"]) for c in world.status["conditions"]}
    world.restart()
    world.now += 30
    world.step(end_pods=False)

    assert {c["type"]: (c["status"], c["lastTransitionTime"]) for c in world.status["conditions"]} == before
