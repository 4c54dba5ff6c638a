"""The control group below which a test node's pods live, in either version of cgroups."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

MOUNT = Path("/sys/fs/cgroup")
PROCESSES = 4 * (os.cpu_count() or 1)
"""As how many processes of this machine a node counts. The kernel divides by groups first: left alone, all pods
together get what one busy process beside them gets, and on a machine with a dozen of those a trial takes minutes."""
WEIGHTS = {"cpu.shares": 1024, "cpu.weight": 100}
"""What one process weighs, by the file of either version."""


class CgroupRoot:
    """One group in every hierarchy of this machine, so that two nodes on it never meet."""

    def __init__(self, name: str) -> None:
        self._name = name
        if (MOUNT / "cgroup.controllers").exists():
            self._folders = [MOUNT / name]
        else:
            # cgroup v1: one hierarchy a controller; links like cpu -> cpu,cpuacct lead to the same one.
            found = {folder.resolve() for folder in MOUNT.iterdir() if (folder / "cgroup.procs").exists()}
            self._folders = sorted(folder / name for folder in found)

    def create(self) -> str:
        """Makes the group; returns the name the kubelet knows it by."""
        for folder in self._folders:
            folder.mkdir(exist_ok=True)
            cpus, parent = folder / "cpuset.cpus", folder.parent
            if cpus.exists() and not (folder / "cgroup.controllers").exists():
                # A v1 cpuset starts empty, and nothing can run in an empty one.
                for file in ("cpuset.cpus", "cpuset.mems"):
                    (folder / file).write_text((parent / file).read_text())
            for file, weight in WEIGHTS.items():
                if (folder / file).exists():
                    (folder / file).write_text(str(min(10_000, weight * PROCESSES)))
            if (folder / "cgroup.controllers").exists() and parent == MOUNT:
                available = (parent / "cgroup.controllers").read_text().split()
                for group in (parent, folder):
                    with contextlib.suppress(OSError):
                        (group / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in available))
        return f"/{self._name}"

    def remove(self) -> None:
        """Removes the group and what is below it; waits up to 5 s for dying processes to leave it."""
        for folder in self._folders:
            deadline = time.monotonic() + 5.0
            while folder.exists() and time.monotonic() < deadline:
                for below in sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True):
                    with contextlib.suppress(OSError):
                        below.rmdir()
                with contextlib.suppress(OSError):
                    folder.rmdir()
                    break
                time.sleep(0.05)

    def remove_commands(self) -> list[list[str]]:
        """The same as command lines, for when this process is no more."""
        return [["find", str(folder), "-depth", "-type", "d", "-exec", "rmdir", "{}", ";"] for folder in self._folders]
