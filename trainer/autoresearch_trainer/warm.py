"""The warm process: imports PyTorch once, then forks one supervisor a trial, so that a trial starts in milliseconds.

Reads one JSON command a line on stdin ({"command": "run", "trial": {...}}, {"command": "stop", "name": ...},
{"command": "exit"}), writes one JSON event a line on stdout. It has one thread, never touches a device, and holds no
variable of the caller's environment: everything in its memory is in the candidates' memory too. When it ends, or its
stdin does, the kernel ends every process of every trial.
"""

import gc
import json
import os
import platform
import selectors
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from . import hardware
from . import spec as specs
from .result import LOST, TrialResult, encode

VERSION = 1

_CLEAN_MARKER = "AUTORESEARCH_CLEAN_ENVIRONMENT"
_KEPT_VARIABLES = (
    "LD_LIBRARY_PATH",
    "LANG",
    "LC_ALL",
    "TZ",
    "VIRTUAL_ENV",
    "PYTHONPATH",
    "CUDA_VISIBLE_DEVICES",
    "CUDA_HOME",
    "NVIDIA_VISIBLE_DEVICES",
    "NVIDIA_DRIVER_CAPABILITIES",
)
_FIXED_VARIABLES = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    # A helper thread of a numeric library started at import would be lost in every fork, and its locks with it.
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    # Two runs with one seed are to be equal bit for bit, sets of strings included.
    "PYTHONHASHSEED": "0",
    "PYTHONDONTWRITEBYTECODE": "1",
    # The driver's numbering is CUDA's too: what is measured on GPU 1 is then what runs on GPU 1.
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    # CPU code paths of this process must not ask for the driver.
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
}
_MAX_COMMAND_BYTES = 1 << 20


def main() -> NoReturn:
    """Runs until "exit" or the end of stdin."""
    if os.environ.get(_CLEAN_MARKER) != "1":
        _restart_with_clean_environment()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the operator, which says "stop" or closes stdin
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    events = os.dup(1)
    os.dup2(2, 1)  # a stray print must not end up between the events
    _preload()
    from .sandbox import confine

    about = _hardware()
    threads = len(list(Path("/proc/self/task").iterdir()))
    if threads != 1:
        print(f"autoresearch: the warm process has {threads} threads; trials may hang after a fork.", file=sys.stderr)
    gc.collect()
    gc.freeze()  # a collection in a child would otherwise touch, and so copy, every page of the parent's heap
    warm = Warm(events, about)
    ready = {"event": "ready", "version": VERSION, "pid": os.getpid()}
    warm.emit({**ready, "isolation": confine.offered(), "hardware": about})
    warm.serve()
    os._exit(0)  # the interpreter's own end would spend a second on taking PyTorch down


def _restart_with_clean_environment() -> None:
    """Starts this program anew with an environment of known variables only.

    Deleting from os.environ would leave the old strings where /proc/<pid>/environ, and every forked candidate, finds
    them.
    """
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    # -P: the folder that the operator was started from is no place to import from.
    command = [sys.executable, "-P", "-m", "autoresearch_trainer", "warm"]
    os.execve(sys.executable, command, {**kept, **_FIXED_VARIABLES, _CLEAN_MARKER: "1"})  # noqa: S606 - this program again


def _preload() -> None:
    """Imports what trials need, and makes the first torch.export of the process, which costs seconds."""
    import numpy
    import safetensors.torch
    import torch
    import torch.export
    import torch.nn.functional

    from . import artifact, client, judge, supervisor

    _ = (numpy, safetensors, torch.nn.functional, client, judge, supervisor)
    torch.set_num_threads(1)
    artifact.warm()


def _hardware() -> dict[str, str]:
    import torch

    return {"product": hardware.processor(), "torch": torch.__version__, "python": platform.python_version()}


