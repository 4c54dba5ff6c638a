"""The trainer as a process: JSON lines in, JSON lines out. It imports torch once and forks one child a trial."""

from __future__ import annotations

import contextlib
import json
import queue
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any


class TrainerError(Exception):
    """The trainer cannot be started or used; the message is for the person who typed the command."""


class TrainerProcess:
    """A running `autoresearch_trainer warm`.

    Events arrive in `events` as dictionaries: what the trainer printed, and one `{"event": "died", "code": n,
    "message": …}` when its output ends without `close`.
    """

    def __init__(self, command: Sequence[str], log: Path) -> None:
        """Starts the process, which then needs some seconds to get ready: see `wait_ready`.

        Raises:
            TrainerError: it could not be started.
        """
        self.isolation: dict[str, str] = {}
        self.hardware: dict[str, Any] = {}
        self.events: queue.Queue[dict[str, Any]] = queue.Queue()
        self._log = log
        self._closing = False
        try:
            # A session of its own: Ctrl-C in the terminal reaches the loop alone, which then decides what to finish.
            with log.open("ab") as errors:
                self._process = subprocess.Popen(
                    [*command, "warm"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    start_new_session=True,
                )
        except OSError as error:
            raise TrainerError(f"cannot start the trainer ({command[0]}): {error.strerror}") from error
        self._reader = threading.Thread(target=self._read, name="trainer-events", daemon=True)
        self._reader.start()

    def wait_ready(self, timeout: float) -> None:
        """Waits until it can run trials; fills `isolation` and `hardware`.

        Raises:
            TrainerError: it died, or was not ready after `timeout` seconds.
        """
        try:
            first = self.events.get(timeout=timeout)
        except queue.Empty:
            self.kill()
            raise TrainerError(f"the trainer was not ready after {timeout:.0f} s; its log is {self._log}") from None
        if first.get("event") != "ready":
            self.kill()
            raise TrainerError(f"the trainer did not start: {first.get('message') or first}; its log is {self._log}")
        self.isolation = dict(first.get("isolation") or {})
        self.hardware = dict(first.get("hardware") or {})

    def run(self, trial: Mapping[str, Any]) -> None:
        """Starts a trial; its end is announced as a `result` event."""
        self._send({"command": "run", "trial": dict(trial)})

    def stop(self, name: str) -> None:
        """Ends a trial now; its result is `Lost`."""
        self._send({"command": "stop", "name": name})

    def close(self, timeout: float) -> None:
        """Asks the trainer to exit and kills it when it has not after `timeout` seconds."""
        self._closing = True
        self._send({"command": "exit"})
        with contextlib.suppress(OSError):
            self._stdin.close()
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
        self._reader.join(timeout=1)

    def kill(self) -> None:
        self._closing = True
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    @property
    def _stdin(self) -> IO[bytes]:
        if self._process.stdin is None:
            raise TrainerError("the trainer was started without a standard input")
        return self._process.stdin

    def _send(self, command: dict[str, Any]) -> None:
        # A trainer that died is told by its `died` event; a second error for the same fact would only hide it.
        with contextlib.suppress(BrokenPipeError, ValueError):
            self._stdin.write(json.dumps(command).encode() + b"\n")
            self._stdin.flush()

    def _read(self) -> None:
        if self._process.stdout is None:
            return
        for line in self._process.stdout:
            try:
                event = json.loads(line)
            except ValueError:
                continue  # a library that prints; the trainer's own lines are JSON
            if isinstance(event, dict) and "event" in event:
                self.events.put(event)
        code = self._process.wait()
        if not self._closing:
            self.events.put({"event": "died", "code": code, "message": self._last_words(code)})

    def _last_words(self, code: int) -> str:
        try:
            lines = self._log.read_text(errors="replace").strip().splitlines()
        except OSError:
            lines = []
        return f"the trainer ended with code {code}" + (f": {lines[-1][:300]}" if lines else "")
