"""Starts a candidate's Python file as local mode does: seeded, so that a commit gives the same score in both."""

import os
import sys
from pathlib import Path
from typing import NoReturn

from .. import candidate

SEED_VARIABLE = "AUTORESEARCH_SEED"
THREADS_VARIABLE = "AUTORESEARCH_THREADS"


def command(script: tuple[str, ...]) -> list[str]:
    """The command line; -P, since the candidate's folder may hold a file of any name."""
    return [sys.executable, "-P", "-m", "autoresearch_trainer", "script", *script]


def main(arguments: list[str]) -> NoReturn:
    """Runs arguments[0] with the rest as its arguments; the walls stand already."""
    candidate.attach_streams()
    candidate.seed_all(int(os.environ[SEED_VARIABLE]), int(os.environ[THREADS_VARIABLE]))
    script = Path.cwd() / arguments[0]
    # The interpreter's own end would spend a second on taking PyTorch down.
    os._exit(candidate.run_script(script, arguments[1:]))
