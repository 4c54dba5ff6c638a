"""What every model of the API shares: configuration, refusals with a path, durations and quantities."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    Strict,
    ValidationError,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, core_schema

API_VERSION: Final = "autoresearch.dev/v1alpha1"

LOCAL: Final = "local"
"""Key of the validation context that is true when a file is loaded for local mode."""

_INITIALISMS = {"bpb": "BPB", "vram": "VRAM", "gpu": "GPU", "url": "URL", "uid": "UID", "id": "ID"}


def camel_case(name: str) -> str:
    """The spelling of a field in files: `max_vram` is `maxVRAM`, `gpu_hours` is `gpuHours`."""
    first, *rest = name.split("_")
    return first + "".join(_INITIALISMS.get(word, word.capitalize()) for word in rest)


class Model(BaseModel):
    """The base of every model: immutable, camelCase in files, and an unknown field is an error."""

    model_config = ConfigDict(
        alias_generator=camel_case,
        populate_by_name=True,
        serialize_by_alias=True,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
    )


@dataclass(frozen=True, slots=True)
class Want:
    """What a field wants, in words that end the sentence `got X, want …`."""

    text: str


def refusal(sentence: str) -> PydanticCustomError:
    """An error whose whole message is `sentence`; raise it from a field's validator."""
    return PydanticCustomError("refused", "{sentence}", {"sentence": sentence})


def hinted(hint: str) -> PydanticCustomError:
    """An error of the form `got X, want Y; hint`, where Y is the field's `Want`."""
    return PydanticCustomError("hinted", "{hint}", {"hint": hint})


class Refusals:
    """Collects what is wrong with the fields of one model, then raises all of it at once.

    A model's validator knows the path below itself only; pydantic puts the path of the model before it.
    """

    def __init__(self) -> None:
        self._errors: list[InitErrorDetails] = []

    def add(self, path: tuple[str | int, ...], sentence: str) -> None:
        """`path` is spelled as in files: `("limits", "targetBPB")`."""
        self._errors.append(InitErrorDetails(type=refusal(sentence), loc=path, input=None))

    def raise_any(self, model: str) -> None:
        if self._errors:
            raise ValidationError.from_exception_data(model, self._errors)


Flag = Annotated[bool, Strict(), Want("true or false")]

DNS_LABEL: Final = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
DNS_SUBDOMAIN: Final = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"

ObjectName = Annotated[
    str,
    Field(min_length=1, max_length=253, pattern=DNS_SUBDOMAIN),
    Want('a Kubernetes name: a-z, 0-9, "-" and ".", at most 253 characters'),
]
"""The name of another Kubernetes object, such as a Secret."""

LabelValue = Annotated[
    str,
    Field(min_length=1, max_length=63, pattern=r"^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"),
    Want('a label value: letters, digits, "-", "_" and ".", at most 63 characters'),
]
Commit = Annotated[
    str,
    Field(max_length=64, pattern=r"^([0-9a-f]{40}|[0-9a-f]{64})$"),
    Want("a full commit id in quotes: 40 or 64 of 0-9 and a-f"),
]
"""A git object id. Quoted in YAML, because one of digits only would be read as a number."""

Score = Annotated[
    float, Strict(), Field(gt=0, le=100, allow_inf_nan=False), Want("a number of bits per byte above 0, such as 0.97")
]
"""Bits per byte; lower is better."""


def relative_path(value: str) -> str:
    """Check a path inside a repository or a volume: relative, without `..`, in its shortest spelling."""
    if value.startswith(("/", "~")) or re.match(r"^[A-Za-z]:", value):
        raise refusal(f"{shown(value)} is absolute: give the path from the top of the repository or claim")
    parts = value.split("/")
    if ".." in parts:
        raise refusal(f'{shown(value)} has "..": give a path that stays inside')
    if "" in parts or "." in parts or "\\" in value:
        raise refusal(f'{shown(value)} is not the shortest spelling: write it without ".", "\\", "//" or a last "/"')
    if any(ord(char) < 32 or ord(char) == 127 for char in value):
        raise refusal(f"{shown(value)} has a control character in it")
    return value


RelativePath = Annotated[
    str,
    Field(min_length=1, max_length=255),
    AfterValidator(relative_path),
    Want("a relative path of at most 255 characters"),
]


def shown(value: object) -> str:
    """A value as the sentence of a refusal shows it: quoted, short, without control characters."""
    if isinstance(value, str):
        text = value if len(value) <= 60 else value[:57] + "…"
        return '"' + "".join(char if char.isprintable() else "?" for char in text).replace('"', '\\"') + '"'
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value) if abs(value) < 1e30 or value in (math.inf, -math.inf) else "a huge number"
    if isinstance(value, Mapping):
        return "a map" if value else "an empty map"
    if isinstance(value, list | tuple):
        return "a list" if value else "an empty list"
    return "nothing" if value is None else type(value).__name__


# --------------------------------------------------------------------------------------------------------------------
# Durations

DURATION_PATTERN: Final = r"^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$"
_DURATION = re.compile(DURATION_PATTERN)
_DURATION_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_LOOSE_DURATION = re.compile(r"^([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)$")
_UNIT_WORDS = (
    (("ms", "msec", "millis", "millisecond", "milliseconds"), "ms"),
    (("", "s", "sec", "secs", "second", "seconds"), "s"),
    (("m", "min", "mins", "minute", "minutes"), "m"),
    (("h", "hr", "hrs", "hour", "hours"), "h"),
)


