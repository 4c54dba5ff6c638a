"""The thin way to the API server: dictionaries in, dictionaries out, one error, and patience with what passes.

`kubernetes.aio` gives login, TLS and the connection pool. Its typed methods are not used on purpose: they refuse a
field that they do not know before any request is made, and drop it silently when they read one. So nothing here
validates a body, and nothing is ever read, changed and written back whole: writes are creations and merge patches.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final
from urllib.parse import urlencode

import aiohttp
import tenacity
from kubernetes.aio.client import ApiClient

from autoresearch_operator import logs
from autoresearch_operator.gateways.kube_errors import KubeError
from autoresearch_operator.gateways.kube_events import EventRecorder
from autoresearch_operator.gateways.kube_kinds import KINDS, resource_of
from autoresearch_operator.gateways.kube_login import login

logger = logging.getLogger(__name__)

Object = Mapping[str, Any]

FIELD_MANAGER: Final = "autoresearch-operator"
PAGE: Final = 500
"""Objects per page of a list. Experiments are a few KiB each, so a page is about 2 MiB of JSON in memory at once."""
METADATA_ONLY: Final = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
TIMEOUT: Final = aiohttp.ClientTimeout(total=30, sock_connect=5)
"""Seconds. The API server ends its own requests after 60; what took 30 is overload, and better asked again later."""
ATTEMPTS: Final = 6
LONGEST_WAIT: Final = 30.0
"""Seconds between two attempts at most, whatever Retry-After says: a pass must not sleep for minutes."""

_VERBS: Final = {"GET": "get", "POST": "create", "PATCH": "patch", "DELETE": "delete"}
"""Kubernetes' words for the methods that are used."""


