"""Loads a ResearchRun from a file's text and says in sentences what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml
from pydantic import ValidationError

from autoresearch_operator.api import yamltree
from autoresearch_operator.api.base import API_VERSION, LOCAL, shown
from autoresearch_operator.api.fields import Path, Type, spelled, type_at, unwrap
from autoresearch_operator.api.run import ResearchRun
from autoresearch_operator.api.sentences import sentence_of

Found = tuple[Path, int | None, str]
"""Path, line and sentence of a problem."""

MAX_PROBLEMS = 50
"""Problems that are listed; nobody reads more."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong in a file."""

    filename: str
    path: str
    """The field as the file spells it, such as `spec.tiers[0].gpus`; empty for the file as a whole."""
    sentence: str
    line: int | None = None

    def __str__(self) -> str:
        place = self.filename if self.line is None else f"{self.filename}:{self.line}"
        return f"{place}: {self.path}: {self.sentence}" if self.path else f"{place}: {self.sentence}"


class InvalidResource(ValueError):
    """A file does not hold a valid resource. `problems` is never empty; as a string it is one problem a line."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        self.problems = problems
        super().__init__("\n".join(str(problem) for problem in problems))


def load_run(text: str, *, filename: str, local: bool) -> ResearchRun:
    """Load the one ResearchRun in `text`, by the rules of the API server.

    `filename` is shown in problems and is not opened. With `local`, `spec.source.url` may be a folder.
    Raises InvalidResource with everything that is wrong, in the order of the file.
    """
    try:
        document = yamltree.read(text)
    except yamltree.Unreadable as error:
        raise InvalidResource((Problem(filename, "", str(error)),)) from error
    found: list[Found] = list(document.problems)
    run: ResearchRun | None = None
    if wrong := list(_wrong_kind(document.value)):
        found += [(path, document.line(path), sentence) for path, sentence in wrong]
    else:
        value = {key: part for key, part in document.value.items() if key != "status"}
        value = _without_empty(unwrap(ResearchRun), value, (), found, document)
        try:
            run = ResearchRun.model_validate(value, context={LOCAL: local}, by_alias=True, by_name=False)
        except ValidationError as error:
            empty = {path for path, _, _ in found}
            for details in error.errors(include_url=False):
                path, sentence = sentence_of(details, document.texts)
                if sentence and not (details["type"] == "missing" and path in empty):
                    found.append((path, document.line(path), sentence))
    if found or run is None:
        raise InvalidResource(_listed(filename, found))
    return run


def dump_run(run: ResearchRun) -> str:
    """A ResearchRun as YAML that `load_run` and kubectl read back to the same object."""
    value = _tidy(unwrap(ResearchRun), run.model_dump(mode="json", exclude_none=True))
    text: str = yaml.dump(value, Dumper=yamltree.Dumper, sort_keys=False, allow_unicode=True, width=120)
    return text


def _tidy(kind: Type | None, value: Any) -> Any:
    """300.0 is written as 300, and empty maps and lists are left out; free-form maps stay as they are."""
    if kind is not None and kind.model is not None and isinstance(value, dict):
        tidied = {}
        for key, part in value.items():
            below = type_at(kind.model, (key,))
            if part not in ({}, []) or (below is not None and below.optional):
                tidied[key] = _tidy(below, part)
        return tidied
    if kind is not None and kind.is_list and isinstance(value, list):
        return [_tidy(kind.item, part) for part in value]
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value


def _listed(filename: str, found: list[Found]) -> tuple[Problem, ...]:
    ordered = sorted(dict.fromkeys(found), key=lambda entry: entry[1] or 0)
    problems = [Problem(filename, spelled(path), sentence, line) for path, line, sentence in ordered[:MAX_PROBLEMS]]
    if len(ordered) > MAX_PROBLEMS:
        problems.append(Problem(filename, "", f"and {len(ordered) - MAX_PROBLEMS} more problems"))
    return tuple(problems)


def _wrong_kind(value: object) -> Iterator[tuple[Path, str]]:
    """What shows that the file is not meant as a ResearchRun; field by field sentences would only hide it."""
    if not isinstance(value, dict):
        yield (), f"got {shown(value)}, want a ResearchRun: a map with apiVersion, kind, metadata and spec"
        return
    for key, want in (("apiVersion", API_VERSION), ("kind", "ResearchRun")):
        if key not in value:
            yield (key,), f"is missing: write {key}: {want}"
        elif value[key] != want:
            hint = "; Experiments are created by the operator" if value[key] == "Experiment" else ""
            yield (key,), f"got {shown(value[key])}, want {want}{hint}"


def _without_empty(kind: Type, value: Any, path: Path, found: list[Found], document: yamltree.Document) -> Any:
    """Leave out keys without a value, as `limits:` with all its lines commented out; refuse them at plain fields.

    An unset limit must not come from a forgotten number, so only maps and lists may be left empty.
    """
    if kind.model is None:
        if kind.item is not None and kind.item.model is not None and isinstance(value, list):
            return [_without_empty(kind.item, part, (*path, i), found, document) for i, part in enumerate(value)]
        return value
    if not isinstance(value, dict):
        return value
    kept: dict[str, Any] = {}
    for key, part in value.items():
        below = type_at(kind.model, (key,))
        if part is not None or below is None:
            kept[key] = part if below is None else _without_empty(below, part, (*path, key), found, document)
        elif not (below.model or below.is_list or below.is_map):
            want = f": want {below.want}, or leave the line out" if below.want else ": leave the line out"
            found.append(((*path, key), document.line((*path, key)), f"has no value{want}"))
    return kept
