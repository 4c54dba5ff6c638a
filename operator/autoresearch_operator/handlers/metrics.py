"""/metrics: what the records, the queue and the gateway tell, in Prometheus' and OpenMetrics' format.

A scrape gathers on the event loop, where the runs live, and writes the text in a thread, which is the longer part.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from typing import Final

from prometheus_client import ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from autoresearch_operator.cluster.queue import QueueStats
from autoresearch_operator.cluster.seen import Key, Object
from autoresearch_operator.handlers.assembly import Work
from autoresearch_operator.observe import catalogue as c
from autoresearch_operator.observe.catalogue import METRICS, Kind, Metric, Sample
from autoresearch_operator.observe.instruments import Histogram

_OPENMETRICS: Final = "application/openmetrics-text;version=1.0.0"


class Metrics:
    """What there is to tell. Its parts come one by one while the process starts, and it answers from the first on."""

    def __init__(self, queue: Callable[[], QueueStats], ready: Callable[[], bool]) -> None:
        self._queue = queue
        self._ready = ready
        self._runs: Callable[[], Iterable[tuple[Key, Object]]] = tuple
        self._work: Work | None = None
        self._passes = Histogram(c.PASS_SECONDS.buckets)
        self._failures = 0
        self._process = ProcessCollector(registry=None)
        self._version = metadata.version("autoresearch-operator")
        self.requests: Mapping[tuple[str, str, str], int] = {}
        """Requests to the API server by verb, resource and code."""

    def show(self, runs: Callable[[], Iterable[tuple[Key, Object]]], work: Work) -> None:
        """From now on tells of these runs, the objects in the cluster, what is known of them."""
        self._runs, self._work = runs, work

    @contextmanager
    def one_pass(self) -> Iterator[None]:
        """Measures a pass."""
        began = time.monotonic()
        try:
            yield
        except Exception:
            self._failures += 1
            raise
        finally:
            self._passes.observe(time.monotonic() - began)

    async def exposition(self, accept: str) -> tuple[bytes, str]:
        """Body and content type for a scraper that sends this Accept header."""
        families = self.families()
        return await asyncio.to_thread(encoded, families, accept)

    def families(self) -> list[Family]:
        """Everything, now; to be called on the event loop."""
        by_metric: dict[str, list[Sample]] = {}
        for sample in self._samples():
            by_metric.setdefault(sample.metric.name, []).append(sample)
        histograms = {c.PASS_SECONDS.name: self._passes, **(self._work.histograms if self._work else {})}
        found: list[Family] = []
        for metric in METRICS:
            if metric.name in histograms:
                found.append(_histogram(metric, histograms[metric.name]))
            elif samples := by_metric.get(metric.name):
                found.append(_family(metric, samples))
        return [*found, *self._process.collect()]

    def _samples(self) -> Iterator[Sample]:
        if self._work is not None:
            for key, run in self._runs():
                yield from self._work.samples(key, run)
        yield from self._own()

    def _own(self) -> Iterator[Sample]:
        stats = self._queue()
        yield Sample(c.BUILD, (self._version,), 1.0)
        yield Sample(c.READY, (), float(self._ready()))
        yield Sample(c.QUEUE_WAITING, (), stats.waiting)
        yield Sample(c.QUEUE_FAILING, (), stats.failing)
        yield Sample(c.QUEUE_WAIT, (), stats.longest_wait)
        yield Sample(c.QUEUE_PASS, (), stats.longest_pass)
        if stats.last_finished is not None:
            yield Sample(c.QUEUE_LAST, (), stats.last_finished)
        yield Sample(c.PASS_FAILURES, (), self._failures)
        for labels, count in self.requests.items():
            yield Sample(c.API_REQUESTS, labels, count)


def encoded(families: list[Family], accept: str) -> tuple[bytes, str]:
    """The text and its content type: OpenMetrics 1.0 for who accepts it, else Prometheus' plain text.

    The header is only looked at: the library would compare versions that are none, and repeat them in its answer.
    """
    kinds = {part.partition(";")[0].strip() for part in accept.split(",")}
    encode, content_type = choose_encoder(_OPENMETRICS if _OPENMETRICS.partition(";")[0] in kinds else "text/plain")
    return encode(_Gathered(families)), content_type


class _Gathered(Collector):
    def __init__(self, families: list[Family]) -> None:
        self._families = families

    def collect(self) -> list[Family]:
        return self._families


def _family(metric: Metric, samples: Iterable[Sample]) -> Family:
    unit = metric.unit if metric.name.removesuffix("_total").endswith(f"_{metric.unit}") else ""
    family: CounterMetricFamily | GaugeMetricFamily
    if metric.kind is Kind.COUNTER:
        family = CounterMetricFamily(metric.name, metric.meaning, labels=metric.labels, unit=unit)
    else:
        family = GaugeMetricFamily(metric.name, metric.meaning, labels=metric.labels, unit=unit)
    for sample in samples:
        family.add_metric(sample.labels, sample.value)
    return family


def _histogram(metric: Metric, measured: Histogram) -> Family:
    family = HistogramMetricFamily(metric.name, metric.meaning, labels=metric.labels, unit=metric.unit)
    buckets = [("+Inf" if end == float("inf") else repr(float(end)), count) for end, count in measured.cumulative()]
    family.add_metric((), buckets=buckets, sum_value=measured.total)
    return family
