"""What one trial of local mode is asked to do: version 1 of the JSON that the operator sends (fields.py)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import fields
from .fields import Budget, Limits, SpecError, Terms

__all__ = ["Budget", "Limits", "SpecError", "TrialSpec", "parse"]


@dataclass(frozen=True, kw_only=True)
class TrialSpec(Terms):
    """One measurement of one candidate on this machine. All paths are absolute."""

    source_dir: Path
    """Holds exactly the candidate's files; they are copied to work_dir/run."""
    work_dir: Path
    """The trial's own folder; what an earlier attempt left in it is removed."""
    script: str
    """The file that is run, relative to source_dir."""
    data_dir: Path
    """A prepared data set: manifest.json, train/, val/, test/."""
    cpus: tuple[int, ...] | None = None
    """Cores that every process of the trial is held to; None: those of the warm process."""


def parse(document: Any) -> TrialSpec:
    """The trial that a JSON document describes. Raises SpecError with every problem in it."""
    if not isinstance(document, dict):
        raise SpecError([f"A trial must be a JSON object, not {type(document).__name__}."])
    problems: list[str] = []
    reader = fields.Reader(document, "", problems)
    values = fields.terms(reader, problems)
    places: dict[str, Any] = {
        "source_dir": Path(reader.take("sourceDir", "/", fields.folder, required=True)),
        "work_dir": Path(reader.take("workDir", "/", fields.folder, required=True)),
        "script": reader.take("script", "train.py", fields.relative),
        "data_dir": Path(reader.take("dataDir", "/", fields.folder, required=True)),
        "device": reader.take("device", "cpu", fields.pattern(r"cpu|cuda:\d{1,3}", "cpu or cuda:N")),
    }
    cpus = reader.take("cpus", None, fields.cores)
    reader.finish()
    if problems:
        raise SpecError(problems)
    return TrialSpec(**values, **places, cpus=None if cpus is None else tuple(sorted(set(cpus))))
