"""Walks the models as a file spells them: by alias, through lists and optional fields.

Shared by the loader (what does the field at this path want?), the generated reference and the commented template.
"""

from __future__ import annotations

import re
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from autoresearch_operator.api.base import Model, Want

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Type:
    """A type with `Annotated` and `| None` taken off, and everything that was said in the annotations."""

    bare: Any
    metadata: tuple[Any, ...]
    optional: bool

    @property
    def model(self) -> type[Model] | None:
        return self.bare if isinstance(self.bare, type) and issubclass(self.bare, Model) else None

    @property
    def item(self) -> Type | None:
        """The type of a list's entries or of a map's values, where there is one."""
        arguments = get_args(self.bare)
        if get_origin(self.bare) is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
            return unwrap(arguments[0])
        return unwrap(arguments[1]) if get_origin(self.bare) is dict else None

    @property
    def is_list(self) -> bool:
        return get_origin(self.bare) is tuple

    @property
    def is_map(self) -> bool:
        return get_origin(self.bare) is dict

    @property
    def want(self) -> str | None:
        return next((entry.text for entry in self.metadata if isinstance(entry, Want)), None)


def unwrap(annotation: Any, metadata: tuple[Any, ...] = ()) -> Type:
    """Take `Annotated` and `| None` off a type."""
    optional = False
    while True:
        if get_origin(annotation) is Annotated:
            annotation, *more = get_args(annotation)
            metadata = (*metadata, *more)
        elif get_origin(annotation) in (Union, types.UnionType) and types.NoneType in get_args(annotation):
            others = [argument for argument in get_args(annotation) if argument is not types.NoneType]
            if len(others) != 1:
                return Type(annotation, metadata, optional)
            annotation, optional = others[0], True
        else:
            return Type(annotation, metadata, optional)


def field_type(field: FieldInfo) -> Type:
    return unwrap(field.annotation, tuple(field.metadata))


def by_alias(model: type[Model]) -> dict[str, FieldInfo]:
    """The fields of a model as files spell them, in the order of the class."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def type_at(model: type[Model], path: Path) -> Type | None:
    """The type that belongs at a path, or None where the models say nothing."""
    current: Type | None = unwrap(model)
    for part in path:
        if current is None:
            return None
        if current.model is not None:
            field = by_alias(current.model).get(part) if isinstance(part, str) else None
            current = None if field is None else field_type(field)
        else:
            current = current.item
    return current


def every_field(model: type[Model], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """All fields below a model with their paths, such as `spec.tiers[].gpus`, parents before children."""
    for alias, field in by_alias(model).items():
        path = f"{prefix}.{alias}" if prefix else alias
        yield path, field
        kind = field_type(field)
        if kind.model is not None:
            yield from every_field(kind.model, path)
        elif kind.item is not None and kind.item.model is not None:
            yield from every_field(kind.item.model, f"{path}[]")


def spelled(path: Path) -> str:
    """A path as people write it: `spec.tiers[0].gpus`, with odd keys in brackets and quotes."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part.replace("_", "").replace("-", "").isalnum() and len(part) <= 80:
            text += f".{part}" if text else part
        else:
            shown = "".join(char if char.isprintable() else "?" for char in part[:60])
            text += f'["{shown}"]'
    return text


# The last sentence of a docstring says whether the field may change. `kubectl explain` shows the whole text; the
# reference puts this sentence into a column of its own.
_CHANGE = re.compile(r"(?:^|(?<=[.:]) )((?:Immutable|Mutable|Append-only|Ignored in files)[^.]*\.)$")


def documented(field: FieldInfo) -> tuple[str, str]:
    """Meaning of a field, and whether it may change ("" for what the operator writes), as its docstring says."""
    text = " ".join((field.description or "").split())
    match = _CHANGE.search(text)
    return (text[: match.start()].strip(), match[1]) if match else (text, "")


def first_sentence(field: FieldInfo) -> str:
    meaning, _ = documented(field)
    return re.split(r"(?<=\.) (?=[A-Z`])", meaning)[0]
