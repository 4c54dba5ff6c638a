"""Files of a public data set over HTTP: listed with sizes and hashes, fetched with resume, never half accepted.

A download goes to `<name>.part`, with the server's ETag beside it. After a cut it continues with Range and If-Range, so
a file that has changed on the server since is fetched afresh instead of being joined from two versions. A file gets its
name only when its length and, where the server publishes one, its SHA-256 are right.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeVar

import httpx

from .errors import DataError
from .files import file_sha256, require_free_space, write_synced

DEFAULT_ENDPOINT = "https://huggingface.co"
ATTEMPTS = 6
"""Tries in a row that bring no new byte before a download is given up: with the waits below about a minute."""
LONGEST_WAIT_SECONDS = 60.0
PROGRESS_SECONDS = 5.0
_MAX_PAGES = 100
_RETRY_STATUS = frozenset({408, 429, 500, 502, 503, 504})
_OK, _PARTIAL, _RANGE_NOT_SATISFIABLE = 200, 206, 416
_PARQUET_MAGIC = b"PAR1"

Say = Callable[[str], None]
T = TypeVar("T")


@dataclass(frozen=True)
class RemoteFile:
    """One file of a data set's repository."""

    repository: str
    path: str
    size: int
    """Bytes."""
    sha256: str | None
    """None where the server does not publish it."""


class _Retry(Exception):
    """This try failed for a reason that may pass; `wait` is the server's wish in seconds, or None."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


def endpoint() -> str:
    """Where data sets are: `HF_ENDPOINT` (a mirror), else the public hub. Raises DataError for no web address."""
    value = os.environ.get("HF_ENDPOINT", "").strip().rstrip("/") or DEFAULT_ENDPOINT
    if not value.startswith(("http://", "https://")):
        raise DataError(f"HF_ENDPOINT is {value!r}: it must start with https:// or http://")
    return value


class Hub:
    """Reads data set repositories of one server. `sleep` takes seconds; tests pass one that does not wait."""

    def __init__(
        self,
        say: Say,
        *,
        base: str | None = None,
        sleep: Callable[[float], None] = time.sleep,
        timeout_seconds: float = 30.0,
    ) -> None:
        self._say, self._sleep = say, sleep
        self._base = base or endpoint()
        self._client = httpx.Client(follow_redirects=True, timeout=timeout_seconds)

    def __enter__(self) -> Hub:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def files(self, repository: str, suffix: str = ".parquet") -> list[RemoteFile]:
        """The repository's files that end with suffix, by path."""
        url: str | None = f"{self._base}/api/datasets/{repository}/tree/main?recursive=true"
        found: list[RemoteFile] = []
        for _ in range(_MAX_PAGES):
            if url is None:
                break
            response = self._listing_page(url)
            found += _parse_listing(response, repository, suffix)
            # A relative link is allowed; one to another server would send us where nobody chose to go.
            url = response.links.get("next", {}).get("url")
            url = str(httpx.URL(self._base).join(url)) if url else None
            if url and httpx.URL(url).host != httpx.URL(self._base).host:
                raise DataError(f"{self._base} continues its list of files on another server ({url}): not followed")
        if not found:
            raise DataError(f"{self._base}/datasets/{repository} lists no {suffix} files: was it moved or renamed?")
        return sorted(found, key=lambda file: file.path)

    def _listing_page(self, url: str) -> httpx.Response:
        def once() -> httpx.Response:
            response = self._client.get(url)
            _check_status(response)
            return response

        return self._with_retries(once, url, progressed=lambda: 0)

    def fetch(self, files: Sequence[RemoteFile], folder: Path, extra_bytes: int = 0) -> list[Path]:
        """Brings the files into folder, in order, and gives their paths; those already there are not fetched again.

        The disk is checked for all of them and `extra_bytes` more before the first byte. Raises DataError.
        """
        folder.mkdir(parents=True, exist_ok=True)
        missing = [file for file in files if not self._have(file, folder)]
        wanted = sum(file.size for file in missing) - sum(_size(_part(file, folder)) for file in missing)
        require_free_space(folder, max(0, wanted) + extra_bytes, f"Fetching {len(missing)} files")
        if missing:
            self._say(f"Fetching {len(missing)} files, {sum(file.size for file in missing) / 2**20:.0f} MiB.")
        for number, file in enumerate(missing, start=1):
            self._fetch_one(file, folder, f"{number}/{len(missing)} {file.path}")
        return [_target(file, folder) for file in files]

    def _have(self, file: RemoteFile, folder: Path) -> bool:
        return _size(_target(file, folder)) == file.size

    def _fetch_one(self, file: RemoteFile, folder: Path, label: str) -> None:
        target, part = _target(file, folder), _part(file, folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        url = f"{self._base}/datasets/{file.repository}/resolve/main/{file.path}"
        for attempt in (1, 2):
            self._with_retries(lambda: self._download(url, file, part, label), url, progressed=lambda: _size(part))
            problem = _problem(part, file)
            if problem is None:
                break
            # Joined from two versions, or damaged on the way: one fresh copy settles which.
            _discard(part)
            if attempt == 2:
                raise DataError(
                    f"{url}: {problem}, twice: the server's copy is damaged, or something changes it on the way"
                )
            self._say(f"{label}: {problem}; fetching it again.")
        part.replace(target)
        _discard(part)

    def _download(self, url: str, file: RemoteFile, part: Path, label: str) -> None:
        """One try: continues the part file as far as the connection lasts."""
        have, etag = _size(part), _read_etag(part)
        if have and (etag is None or have > file.size):
            _discard(part)
            have = 0
        if have == file.size and have:
            return
        headers = {"Range": f"bytes={have}-", "If-Range": etag} if have and etag else {}
        with self._client.stream("GET", url, headers=headers | {"Accept-Encoding": "identity"}) as response:
            if response.status_code == _RANGE_NOT_SATISFIABLE:
                _discard(part)
                raise _Retry("the file has become shorter on the server")
            _check_status(response)
            continued = response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
            if response.status_code == _PARTIAL and continued:
                mode = "ab"
            else:
                if have:
                    self._say(f"{label}: it has changed on the server since; starting again.")
                _discard(part)
                mode, have = "wb", 0
            _write_etag(part, response.headers.get("ETag"))
            self._receive(response, part, mode, have, file, label)
        if _size(part) < file.size:
            raise _Retry(f"the connection ended after {_size(part)} of {file.size} bytes")

    def _receive(
        self, response: httpx.Response, part: Path, mode: str, have: int, file: RemoteFile, label: str
    ) -> None:
        began = shown = time.monotonic()
        received = 0
        with part.open(mode) as stream:
            for chunk in response.iter_raw():  # a chunk size would lose what was gathered when a connection ends
                stream.write(chunk)
                received += len(chunk)
                if have + received > file.size:
                    break  # longer than announced: the check of the whole file says so
                now = time.monotonic()
                if now - shown >= PROGRESS_SECONDS:
                    shown = now
                    rate = received / (now - began) / 2**20
                    share = (have + received) / file.size
                    self._say(f"{label}: {share:.0%} of {file.size / 2**20:.0f} MiB, {rate:.1f} MiB/s")

    def _with_retries(self, once: Callable[[], T], url: str, progressed: Callable[[], int]) -> T:
        """Calls once() until it succeeds, or ATTEMPTS tries in a row have brought nothing new."""
        failures, before = 0, progressed()
        while True:
            try:
                return once()
            except (_Retry, httpx.TransportError) as error:
                reason = str(error) or type(error).__name__
                wait = error.wait if isinstance(error, _Retry) else None
            except OSError as error:
                raise DataError(f"{url} cannot be stored: {error.strerror}; what has come is kept") from error
            except httpx.HTTPError as error:
                raise DataError(f"{url}: {error}") from error
            now = progressed()
            failures = 1 if now > before else failures + 1
            before = now
            if failures >= ATTEMPTS:
                raise DataError(
                    f"{url}: {reason}; given up after {failures} tries. "
                    "What has come is kept: run the same command again"
                )
            self._sleep(min(LONGEST_WAIT_SECONDS, wait if wait is not None else 2.0 ** (failures - 1)))


def _check_status(response: httpx.Response) -> None:
    status = response.status_code
    if status in (_OK, _PARTIAL):
        return
    if status in _RETRY_STATUS:
        wanted = response.headers.get("Retry-After", "")
        raise _Retry(f"the server answers {status}", float(wanted) if wanted.isdigit() else None)
    hint = {
        401: "it wants a login, and only public data sets are supported",
        403: "access is refused: the data set may need its terms accepted on its page",
        404: "there is no such file: the data set may have been moved or renamed",
    }.get(status, "this was not expected")
    raise DataError(f"{response.url}: the server answers {status}; {hint}")


def _parse_listing(response: httpx.Response, repository: str, suffix: str) -> list[RemoteFile]:
    try:
        entries = response.json()
        found = []
        for entry in entries:
            path = PurePosixPath(entry["path"])
            if entry["type"] != "file" or path.suffix != suffix:
                continue
            if path.is_absolute() or ".." in path.parts:
                raise DataError(f"{response.url} lists {str(path)!r}, a path outside the data set: not fetched")
            large = entry.get("lfs") or {}
            found.append(RemoteFile(repository, str(path), int(large.get("size", entry["size"])), large.get("oid")))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{response.url} does not answer with a list of files ({error!r}): is HF_ENDPOINT right?"
        ) from error
    return found


