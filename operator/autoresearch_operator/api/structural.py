"""From models to the structural OpenAPI v3 schemas that a CustomResourceDefinition holds.

The models are walked, not pydantic's JSON schema: a structural schema has no references, no `anyOf` for optional
fields and no `null`. Every string, list and map must have a bound, because the API server estimates what a CEL rule
costs from the bounds and refuses the definition when they are missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, JsonValue, TypeAdapter
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined, to_jsonable_python

from autoresearch_operator.api.base import Model
from autoresearch_operator.api.cel import Rule
from autoresearch_operator.api.fields import Type, by_alias, field_type, unwrap

Schema = dict[str, Any]
Rules = Mapping[str, tuple[Rule, ...]]

_LEAF_KEYS = (
    "type",
    "enum",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "minLength",
    "maxLength",
    "pattern",
    "anyOf",
    "x-kubernetes-int-or-string",
)
_ANYTHING: Schema = {"x-kubernetes-preserve-unknown-fields": True}


class NotStructural(ValueError):
    """A model says something that a CustomResourceDefinition cannot hold. Carries a sentence with the field's path."""


def structural(model: type[Model], rules: Rules, list_keys: Mapping[str, str]) -> Schema:
    """The schema of a kind. `rules` and `list_keys` (the field that names an entry) are by path, such as
    `spec.tiers[].budget`. Raises NotStructural, also for a path that does not exist."""
    unused = set(rules) | set(list_keys)
    schema = _model(model, "", _Walk(rules, list_keys, unused))
    if unused:
        raise NotStructural(f"there is no field {', '.join(sorted(unused))}: a rule or a list key stands at it")
    return schema


class _Walk:
    def __init__(self, rules: Rules, list_keys: Mapping[str, str], unused: set[str]) -> None:
        self.rules = rules
        self.list_keys = list_keys
        self.unused = unused

    def validations(self, path: str) -> Schema:
        self.unused.discard(path)
        entries = [rule.entry() for rule in self.rules.get(path, ())]
        return {"x-kubernetes-validations": entries} if entries else {}


def _model(model: type[Model], path: str, walk: _Walk) -> Schema:
    properties: Schema = {}
    required = []
    for alias, field in by_alias(model).items():
        below = f"{path}.{alias}" if path else alias
        if not path and alias == "metadata":
            # The API server's own. The name is listed so that rules at the root can point at it.
            properties[alias] = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 253}}}
            continue
        schema: Schema = {"description": _description(field, below)}
        schema |= _value(field_type(field), below, walk)
        if not path and alias in ("apiVersion", "kind"):
            schema.pop("enum")
        elif (default := _default(field)) is not None:
            schema["default"] = default
        properties[alias] = schema
        if field.is_required():
            required.append(alias)
    schema = {"type": "object", "properties": properties}
    if required:
        schema["required"] = required
    return schema | (walk.validations(path) if not path else {})


def _description(field: FieldInfo, path: str) -> str:
    description = " ".join((field.description or "").split())
    if not description:
        raise NotStructural(f"{path} has no docstring under it")
    return description


def _value(kind: Type, path: str, walk: _Walk) -> Schema:
    if kind.model is not None:
        return _model(kind.model, path, walk) | walk.validations(path)
    if kind.is_list and kind.item is not None:
        return _list(kind, kind.item, path, walk) | walk.validations(path)
    if kind.is_map and kind.item is not None:
        return _map(kind, kind.item, path) | walk.validations(path)
    if get_origin(kind.bare) is tuple:
        entries = get_args(kind.bare)
        return {
            "type": "array",
            "items": _value(unwrap(entries[0]), f"{path}[]", walk),
            "minItems": len(entries),
            "maxItems": len(entries),
            "x-kubernetes-list-type": "atomic",
        } | walk.validations(path)
    return _leaf(kind, path) | walk.validations(path)


def _list(kind: Type, item: Type, path: str, walk: _Walk) -> Schema:
    bounds = _bounds(kind)
    if "maxItems" not in bounds:
        raise NotStructural(f"{path} is a list without a bound: give it Field(max_length=…)")
    entry = _value(item, f"{path}[]", walk)
    key = walk.list_keys.get(path)
    walk.unused.discard(path)
    if key is None:
        return {"type": "array", **bounds, "items": entry, "x-kubernetes-list-type": "atomic"}
    return {
        "type": "array",
        **bounds,
        "items": entry,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": [key],
    }


def _map(kind: Type, item: Type, path: str) -> Schema:
    bounds = {key.replace("Items", "Properties"): value for key, value in _bounds(kind).items()}
    if "maxProperties" not in bounds:
        raise NotStructural(f"{path} is a map without a bound: give it Field(max_length=…)")
    if item.bare is JsonValue:
        return {"type": "object", **bounds, **_ANYTHING}
    return {"type": "object", **bounds, "additionalProperties": _leaf(item, f"{path}.*")}


def _bounds(kind: Type) -> Schema:
    schema = TypeAdapter(Annotated[tuple[Any, ...], *kind.metadata]).json_schema()
    return {key: schema[key] for key in ("minItems", "maxItems") if key in schema}


def _leaf(kind: Type, path: str) -> Schema:
    """A string, number or boolean; pydantic's JSON schema of it, in the dialect of OpenAPI 3.0."""
    annotated: Any = Annotated[kind.bare, *kind.metadata] if kind.metadata else kind.bare
    given = TypeAdapter(annotated).json_schema()
    given = next(iter(given["$defs"].values())) if "$ref" in given else given
    if "const" in given:
        given["enum"] = [given["const"]]
    schema = {key: given[key] for key in _LEAF_KEYS if key in given}
    for side in ("Minimum", "Maximum"):
        if f"exclusive{side}" in schema:
            schema[side.lower()] = schema[f"exclusive{side}"]
            schema[f"exclusive{side}"] = True
    match schema.get("type"):
        case "string" if "maxLength" not in schema and "enum" not in schema:
            raise NotStructural(f"{path} is a string without a bound: give it Field(max_length=…)")
        case "integer":
            schema["format"] = "int64" if schema.get("maximum", 2**31) >= 2**31 else "int32"
        case "string" | "number" | "boolean":
            pass
        case _ if schema.get("x-kubernetes-int-or-string"):
            pass
        case _:
            raise NotStructural(f"{path} has a type that no schema can say: {kind.bare}")
    return schema


def _default(field: FieldInfo) -> Any:
    """The default in full: the API server checks CEL on it as it stands, before nested defaults are filled in."""
    if field.default in (None, PydanticUndefined, (), ""):
        return None
    value = field.default
    plain = value.model_dump(mode="json", exclude_none=True) if isinstance(value, BaseModel) else value
    return _tidy(to_jsonable_python(plain, exclude_none=True))


def _tidy(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {key: _tidy(part) for key, part in value.items()}
        # An empty list says nothing; an empty map does (`search: {}`), but a default has none that is meant.
        return {key: part for key, part in kept.items() if part not in ([], {}, "")}
    if isinstance(value, list):
        return [_tidy(part) for part in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
