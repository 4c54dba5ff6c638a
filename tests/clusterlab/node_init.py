"""PID 1 of the test node's namespaces (`python -I -S node_init.py FOLDER`): private mounts, then reaping for ever.

The node lives in a mount, network and PID namespace of its own. When this process dies the kernel ends everything in
the PID namespace, and with it go the containers, their shims, the bridge, every iptables rule and every mount:
there is nothing to clean up that could be forgotten. Writes below /var and /run land in FOLDER.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

PRIVATE = ("var", "run")


def main(folder: Path) -> None:
    """Mounts, says so by creating FOLDER/ready, and stays."""
    # Nothing propagates to the machine; inside, shared, as the kubelet wants it for volumes.
    _run("mount", "--make-rprivate", "/")
    for name in PRIVATE:
        upper, work = folder / f"{name}-upper", folder / f"{name}-work"
        upper.mkdir(parents=True, exist_ok=True)
        work.mkdir(exist_ok=True)
        if name == "run":
            # Sockets and locks of this machine are not ours: xtables.lock, container runtimes.
            _run("mount", "--bind", str(upper), "/run")
        else:
            options = f"lowerdir=/{name},upperdir={upper},workdir={work}"
            _run("mount", "-t", "overlay", "overlay", "-o", options, f"/{name}")
    _run("mount", "-t", "proc", "proc", "/proc")
    _run("mount", "--make-rshared", "/")
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    _run("ip", "link", "set", "lo", "up")
    folder.joinpath("ready").touch()
    # Shims and what they leave behind become our children.
    while True:
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            time.sleep(0.2)


def _run(*command: str) -> None:
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
