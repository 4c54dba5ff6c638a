"""Edits as data: comparing, merging and recognising versions of a script's files."""

from __future__ import annotations

import ast
import difflib
import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from autoresearch_operator.proposers.frame import split
from autoresearch_operator.proposers.knobs import Knob, KnobError, read_knobs, splice_literals
from autoresearch_operator.proposers.literals import NotALiteral, literal_value, number, same_value
from autoresearch_operator.proposers.textmerge import Overlap, merge_text, split_lines
from autoresearch_operator.research.records import Change


@dataclass(frozen=True, slots=True)
class Conflict:
    """Two edits that cannot both be made; `message` is a sentence with the place and both sides."""

    path: str
    message: str


def merge(base: Mapping[str, str], ours: Mapping[str, str], theirs: Mapping[str, str]) -> dict[str, str] | Conflict:
    """The files of `ours` with the edit that leads from `base` to `theirs` made on them as well.

    Rebase: base = the old incumbent, ours = the new one, theirs = the candidate. Taking an accepted edit out of a
    head: base = the edit's commit, ours = the head, theirs = the edit's parent. Knobs are merged by name, so edits of
    neighbouring knobs do not collide; everything else by lines. Two different values for one knob, or two
    edits of one place, are a Conflict.
    """
    merged: dict[str, str] = {}
    for path in sorted({*base, *ours, *theirs}):
        result = _merge_file(path, base.get(path), ours.get(path), theirs.get(path))
        if isinstance(result, Conflict):
            return result
        if result is not None:
            merged[path] = result
    return merged


def changes(before: Mapping[str, str], after: Mapping[str, str]) -> tuple[Change, ...]:
    """The knobs whose value differs, in the order of the files. Knobs that only one side has are not among them."""
    found = []
    for path in sorted(set(before) & set(after)):
        old, new = _knobs(before[path], path), _knobs(after[path], path)
        found += [
            Change(path, name, knob.literal, new[name].literal)
            for name, knob in old.items()
            if name in new and not same_value(knob.value, new[name].value)
        ]
    return tuple(found)


def diff(before: Mapping[str, str], after: Mapping[str, str], context: int = 3) -> str:
    """A unified diff of all files, empty when nothing differs."""
    parts: list[str] = []
    for path in sorted({*before, *after}):
        old, new = before.get(path), after.get(path)
        if old == new:
            continue
        lines = difflib.unified_diff(
            [] if old is None else split_lines(old),
            [] if new is None else split_lines(new),
            "/dev/null" if old is None else f"a/{path}",
            "/dev/null" if new is None else f"b/{path}",
            n=context,
        )
        parts += [line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines]
    return "".join(parts)


def fingerprint(files: Mapping[str, str]) -> str:
    """A hash that two sets of files share when they are the same program.

    Comments, white space, docstrings and the spelling of a module-level literal (`2**17`, 131072) do not
    count; values do.
    """
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(f"{path}\0{_file_mark(files[path], path.endswith('.py'))}\0".encode())
    return digest.hexdigest()


@functools.lru_cache(maxsize=64)
def _file_mark(text: str, is_python: bool) -> str:
    if is_python:
        parts = split(text)
        try:
            program, settings = _program(parts.frame)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            # Not a program: compared as text, so that two broken files are the same only when they are equal.
            pass
        else:
            own = {found.line: found.value for found in parts.numbers}
            values = [own.get(line, value) for line, value in settings]
            return hashlib.sha256(f"{program} {values!r}".encode()).hexdigest()
    plain = text.replace("\r\n", "\n").encode("utf-8", "surrogatepass")
    return hashlib.sha256(b"text\0" + plain).hexdigest()


@functools.lru_cache(maxsize=16)
def _program(frame: str) -> tuple[str, tuple[tuple[int, int | float], ...]]:
    """A hash of all but the numbers of module-level assignments, and these: (line, value), in order."""
    plain = _Plain()
    tree = plain.visit(ast.parse(frame.removeprefix("\ufeff")))
    text = ast.dump(tree, annotate_fields=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest(), tuple(plain.settings)


class _Plain(ast.NodeTransformer):
    """Takes out what does not change what a program does, and the numbers of module-level assignments."""

    def __init__(self) -> None:
        self.settings: list[tuple[int, int | float]] = []

    def _without_docstring(self, node: ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> ast.AST:
        match node.body:
            case [ast.Expr(value=ast.Constant(value=str())), *rest]:
                node.body = rest
        return self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        return self._without_docstring(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        return self._without_docstring(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        return self._without_docstring(node)

    def visit_Module(self, node: ast.Module) -> ast.AST:
        for statement in node.body:
            if isinstance(statement, ast.Assign):
                try:
                    value = number(literal_value(statement.value))
                except NotALiteral:
                    continue
                self.settings.append((statement.lineno, value))
                statement.value = ast.Name("0", ast.Load())  # which no program has
        return self._without_docstring(node)


def _merge_file(path: str, base: str | None, ours: str | None, theirs: str | None) -> str | Conflict | None:
    if theirs in (ours, base):
        return ours
    if base == ours:
        return theirs
    if base is None or ours is None or theirs is None:
        what = "both sides add it with different text" if base is None else "one side deletes what the other edits"
        return Conflict(path, f"{path}: {what}")
    return _merge_text(path, base, ours, theirs)


def _merge_text(path: str, base: str, ours: str, theirs: str) -> str | Conflict:
    agreed = _merge_knobs(path, base, ours, theirs)
    if isinstance(agreed, Conflict):
        return agreed
    # With the knobs set alike everywhere, only the other edits are left for the merge by lines.
    base, ours, theirs = (splice_literals(text, agreed, path) if agreed else text for text in (base, ours, theirs))
    merged = merge_text(base, ours, theirs)
    if isinstance(merged, Overlap):
        return Conflict(path, f"{path}, line {merged.line}: both edits change this place")
    if path.endswith(".py") and (broken := _syntax_error(merged)) and not any(map(_syntax_error, (ours, theirs))):
        return Conflict(path, f"{path}: the two edits put together are not valid Python: {broken}")
    return merged


def _merge_knobs(path: str, base: str, ours: str, theirs: str) -> dict[str, str] | Conflict:
    """The literal of every knob that all three versions have, as it is after the merge."""
    old, our, their = (_knobs(text, path) for text in (base, ours, theirs))
    agreed: dict[str, str] = {}
    for name in old:
        if name not in our or name not in their:
            continue
        before, one, other = old[name], our[name], their[name]
        if same_value(before.value, other.value):
            # A change of spelling alone (2**17 for 131072) gives way to nothing but an untouched spelling.
            agreed[name] = other.literal if before.literal == one.literal else one.literal
        elif same_value(before.value, one.value) or same_value(one.value, other.value):
            agreed[name] = other.literal
        else:
            return Conflict(
                path,
                f"{path}, line {one.line}: {name} was {before.literal}; one edit made it {one.literal}, "
                f"the other {other.literal}",
            )
    return agreed


def _knobs(text: str, path: str) -> Mapping[str, Knob]:
    if not path.endswith(".py"):
        return {}
    try:
        return read_knobs(text, path).knobs
    except KnobError:
        return {}


def _syntax_error(text: str) -> str:
    return _frame_error(split(text).frame)


@functools.lru_cache(maxsize=16)
def _frame_error(frame: str) -> str:
    try:
        ast.parse(frame.removeprefix("\ufeff"))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return str(error) or type(error).__name__
    return ""
