"""The trusted end of an artifact's way: its stream becomes two files in a folder that the sender cannot reach.

Only lengths are looked at here; everything else in the files is for the judge to check. torch is not imported: the gate
has no other use for it.
"""

import hashlib
import os
import struct
from pathlib import Path
from typing import BinaryIO

GRAPH_FILE = "graph.json"
WEIGHTS_FILE = "weights.safetensors"
MAX_GRAPH_BYTES = 8 << 20
"""A GPT of 100 layers takes about 1 MB."""
GRAPH_LENGTH = struct.Struct("<Q")
"""In front of the stream: the bytes of graph.json; the weights are what follows it."""


class Receiver:
    """Takes in the stream of `artifact.Traced.write`.

    How long the whole may be is for the caller to limit (the channel does). A length out of bounds, or an end before
    the last byte, is a ValueError with a sentence.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._digest = hashlib.sha256()
        self._head = bytearray()
        self._graph_left: int | None = None
        self._weights_bytes = 0
        self._file: BinaryIO | None = None

    def write(self, data: bytes | memoryview) -> None:
        """Takes the next bytes of the stream."""
        view = memoryview(data).cast("B")
        self._digest.update(view)
        if self._graph_left is None:
            take = min(len(view), GRAPH_LENGTH.size - len(self._head))
            self._head += view[:take]
            view = view[take:]
            if len(self._head) < GRAPH_LENGTH.size:
                return
            (self._graph_left,) = GRAPH_LENGTH.unpack(self._head)
            if not 0 < self._graph_left <= MAX_GRAPH_BYTES:
                raise ValueError(
                    f"The artifact announces {self._graph_left} bytes of {GRAPH_FILE}; the most is {MAX_GRAPH_BYTES}."
                )
            self._file = self._open(GRAPH_FILE)
        assert self._file is not None  # noqa: S101 - opened when the length was known
        if self._graph_left:
            piece = view[: self._graph_left]
            self._file.write(piece)
            self._graph_left -= len(piece)
            view = view[len(piece) :]
            if self._graph_left:
                return
            self._file.close()
            self._file = self._open(WEIGHTS_FILE)
        self._file.write(view)
        self._weights_bytes += len(view)

    def close(self) -> str:
        """Ends the artifact and gives the SHA-256 of the whole stream."""
        if self._file is not None:
            self._file.close()
        if self._graph_left is None or self._graph_left or not self._weights_bytes:
            raise ValueError("The artifact ended before its weights.")
        return self._digest.hexdigest()

    def _open(self, name: str) -> BinaryIO:
        # exclusive and never through a link, as a folder left by an earlier attempt might hold anything
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.fdopen(os.open(self._folder / name, flags, 0o600), "wb")


def stream_sha256(folder: Path) -> str:
    """SHA-256 of the stream that became the files in folder: what `Receiver.close` gave. Raises OSError."""
    graph = folder / GRAPH_FILE
    digest = hashlib.sha256(GRAPH_LENGTH.pack(graph.stat().st_size))
    for path in (graph, folder / WEIGHTS_FILE):
        with path.open("rb") as stream:
            while piece := stream.read(1 << 20):
                digest.update(piece)
    return digest.hexdigest()
