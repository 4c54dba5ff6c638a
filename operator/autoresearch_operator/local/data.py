"""Where the data and the templates come from in local mode: the trainer makes the one and ships the other."""

from __future__ import annotations

import importlib.util
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from autoresearch_operator.settings import Settings


class DataError(Exception):
    """There is no usable data set or template; the message says what to do."""


def prepare(settings: Settings, arguments: Sequence[str]) -> Path:
    """Runs the trainer's `prepare` and gives the folder of the data set. Progress goes to standard error.

    Raises:
        DataError: it failed.
    """
    command = [*settings.trainer, "prepare", *arguments]
    try:
        finished = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    except OSError as error:
        raise DataError(f"cannot start the trainer ({command[0]}): {error.strerror}") from error
    lines = finished.stdout.strip().splitlines()
    if finished.returncode != 0:
        raise DataError(f"preparing the data failed with code {finished.returncode}: see the lines above")
    try:
        return Path(json.loads(lines[-1])["dataDir"])
    except (IndexError, ValueError, KeyError, TypeError):
        raise DataError("the trainer's `prepare` did not say where the data is") from None


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a prepared data set, as far as the loop shows it.

    Raises:
        DataError: there is none.
    """
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except OSError:
        raise DataError(
            f"{folder} is not a prepared data set (no manifest.json): make one with `autoresearch prepare`"
        ) from None
    except ValueError:
        raise DataError(f"{folder / 'manifest.json'} is damaged: prepare the data again") from None
    if not isinstance(manifest, dict):
        raise DataError(f"{folder / 'manifest.json'} is not a manifest: prepare the data again")
    return manifest


def template_files(name: str) -> dict[str, bytes]:
    """The files of a built-in template, which the trainer's distribution ships.

    Raises:
        DataError: the trainer is not installed here, or has no such template.
    """
    found = importlib.util.find_spec("autoresearch_trainer")
    if found is None or not found.submodule_search_locations:
        raise DataError("the trainer is not installed beside the operator: install autoresearch-trainer")
    folder = Path(found.submodule_search_locations[0]) / "templates" / name
    files = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }
    if not files:
        raise DataError(f"the trainer has no template {name!r}")
    return files
