"""A real git server over HTTP, with the faults that servers have."""

from __future__ import annotations

import base64
import os
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

BRANCH = "refs/heads/autoresearch/default-first"
LEDGER = "refs/autoresearch/default-first"


@dataclass
class GitServer:
    """`git http-backend` on a port of this machine; faults are switched on by the test."""

    root: Path
    password: str | None = None
    drop_answers: int = 0
    """Pushes that are applied, and then the connection closes without an answer."""
    broken: bool = False
    """Every request is answered with 502."""
    port: int = 0
    pushes: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/lab/research.git"

    @property
    def path(self) -> Path:
        return self.root / "lab" / "research.git"

    def git(self, *args: str) -> str:
        done = subprocess.run(["git", "-C", str(self.path), *args], capture_output=True, check=True, text=True)
        return done.stdout.strip()

    def refs(self) -> dict[str, str]:
        rows = self.git("for-each-ref", "--format=%(refname) %(objectname)").splitlines()
        return dict(row.split(" ", 1) for row in rows)

    def hook(self, name: str, script: str) -> None:
        path = self.path / "hooks" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)


def _handler(server: GitServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Quiet: a test's output is its own."""

        def do_GET(self) -> None:
            self.answer()

        def do_POST(self) -> None:
            self.answer()

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Transfer-Encoding") == "chunked":
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
            if server.broken:
                self.send_error(502)
                return
            if server.password is not None:
                expected = base64.b64encode(f"me:{server.password}".encode()).decode()
                if self.headers.get("Authorization") != f"Basic {expected}":
                    self.send_response(401)
                    self.send_header("WWW-Authenticate", 'Basic realm="git"')
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
            path, _, query = self.path.partition("?")
            push = self.command == "POST" and path.endswith("git-receive-pack")
            environment = {
                "PATH": os.environ["PATH"],
                "GIT_PROJECT_ROOT": str(server.root),
                "GIT_HTTP_EXPORT_ALL": "1",
                "PATH_INFO": path,
                "QUERY_STRING": query,
                "REQUEST_METHOD": self.command,
                "CONTENT_TYPE": self.headers.get("Content-Type", ""),
                "CONTENT_LENGTH": str(len(body)),
                "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
                "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
                "REMOTE_USER": "me",
                "REMOTE_ADDR": "127.0.0.1",
            }
            done = subprocess.run(
                ["git", "http-backend"], env=environment, input=body, capture_output=True, check=False
            )
            if push:
                server.pushes.append(path)
                if server.drop_answers:
                    server.drop_answers -= 1
                    self.close_connection = True
                    return
            head, _, content = done.stdout.partition(b"\r\n\r\n")
            status, headers = 200, []
            for row in head.decode().split("\r\n"):
                name, _, value = row.partition(": ")
                if name == "Status":
                    status = int(value.split(" ")[0])
                elif name:
                    headers.append((name, value))
            self.send_response(status)
            for name, value in headers:
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    return Handler


@pytest.fixture
def server(tmp_path: Path) -> Iterator[GitServer]:
    git_server = GitServer(tmp_path / "server")
    git_server.path.mkdir(parents=True)
    subprocess.run(["git", "init", "-q", "--bare", "-b", "main", str(git_server.path)], check=True)
    git_server.git("config", "http.receivepack", "true")
    work = tmp_path / "seed"
    subprocess.run(["git", "clone", "-q", str(git_server.path), str(work)], check=True, capture_output=True)
    (work / "train.py").write_text("LR = 0.1\n")
    (work / "README.md").write_text("read me\n")
    person = ["git", "-C", str(work), "-c", "user.name=P", "-c", "user.email=p@example.org"]
    subprocess.run([*person, "add", "."], check=True)
    subprocess.run([*person, "commit", "-q", "-m", "start"], check=True)
    subprocess.run([*person, "push", "-q", "origin", "HEAD:main"], check=True)
    http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(git_server))
    git_server.port = http.server_address[1]
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    yield git_server
    http.shutdown()
    http.server_close()
    thread.join()
