"""One canary a namespace: whether NetworkPolicies hold there, for the runs whose trials nothing else shuts in.

A pass takes one look and goes on, so no pass waits for pods. Answers are kept in memory only: after a start of the
operator a canary is sent anew, which finds the pods of the one before it by their names.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from dataclasses import dataclass, replace

from autoresearch_operator.api.run import ResearchRunSpec
from autoresearch_operator.api.tiers import Tier
from autoresearch_operator.api.trainer import Evaluation
from autoresearch_operator.cluster import canary
from autoresearch_operator.cluster.canary import Look
from autoresearch_operator.cluster.seen import Cluster, Key, KubeError
from autoresearch_operator.manifests import job, placement
from autoresearch_operator.manifests.canary import SECONDS
from autoresearch_operator.manifests.settings import TrialSettings

logger = logging.getLogger(__name__)

PATIENCE = SECONDS - 120.0
"""Seconds until a canary that has not answered is given up: less than its pods' longest life, and time for a node to
pull the trainer's image."""
PROOF_HOLDS = 24 * 3600.0
"""Seconds until a network that carries policies out is tried again: it changes when somebody replaces it."""
LEAK_HOLDS = 3600.0
"""Seconds until a network that does not is tried again: what a person waits for after a repair, at most."""
FIRST_PAUSE = 60.0
"""Seconds after a canary that told nothing until the next one, the first time; then twice as long each time."""
LONGEST_PAUSE = 3600.0
SHORTEST_LOOK, LONGEST_LOOK = 2.0, 15.0
"""Seconds between two looks at a canary under way: short at first, when an answer is near."""
_REFUSED = frozenset({401, 403, 404, 422})


@dataclass(frozen=True, slots=True)
class Answer:
    """What a canary showed."""

    enforced: bool
    message: str
    at: float
    """Seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class Network:
    """What is known of a namespace's network."""

    answer: Answer | None = None
    """The newest; it stands until another one replaces it."""
    doubt: str = ""
    """Where the first canary stands, or why the last one told nothing; empty: it answered."""
    tried: bool = False
    """A canary has come to its end since the operator's start."""


@dataclass(frozen=True, slots=True)
class Course:
    """Where a namespace's canary stands."""

    network: Network = Network()
    since: float | None = None
    """When the one under way was sent, seconds since the epoch; None: none is."""
    look_at: float = 0.0
    """When to look next, or to send the next one, seconds since the epoch."""
    failures: int = 0
    """Canaries in a row that told nothing."""


def needed(spec: ResearchRunSpec, tier: Tier) -> bool:
    """Whether only a NetworkPolicy keeps the tier's candidates from the network.

    With one GPU or none seccomp refuses them every socket. Self-reported scores are not isolated either way.
    """
    return tier.gpus > 1 and spec.trainer.evaluation is Evaluation.VERIFIED


def after(course: Course, seen: Look, now: float) -> Course:
    """The course once a canary under way was looked at; `since` is None in it when that one is over."""
    network, age = course.network, now - (now if course.since is None else course.since)
    if not seen.done and age < PATIENCE:
        pace = min(max(SHORTEST_LOOK, age / 4), LONGEST_LOOK)
        # A proof is not put in doubt by being looked for again, nor is the last failure's reason known any better.
        news = network if network.tried else replace(network, doubt=seen.message)
        return replace(course, network=news, look_at=now + pace)
    if seen.enforced is not None:
        network = Network(Answer(seen.enforced, seen.message, now), tried=True)
        return Course(network, look_at=now + (PROOF_HOLDS if seen.enforced else LEAK_HOLDS))
    pause = min(FIRST_PAUSE * 2.0 ** min(course.failures, 30), LONGEST_PAUSE)
    why = seen.message if seen.done else f"no answer in {PATIENCE / 60:g} min; {seen.message}"
    doubt = f"{why} (another canary is sent in {pause / 60:g} min)"
    network = replace(network, doubt=doubt, tried=True)
    return Course(network, look_at=now + pause, failures=course.failures + 1)


class Canaries:
    """The canaries of one operator. All methods belong to its event loop."""

    def __init__(self, cluster: Cluster, settings: TrialSettings) -> None:
        self._cluster = cluster
        self._settings = settings
        self._courses: defaultdict[str, Course] = defaultdict(Course)
        self._wanting: defaultdict[str, set[Key]] = defaultdict(set)
        """By namespace, the runs that want to know."""
        self._busy: set[str] = set()
        """Namespaces in which a look, or a removal, is under way: passes over two runs meet here."""

    async def step(self, key: Key, spec: ResearchRunSpec, tier: Tier, now: float) -> tuple[Network, float]:
        """What is known, after one look where one is due, and when to call again; seconds since the epoch.

        A few requests, and nothing is raised: what the API server refuses is a canary that told nothing.
        """
        namespace = key.namespace
        self._wanting[namespace].add(key)
        if namespace in self._busy:
            return self._courses[namespace].network, now + SHORTEST_LOOK
        if now >= self._courses[namespace].look_at:
            self._busy.add(namespace)
            try:
                await self._look(namespace, spec, tier, now)
            finally:
                self._busy.discard(namespace)
        course = self._courses[namespace]
        return course.network, course.look_at

    async def withdraw(self, key: Key) -> None:
        """The run does not want to know any more; a canary that nobody wants is removed. Nothing is raised."""
        namespace = key.namespace
        wanting = self._wanting.get(namespace)
        if wanting is None or key not in wanting:
            return
        wanting.discard(key)
        if not wanting:
            del self._wanting[namespace]
            await self._drop(namespace)

    async def close(self) -> None:
        """Removes the canaries under way, for nobody may be there who waits for their answers. Nothing is raised."""
        under_way = [namespace for namespace, course in self._courses.items() if course.since is not None]
        await asyncio.gather(*(self._drop(namespace) for namespace in under_way))

    async def _look(self, namespace: str, spec: ResearchRunSpec, tier: Tier, now: float) -> None:
        course = self._courses[namespace]
        if course.since is None:
            course = self._courses[namespace] = replace(course, since=now)
        settings = replace(
            self._settings,
            image=spec.trainer.image or self._settings.image,
            image_pull_secrets=tuple(secret["name"] for secret in job.pull_secrets(spec, self._settings)),
        )
        tolerations = placement.tolerations(tier, settings)
        try:
            seen = await canary.look(self._cluster, namespace, settings, tolerations=tolerations)
        except KubeError as error:
            # A busy API server says nothing about the network: the same canary is looked at again.
            seen = Look(error.status in _REFUSED, None, error.message)
        course = after(course, seen, now)
        if course.since is None:
            said = {True: "holds policies", False: "does not hold policies", None: "told nothing"}[seen.enforced]
            logger.info("the canary in namespace %s %s: %s", namespace, said, seen.message)
            await self._remove(namespace)
        self._courses[namespace] = course

    async def _drop(self, namespace: str) -> None:
        course = self._courses[namespace]
        if course.since is None or namespace in self._busy:
            return
        self._busy.add(namespace)
        try:
            await self._remove(namespace)
        finally:
            self._busy.discard(namespace)
        self._courses[namespace] = replace(course, since=None, look_at=0.0)

    async def _remove(self, namespace: str) -> None:
        try:
            await canary.remove(self._cluster, namespace)
        except KubeError as error:
            logger.info("the canary's Jobs in %s stay until they end by themselves: %s", namespace, error.message)
