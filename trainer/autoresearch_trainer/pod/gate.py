"""`python -m autoresearch_trainer gate`: the trusted sidecar that owns training data, clock and artifact.

It takes the launcher's connections, all opened before a line of the candidate's code has run, then closes and removes
its socket: there is no door left to knock at. It serves until the trial is decided, writes account.json and idles until
it is told to end. Whatever goes wrong ends in account.json too, so that the judge can say it.
"""

import os
import signal
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from .. import classify
from ..attend import Hears, attend
from ..clock import wall
from ..data import manifest as manifests
from ..data.errors import DataError
from ..data.shards import TokenSplit
from ..fields import SpecError
from ..gate import Gate
from ..referee import Referee
from ..result import LOST, Isolation, TrialResult
from . import draft as drafts
from . import spec as specs
from .draft import Draft
from .link import Link, LinkError, RemoteClock
from .places import Places, data_dir

CONTROL_GREETING = b"autoresearch 1 control\n"
GREETING_SECONDS = 60.0
"""From the first connection to the last."""
PREPARATION_SECONDS = 300.0
"""From the last connection to the candidate's start: unpacking, a reference measurement, a look at the GPUs."""
REPORT_SECONDS = 30.0
"""From the order to end the tree to the launcher's report."""
_MAX_GREETING_BYTES = 64


def rank_greeting(rank: int) -> bytes:
    """The first line on the connection of a rank."""
    return f"autoresearch 1 rank {rank}\n".encode()


class Lost(Exception):
    """The trial cannot be carried out, through no fault of the candidate."""

    def __init__(self, detail: str, sentence: str) -> None:
        super().__init__(sentence)
        self.detail = detail


def main() -> NoReturn:
    """Serves one trial, then waits for SIGTERM; ends with code 0 within a moment of it."""
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    places, began = Places.of(), wall()
    draft = Draft(TrialResult(outcome=LOST), to_judge=False, began=began)
    try:
        terms = specs.from_environment()
        result = draft.result
        result.split, result.seed, result.self_reported = terms.split, terms.seed, terms.self_reported
        _claim(places)
        draft.to_judge = _serve(terms, places, result)
    except SpecError as error:
        draft.result.lose("Spec", str(error))
    except DataError as error:
        draft.result.lose("Data", str(error))
    except LinkError as error:
        draft.result.lose("Launcher", f"{error}.")
    except Lost as error:
        draft.result.lose(error.detail, str(error))
    except OSError as error:
        draft.result.lose("OSError", f"{type(error).__name__}: {error}")
    finally:
        # Also after an error that nobody foresaw, which then ends this process with a traceback.
        _close(places, draft)
    while True:
        signal.pause()


