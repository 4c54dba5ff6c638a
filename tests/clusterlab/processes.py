"""Long-running processes of a test: started with a log file, stopped by pid, ended even when the test is killed."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from clusterlab import reaper


class NotReady(Exception):
    """A process ended or stayed unready past its deadline; the message holds the end of its log."""


class Reaper:
    """Our end of the pipe to reaper.py: what is registered is cleaned when this process is gone.

    Safe to use from any thread. `close()` ends it without cleaning, for a caller that has cleaned up itself.
    """

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(Path(reaper.__file__))],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,  # Ctrl-C in the terminal is for the tests, not for the one that cleans up after
        )
        self._lock = threading.Lock()
        self._lines: list[str] = []

    def process(self, pid: int) -> str:
        """Registers a process group by its leader's pid; returns the line to `forget`."""
        return self._add(f"process {pid} {reaper.start_time(pid)}")

    def command(self, argv: Sequence[str]) -> str:
        """Registers a clean-up command (unmount, delete a bridge)."""
        return self._add(f"command {json.dumps(list(argv))}")

    def folder(self, path: Path) -> str:
        """Registers a folder to delete."""
        return self._add(f"folder {json.dumps(str(path))}")

    def forget(self, line: str) -> None:
        """Takes a line off the list; one that is not there is fine."""
        with self._lock:
            if line in self._lines:
                self._lines.remove(line)
                self._send(f"forget {line}")

    def close(self) -> None:
        """Empties the list and ends the process."""
        for line in list(self._lines):
            self.forget(line)
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait(timeout=60)

    def _add(self, line: str) -> str:
        with self._lock:
            self._lines.append(line)
            self._send(line)
        return line

    def _send(self, line: str) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()


class Daemon:
    """One process that runs until it is stopped; may be started again with the same arguments.

    Its output goes to `log` (appended, so a restart keeps what came before).
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str | Path],
        *,
        log: Path,
        reaper: Reaper,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> None:
        self.name = name
        self.argv = [str(part) for part in argv]
        self.log = log
        self._reaper = reaper
        self._environment = environment
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._line = ""

    @property
    def pid(self) -> int:
        """Raises NotReady when the process does not run."""
        if self._process is None:
            raise NotReady(f"{self.name} is not running")
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Starts the process; one that runs already is left alone."""
        if self.running:
            return
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                self.argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=None if self._environment is None else dict(self._environment),
                cwd=self._folder,
                start_new_session=True,
            )
        self._line = self._reaper.process(self._process.pid)

    def stop(self, grace_seconds: float = 5.0) -> None:
        """SIGTERM, then SIGKILL after the grace; 0 kills at once. One that does not run is fine."""
        if self._process is None:
            return
        if self._process.poll() is None and grace_seconds > 0:
            self.signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=grace_seconds)
        with contextlib.suppress(ProcessLookupError):
            # The whole group, also when the leader is gone: a child it left behind would hold its port.
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process = None
        self._reaper.forget(self._line)

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to the process (SIGSTOP and SIGCONT freeze and thaw it)."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def wait_until(self, ready: Callable[[], bool], deadline_seconds: float = 60.0) -> None:
        """Returns when `ready()` is true. Raises NotReady when the process ends first or the deadline passes."""
        deadline = time.monotonic() + deadline_seconds
        while not ready():
            if not self.running:
                code = None if self._process is None else self._process.returncode
                raise NotReady(f"{self.name} ended with {code} before it was ready; end of {self.log}:\n{self.tail()}")
            if time.monotonic() > deadline:
                raise NotReady(
                    f"{self.name} was not ready after {deadline_seconds:.0f} s; end of {self.log}:\n{self.tail()}"
                )
            time.sleep(0.05)

    def tail(self, lines: int = 15) -> str:
        """The last lines of the log."""
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        except FileNotFoundError:
            return "(no log)"


def free_ports(count: int, address: str = "127.0.0.1") -> list[int]:
    """`count` different TCP ports that nothing listens on at `address`.

    Taken below the range from which the kernel picks ports for outgoing connections: one from that range may be taken
    by anybody's connection between this question and the moment a server binds it.
    """
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError:
                continue
        if port not in found:
            found.append(port)
    return found


def listening(port: int, address: str = "127.0.0.1") -> bool:
    """Whether a TCP connection to the port is taken."""
    with contextlib.suppress(OSError), socket.create_connection((address, port), timeout=0.5):
        return True
    return False
