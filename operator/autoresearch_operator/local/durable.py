"""Files that survive a power cut, a full disk and a second process: whole or absent, and read with suspicion."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
from pathlib import Path
from typing import Any

from autoresearch_operator.gateways.errors import StorageFull

__all__ = ["DamagedFile", "RunLock", "RunLocked", "StorageFull", "quarantine", "read_json", "write_durable"]


class DamagedFile(ValueError):
    """A file is there and is not what was written: cut off, or not what it should be."""


class RunLocked(Exception):
    """Another process works on the folder; the message names it."""


def write_durable(path: Path, content: bytes) -> os.stat_result:
    """Puts `content` at `path`: afterwards the file is whole and on disk, or the call raised and nothing changed.

    Raises:
        StorageFull: no space or quota left; the old file, if there was one, is intact.
    """
    scratch = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        handle = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            view = memoryview(content)
            while view:
                view = view[os.write(handle, view) :]
            os.fsync(handle)
            facts = os.fstat(handle)
        finally:
            os.close(handle)
        scratch.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)
        raise storage_error(error, path) from error
    return facts


def append_durable(path: Path, content: bytes, *, sync: bool) -> None:
    """Adds `content` at the end of `path` with one write; with `sync` it is on disk afterwards.

    Raises:
        StorageFull: no space left. A part may have been written: readers check each line.
    """
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            if os.write(handle, content) != len(content):
                raise OSError(errno.ENOSPC, "short write", str(path))
            if sync:
                os.fdatasync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        raise storage_error(error, path) from error


def storage_error(error: OSError, path: Path) -> OSError:
    """The error itself, or a `StorageFull` with a sentence when the reason is a full disk."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return StorageFull(errno.ENOSPC, f"the disk is full: {path} was not written; free some space and run again")
    return error


def sync_folder(folder: Path) -> None:
    """Makes renames and new files in `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None when there is no such file.

    Raises:
        DamagedFile: the file is there and holds something else, such as the first half of an object.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise DamagedFile(f"{path} cannot be read: {error.strerror}") from None
    try:
        with os.fdopen(handle, "rb") as file:
            value = json.loads(file.read())
    except OSError as error:
        raise DamagedFile(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise DamagedFile(f"{path} is cut off or not JSON: {error}") from None
    if not isinstance(value, dict):
        raise DamagedFile(f"{path} holds no JSON object")
    return value


def quarantine(path: Path) -> Path:
    """Renames a damaged file or folder to `<name>.corrupt-<n>`; nothing is ever deleted. Gives the new path."""
    number = 1
    while (target := path.with_name(f"{path.name}.corrupt-{number}")).exists():
        number += 1
    path.rename(target)
    sync_folder(path.parent)
    return target


class RunLock:
    """The right to write to a work folder: a file lock that ends with its process, however that ends."""

    def __init__(self, path: Path) -> None:
        """Takes the lock.

        Raises:
            RunLocked: another process has it.
        """
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(self._handle, 32).decode("ascii", "replace").strip()
            os.close(self._handle)
            who = f"process {holder}" if holder.isdigit() else "another process"
            raise RunLocked(
                f"{path.parent} is in use by {who}: wait for it, stop it with Ctrl-C, or give another --workdir"
            ) from None
        os.ftruncate(self._handle, 0)
        os.pwrite(self._handle, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1
