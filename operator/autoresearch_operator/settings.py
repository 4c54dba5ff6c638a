"""What can be set from outside a run's YAML. Each setting: unit, default and why."""

from __future__ import annotations

import os
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autoresearch_operator.operator_settings import InvalidSettings, OperatorSettings

__all__ = ["InvalidSettings", "OperatorSettings", "Settings", "default_cache"]


def __getattr__(name: str) -> Any:
    """The operator's settings are here too, read in only when they are asked for: a laptop does without."""
    if name in ("InvalidSettings", "OperatorSettings"):
        from autoresearch_operator import operator_settings

        return getattr(operator_settings, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def default_cache() -> Path:
    """The user's cache folder for data sets: `AUTORESEARCH_CACHE`, else the XDG cache folder."""
    explicit = os.environ.get("AUTORESEARCH_CACHE")
    if explicit:
        return Path(explicit)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "autoresearch"


def _trainer_command() -> tuple[str, ...]:
    explicit = os.environ.get("AUTORESEARCH_TRAINER")
    return tuple(shlex.split(explicit)) if explicit else (sys.executable, "-m", "autoresearch_trainer")


@dataclass(frozen=True)
class Settings:
    """Settings of the local loop, from the environment."""

    cache: Path = field(default_factory=default_cache)
    """Folder for prepared data. Default: the user's cache, so that clones share it and a checkout stays small."""

    trainer: tuple[str, ...] = field(default_factory=_trainer_command)
    """Command that starts the trainer (`AUTORESEARCH_TRAINER`). Default: this Python's autoresearch_trainer; another
    environment's Python can be named so that the two distributions need not share one."""

    ready_timeout: float = 180.0
    """Seconds to wait for the trainer's first line. Importing torch took 3-7 s where it was measured; a cold network
    file system can need minutes."""

    stop_timeout: float = 10.0
    """Seconds the trainer gets to end its trials when asked to exit; then it is killed."""

    trainer_restarts: int = 3
    """How often in a row a trainer that died is started again before the run gives up."""
