"""Reads one YAML document into plain values, and remembers the line and the spelling of each.

Stricter than YAML, because a file that means something else than it looks like costs a night of GPU time: no key
twice, no aliases, no tags, and only the scalars that JSON has. Nothing here can build an object of another class.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from autoresearch_operator.api.fields import Path

MAX_CHARACTERS = 300_000
"""A hundred times what a long one has; enough to keep a wrong file from taking longer than a second or two."""
MAX_DEPTH = 32
MAX_NODES = 5_000

_INT = re.compile(r"^[-+]?(?:0|[1-9][0-9]{0,39})$")
_FLOAT = re.compile(r"^[-+]?(?:(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+)$")
_BOOL = re.compile(r"^(?:true|True|TRUE|false|False|FALSE|yes|Yes|YES|no|No|NO|on|On|ON|off|Off|OFF)$")
_NULL = re.compile(r"^(?:~|null|Null|NULL|)$")
_TAG = "tag:yaml.org,2002:"


class Unreadable(Exception):
    """The text is not one YAML document that can be read. Carries one sentence, which names the place."""


@dataclass(slots=True)
class Document:
    """Plain values (dict, list, str, int, float, bool, None) and where they stood."""

    value: Any = None
    lines: dict[Path, int] = field(default_factory=dict)
    """Line (from 1) of each key and list entry."""
    texts: dict[Path, str] = field(default_factory=dict)
    """Each plain scalar as it is spelled in the file, so that a refusal can show what the person wrote."""
    problems: list[tuple[Path, int | None, str]] = field(default_factory=list)
    """What the YAML itself has wrong, though it can be read: path, line, sentence."""

    def line(self, path: Path) -> int | None:
        """The line of the nearest thing on the way to `path` that is in the file."""
        for end in range(len(path), 0, -1):
            if path[:end] in self.lines:
                return self.lines[path[:end]]
        return None


class _Loader(yaml.SafeLoader):
    """PyYAML's scanner, parser and composer with scalars as kubectl reads them: 1e-3 is a number, 1:30 is not."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 - an instance attribute in PyYAML's types, a class's in its code


class Dumper(yaml.SafeDumper):
    """Quotes what either reader, this one or one of YAML 1.1, would take for something other than a string."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - as above
        key: list(value) for key, value in yaml.SafeDumper.yaml_implicit_resolvers.items()
    }

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - the signature is PyYAML's
        return True


def _string(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    """Unicode's line breaks are escaped: unescaped, a reader folds them into blanks."""
    style = '"' if any(char in text for char in "\x85\u2028\u2029") else None
    return dumper.represent_scalar(_TAG + "str", text, style=style)


Dumper.add_representer(str, _string)

for _name, _pattern, _first in (
    ("bool", _BOOL, list("yYnNtTfFoO")),
    ("int", _INT, list("-+0123456789")),
    ("float", _FLOAT, list("-+.0123456789")),
    ("null", _NULL, ["~", "n", "N", ""]),
):
    _Loader.add_implicit_resolver(_TAG + _name, _pattern, _first)
    Dumper.add_implicit_resolver(_TAG + _name, _pattern, _first)


def read(text: str) -> Document:
    """Read the one document in `text`; raises Unreadable."""
    if len(text) > MAX_CHARACTERS:
        raise Unreadable(f"has {len(text):,} characters, want at most {MAX_CHARACTERS:,}")
    if not text.strip():
        raise Unreadable("is empty: `autoresearch init` writes a file to begin with")
    try:
        _check_events(text)
        roots = [node for node in yaml.compose_all(text, Loader=_Loader) if not _is_blank(node)]
    except yaml.YAMLError as error:
        raise Unreadable(_sentence(text, error)) from error
    if not roots:
        raise Unreadable("holds comments only: `autoresearch init` writes a file to begin with")
    if len(roots) > 1:
        raise Unreadable(
            f"holds {len(roots)} documents (the second begins at line {roots[1].start_mark.line + 1}), want one "
            "ResearchRun: put each in a file of its own"
        )
    document = Document()
    document.value = _convert(roots[0], (), document)
    return document


