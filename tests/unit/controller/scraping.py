"""A scrape of an operator in memory: the controller's runs through the operator's own view, and the text parsed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from autoresearch_operator.cluster import runmetrics
from autoresearch_operator.cluster.queue import QueueStats
from autoresearch_operator.cluster.seen import Key, Object
from autoresearch_operator.cluster.state import RunState
from autoresearch_operator.handlers.assembly import Work
from autoresearch_operator.handlers.metrics import Metrics, encoded
from controller_world import World
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.openmetrics.parser import text_string_to_metric_families

OPENMETRICS = "application/openmetrics-text;version=1.0.0"
STATS = QueueStats(waiting=2, running=1, failing=0, longest_wait=0.5, longest_pass=0.25, last_finished=3.0)

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


def metrics_of(
    world: World,
    runs: Callable[[], Iterable[tuple[Key, Object]]] | None = None,
    state: Callable[[Key], RunState | None] | None = None,
) -> Metrics:
    """What the operator's process would put together around this world's controller."""
    controller = world.controller
    found = Metrics(lambda: STATS, lambda: True)
    found.requests = {("create", "jobs", "201"): 4}

    def shown() -> Iterable[tuple[Key, Object]]:
        return [(Key(*place), item) for place, item in world.cluster.of("researchruns").items()]

    def samples(key: Key, run: Object) -> Any:
        return runmetrics.of_run(key, run, (state or controller.state)(key), controller.meters, world.now)

    found.show(runs or shown, Work(controller, samples=samples, histograms=controller.meters.histograms()))
    return found


def text_of(metrics: Metrics) -> str:
    body, _ = encoded(metrics.families(), OPENMETRICS)
    return body.decode()


def families(text: str) -> list[Family]:
    """Parsed strictly: names, types, escapes, order and the end are checked on the way."""
    return list(text_string_to_metric_families(text))


def series(text: str) -> Series:
    """Sample name and labels to value; fails on a series that is there twice."""
    found: Series = {}
    for family in families(text):
        for sample in family.samples:
            name = sample.name, frozenset(sample.labels.items())
            assert name not in found, name
            assert not math.isnan(sample.value), name
            found[name] = sample.value
    return found


def scrape(world: World) -> Series:
    return series(text_of(metrics_of(world)))


def value(found: Series, name: str, **labels: str) -> float:
    """The one series of that name whose labels say at least this."""
    wanted = set(labels.items())
    (match,) = [value for (each, of), value in found.items() if each == f"autoresearch_{name}" and wanted <= of]
    return match


def by(found: Series, name: str, *labels: str) -> Mapping[tuple[str, ...], float]:
    """The series of that name, by these labels."""
    return {
        tuple(dict(of)[label] for label in labels): value
        for (each, of), value in found.items()
        if each == f"autoresearch_{name}"
    }
