"""A run from beginning to end in memory, with an operator that may be killed at every write."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

from autoresearch_operator.cluster.controller import Controller
from autoresearch_operator.cluster.meters import Meters
from autoresearch_operator.cluster.options import Options
from autoresearch_operator.cluster.repositories import Repositories
from autoresearch_operator.cluster.seen import Key
from autoresearch_operator.manifests.settings import TrialSettings
from autoresearch_operator.research.records import TrialPhase
from memory_cluster import Killed, MemoryCluster, Writes, scored
from memory_volume import MemoryRepositories, Volume

KEY = Key("default", "first")


def request(**spec: Any) -> dict[str, Any]:
    """A ResearchRun as the API server would hand it out."""
    return {
        "apiVersion": "autoresearch.dev/v1alpha1",
        "kind": "ResearchRun",
        "metadata": {"name": KEY.name, "namespace": KEY.namespace},
        "spec": {
            "proposers": [{"search": {"sampler": "random"}}],
            "tiers": [{"name": "cpu", "gpus": 0, "budget": {"steps": 10}, "maxParallel": 3}],
            "limits": {"experiments": 8},
            **spec,
        },
    }


@dataclass
class World:
    """The cluster, the volume, and the operator of the hour."""

    spec: dict[str, Any] = field(default_factory=request)
    options: Options = field(default_factory=lambda: Options(keep_experiments=3))
    seed: int = 0
    """Of the order in which pods end."""
    result: Callable[[dict[str, str], Any], dict[str, Any]] = scored
    now: float = 1_700_000_000.0
    kills: int = 0
    delay: float | None = None

    def __post_init__(self) -> None:
        self.loop = asyncio.Runner()
        self.writes = Writes()
        self.cluster = MemoryCluster(self.writes, lambda: self.now)
        self.volume = Volume(self.writes)
        self.order = random.Random(self.seed)
        self.most_running = 0
        self.restart()
        self.apply()

    def apply(self) -> None:
        self.cluster.put("researchruns", self.spec)

    def restart(self) -> None:
        self.repositories = MemoryRepositories(self.volume)
        self.controller = Controller(
            self.cluster, cast(Repositories, self.repositories), TrialSettings("trainer:1"), options=self.options,
            clock=lambda: self.now, meters=Meters(lambda: self.now),
        )  # fmt: skip

    @property
    def run(self) -> dict[str, Any]:
        return self.cluster.get_now("researchruns", *KEY)

    @property
    def status(self) -> dict[str, Any]:
        return self.run.get("status", {})

    def condition(self, name: str) -> dict[str, Any]:
        return next((c for c in self.status.get("conditions", ()) if c["type"] == name), {})

    def reconcile(self) -> float | None:
        self.delay = self.loop.run(self.controller.reconcile(KEY, self.cluster.seen(KEY)))
        return self.delay

    def step(self, *, end_pods: bool = True, kill_after: Callable[[], int | None] | None = None) -> None:
        """One event: some pods end, and the operator looks, killed and started again as often as asked."""
        self.now += 1.0
        self.cluster.make_pods()
        pods = self.cluster.running_pods()
        self.most_running = max(self.most_running, len(pods))
        for pod in pods if end_pods else ():
            if self.order.random() < 0.6:
                self.end(pod)
        while True:
            self.writes.revive(kill_after() if kill_after else None)
            controller = self.controller
            try:
                self.reconcile()
            except Killed:
                self.kills += 1
                self.restart()
                continue
            finally:
                # A push ends within the second; the loop stands still between two passes, so here is where it can.
                self.loop.run(controller.pushed())
            return

    def end(self, pod: dict[str, Any]) -> None:
        self.cluster.end_pod(pod, self.result(self.cluster.files_of(pod), pod))

    def finish(self, *, kill_after: Callable[[], int | None] | None = None, most: int = 2000) -> World:
        for _ in range(most):
            self.step(kill_after=kill_after)
            if self.condition("Complete") or self.condition("Failed"):
                return self
        raise AssertionError(f"the run does not end: {self.status}")

    def ledger(self) -> Any:
        """What must not depend on kills: verdicts, commits, and the branch.

        Not which runs were made ahead of their turn on idle slots; those decide nothing. But no score is twice there.
        """
        scored = [(t.key.experiment, t.key.seed) for t in self.volume.trials if t.phase is TrialPhase.SCORED]
        assert len(scored) == len(set(scored)), "a measurement was made twice"
        verdicts = [
            (r.number, r.commit, r.verdict, r.reason, r.val_bpb, r.landed_commit) for r in self.volume.experiments
        ]
        return verdicts, self.volume.branch