def _is_blank(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.value == "" and node.style is None


def _check_events(text: str) -> None:
    """Refuse what would be dear to build before building it: nesting and expansion are seen in the events already."""
    depth = nodes = 0
    for event in yaml.parse(text, Loader=_Loader):
        line = event.start_mark.line + 1 if event.start_mark else 0
        if isinstance(event, yaml.AliasEvent):
            raise Unreadable(f"line {line}: the alias *{str(event.anchor)[:40]} is not read: write the value out")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            raise Unreadable(f"line {line}: maps and lists are nested more than {MAX_DEPTH} deep")
        if isinstance(event, yaml.NodeEvent):
            nodes += 1
            tag = getattr(event, "tag", None)
            if tag not in (None, "!"):
                raise Unreadable(f"line {line}: the tag {str(tag)[:60]} is not read: write a plain value")
        if nodes > MAX_NODES:
            raise Unreadable(f"line {line}: more than {MAX_NODES:,} values: this is not a ResearchRun")


def _convert(node: yaml.Node, path: Path, document: Document) -> Any:
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, path, document)
    if isinstance(node, yaml.SequenceNode):
        values = []
        for index, child in enumerate(node.value):
            document.lines[*path, index] = child.start_mark.line + 1
            values.append(_convert(child, (*path, index), document))
        return values
    return _scalar(node, path, document)


def _mapping(node: yaml.MappingNode, path: Path, document: Document) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key_node, child in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            document.problems.append((path, line, "has a map or a list as a key: keys are plain words"))
            continue
        key = _joined(str(key_node.value))
        below = (*path, key)
        if key in values:
            document.problems.append(
                (below, line, f"is set twice, at lines {document.lines[below]} and {line}: keep one")
            )
            continue
        document.lines[below] = line
        values[key] = _convert(child, below, document)
    return values


def _joined(text: str) -> str:
    """JSON escapes what lies beyond 16 bits as two halves ("\\ud83d\\ude00"), which YAML takes for two characters."""
    if text.isascii():
        return text
    try:
        return text.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError:
        return text  # a half without its other: refused as no string, with its path


def _scalar(node: yaml.Node, path: Path, document: Document) -> Any:
    text = str(node.value)
    tag = node.tag.removeprefix(_TAG)
    if tag == "str":
        return _joined(text)
    document.texts[path] = text
    match tag:
        case "null":
            return None
        case "bool":
            return text.lower() in ("true", "yes", "on")
        case "int":
            return int(text)
        case _:
            # 1e999 stays a string, and is refused as one: no field takes infinity.
            return float(text) if math.isfinite(float(text)) else text


def _sentence(text: str, error: yaml.YAMLError) -> str:
    """One sentence for what PyYAML spreads over several lines."""
    if isinstance(error, yaml.reader.ReaderError):
        code = error.character if isinstance(error.character, int) else ord(str(error.character))
        before = text[: error.position]
        line, column = before.count("\n") + 1, error.position - (before.rfind("\n") + 1) + 1
        return f"line {line}, column {column}: the character U+{code:04X} is not allowed in YAML"
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    problem = str(getattr(error, "problem", None) or error).split("\n")[0]
    if mark is None:
        return f"is not valid YAML: {problem}"
    place = f"line {mark.line + 1}, column {mark.column + 1}"
    lines = text.splitlines()
    if r"'\t'" in problem or (mark.line < len(lines) and "\t" in lines[mark.line][: mark.column + 1]):
        return f"{place}: a tab: YAML is indented with blanks only"
    context = getattr(error, "context", None)
    # "while parsing a block mapping" tells where the reader was; only with the problem does it make a sentence.
    return f"{place}: not valid YAML: {problem}" + (f" ({context})" if context else "")
