"""The knobs of a script: its module-level literals, and new values put in their place.

`NAME = literal` at the top level of any Python file is a knob, unless the name is bound a second time (then the
literal is a starting value, not a setting). A comment at the end of the statement says how to search it:

    PEAK_LR = 0.04     # search: log 0.005..0.2
    DEPTH = 4          # search: int 1..12
    OPTIMIZER = "AdamW"  # search: choice AdamW, Muon
    CLIP = 1.0         # search: off
    # require: TOTAL_BATCH % MICRO_BATCH == 0
"""

from __future__ import annotations

import ast
import functools
import itertools
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from autoresearch_operator.proposers.domains import Domain, guess_domain, parse_search
from autoresearch_operator.proposers.frame import split, tree_of
from autoresearch_operator.proposers.literals import (
    KnobValue,
    NotALiteral,
    format_literal,
    literal_value,
    same_value,
)
from autoresearch_operator.proposers.requirements import Requirement, parse_requirement

_SEARCH = re.compile(r"[ \t;]*#.*?(?:(?<=#)|(?<=# ))search:(?P<text>[^#\r\n]*)")
_REQUIRE = re.compile(r"\s*#\s*require:(?P<text>[^#\r\n]*)")
_LINE_END = re.compile(r"\r\n|\r|\n")
_NOT_SEARCHED = frozenset(
    {"SEED", "SEEDS", "EVAL", "EVALUATION", "VAL", "VOCAB", "VOCABULARY", "TOKENIZER", "BUDGET", "FLOPS", "VERSION"}
    | {"PORT", "DEVICE", "PATH", "DIR", "LOG", "PRINT", "INTERVAL", "DEBUG", "TIMEOUT", "TIME"}
)
"""Words in a name that mark a measurement condition or plumbing: never searched unless a comment asks for it."""


class KnobError(ValueError):
    """A file that cannot be read as a script with knobs; the text is a sentence with path and line."""


@dataclass(frozen=True, slots=True)
class Knob:
    """One module-level literal. `start` and `end` are character offsets of the literal in the file's text."""

    name: str
    value: KnobValue
    literal: str
    start: int
    end: int
    line: int
    domain: Domain | None
    """What to search; None: left alone."""
    annotated: bool
    """Whether the domain was written by the author."""


@dataclass(frozen=True, slots=True)
class KnobSet:
    """All knobs of one file, in the order of the file, with the conditions between them."""

    path: str
    knobs: Mapping[str, Knob]
    requirements: tuple[Requirement, ...]

    @property
    def values(self) -> dict[str, KnobValue]:
        return {name: knob.value for name, knob in self.knobs.items()}

    def violations(self, changed: Mapping[str, KnobValue]) -> list[Requirement]:
        """The conditions that would not hold with `changed` values put in."""
        values = {**self.values, **changed}
        return [requirement for requirement in self.requirements if not requirement.holds(values)]


def is_condition(name: str) -> bool:
    """Whether a name sounds like a condition of the measurement (seed, evaluation, vocabulary) or plumbing."""
    return not _NOT_SEARCHED.isdisjoint(name.upper().split("_"))


@functools.lru_cache(maxsize=64)
def read_knobs(source: str, path: str = "train.py") -> KnobSet:
    """The knobs of `source`. Raises KnobError, with a sentence, for text that is no Python or a wrong comment."""
    parts = split(source)
    settings, requirements = _read_frame(parts.frame, path)
    numbers = {found.line: found for found in parts.numbers}
    knobs: dict[str, Knob] = {}
    shift, counted = 0, 0
    for setting in settings:
        # Every number before this place that is longer than what stands for it in the frame moves the place.
        while counted < len(parts.numbers) and parts.numbers[counted].line < setting.line:
            shift += len(parts.numbers[counted].literal) - 1
            counted += 1
        found = numbers.get(setting.line)
        value = setting.value if found is None else found.value
        literal = setting.literal if found is None else found.literal
        start = setting.start + shift
        knobs[setting.name] = Knob(
            setting.name, value, literal, start, start + len(literal), setting.line,
            _domain(setting, value, path), setting.comment is not None,
        )  # fmt: skip
    return KnobSet(path, knobs, requirements)


@dataclass(frozen=True, slots=True)
class _Setting:
    """A knob as a frame has it; its value and literal count only where no number was taken out."""

    name: str
    value: KnobValue
    literal: str
    start: int
    line: int
    last: int
    comment: str | None
    """What the author says about searching it."""


@functools.lru_cache(maxsize=16)
def _read_frame(source: str, path: str) -> tuple[tuple[_Setting, ...], tuple[Requirement, ...]]:
    """What all texts with one frame share. Raises KnobError."""
    shift = 1 if source.startswith("\ufeff") else 0
    text = source[shift:]
    tree = _parse(text, path)
    lines = _Lines(text)
    bound = Counter(_bound_names(tree.body))
    settings: dict[str, _Setting] = {}
    for statement, follower in itertools.zip_longest(tree.body, tree.body[1:]):
        last = statement.end_lineno or statement.lineno
        shares_line = follower is not None and follower.lineno == last
        comment = None if shares_line else _SEARCH.match(lines.rest(last, statement.end_col_offset or 0))
        found = _literal(statement)
        if found is None or bound[found[0]] != 1 or found[0].startswith("__"):
            if comment:
                raise KnobError(
                    f"{path}, line {last}: a search comment must end a line NAME = literal, and NAME is bound only once"
                )
            continue
        name, node, value = found
        start = lines.offset(node.lineno, node.col_offset)
        end = lines.offset(node.end_lineno or node.lineno, node.end_col_offset or 0)
        asked = comment["text"] if comment else None
        settings[name] = _Setting(name, value, text[start:end], start + shift, node.lineno, last, asked)
    requirements = tuple(_requirements(lines.own_comments(tree), settings, path))
    return tuple(settings.values()), requirements


