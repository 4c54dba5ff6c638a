"""Runs' repositories over HTTP, with real git on both ends: cloned by anyone who knows the name, never pushed to."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from autoresearch_operator.gateways import githttp
from autoresearch_operator.gateways.git import Change, Repository

BRANCH = "refs/heads/autoresearch/default-first"
LEDGER = "refs/autoresearch/default-first/ledger"


@contextmanager
def served(root: Path, **limits: object) -> Iterator[str]:
    """The application on a free port, in a loop of its own; gives its URL."""
    ready, loop = threading.Event(), asyncio.new_event_loop()
    where: list[int] = []

    async def start() -> web.AppRunner:
        runner = web.AppRunner(githttp.application(root, **limits))  # type: ignore[arg-type]
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        where.append(runner.addresses[0][1])
        ready.set()
        return runner

    def work() -> None:
        runner = loop.run_until_complete(start())
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())
        loop.close()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    assert ready.wait(20)
    try:
        yield f"http://127.0.0.1:{where[0]}"
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(20)


def git(*args: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return subprocess.run(
        ["git", "-c", "protocol.version=2", *args], cwd=cwd, capture_output=True, text=True, check=False, timeout=120,
        env=clean | {"GIT_TERMINAL_PROMPT": "0", "GIT_CONFIG_GLOBAL": "/dev/null"},
    )  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "repositories"
    repository = Repository.create(
        folder / "default" / "first.git", {"train.py": b"LR = 1\n"}, branch_ref=BRANCH, message="one\n", when=1
    )
    head = repository.resolve(BRANCH)
    for number in range(20):
        new, _ = repository.write_candidate(head, {"train.py": f"LR = {number}\n".encode()}, f"{number}\n", number)
        assert repository.update([Change(BRANCH, head, new)]).ok
        head = new
    assert repository.update([Change(LEDGER, None, head), Change("refs/remote/seen/x", None, head)]).ok
    repository.close()
    (folder / "default" / "first.git" / "git-daemon-export-ok").touch()
    return folder


def test_a_clone_has_the_branch_checked_out_and_the_ledger_can_be_fetched(root: Path, tmp_path: Path) -> None:
    with served(root) as url:
        done = git("clone", "-q", f"{url}/default/first.git", str(tmp_path / "clone"))
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "clone" / "train.py").read_text() == "LR = 19\n"
        fetched = git("fetch", "-q", "origin", f"{LEDGER}:refs/heads/ledger", cwd=tmp_path / "clone")
        assert fetched.returncode == 0, fetched.stderr
        names = git("ls-remote", f"{url}/default/first.git").stdout
    assert LEDGER in names
    assert "refs/remote" not in names


def test_shallow_filtered_and_old_protocol_clones_work(root: Path, tmp_path: Path) -> None:
    with served(root) as url:
        for index, extra in enumerate((["--depth=1"], ["--filter=blob:none"])):
            done = git("clone", "-q", *extra, f"{url}/default/first.git", str(tmp_path / str(index)))
            assert done.returncode == 0, done.stderr
        assert git("rev-list", "--count", "HEAD", cwd=tmp_path / "0").stdout.strip() == "1"
        old = git("-c", "protocol.version=0", "clone", "-q", f"{url}/default/first.git", str(tmp_path / "old"))
        assert old.returncode == 0, old.stderr


def test_a_push_is_refused_with_a_sentence(root: Path, tmp_path: Path) -> None:
    before = Repository.open(root / "default" / "first.git").refs()
    with served(root) as url:
        assert git("clone", "-q", f"{url}/default/first.git", str(tmp_path / "clone")).returncode == 0
        pushed = git("push", "origin", "HEAD:refs/heads/mine", cwd=tmp_path / "clone")
        assert pushed.returncode != 0
        assert "403" in pushed.stderr
        status, text = asyncio.run(_post(f"{url}/default/first.git/git-receive-pack", b"0000"))
    assert (status, "read-only" in text) == (403, True)
    assert Repository.open(root / "default" / "first.git").refs() == before


async def _post(url: str, body: bytes, **headers: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.post(url, data=body, headers=headers) as answer:
        return answer.status, await answer.text(errors="replace")


async def _get(url: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return answer.status, await answer.text(errors="replace")


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/default",
        "/default/other.git/info/refs?service=git-upload-pack",
        "/default/hidden.git/info/refs?service=git-upload-pack",
        "/default/first.git/HEAD",
        "/default/first.git/objects/info/packs",
        "/default/first.git/../../secret.git/info/refs?service=git-upload-pack",
        "/default/%2e%2e%2fsecret.git/info/refs?service=git-upload-pack",
        "/default/.first.making/info/refs?service=git-upload-pack",
    ],
)
def test_nothing_else_is_answered_and_no_name_is_told(root: Path, path: str) -> None:
    Repository.init(root / "default" / "hidden.git").close()
    Repository.init(root.parent / "secret.git").close()
    with served(root) as url:
        status, text = asyncio.run(_get(url + path))
    assert status == 404
    assert "first" not in text


def test_a_gzipped_request_is_understood(root: Path) -> None:
    head = Repository.open(root / "default" / "first.git").resolve(BRANCH)
    rows = ["command=fetch", None, f"want {head}\n", "done\n"]
    body = "".join("0001" if row is None else f"{len(row) + 4:04x}{row}" for row in rows) + "0000"
    headers = {
        "Content-Type": "application/x-git-upload-pack-request",
        "Content-Encoding": "gzip",
        "Git-Protocol": "version=2",
    }
    with served(root) as url:
        status, text = asyncio.run(
            _post(f"{url}/default/first.git/git-upload-pack", gzip.compress(body.encode()), **headers)
        )
    assert status == 200
    assert "packfile" in text


def test_twenty_clones_at_once_all_arrive(root: Path, tmp_path: Path) -> None:
    with served(root, concurrency=4) as url, ThreadPoolExecutor(20) as pool:
        done = list(
            pool.map(lambda n: git("clone", "-q", f"{url}/default/first.git", str(tmp_path / f"c{n}")), range(20))
        )
    assert [item.stderr for item in done if item.returncode] == []


def test_a_request_that_is_too_large_or_takes_too_long_is_ended(root: Path) -> None:
    kind = {"Content-Type": "application/x-git-upload-pack-request"}
    with served(root, body_bytes=1000) as url:
        status, _ = asyncio.run(_post(f"{url}/default/first.git/git-upload-pack", b"0" * 5000, **kind))
        assert status == 413
    with served(root, request_seconds=0.5) as url:
        _hang(url, wait=True)


def test_a_client_that_leaves_takes_its_git_along(root: Path) -> None:
    with served(root, concurrency=1) as url:
        _hang(url, wait=False)
        status, _ = asyncio.run(_get(f"{url}/default/first.git/info/refs?service=git-upload-pack"))
        assert status == 200


def test_too_many_requests_are_told_to_come_back(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(githttp, "QUEUE_SECONDS", 0.2)
    with served(root, concurrency=0) as url:
        status, text = asyncio.run(_get(f"{url}/default/first.git/info/refs?service=git-upload-pack"))
    assert status == 503
    assert "try again" in text


def _hang(url: str, *, wait: bool) -> None:
    """Begins a fetch whose body never ends, and waits until the server gives up or leaves at once."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(
            b"POST /default/first.git/git-upload-pack HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n"
            b"Content-Type: application/x-git-upload-pack-request\r\n\r\n0014command=ls-refs\n"
        )
        with contextlib.suppress(ConnectionResetError):
            while wait and connection.recv(4096):
                pass
