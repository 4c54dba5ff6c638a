"""Small helpers for files that are either whole or absent."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .errors import DataError

_READ_BYTES = 1 << 20


def cache_root() -> Path:
    """The user's cache folder: `AUTORESEARCH_CACHE`, else the XDG cache folder of this name."""
    explicit = os.environ.get("AUTORESEARCH_CACHE")
    if explicit:
        return Path(explicit)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "autoresearch"


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_READ_BYTES):
            digest.update(block)
    return digest.hexdigest()


def write_synced(path: Path, data: bytes) -> None:
    """Writes data to path and waits until it is on the disk."""
    with path.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def require_free_space(folder: Path, needed_bytes: int, what: str) -> None:
    """Raises DataError when the disk under folder has less than needed_bytes free, before anything is written."""
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    if free < needed_bytes:
        raise DataError(
            f"{what} needs {needed_bytes / 2**30:.2f} GiB in {folder}, and {free / 2**30:.2f} GiB are free there: "
            "free some space, or choose another place with --out"
        )


@contextlib.contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A temporary folder beside target that becomes target when the block ends well, and vanishes when it does not.

    Two processes may build the same target at once: one of them wins, and the other keeps the winner's, which is equal.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield building
        building.chmod(0o755)  # mkdtemp makes it private; data are read by trials that may run as somebody else
        try:
            building.rename(target)
        except OSError as error:
            if not target.is_dir() or not any(target.iterdir()):
                raise DataError(
                    f"{target} cannot be written: {error.strerror}; choose another place with --out"
                ) from error
    finally:
        shutil.rmtree(building, ignore_errors=True)
