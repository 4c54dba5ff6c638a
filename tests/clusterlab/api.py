"""The Kubernetes API as the tests use it: paths in, plain dicts out.

The official client reads the kubeconfig and owns TLS and connections; its models are left out, because tests must see
exactly what the server sent, unknown fields and absent ones included.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlencode

import urllib3
from kubernetes import client, config

Object = dict[str, Any]

MERGE_PATCH = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"


class ApiError(Exception):
    """The server refused; carries what its Status object said. `status` is 0 when no answer came."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message


class Api:
    """A connection pool to one API server under one identity. Safe to use from several threads."""

    def __init__(self, kubeconfig: Path, *, connections: int = 16) -> None:
        settings = client.Configuration()
        settings.connection_pool_maxsize = connections
        load: Callable[..., None] = config.load_kube_config  # the client's kubeconfig reader has no types
        load(config_file=str(kubeconfig), client_configuration=settings)
        # A request that failed for want of a connection is for the caller to repeat: tests of restarts count them.
        settings.retries = urllib3.Retry(0)
        self._client = client.ApiClient(settings)
        self._pool: urllib3.PoolManager = self._client.rest_client.pool_manager
        self._settings = settings

    @property
    def server(self) -> str:
        """Base URL of the API server."""
        return str(self._settings.host)

    def request(
        self,
        method: str,
        path: str,
        body: object | None = None,
        *,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
        timeout_seconds: float = 30.0,
    ) -> Object:
        """One request. Raises ApiError for every status of 400 or more, and with status 0 when no answer came."""
        response = self._send(method, path, body, query or {}, content_type, timeout_seconds, preload=True)
        return _decoded(response.data) if response.data else {}

    def raw(self, path: str, query: Mapping[str, str] | None = None) -> str:
        """The text of a path that does not answer JSON (/metrics, a pod's log). Raises ApiError."""
        return self._send("GET", path, None, query or {}, "", 30.0, preload=True).data.decode()

    def get(self, path: str) -> Object:
        """Raises ApiError."""
        return self.request("GET", path)

    def find(self, path: str) -> Object | None:
        """The object, or None where there is none. Raises ApiError for every other refusal."""
        try:
            return self.get(path)
        except ApiError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return None
            raise

    def list(self, path: str, *, labels: str = "", fields: str = "") -> list[Object]:
        """All objects below a collection's path; the server's own paging is left off."""
        query = {key: value for key, value in (("labelSelector", labels), ("fieldSelector", fields)) if value}
        items: list[Object] = self.request("GET", path, query=query).get("items", [])
        return items

    def create(self, path: str, body: Object) -> Object:
        """POST to a collection. Raises ApiError."""
        return self.request("POST", path, body)

    def replace(self, path: str, body: Object) -> Object:
        """PUT. Raises ApiError."""
        return self.request("PUT", path, body)

    def patch(self, path: str, body: object, content_type: str = MERGE_PATCH) -> Object:
        """PATCH, a JSON merge patch unless said otherwise. Raises ApiError."""
        return self.request("PATCH", path, body, content_type=content_type)

    def apply(self, path: str, body: Object, manager: str = "clusterlab") -> Object:
        """Server-side apply: makes the object or brings it to `body`. Raises ApiError."""
        query = {"fieldManager": manager, "force": "true"}
        return self.request("PATCH", path, body, query=query, content_type=APPLY_PATCH)

    def delete(self, path: str, *, grace_seconds: int | None = None, propagation: str = "Background") -> None:
        """DELETE; an object that is not there is fine. Raises ApiError for every other refusal."""
        options: Object = {"propagationPolicy": propagation}
        if grace_seconds is not None:
            options["gracePeriodSeconds"] = grace_seconds
        try:
            self.request("DELETE", path, options)
        except ApiError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise

    def watch(
        self, path: str, *, version: str, labels: str = "", timeout_seconds: int = 300
    ) -> Iterator[tuple[str, Object]]:
        """(event type, object) after resource version `version`, until the server ends the watch or it breaks.

        Raises ApiError(410) when `version` is too old: list again. BOOKMARK events are passed on.
        """
        query = {
            "watch": "true",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(timeout_seconds),
        }
        if labels:
            query["labelSelector"] = labels
        response = self._send("GET", path, None, query, "", timeout_seconds + 5.0, preload=False)
        try:
            rest = b""
            for chunk in response.stream(65_536, decode_content=True):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    event = _decoded(line)
                    if event["type"] == "ERROR":
                        raise _refusal(int(event["object"].get("code", 500)), event["object"])
                    yield event["type"], event["object"]
        except (urllib3.exceptions.HTTPError, OSError):
            return  # a broken watch is an ended watch: the caller lists again either way
        finally:
            # Not released to the pool: an unfinished stream would poison the next request on this connection.
            response.close()

    def wait(
        self, question: Callable[[], Any], what: str, *, timeout_seconds: float = 30.0, every_seconds: float = 0.05
    ) -> Any:
        """The first true answer of `question()`, which may raise ApiError while the server is away.

        Raises TimeoutError with `what` and the last answer.
        """
        deadline = time.monotonic() + timeout_seconds
        while True:
            answer: Any
            try:
                answer = question()
            except ApiError as error:
                answer = error
            if answer and not isinstance(answer, ApiError):
                return answer
            if time.monotonic() > deadline:
                raise TimeoutError(f"not within {timeout_seconds:.0f} s: {what} (last answer: {str(answer)[:800]})")
            time.sleep(every_seconds)

    def close(self) -> None:
        """Closes idle connections."""
        self._pool.clear()

    def _send(
        self,
        method: str,
        path: str,
        body: object | None,
        query: Mapping[str, str],
        content_type: str,
        timeout_seconds: float,
        *,
        preload: bool,
    ) -> urllib3.BaseHTTPResponse:
        headers = {"User-Agent": "clusterlab"}
        for setting in cast("dict[str, dict[str, str]]", self._settings.auth_settings()).values():
            headers[setting["key"]] = setting["value"]
        if body is not None:
            headers["Content-Type"] = content_type
        try:
            response = self._pool.request(
                method,
                self.server + path + (f"?{urlencode(query)}" if query else ""),
                body=None if body is None else json.dumps(body).encode(),
                headers=headers,
                timeout=urllib3.Timeout(connect=5.0, read=timeout_seconds),
                preload_content=preload,
            )
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise ApiError(0, "NoAnswer", f"{method} {path}: {error}") from error
        if response.status >= HTTPStatus.BAD_REQUEST:
            raise _refusal(response.status, _decoded(response.data))
        return response


def _decoded(data: bytes) -> Object:
    try:
        value = json.loads(data)
    except ValueError:
        return {"message": data.decode(errors="replace")}
    return value if isinstance(value, dict) else {"value": value}


def _refusal(status: int, answer: Object) -> ApiError:
    return ApiError(status, str(answer.get("reason", "")), str(answer.get("message", answer)))