def _domain(setting: _Setting, value: KnobValue, path: str) -> Domain | None:
    domain = None if setting.comment is not None or is_condition(setting.name) else guess_domain(value)
    if setting.comment is not None:
        try:
            domain = parse_search(setting.comment, value)
        except ValueError as error:
            raise KnobError(f"{path}, line {setting.last}: {setting.name}: {error}") from error
    return None if domain is None else domain.including(value)


def splice(source: str, values: Mapping[str, KnobValue], path: str = "train.py") -> str:
    """`source` with knobs set to new values; everything else stays byte for byte, unchanged values included.

    Raises KnobError when a name is not a knob of the source.
    """
    return splice_literals(
        source,
        {
            name: knob.literal if same_value(value, knob.value) else format_literal(value, knob.literal)
            for name, value in values.items()
            for knob in [_knob(source, name, path)]
        },
        path,
    )


def splice_literals(source: str, literals: Mapping[str, str], path: str = "train.py") -> str:
    """As `splice`, with the source text of each literal given."""
    parts, end = [], len(source)
    for knob in sorted((_knob(source, name, path) for name in literals), key=lambda knob: -knob.start):
        parts += [source[knob.end : end], literals[knob.name]]
        end = knob.start
    return "".join([source[:end], *reversed(parts)])


def knob_values(files: Mapping[str, str]) -> dict[str, KnobValue]:
    """Every knob of every Python file as "path:NAME" -> value. A file that cannot be read has no knobs."""
    found: dict[str, KnobValue] = {}
    for path in sorted(files):
        if not path.endswith(".py"):
            continue
        try:
            knobs = read_knobs(files[path], path)
        except KnobError:
            continue
        found |= {f"{path}:{name}": value for name, value in knobs.values.items()}
    return found


def _knob(source: str, name: str, path: str) -> Knob:
    knobs = read_knobs(source, path).knobs
    if name not in knobs:
        raise KnobError(f"{path}: {name} is not a knob: there is no single module-level line {name} = literal")
    return knobs[name]


def _parse(text: str, path: str) -> ast.Module:
    try:
        return tree_of(text)
    except SyntaxError as error:
        raise KnobError(f"{path}, line {error.lineno}: this is not valid Python: {error.msg}") from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise KnobError(f"{path}: this is not valid Python: {error or 'nested too deeply'}") from error


class _Lines:
    """The lines of a text as the parser counts them: columns are UTF-8 bytes, and a form feed ends no line."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._starts = [0, *(match.end() for match in _LINE_END.finditer(text)), len(text)]

    def line(self, line: int) -> str:
        return self._text[self._starts[line - 1] : self._starts[line]]

    def offset(self, line: int, column: int) -> int:
        """Characters from the start of the text to a place given as the parser gives it."""
        return self._starts[line - 1] + len(self.line(line).encode()[:column].decode())

    def rest(self, line: int, column: int) -> str:
        return self.line(line).encode()[column:].decode()

    def own_comments(self, tree: ast.Module) -> Iterator[tuple[int, str]]:
        """(line, text) of every line that holds a condition and nothing else. Much faster than a tokenizer."""
        found = [(n, text) for n in range(1, len(self._starts)) if _REQUIRE.match(text := self.line(n))]
        if not found:
            return
        quoted = [
            (node.lineno, node.end_lineno or node.lineno)
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant | ast.JoinedStr) and node.end_lineno != node.lineno
        ]
        yield from (item for item in found if not any(first < item[0] <= last for first, last in quoted))


def _requirements(comments: Iterable[tuple[int, str]], knobs: Collection[str], path: str) -> Iterator[Requirement]:
    for line, comment in comments:
        match = _REQUIRE.match(comment)
        if match is None:
            continue
        try:
            requirement = parse_requirement(match["text"], line)
        except ValueError as error:
            raise KnobError(f"{path}, line {line}: {error}") from error
        if unknown := sorted(requirement.names - set(knobs)):
            raise KnobError(
                f"{path}, line {line}: {', '.join(unknown)} in the condition {requirement.text!r} is not a knob: "
                "use only names that are set once, at module level, to a literal"
            )
        yield requirement


def _literal(statement: ast.stmt) -> tuple[str, ast.expr, KnobValue] | None:
    match statement:
        case ast.Assign(targets=[ast.Name(id=name)], value=node):
            pass
        case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as node):
            pass
        case _:
            return None
    try:
        return name, node, literal_value(node)
    except (NotALiteral, RecursionError):
        return None


def _bound_names(body: list[ast.stmt]) -> Iterator[str]:
    """Every binding of a name in the module's own scope, and every name that a function declares global."""
    pending: list[ast.AST] = list(body)
    while pending:
        node = pending.pop()
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
                for inner in ast.walk(node):
                    if isinstance(inner, ast.Global):
                        yield from inner.names
                continue
            case ast.Lambda():
                continue
            case ast.Name(id=name, ctx=ast.Store() | ast.Del()):
                yield name
            case ast.AnnAssign(target=ast.Name(), value=None):
                continue
            case ast.alias(name=name, asname=asname):
                yield (asname or name).split(".")[0]
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                yield name
            case ast.MatchMapping(rest=str(name)):
                yield name
        if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
            yield node.target.id
        pending.extend(ast.iter_child_nodes(node))
