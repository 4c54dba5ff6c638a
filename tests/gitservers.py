"""Real git servers for tests: git's HTTP backend, with or without TLS and passwords, and OpenSSH; each with faults."""

from __future__ import annotations

import base64
import getpass
import os
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import trustme


@dataclass
class Bare:
    """A bare repository that a server offers, with the means to look at it from the server's side."""

    root: Path

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

    def person(self, branch: str, **files: str | None) -> str:
        """Somebody commits on `branch` (a full ref) and pushes; file names with `__` for dots, None removes."""
        work = self.root / f"person-{time.time_ns()}"
        subprocess.run(["git", "clone", "-q", "--no-checkout", str(self.path), str(work)], check=True)
        git = ["git", "-C", str(work), "-c", "user.name=P", "-c", "user.email=p@example.org"]
        subprocess.run([*git, "fetch", "-q", "origin", branch], check=True)
        subprocess.run([*git, "checkout", "-q", "--detach", "FETCH_HEAD"], check=True)
        for name, content in files.items():
            path = work / name.replace("__", ".")
            path.unlink() if content is None else path.write_text(content)
        subprocess.run([*git, "add", "-A"], check=True)
        subprocess.run([*git, "commit", "-q", "-m", "by hand"], check=True)
        subprocess.run([*git, "push", "-q", "origin", f"HEAD:{branch}"], check=True)
        return subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()

    def seed(self) -> None:
        """Makes the repository with one commit on main."""
        self.path.mkdir(parents=True)
        subprocess.run(["git", "init", "-q", "--bare", "-b", "main", str(self.path)], check=True)
        self.git("config", "http.receivepack", "true")
        work = self.root / "seed"
        subprocess.run(["git", "clone", "-q", str(self.path), str(work)], check=True, capture_output=True)
        (work / "train.py").write_text("LR = 0.1\n")
        (work / "README.md").write_text("read me\n")
        git = ["git", "-C", str(work), "-c", "user.name=P", "-c", "user.email=p@example.org"]
        subprocess.run([*git, "add", "."], check=True)
        subprocess.run([*git, "commit", "-q", "-m", "start"], check=True)
        subprocess.run([*git, "push", "-q", "origin", "HEAD:main"], check=True)


@dataclass
class GitServer(Bare):
    """`git http-backend` on a port of this machine; faults are switched on by the test."""

    password: str | None = None
    drop_answers: int = 0
    """Pushes that are applied, and then the connection closes without an answer."""
    broken: bool = False
    """Every request is answered with 502."""
    port: int = 0
    scheme: str = "http"
    address: str = "127.0.0.1"
    ca: Path | None = None
    """The authority that signed the server's certificate, with TLS."""
    pushes: list[str] = field(default_factory=list)
    looks: int = 0

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.address}:{self.port}/lab/research.git"


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
            server.looks += self.command == "GET"
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


@contextmanager
def http_server(folder: Path, *, tls: bool = False, address: str = "127.0.0.1") -> Iterator[GitServer]:
    """A server with one repository that has one commit on main, on one of this machine's addresses."""
    git_server = GitServer(folder / "server", address=address)
    git_server.seed()
    http = ThreadingHTTPServer((address, 0), _handler(git_server))
    git_server.port = http.server_address[1]
    if tls:
        authority = trustme.CA()
        git_server.scheme, git_server.ca = "https", folder / "ca.crt"
        authority.cert_pem.write_to_path(git_server.ca)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(address, "localhost").configure_cert(context)
        http.socket = context.wrap_socket(http.socket, server_side=True)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield git_server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


@dataclass
class SshServer(Bare):
    """OpenSSH on a port of this machine, with a key that it accepts."""

    port: int = 0
    key: Path = Path()
    known_hosts: str = ""

    @property
    def url(self) -> str:
        return f"ssh://{getpass.getuser()}@127.0.0.1:{self.port}{self.path}"


def sshd() -> str | None:
    """The path of OpenSSH's server; None where it is not installed."""
    return shutil.which("sshd", path=os.environ["PATH"] + os.pathsep + "/usr/sbin")


@contextmanager
def ssh_server(folder: Path) -> Iterator[SshServer]:
    """A server with one repository that has one commit on main."""
    program = sshd()
    if program is None:
        raise RuntimeError("openssh-server is not installed")
    server = SshServer(folder / "server")
    server.seed()
    folder.chmod(0o700)
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        server.port = probe.getsockname()[1]
    server.key = folder / "user"
    host = (folder / "host.pub").read_text().split()
    server.known_hosts = f"[127.0.0.1]:{server.port} {host[0]} {host[1]}\n"
    (folder / "authorized").write_text((folder / "user.pub").read_text())
    (folder / "sshd_config").write_text(
        f"ListenAddress 127.0.0.1\nPort {server.port}\nHostKey {folder / 'host'}\nPidFile none\n"
        f"AuthorizedKeysFile {folder / 'authorized'}\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n"
        "KbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\nLogLevel ERROR\n"
    )
    Path("/run/sshd").mkdir(exist_ok=True)  # where sshd confines itself before a login
    process = subprocess.Popen([program, "-D", "-e", "-f", str(folder / "sshd_config")], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", server.port), timeout=1).close()
                break
            except OSError:
                if time.monotonic() > deadline or process.poll() is not None:
                    raise
                time.sleep(0.05)
        yield server
    finally:
        process.terminate()
        process.wait(10)
