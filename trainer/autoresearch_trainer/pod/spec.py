"""What one trial of a pod is asked to do: AUTORESEARCH_TRIAL, checked field by field (fields.py)."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from .. import fields
from ..fields import SpecError, Terms
from .places import TRIAL_VARIABLE

_MAX_ARGUMENTS = 64


@dataclass(frozen=True, kw_only=True)
class PodTerms(Terms):
    """One measurement of one candidate in a pod of its own."""

    command: tuple[str, ...]
    """What is started in the candidate's folder; `python` is this image's."""
    gpus: int = 0
    """GPUs of the trial; above 1 there is a process for each. Default 0."""
    source_sha256: str
    """SHA-256 of source.tar in hexadecimal."""

    @property
    def ranks(self) -> int:
        """Processes that the launcher starts, each with a connection to the gate."""
        return max(1, self.gpus)

    @property
    def script(self) -> tuple[str, ...]:
        """The Python file and its arguments when the command is `python file.py …`; empty for any other command."""
        if len(self.command) > 1 and self.command[0] in ("python", "python3") and self.command[1].endswith(".py"):
            return self.command[1:]
        return ()


def _command(value: Any) -> str | None:
    if not isinstance(value, list) or not 1 <= len(value) <= _MAX_ARGUMENTS:
        return f"must be a list of 1 to {_MAX_ARGUMENTS} texts, such as ['python', 'train.py']."
    if any(not isinstance(word, str) or not word or "\0" in word for word in value):
        return "must hold texts that are not empty."
    path = PurePosixPath(value[1]) if len(value) > 1 else None
    if path is not None and value[0].startswith("python") and (path.is_absolute() or ".." in path.parts):
        return f"{path} must lie inside the source."
    return None


def parse(document: Any) -> PodTerms:
    """The trial that a JSON document describes. Raises SpecError with every problem in it."""
    if not isinstance(document, dict):
        raise SpecError([f"A trial must be a JSON object, not {type(document).__name__}."])
    problems: list[str] = []
    reader = fields.Reader(document, "", problems)
    values = fields.terms(reader, problems)
    own: dict[str, Any] = {
        "command": tuple(reader.take("command", ("python", "train.py"), _command, required=True)),
        "device": reader.take("device", "cpu", fields.choice("cpu", "cuda")),
        "gpus": reader.take("gpus", 0, fields.whole(0, 64)),
        "source_sha256": reader.take(
            "sourceSHA256", "", fields.pattern("[0-9a-f]{64}", "64 hexadecimal digits"), required=True
        ),
    }
    if own["device"] == "cuda" and own["gpus"] < 1:
        reader.problem("gpus", f"is {own['gpus']} with device cuda; 1 or more are needed.")
    reader.finish()
    if problems:
        raise SpecError(problems)
    return PodTerms(**values, **own)


def from_environment(environ: Mapping[str, str] = os.environ) -> PodTerms:
    """The trial of this container. Raises SpecError when the variable is missing, no JSON or no trial."""
    text = environ.get(TRIAL_VARIABLE)
    if not text:
        raise SpecError([f"{TRIAL_VARIABLE} is not set: it holds the trial as JSON."])
    try:
        document = json.loads(text)
    except ValueError as error:
        raise SpecError([f"{TRIAL_VARIABLE} is not JSON: {error}."]) from error
    return parse(document)