class _Passing(Exception):
    """A fault that may be gone at the next attempt."""

    def __init__(self, error: KubeError, retry_after: float | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.retry_after = retry_after


_BACKOFF = tenacity.wait_random_exponential(multiplier=0.2, max=5)


def _wait(state: tenacity.RetryCallState) -> float:
    """Exponential with full jitter, from 0.2 to 5 s; longer when the server asks for it."""
    fault = state.outcome.exception() if state.outcome is not None else None
    asked = fault.retry_after if isinstance(fault, _Passing) and fault.retry_after is not None else 0.0
    return max(min(asked, LONGEST_WAIT), _BACKOFF(state))


class KubeCluster:
    """Requests to one API server. Implements `cluster.seen.Cluster`; `kind` is a key of `kube_kinds.KINDS`.

    Every method raises KubeError. No answer, 429 and 5xx are tried again up to six times in all, about 10 s, and 401
    once after a new login, so a creation can have been carried out by an attempt whose answer was lost: the next one
    then says AlreadyExists.
    """

    def __init__(self, client: ApiClient) -> None:
        self._client = client
        self._login_lock = asyncio.Lock()
        self._events = EventRecorder(self._create_event, self._repeat_event)
        self.requests: Counter[tuple[str, str, str]] = Counter()
        """Requests sent so far by verb, resource and HTTP code ("none": no answer), each attempt counted."""

    @classmethod
    async def connect(cls) -> KubeCluster:
        """Logs in; no request is made yet.

        Raises:
            LoginError: no way into a cluster was found.
        """
        return cls(await _client())

    async def close(self) -> None:
        await _close(self._client)

    async def create(self, kind: str, body: Object) -> Object:
        """Creates the object in the namespace that its metadata names."""
        path = KINDS[kind].path(body["metadata"].get("namespace"))
        return await self._request("POST", path, body=body, query={"fieldManager": FIELD_MANAGER})

    async def patch(self, kind: str, namespace: str, name: str, patch: Object) -> Object:
        """Merge-patches metadata and spec. With a metadata.resourceVersion in it, 409 unless that is the current."""
        return await self._merge_patch(KINDS[kind].path(namespace, name), patch)

    async def patch_status(self, kind: str, namespace: str, name: str, status: Object) -> Object:
        """Merge-patches the status subresource; a list in it is replaced as a whole."""
        return await self._merge_patch(KINDS[kind].path(namespace, name, "status"), {"status": status})

    async def delete(self, kind: str, namespace: str, name: str) -> None:
        """Deletes with Background propagation; an object that is gone already is success."""
        options = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"}
        try:
            await self._request("DELETE", KINDS[kind].path(namespace, name), body=options)
        except KubeError as error:
            if error.status != 404:
                raise

    async def get(self, kind: str, namespace: str, name: str) -> Object | None:
        """One object; None: there is none. The values of a Secret that was read can no longer get into the log."""
        try:
            found = await self._request("GET", KINDS[kind].path(namespace, name))
        except KubeError as error:
            if error.status == 404:
                return None
            raise
        if kind == "secrets":
            for value in (found.get("data") or {}).values():
                with suppress(ValueError):
                    logs.hide(base64.b64decode(value).decode())
        return found

    async def list(self, kind: str, namespace: str | None, selector: str = "") -> Sequence[Object]:
        """All objects of a kind; `namespace` None: in all namespaces, or a kind that has none."""
        return [item async for page in self.pages(kind, namespace, selector) for item in page]

    async def pages(
        self, kind: str, namespace: str | None, selector: str = "", *, metadata_only: bool = False
    ) -> AsyncIterator[Sequence[Object]]:
        """All objects of a kind, page by page, so that only one page is in memory; each with its kind's plural left
        out, as lists have it.

        With `metadata_only` the server sends neither spec nor data nor status: the cheap way to compare versions.
        A list whose continuation expired (410, after minutes) starts again: an object may come twice.
        """
        path = KINDS[kind].path(namespace)
        query = {"limit": str(PAGE)} | ({"labelSelector": selector} if selector else {})
        accept = METADATA_ONLY if metadata_only else "application/json"
        token, restarted = "", False
        while True:
            try:
                page = await self._request(
                    "GET", path, query=query | ({"continue": token} if token else {}), accept=accept
                )
            except KubeError as error:
                if error.status != 410 or restarted:
                    raise
                token, restarted = "", True
                continue
            yield page.get("items") or []
            token = page["metadata"].get("continue") or ""
            if not token:
                return

    async def probe(self, kind: str, namespace: str | None, selector: str = "") -> None:
        """Asks whether a kind can be listed: KubeError with status 404 (no such kind) or 403 when it cannot."""
        query = {"limit": "1"} | ({"labelSelector": selector} if selector else {})
        await self._request("GET", KINDS[kind].path(namespace), query=query, accept=METADATA_ONLY)

    async def event(self, about: Object, type_: str, reason: str, message: str) -> None:
        """Records a Kubernetes Event ("Normal" or "Warning"); a failure is logged, never raised."""
        await self._events.record(about, type_, reason, message)

    # ----------------------------------------------------------------------------------------------------------------

    async def _create_event(self, body: Object) -> None:
        await self.create("events", body)

    async def _repeat_event(self, namespace: str, name: str, patch: Object) -> None:
        await self.patch("events", namespace, name, patch)

    async def _merge_patch(self, path: str, patch: Object) -> Object:
        return await self._request(
            "PATCH",
            path,
            body=patch,
            query={"fieldManager": FIELD_MANAGER},
            content_type="application/merge-patch+json",
        )

    async def _request(
        self,
        method: str,
        path: str,
        *,
        body: Object | None = None,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
        accept: str = "application/json",
    ) -> dict[str, Any]:
        """One request, repeated while its fault may pass."""
        headers = {"Content-Type": content_type, "Accept": accept}
        target = path + (f"?{urlencode(query)}" if query else "")
        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(_Passing),
            stop=tenacity.stop_after_attempt(ATTEMPTS),
            wait=_wait,
            reraise=True,
        )
        try:
            return await retrying(self._attempt, method, target, headers, body)
        except _Passing as fault:
            raise fault.error from fault.__cause__

    async def _attempt(
        self, method: str, target: str, headers: Mapping[str, str], body: Object | None
    ) -> dict[str, Any]:
        client = self._client
        try:
            status, answer_headers, text = await self._send(client, method, target, headers, body)
            if status == 401:
                client = await self._log_in_again(client)
                status, answer_headers, text = await self._send(client, method, target, headers, body)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            sentence = f"no answer from {client.configuration.host}: {error or type(error).__name__}"
            raise _Passing(KubeError(0, "NoAnswer", sentence)) from error
        if 200 <= status < 300:
            try:
                return dict(json.loads(text))
            except ValueError as error:
                # A proxy between us and the API server can answer 200 with a page of its own.
                raise KubeError(status, "NotJSON", f"{method} {target}: the answer is not JSON") from error
        refusal = _refusal(status, method, target, text)
        if status == 429 or status >= 500:
            raise _Passing(refusal, _seconds(answer_headers.get("Retry-After")))
        raise refusal

    async def _send(
        self, client: ApiClient, method: str, target: str, headers: Mapping[str, str], body: Object | None
    ) -> tuple[int, Mapping[str, str], bytes]:
        code = "none"
        try:
            status, answer_headers, text = await self._exchange(client, method, target, headers, body)
            code = str(status)
        finally:
            resource, named = resource_of(target)
            verb = "list" if method == "GET" and not named else _VERBS.get(method, "other")
            self.requests[verb, resource, code] += 1
        return status, answer_headers, text

    @staticmethod
    async def _exchange(
        client: ApiClient, method: str, target: str, headers: Mapping[str, str], body: Object | None
    ) -> tuple[int, Mapping[str, str], bytes]:
        sent = dict(headers) | {"User-Agent": FIELD_MANAGER}
        await client.update_params_for_auth(sent, [], ["BearerToken"], target, method, body)
        rest: Any = client.rest_client  # whose methods carry no types
        response = await rest.request(
            method, client.configuration.host + target, headers=sent, body=body, _request_timeout=TIMEOUT
        )
        return response.status, response.headers, await response.read()

    async def _log_in_again(self, refused: ApiClient) -> ApiClient:
        """A client with fresh credentials in place of one that got a 401; once for all requests that got it."""
        async with self._login_lock:
            if self._client is refused:
                self._client = await _client()
                # Requests that still run on the old pool end by their own time limit.
                asyncio.get_running_loop().call_later(2 * (TIMEOUT.total or 30), _close_later, refused)
            return self._client


async def _client() -> ApiClient:
    configuration = await login()
    # 100 connections would be the default; the queue has a handful of workers with a few requests each.
    configuration.connection_pool_maxsize = 32
    return ApiClient(configuration)


async def _close(client: Any) -> None:
    await client.close()


def _close_later(client: ApiClient) -> None:
    task = asyncio.get_running_loop().create_task(_close(client))
    _closing.add(task)
    task.add_done_callback(_closing.discard)


_closing: set[asyncio.Task[None]] = set()


def _seconds(retry_after: str | None) -> float | None:
    return float(retry_after) if retry_after and retry_after.strip().isdigit() else None


def _refusal(status: int, method: str, target: str, text: bytes) -> KubeError:
    """The server's own sentence where it gave one (a Status object), else what was asked and the code."""
    try:
        answer = json.loads(text)
        return KubeError(status, str(answer.get("reason") or ""), str(answer["message"]))
    except (ValueError, KeyError, AttributeError, TypeError):
        excerpt = text[:200].decode("utf-8", "replace").strip()
        return KubeError(status, "", f"{method} {target.partition('?')[0]} was answered by {status}: {excerpt}")
