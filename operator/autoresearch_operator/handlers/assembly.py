"""Puts the controller together from its parts: the cluster, the repositories on the volume, the trials' settings."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

from autoresearch_operator.cluster.seen import Cluster, Key, Object, Seen
from autoresearch_operator.observe.catalogue import Sample
from autoresearch_operator.observe.instruments import Histogram
from autoresearch_operator.operator_settings import OperatorSettings

if TYPE_CHECKING:
    from aiohttp import web

SECRET_SECONDS: Final = 60.0
"""How long a thread waits for a Secret: longer than the gateway tries."""


class Reconciler(Protocol):
    """What `cluster.controller.Controller` is to the process."""

    async def reconcile(self, key: Key, seen: Seen) -> float | None:
        """One pass over a run; seconds until it wants to be called again without an event, None: not."""

    async def close(self) -> None:
        """Waits shortly for what still runs in the background."""


@dataclass(frozen=True)
class Work:
    """A controller, and what it knows of from before."""

    controller: Reconciler
    keys: Callable[[], Sequence[Key]] = lambda: ()
    """Runs that are on the volume; blocking. One that is no longer in the cluster gets a pass too, to free its
    branch."""
    samples: Callable[[Key, Object], Iterable[Sample]] = lambda _key, _run: ()
    """What /metrics tells of a run that is in the cluster; called on the event loop."""
    histograms: Mapping[str, Histogram] = field(default_factory=dict)
    """What the controller measures of itself, by the name of the metric."""


@dataclass(frozen=True)
class Parts:
    """What the process is put together from; tests put a recorder in the controller's place."""

    work: Callable[[Cluster, OperatorSettings], Work]
    git: Callable[[OperatorSettings], web.Application] | None = None


def real_parts() -> Parts:
    """The controller and the git server that this package has. Read in only here: they bring git and numpy."""
    return Parts(work=_work, git=_git)


def _git(settings: OperatorSettings) -> web.Application:
    from autoresearch_operator.gateways.githttp import application

    settings.data_folder.mkdir(parents=True, exist_ok=True)
    return application(settings.data_folder)


def _work(cluster: Cluster, settings: OperatorSettings) -> Work:
    from autoresearch_operator.cluster import runmetrics
    from autoresearch_operator.cluster.controller import Controller
    from autoresearch_operator.cluster.options import Options
    from autoresearch_operator.cluster.repositories import Repositories
    from autoresearch_operator.manifests.settings import TrialSettings

    settings.data_folder.mkdir(parents=True, exist_ok=True)
    repositories = Repositories(
        settings.data_folder,
        secrets=_secrets(cluster),
        served_at=settings.git_base_url.rstrip("/"),
        pushes_per_minute=settings.pushes_per_minute,
    )
    trials = TrialSettings(
        image=settings.trainer_image,
        image_pull_policy=settings.trainer_pull_policy,
        image_pull_secrets=settings.trainer_pull_secrets,
        priority_class_name=settings.trainer_priority_class or None,
    )
    options = Options(status_interval=settings.status_seconds, nodes_readable=settings.nodes_readable)
    controller = Controller(cluster, repositories, trials, options=options)

    def samples(key: Key, run: Object) -> Iterable[Sample]:
        return runmetrics.of_run(key, run, controller.state(key), controller.meters, time.time())

    return Work(controller, repositories.keys, samples, controller.meters.histograms())


def _secrets(cluster: Cluster) -> Callable[[str, str], Object | None]:
    """Reads a Secret from a thread, through the event loop that this is called in."""
    loop = asyncio.get_running_loop()

    def read(namespace: str, name: str) -> Any:
        reading = asyncio.run_coroutine_threadsafe(cluster.get("secrets", namespace, name), loop)
        return reading.result(SECRET_SECONDS)

    return read
