"""What may be a ref, a path in a tree or a URL. Everything else is refused before git sees it."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

from autoresearch_operator.gateways.errors import SourceRefused
from autoresearch_operator.gateways.process import Access

_SHA = re.compile(r"[0-9a-f]{40}")
_REF_PART = re.compile(r"[^\x00-\x20\x7f~^:?*\[\\]+")
_SCP = re.compile(r"(?:[A-Za-z0-9._-]+@)?[A-Za-z0-9][A-Za-z0-9.-]*:(?!//)[^\s-][^\s]*")


def is_sha(text: str) -> bool:
    return _SHA.fullmatch(text) is not None


def check_ref(ref: str) -> str:
    """A full ref name such as `refs/heads/main`, by git's own rules.

    Raises:
        SourceRefused: it is not one.
    """
    parts = ref.split("/")
    good = (
        ref.startswith("refs/")
        and len(parts) >= 3
        and ".." not in ref
        and "@{" not in ref
        and not ref.endswith((".", "/"))
        and all(_REF_PART.fullmatch(part) for part in parts)
        and not any(part.startswith((".", "-")) or part.endswith(".lock") for part in parts)
    )
    if not good:
        raise SourceRefused(f"{ref!r} is not a usable ref name: write it in full, such as refs/heads/main")
    return ref


def check_path(path: str) -> str:
    """A path within a tree: relative, without `..`, `.git` or control characters.

    Raises:
        SourceRefused: it is not one.
    """
    parts = path.split("/")
    if (
        not path
        or path.startswith('"')
        or any(character < " " or character == "\x7f" for character in path)
        or any(part in {"", ".", ".."} or part.lower() == ".git" for part in parts)
    ):
        raise SourceRefused(f"{path!r} is not a usable path: give one relative to the top, such as train.py")
    return path


def check_url(url: str, access: Access) -> str:
    """A URL that may be fetched from and pushed to, without a password in it.

    Raises:
        SourceRefused: the scheme is not allowed here, or there is a password in it.
    """
    if any(character <= " " for character in url) or url.startswith("-"):
        raise SourceRefused(f"source.url {url!r}: a URL has no spaces and does not start with a dash")
    split = urlsplit(url)
    if split.scheme and "://" in url:
        if split.password is not None:
            raise SourceRefused("source.url has a password in it: put credentials in secretName")
        if split.scheme not in access.protocols or split.scheme == "file" or not split.hostname:
            raise SourceRefused(f"source.url: {split.scheme}:// is not used; use https:// or ssh://")
        if split.hostname.startswith("-") or (split.username or "").startswith("-"):
            raise SourceRefused("source.url: host and user names do not start with a dash")
        return url
    if url.startswith(("/", "./", "../", "~")):
        if "file" not in access.protocols:
            raise SourceRefused(
                "source.url is a path on this machine: only local mode reads those; use https:// or ssh://"
            )
        return str(Path(url).expanduser().absolute())
    if _SCP.fullmatch(url) and "::" not in url and "ssh" in access.protocols:
        return url
    raise SourceRefused(f"source.url {url!r} is not understood: use https://…, ssh://… or user@host:path")
