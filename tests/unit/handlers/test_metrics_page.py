"""/metrics over HTTP: what a scraper is given for what it asks, from the first second on."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest
from aiohttp import web
from autoresearch_operator.cluster.queue import QueueStats
from autoresearch_operator.gateways.kube_kinds import KINDS, resource_of
from autoresearch_operator.handlers.metrics import Metrics
from autoresearch_operator.handlers.probes import Health, application
from autoresearch_operator.observe.instruments import Histogram
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain

STATS = QueueStats(waiting=2, running=1, failing=1, longest_wait=0.5, longest_pass=0.25, last_finished=None)


def metrics() -> Metrics:
    return Metrics(lambda: STATS, lambda: False)


def asked(accept: str | None, served: Metrics) -> tuple[int, str, str]:
    """Status, content type and text that a scraper with this Accept header gets."""

    async def story() -> tuple[int, str, str]:
        health = Health(resync_seconds=300, queue=lambda: STATS)
        runner = web.AppRunner(application(health, served.exposition))
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            url = f"http://127.0.0.1:{runner.addresses[0][1]}/metrics"
            headers = {} if accept is None else {"Accept": accept}
            async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as answer:
                return answer.status, answer.headers["Content-Type"], await answer.text()
        finally:
            await runner.cleanup()

    return asyncio.run(story())


@pytest.mark.parametrize(
    "accept",
    [
        "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,*/*;q=0.1",
        "application/openmetrics-text",
        "text/html, application/openmetrics-text;version=x;escaping=y",
    ],
)
def test_a_scraper_that_knows_openmetrics_gets_it(accept: str) -> None:
    status, content_type, text = asked(accept, metrics())
    assert (status, content_type.split(";")[0]) == (200, "application/openmetrics-text")
    assert text.endswith("# EOF\n")
    assert "autoresearch_ready" in {family.name for family in openmetrics(text)}


@pytest.mark.parametrize("accept", [None, "*/*", "text/plain;version=0.0.4", "text/plain;version=x;escaping=y", "x;,"])
def test_everybody_else_gets_plain_text(accept: str | None) -> None:
    status, content_type, text = asked(accept, metrics())
    assert (status, content_type.split(";")[0]) == (200, "text/plain")
    assert "autoresearch_ready" in {family.name for family in plain(text)}


def test_before_it_is_at_work_it_tells_of_itself() -> None:
    served = metrics()
    with pytest.raises(RuntimeError), served.one_pass():
        raise RuntimeError
    values = {
        sample.name: sample.value
        for family in plain(asked(None, served)[2])
        for sample in family.samples
        if "le" not in sample.labels
    }
    assert values["autoresearch_ready"] == 0
    assert values["autoresearch_queue_waiting_runs"] == 2
    assert values["autoresearch_queue_failing_runs"] == 1
    assert values["autoresearch_pass_failures_total"] == values["autoresearch_pass_duration_seconds_count"] == 1
    assert "autoresearch_queue_last_pass_age_seconds" not in values, "no pass has ended yet"
    assert values["process_resident_memory_bytes"] > 1e6


def test_a_histogram_counts_up_to_and_with_each_bound() -> None:
    measured = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 7.0, -3.0):
        measured.observe(value)
    assert measured.cumulative() == [(1.0, 3), (2.0, 4), (float("inf"), 5)]
    assert (measured.count, measured.total) == (5, 10.0)


@pytest.mark.parametrize(
    ("path", "resource", "named"),
    [
        (KINDS["jobs"].path("lab"), "jobs", False),
        (KINDS["jobs"].path("lab", "jobs"), "jobs", True),
        (KINDS["pods"].path(None) + "?limit=1&labelSelector=a%2Fb", "pods", False),
        (KINDS["researchruns"].path("lab", "first", "status"), "researchruns/status", True),
        (KINDS["nodes"].path(None), "nodes", False),
        (KINDS["secrets"].path("pods", "nodes/status"), "secrets", True),
        ("/version", "other", False),
        ("/apis/example.com/v1/namespaces/lab/things/one", "other", False),
        ("", "other", False),
    ],
)
def test_a_request_is_filed_under_its_resource(path: str, resource: str, named: bool) -> None:
    assert resource_of(path) == (resource, named)
