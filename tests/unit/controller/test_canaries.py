"""Runs whose isolation rests on NetworkPolicies: a canary is sent, and the run's condition says what it showed."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
from autoresearch_operator.cluster import canaries
from autoresearch_operator.cluster.canary import Look
from autoresearch_operator.cluster.controller import parsed
from autoresearch_operator.cluster.seen import Key, KubeError
from autoresearch_operator.manifests.settings import TrialSettings
from controller_world import KEY, World, request
from memory_cluster import result_of, score
from memory_network import Network, canary_objects

DAY = 24 * 3600.0


def several_gpus(**spec: Any) -> dict[str, Any]:
    """A run on two GPUs a trial."""
    tier = {"name": "pair", "gpus": 2, "budget": {"steps": 10}, "maxParallel": 2}
    return request(**{"tiers": [tier], "limits": {"experiments": 2}} | spec)


def by_policy(files: dict[str, str], pod: Any) -> dict[str, Any]:
    """What the launcher of several ranks reports."""
    result = result_of(score(files["train.py"], len(pod["metadata"]["name"])))
    return result | {"isolation": {"network": "networkpolicy", "files": "container"}}


def world(spec: dict[str, Any] | None = None) -> World:
    return World(spec or several_gpus(), result=by_policy)


def step(here: World, network: Network | None, times: int = 1, *, end_pods: bool = False, **how: Any) -> None:
    for _ in range(times):
        here.step(end_pods=end_pods, **how)
        if network is not None:
            network.play()


def isolated(here: World) -> tuple[str, str]:
    found = here.condition("Isolated")
    return found.get("status", ""), found.get("reason", "")


def answered(here: World, network: Network, most: int = 30) -> None:
    for _ in range(most):
        step(here, network)
        if "tried" in here.condition("Isolated").get("message", ""):
            return
    raise AssertionError(here.status)


def jobs(here: World) -> int:
    return len(canary_objects(here.cluster, "jobs"))


# What the condition says ----------------------------------------------------------------------------------------------


def test_a_proof_is_told_with_what_was_tried_and_when_and_nothing_is_left_of_the_canary() -> None:
    here = world()
    network = Network(here.cluster)
    answered(here, network)

    assert isolated(here) == ("True", "Enforced")
    message = here.condition("Isolated")["message"]
    assert "a pod under a policy that denies all reached nothing, where an open pod reached the API server" in message
    assert "(tried 2023-11-14 22:13 UTC)" in message
    assert not canary_objects(here.cluster)
    assert network.most == 2
    # The word of a trial that it had its pod's network does not take the proof back.
    here.finish()
    assert isolated(here) == ("True", "Enforced")


def test_a_canary_that_got_through_is_told_and_the_run_goes_on() -> None:
    here = world()
    answered(here, Network(here.cluster, enforces=False))

    assert isolated(here) == ("False", "NetworkPolicyNotEnforced")
    message = here.condition("Isolated")["message"]
    assert "still reached the API server, DNS and another pod" in message
    assert ("Warning", "NetworkPolicyNotEnforced", message) in here.cluster.events
    assert not canary_objects(here.cluster)
    here.finish()
    assert here.condition("Complete")["reason"] == "ExperimentLimit"
    assert isolated(here) == ("False", "NetworkPolicyNotEnforced")


def test_until_the_canary_answers_it_is_said_that_nothing_is_known() -> None:
    here = world()
    step(here, None, 20, end_pods=True)

    assert isolated(here) == ("Unknown", "NetworkPolicyNotEnforced")
    message = here.condition("Isolated")["message"]
    assert "it is not known yet whether this cluster carries NetworkPolicies out: the canary's listener" in message
    assert not [reason for _, reason, _ in here.cluster.events if reason == "NetworkPolicyNotEnforced"], "no news yet"


def test_a_cluster_in_which_open_pods_reach_nothing_either_proves_nothing() -> None:
    here = world()
    network = Network(here.cluster, open_reach=())
    step(here, network, 20)

    assert isolated(here) == ("False", "NetworkPolicyNotEnforced")
    message = here.condition("Isolated")["message"]
    assert "not known yet" in message and "neither did a pod without one" in message and "in 1 min" in message
    assert not canary_objects(here.cluster)


# When a canary is sent ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spec",
    [
        {"tiers": [{"name": "one", "gpus": 1, "budget": {"steps": 10}}]},
        {"tiers": [{"name": "cpu", "gpus": 0, "budget": {"steps": 10}}]},
        {"trainer": {"evaluation": "SelfReported", "image": "mine:1"}},
    ],
    ids=["one GPU", "CPU", "self-reported"],
)
def test_no_canary_is_sent_where_no_isolation_rests_on_policies(spec: dict[str, Any]) -> None:
    here = World(several_gpus(**spec), result=by_policy)
    for _ in range(30):
        here.step()
        assert not canary_objects(here.cluster)
    assert here.writes.kinds["create networkpolicies"] == 1, "the run's own"
    assert here.volume.trials


def test_one_canary_is_sent_and_the_next_after_a_day() -> None:
    here = world(several_gpus(limits={"experiments": 1000}))
    network = Network(here.cluster)
    answered(here, network)
    policies = here.writes.kinds["create networkpolicies"]
    step(here, network, 30)
    assert here.writes.kinds["create networkpolicies"] == policies

    network.enforces = False
    here.now += DAY
    step(here, network, 10)
    assert here.writes.kinds["create networkpolicies"] == policies + 1
    assert isolated(here) == ("False", "NetworkPolicyNotEnforced")
    assert "(tried 2023-11-15" in here.condition("Isolated")["message"]

    network.enforces = True  # somebody has mended it
    here.now += canaries.LEAK_HOLDS
    step(here, network, 10)
    assert isolated(here) == ("True", "Enforced")


def test_a_run_with_nothing_else_to_wait_for_is_called_again_when_the_next_look_is_due() -> None:
    here = world(several_gpus(tiers=[{"name": "pair", "gpus": 2, "maxParallel": 0}]))
    network = Network(here.cluster)
    here.step()
    assert here.delay is not None and here.delay <= canaries.SHORTEST_LOOK
    answered(here, network)
    step(here, network, 15)
    assert here.delay is not None and DAY - 60 < here.delay <= DAY


def test_two_runs_of_a_namespace_share_one_canary_and_its_answer() -> None:
    here = world()
    other = copy.deepcopy(here.spec)
    other["metadata"]["name"] = "second"
    here.cluster.put("researchruns", other)
    network = Network(here.cluster)
    second = Key(KEY.namespace, "second")

    async def both() -> None:
        await asyncio.gather(*(here.controller.reconcile(key, here.cluster.seen(key)) for key in (KEY, second)))

    for _ in range(15):
        here.now += 1
        here.cluster.make_pods()
        here.loop.run(both())
        network.play()
    said = [
        next(c for c in run["status"]["conditions"] if c["type"] == "Isolated")["message"]
        for run in here.cluster.of("researchruns").values()
    ]
    assert len(said) == 2 and said[0] == said[1] and "(tried" in said[0]
    assert network.most == 2 and not canary_objects(here.cluster)
    assert here.writes.kinds["create networkpolicies"] == 2 + 1  # one a run, and the canary's


def test_a_pass_does_not_wait_for_the_look_of_another() -> None:
    here = world()
    spec = parsed(here.spec).spec
    real, gate = here.cluster.create, asyncio.Event()

    async def slow(kind: str, body: Any) -> Any:
        await gate.wait()
        return await real(kind, body)

    here.cluster.create = slow  # type: ignore[method-assign]  # an API server that takes its time
    both = canaries.Canaries(here.cluster, TrialSettings("trainer:1"))

    async def meet() -> None:
        first = asyncio.ensure_future(both.step(KEY, spec, spec.tiers[0], here.now))
        await asyncio.sleep(0)
        network, again = await both.step(Key(KEY.namespace, "second"), spec, spec.tiers[0], here.now)
        assert not first.done() and again == here.now + canaries.SHORTEST_LOOK and not network.tried
        gate.set()
        await first

    here.loop.run(meet())
    assert here.writes.kinds["create jobs"] == 1


def test_an_image_that_only_the_run_names_is_the_canarys_too() -> None:
    trainer = {"image": "lab/trainer:2", "imagePullSecrets": [{"name": "lab"}], "data": {"claimName": "climbmix"}}
    tier = {"name": "pair", "gpus": 2, "tolerations": [{"key": "lab", "operator": "Exists"}]}
    here = world(several_gpus(trainer=trainer, tiers=[tier]))
    here.step()
    (job,) = canary_objects(here.cluster, "jobs")
    pod = job["spec"]["template"]["spec"]
    assert {one["image"] for one in [*pod["initContainers"], *pod["containers"]]} == {"lab/trainer:2"}
    assert pod["imagePullSecrets"] == [{"name": "lab"}]
    assert "lab" in {one["key"] for one in pod["tolerations"]}
    assert job["spec"]["activeDeadlineSeconds"] == 600 and job["spec"]["ttlSecondsAfterFinished"] == 120


# Nothing is left behind -----------------------------------------------------------------------------------------------


def under_way() -> tuple[World, Network]:
    here = world()
    network = Network(here.cluster)
    here.step(end_pods=False)
    step(here, network)
    assert jobs(here)
    return here, network


def deleted(here: World) -> None:
    here.cluster.remove("researchruns", *KEY)
    here.reconcile()


def suspended(here: World) -> None:
    here.cluster.edit("researchruns", *KEY, {"spec": {"suspend": True}})
    here.reconcile()


def stopped_by_a_fault(here: World) -> None:
    """An edit that the API server would have refused, had it had the rule."""
    here.cluster.edit("researchruns", *KEY, {"spec": {"proposers": []}})
    here.reconcile()
    assert here.condition("Ready")["status"] == "False"


def operator_stopped(here: World) -> None:
    here.loop.run(here.controller.close())


@pytest.mark.parametrize("end", [deleted, suspended, stopped_by_a_fault, operator_stopped])
def test_a_canary_that_nobody_waits_for_is_removed(end: Callable[[World], None]) -> None:
    here, _ = under_way()
    end(here)
    assert not canary_objects(here.cluster)


def test_a_canary_goes_on_when_one_of_two_runs_is_deleted() -> None:
    here = world()
    other = copy.deepcopy(here.spec)
    other["metadata"]["name"] = "second"
    here.cluster.put("researchruns", other)
    second = Key(KEY.namespace, "second")
    for key in (KEY, second):
        here.loop.run(here.controller.reconcile(key, here.cluster.seen(key)))
    deleted(here)
    assert jobs(here) == 1


def test_a_canary_without_an_answer_is_removed_and_sent_again_less_and_less_often() -> None:
    here = world(several_gpus(limits={"experiments": 1000}))
    sent, last = [], 0
    began = here.now
    for _ in range(1000):  # of 10 s each; no kubelet takes its pods
        here.now += 9
        step(here, None)
        if (count := jobs(here)) and not last:
            sent.append(here.now - began)
        last = count
    pauses = [b - a for a, b in pairwise(sent)]
    assert len(sent) >= 4
    assert pauses[0] == pytest.approx(canaries.PATIENCE + 60, abs=30)
    assert pauses == sorted(pauses) and pauses[-1] <= canaries.PATIENCE + canaries.LONGEST_PAUSE + 30
    assert "no answer in 8 min" in here.condition("Isolated")["message"]


def test_a_refused_canary_stops_no_run() -> None:
    here = world()
    refusal = KubeError(403, "Forbidden", "exceeded quota: pods")
    here.cluster.refuse = lambda _kind, body: refusal if "canary" in body["metadata"]["name"] else None
    here.finish()

    assert here.condition("Complete") and here.condition("Ready")["status"] == "True"
    assert "not known yet" in here.condition("Isolated")["message"]
    assert "exceeded quota: pods" in here.condition("Isolated")["message"]


def test_a_busy_api_server_ends_no_canary() -> None:
    here, network = under_way()
    real, broken = here.cluster.list, KubeError(503, "", "no answer")

    async def busy(kind: str, namespace: str | None, selector: str = "") -> Any:
        if selector:
            raise broken
        return await real(kind, namespace, selector)

    here.cluster.list = busy  # type: ignore[method-assign]  # the API server has an outage
    step(here, None, 5)
    assert jobs(here)
    here.cluster.list = real  # type: ignore[method-assign]
    answered(here, network)
    assert isolated(here) == ("True", "Enforced")


# Restarts -------------------------------------------------------------------------------------------------------------


def test_an_operator_killed_at_any_write_takes_its_canary_up_again() -> None:
    undisturbed = world()
    answered(undisturbed, Network(undisturbed.cluster))
    total = undisturbed.writes.done
    assert undisturbed.writes.kinds["delete jobs"] == 2
    for at in range(1, total + 1):
        here = world()
        network = Network(here.cluster)
        for _ in range(30):
            step(here, network, kill_after=partial(left_until, here, at))
        assert here.kills == 1
        assert isolated(here) == ("True", "Enforced"), f"killed at write {at} of {total}"
        assert network.most == 2 and not canary_objects(here.cluster), f"killed at write {at} of {total}"


def left_until(here: World, at: int) -> int | None:
    return at - here.writes.done if here.writes.done < at else None


def test_a_proof_stands_through_a_restart_until_the_new_canary_has_ended() -> None:
    here = world(several_gpus(limits={"experiments": 1000}))
    network = Network(here.cluster)
    answered(here, network)
    proof = here.condition("Isolated")
    here.restart()
    here.now += 30
    step(here, None, 12, end_pods=True)
    assert here.condition("Isolated") == proof

    step(here, network, 25)
    assert isolated(here) == ("True", "Enforced")
    assert here.condition("Isolated")["lastTransitionTime"] == proof["lastTransitionTime"]
    assert here.condition("Isolated")["message"] > proof["message"], "it says when it was tried again"

    here.restart()
    network.open_reach = ()
    step(here, network, 12)
    assert isolated(here) == ("False", "NetworkPolicyNotEnforced"), "an operator proves it anew, or does not claim it"


# The decision alone ---------------------------------------------------------------------------------------------------


def test_what_told_nothing_later_does_not_take_an_answer_back() -> None:
    proven = canaries.after(canaries.Course(since=0.0), Look(True, True, "held"), 10.0)
    assert proven.since is None and proven.look_at == 10.0 + canaries.PROOF_HOLDS
    again = replace(proven, since=proven.look_at)
    waiting = canaries.after(again, Look(False, None, "no pod yet"), proven.look_at + 1)
    assert waiting.network == proven.network and waiting.since is not None
    doubtful = canaries.after(again, Look(True, None, "quota"), proven.look_at + 1)
    assert doubtful.network.answer == proven.network.answer and "quota" in doubtful.network.doubt


def test_looks_are_close_together_at_first() -> None:
    paces = [
        canaries.after(canaries.Course(since=0.0), Look(False, None, ""), age).look_at - age
        for age in (0.0, 5.0, 20.0, 400.0)
    ]
    assert paces == [2.0, 2.0, 5.0, 15.0]
