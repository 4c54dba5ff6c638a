"""Records as JSON objects and as rows of tab-separated text, without loss.

The rows' first five columns are upstream's (`results.tsv`), so that its tools and eyes work on ours; what they round
or leave out stands again, exactly, in the columns after them.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from autoresearch_operator.api.reasons import Verdict
from autoresearch_operator.research.records import ExperimentRecord, TrialKey, TrialRecord

T = TypeVar("T")

EXPERIMENT: TypeAdapter[ExperimentRecord] = TypeAdapter(ExperimentRecord)
TRIAL: TypeAdapter[TrialRecord] = TypeAdapter(TrialRecord)

GIB = float(1 << 30)
_UPSTREAM = ("commit", "val_bpb", "memory_gb", "status", "description")
_STATUS = {Verdict.ACCEPTED: "keep", Verdict.REJECTED: "discard", Verdict.INVALID: "crash"}
# Taken from the records themselves, so that a field added there is never lost here.
_EXPERIMENT_OWN = tuple(
    item.name for item in dataclasses.fields(ExperimentRecord) if item.name not in {"commit", "val_bpb", "title"}
)
_KEY = tuple(item.name for item in dataclasses.fields(TrialKey))
_TRIAL_OWN = (
    *_KEY,
    *(item.name for item in dataclasses.fields(TrialRecord) if item.name not in {"key", "val_bpb"}),
)
_JSON = frozenset({"changes", "sources", "refused", "curve"})
_TEXT = frozenset({"description", "hypothesis", "message", "detail", "proposer", "tier", "tree", "commit"})
_ESCAPES = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r", "\0": "\\0"}
_ESCAPED = {escape: plain for plain, escape in _ESCAPES.items()}
_PLAIN = re.compile(r"[\\\t\n\r\0]")
_CODED = re.compile(r"\\[\\tnr0]")
_NO_SCORE = "0.000000"  # upstream's word for "no score"; a real zero is written 0.0


class RecordError(ValueError):
    """A record cannot be read; the message says which and why."""


def escape(text: str) -> str:
    """One cell: tabs, line ends, NUL and backslashes are written as two characters."""
    return _PLAIN.sub(lambda match: _ESCAPES[match.group()], text)


def unescape(cell: str) -> str:
    return _CODED.sub(lambda match: _ESCAPED[match.group()], cell) if "\\" in cell else cell


def as_json(record: ExperimentRecord | TrialRecord) -> dict[str, Any]:
    """A record as a JSON object; fields at their defaults are left out, so files stay small."""
    found: dict[str, Any] = {}
    for item in dataclasses.fields(record):
        value = getattr(record, item.name)
        if item.default is not dataclasses.MISSING and value == item.default:
            continue
        found[item.name] = dataclasses.asdict(value) if item.name == "key" else value
    if "changes" in found:
        found["changes"] = [dataclasses.asdict(change) for change in found["changes"]]
    return found


def experiment_from_json(value: object) -> ExperimentRecord:
    """Raises RecordError: the object is no experiment."""
    return _validated(EXPERIMENT, value, "experiment")


def trial_from_json(value: object) -> TrialRecord:
    """Raises RecordError: the object is no trial."""
    return _validated(TRIAL, value, "trial")


def _validated(adapter: TypeAdapter[T], value: object, what: str) -> T:
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or what
        raise RecordError(f"not a readable {what}: {where}: {first['msg']}") from None


def dumps(value: object) -> bytes:
    """JSON for people and programs; a lone surrogate, which no file can hold, becomes `?`."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def experiments_tsv(records: Iterable[ExperimentRecord], memory: Mapping[int, int]) -> bytes:
    """Rows of experiments. `memory` is the peak of each experiment's runs in bytes, for upstream's column."""
    rows = []
    for record in records:
        status = _STATUS[record.verdict] if record.verdict else "pending"
        rows.append(
            [record.commit, _score(record.val_bpb), f"{memory.get(record.number, 0) / GIB:.1f}", status, record.title]
            + [_cell(name, getattr(record, name)) for name in _EXPERIMENT_OWN]
        )
    return _table((*_UPSTREAM, *_EXPERIMENT_OWN), rows)


