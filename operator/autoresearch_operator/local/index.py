"""A compact copy of all records of a work folder, in one file.

Reading 5,000 experiments and 10,000 trials from their own files takes seconds; from here, half a second. A line is
used only while the file it was taken from has the size and time it had, so a file always wins over the index. When a
file turns out to be damaged, its line is what the record is restored from.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoresearch_operator.gateways.codec import dumps
from autoresearch_operator.local.durable import append_durable, write_durable


@dataclass(frozen=True, slots=True)
class Line:
    """One record as it was written last."""

    path: str
    """Of the record's file, relative to the work folder."""
    size: int
    """Bytes."""
    time: int
    """Modification time, nanoseconds since the epoch."""
    record: dict[str, Any]

    def matches(self, facts: os.stat_result) -> bool:
        return (self.size, self.time) == (facts.st_size, facts.st_mtime_ns)


class Index:
    """Append-only lines `<crc32> <json>`; the newest line of a path counts, lines that do not check out are skipped."""

    def __init__(self, path: Path, *, readonly: bool) -> None:
        self._path = path
        self._readonly = readonly
        self._lines = 0
        self.entries: dict[str, Line] = {}
        try:
            content = path.read_bytes()
        except OSError:
            content = b""
        for line in _readable(content):
            self._lines += 1
            self.entries[line.path] = line
        if not readonly and ((content and not content.endswith(b"\n")) or self._lines > 3 * len(self.entries) + 100):
            self.rewrite()

    def put(self, path: str, facts: os.stat_result, record: Mapping[str, Any], *, sync: bool) -> None:
        """Notes a record that was just written to its file, whose `facts` are given."""
        self.entries[path] = line = Line(path, facts.st_size, facts.st_mtime_ns, dict(record))
        if not self._readonly:
            append_durable(self._path, _encode(line), sync=sync)

    def note(self, name: str, record: Mapping[str, Any]) -> None:
        """Remembers something that has no file of its own."""
        self.entries[name] = line = Line(name, 0, 0, dict(record))
        if not self._readonly:
            append_durable(self._path, _encode(line), sync=False)

    def rewrite(self) -> None:
        """Writes only the lines that count."""
        write_durable(self._path, b"".join(_encode(line) for line in self.entries.values()))
        self._lines = len(self.entries)


def _encode(line: Line) -> bytes:
    body = dumps([line.path, line.size, line.time, line.record])
    return b"%08x %s\n" % (zlib.crc32(body), body)


def _readable(content: bytes) -> Iterator[Line]:
    bodies = []
    for row in content.split(b"\n"):
        body = row[9:]
        try:
            if len(row) >= 10 and int(row[:8], 16) == zlib.crc32(body):
                bodies.append(body)
        except ValueError:
            continue
    # One call of the parser in place of 15,000 saves a third of the time.
    for path, size, time, record in json.loads(b"[" + b",".join(bodies) + b"]"):
        yield Line(path, size, time, record)