def _problem(part: Path, file: RemoteFile) -> str | None:
    """Why the downloaded bytes are not the file; None when they are."""
    size = _size(part)
    if size != file.size:
        return f"{size} bytes came, and {file.size} were announced"
    if file.sha256 and (found := file_sha256(part)) != file.sha256:
        return f"the SHA-256 is {found[:12]}…, and {file.sha256[:12]}… is published"
    if file.path.endswith(".parquet"):
        with part.open("rb") as stream:
            head = stream.read(len(_PARQUET_MAGIC))
            stream.seek(max(0, size - len(_PARQUET_MAGIC)))
            if head != _PARQUET_MAGIC or stream.read() != _PARQUET_MAGIC:
                return "what came is not a whole parquet file"
    return None


def _target(file: RemoteFile, folder: Path) -> Path:
    return folder / file.path


def _part(file: RemoteFile, folder: Path) -> Path:
    return folder / f"{file.path}.part"


def _etag_file(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _etag_file(part).unlink(missing_ok=True)


def _read_etag(part: Path) -> str | None:
    try:
        value = json.loads(_etag_file(part).read_bytes())["etag"]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # without it a part cannot be continued safely, and is fetched again
    return value if isinstance(value, str) else None


def _write_etag(part: Path, etag: str | None) -> None:
    if etag and not etag.startswith("W/"):  # a weak one does not promise the same bytes
        write_synced(_etag_file(part), json.dumps({"etag": etag}).encode())
