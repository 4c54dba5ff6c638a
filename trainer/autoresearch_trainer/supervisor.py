"""One trial from its spec to its result: trusted, forked from the warm process, single-threaded.

It copies the source, starts the tree, is the gate, watches the limits, ends what has to end, has the judge score the
artifact and writes the result durably before it reports it. It never runs candidate code and never blocks on a
candidate.
"""

import json
import os
import select
import signal
import socket
import time
from contextlib import suppress
from typing import Any

from . import candidate, classify, hardware, judging, preparation
from .attend import Hears, attend
from .clock import TreeClock, members, wall
from .data.errors import DataError
from .gate import Gate
from .kernelkills import oom_kills, out_of_memory
from .outputlog import OutputLog
from .referee import Referee
from .result import LOST, Isolation, TrialResult, encode, write_durably
from .sandbox import kernel
from .spec import TrialSpec
from .tree import TrialTree
from .watch import Watch

PROGRESS_SECONDS = 0.5
_OUTPUT_FILE, _RESULT_FILE = "output.log", "result.json"


class _Stopped(Exception):
    """The operator, or its end, asked for the trial to end now."""


class _Shared(Exception):
    """Somebody else is on the trial's GPU; str() is a sentence."""


class Supervisor:
    """Carries out one trial; `run` is called once."""

    def __init__(self, spec: TrialSpec, control: socket.socket, about: dict[str, str]) -> None:
        self._spec = spec
        self._control = control
        self._began = wall()
        self._folders = preparation.TrialFolders(spec.work_dir)
        self._result = TrialResult(
            outcome=LOST,
            split=spec.split,
            seed=spec.seed,
            self_reported=spec.self_reported,
            hardware=about,
        )
        self._tree: TrialTree | None = None
        self._main = 0
        self._gpus: hardware.GPUs | None = None
        self._vram = 0

    def run(self) -> dict[str, Any]:
        """Carries the trial out, writes workDir/result.json and returns the document."""
        try:
            self._carry_out()
        except _Stopped:
            self._result.lose("Stopped", "The trial was stopped before it had a result.")
        except _Shared as error:
            self._result.lose("GPUShared", str(error))
        except preparation.SourceError as error:
            self._result.fail(classify.Failure("Crashed", "Source", str(error)))
        except DataError as error:
            self._result.lose("Data", str(error))
        except OSError as error:
            self._result.lose("OSError", f"{type(error).__name__}: {error}")
        finally:
            if self._tree is not None:
                self._tree.end()
        self._result.total_seconds = wall() - self._began
        document = self._result.as_json()
        write_durably(self._spec.work_dir / _RESULT_FILE, document)
        self._folders.remove()
        return document

    def _carry_out(self) -> None:
        spec = self._spec
        kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
        self._result.source_sha256 = self._folders.make(spec.source_dir, spec.script)
        self._result.reference_seconds = preparation.reference_seconds(spec.threads)
        ours, theirs = socket.socketpair()
        output_read, output_write = os.pipe()
        self._tree = TrialTree(spec, self._folders, theirs, output_write)
        theirs.close()
        os.close(output_write)
        # Only now: what is opened before the fork would be mapped in the candidate too, and its own questions to the
        # driver would go astray.
        self._look_at_gpu()
        tree_clock = TreeClock(self._tree.root)
        gate = Gate(
            [ours],
            spec,
            spec.data_dir,
            self._folders.artifact,
            tree_clock,
            shown_data_dir=spec.data_dir if spec.self_reported else None,
        )
        referee = Referee(spec, gate, tree_clock, wall())
        watch = Watch(self._tree.root, tree_clock, spec.limits, [self._folders.run_dir, self._folders.temporary])
        kills_before = oom_kills() or 0
        self._tree.go()
        with OutputLog((spec.work_dir / _OUTPUT_FILE).open("wb", buffering=0), spec.limits.stdout_bytes) as log:
            self._supervise(self._tree, gate, watch, tree_clock, referee, log, output_read)
            referee.record(self._result)
            self._result.peak_memory_bytes = watch.peak_memory_bytes or None
            self._result.peak_vram_bytes = self._vram or self._result.peak_vram_bytes
            if _killed(referee) and (oom_kills() or 0) > kills_before:
                text = out_of_memory(watch.peak_memory_bytes, spec.limits.memory_bytes)
                referee.forced = classify.Failure("HostOutOfMemory", "OOMKilled", text)
            to_judge = referee.conclude(self._result, log.tail(), log.reported_score())
        if self._gpus is not None:
            self._gpus.close()  # before the judge is forked
        if to_judge:
            judging.conclude(self._result, spec, spec.data_dir, self._folders.artifact, self._stopped)

    def _look_at_gpu(self) -> None:
        """Says what the trial's GPU is. Raises _Shared when somebody else is on it."""
        if not self._spec.device.startswith("cuda"):
            return
        name = candidate.visible_device(self._spec.device, os.environ.get("CUDA_VISIBLE_DEVICES", ""))
        self._gpus = hardware.GPUs(name)
        self._result.hardware = hardware.describe(self._spec.device, self._gpus)
        shared = hardware.used_by_others(self._gpus)
        if shared:
            raise _Shared(shared)

    def _supervise(
        self,
        tree: TrialTree,
        gate: Gate,
        watch: Watch,
        tree_clock: TreeClock,
        referee: Referee,
        log: OutputLog,
        output: int,
    ) -> None:
        """Serves, listens and watches until the candidate has ended or has to be ended."""
        os.set_blocking(output, False)
        next_progress, next_sample = wall() + PROGRESS_SECONDS, wall()

        def look(now: float) -> None:
            nonlocal next_progress, next_sample
            self._find_main(tree.root, tree_clock)
            excess = watch.poll()
            if excess:
                referee.forced = classify.Failure(excess.reason, excess.detail, excess.message)
                return
            referee.look(now)
            if self._gpus is not None and now >= next_sample:
                next_sample = now + hardware.GPU_SAMPLE_SECONDS
                self._vram = max(self._vram, *self._gpus.used_bytes(), 0)
            if now >= next_progress:
                next_progress = now + PROGRESS_SECONDS
                self._report_progress(gate)

        hears: Hears = {
            output: lambda _: log.take(output),
            tree.connection.fileno(): lambda _: self._hear_launcher(tree.connection, referee),
            self._control.fileno(): self._hear_operator,
        }
        attend(gate, hears, look, lambda: referee.decided)
        if referee.forced is None:
            for channel in gate.channels:
                channel.drain()
        tree.end()
        while log.take(output):
            pass
        os.close(output)

    def _hear_operator(self, _: int) -> bool:
        raise _Stopped

    def _hear_launcher(self, connection: socket.socket, referee: Referee) -> bool:
        data = connection.recv(1 << 16)
        if not data:
            if referee.ending is None:
                referee.ending = classify.Ending(signal=signal.SIGKILL)
            return False
        for line in data.splitlines():
            told = json.loads(line)
            if told.get("isolation"):
                self._result.isolation = Isolation(**told["isolation"])
            if "code" in told:
                referee.ending = classify.Ending(told["code"], told["signal"])
        return True

    def _find_main(self, root: int, tree_clock: TreeClock) -> None:
        if self._main:
            return
        children = [member for member in members(root) if member.parent == root]
        if children:
            self._main = min(children, key=lambda member: member.started).pid
            tree_clock.watch_main(self._main)

    def _report_progress(self, gate: Gate) -> None:
        account = gate.account
        loss = account.last_loss
        event = {
            "event": "progress",
            "name": self._spec.name,
            "step": account.steps,
            "tokens": account.train_tokens,
            "loss": loss if loss is not None and abs(loss) < float("inf") else None,
            "progress": round(gate.progress(), 4),
        }
        with suppress(BlockingIOError):  # a reader that lags loses a progress line, nothing else
            self._control.send(encode(event) + b"\n", socket.MSG_DONTWAIT)

    def _stopped(self) -> None:
        """Raises _Stopped once the operator has asked for the end."""
        if _has_input(self._control.fileno()):
            raise _Stopped


