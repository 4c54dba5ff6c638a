"""The control connection between gate and launcher: one JSON object a line, both ends trusted.

gate -> launcher: {"go": true}, {"ask": n, "exact": bool}, {"end": true}
launcher -> gate: {"starting": {…}}, {"isolation": {…}}, {"answer": n, "cpu": seconds}, {"excess": {…}},
                  {"ended": {…}}, {"lost": {…}}, {"failed": {…}}
"""

import json
import select
import socket
from collections import deque
from typing import Any

from ..clock import wall

MAX_LINE_BYTES = 1 << 18
ANSWER_SECONDS = 10.0
"""How long the launcher may take over one reading. It does next to nothing else and runs before the candidate."""


class LinkError(Exception):
    """The other end broke the connection's rules or went silent; str() says how."""


class Link:
    """One end of the connection."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._connection = connection
        self._partial = bytearray()
        self.inbox: deque[dict[str, Any]] = deque()
        """Messages that have come and that nobody has taken yet."""
        self.open = True
        """False once the other end has gone."""

    def fileno(self) -> int:
        """The descriptor to select on."""
        return self._connection.fileno()

    def send(self, message: dict[str, Any]) -> None:
        """Sends one message; nothing when the other end has gone. Raises LinkError when it does not read."""
        view = memoryview(json.dumps(message).encode() + b"\n")
        while view and self.open:
            try:
                view = view[self._connection.send(view) :]
            except BlockingIOError as error:
                if not select.select([], [self._connection], [], ANSWER_SECONDS)[1]:
                    raise LinkError("the other end of the control connection does not read") from error
            except OSError:
                self.open = False

    def receive(self, seconds: float = 0.0) -> None:
        """Puts what has come into the inbox, after at most so long a wait for the first byte."""
        if not self.open or not select.select([self._connection], [], [], max(0.0, seconds))[0]:
            return
        try:
            data = self._connection.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.open = False
        self._partial += data
        *lines, rest = bytes(self._partial).split(b"\n")
        self._partial = bytearray(rest)
        if len(rest) > MAX_LINE_BYTES:
            raise LinkError(f"a control message is longer than {MAX_LINE_BYTES} bytes")
        for line in lines:
            try:
                message = json.loads(line)
            except ValueError as error:
                raise LinkError(f"a control message is no JSON: {error}") from error
            if not isinstance(message, dict):
                raise LinkError("a control message is no object")
            self.inbox.append(message)


class RemoteClock:
    """The CPU seconds of the candidate's tree, asked of the launcher: only its container can see the processes.

    Implements `clock.Clock`. Costs one round trip (some 100 us), in which the candidate waits for its batch anyway.
    Never runs backwards; when the launcher has gone, the last reading stands. Raises LinkError when it is there and
    silent.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._asked = 0
        self._highest = 0.0

    def scan(self) -> float:
        return self._ask(exact=True)

    def quick(self) -> float:
        return self._ask(exact=False)

    def note(self, seconds: float) -> None:
        """Takes in a reading that came without a question."""
        self._highest = max(self._highest, seconds)

    def _ask(self, *, exact: bool) -> float:
        self._asked += 1
        self._link.send({"ask": self._asked, "exact": exact})
        give_up = wall() + ANSWER_SECONDS
        while self._link.open:
            self._link.receive(give_up - wall())
            for message in list(self._link.inbox):
                if "answer" in message:
                    self._link.inbox.remove(message)
                    self.note(float(message["cpu"]))
                    if message["answer"] == self._asked:
                        return self._highest
            if wall() > give_up:
                raise LinkError(f"the launcher did not answer for {ANSWER_SECONDS:g} s")
        return self._highest
