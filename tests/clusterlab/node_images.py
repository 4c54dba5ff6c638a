"""Images that outlive a test node: gigabytes of torch are imported once a machine, not once a test session."""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self


@dataclass
class Kept:
    """The folder with containerd's content and unpacked layers, held by one node at a time."""

    folder: Path
    _lock: int

    @classmethod
    def take(cls, folder: Path) -> Self | None:
        """None while another node of this machine has it: that session imports for itself."""
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return None
        return cls(folder / "containerd", lock)

    def release(self) -> None:
        """Lets the next node have it; the end of this process does the same."""
        os.close(self._lock)


def targets(listing: str) -> dict[str, str]:
    """Digest of the manifest by name, from `ctr images list`. The kubelet's side adds each configuration as a name."""
    rows = (line.split() for line in listing.splitlines()[1:])
    return {row[0]: row[2] for row in rows if len(row) > 2}


def nameless(known: dict[str, str]) -> list[str]:
    """Names that are only a digest and whose image no real name means any more."""
    meant = {target for name, target in known.items() if not name.startswith("sha256:")}
    return [name for name, target in known.items() if name.startswith("sha256:") and target not in meant]
