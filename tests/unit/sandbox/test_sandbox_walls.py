"""Each wall by itself, in a process forked for the test; the whole of them is tried in tests/local/runtime."""

import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from autoresearch_trainer.sandbox import confine, kernel, landlock, limits, namespace, seccomp


def forked(body: Callable[[], str]) -> str:
    """What body returned in a child of this process, or the error it raised."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            answer = body()
        except BaseException as error:
            answer = f"{type(error).__name__}: {error}"
        os.write(write, answer.encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as stream:
        data = stream.read()
    os.waitpid(child, 0)
    return data.decode()


needs_landlock = pytest.mark.skipif(landlock.abi() == 0, reason="this kernel has no Landlock")
needs_seccomp = pytest.mark.skipif(seccomp.library() is None, reason="libseccomp is not installed")


@needs_landlock
def test_landlock_allows_what_is_named_and_nothing_else(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    (outside / "file").write_text("private")

    def body() -> str:
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
        landlock.restrict([(inside, landlock.read_write(landlock.abi()))])
        (inside / "mine").write_text("x")
        (inside / "folder").mkdir()
        (inside / "mine").rename(inside / "folder" / "mine")
        try:
            (outside / "file").read_text()
        except PermissionError:
            return "refused"
        return "read"

    assert forked(body) == "refused"


@needs_landlock
def test_a_folder_that_may_only_be_read_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")

    def body() -> str:
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
        landlock.restrict([(tmp_path, landlock.READ)])
        text = (tmp_path / "file").read_text()
        (tmp_path / "file").write_text("y")
        return text

    assert forked(body).startswith("PermissionError")
    assert (tmp_path / "file").read_text() == "x"


@needs_landlock
def test_a_path_that_is_not_there_is_left_out(tmp_path: Path) -> None:
    def body() -> str:
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
        return f"abi {landlock.restrict([(tmp_path / 'nowhere', landlock.READ)])}"

    assert forked(body) == f"abi {landlock.abi()}"


def test_a_kernel_without_landlock_is_told_as_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(landlock, "abi", lambda: 0)
    assert landlock.restrict([(tmp_path, landlock.READ)]) == 0
    assert confine.offered()["files"] == "none"


def test_a_missing_libseccomp_is_told_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seccomp, "library", lambda: None)
    assert seccomp.install(own_signals_only=None) is False
    assert confine.offered()["network"] == "none"


@needs_seccomp
@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("internet socket", lambda: socket.socket(socket.AF_INET)),
        ("netlink socket", lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)),
        ("datagram pair", lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)),
        ("bind", lambda: socket.socket(socket.AF_UNIX).bind("\0name")),
        ("signal to the parent", lambda: os.kill(os.getppid(), 0)),
        ("signal to everyone", lambda: os.kill(-1, 0)),
        ("user namespace", lambda: kernel.unshare(kernel.CLONE_NEWUSER)),
        ("changing the owner", lambda: os.chown("/tmp", 0, 0)),
        ("choosing a core", lambda: os.sched_setaffinity(0, [0])),
    ],
)
def test_refused_calls_raise_a_permission_error(name: str, call: Callable[[], object]) -> None:
    def body() -> str:
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
        assert seccomp.install(own_signals_only=os.getpid())
        call()
        return "allowed"

    assert "Operation not permitted" in forked(body)


@needs_seccomp
def test_honest_calls_go_on_working(tmp_path: Path) -> None:
    def body() -> str:
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
        assert seccomp.install(own_signals_only=os.getpid())
        a, b = socket.socketpair()
        a.send(b"x")
        os.kill(os.getpid(), 0)
        (tmp_path / "file").write_text("x")
        (tmp_path / "file").chmod(0o600)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        child = os.fork()
        if child == 0:
            os._exit(7)
        return f"{b.recv(1)!r} {os.WEXITSTATUS(os.waitpid(child, 0)[1])}"

    assert forked(body) == "b'x' 7"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has capabilities to lose")
def test_root_without_capabilities_cannot_change_the_machine() -> None:
    def body() -> str:
        kernel.drop_capabilities()
        fields = dict(line.split(":\t") for line in Path("/proc/self/status").read_text().splitlines() if ":\t" in line)
        return " ".join(fields[name] for name in ("CapEff", "CapPrm", "CapBnd", "CapInh"))

    assert set(forked(body).split()) == {"0000000000000000"}


def test_files_longer_than_the_limit_cannot_be_written(tmp_path: Path) -> None:
    def body() -> str:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        limits.apply(1 << 30, 1 << 16, cuda=False)
        (tmp_path / "file").write_bytes(b"x" * (1 << 20))
        return "written"

    assert forked(body).startswith("OSError")


def test_a_sweep_ends_trees_that_fork_on(tmp_path: Path) -> None:
    kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
    root = os.fork()
    if root == 0:
        for _ in range(3):
            if os.fork() == 0:
                os.setsid()
                if os.fork() == 0:
                    time.sleep(60)
                time.sleep(60)
        time.sleep(60)
    time.sleep(0.2)
    assert len(namespace.children_of({root})) >= 3
    assert namespace.sweep(root, include_root=True)
    deadline = time.monotonic() + 3
    while time.monotonic() < deadline:
        try:
            os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            break
        time.sleep(0.01)
    assert namespace.children_of({root}) == set()
    kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 0)


def test_python_and_the_system_are_shared_and_private_folders_are_not(tmp_path: Path) -> None:
    assert confine.readable_by_everyone(Path(os.__file__)) is not None
    assert confine.readable_by_everyone(tmp_path) is None
