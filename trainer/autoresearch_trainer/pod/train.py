"""`python -m autoresearch_trainer train`: the trusted first process beside the candidate.

It opens the gate's connections before any code of the candidate exists, unpacks and starts the candidate behind walls,
answers for its processes (only this container sees them) and ends them when the gate says so. The candidate has the
same user id, so this process is not dumpable, takes signals from outside its namespace only, holds no data, no key and
no result, and ends with code 0 whatever happened: a candidate must not choose what Kubernetes is told.
"""

import os
import select
import shutil
import signal
import socket
import sys
import time
import traceback
from typing import NoReturn

from .. import hardware, preparation
from ..clock import TreeClock, wall
from ..fields import SpecError
from ..kernelkills import oom_kills, out_of_memory
from ..outputlog import OutputLog
from ..sandbox import kernel
from ..watch import POLL_SECONDS, Watch
from . import source
from . import spec as specs
from .gate import CONTROL_GREETING, rank_greeting
from .link import Link, LinkError
from .places import Places
from .ranks import Ranks, StartError, WallError

CONNECT_SECONDS = 60.0
GO_SECONDS = 30.0
TERM_SECONDS = 0.3
"""Between SIGTERM and SIGKILL. Nothing that comes after the gate's order counts any more."""
_TOLD_TAIL_CHARACTERS = 1 << 14


class _Refused(Exception):
    """The trial cannot be carried out here; said to the gate as `detail` and a sentence."""

    def __init__(self, detail: str, sentence: str) -> None:
        super().__init__(sentence)
        self.detail = detail


def main() -> NoReturn:
    """Carries the trial out; ends with code 0 always."""
    try:
        _harden()
        _Launcher(Places.of()).run()
    except BaseException:  # any exit code but 0 would be the candidate's to choose, if it found the way to an error
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(0)


def _harden() -> None:
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
    if os.getpid() != 1:
        kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
    # A first process is safe from signals for which it has no handler. SIGTERM is blocked and asked for, which tells
    # who sent it: the kubelet, or the candidate.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])


def _told_to_stop() -> bool:
    """Whether SIGTERM came from outside: there the sender has no process id in this namespace, and cannot forge one."""
    while (information := signal.sigtimedwait([signal.SIGTERM], 0)) is not None:
        if os.getpid() != 1 or (information.si_pid == 0 and information.si_code == 0):
            return True
    return False


