"""From a Secret to what git needs, for exactly as long as git needs it.

Any author of a run may name any Secret of the namespace, so a Secret is used only when its owner marked it, and only
towards the hosts that its owner wrote on it. Its content reaches git through files that only we can read: never
through arguments, through the environment or through a message.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from autoresearch_operator.gateways.process import Access

LABEL_USABLE = "autoresearch.dev/usable"
ANNOTATION_HOSTS = "autoresearch.dev/hosts"
BASIC_AUTH = "kubernetes.io/basic-auth"
SSH_AUTH = "kubernetes.io/ssh-auth"
MEMORY = Path("/dev/shm")  # noqa: S108 - a folder of our own is made in it, with mode 0700
"""Where credentials are kept while git runs: memory, so that they never reach a disk."""
_PORTS = {"https": 443, "http": 80, "ssh": 22}
_SCP = re.compile(r"(?:[^@/\s]+@)?(?P<host>[A-Za-z0-9][A-Za-z0-9.-]*):(?!//)(?P<path>\S+)")
_HOST = re.compile(r"(\*\.)?[a-z0-9_]([a-z0-9._-]*[a-z0-9_])?|\[[0-9a-f:.]+\]")
_LONG_NAME = 16
"""A user name this long may be a token: servers take those as user names too."""


class SecretNotAllowed(Exception):
    """The Secret may not be used for this URL, or cannot be; the message says what to change."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a git URL leads."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def repository(self) -> tuple[str, str]:
        """The same for all spellings of one repository: by https or ssh, with `.git` or without."""
        return self.host, self.path.strip("/").removesuffix(".git")


def address(url: str) -> Address:
    """The parts of an https://, ssh:// or user@host:path URL, host in lower case and port filled in.

    Raises:
        ValueError: it is none of these.
    """
    if "://" not in url:
        match = _SCP.fullmatch(url)
        if match is None:
            raise ValueError(f"{url!r} names no host")
        return Address("ssh", match["host"].lower().rstrip("."), 22, match["path"])
    parts = urlsplit(url)
    if not parts.hostname or parts.scheme not in _PORTS:
        raise ValueError(f"{url!r} names no host")
    return Address(parts.scheme, parts.hostname.lower().rstrip("."), parts.port or _PORTS[parts.scheme], parts.path)


def check_allowed(secret: Mapping[str, Any], url: str) -> None:
    """Whether the Secret's owner allows it to be used for `url`, which may be any https:// or ssh URL.

    Raises:
        SecretNotAllowed: the label is missing or no entry of the annotation is the URL's host.
    """
    metadata = secret.get("metadata") or {}
    name = metadata.get("name", "")
    if (metadata.get("labels") or {}).get(LABEL_USABLE) != "true":
        raise SecretNotAllowed(
            f"the Secret {name} is not marked for use: whoever owns it runs "
            f"`kubectl label secret {name} {LABEL_USABLE}=true`"
        )
    where = address(url)
    hosts = (metadata.get("annotations") or {}).get(ANNOTATION_HOSTS, "")
    entries = [entry.strip() for entry in hosts.split(",") if entry.strip()]
    if not any(_matches(entry.lower(), where) for entry in entries):
        usual = where.port == _PORTS[where.scheme]
        wanted = where.host if usual else f"{where.host}:{where.port}"
        given = f"is for {', '.join(entries)[:200]}" if entries else "names no host"
        raise SecretNotAllowed(
            f"the Secret {name} {given}, and the URL leads to {wanted}: whoever owns it adds that to its annotation "
            f"{ANNOTATION_HOSTS} (a comma-separated list)"
        )


def _matches(entry: str, where: Address) -> bool:
    """An entry without a port stands for the scheme's usual one; `*.` for at least one more label, nothing else."""
    host, colon, port = entry.rpartition(":") if re.search(r":[0-9]+$", entry) else (entry, "", "")
    if not _HOST.fullmatch(host):
        return False
    if (int(port) if colon else _PORTS[where.scheme]) != where.port:
        return False
    bare = f"[{where.host}]" if ":" in where.host else where.host
    if host.startswith("*."):
        return bare.endswith(host[1:]) and len(bare) > len(host) - 1
    return bare == host


