"""A text stream that a long run can write to without ever failing because of its reader."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TextIO


class SafeStream:
    """A text stream that falls silent instead of failing when its reader goes away or cannot show a character."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.broken = False

    def write(self, text: str) -> int:
        if not self.broken:
            try:
                self._stream.write(text)
            except UnicodeEncodeError:
                encoding = self.encoding
                self.write(text.encode(encoding, "backslashreplace").decode(encoding))
            except (OSError, ValueError):
                self._break()
        return len(text)

    def flush(self) -> None:
        if not self.broken:
            try:
                self._stream.flush()
            except (OSError, ValueError):
                self._break()

    def isatty(self) -> bool:
        try:
            return not self.broken and self._stream.isatty()
        except ValueError:
            return False

    def fileno(self) -> int:
        return self._stream.fileno()

    @property
    def encoding(self) -> str:
        return self._stream.encoding or "utf-8"

    def _break(self) -> None:
        self.broken = True
        # What is still buffered would fail again when the interpreter flushes it at exit; let it go nowhere.
        if self._stream in (sys.stdout, sys.__stdout__):
            with contextlib.suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._stream.fileno())
                os.close(nowhere)
