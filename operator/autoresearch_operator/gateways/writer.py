"""Writing blobs, trees and commits as loose objects, in this process.

A landing writes about ten objects. Through git that is as many processes, at 3 ms each on an idle machine and 30 ms on
one whose cores are all training; here it is ten small files, synced one by one as git does with `core.fsync=all`.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from git.objects.fun import tree_entries_from_data, tree_to_stream

from autoresearch_operator.gateways.errors import RepositoryDamaged, StorageFull

Read = Callable[[str], tuple[str, bytes]]
Tree = dict[str, tuple[int, str]]
"""Name to (mode, object) of one level."""
FOLDER = 0o040000


class Writer:
    """Writes commits; nothing is reachable until refs are moved to it. Each is on disk when `commit` returns."""

    def __init__(self, git_dir: Path, identity: str, read: Read) -> None:
        """`identity` is "Name <address>" for author and committer; `read` gives the kind and content of an object."""
        self._objects = git_dir / "objects"
        self._identity = identity
        self._read = read

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def commit(
        self,
        *,
        parents: Sequence[str],
        message: str,
        when: int,
        changed: Mapping[str, bytes] | None = None,
        tree: str | None = None,
        modes: Mapping[str, str] | None = None,
    ) -> tuple[str, str]:
        """Writes a commit and gives (commit, tree).

        The tree is `tree`, or that of the first parent, with `changed` (path to content) on top. The same
        arguments give the same names on every machine. `when` is in seconds since the epoch.

        Raises:
            StorageFull: the disk is full; nothing that was there is touched.
            RepositoryDamaged: the first parent cannot be read.
        """
        if tree is None and parents:
            tree = self._tree_of(parents[0])
        if changed or tree is None:
            files = {
                path: (int((modes or {}).get(path, "100644"), 8), self._store("blob", content))
                for path, content in (changed or {}).items()
            }
            tree = self._write_tree(tree, files)
        who = f"{self._identity} {when} +0000"
        head = [f"tree {tree}", *(f"parent {parent}" for parent in parents), f"author {who}", f"committer {who}"]
        text = ("\n".join(head) + "\n\n").encode() + message.encode("utf-8", "replace")
        return self._store("commit", text), tree

    def _tree_of(self, commit: str) -> str:
        kind, content = self._read(commit)
        if kind != "commit" or not content.startswith(b"tree "):
            raise RepositoryDamaged(f"{commit} is a {kind}, not a commit")
        return content[5:45].decode("ascii")

    def _write_tree(self, base: str | None, files: Mapping[str, tuple[int, str]]) -> str:
        """Writes the tree `base` with `files` (path to mode and blob) put in; only folders on the way are written."""
        level: Tree = {}
        if base is not None:
            for sha, mode, name in tree_entries_from_data(self._read(base)[1]):
                level[_text(name)] = (mode, bytes(sha).hex())
        below: dict[str, dict[str, tuple[int, str]]] = {}
        for path, entry in files.items():
            name, _, rest = path.partition("/")
            if rest:
                below.setdefault(name, {})[rest] = entry
            else:
                level[name] = entry
        for name, inner in below.items():
            known = level.get(name)
            level[name] = (FOLDER, self._write_tree(known[1] if known and known[0] == FOLDER else None, inner))
        # git sorts folders as if their names ended in a slash.
        order = sorted(level, key=lambda name: os.fsencode(name) + (b"/" if level[name][0] == FOLDER else b""))
        stream = io.BytesIO()
        tree_to_stream([(bytes.fromhex(level[name][1]), level[name][0], name) for name in order], stream.write)
        return self._store("tree", stream.getvalue())

    def _store(self, kind: str, content: bytes) -> str:
        data = f"{kind} {len(content)}\0".encode() + content
        sha = hashlib.sha1(data, usedforsecurity=False).hexdigest()
        folder = self._objects / sha[:2]
        path = folder / sha[2:]
        if path.exists():
            return sha
        scratch = self._objects / f"tmp_obj_{os.getpid()}_{sha}"
        try:
            folder.mkdir(exist_ok=True)
            handle = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o444)
            try:
                packed = memoryview(zlib.compress(data, 1))
                while packed:
                    packed = packed[os.write(handle, packed) :]
                os.fsync(handle)
            finally:
                os.close(handle)
            scratch.rename(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                scratch.unlink(missing_ok=True)
            if error.errno in {errno.ENOSPC, errno.EDQUOT}:
                raise StorageFull(errno.ENOSPC, f"the disk is full: {path} was not written; free some space") from error
            raise
        return sha


def _text(name: str | bytes) -> str:
    return name if isinstance(name, str) else os.fsdecode(name)
