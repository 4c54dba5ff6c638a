"""git as a process: hardened, without a shell, with deadlines.

Nothing of the person's or the machine's git configuration applies, no hook runs, no prompt appears and no variable
of a surrounding git (we may have been started from a hook) gets through; but for a site's own certificate authority,
which no git sets for its children.
"""

from __future__ import annotations

import base64
import contextlib
import os
import re
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, cast
from urllib.parse import quote

from git import Git

from autoresearch_operator.gateways.errors import (
    GitError,
    ObjectMissing,
    RepositoryDamaged,
    RepositoryLocked,
    StorageFull,
)

LOCAL_SECONDS = 120.0
"""Deadline of a command on a local repository. The slowest, fsck over 50,000 objects, took 6 s."""
REMOTE_SECONDS = 300.0
"""Deadline of a conversation with a server: a first fetch may bring a large history."""
AUTHORITIES = "GIT_SSL_CAINFO"
"""The variable that names a file of certificate authorities; the chart sets it from caBundle.configMapName."""
FULL = ("No space left on device", "Disk quota exceeded")
_LOCK = re.compile(r"Unable to create '([^']+\.lock)': File exists")


@dataclass(frozen=True)
class Access:
    """How git may reach other repositories."""

    protocols: frozenset[str] = frozenset({"https", "ssh"})
    """Transports that may be used. Local mode adds "file"; nothing else is ever needed."""
    askpass: str = ""
    """Program that prints the user name or the password asked for (GIT_ASKPASS). Empty: none; never a prompt."""
    ssh_command: str = "ssh -oBatchMode=yes"
    """The ssh to use; it must not ask questions."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """More variables, such as what the askpass program reads."""
    configuration: Mapping[str, str] = field(default_factory=dict)
    """More of git's settings; they come after the hardening ones, in this order."""
    secrets: tuple[str, ...] = field(default=(), repr=False)
    """What must never be repeated from git's or a server's words: passwords, and user names that are tokens."""

    def redact(self, text: str) -> str:
        """`text` without the secrets, in any of the forms that git and servers write them in."""
        for form in self._forms:
            text = text.replace(form, "[redacted]")
        return text

    @cached_property
    def _forms(self) -> tuple[str, ...]:
        found: set[str] = set()
        for secret in self.secrets:
            # A key has many lines, and one of them is enough to be a leak.
            for part in (secret, *(line for line in secret.splitlines() if len(line) >= 16)):
                found |= {part, quote(part, safe=""), quote(part), base64.b64encode(part.encode()).decode()}
        # Longest first: a part that is replaced before the whole would leave the rest standing.
        return tuple(sorted((form for form in found if form.strip()), key=len, reverse=True))

    @classmethod
    def local(cls) -> Access:
        """Local mode: paths on this machine too, and the askpass and ssh of the person's environment."""
        return cls(
            protocols=frozenset({"https", "ssh", "file"}),
            askpass=os.environ.get("GIT_ASKPASS", ""),
            ssh_command=os.environ.get("GIT_SSH_COMMAND", "ssh -oBatchMode=yes"),
        )


def _configuration(access: Access) -> dict[str, str]:
    settings = {
        "core.hooksPath": "/dev/null",
        "core.attributesFile": "/dev/null",
        "core.fsmonitor": "false",
        # A power cut must not leave an object, a pack or a ref truncated; 0.7 ms an object on an SSD.
        "core.fsync": "all",
        "core.fsyncMethod": "fsync",
        # A repack at a moment of git's choosing would stall a decision; `Repository.repack` does it at ours.
        "gc.auto": "0",
        "maintenance.auto": "false",
        "credential.helper": "",
        "submodule.recurse": "false",
        "fetch.recurseSubmodules": "false",
        "push.recurseSubmodules": "no",
        "push.gpgSign": "false",
        "protocol.allow": "never",
        # A redirect to another host would carry the credentials there.
        "http.followRedirects": "false",
    }
    settings |= {f"protocol.{name}.allow": "always" for name in sorted(access.protocols)}
    return settings | dict(access.configuration)


def _environment(git_dir: Path, access: Access) -> dict[str, str]:
    settings = _configuration(access)
    variables = {
        "GIT_DIR": str(git_dir),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": access.askpass,
        "SSH_ASKPASS": "",
        "GIT_SSH_COMMAND": access.ssh_command,
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_PROTOCOL_FROM_USER": "0",
        "GIT_CONFIG_COUNT": str(len(settings)),
        "TZ": "UTC",
    }
    for index, (key, value) in enumerate(settings.items()):
        variables[f"GIT_CONFIG_KEY_{index}"] = key
        variables[f"GIT_CONFIG_VALUE_{index}"] = value
    if bundle := os.environ.get(AUTHORITIES):
        variables[AUTHORITIES] = bundle
    return variables | dict(access.environment)


@dataclass(frozen=True, slots=True)
class Finished:
    code: int
    out: bytes
    err: str