@contextlib.contextmanager
def credentials(secret: Mapping[str, Any] | None, url: str, base: Access) -> Iterator[Access]:
    """What git needs to reach `url`; the files behind it are gone when the block ends. None: no credentials.

    Raises:
        SecretNotAllowed: the Secret is not for this URL, of another type or incomplete; the sentence says which.
    """
    if secret is None:
        yield base
        return
    check_allowed(secret, url)
    kind, where = secret.get("type"), address(url)
    name = secret["metadata"]["name"]
    wanted = SSH_AUTH if where.scheme == "ssh" else BASIC_AUTH
    if kind != wanted:
        raise SecretNotAllowed(
            f"the Secret {name} is of type {kind}, and a URL of {where.scheme}:// needs one of type {wanted}"
        )
    parts = _decoded(secret, name)
    folder = Path(tempfile.mkdtemp(prefix="autoresearch-", dir=_memory()))  # mkdtemp makes it 0700
    try:
        yield _ssh(parts, name, folder, base) if kind == SSH_AUTH else _basic(parts, name, where, folder, base)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _memory() -> Path | None:
    return MEMORY if os.access(MEMORY, os.W_OK | os.X_OK) else None


def _decoded(secret: Mapping[str, Any], name: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in (secret.get("data") or {}).items():
        try:
            found[key] = base64.b64decode(value, validate=True).decode("utf-8")
        except (binascii.Error, UnicodeDecodeError, TypeError):
            if key in {"username", "password", "ssh-privatekey", "known_hosts", "ca.crt"}:
                raise SecretNotAllowed(f"the Secret {name}: {key} is not text: write it anew") from None
    return found


def _private(folder: Path, name: str, content: str) -> Path:
    path = folder / name
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
        file.write(content)
    return path


def _basic(parts: Mapping[str, str], name: str, where: Address, folder: Path, base: Access) -> Access:
    # A file made by an editor or by `echo` ends in a newline, which no password does.
    user, password = (parts.get(key, "").rstrip("\r\n") for key in ("username", "password"))
    if not user or not password:
        missing = "username" if not user else "password"
        raise SecretNotAllowed(
            f"the Secret {name} has no {missing}: for a token alone, any user name that the server takes, such as git"
        )
    if any(character in user + password for character in "\r\n\0"):
        raise SecretNotAllowed(f"the Secret {name}: the user name or the password has a line break in it")
    answer = _private(folder, "credential", f"username={user}\npassword={password}\n")
    # A helper rather than GIT_ASKPASS: the helper is git's own shell reading a file, where an askpass program would
    # have to be an executable file, and memory is mounted noexec in most containers. Bound to one origin by git too.
    host = f"[{where.host}]" if ":" in where.host else where.host
    helper = f'!f() {{ test "$1" = get && cat {shlex.quote(str(answer))}; }}; f'
    configuration = {f"credential.{where.scheme}://{host}:{where.port}.helper": helper}
    if where.port == _PORTS[where.scheme]:
        configuration = {f"credential.{where.scheme}://{host}.helper": helper}
    environment = dict(base.environment)
    if "ca.crt" in parts:
        environment["GIT_SSL_CAINFO"] = str(_private(folder, "ca.crt", parts["ca.crt"]))
    secrets = (password, f"{user}:{password}", *([user] if len(user) >= _LONG_NAME else []))
    return replace(
        base, askpass="", environment=environment, configuration=dict(base.configuration) | configuration,
        secrets=secrets,
    )  # fmt: skip


def _ssh(parts: Mapping[str, str], name: str, folder: Path, base: Access) -> Access:
    if not parts.get("ssh-privatekey", "").strip():
        raise SecretNotAllowed(f"the Secret {name} has no ssh-privatekey")
    if not parts.get("known_hosts", "").strip():
        raise SecretNotAllowed(
            f"the Secret {name} has no known_hosts, the list of the server's keys: put into it what `ssh-keyscan HOST` "
            "prints, after comparing it with what the server's owner says"
        )
    secret = parts["ssh-privatekey"].replace("\r\n", "\n").rstrip("\n") + "\n"  # ssh refuses a key without the last one
    key_file = _private(folder, "key", secret)
    known = _private(folder, "known_hosts", parts["known_hosts"].rstrip("\n") + "\n")
    options = {
        "BatchMode": "yes",
        "IdentitiesOnly": "yes",
        "IdentityAgent": "none",
        "IdentityFile": str(key_file),
        "UserKnownHostsFile": str(known),
        "GlobalKnownHostsFile": "/dev/null",
        "StrictHostKeyChecking": "yes",
        "UpdateHostKeys": "no",
        "PreferredAuthentications": "publickey",
        "ForwardAgent": "no",
        "ControlMaster": "no",
        "ControlPath": "none",
        "ProxyCommand": "none",
        "PermitLocalCommand": "no",
        "ConnectTimeout": "20",
        "ServerAliveInterval": "15",
        "ServerAliveCountMax": "4",
    }
    command = ["ssh", "-F", "/dev/null", *(f"-o{option}={value}" for option, value in options.items())]
    return replace(base, ssh_command=shlex.join(command), secrets=(secret,))