def _killed(referee: Referee) -> bool:
    """Whether the candidate ended by a SIGKILL that nobody here sent."""
    return referee.forced is None and referee.ending is not None and referee.ending.signal == signal.SIGKILL


def _has_input(descriptor: int) -> bool:
    return bool(select.select([descriptor], [], [], 0)[0])


def run_forked(spec: TrialSpec, control: socket.socket, about: dict[str, str]) -> int:
    """The supervisor's process from its fork to its exit code; events go to control, one JSON object a line."""
    began = time.monotonic()
    if spec.cpus is not None:
        os.sched_setaffinity(0, spec.cpus)
    _send(control, {"event": "started", "name": spec.name, "pid": os.getpid()})
    supervisor = Supervisor(spec, control, about)
    try:
        document = supervisor.run()
    except OSError as error:
        # The result could not be written: the disk is full or gone. Say so; the operator decides when to try again.
        lost = TrialResult(outcome=LOST, detail="Disk", message=f"workDir: {error}", split=spec.split, seed=spec.seed)
        lost.total_seconds = time.monotonic() - began
        document = lost.as_json()
    _send(control, {"event": "result", "name": spec.name, "result": document})
    return 0


def _send(control: socket.socket, event: dict[str, Any]) -> None:
    with suppress(BrokenPipeError, ConnectionResetError):  # the warm process is gone, and the kernel ends this one
        control.sendall(encode(event) + b"\n")