def trials_tsv(records: Iterable[TrialRecord], commits: Mapping[int, str]) -> bytes:
    """Rows of trials. `commits` gives the commit of each experiment, for upstream's column."""
    rows = []
    for record in records:
        peak = record.peak_vram_bytes or record.peak_memory_bytes or 0
        description = f"{record.purpose} of {record.key.experiment}, seed {record.key.seed}"
        rows.append(
            [commits.get(record.key.experiment, ""), _score(record.val_bpb), f"{peak / GIB:.1f}", str(record.phase)]
            + [description]
            + [_cell(name, getattr(record.key if name in _KEY else record, name)) for name in _TRIAL_OWN]
        )
    return _table((*_UPSTREAM, *_TRIAL_OWN), rows)


def experiments_from_tsv(text: bytes) -> list[ExperimentRecord]:
    """Raises RecordError: a row is not readable; the message gives its line."""
    found = []
    for line, row in _rows(text):
        row["title"] = row.pop("description") or ""
        row["val_bpb"] = _unscore(row["val_bpb"])
        found.append(_line(EXPERIMENT, row, "experiment", line))
    return found


def trials_from_tsv(text: bytes) -> list[TrialRecord]:
    """Raises RecordError: a row is not readable; the message gives its line."""
    found = []
    for line, row in _rows(text):
        row["key"] = {name: row.pop(name) for name in _KEY}
        row["val_bpb"] = _unscore(row["val_bpb"])
        found.append(_line(TRIAL, row, "trial", line))
    return found


def _line(adapter: TypeAdapter[T], row: dict[str, Any], what: str, line: int) -> T:
    try:
        return _validated(adapter, row, what)
    except RecordError as error:
        raise RecordError(f"line {line}: {error}") from None


def _score(value: float | None) -> str:
    return _NO_SCORE if value is None else repr(value)


def _unscore(cell: str | None) -> str | None:
    return None if cell == _NO_SCORE else cell


def _cell(name: str, value: Any) -> str:
    if value is None:
        return ""
    if name in _JSON:
        if not value:
            return ""
        plain = [dataclasses.asdict(item) for item in value] if name == "changes" else value
        return json.dumps(plain, ensure_ascii=False, separators=(",", ":"))
    return repr(value) if isinstance(value, float) else str(value)


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> bytes:
    lines = ["\t".join(columns), *("\t".join(map(escape, row)) for row in rows)]
    return ("\n".join(lines) + "\n").encode("utf-8", "replace")


def _rows(text: bytes) -> Iterable[tuple[int, dict[str, Any]]]:
    try:
        # Not splitlines(): a title may hold U+2028 or a form feed.
        lines = text.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise RecordError(f"not UTF-8 at byte {error.start}") from None
    columns = lines[0].split("\t")
    if columns[:5] != list(_UPSTREAM) or lines[-1]:
        raise RecordError("the table is cut off or has another header")
    for number, line in enumerate(lines[1:-1], start=2):
        cells = line.split("\t")
        if len(cells) != len(columns):
            raise RecordError(f"line {number} has {len(cells)} cells in place of {len(columns)}")
        row: dict[str, Any] = {}
        for name, cell in zip(columns, cells, strict=True):
            if name in {"memory_gb", "status"}:
                continue
            if name in _TEXT:
                row[name] = unescape(cell)
            elif name in _JSON:
                if cell:
                    row[name] = _loads(unescape(cell), number, name)
            else:
                row[name] = cell or None
        yield number, row


def _loads(text: str, line: int, name: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        raise RecordError(f"line {line}: the column {name} is not JSON") from None
