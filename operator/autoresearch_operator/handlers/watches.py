"""Registrations with kopf: which objects wake the operator. Nothing is decided here.

Only low-level handlers are used. kopf's own state machines (handlers of creation, update and deletion, daemons, timers)
write finalizers and annotations on objects, and then a namespace cannot be deleted while the operator is down.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from typing import Any, Final

import kopf

from autoresearch_operator.gateways.kube_kinds import KINDS
from autoresearch_operator.gateways.kube_login import login
from autoresearch_operator.handlers.view import LABELLED, RUN_LABEL, WATCHED, View, version_of

logger = logging.getLogger(__name__)

RECONNECT_SECONDS: Final = 1.0
ATTEMPTS: Final = 600


class _Nothing(kopf.DiffBaseStorage):
    """Keeps no last-handled state: only kopf's high-level handlers want one. Without this every event is copied twice
    in depth, half of what an event costs."""

    def build(self, *, body: kopf.Body, extra_fields: Iterable[Any] | None = None) -> kopf.BodyEssence:
        del body, extra_fields
        return kopf.BodyEssence()

    def fetch(self, *, body: kopf.Body) -> kopf.BodyEssence | None:
        del body
        return None

    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: kopf.BodyEssence) -> None:
        """Stores nothing."""


def kopf_settings() -> kopf.OperatorSettings:
    """kopf's settings; what is not set here is kopf's default."""
    settings = kopf.OperatorSettings()
    # Nothing but our own gateway writes to the cluster: no events from log lines, no peering objects, no state.
    settings.posting.enabled = False
    settings.peering.standalone = True
    settings.persistence.diffbase_storage = _Nothing()
    settings.persistence.progress_storage = kopf.StatusProgressStorage()
    # Without it kopf wants to list all namespaces and CRDs of the cluster. We check for the CRDs ourselves.
    settings.scanning.disabled = True
    # Bookmarks come every minute: a stream that is silent for longer is dead, whatever TCP thinks.
    settings.watching.inactivity_timeout = 70
    # Belt and braces: no stream lives longer than 10 minutes. Continuing one costs a request and no list.
    settings.watching.server_timeout = 600
    settings.watching.chunk_size = 250
    settings.networking.request_timeout = 60
    settings.networking.connect_timeout = 5
    # An API server that restarts is back in seconds: look each second, for ten minutes, before a watch gives up and
    # ends the process. kopf's own backoffs grow to 21 s, in which trials would end unseen and GPUs idle.
    settings.networking.error_backoffs = [RECONNECT_SECONDS] * ATTEMPTS
    # One task per object that has news, kept for this long afterwards. Ours take microseconds.
    settings.queueing.idle_timeout = 0.2
    # Shutting down is our own business: we leave within 10 s.
    settings.queueing.exit_timeout = 0.2
    settings.process.ultimate_exiting_timeout = None
    for plural in LABELLED:
        if plural in WATCHED:
            kind = KINDS[plural]
            settings.watching.label_selectors[kind.group, kind.version, kind.plural] = RUN_LABEL
    return settings


def register(view: View) -> kopf.OperatorRegistry:
    """A registry whose handlers feed the view."""
    registry = kopf.OperatorRegistry()

    async def log_in(**_: Any) -> kopf.ConnectionInfo:
        return await _connection()

    kopf.on.login(registry=registry)(log_in)
    for plural in WATCHED:
        kind = KINDS[plural]
        handler = _teller(plural, view)
        kopf.on.event(kind.group, kind.version, kind.plural, registry=registry, id=f"tell-{plural}")(handler)
    return registry


def _teller(kind: str, view: View) -> Any:
    async def told(event: Mapping[str, Any], **_: Any) -> None:
        obj = event["object"]
        if event["type"] == "DELETED":
            metadata = obj["metadata"]
            view.drop(kind, metadata["namespace"], metadata["name"], metadata["uid"], version_of(obj))
        else:
            view.put(kind, obj)

    return told


async def _connection() -> kopf.ConnectionInfo:
    """The gateway's own way into the cluster, in kopf's words; asked for again when the API server answers 401."""
    configuration = await login()
    header = await configuration.get_api_key_with_prefix("BearerToken", alias="authorization")
    scheme, _, token = (header or "").partition(" ")
    return kopf.ConnectionInfo(
        server=configuration.host,
        ca_path=configuration.ssl_ca_cert,
        insecure=not configuration.verify_ssl,
        scheme=scheme if token else None,
        token=token or None,
        certificate_path=configuration.cert_file,
        private_key_path=configuration.key_file,
        proxy_url=configuration.proxy,
    )


class Watches:
    """kopf, embedded: its watches run from `start` to `stop`; `ended` says why when they end by themselves."""

    def __init__(self, view: View, namespaces: tuple[str, ...] | None) -> None:
        """`namespaces` None: all of the cluster."""
        self._view = view
        self._namespaces = namespaces
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Starts watching; the first lists come in the background. kopf takes SIGTERM and SIGINT of the loop for
        itself: set handlers of one's own after this."""
        self._tasks = list(
            await kopf.spawn_tasks(
                registry=register(self._view),
                settings=kopf_settings(),
                standalone=True,
                clusterwide=self._namespaces is None,
                namespaces=self._namespaces or (),
            )
        )

    async def ended(self) -> None:
        """Returns or raises when one of kopf's tasks ended by itself: they run for ever, but for a fault that they
        cannot mend."""
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()

    async def stop(self) -> None:
        # Not kopf.run_tasks: in the end that waits for, and cancels, every task of the event loop, ours too.
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=2)