class Warm:
    """The loop: commands in, supervisors forked, their events out."""

    def __init__(self, events: int, about: dict[str, str]) -> None:
        self._events = events
        self._hardware = about
        self._selector = selectors.DefaultSelector()
        self._trials: dict[str, _Trial] = {}
        self._stdin = bytearray()
        self._exit = False

    def emit(self, event: dict[str, Any]) -> None:
        """Writes one event; ends the process when nobody reads any more."""
        self._write(encode(event) + b"\n")

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._events, view) :]
            except BrokenPipeError:
                self._exit = True
                return

    def serve(self) -> None:
        """Runs until told to end; kills what is still running."""
        self._selector.register(0, selectors.EVENT_READ)
        while not self._exit:
            for key, _ in self._selector.select():
                if key.fileobj == 0:
                    self._read_commands()
                else:
                    self._read_events(key.data)
        for trial in list(self._trials.values()):
            trial.kill()

    def _read_commands(self) -> None:
        data = os.read(0, 1 << 16)
        if not data:
            self._exit = True
            return
        self._stdin += data
        while (end := self._stdin.find(b"\n")) >= 0:
            line = bytes(self._stdin[:end])
            del self._stdin[: end + 1]
            if line.strip():
                self._command(line)
        if len(self._stdin) > _MAX_COMMAND_BYTES:
            self._stdin.clear()
            self._error(f"A command of more than {_MAX_COMMAND_BYTES} bytes was dropped.")

    def _command(self, line: bytes) -> None:
        try:
            command = json.loads(line)
        except ValueError as error:
            self._error(f"A command is no JSON: {error}.")
            return
        kind = command.get("command") if isinstance(command, dict) else None
        if kind == "run":
            self._run(command.get("trial"))
        elif kind == "stop":
            trial = self._trials.get(str(command.get("name")))
            if trial:
                trial.stop()
        elif kind == "exit":
            self._exit = True
        else:
            self._error(f"{kind!r} is not a command: use run, stop or exit.")

    def _error(self, message: str) -> None:
        self.emit({"event": "error", "message": message})

    def _run(self, document: Any) -> None:
        name = document.get("name") if isinstance(document, dict) else None
        try:
            trial_spec = specs.parse(document)
            if trial_spec.name in self._trials:
                raise specs.SpecError([f"name: {trial_spec.name} is running already."])
            _check_privacy(trial_spec)
        except specs.SpecError as error:
            refused = TrialResult(outcome=LOST, detail="Spec", message=str(error))
            self.emit({"event": "result", "name": name, "result": refused.as_json()})
            return
        ours, theirs = socket.socketpair()
        child = os.fork()
        if child == 0:
            self._become_supervisor(trial_spec, ours, theirs)
        theirs.close()
        trial = _Trial(trial_spec, child, ours)
        self._trials[trial_spec.name] = trial
        self._selector.register(ours, selectors.EVENT_READ, trial)

    def _become_supervisor(self, trial_spec: specs.TrialSpec, ours: socket.socket, theirs: socket.socket) -> None:
        """The forked side of `_run`; never returns."""
        code = 1
        try:
            from . import supervisor
            from .sandbox import kernel

            kernel.die_with_parent()
            ours.close()
            self._selector.close()
            for trial in self._trials.values():
                trial.events.close()
            os.close(self._events)
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, 0)
            os.close(null)
            code = supervisor.run_forked(trial_spec, theirs, self._hardware)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            raise
        finally:
            sys.stderr.flush()
            os._exit(code)

    def _read_events(self, trial: "_Trial") -> None:
        data = b""
        with suppress(ConnectionResetError):
            data = trial.events.recv(1 << 16)
        if data:
            self._write(trial.whole_lines(data))
            return
        self._selector.unregister(trial.events)
        status = trial.reap()
        del self._trials[trial.spec.name]
        if not trial.has_result:
            lost = TrialResult(
                outcome=LOST,
                detail="Supervisor",
                message=f"The trial's supervisor ended without a result (wait status {status}).",
                split=trial.spec.split,
                seed=trial.spec.seed,
                hardware=self._hardware,
            )
            self.emit({"event": "result", "name": trial.spec.name, "result": lost.as_json()})


class _Trial:
    """A running supervisor, seen from the warm process."""

    def __init__(self, trial_spec: specs.TrialSpec, pid: int, events: socket.socket) -> None:
        self.spec = trial_spec
        self.pid = pid
        self.events = events
        self.has_result = False
        self._partial = b""

    def whole_lines(self, data: bytes) -> bytes:
        """The lines that data completes; a rest waits for the next call."""
        lines, newline, self._partial = (self._partial + data).rpartition(b"\n")
        if b'"event":"result"' in lines:
            self.has_result = True
        return lines + newline

    def stop(self) -> None:
        """Asks the supervisor to end the trial now."""
        with suppress(BrokenPipeError, ConnectionResetError):
            self.events.send(b"s")

    def kill(self) -> None:
        """Ends supervisor, candidate and judge at once: each dies with its parent."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self.reap()

    def reap(self) -> int:
        """Waits for the supervisor; its wait status."""
        with suppress(ChildProcessError):
            return os.waitpid(self.pid, 0)[1]
        return -1


def _check_privacy(trial_spec: specs.TrialSpec) -> None:
    """Refuses folders that every candidate may read, because Python itself lies there."""
    from .sandbox import confine

    for field, folder in (("dataDir", trial_spec.data_dir), ("workDir", trial_spec.work_dir)):
        shared = confine.readable_by_everyone(folder)
        if shared:
            raise specs.SpecError(
                [f"{field}: {folder} lies in {shared}, which candidates must read to run; move it somewhere else."]
            )
