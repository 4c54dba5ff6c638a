"""The repositories of runs, served read-only by git's own HTTP backend.

    git clone http://<service>/<namespace>/<name>.git

git does the talking (`git http-backend`, one process a request); this application decides what may be asked, carries
bytes both ways without keeping them, and ends a process whose client is gone. Repositories are served when they have
git's mark for it, the file `git-daemon-export-ok`. Nothing is listed: names of runs are their owners' business.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import signal
from pathlib import Path

from aiohttp import web

logger = logging.getLogger(__name__)

CHUNK = 64 * 1024
REPOSITORY = r"/{namespace:[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?}/{name:[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?}.git"
QUEUE_SECONDS = 30.0
"""How long a request waits for its turn before it is told to come back."""
LOOK_SECONDS = 1.0
"""How often a client that hears nothing is looked after: counting objects can take git a while."""
_PROTOCOL = re.compile(r"[A-Za-z0-9:=._-]{1,100}")
_SETTINGS = {
    "http.receivepack": "false",
    "http.getanyfile": "false",
    # Where a server's refs are noted while they are compared; not part of the run.
    "uploadpack.hideRefs": "refs/remote",
    # A clone without old files (`--filter=blob:none`) spares both sides.
    "uploadpack.allowFilter": "true",
    "core.hooksPath": "/dev/null",
    "gc.auto": "0",
    # One clone must not take the operator's memory or both of its cores.
    "pack.threads": "1",
    "pack.windowMemory": "64m",
    "pack.deltaCacheSize": "16m",
    # The volume may have been written under another numeric user before a reinstallation.
    "safe.directory": "*",
}


def application(
    root: Path, *, concurrency: int = 16, request_seconds: float = 600.0, body_bytes: int = 16 << 20
) -> web.Application:
    """An application that serves `<root>/<namespace>/<name>.git` for cloning and fetching.

    `concurrency`: git processes at a time. `request_seconds`: what a request may take from its turn to its last byte.
    `body_bytes`: size of a request, which lists the commits that a client has; 16 MiB are 300,000 of them.
    """
    server = _Server(root, concurrency, request_seconds, body_bytes)
    app = web.Application()
    app.router.add_get(REPOSITORY + "/info/refs", server.refs)
    app.router.add_post(REPOSITORY + "/git-upload-pack", server.upload_pack)
    app.router.add_route("*", REPOSITORY + "/git-receive-pack", _refuse_push)
    app.router.add_route("*", "/{anything:.*}", _nothing)
    return app


async def _refuse_push(_: web.Request) -> web.Response:
    return web.Response(
        status=403,
        text="This repository is read-only: the operator keeps the run's record in it. Push to a repository of your "
        "own and name it in spec.source.url.\n",
    )


async def _nothing(_: web.Request) -> web.Response:
    return web.Response(status=404, text="Nothing is here. Clone a run with: git clone <this>/<namespace>/<run>.git\n")


class _Server:
    def __init__(self, root: Path, concurrency: int, request_seconds: float, body_bytes: int) -> None:
        self._root = root.absolute()
        self._turns = asyncio.Semaphore(concurrency)
        self._request_seconds = request_seconds
        self._body_bytes = body_bytes

    async def refs(self, request: web.Request) -> web.StreamResponse:
        match request.query_string:
            case "service=git-upload-pack":
                return await self._answer(request, "info/refs")
            case "service=git-receive-pack":
                return await _refuse_push(request)
            case _:
                return web.Response(status=403, text="Only git's smart protocol is spoken here: clone with git.\n")

    async def upload_pack(self, request: web.Request) -> web.StreamResponse:
        if request.content_type != "application/x-git-upload-pack-request":
            return web.Response(status=415, text="This is not what `git fetch` sends.\n")
        return await self._answer(request, "git-upload-pack")

    async def _answer(self, request: web.Request, service: str) -> web.StreamResponse:
        try:
            await asyncio.wait_for(self._turns.acquire(), QUEUE_SECONDS)
        except TimeoutError:
            return web.Response(
                status=503, headers={"Retry-After": "30"}, text="Too many clones at this moment: try again.\n"
            )
        try:
            exchange = _Exchange(request, self._body_bytes)
            try:
                async with asyncio.timeout(self._request_seconds):
                    return await exchange.run(self._environment(request, service))
            except TimeoutError:
                logger.warning("a git request took over %.0f s and was ended", self._request_seconds)
                return exchange.cut(504, "This took too long and was ended: try again, or clone with --depth 1.\n")
        finally:
            self._turns.release()

    def _environment(self, request: web.Request, service: str) -> dict[str, str]:
        """Nothing of the operator's own environment but the path: it may hold more than a git process should see."""
        repository = f"{request.match_info['namespace']}/{request.match_info['name']}.git"
        variables = {
            "PATH": os.environ.get("PATH", os.defpath),
            "GIT_PROJECT_ROOT": str(self._root),
            "PATH_INFO": f"/{repository}/{service}",
            "QUERY_STRING": request.query_string if service == "info/refs" else "",
            "REQUEST_METHOD": request.method,
            "CONTENT_TYPE": request.content_type if request.method == "POST" else "",
            "REMOTE_ADDR": request.remote or "",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_NO_REPLACE_OBJECTS": "1",
            "GIT_CONFIG_COUNT": str(len(_SETTINGS)),
            "TZ": "UTC",
        }
        protocol = request.headers.get("Git-Protocol", "")
        if _PROTOCOL.fullmatch(protocol):
            variables["GIT_PROTOCOL"] = protocol
        for index, (key, value) in enumerate(_SETTINGS.items()):
            variables[f"GIT_CONFIG_KEY_{index}"] = key
            variables[f"GIT_CONFIG_VALUE_{index}"] = value
        return variables


