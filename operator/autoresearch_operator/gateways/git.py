"""One bare repository: what is read from it and what is written to it.

There is never a work tree, so nothing in a source can act on this machine by being checked out. All names that git
gives here follow from content, dates and a fixed identity, so that writing twice is the same as writing once.
"""

from __future__ import annotations

import fnmatch
import os
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from git.objects.fun import tree_entries_from_data

from autoresearch_operator.gateways.errors import (
    GitError,
    Outcome,
    RepositoryDamaged,
    RepositoryLocked,
    Result,
    SourceNotFound,
    SourceRefused,
    SourceTooLarge,
)
from autoresearch_operator.gateways.model import RAW_LIMIT, Change, Commit, Entry, check_packed, check_regular
from autoresearch_operator.gateways.names import check_path, check_ref
from autoresearch_operator.gateways.process import Access, GitRunner, Objects, fault
from autoresearch_operator.gateways.writer import FOLDER, Writer

__all__ = ["IDENTITY", "ZERO", "Change", "Commit", "Entry", "Repository"]

IDENTITY = "Autoresearch <autoresearch@localhost>"
ZERO = "0" * 40
LOCK_WAITS = (0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 1.0)
"""Seconds between attempts on a locked ref: a ref's lock is held for milliseconds, so 3 s means that it is stale."""