class _Launcher:
    def __init__(self, places: Places) -> None:
        self._places = places
        self._run_dir, self._temporary = places.work / "run", places.work / "tmp"
        self._end_asked = False

    def run(self) -> None:
        try:
            terms = specs.from_environment()
            self._link, connections = self._connect(terms)
        except (SpecError, _Refused) as error:
            print(f"autoresearch: {error}", flush=True)  # the gate knows by itself
            return
        try:
            self._carry_out(terms, connections)
        except _Refused as error:
            self._link.send({"lost": {"detail": error.detail, "message": str(error)}})
        except source.SourceDiffers as error:
            self._link.send({"lost": {"detail": "Source", "message": str(error)}})
        except preparation.SourceError as error:
            self._fail("Source", str(error))
        except StartError as error:
            self._fail("Command", str(error))
        except WallError as error:
            self._link.send({"lost": {"detail": "Walls", "message": str(error)}})
        except LinkError as error:
            print(f"autoresearch: {error}", flush=True)
        except OSError as error:
            traceback.print_exc()
            self._link.send({"lost": {"detail": "OSError", "message": f"train: {type(error).__name__}: {error}"}})

    def _fail(self, detail: str, sentence: str) -> None:
        self._link.send({"failed": {"reason": "Crashed", "detail": detail, "message": sentence}})

    def _connect(self, terms: specs.PodTerms) -> tuple[Link, list[socket.socket]]:
        """Control, and one connection a rank, all while there is no candidate. Raises _Refused."""
        give_up = wall() + CONNECT_SECONDS
        greetings = [CONTROL_GREETING, *(rank_greeting(rank) for rank in range(terms.ranks))]
        connections: list[socket.socket] = []
        while len(connections) < len(greetings):
            connection = socket.socket(socket.AF_UNIX)
            try:
                connection.connect(str(self._places.gate_socket))
                connection.sendall(greetings[len(connections)])
                connections.append(connection)
                continue
            except OSError as error:
                connection.close()
                if self._places.closed.exists():
                    raise _Refused("Closed", f"the gate serves nothing: {self._places.closed.read_text()}") from None
                if wall() > give_up or _told_to_stop():
                    raise _Refused("Gate", f"the gate cannot be reached: {error}") from None
            time.sleep(0.1)
        link = Link(connections[0])
        link.receive(GO_SECONDS)
        if not link.inbox or not link.inbox.popleft().get("go"):
            raise _Refused("Gate", "the gate took the connections and did not say go")
        return link, connections[1:]

    def _carry_out(self, terms: specs.PodTerms, connections: list[socket.socket]) -> None:
        gpus = hardware.GPUs()
        if terms.device == "cuda":
            _check_gpus(gpus, terms.gpus)
        for folder in (self._run_dir, self._temporary):
            shutil.rmtree(folder, ignore_errors=True)
        source.unpack(self._places.source, self._run_dir, terms.source_sha256, terms.limits.disk_bytes)
        self._temporary.mkdir()
        starting = {
            "hardware": hardware.describe(terms.device, gpus),
            "referenceSeconds": preparation.reference_seconds(terms.threads),
            "sourceSHA256": terms.source_sha256,
        }
        self._link.send({"starting": starting})
        ranks = Ranks(terms, self._run_dir, self._temporary, connections)
        try:
            self._link.send({"isolation": ranks.isolation})
            self._watch(terms, ranks, gpus if terms.device == "cuda" else None)
        finally:
            ranks.end()

    def _watch(self, terms: specs.PodTerms, ranks: Ranks, gpus: hardware.GPUs | None) -> None:
        """Passes output on, answers the gate, measures, until the candidate has ended or has to."""
        clock = TreeClock(os.getpid())
        clock.watch_main(ranks.pids[0])
        watch = Watch(os.getpid(), clock, terms.limits, [self._run_dir, self._temporary])
        kills_before = oom_kills() or 0
        vram, next_look, next_sample = 0, wall(), wall()
        stream = open(1, "wb", buffering=0, closefd=False)  # noqa: SIM115 - closed by the log
        with OutputLog(stream, terms.limits.stdout_bytes) as log:
            poller = select.poll()
            for descriptor in (self._link.fileno(), ranks.output, *(os.pidfd_open(pid) for pid in ranks.pids)):
                poller.register(descriptor, select.POLLIN)
            while ranks.running and not self._end_asked and self._link.open:
                for descriptor, _ in poller.poll(POLL_SECONDS * 1000):
                    if descriptor == ranks.output:
                        if not log.take(descriptor):
                            poller.unregister(descriptor)
                    elif descriptor == self._link.fileno():
                        self._answer(clock)
                    else:
                        poller.unregister(descriptor)  # a rank has ended
                ranks.reap()
                now = wall()
                if now >= next_look:
                    next_look = now + POLL_SECONDS
                    self._look(watch)
                if gpus is not None and now >= next_sample:
                    next_sample = now + hardware.GPU_SAMPLE_SECONDS
                    vram = max(vram, *gpus.used_bytes(), 0)
            self._end(ranks, log)
            code, number = ranks.ending()
            if number == signal.SIGKILL and not self._end_asked and (oom_kills() or 0) > kills_before:
                text = out_of_memory(watch.peak_memory_bytes, terms.limits.memory_bytes)
                self._link.send({"excess": {"reason": "HostOutOfMemory", "detail": "OOMKilled", "message": text}})
            report = {
                "code": code,
                "signal": number,
                "tail": log.tail()[-_TOLD_TAIL_CHARACTERS:],
                "score": log.reported_score(),
                "cpuSeconds": clock.scan(),
                "peakMemoryBytes": watch.peak_memory_bytes or None,
                "peakVRAMBytes": vram or None,
                # Taken again: the candidate runs from a copy, and what it was copied from must be what it was.
                "sourceSHA256": source.sha256(self._places.source),
            }
        self._link.send({"ended": report})

    def _look(self, watch: Watch) -> None:
        excess = watch.poll()
        if excess:
            self._link.send({"excess": vars(excess)})
            self._end_asked = True
        if _told_to_stop():
            raise _Refused("Stopped", "The pod was told to end before the trial had a result.")

    def _answer(self, clock: TreeClock) -> None:
        self._link.receive()
        while self._link.inbox:
            message = self._link.inbox.popleft()
            if "ask" in message:
                reading = clock.scan() if message["exact"] else clock.quick()
                self._link.send({"answer": message["ask"], "cpu": reading})
            elif message.get("end"):
                self._end_asked = True

    def _end(self, ranks: Ranks, log: OutputLog) -> None:
        """Ends what is left, and passes on what it still printed."""
        if ranks.running:
            ranks.ask_to_end()
            give_up = wall() + TERM_SECONDS
            while ranks.running and wall() < give_up:
                log.take(ranks.output)
                time.sleep(0.01)
                ranks.reap()
        ranks.end()
        while log.take(ranks.output):
            pass


def _check_gpus(gpus: hardware.GPUs, wanted: int) -> None:
    """Raises _Refused when GPUs are missing or somebody else is on one. Without NVML nothing can be said."""
    if len(gpus) and len(gpus) < wanted:
        raise _Refused("GPUMissing", f"{len(gpus)} GPUs are visible in the container; the trial has {wanted}.")
    shared = hardware.used_by_others(gpus)
    if shared:
        raise _Refused("GPUShared", shared)
