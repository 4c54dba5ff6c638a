"""Ends what a test process started when that process is gone, however it went (SIGKILL included).

Runs as a process of its own (`python -I -S reaper.py`: only the standard library, so it starts at once). Its standard
input is a pipe that the test process holds; lines add and remove things to clean. End of input means that the
test process is gone, and then everything still listed is cleaned, last come first:

    process <pid> <start time>   kill the process group, if that pid is still the same process
    command <json argv>          run a command (unmount, delete a bridge)
    folder <json path>           delete a folder
    forget <the line>            take a line off the list

A pipe is the one signal that reaches us after a SIGKILL and belongs to the whole process: PR_SET_PDEATHSIG would fire
when the *thread* that started a component ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path


def start_time(pid: int) -> str | None:
    """Clock ticks after boot at which `pid` started: with the pid, it names one process for ever."""
    try:
        # The second field is the command's name in brackets and may itself hold spaces and brackets.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None


def clean(line: str) -> None:
    """Carries out one line; what is already gone is fine."""
    kind, _, rest = line.partition(" ")
    if kind == "process":
        pid, _, started = rest.partition(" ")
        if start_time(int(pid)) == started:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(int(pid), signal.SIGKILL)
    elif kind == "command":
        subprocess.run(json.loads(rest), check=False, capture_output=True, timeout=60)
    elif kind == "folder":
        shutil.rmtree(json.loads(rest), ignore_errors=True)


def main() -> None:
    """Keeps the list until the input ends, then cleans."""
    lines: list[str] = []
    for raw in sys.stdin:
        line = raw.rstrip("\n")
        if line.startswith("forget "):
            with contextlib.suppress(ValueError):
                lines.remove(line.removeprefix("forget "))
        elif line:
            lines.append(line)
    for line in reversed(lines):
        with contextlib.suppress(OSError, subprocess.SubprocessError, ValueError):
            clean(line)


if __name__ == "__main__":
    main()
