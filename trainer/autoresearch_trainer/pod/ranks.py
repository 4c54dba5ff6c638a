"""The candidate's processes, one a rank: started behind their walls, waited for, ended as one.

The launcher starts the ranks itself. torchrun would close the gate's inherited connections, import torch once more and
be a process of the candidate's besides (docs/decisions/0010).
"""

import json
import os
import signal
import socket
import time
from contextlib import suppress
from pathlib import Path

from .. import candidate
from ..sandbox import confine, kernel, namespace
from . import script
from .spec import PodTerms

_REPORT_SECONDS = 60.0


class StartError(Exception):
    """The candidate's command cannot be started; str() says why."""


class WallError(Exception):
    """The candidate could not be confined, which is not its fault; str() says why."""


class Ranks:
    """What the launcher has started. The caller is the first process of its pid namespace, or a subreaper."""

    def __init__(self, terms: PodTerms, run: Path, temporary: Path, connections: list[socket.socket]) -> None:
        """Starts every rank. Raises StartError and WallError, with nothing left running."""
        self._tree = namespace.PID_NAMESPACE if os.getpid() == 1 else namespace.SWEEP
        self._left: set[int] = set()
        self.codes: list[tuple[int | None, int | None]] = []
        """(exit code, signal) of each rank that has ended, in the order in which they did."""
        self.isolation: dict[str, str] = {}
        """What holds around the candidate, in the words of `result.Isolation`."""
        self.output, output = os.pipe()
        os.set_blocking(self.output, False)
        port = _free_port() if terms.ranks > 1 else 0
        reports: list[socket.socket] = []
        self.pids: list[int] = []
        for rank, connection in enumerate(connections):
            ours, theirs = socket.socketpair()
            pid = os.fork()
            if pid == 0:
                handed = (output, connection.fileno(), theirs.fileno())
                _become_candidate(terms, run, temporary, handed, rank, port, self._tree)
            theirs.close()
            connection.close()
            reports.append(ours)
            self.pids.append(pid)
            self._left.add(pid)
        os.close(output)
        try:
            for report in reports:
                self._hear(report)
            # Only now, with walls around all of them, does the first one run a line of its own: without them another
            # rank could be written into before it has its own.
            for report in reports:
                report.sendall(b"g")
            for report in reports:
                self._hear(report)
        except (StartError, WallError):
            self.end()
            raise
        finally:
            for report in reports:
                report.close()

    def _hear(self, report: socket.socket) -> None:
        """Takes in one line that a rank says of itself; nothing more comes once its command has replaced it."""
        report.settimeout(_REPORT_SECONDS)
        text = b""
        try:
            while not text.endswith(b"\n") and (piece := report.recv(4096)):
                text += piece
        except TimeoutError:
            raise WallError(f"The candidate's walls did not stand after {_REPORT_SECONDS:g} s.") from None
        told = json.loads(text or b"{}")
        if "error" in told:
            raise StartError(told["error"])
        if "fault" in told:
            raise WallError(told["fault"])
        self.isolation = told or self.isolation

    @property
    def running(self) -> bool:
        """Whether the trial goes on: no rank has failed, and some have not ended."""
        return bool(self._left) and all(code == 0 for code, _ in self.codes)

    def reap(self) -> None:
        """Waits for whoever has ended, orphans of the candidate included; never blocks."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in self._left:
                self._left.remove(pid)
                signalled = os.WIFSIGNALED(status)
                self.codes.append((None, os.WTERMSIG(status)) if signalled else (os.WEXITSTATUS(status), None))

    def ending(self) -> tuple[int | None, int | None]:
        """(exit code, signal) of the first rank that failed, of the last one when none did."""
        if not self.codes:
            return None, signal.SIGKILL
        return next((code for code in self.codes if code != (0, None)), self.codes[-1])

    def ask_to_end(self) -> None:
        """Sends SIGTERM to the ranks that are left."""
        for pid in self._left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)

    def end(self) -> None:
        """Kills everything that descends from the ranks and returns when it is gone."""
        if self._tree == namespace.SWEEP:
            namespace.sweep(os.getpid(), include_root=False)
        while True:
            if self._tree == namespace.PID_NAMESPACE:
                with suppress(ProcessLookupError):
                    os.kill(-1, signal.SIGKILL)  # everyone in the namespace but its first process
            self.reap()
            try:
                os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            time.sleep(0.005)


def _free_port() -> int:
    """A port of this pod that nobody listens on; the pod's network is the trial's own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _become_candidate(
    terms: PodTerms,
    run: Path,
    temporary: Path,
    descriptors: tuple[int, int, int],
    rank: int,
    port: int,
    tree: str,
) -> None:
    """Everything between the fork and the candidate's own program; never returns."""
    report = descriptors[2]
    try:
        kernel.die_with_parent()
        kernel.prctl(kernel.PR_SET_DUMPABLE, 1)  # the launcher was not; without this /proc/self is not its own
        report = candidate.wire_up(*descriptors)
        os.set_inheritable(report, False)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
        for number in (signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        with suppress(OSError):
            os.setsid()
        os.chdir(run)
        command = script.command(terms.script) if terms.script else list(terms.command)
        environment = _environment(terms, temporary, rank, port)
        shared = [Path("/dev/shm")] if terms.device == "cuda" or terms.ranks > 1 else []  # noqa: S108 - the ranks' own
        held = confine.confine_candidate(
            read_write=[run, temporary, *shared],
            read=[],
            device=terms.device,
            tree=tree,
            memory_bytes=terms.limits.memory_bytes,
            disk_bytes=terms.limits.disk_bytes,
            loopback=terms.ranks > 1,
            fresh=True,
        )
        if terms.ranks > 1:
            held["network"] = "networkpolicy"
        if held["files"] == "none":
            held["files"] = "container"
        _say(report, held)
        if os.read(report, 1) != b"g":
            return
        os.execvpe(command[0], command, environment)  # noqa: S606 - the candidate's command, behind its walls
    except (FileNotFoundError, PermissionError, NotADirectoryError) as error:
        _say(report, {"error": f"{terms.command[0]} cannot be started: {error.strerror}."})
    except BaseException as error:  # said to the launcher, which can only see that this process has gone
        _say(report, {"fault": f"The candidate could not be confined: {type(error).__name__}: {error}"})
    finally:
        os._exit(127)


def _say(report: int, message: dict[str, str]) -> None:
    os.write(report, json.dumps(message).encode() + b"\n")


def _environment(terms: PodTerms, temporary: Path, rank: int, port: int) -> dict[str, str]:
    given = os.environ
    variables = candidate.environment(
        terms, temporary, given.get("CUDA_VISIBLE_DEVICES") if terms.device == "cuda" else ""
    )
    kept = ("LD_LIBRARY_PATH", "CUDA_HOME", "NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES", "VIRTUAL_ENV")
    variables = {**{name: given[name] for name in kept if name in given}, **variables}
    variables |= {
        # Two runs with one seed are to be equal bit for bit, sets of strings included.
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
        script.SEED_VARIABLE: str(terms.seed),
        script.THREADS_VARIABLE: str(terms.threads),
    }
    if terms.ranks > 1:
        variables |= {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "GROUP_RANK": "0",
            "WORLD_SIZE": str(terms.ranks),
            "LOCAL_WORLD_SIZE": str(terms.ranks),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "GLOO_SOCKET_IFNAME": "lo",
            "NCCL_SOCKET_IFNAME": "lo",
        }
    return variables
