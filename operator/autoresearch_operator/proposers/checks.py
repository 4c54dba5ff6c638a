"""Checks of an edit before anything is run, cheap ones first. They save runs; the gate and the judge are what protects.

Every check compares with the files before the edit: what the base does already is allowed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from autoresearch_operator.api.reasons import VerdictReason
from autoresearch_operator.proposers.edits import fingerprint
from autoresearch_operator.proposers.frame import split, tree_of
from autoresearch_operator.proposers.knobs import KnobError, read_knobs
from autoresearch_operator.proposers.lint import Finding, Kind, findings

MAX_BYTES = 700 * 1024
"""All files of a candidate together; they travel in one object of the cluster's store, which takes 1 MiB."""

_PLAIN_PATH = re.compile(r"[\w.+ -]+(/[\w.+ -]+)*\Z")
_ADVICE = {
    Kind.SEED: "seeds and data order belong to the measurement: leave every seed and generator as it is",
    Kind.TOKENIZER: "the tokenizer and its vocabulary belong to the measurement: change the model, not how text is cut",
    Kind.EVALUATION: "the evaluation belongs to the judge: import evaluate_bpb and the limits from prepare and use "
    "them as they are",
    Kind.NETWORK: "a trial has no network: train from make_dataloader alone",
    Kind.PATH: "a trial sees its own folder only: use make_dataloader for data and relative paths for the rest",
    Kind.CLOCK: "the gate keeps the clock: follow its progress for schedules, not the time",
}
_DETAIL = {
    Kind.SEED: "SeedChanged",
    Kind.TOKENIZER: "TokenizerChanged",
    Kind.EVALUATION: "EvaluationChanged",
    Kind.NETWORK: "Network",
    Kind.PATH: "AbsolutePath",
    Kind.CLOCK: "ClockRead",
}
_WARNINGS = frozenset({Kind.NETWORK, Kind.PATH, Kind.CLOCK})


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an edit is not run. A `warning` is only told to the proposer."""

    reason: VerdictReason
    detail: str
    """A finer name, such as SeedChanged."""
    message: str
    """What was seen, where, and what to do instead."""
    warning: bool = False


def check(before: Mapping[str, str], after: Mapping[str, str], editable_paths: Sequence[str]) -> list[Refusal]:
    """Everything that speaks against the edit from `before` to `after`, hard refusals first; empty when nothing does.

    Later checks are left out where an earlier one makes them pointless: there is no lint of a file with a syntax error.
    """
    edited = sorted(path for path in {*before, *after} if before.get(path) != after.get(path))
    found = [*_paths(before, after, edited, editable_paths), *_size(after)]
    if found:
        return found
    found = [refusal for path in edited if path in after for refusal in _syntax(path, after[path])]
    if found:
        return found
    if fingerprint(before) == fingerprint(after):
        message = "the edit changes only comments, spacing or spelling: change what the program does"
        return [Refusal(VerdictReason.DUPLICATE, "NothingChanged", message)]
    found = [refusal for path in edited for refusal in _knobs(path, before.get(path), after.get(path))]
    for path in edited:
        found += _lint(path, before.get(path, ""), after.get(path, ""))
    return sorted(found, key=lambda refusal: refusal.warning)


def _paths(
    before: Mapping[str, str], after: Mapping[str, str], edited: Sequence[str], editable: Sequence[str]
) -> Iterator[Refusal]:
    for path in edited:
        problem = _path_problem(path)
        if not problem and not any(_covers(allowed, path) for allowed in editable):
            problem = f"it is not editable; editable are: {', '.join(editable)}"
        if not problem:
            twins = [other for other in {*before, *after} if other != path and other.casefold() == path.casefold()]
            problem = f"it differs from {twins[0]} by case alone, which some file systems take for one" if twins else ""
        if problem:
            yield Refusal(VerdictReason.CHECK_FAILED, "PathNotAllowed", f"{path!r} cannot be edited: {problem}")


def _path_problem(path: str) -> str:
    parts = path.replace("\\", "/").split("/")
    if path.startswith("/") or re.match(r"[A-Za-z]:", path):
        return "it is absolute; give paths from the root of the source"
    if ".." in parts or "." in parts or "" in parts:
        return "it has empty, '.' or '..' parts; give the plain path"
    if any(part.casefold().rstrip(". ") in (".git", "git~1") for part in parts):
        return "it is inside .git"
    if not _PLAIN_PATH.match(path):
        return "it has characters other than letters, digits, space and . _ + - /"
    return ""


def _covers(allowed: str, path: str) -> bool:
    """Whether an editable path is the file itself or a folder that it lies in. Case counts."""
    return PurePosixPath(path).is_relative_to(PurePosixPath(allowed))


def _size(after: Mapping[str, str]) -> Iterator[Refusal]:
    size = sum(len(text.encode("utf-8", "surrogatepass")) for text in after.values())
    if size > MAX_BYTES:
        message = f"the files have {size / 1024:.0f} KiB together and may have {MAX_BYTES // 1024}: leave data out"
        yield Refusal(VerdictReason.CHECK_FAILED, "SourceTooLarge", message)


def _syntax(path: str, text: str) -> Iterator[Refusal]:
    if not path.endswith(".py"):
        return
    try:
        tree_of(split(text).frame.removeprefix("\ufeff"))
    except SyntaxError as error:
        message = f"{path}, line {error.lineno}: {error.msg}: mend the syntax"
        yield Refusal(VerdictReason.CHECK_FAILED, "SyntaxError", message)
    except (ValueError, RecursionError, MemoryError) as error:
        message = f"{path}: Python cannot read it ({error or 'nested too deeply'}): write plain text, nested less"
        yield Refusal(VerdictReason.CHECK_FAILED, "SyntaxError", message)


def _knobs(path: str, before: str | None, after: str | None) -> Iterator[Refusal]:
    """A broken comment or condition would stop every later search, unless the base had it already."""
    if after is None or not path.endswith(".py"):
        return
    try:
        knobs = read_knobs(after, path)
    except KnobError as error:
        if before is None or _readable(before, path):
            yield Refusal(VerdictReason.CHECK_FAILED, "KnobComment", f"{error}")
        return
    old = read_knobs(before, path).violations({}) if before is not None and _readable(before, path) else []
    known = {requirement.text for requirement in old}
    for requirement in knobs.violations({}):
        if requirement.text not in known:
            message = f"{path}, line {requirement.line}: {requirement.text} does not hold: choose values that meet it"
            yield Refusal(VerdictReason.CHECK_FAILED, "RequirementBroken", message)


def _readable(text: str, path: str) -> bool:
    try:
        read_knobs(text, path)
    except KnobError:
        return False
    return True


def _lint(path: str, before: str, after: str) -> Iterator[Refusal]:
    if not path.endswith(".py"):
        return
    old, new = findings(before), findings(after)
    known = {(finding.kind, finding.text) for finding in old}
    told: set[Kind] = set()
    for finding in new:
        if (finding.kind, finding.text) not in known and finding.kind not in told:
            told.add(finding.kind)
            yield _refusal(finding.kind, f"{path}, line {finding.line}: {finding.text}")
    kept = {finding.text for finding in new}
    gone = [finding for finding in old if finding.kind is Kind.SEED and finding.text not in kept]
    if gone and Kind.SEED not in told:
        yield _refusal(Kind.SEED, f"{path}: {_first(gone)} was taken out")


def _first(found: Sequence[Finding]) -> str:
    return found[0].text


def _refusal(kind: Kind, seen: str) -> Refusal:
    return Refusal(VerdictReason.CHECK_FAILED, _DETAIL[kind], f"{seen}: {_ADVICE[kind]}", kind in _WARNINGS)
