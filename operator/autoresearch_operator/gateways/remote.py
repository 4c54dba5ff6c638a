"""Other people's repositories: cloned from and pushed to. What a server says is a result; it raises only on misuse."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from autoresearch_operator.gateways.errors import (
    GitError,
    Outcome,
    RemoteError,
    Result,
    SourceNotFound,
    StorageFull,
)
from autoresearch_operator.gateways.git import IDENTITY, ZERO, Change, Repository
from autoresearch_operator.gateways.names import check_ref, check_url, is_sha
from autoresearch_operator.gateways.process import FULL, REMOTE_SECONDS, Access, GitRunner

_CREDENTIALS = re.compile(
    r"Authentication failed|could not read (Username|Password)|terminal prompts disabled|Permission denied \("
    r"|error: 40[13]\b|returned error: 40[13]\b|Host key verification failed|Invalid username or password",
    re.IGNORECASE,
)
_NOT_FOUND = re.compile(
    r"repository '[^']*' not found|does not appear to be a git repository|Repository not found|error: 404\b"
    r"|No such file or directory|not a git repository",
    re.IGNORECASE,
)
SENTENCES = {
    Outcome.CREDENTIALS: "{url} does not accept the credentials: check them, and their right to push",
    Outcome.NOT_FOUND: "{url} is not a repository that we can see: check source.url and the credentials",
    Outcome.UNAVAILABLE: "{url} gives no usable answer; it is tried again",
}


class Remote:
    """A repository elsewhere, as seen from a local one."""

    def __init__(self, repository: Repository, url: str, access: Access | None = None) -> None:
        """`access`: how to reach the server, credentials included; unset, the repository's own.

        Raises:
            SourceRefused: the URL is of a kind that is not used.
        """
        self.repository = repository
        self.url = check_url(url, access or repository.access)
        self._runner = repository.runner if access is None else GitRunner(repository.path, access)
        self.refs: dict[str, str] = {}
        """Where the server's refs were when we last heard."""

    def look(self, *patterns: str, timeout: float = REMOTE_SECONDS) -> Result:
        """Asks where the server's refs are; `refs` of the result holds them, "HEAD" among them."""
        finished = self._runner.run("ls-remote", "--quiet", "--", self.url, *patterns, timeout=timeout)
        if finished.code != 0:
            return self._trouble(finished.err)
        rows = [line.split("\t", 1) for line in finished.out.decode("utf-8", "replace").splitlines() if "\t" in line]
        found = {ref: sha for sha, ref in rows}
        self.refs = found if not patterns else self.refs | found
        return Result(Outcome.PUSHED, refs=dict(found))

    def fetch(self, refs: Mapping[str, str], *, tips_only: bool = False) -> Result:
        """Brings the server's refs here: server's name (or a full commit) to the local ref that takes it.

        The local refs are overwritten: give names of their own, such as `refs/remote/…`. `tips_only`: their newest
        commits without history, which is for repositories that are thrown away.
        """
        specs = [f"+{source}:{check_ref(target)}" for source, target in refs.items()]
        finished = self._runner.run(
            "fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--no-auto-maintenance",
            "--no-recurse-submodules", *(["--depth=1"] if tips_only else []), "--", self.url, *specs,
            timeout=REMOTE_SECONDS,
        )  # fmt: skip
        if finished.code != 0:
            return self._trouble(finished.err)
        return Result(Outcome.PUSHED, refs={t: self.repository.resolve_or_none(t) for t in refs.values()})

    def push(self, changes: Sequence[Change]) -> Result:
        """Moves refs of the server, all or none, each only from `old` to a commit that contains it.

        A push whose answer was lost may be repeated: refs that are already at `new` are a success.
        """
        for change in changes:
            check_ref(change.ref)
            if change.old and not self.repository.has(change.old):
                return Result(Outcome.CONFLICT, f"{change.ref} is at {change.old[:12]}, which was not fetched yet")
            if change.old and not self.repository.is_ancestor(change.old, change.new):
                return Result(Outcome.DIVERGED, f"{change.ref}: {change.new[:12]} does not contain {change.old[:12]}")
        # The lease makes the server compare-and-swap; that the new commit contains the old one is checked above, so
        # nothing is ever taken away.
        leases = [f"--force-with-lease={change.ref}:{change.old or ''}" for change in changes]
        specs = [f"{change.new}:{change.ref}" for change in changes]
        finished = self._runner.run(
            "push", "--quiet", "--porcelain", "--atomic", "--no-verify", "--no-recurse-submodules", *leases,
            "--", self.url, *specs, timeout=REMOTE_SECONDS,
        )  # fmt: skip
        if finished.code == 0:
            self.refs |= {change.ref: change.new for change in changes}
            return Result(Outcome.PUSHED, refs={change.ref: change.new for change in changes})
        return self._refusal(finished.out.decode("utf-8", "replace"), finished.err)

    def _refusal(self, report: str, err: str) -> Result:
        """What the server's per-ref report says; without one, it is trouble on the way."""
        rows = [line.split("\t") for line in report.splitlines() if line.startswith("!")]
        reasons = [row[2] for row in rows if len(row) > 2]
        said = " ".join(line.removeprefix("remote:").strip() for line in err.splitlines() if line.startswith("remote:"))
        if any("stale info" in reason or "fetch first" in reason or "non-fast-forward" in reason for reason in reasons):
            return Result(Outcome.CONFLICT, f"{self.url}: somebody else moved a ref since it was fetched")
        refused = [reason for reason in reasons if "remote rejected" in reason]
        if refused:
            if any("cannot lock ref" in words for words in (said, *refused)):
                # Another push was at the same ref at this moment: the same as having lost the race.
                return Result(Outcome.CONFLICT, f"{self.url}: another push was moving the same ref")
            refused = [reason for reason in refused if "atomic" not in reason] or refused
            why = " ".join(part for part in (refused[0], said[:300]) if part)
            return Result(Outcome.REJECTED, f"{self.url} refuses the push: {why}")
        return self._trouble(err)

    def _trouble(self, err: str) -> Result:
        if any(phrase in err and "remote:" not in err for phrase in FULL):
            raise StorageFull(f"talking to {self.url}: the disk is full; free some space and run again")
        if "Host key verification failed" in err:
            # ssh's own page of capitals would push this word out of a status message.
            return Result(
                Outcome.CREDENTIALS,
                f"{self.url}: Host key verification failed: the server shows a key that is not in known_hosts, so it "
                "is not talked to; ask its owner whether the key was changed, and put the new one there",
            )
        if _CREDENTIALS.search(err):
            outcome = Outcome.CREDENTIALS
        elif _NOT_FOUND.search(err):
            outcome = Outcome.NOT_FOUND
        else:
            outcome = Outcome.UNAVAILABLE
        words = " ".join(err.split())[:300]
        return Result(outcome, f"{SENTENCES[outcome].format(url=self.url)} ({words})")