def _claim(places: Places) -> None:
    """Marks the trial as begun. Raises Lost when it was before: its data order and clock cannot be served again."""
    try:
        os.close(os.open(places.served, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        raise Lost("GateRestarted", "The gate was started again in the middle of the trial.") from None


def _close(places: Places, draft: Draft) -> None:
    if not (places.account / drafts.FILE_NAME).exists():
        drafts.write(places.account, draft)
    with suppress(OSError):  # a socket folder that is full or gone only costs train its wait
        places.closed.write_text(draft.result.message or "The trial is over.")
    # The probe is for "train may start". When nothing can be served train still starts, and gives up at once, so that
    # the judge comes to report why.
    places.ready.touch()


def _serve(terms: specs.PodTerms, places: Places, result: TrialResult) -> bool:
    """Carries the trial out; True when there is a model for the judge."""
    data = data_dir()
    TokenSplit(data, "train", manifest=manifests.load(data))  # better known before a candidate starts
    places.artifact.mkdir()
    control, connections = _connect(terms, places)
    link = Link(control)
    link.send({"go": True})
    referee = _Trial(terms, places, result, data, link, connections)
    return referee.run()


def _connect(terms: specs.PodTerms, places: Places) -> tuple[socket.socket, list[socket.socket]]:
    """The launcher's connections: control, and one a rank. Afterwards nobody can connect any more."""
    path = places.gate_socket
    with suppress(FileNotFoundError):
        path.unlink()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        path.chmod(0o666)  # the launcher has another user id
        listener.listen(1 + terms.ranks)
        places.ready.touch()
        expected = {CONTROL_GREETING, *(rank_greeting(rank) for rank in range(terms.ranks))}
        found: dict[bytes, socket.socket] = {}
        give_up = None
        while len(found) < 1 + terms.ranks:
            # The first may take its time: a kubelet decides when train starts.
            listener.settimeout(None if give_up is None else max(0.01, give_up - wall()))
            try:
                connection, _ = listener.accept()
                give_up = give_up or wall() + GREETING_SECONDS
                connection.settimeout(max(0.01, give_up - wall()))
                greeting = _greeting(connection)
            except TimeoutError:
                missing = ", ".join(sorted(word.decode().strip() for word in expected - set(found)))
                raise Lost("Launcher", f"The launcher did not open all its connections: {missing}.") from None
            if greeting not in expected or greeting in found:
                raise Lost("Launcher", f"A connection to the gate began with {greeting[:40]!r}.")
            found[greeting] = connection
        path.unlink()
    return found[CONTROL_GREETING], [found[rank_greeting(rank)] for rank in range(terms.ranks)]


def _greeting(connection: socket.socket) -> bytes:
    line = b""
    while not line.endswith(b"\n") and len(line) < _MAX_GREETING_BYTES:
        byte = connection.recv(1)
        if not byte:
            break
        line += byte
    return line


class _Trial:
    """One trial from the launcher's first message to the account."""

    def __init__(
        self,
        terms: specs.PodTerms,
        places: Places,
        result: TrialResult,
        data: Path,
        link: Link,
        connections: list[socket.socket],
    ) -> None:
        self._terms, self._result, self._link = terms, result, link
        self._clock = RemoteClock(link)
        self._gate = Gate(connections, terms, data, places.artifact, self._clock)
        self._referee = Referee(terms, self._gate, self._clock, wall())
        self._report: dict[str, Any] | None = None

    def run(self) -> bool:
        """Serves until the trial is decided; True when there is a model for the judge."""
        self._await_start()
        hears: Hears = {self._link.fileno(): lambda _: self._hear()}
        attend(self._gate, hears, self._look, lambda: self._referee.decided or not self._link.open)
        if self._referee.forced is None:
            for channel in self._gate.channels:
                channel.drain()
        self._await_report()
        report = self._report
        if report is None and not self._referee.decided and not self._gate.account.handed_over:
            raise Lost("Launcher", "The launcher ended without a report: its container was killed.")
        result = self._result
        self._referee.record(result)
        if report is not None:
            result.peak_memory_bytes = report["peakMemoryBytes"]
            result.peak_vram_bytes = max(report["peakVRAMBytes"] or 0, result.peak_vram_bytes or 0) or None
            result.source_sha256 = report["sourceSHA256"]
        report = report or {"tail": "", "score": None}
        return self._referee.conclude(result, report["tail"], report["score"])

    def _await_start(self) -> None:
        give_up = wall() + PREPARATION_SECONDS
        while True:
            self._link.receive(give_up - wall())
            while self._link.inbox:
                if self._take(self._link.inbox.popleft()):
                    return
            if not self._link.open:
                raise Lost("Launcher", "The launcher ended before the candidate had started.")
            if wall() > give_up:
                raise Lost("Launcher", f"The candidate had not started after {PREPARATION_SECONDS:g} s.")

    def _hear(self) -> bool:
        self._link.receive()
        self._take_all()
        return self._link.open

    def _look(self, now: float) -> None:
        self._take_all()  # what came while the clock was asked
        if not self._referee.decided:
            self._referee.look(now)

    def _take_all(self) -> None:
        while self._link.inbox:
            self._take(self._link.inbox.popleft())

    def _take(self, message: dict[str, Any]) -> bool:
        """Acts on one message of the launcher; True when the candidate is about to start, or never will."""
        try:
            return self._understand(message)
        except (KeyError, TypeError, ValueError) as error:
            raise LinkError(f"the launcher said {str(message)[:200]}, which cannot be understood ({error})") from error

    def _understand(self, message: dict[str, Any]) -> bool:
        referee, result = self._referee, self._result
        if "starting" in message:
            told = message["starting"]
            result.hardware, result.reference_seconds = told["hardware"], told["referenceSeconds"]
            result.source_sha256 = told["sourceSHA256"]
            self._referee = Referee(self._terms, self._gate, self._clock, wall())
            return True
        if "isolation" in message:
            result.isolation = Isolation(**message["isolation"])
        elif "excess" in message or "failed" in message:
            referee.forced = referee.forced or classify.Failure(**(message.get("excess") or message["failed"]))
            return "failed" in message
        elif "lost" in message:
            raise Lost(message["lost"]["detail"], message["lost"]["message"])
        elif "ended" in message:
            self._report = message["ended"]
            self._clock.note(float(self._report["cpuSeconds"]))
            if referee.ending is None:
                referee.ending = classify.Ending(self._report["code"], self._report["signal"])
        return False

    def _await_report(self) -> None:
        """Has the tree ended, and waits for what the launcher has to say of it."""
        self._link.send({"end": True})
        give_up = wall() + REPORT_SECONDS
        while self._report is None and self._link.open and wall() < give_up:
            self._link.receive(give_up - wall())
            self._take_all()
        self._link.receive()
        self._take_all()
