"""A lab's git servers as the operator meets them: OpenSSH, TLS with passwords, and our own for everybody else."""

from __future__ import annotations

import asyncio
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from aiohttp import web
from autoresearch_operator.api.reasons import BranchUpdatedReason, ReadyReason
from autoresearch_operator.cluster.repositories import NotReady, Repositories
from autoresearch_operator.gateways.githttp import application
from clusterlab.fixtures import missing
from gitservers import SshServer, http_server, ssh_server, sshd
from runrepositories import Store, land, repositories, run_of, secret, spec_of

BRANCH = "refs/heads/autoresearch/default-first"
LEDGER = "refs/autoresearch/default-first/ledger"
KEY = ("default", "lab-git")


@pytest.fixture
def ssh(tmp_path: Path) -> Iterator[SshServer]:
    if sshd() is None:
        missing("openssh-server is missing: apt-get install openssh-server")
    with ssh_server(tmp_path / "ssh") as server:
        yield server


def with_key(server: SshServer, **changed: str) -> Store:
    store = Store()
    parts = {"ssh_privatekey": server.key.read_text(), "known_hosts": server.known_hosts} | changed
    store[KEY] = secret("kubernetes.io/ssh-auth", f"127.0.0.1:{server.port}", **parts)
    return store


def test_a_run_over_ssh_is_cloned_pushed_and_follows_a_rotated_key(ssh: SshServer, tmp_path: Path) -> None:
    store = with_key(ssh)
    spec = spec_of(source={"url": ssh.url, "ref": "main", "secretName": "lab-git"})
    opened = repositories(tmp_path / "r", store).open(run_of(), spec)
    land(opened, "LR = 1\n")
    assert opened.publish(0.0).ok
    assert ssh.refs()[BRANCH] == opened.repository.resolve(BRANCH)
    assert ssh.refs()[LEDGER] == opened.repository.resolve(LEDGER)
    other = tmp_path / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(other)], check=True)
    (ssh.key.parent / "authorized").write_text(other.with_suffix(".pub").read_text())
    land(opened, "LR = 2\n")
    state = opened.publish(100.0)
    assert state.reason is BranchUpdatedReason.CREDENTIALS_REJECTED
    assert "OPENSSH" not in state.message
    store.update(with_key(ssh, ssh_privatekey=other.read_text()))
    assert opened.publish(160.0).ok
    assert ssh.refs()[BRANCH] == opened.repository.resolve(BRANCH)


def test_a_server_whose_key_is_not_in_known_hosts_is_not_talked_to(ssh: SshServer, tmp_path: Path) -> None:
    stranger = tmp_path / "stranger"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(stranger)], check=True)
    kind, key = stranger.with_suffix(".pub").read_text().split()[:2]
    spec = spec_of(source={"url": ssh.url, "ref": "main", "secretName": "lab-git"})
    store = with_key(ssh, known_hosts=f"[127.0.0.1]:{ssh.port} {kind} {key}\n")
    with pytest.raises(NotReady) as refused:
        repositories(tmp_path / "r", store).open(run_of(), spec)
    assert refused.value.reason is ReadyReason.CREDENTIALS_REJECTED
    assert "Host key verification failed" in str(refused.value)
    store[KEY] = secret("kubernetes.io/ssh-auth", "127.0.0.1", ssh_privatekey="k", known_hosts="k")
    with pytest.raises(NotReady, match=rf"leads to 127\.0\.0\.1:{ssh.port}") as refused:
        repositories(tmp_path / "r", store).open(run_of(), spec)
    assert refused.value.reason is ReadyReason.SECRET_NOT_ALLOWED


def test_a_labs_own_authority_can_be_in_the_secret(tmp_path: Path) -> None:
    with http_server(tmp_path, tls=True) as server:
        server.password = "pass-word"  # noqa: S105 - of a server that lives for this test
        assert server.ca is not None
        store = Store()
        spec = spec_of(source={"url": server.url, "ref": "main", "secretName": "lab-git"})
        host = f"127.0.0.1:{server.port}"
        store[KEY] = secret("kubernetes.io/basic-auth", host, username="me", word="pass-word")
        with pytest.raises(NotReady) as refused:
            repositories(tmp_path / "r", store).open(run_of(), spec)
        assert refused.value.reason is ReadyReason.GIT_UNAVAILABLE
        assert "certificate" in str(refused.value)
        store[KEY] = secret("kubernetes.io/basic-auth", host, username="me", word="pass-word", ca=server.ca.read_text())
        opened = repositories(tmp_path / "r", store).open(run_of(), spec)
        land(opened, "LR = 1\n")
        assert opened.publish(0.0).ok
        marked = [
            path for path in opened.repository.path.rglob("*") if path.is_file() and b"pass-word" in path.read_bytes()
        ]
        assert marked == []


@contextmanager
def served(root: Path) -> Iterator[str]:
    """Our own server on a free port, in a loop of its own."""
    loop, ready, where = asyncio.new_event_loop(), threading.Event(), []

    async def start() -> web.AppRunner:
        runner = web.AppRunner(application(root))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        where.append(runner.addresses[0][1])
        ready.set()
        return runner

    def work() -> None:
        runner = loop.run_until_complete(start())
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    assert ready.wait(20)
    yield f"http://127.0.0.1:{where[0]}"
    loop.call_soon_threadsafe(loop.stop)
    thread.join(20)


def test_a_run_without_a_server_is_cloned_from_ours_with_its_branch_and_record(tmp_path: Path) -> None:
    with served(tmp_path / "r") as url:
        opened = Repositories(tmp_path / "r", secrets=Store(), served_at=url).open(run_of(), spec_of())
        records = land(opened, "LR = 1\n")
        clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        command = [*opened.publish(0.0).message.split(), "-q", str(tmp_path / "clone")]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=clean)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "clone" / "train.py").read_text() == "LR = 1\n"
        git = ["git", "-C", str(tmp_path / "clone")]
        assert subprocess.check_output([*git, "rev-parse", "HEAD"], text=True).strip() == records[1].landed_commit
        subprocess.run([*git, "fetch", "-q", "origin", LEDGER], check=True, env=clean)
        rows = subprocess.check_output([*git, "show", "FETCH_HEAD:experiments/00000.tsv"], text=True)
        assert records[1].commit in rows