def clone(
    path: Path, url: str, ref: str, branch_ref: str, *, access: Access, identity: str = IDENTITY
) -> tuple[Repository, str]:
    """Makes a bare repository with the source's history and gives (repository, source commit).

    `ref` is a branch, a tag, a full ref name, a full commit name or HEAD. The run's branch starts at the source
    commit, or where the server already has it.

    Raises:
        SourceNotFound: the repository or the ref does not exist.
        GitError: the server does not answer or does not accept us; the sentence says which.
        SourceRefused: the URL is of a kind that is not used.
    """
    check_ref(branch_ref)
    repository = Repository.init(path, access=access, identity=identity)
    try:
        remote = Remote(repository, url)
        wanted = source_name(remote, ref)
        refs = {wanted: "refs/remote/source"}
        if branch_ref in remote.refs:
            refs[branch_ref] = "refs/remote/branch"
        result = remote.fetch(refs)
        if not result.ok:
            raise failure(result)
        source = repository.resolve("refs/remote/source")
        start = repository.resolve_or_none("refs/remote/branch") or source
        repository.set_head(branch_ref)
        moved = repository.update([Change(branch_ref, None, start)])
        if not moved.ok:
            raise GitError(moved.message)
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)  # it was made by this call and holds nothing but a copy
        raise
    return repository, source


def source_name(remote: Remote, ref: str) -> str:
    """The server's full name for what a person calls `ref`; `remote.refs` is filled afterwards.

    Raises:
        SourceNotFound: the repository or the ref does not exist.
        RemoteError: the server does not answer or does not accept us.
    """
    result = remote.look()
    if not result.ok:
        raise failure(result)
    for name in (ref, f"refs/heads/{ref}", f"refs/tags/{ref}"):
        if name in result.refs and result.refs[name] != ZERO:
            return name
    if is_sha(ref):
        return ref
    branches = sorted(name.removeprefix("refs/heads/") for name in result.refs if name.startswith("refs/heads/"))
    known = ", ".join(branches[:10]) or "none: the repository is empty"
    raise SourceNotFound(f"source.ref {ref!r} is not in {remote.url}; its branches: {known}")


def failure(result: Result) -> GitError:
    """The exception for what a clone cannot do without."""
    if result.outcome is Outcome.NOT_FOUND:
        return SourceNotFound(result.message)
    return RemoteError(result.message, result.outcome)
