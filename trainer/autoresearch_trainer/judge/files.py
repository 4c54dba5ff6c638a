"""Opening what a candidate sent: regular files inside one folder, of bounded size, never through a link."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .refused import ARTIFACT_REFUSED, Refused, malformed


@contextmanager
def open_regular(folder: Path, name: str, max_bytes: int) -> Iterator[tuple[int, int]]:
    """(descriptor, bytes) of the regular file `name` directly in folder, read-only.

    Relative to the opened folder and with O_NOFOLLOW, so that no link leads elsewhere; with O_NONBLOCK, so that a FIFO
    does not hold the judge. Raises Refused when the file is missing, is none, or is longer than max_bytes.
    """
    directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
        except OSError as error:
            raise malformed("File", f"{name}: {error.strerror}. Only a regular file is read.") from error
    finally:
        os.close(directory)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise malformed("File", f"{name}: this is not a regular file.")
        if status.st_size > max_bytes:
            raise Refused(
                ARTIFACT_REFUSED,
                "TooLarge",
                f"{name}: {status.st_size} bytes; the most is {max_bytes} (artifactBytes).",
            )
        yield descriptor, status.st_size
    finally:
        os.close(descriptor)


def read_into(descriptor: int, buffer: memoryview, offset: int, where: str) -> None:
    """Fills buffer from the file's offset on. Raises Refused when the file ends first.

    Read, not mapped: a file that shrinks under a mapping kills its reader with SIGBUS.
    """
    done = 0
    while done < len(buffer):
        count = os.preadv(descriptor, [buffer[done : done + (1 << 30)]], offset + done)
        if count <= 0:
            raise malformed("File", f"{where}: the file ended at byte {offset + done}.")
        done += count


def read(descriptor: int, count: int, offset: int, where: str) -> bytes:
    """count bytes from the file's offset on; as read_into."""
    data = bytearray(count)
    read_into(descriptor, memoryview(data), offset, where)
    return bytes(data)
