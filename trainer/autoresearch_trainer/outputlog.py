"""A candidate's output, passed on: its first and its last part, never more than the limit, whatever is printed."""

import os
import re
from contextlib import suppress
from io import FileIO
from types import TracebackType

_READ_BYTES = 1 << 16
_TAIL_TEXT_BYTES = 1 << 14
_SCORE = re.compile(r"^\s*val_bpb:\s*([0-9]+(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?)\s*$", re.MULTILINE)


class OutputLog:
    """Takes output from a pipe: the head goes to the stream at once, so it can be followed, the tail at the end."""

    def __init__(self, stream: FileIO, limit_bytes: int) -> None:
        """stream: a file or a pipe, unbuffered; closed at the end."""
        self._file = stream
        self._half = limit_bytes // 2
        self._head_left = self._half
        self._tail = bytearray()
        self._dropped = 0
        self._last = bytearray()

    def take(self, descriptor: int) -> bool:
        """Reads what is in the non-blocking pipe, at most 64 KiB; False when there is nothing more, for now or for
        good.
        """
        try:
            data = os.read(descriptor, _READ_BYTES)
        except BlockingIOError:
            return False
        if not data:
            return False
        self._last = (self._last + data)[-_TAIL_TEXT_BYTES:]
        head, rest = data[: self._head_left], data[self._head_left :]
        if head:
            self._write(head)
            self._head_left -= len(head)
        self._tail += rest
        if len(self._tail) > self._half:
            over = len(self._tail) - self._half
            self._dropped += over
            del self._tail[:over]
        return True

    def tail(self) -> str:
        """The last 16 KiB of all output, as text."""
        return self._last.decode("utf-8", "replace")

    def reported_score(self) -> float | None:
        """The number of the last `val_bpb:` line; None when there is none."""
        found = _SCORE.findall(self.tail())
        return float(found[-1]) if found else None

    def __enter__(self) -> "OutputLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._dropped:
            self._write(f"\n[... {self._dropped} bytes of output were left out ...]\n".encode())
        self._write(self._tail)
        self._file.close()

    def _write(self, data: bytes | bytearray) -> None:
        view = memoryview(data)
        with suppress(
            OSError
        ):  # output that no longer fits on the disk, or that nobody reads, must not cost the result
            while view:
                view = view[self._file.write(view) :]