class Repository:
    """A bare repository on this machine. Safe for use from several threads; refs change by compare-and-swap only."""

    def __init__(self, path: Path, access: Access, identity: str) -> None:
        self.path = path
        self.access = access
        self.identity = identity
        self.runner = GitRunner(path, access)
        self._objects = Objects(self.runner)
        self._tree = lru_cache(maxsize=256)(self._read_tree)

    @classmethod
    def init(cls, path: Path, *, access: Access | None = None, identity: str = IDENTITY) -> Repository:
        """Makes an empty bare repository; it appears under its name when it is complete.

        Raises:
            GitError: there is something at `path`.
        """
        if path.exists():
            raise GitError(f"{path} exists: a new repository needs a name of its own")
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f".{path.name}.new-{os.getpid()}")
        shutil.rmtree(fresh, ignore_errors=True)
        runner = GitRunner(fresh, access or Access())
        runner.check("init", "--quiet", "--bare", "--template=", "--initial-branch=main", str(fresh), doing="git init")
        for name in ("HEAD", "config"):
            _sync(fresh / name)
        fresh.rename(path)
        _sync(path.parent)
        return cls(path, access or Access(), identity)

    @classmethod
    def create(
        cls,
        path: Path,
        files: Mapping[str, bytes],
        *,
        branch_ref: str,
        message: str,
        when: int,
        access: Access | None = None,
        identity: str = IDENTITY,
    ) -> Repository:
        """Makes a bare repository from a template: one commit whose name follows from the arguments."""
        check_ref(branch_ref)
        repository = cls.init(path, access=access, identity=identity)
        for name in files:
            check_path(name)
        with repository.writer() as writer:
            commit, _ = writer.commit(parents=(), message=message, when=when, changed=files)
        repository.set_head(branch_ref)
        result = repository.update([Change(branch_ref, None, commit)])
        if not result.ok:
            raise GitError(result.message)
        return repository

    @classmethod
    def open(cls, path: Path, *, access: Access | None = None, identity: str = IDENTITY) -> Repository:
        """Opens a repository made by `create` or `init`.

        Raises:
            RepositoryDamaged: it cannot be opened.
        """
        repository = cls(path, access or Access(), identity)
        finished = repository.runner.run("rev-parse", "--is-bare-repository")
        if finished.code != 0 or finished.out.strip() != b"true":
            raise RepositoryDamaged(f"{path} is not a usable bare repository: {finished.err.strip()[:300]}")
        return repository

    def close(self) -> None:
        self._objects.close()

    def set_head(self, branch_ref: str) -> None:
        """Lets `git clone` of this repository check out `branch_ref`."""
        self.runner.check("symbolic-ref", "HEAD", check_ref(branch_ref), doing="setting HEAD")
        _sync(self.path / "HEAD")

    # --- reading ----------------------------------------------------------------------------------------------

    def resolve(self, rev: str) -> str:
        """The commit that a branch, a tag, a ref or a commit's name stands for.

        Raises:
            SourceNotFound: nothing has that name.
        """
        sha = self.resolve_or_none(rev)
        if sha is None:
            raise SourceNotFound(f"{rev!r} is not in {self.path}: check the name of the branch, tag or commit")
        return sha

    def resolve_or_none(self, rev: str) -> str | None:
        if not rev or any(character <= " " for character in rev):
            raise SourceRefused(f"{rev!r} is not a usable name of a commit")
        # Through cat-file: a process less, and it too reads a ref anew each time.
        found = self._objects.find(rev + "^{commit}")
        return None if found is None else found[0]

    def refs(self, prefix: str = "refs/") -> dict[str, str]:
        """All refs that start with `prefix` and what they point to."""
        out = self.runner.check("for-each-ref", "--format=%(objectname) %(refname)", "--", prefix, doing="listing refs")
        return {line.split(" ", 1)[1]: line.split(" ", 1)[0] for line in out.decode().splitlines()}

    def commit(self, sha: str) -> Commit:
        """Reads a commit.

        Raises:
            RepositoryDamaged: it is missing or no commit.
        """
        kind, content = self._objects.read(sha)
        if kind != "commit":
            raise RepositoryDamaged(f"{sha} is a {kind}, not a commit")
        head, _, message = content.decode("utf-8", "replace").partition("\n\n")
        rows = [line.split(" ", 1) for line in head.splitlines() if " " in line]
        values = {key: value for key, value in rows if key in {"tree", "committer"}}
        parents = tuple(value for key, value in rows if key == "parent")
        return Commit(sha, values["tree"], parents, int(values["committer"].rsplit(" ", 2)[1]), message)

    def has(self, sha: str) -> bool:
        """Whether an object is there and can be read."""
        try:
            self._objects.read(sha)
        except RepositoryDamaged:
            return False
        return True

    def blob(self, sha: str) -> bytes:
        return self._objects.read(sha)[1]

    def entries(self, commit: str) -> Mapping[str, Entry]:
        """All files of a commit's (or tree's) tree: path to mode and blob."""
        return self._tree(commit)

    def _read_tree(self, commit: str) -> Mapping[str, Entry]:
        kind, content = self._objects.read(commit)
        if kind == "commit":
            kind, content = self._objects.read(content[5:45].decode("ascii"))
        found: dict[str, Entry] = {}
        for sha, mode, name in tree_entries_from_data(content):
            path, entry = os.fsdecode(name), Entry(f"{mode:06o}", bytes(sha).hex())
            if mode == FOLDER:
                found |= {f"{path}/{inner}": item for inner, item in self._tree(entry.sha).items()}
            else:
                found[path] = entry
        return found

    def read_files(self, commit: str, patterns: Iterable[str]) -> dict[str, bytes]:
        """The declared files of a commit: exact paths, folders or globs (`*` also matches `/`).

        Raises:
            SourceNotFound: a pattern matches nothing.
            SourceRefused: a symlink or a submodule is among them.
            SourceTooLarge: packed, they are over `PACKED_LIMIT` bytes.
        """
        entries = self.entries(commit)
        chosen: dict[str, Entry] = {}
        for pattern in patterns:
            check_path(pattern.rstrip("/"))
            folder = pattern.rstrip("/") + "/"
            matching = {
                path: entry
                for path, entry in entries.items()
                if path == pattern or path.startswith(folder) or fnmatch.fnmatchcase(path, pattern)
            }
            if not matching:
                raise SourceNotFound(f"{pattern} matches no file in commit {commit[:12]}: check the declared paths")
            chosen |= matching
        files: dict[str, bytes] = {}
        total = 0
        for path, entry in sorted(chosen.items()):
            check_regular(path, entry)
            files[check_path(path)] = content = self.blob(entry.sha)
            total += len(content)
            if total > RAW_LIMIT:
                raise SourceTooLarge(
                    f"the declared inputs are over {RAW_LIMIT >> 20} MiB at {path}: declare fewer files"
                )
        check_packed(files)
        return files

    def diff(self, before: str, after: str) -> str:
        """The unified diff between two commits."""
        out = self.runner.check(
            "diff-tree", "-r", "-p", "--no-color", "--no-ext-diff", "--no-textconv", "--no-renames",
            "--end-of-options", before, after, "--", doing="reading a diff",
        )  # fmt: skip
        return out.decode("utf-8", "replace")

    def changed_files(self, before: str, after: str) -> dict[str, bytes] | None:
        """Files that `after` adds to or changes in `before`; None when it also removes some."""
        old, new = self.entries(before), self.entries(after)
        if old.keys() - new.keys():
            return None
        return {path: self.blob(entry.sha) for path, entry in new.items() if old.get(path) != entry}

    def same_files(self, one: str, other: str, patterns: Sequence[str]) -> bool:
        """Whether the declared files of two commits are identical, modes included."""
        return not self.differing(one, other, patterns)

    def differing(self, one: str, other: str, patterns: Sequence[str]) -> tuple[str, ...]:
        """The declared files that differ between two commits, or are in only one of them, sorted."""

        def chosen(commit: str) -> set[tuple[str, Entry]]:
            return {
                (path, entry)
                for path, entry in self.entries(commit).items()
                if any(
                    path == p or path.startswith(p.rstrip("/") + "/") or fnmatch.fnmatchcase(path, p) for p in patterns
                )
            }

        return tuple(sorted({path for path, _ in chosen(one) ^ chosen(other)}))

    def branch_log(self, rev: str, *, limit: int = 10_000) -> list[Commit]:
        """The first-parent history of a ref or commit, newest first."""
        out = self.runner.check(
            "rev-list", "--first-parent", f"--max-count={limit}", "--end-of-options", rev, "--", doing=f"reading {rev}"
        )
        return [self.commit(sha) for sha in out.decode().split()]

    def is_ancestor(self, old: str, new: str) -> bool:
        """Whether `new` contains `old`."""
        if old == new or old in self.commit(new).parents:
            return True
        return self.runner.run("merge-base", "--is-ancestor", "--end-of-options", old, new).code == 0

    def merge_base(self, one: str, other: str) -> str | None:
        """The newest commit that both contain; None: their histories have nothing in common."""
        finished = self.runner.run("merge-base", "--end-of-options", one, other)
        if finished.code not in (0, 1):
            raise fault(finished.err, f"comparing {one[:12]} with {other[:12]}")
        return finished.out.decode().strip() or None

    # --- writing ----------------------------------------------------------------------------------------------

    def writer(self) -> Writer:
        """What writes commits here."""
        return Writer(self.path, self.identity, self._objects.read)

    def write_candidate(
        self, base_commit: str, changed: Mapping[str, bytes], message: str, when: int, *, writer: Writer | None = None
    ) -> tuple[str, str]:
        """Writes the commit of an edit on `base_commit` and gives (commit, tree). It is on no ref yet.

        Raises:
            SourceRefused: a path is not usable, or is a symlink or a submodule in the base.
        """
        entries = self.entries(base_commit)
        modes: dict[str, str] = {}
        for path in changed:
            entry = entries.get(check_path(path))
            if entry is not None:
                check_regular(path, entry)
                modes[path] = entry.mode
        if writer is not None:
            return writer.commit(parents=(base_commit,), message=message, when=when, changed=changed, modes=modes)
        with self.writer() as own:
            return own.commit(parents=(base_commit,), message=message, when=when, changed=changed, modes=modes)

    def landing_commit(self, parent: str, tree: str, message: str, when: int, *, writer: Writer | None = None) -> str:
        """Writes the commit that puts an accepted tree on the branch, and gives its name."""
        if writer is not None:
            return writer.commit(parents=(parent,), message=message, when=when, tree=tree)[0]
        with self.writer() as own:
            return own.commit(parents=(parent,), message=message, when=when, tree=tree)[0]

    def update(self, changes: Sequence[Change]) -> Result:
        """Moves refs of this repository, all or none, each only from where it is expected to be. Never backwards.

        Raises:
            StorageFull, RepositoryDamaged: this machine's faults are no results.
        """
        for change in changes:
            check_ref(change.ref)
            if change.old and not self.is_ancestor(change.old, change.new):
                return Result(Outcome.DIVERGED, f"{change.ref}: {change.new[:12]} does not contain {change.old[:12]}")
        rows = [f"update {change.ref} {change.new} {change.old or ZERO}" for change in changes]
        script = "\n".join(["start", *rows, "prepare", "commit", ""]).encode()
        for pause in (*LOCK_WAITS, None):
            finished = self.runner.run("update-ref", "--stdin", data=script)
            if finished.code == 0:
                return Result(Outcome.PUSHED, refs={change.ref: change.new for change in changes})
            error = fault(finished.err, "moving refs")
            if isinstance(error, RepositoryLocked):
                if pause is None:
                    return Result(Outcome.LOCKED, str(error))
                time.sleep(pause)
                continue
            now = {change.ref: self.resolve_or_none(change.ref) for change in changes}
            if all(now[change.ref] == change.new for change in changes):
                return Result(Outcome.PUSHED, refs=now)
            if any(now[change.ref] != change.old for change in changes):
                return Result(Outcome.CONFLICT, f"refs moved in the meantime: {finished.err.strip()[:300]}", now)
            raise error
        raise AssertionError("unreachable")

    # --- keeping ------------------------------------------------------------------------------------------------

    def check(self, *, contents: bool = True) -> list[str]:
        """What `git fsck` finds wrong with what the refs reach; empty when all is well.

        Without `contents` files are only looked for, not read: enough to find what a cut or a lost file did.
        """
        how = "--full" if contents else "--connectivity-only"
        finished = self.runner.run("fsck", how, "--no-dangling", "--no-progress", "--no-reflogs")
        lines = (finished.err + finished.out.decode("utf-8", "replace")).splitlines()
        # A cloned history may hold old sins of form ("error in tree …: zeroPaddedFilemode"); those are no damage.
        return [line for line in lines if line.strip() and not line.startswith(("notice:", "warning in", "error in"))]

    def loose_objects(self) -> int:
        """About how many objects are files of their own: names are evenly spread, so one folder of 256 tells."""
        folder = self.path / "objects" / "17"
        return 256 * sum(1 for _ in folder.iterdir()) if folder.is_dir() else 0

    def repack(self) -> None:
        """Puts loose objects into a pack, keeping unreachable ones; seconds for 50,000 objects."""
        self.runner.check("repack", "-d", "-l", "-q", doing="packing the repository", timeout=600)

    def snapshot(self, commit: str) -> bytes:
        """A pack of one commit and its files, without history: enough to rebuild a damaged repository from."""
        doing = f"listing the files of {commit[:12]}"
        names = self.runner.check("rev-list", "--objects", "--no-walk", "--end-of-options", commit, doing=doing)
        wanted = b"\n".join(row.split(b" ", 1)[0] for row in names.splitlines()) + b"\n"
        return self.runner.check("pack-objects", "--stdout", "-q", data=wanted, doing="packing the source")

    def restore_snapshot(self, pack: bytes, commit: str) -> None:
        """Puts a `snapshot` back. Its parents, if it has any, are cut off as in a shallow clone."""
        self.runner.check("index-pack", "--stdin", "--fix-thin", data=pack, doing="restoring the source")
        if self.commit(commit).parents:
            (self.path / "shallow").write_text(commit + "\n")
            _sync(self.path / "shallow")
            self._objects.close()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
