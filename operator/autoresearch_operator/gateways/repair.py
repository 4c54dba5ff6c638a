"""What can be mended in a repository, and what can be taken out of one that cannot."""

from __future__ import annotations

import time
from pathlib import Path

from autoresearch_operator.gateways.errors import GitError
from autoresearch_operator.gateways.git import Repository

STALE_SECONDS = 2.0
"""A lock file this old, while no run works on the repository, was left by a git that was killed: git holds them for
milliseconds."""


def clear_stale_locks(repository: Path, notes: list[str]) -> None:
    """Moves lock files of killed git processes out of the way. A fresh one is given `STALE_SECONDS` to vanish.

    `notes` takes a sentence for each. Call it only when nobody else works on the repository.
    """
    places = [*repository.glob("*.lock"), *(repository / "refs").rglob("*.lock")]
    for path in places:
        try:
            while (age := time.time() - path.stat().st_mtime) < STALE_SECONDS:
                # A clock that was set back would make us wait for ever.
                time.sleep(min(max(STALE_SECONDS - age, 0.05), STALE_SECONDS) if age >= 0 else STALE_SECONDS)
                if age < 0:
                    break
            kept = repository.parent / "stale-locks"
            kept.mkdir(exist_ok=True)
            path.rename(kept / f"{time.time_ns()}-{path.name}")
        except FileNotFoundError:
            continue  # its owner finished
        notes.append(f"{path} was left by a git that was killed; it was moved to {kept.name}/")


def salvage(damaged: Path, repository: Repository) -> dict[str, str]:
    """Copies the history of every ref that a damaged repository can still give, and returns those refs.

    The refs themselves are not set: the commits are in `repository` afterwards, on no ref yet.
    """
    if not damaged.is_dir():
        return {}
    head = damaged / "HEAD"
    if not head.is_file() or not head.read_bytes().startswith(b"ref: refs/"):
        # git takes a folder without a readable HEAD for no repository at all; which branch it names does not matter.
        head.write_text("ref: refs/heads/main\n")
    old = Repository(damaged, repository.access, repository.identity)
    try:
        refs = old.refs()
    except GitError:
        return {}
    found: dict[str, str] = {}
    for ref, commit in refs.items():
        packed = old.runner.run("pack-objects", "--revs", "--stdout", "-q", data=f"{commit}\n".encode())
        if packed.code == 0 and repository.runner.run("index-pack", "--stdin", data=packed.out).code == 0:
            found[ref] = commit
    return found


def quarantine(path: Path) -> Path:
    """Renames what is damaged to `<name>.damaged-<n>`, the first free n, and gives the new path."""
    number = 1
    while (place := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    path.rename(place)
    return place
