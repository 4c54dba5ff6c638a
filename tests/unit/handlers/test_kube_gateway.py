"""The gateway against a real HTTP server: what is sent, what is tried again, and what comes back as an error."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web
from autoresearch_operator import logs
from autoresearch_operator.gateways import kube
from autoresearch_operator.gateways.kube import KubeCluster
from autoresearch_operator.gateways.kube_errors import KubeError, LoginError
from autoresearch_operator.gateways.kube_kinds import KINDS

Answer = Callable[[web.Request], Awaitable[web.Response]]


def refuse(status: int, reason: str, message: str, **headers: str) -> web.Response:
    body = {"kind": "Status", "status": "Failure", "code": status, "reason": reason, "message": message}
    return web.json_response(body, status=status, headers=headers)


class Server:
    """Answers with what the test wants and keeps what it was asked."""

    def __init__(self, kubeconfig: Path, *answers: web.Response | dict[str, Any] | None) -> None:
        """An answer None is a connection closed without a word; the last answer is for all further requests."""
        self.kubeconfig = kubeconfig
        self.answers = list(answers)
        self.asked: list[tuple[str, str, dict[str, str], Any]] = []
        self.accepted = "first"
        self.url = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        text = await request.text()
        self.asked.append((request.method, request.path_qs, dict(request.headers), json.loads(text) if text else None))
        if request.headers.get("Authorization") != f"Bearer {self.accepted}":
            return refuse(401, "Unauthorized", "Unauthorized")
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if answer is None:
            assert request.transport is not None
            request.transport.close()
            return web.Response()
        if isinstance(answer, web.Response):
            return web.Response(
                status=answer.status, body=answer.body, headers={**answer.headers, "Content-Type": "application/json"}
            )
        return web.json_response(answer)

    def write_kubeconfig(self, token: str) -> None:
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": self.url}}],
            "users": [{"name": "u", "user": {"token": token}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }
        self.kubeconfig.write_text(yaml.safe_dump(document))

    @asynccontextmanager
    async def cluster(self) -> AsyncIterator[KubeCluster]:
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", self.answer)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        self.write_kubeconfig("first")
        cluster = await KubeCluster.connect()
        try:
            yield cluster
        finally:
            await cluster.close()
            await runner.cleanup()


Serve = Callable[..., Server]


@pytest.fixture
def serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Serve:
    kubeconfig = tmp_path / "kubeconfig"
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    return lambda *answers: Server(kubeconfig, *answers)


def ask(server: Server, work: Callable[[KubeCluster], Awaitable[Any]]) -> Any:
    async def story() -> Any:
        async with server.cluster() as cluster:
            return await work(cluster)

    return asyncio.run(story())


JOB = {
    "apiVersion": "batch/v1",
    "kind": "Job",
    "metadata": {"name": "first-1-s1-a1", "namespace": "lab"},
    "spec": {"template": {"spec": {"aFieldOfTomorrow": {"x": 1}}}},
}


def test_a_body_is_sent_as_it_is_with_fields_that_no_client_knows(serve: Serve) -> None:
    server = serve(JOB)
    assert ask(server, lambda cluster: cluster.create("jobs", JOB)) == JOB
    method, path, headers, body = server.asked[0]
    assert (method, path) == ("POST", "/apis/batch/v1/namespaces/lab/jobs?fieldManager=autoresearch-operator")
    assert body == JOB
    assert headers["Content-Type"] == "application/json"


def test_writes_are_merge_patches_and_status_has_its_own_path(serve: Serve) -> None:
    server = serve({})
    ask(server, lambda cluster: cluster.patch_status("experiments", "lab", "first-1", {"trials": []}))
    method, path, headers, body = server.asked[0]
    assert method == "PATCH"
    assert path.startswith("/apis/autoresearch.dev/v1alpha1/namespaces/lab/experiments/first-1/status?")
    assert headers["Content-Type"] == "application/merge-patch+json"
    assert body == {"status": {"trials": []}}


def test_deleting_is_in_the_background_and_what_is_gone_is_success(serve: Serve) -> None:
    server = serve(refuse(404, "NotFound", 'jobs.batch "x" not found'))
    ask(server, lambda cluster: cluster.delete("jobs", "lab", "x"))
    assert server.asked[0][3]["propagationPolicy"] == "Background"


def test_a_missing_object_is_none_and_a_refusal_the_servers_own_sentence(serve: Serve) -> None:
    assert ask(serve(refuse(404, "NotFound", "not found")), lambda c: c.get("pods", "lab", "x")) is None
    with pytest.raises(KubeError) as caught:
        ask(serve(refuse(409, "AlreadyExists", 'jobs.batch "x" already exists')), lambda c: c.create("jobs", JOB))
    assert (caught.value.status, caught.value.reason) == (409, "AlreadyExists")
    assert caught.value.message == 'jobs.batch "x" already exists'


@pytest.mark.parametrize("fault", [None, refuse(500, "InternalError", "etcdserver: request timed out")])
def test_faults_that_pass_are_tried_again(serve: Serve, fault: web.Response | None) -> None:
    server = serve(fault, fault, JOB)
    assert ask(server, lambda cluster: cluster.create("jobs", JOB)) == JOB
    assert len(server.asked) >= 3


def test_every_attempt_is_counted_by_what_was_asked_and_answered(serve: Serve) -> None:
    server = serve(None, refuse(503, "Unavailable", "later"), {"metadata": {}, "items": []})

    async def work(cluster: KubeCluster) -> Any:
        await cluster.create("jobs", JOB)
        await cluster.get("jobs", "lab", "x")
        await cluster.patch_status("experiments", "lab", "x", {})
        await cluster.list("pods", "lab")
        return cluster.requests

    counted = ask(server, work)
    # aiohttp itself may ask once more on a connection that was closed before any answer.
    assert counted.pop(("create", "jobs", "none")) >= 1
    assert counted == {
        ("create", "jobs", "503"): 1,
        ("create", "jobs", "200"): 1,
        ("get", "jobs", "200"): 1,
        ("patch", "experiments/status", "200"): 1,
        ("list", "pods", "200"): 1,
    }


def test_retry_after_is_waited_for(serve: Serve) -> None:
    server = serve(refuse(429, "TooManyRequests", "slow down", **{"Retry-After": "1"}), JOB)
    began = time.monotonic()
    assert ask(server, lambda cluster: cluster.create("jobs", JOB)) == JOB
    assert time.monotonic() - began >= 1


def test_faults_that_stay_become_an_error(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kube, "_wait", lambda _state: 0.0)
    server = serve(refuse(503, "ServiceUnavailable", "the server is starting"))
    with pytest.raises(KubeError, match="the server is starting"):
        ask(server, lambda cluster: cluster.get("pods", "lab", "x"))
    assert len(server.asked) == kube.ATTEMPTS
    with pytest.raises(KubeError) as caught:
        ask(serve(None), lambda cluster: cluster.get("pods", "lab", "x"))
    assert (caught.value.status, caught.value.reason) == (0, "NoAnswer")


def test_a_refused_login_is_made_again_once(serve: Serve) -> None:
    server = serve(JOB)

    async def story() -> None:
        async with server.cluster() as cluster:
            assert await cluster.get("jobs", "lab", "x") == JOB
            server.accepted = "second"
            server.write_kubeconfig("second")
            assert await cluster.get("jobs", "lab", "x") == JOB
            server.accepted = "third"
            with pytest.raises(KubeError) as caught:
                await cluster.get("jobs", "lab", "x")
            assert caught.value.status == 401

    asyncio.run(story())


def test_lists_come_in_pages_and_an_expired_one_begins_again(serve: Serve) -> None:
    first = {"metadata": {"continue": "more"}, "items": [{"metadata": {"name": "a"}}]}
    last = {"metadata": {}, "items": [{"metadata": {"name": "b"}}]}
    server = serve(first, refuse(410, "Expired", "too old"), first, last)
    found = ask(server, lambda cluster: cluster.list("pods", None, "autoresearch.dev/run"))
    assert [item["metadata"]["name"] for item in found] == ["a", "a", "b"]
    assert server.asked[0][1] == "/api/v1/pods?limit=500&labelSelector=autoresearch.dev/run"
    assert server.asked[1][1].endswith("&continue=more")
    assert not server.asked[2][1].endswith("&continue=more")


def test_an_answer_that_is_not_json_is_an_error_with_the_request_in_it(serve: Serve) -> None:
    with pytest.raises(KubeError, match="the answer is not JSON"):
        ask(serve(web.Response(body=b"<html>log in</html>")), lambda cluster: cluster.get("pods", "lab", "x"))


def test_a_secret_that_was_read_can_no_longer_be_logged(serve: Serve) -> None:
    data = {"password": base64.b64encode(b"correct horse").decode(), "raw": base64.b64encode(b"\xff\xfe").decode()}
    ask(serve({"data": data}), lambda cluster: cluster.get("secrets", "lab", "git"))
    assert logs.redacted("it is correct horse.") == "it is ***."


def test_no_way_into_a_cluster_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serve: Serve) -> None:
    with pytest.raises(LoginError, match="set KUBECONFIG to a kubeconfig file"):
        asyncio.run(KubeCluster.connect())


def test_no_name_reaches_another_objects_path() -> None:
    assert KINDS["secrets"].path("lab", "../../kube-system/secrets/x") == (
        "/api/v1/namespaces/lab/secrets/..%2F..%2Fkube-system%2Fsecrets%2Fx"
    )
    assert KINDS["nodes"].path(None, "n1") == "/api/v1/nodes/n1"


def test_equal_events_are_one_event_with_a_count_and_a_flood_is_cut_off(serve: Serve) -> None:
    server = serve({})
    about = {"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "lab", "name": "p", "uid": "u"}}

    async def story(cluster: KubeCluster) -> None:
        for _ in range(64):
            await cluster.event(about, "Normal", "Accepted", "the same")
        for number in range(100):
            await cluster.event(about, "Warning", "Other", f"always new {number}")

    ask(server, story)
    created = [body for method, _, _, body in server.asked if method == "POST"]
    repeated = [body for method, _, _, body in server.asked if method == "PATCH"]
    assert created[0]["regarding"]["uid"] == "u"
    assert created[0]["note"] == "the same"
    assert [body["series"]["count"] for body in repeated] == [2, 3, 4, 8, 16, 32, 64]
    assert len(created) == 20


def test_an_event_that_cannot_be_made_is_logged_and_not_raised(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    server = serve(refuse(403, "Forbidden", "events are forbidden"))
    about = {"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "lab", "name": "p", "uid": "u"}}
    ask(server, lambda cluster: cluster.event(about, "Normal", "Accepted", "x"))
    assert "the event Accepted about p is lost: events are forbidden" in caplog.text