class _TooLarge(Exception):
    """The request's body is over the limit."""


class _Exchange:
    """One request carried to one git process and its answer back."""

    def __init__(self, request: web.Request, body_bytes: int) -> None:
        self._request = request
        self._body_bytes = body_bytes
        self._response: web.StreamResponse | None = None

    def cut(self, status: int, text: str) -> web.StreamResponse:
        """The answer after something went wrong: a clean one, or the connection ends so that nobody takes the part that
        was sent for the whole."""
        if self._response is None:
            return web.Response(status=status, text=text)
        if self._request.transport is not None:
            self._request.transport.abort()
        return self._response

    async def run(self, environment: dict[str, str]) -> web.StreamResponse:
        first = await self._request.content.readany() if self._request.can_read_body else b""
        # The server under us may have unpacked the body already; a git request begins with a hexadecimal length.
        if first.startswith(b"\x1f\x8b"):
            environment = environment | {"HTTP_CONTENT_ENCODING": "gzip"}
        process = await asyncio.create_subprocess_exec(
            "git", "http-backend", env=environment, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        tasks: list[asyncio.Task[None]] = []
        try:
            tasks = [asyncio.create_task(self._feed(process, first)), asyncio.create_task(_log(process))]
            answering = asyncio.create_task(self._carry(process))
            tasks.append(answering)
            return await self._watch(answering, tasks[0])
        finally:
            # Also when we are cancelled, timed out, or the client went away.
            for task in tasks:
                task.cancel()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await asyncio.gather(*tasks, return_exceptions=True)
            await process.wait()

    async def _watch(self, answering: asyncio.Task[None], feeding: asyncio.Task[None]) -> web.StreamResponse:
        while True:
            await asyncio.wait({answering, feeding}, timeout=LOOK_SECONDS, return_when=asyncio.FIRST_EXCEPTION)
            if feeding.done() and isinstance(feeding.exception(), _TooLarge):
                return self.cut(413, f"The request is over {self._body_bytes >> 20} MiB.\n")
            if answering.done():
                try:
                    answering.result()
                except (ConnectionError, _Broken) as error:
                    logger.info("a git request was not answered in full: %s", error)
                    return self.cut(500, "git gave no answer.\n")
                return self._response or web.Response(status=500, text="git gave no answer.\n")
            transport = self._request.transport
            if transport is None or transport.is_closing():
                return self.cut(499, "")

    async def _feed(self, process: asyncio.subprocess.Process, first: bytes) -> None:
        """The request's body to git's standard input."""
        stdin, size, chunk = process.stdin, 0, first
        if stdin is None:
            return
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # git has read what it wanted
            while chunk:
                size += len(chunk)
                if size > self._body_bytes:
                    raise _TooLarge
                stdin.write(chunk)
                await stdin.drain()
                chunk = await self._request.content.readany()
            stdin.close()

    async def _carry(self, process: asyncio.subprocess.Process) -> None:
        """git's answer to the client: a head like that of HTTP, then the body."""
        out = process.stdout
        if out is None:
            return
        try:
            head = await out.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            raise _Broken("git http-backend wrote no head") from None
        status, headers = 200, {}
        for row in head.decode("latin-1").split("\r\n"):
            name, _, value = row.partition(": ")
            if name.lower() == "status":
                status = int(value.split(" ")[0])
            elif name:
                headers[name] = value
        response = web.StreamResponse(status=status, headers=headers)
        await response.prepare(self._request)
        self._response = response
        while chunk := await out.read(CHUNK):
            await response.write(chunk)
        if await process.wait() != 0:
            raise _Broken(f"git http-backend ended with code {process.returncode}")
        await response.write_eof()


class _Broken(Exception):
    """git did not answer as it should."""


async def _log(process: asyncio.subprocess.Process) -> None:
    """What git complains about, one line each; a line that is too long for a log is cut by the reader's limit."""
    if process.stderr is None:
        return
    while text := await process.stderr.read(CHUNK):
        for line in text.decode("utf-8", "replace").splitlines():
            logger.info("git http-backend: %s", line[:300])