def hinted_duration_seconds(text: str) -> float | None:
    """The seconds that somebody means by `5m` or `5 min`, or None: only for hints, never for values."""
    if _DURATION.fullmatch(text):
        return Duration(text).seconds
    if match := _LOOSE_DURATION.fullmatch(text):
        for words, unit in _UNIT_WORDS:
            if match[2].lower() in words:
                return float(match[1]) * _SECONDS[unit]
    return None


def _duration_hint(value: object) -> str:
    text = str(value).strip()
    if match := _LOOSE_DURATION.fullmatch(text):
        number, word = match[1], match[2].lower()
        for words, unit in _UNIT_WORDS:
            if word in words:
                return f"write {number}{unit}"
        if word in ("d", "day", "days"):
            return f"days are not a unit: write {float(number) * 24:g}h"
    if text.startswith("-"):
        return "a duration is not negative"
    return "units are h, m, s and ms"


class Duration(str):
    """A length of time as Kubernetes spells it, such as `3m`, `1h30m` or `300ms`; `seconds` is its length."""

    __slots__ = ()

    @property
    def seconds(self) -> float:
        return sum(float(number) * _SECONDS[unit] for number, unit in _DURATION_PART.findall(self))

    @classmethod
    def parse(cls, value: object) -> Self:
        if isinstance(value, cls):
            return value
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise hinted("units are h, m, s and ms")
        if not isinstance(value, str) or len(value) > 32 or not _DURATION.fullmatch(value):
            raise hinted(_duration_hint(value))
        return cls(value)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls.parse, serialization=core_schema.plain_serializer_function_ser_schema(str, when_used="json")
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"type": "string", "maxLength": 32, "pattern": DURATION_PATTERN}


def duration_between(low: str, high: str) -> AfterValidator:
    """Refuse a duration under `low` or over `high`."""
    shortest, longest = Duration(low), Duration(high)

    def check(value: Duration) -> Duration:
        if not shortest.seconds <= value.seconds <= longest.seconds:
            raise hinted(f"between {low} and {high}")
        return value

    return AfterValidator(check)


# --------------------------------------------------------------------------------------------------------------------
# Quantities

QUANTITY_PATTERN: Final = r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$"
_QUANTITY = re.compile(r"^([0-9]+(?:\.[0-9]+)?)(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$")
_FACTORS = {"m": 0.001, "": 1.0}
_FACTORS |= {unit: 1000.0 ** (power + 1) for power, unit in enumerate("kMGTPE")}
_FACTORS |= {unit + "i": 1024.0 ** (power + 1) for power, unit in enumerate("KMGTPE")}
_LOOSE_BYTES = re.compile(r"^([0-9]+(?:\.[0-9]+)?)\s*([kmgtpe])?i?(?:b|bytes?)?$", re.IGNORECASE)


def _quantity_hint(value: object) -> str:
    text = str(value).strip()
    match = _LOOSE_BYTES.fullmatch(text)
    if match and match[2]:
        number, letter = match[1], match[2].upper()
        return f"use {number}{letter}i or {number}{'k' if letter == 'K' else letter}"
    if text.endswith("%"):
        return "a share is not taken"
    cores = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*(?:v?cpus?|cores?)", text, re.IGNORECASE)
    return f"write {cores[1]}" if cores else "units are those of Kubernetes"


class Quantity(str):
    """A Kubernetes quantity, such as `64Gi`, `500m` or `8`; `value` is the number it stands for."""

    __slots__ = ()

    @property
    def value(self) -> float:
        match = _QUANTITY.fullmatch(self)
        return float(match[1]) * _FACTORS[match[2] or ""] if match else 0.0

    @classmethod
    def parse(cls, value: object) -> Self:
        if isinstance(value, cls):
            return value
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise hinted("units are those of Kubernetes")
        text = str(value)
        if len(text) > 32 or not _QUANTITY.fullmatch(text):
            raise hinted(_quantity_hint(value))
        return cls(text)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls.parse, serialization=core_schema.plain_serializer_function_ser_schema(str, when_used="json")
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "maxLength": 32,
            "pattern": QUANTITY_PATTERN,
            "x-kubernetes-int-or-string": True,
        }


def _checked(low: float, high: float, hint: Callable[[Quantity], str]) -> AfterValidator:
    def check(value: Quantity) -> Quantity:
        if not low <= value.value <= high:
            raise hinted(hint(value))
        return value

    return AfterValidator(check)


def _bytes_hint(value: Quantity) -> str:
    if value.value >= 1_000_000:
        return "at most 1Pi"
    if value.isdigit() or value.endswith("m"):
        return f"{value} is {value.value:g} bytes: write {value.rstrip('m')}{'Mi' if value.endswith('m') else 'Gi'}"
    return "at least 1M"


Bytes = Annotated[Quantity, _checked(1_000_000, 2**50, _bytes_hint), Want("a quantity of bytes such as 64Gi")]
Cores = Annotated[
    Quantity,
    _checked(0.01, 1024, lambda _: "between 10m and 1024"),
    Want("a number of CPU cores such as 8 or 500m"),
]


def _not_one_string(value: object) -> object:
    """Refuse a single string where a list is wanted: pydantic's own message would not say how to mend it."""
    if isinstance(value, str):
        raise hinted(f"write [{value[:40]}]")
    return value


ListOnly = BeforeValidator(_not_one_string)


def _without_nul(value: str) -> str:
    if "\0" in value:
        raise refusal("has a NUL character in it, which ends a string of the operating system")
    return value


NoNul = AfterValidator(_without_nul)
