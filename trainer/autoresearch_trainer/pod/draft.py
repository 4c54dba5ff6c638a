"""account.json: what the gate knows of a trial, for the judge, which completes it.

Only gate and judge mount the folder that holds it, so it is believed; it may be missing or cut off all the same, when a
gate was killed.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from .. import result as results
from ..result import TrialResult

VERSION = 1
FILE_NAME = "account.json"
_MAX_BYTES = 1 << 16


class DraftError(Exception):
    """The file does not hold what `write` wrote; str() says why."""


@dataclass
class Draft:
    """A result without its score, or with everything when there is nothing to score."""

    result: TrialResult
    to_judge: bool
    """Whether artifact/ holds a model that makes the score."""
    began: float
    """When the gate started, by `clock.wall`: seconds since boot, the same for every container of a node."""


def write(folder: Path, draft: Draft) -> None:
    """Writes it durably: the whole file or none."""
    document = {"version": VERSION, "toJudge": draft.to_judge, "began": draft.began, "result": draft.result.as_json()}
    results.write_durably(folder / FILE_NAME, document)


def read(folder: Path) -> Draft | None:
    """The draft; None while there is none. Raises DraftError when the file cannot be understood."""
    path = folder / FILE_NAME
    try:
        with path.open("rb") as stream:
            text = stream.read(_MAX_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DraftError(f"{path} cannot be read: {error.strerror}") from error
    try:
        document = json.loads(text)
        if document["version"] != VERSION:
            raise ValueError(f"version {document['version']!r} is not {VERSION}")
        return Draft(results.parse(document["result"]), document["toJudge"] is True, float(document["began"]))
    except (ValueError, KeyError, TypeError) as error:
        raise DraftError(f"{path} does not hold what the gate writes: {error}") from error
