"""The candidate's files: source.tar is checked against its hash and unpacked, regular files and folders only."""

import hashlib
import os
import tarfile
from pathlib import Path, PurePosixPath

from ..preparation import SourceError

FILE_NAME = "source.tar"
MAX_TAR_BYTES = 64 << 20
MAX_ENTRIES = 4096


class SourceDiffers(Exception):
    """source.tar is not the one that was asked for: nothing the candidate did. str() says how."""


def sha256(folder: Path) -> str:
    """SHA-256 of source.tar in hexadecimal. Raises OSError."""
    with (folder / FILE_NAME).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def unpack(folder: Path, target: Path, wanted_sha256: str, disk_bytes: int) -> None:
    """Unpacks folder/source.tar into target, which must not exist.

    The hash is taken of the very bytes that are unpacked. Raises SourceDiffers for another hash, SourceError for links,
    devices, names that lead outside, names that come twice and for more than disk_bytes in all; OSError.
    """
    path = folder / FILE_NAME
    size = path.stat().st_size
    if size > MAX_TAR_BYTES:
        raise SourceError(f"{FILE_NAME} has {size} bytes; {MAX_TAR_BYTES} are accepted.")
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found != wanted_sha256:
            raise SourceDiffers(f"{FILE_NAME} has SHA-256 {found[:12]}…, and {wanted_sha256[:12]}… was asked for.")
        stream.seek(0)
        target.mkdir(parents=True)
        try:
            with tarfile.open(fileobj=stream, mode="r:") as archive:
                _unpack(archive, target, disk_bytes)
        except tarfile.TarError as error:
            raise SourceError(f"{FILE_NAME} cannot be read: {error}.") from error


def _unpack(archive: tarfile.TarFile, target: Path, disk_bytes: int) -> None:
    left = disk_bytes
    for number, member in enumerate(archive):
        if number >= MAX_ENTRIES:
            raise SourceError(f"{FILE_NAME} has more than {MAX_ENTRIES} entries.")
        name = PurePosixPath(member.name)
        if name.is_absolute() or ".." in name.parts or "\0" in member.name:
            raise SourceError(f"{member.name!r} leads outside the candidate's folder.")
        place = target / name
        if member.isdir():
            place.mkdir(parents=True, exist_ok=True)
            continue
        content = archive.extractfile(member) if member.isreg() and not member.issparse() else None
        if content is None:
            raise SourceError(f"{member.name} is a link or a special file: a candidate may hold regular files only.")
        left -= member.size
        if left < 0:
            raise SourceError(f"The candidate's files are larger than limits.diskBytes, {disk_bytes} bytes.")
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
        except FileExistsError:
            raise SourceError(f"{member.name} comes twice.") from None
        with os.fdopen(descriptor, "wb") as out:
            while piece := content.read(1 << 20):
                out.write(piece)
