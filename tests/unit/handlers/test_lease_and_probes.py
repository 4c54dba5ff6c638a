# ruff: noqa: ARG002 - the stand-ins have the signatures of what they stand for
"""The Lease: taken, kept, given up, lost; and what the probes answer."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Mapping
from typing import Any

from autoresearch_operator.cluster.queue import QueueStats
from autoresearch_operator.gateways.kube_errors import KubeError
from autoresearch_operator.gateways.kube_lease import Lease
from autoresearch_operator.handlers.probes import Health
from faketime import Run


class Leases:
    """One Lease at an API server, with optimistic locking; `away` makes it unreachable."""

    def __init__(self) -> None:
        self.object: dict[str, Any] | None = None
        self.away = False
        self.version = 0

    def _answer(self) -> None:
        if self.away:
            raise KubeError(0, "NoAnswer", "no answer")

    async def get(self, kind: str, namespace: str, name: str) -> Mapping[str, Any] | None:
        self._answer()
        return copy.deepcopy(self.object)

    async def create(self, kind: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        self._answer()
        if self.object is not None:
            raise KubeError(409, "AlreadyExists", "exists")
        self.version += 1
        self.object = copy.deepcopy(dict(body))
        self.object["metadata"]["resourceVersion"] = str(self.version)
        return self.object

    async def patch(self, kind: str, namespace: str, name: str, patch: Mapping[str, Any]) -> Mapping[str, Any]:
        self._answer()
        assert self.object is not None
        if patch["metadata"]["resourceVersion"] != self.object["metadata"]["resourceVersion"]:
            raise KubeError(409, "Conflict", "changed")
        self.version += 1
        self.object["spec"] |= patch["spec"]
        self.object["metadata"]["resourceVersion"] = str(self.version)
        return self.object

    @property
    def holder(self) -> str:
        return "" if self.object is None else self.object["spec"]["holderIdentity"]


def candidate(leases: Leases, name: str) -> Lease:
    return Lease(leases, "lab", "operator", name, duration=15, clock=lambda: asyncio.get_running_loop().time())


def test_the_second_waits_for_the_time_to_run_out(instantly: Run) -> None:
    async def story() -> float:
        leases = Leases()
        await candidate(leases, "one").acquire()
        two = candidate(leases, "two")
        await two.acquire()
        assert leases.holder == "two"
        assert leases.object is not None
        assert leases.object["spec"]["leaseTransitions"] == 1
        return asyncio.get_running_loop().time()

    assert 15 <= instantly(story()) <= 25


def test_a_lease_that_is_given_up_is_free_at_once(instantly: Run) -> None:
    async def story() -> float:
        leases = Leases()
        one = candidate(leases, "one")
        await one.acquire()
        await one.release()
        assert not one.held
        await candidate(leases, "two").acquire()
        return asyncio.get_running_loop().time()

    assert instantly(story()) == 0


def test_a_holder_that_renews_keeps_it(instantly: Run) -> None:
    async def story() -> None:
        leases = Leases()
        one = candidate(leases, "one")
        await one.acquire()
        keeping = asyncio.create_task(one.keep())
        taking = asyncio.create_task(candidate(leases, "two").acquire())
        await asyncio.sleep(1000)
        assert (leases.holder, taking.done(), one.held) == ("one", False, True)
        keeping.cancel()
        taking.cancel()

    instantly(story())


def test_while_the_api_server_is_away_the_holder_pauses_and_then_goes_on(instantly: Run) -> None:
    async def story() -> None:
        leases = Leases()
        one = candidate(leases, "one")
        await one.acquire()
        keeping = asyncio.create_task(one.keep())
        leases.away = True
        await asyncio.sleep(10)
        assert one.held
        await asyncio.sleep(10)
        assert not one.held
        leases.away = False
        await asyncio.sleep(10)
        assert one.held
        assert not keeping.done()
        keeping.cancel()

    instantly(story())


def test_another_name_on_it_ends_the_keeping(instantly: Run) -> None:
    async def story() -> str:
        leases = Leases()
        one = candidate(leases, "one")
        await one.acquire()
        assert leases.object is not None
        leases.object["spec"]["holderIdentity"] = "two"
        taken_by = await one.keep()
        assert not one.held
        await one.release()
        assert leases.holder == "two", "what is another's is not given up"
        return taken_by

    assert instantly(story()) == "two"


def test_a_container_that_was_restarted_in_its_pod_need_not_wait(instantly: Run) -> None:
    async def story() -> float:
        leases = Leases()
        await candidate(leases, "pod-1").acquire()
        await candidate(leases, "pod-1").acquire()
        return asyncio.get_running_loop().time()

    assert instantly(story()) == 0


IDLE = QueueStats(waiting=0, running=0, failing=0, longest_wait=0, longest_pass=0, last_finished=None)


def health(stats: QueueStats = IDLE) -> tuple[Health, list[float]]:
    now = [0.0]
    made = Health(resync_seconds=300, queue=lambda: stats, clock=lambda: now[0])
    made.waiting_for = ""
    return made, now


def test_an_operator_at_rest_is_well() -> None:
    made, now = health()
    now[0] = 800
    made.compared(0)
    now[0] = 1600
    assert made.ill() == ""


def test_a_comparison_that_does_not_come_is_an_illness() -> None:
    made, now = health()
    now[0] = 901
    assert made.ill() == "the last comparison with the API server was 901 s ago"


def test_watches_that_miss_changes_again_and_again_are_dead() -> None:
    made, _ = health()
    for missed in (3, 1):
        made.compared(missed)
    assert made.ill() == ""
    made.compared(7)
    assert made.ill() == "the watches missed changes in 3 comparisons in a row"
    made.compared(0)
    assert made.ill() == ""


def test_workers_that_hang_are_an_illness() -> None:
    stuck = QueueStats(waiting=0, running=1, failing=0, longest_wait=0, longest_pass=1000, last_finished=None)
    assert health(stuck)[0].ill() == "a pass has been running for 1000 s"
    starved = QueueStats(waiting=3, running=4, failing=0, longest_wait=400, longest_pass=400, last_finished=400)
    assert health(starved)[0].ill() == "a run has been due for 400 s and no pass ended meanwhile"
    busy = QueueStats(waiting=3, running=4, failing=0, longest_wait=400, longest_pass=1, last_finished=0.1)
    assert health(busy)[0].ill() == ""
