"""Where the three containers of a trial meet: the folders that are mounted, and the variables that move them."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..data.errors import DataError

TRIAL_VARIABLE = "AUTORESEARCH_TRIAL"
"""The trial as one JSON document (spec.py); the same text in all three containers."""
DATA_VARIABLE = "AUTORESEARCH_DATA_DIR"
"""A part of a prepared data set: with train for the gate, with val and test for the judge; unset for train."""


@dataclass(frozen=True)
class Places:
    """Folders as one container sees them; the variable in brackets moves one, for tests."""

    socket: Path
    """Shared with train [AUTORESEARCH_SOCKET_DIR]."""
    account: Path
    """Shared by gate and judge alone: train must never have it [AUTORESEARCH_ACCOUNT_DIR]."""
    source: Path
    """Holds source.tar [AUTORESEARCH_SOURCE_DIR]."""
    work: Path
    """The candidate's disk [AUTORESEARCH_WORK_DIR]."""
    termination_log: Path
    """Where the kubelet looks for the result [AUTORESEARCH_TERMINATION_LOG]. The file of that name in train is the
    candidate's to write; nobody reads it: only the judge's message counts."""

    @classmethod
    def of(cls, environ: Mapping[str, str] = os.environ) -> "Places":
        """The places that the variables name, else those of the image."""

        def place(name: str, usual: str) -> Path:
            return Path(environ.get(f"AUTORESEARCH_{name}", usual))

        return cls(
            socket=place("SOCKET_DIR", "/run/autoresearch/socket"),
            account=place("ACCOUNT_DIR", "/run/autoresearch/account"),
            source=place("SOURCE_DIR", "/run/autoresearch/source"),
            work=place("WORK_DIR", "/work"),
            termination_log=place("TERMINATION_LOG", "/dev/termination-log"),
        )

    @property
    def gate_socket(self) -> Path:
        return self.socket / "gate.sock"

    @property
    def closed(self) -> Path:
        """Says, in a sentence, that nothing will be served: train need not wait."""
        return self.socket / "closed"

    @property
    def ready(self) -> Path:
        """For the startup probe: train may start."""
        return self.account / "ready"

    @property
    def served(self) -> Path:
        """The mark that a gate has begun: a second one in its place must not serve again."""
        return self.account / "served"

    @property
    def artifact(self) -> Path:
        return self.account / "artifact"


def data_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """The data of this container. Raises DataError when none are named."""
    named = environ.get(DATA_VARIABLE)
    if not named:
        raise DataError(f"{DATA_VARIABLE} is not set: it names the folder where this container's part of the data lies")
    return Path(named)