def fault(err: str, doing: str) -> Exception:
    """The named exception for git's complaint."""
    words = " ".join(line.strip() for line in err.strip().splitlines())[:600] or "git gave no reason"
    if any(phrase in err for phrase in FULL):
        return StorageFull(f"{doing}: the disk is full; free some space and run again ({words})")
    lock = _LOCK.search(err)
    if lock:
        return RepositoryLocked(
            f"{doing}: another process holds {lock.group(1)}; "
            "if no git command is running, remove that file and run again"
        )
    damaged = ("bad object", "corrupt", "is empty", "unable to read", "missing", "not a git repository", "broken")
    if any(word in err for word in damaged):
        return RepositoryDamaged(f"{doing}: the repository is damaged ({words})")
    return GitError(f"{doing}: {words}")


class GitRunner:
    """Starts git commands on one repository."""

    def __init__(self, git_dir: Path, access: Access) -> None:
        self.git_dir = git_dir.absolute()
        self.access = access
        self._git = Git(self.git_dir.parent)
        variables = _environment(self.git_dir, access)
        self._git.update_environment(**variables)
        # GitPython starts from our own environment, which can only be added to; env(1) takes away.
        inherited = sorted(name for name in os.environ if name.startswith("GIT_") and name not in variables)
        self._prefix = ["env", *(part for name in inherited for part in ("-u", name))] if inherited else []

    def start(self, args: Sequence[str]) -> subprocess.Popen[bytes]:
        """Starts `git ARGS` with pipes. In a session of its own, so that Ctrl-C never cuts a transaction in half."""
        wrapper = self._git.execute(
            [*self._prefix, "git", *args],
            istream=subprocess.PIPE,
            as_process=True,
            shell=False,
            start_new_session=True,
        )
        process = cast("subprocess.Popen[bytes]", wrapper.proc)
        wrapper.proc = None  # GitPython would end the process as soon as its wrapper is collected
        return process

    def run(self, *args: str, data: bytes = b"", timeout: float = LOCAL_SECONDS) -> Finished:
        """Runs a command to its end. A command over its deadline is killed with its children and reads as code -1."""
        process = self.start(args)
        try:
            out, err = process.communicate(data, timeout=timeout)
        except subprocess.TimeoutExpired:
            kill_group(process)
            return Finished(-1, b"", f"git {args[0]} was not done after {timeout:.0f} s and was ended")
        words = err.decode("utf-8", "replace")
        if self.access.secrets:
            # Only conversations with servers carry secrets, and what those print is text.
            out = self.access.redact(out.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")
            words = self.access.redact(words)
        return Finished(process.returncode, out, words)

    def check(self, *args: str, doing: str, data: bytes = b"", timeout: float = LOCAL_SECONDS) -> bytes:
        """As `run`; its output, or the named exception with `doing` in the sentence.

        Raises:
            GitError or one of its kinds, StorageFull.
        """
        finished = self.run(*args, data=data, timeout=timeout)
        if finished.code != 0:
            raise fault(finished.err, doing)
        return finished.out


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Ends a process that was started in its own session, with its children."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()


class Objects:
    """Reads objects through one long-lived `git cat-file --batch`: 0.1 ms an object in place of 3 ms a process."""

    def __init__(self, runner: GitRunner) -> None:
        self._runner = runner
        self._process: subprocess.Popen[bytes] | None = None
        self._guard = threading.Lock()

    def read(self, sha: str) -> tuple[str, bytes]:
        """The kind ("commit", "tree", "blob") and content of an object."""
        _, kind, content = self.look_up(sha)
        return kind, content

    def find(self, name: str) -> tuple[str, str, bytes] | None:
        """As `look_up`, and None when nothing has that name."""
        try:
            return self.look_up(name)
        except ObjectMissing:
            return None

    def look_up(self, sha: str) -> tuple[str, str, bytes]:
        """The name, kind and content of what `sha`, a name or an expression such as `refs/heads/x^{commit}`, is.

        Raises:
            RepositoryDamaged: it is missing or unreadable.
        """
        with self._guard:
            if self._process is None or self._process.poll() is not None:
                self._process = self._runner.start(["cat-file", "--batch"])
            stdin, stdout = _pipes(self._process)
            try:
                stdin.write(sha.encode() + b"\n")
                stdin.flush()
                head = stdout.readline().split()
                if len(head) == 3:
                    size = int(head[2])
                    content = stdout.read(size + 1)
                    if len(content) == size + 1:
                        return head[0].decode(), head[1].decode(), content[:-1]
            except BrokenPipeError:
                head = []
            if len(head) >= 2:  # "<sha> missing": the process is fine
                raise ObjectMissing(f"object {sha} is not in {self._runner.git_dir}")
            kill_group(self._process)
            self._process = None
            raise RepositoryDamaged(f"object {sha} in {self._runner.git_dir} cannot be read")

    def close(self) -> None:
        with self._guard:
            if self._process is not None:
                kill_group(self._process)
                self._process = None


def _pipes(process: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes]]:
    if process.stdin is None or process.stdout is None:
        raise GitError("git was started without pipes")
    return process.stdin, process.stdout
