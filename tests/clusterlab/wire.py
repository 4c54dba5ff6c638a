"""A wire to the API server that a test can cut: what the network between an operator and its cluster does.

It forwards bytes and does not look into them (TLS stays end to end), so every client works over it unchanged.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import yaml

from clusterlab.cluster import Cluster


class Wire:
    """A TCP forwarder on the loopback in front of a cluster's API server.

    with Wire(cluster) as wire:
        start_operator(wire.kubeconfig_like(cluster.kubeconfig))
        wire.cut()        # every open connection breaks, watches included; new ones are taken
        wire.unplug()     # nothing gets through, nothing is refused: bytes just stop
        wire.plug_in()
    """

    def __init__(self, cluster: Cluster) -> None:
        target = urlsplit(cluster.api.server)
        self._host, self._port = target.hostname or "127.0.0.1", target.port or 443
        self._folder = cluster.folder
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="wire", daemon=True)
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._plugged = asyncio.Event()
        self.connections = 0
        """Connections taken so far."""

    @property
    def port(self) -> int:
        """The port on 127.0.0.1. Raises RuntimeError outside `with`."""
        if self._server is None:
            raise RuntimeError("the wire is not there yet: use it in a `with`")
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def kubeconfig_like(self, kubeconfig: Path) -> Path:
        """The same identity over this wire. The server's certificate must be good for the address it had before."""
        document = yaml.safe_load(kubeconfig.read_text())
        for entry in document["clusters"]:
            entry["cluster"]["server"] = f"https://127.0.0.1:{self.port}"
            # Verified against the name the server has, not against the wire's address.
            entry["cluster"]["tls-server-name"] = self._host
        path = self._folder / f"{kubeconfig.name}-over-{self.port}"
        path.write_text(yaml.safe_dump(document))
        path.chmod(0o600)
        return path

    def cut(self) -> int:
        """Breaks every open connection (TCP reset); returns how many clients had one."""
        return asyncio.run_coroutine_threadsafe(self._cut(), self._loop).result(10)

    def unplug(self) -> None:
        """Bytes stop in both directions; connections stay open, new ones are taken and stay silent."""
        self._loop.call_soon_threadsafe(self._plugged.clear)

    def plug_in(self) -> None:
        """Bytes flow again, those that waited first."""
        self._loop.call_soon_threadsafe(self._plugged.set)

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _listen(self) -> None:
        self._plugged.set()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)

    async def _close(self) -> None:
        assert self._server is not None
        self._server.close()
        self._plugged.set()
        await self._cut()
        # Aborted streams read as ended, so their tasks end by themselves.
        await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}), return_exceptions=True)

    async def _cut(self) -> int:
        writers = list(self._open)
        for writer in writers:
            writer.transport.abort()
        return len(writers) // 2

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            there, back = await asyncio.open_connection(self._host, self._port)
        except OSError:
            writer.transport.abort()  # the API server is away: the client sees what it would see without us
            return
        self._open |= {writer, back}
        try:
            await asyncio.gather(self._forward(reader, back), self._forward(there, writer))
        finally:
            self._open -= {writer, back}

    async def _forward(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65_536):
                await self._plugged.wait()
                sink.write(data)
                await sink.drain()
        with contextlib.suppress(OSError):
            sink.close()
