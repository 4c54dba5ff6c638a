"""From pydantic's errors to sentences: what was seen, what is wanted, how to mend it."""

from __future__ import annotations

import difflib
import functools
import math
import re
from collections.abc import Callable, Mapping
from enum import Enum

from pydantic_core import ErrorDetails

from autoresearch_operator.api.base import Model, hinted_duration_seconds, shown
from autoresearch_operator.api.fields import Path, Type, by_alias, every_field, type_at
from autoresearch_operator.api.run import ResearchRun

Texts = Mapping[Path, str]
"""Plain scalars as the file spells them."""


def sentence_of(details: ErrorDetails, texts: Texts) -> tuple[Path, str]:
    """Path and sentence of one error; the sentence is empty for errors that only follow from others."""
    path: Path = tuple(details["loc"])
    context = details.get("ctx", {})
    if path and path[-1] == "[key]":
        return path[:-2], f"got the key {shown(path[-2])}, want keys of 1 to 317 characters"
    kind = type_at(ResearchRun, path)
    match details["type"]:
        case "default_factory_not_called":
            sentence = ""
        case "too_short" if len(details["input"]) >= context["min_length"]:
            # pydantic counts the valid entries only; each of the others has its own sentence.
            sentence = ""
        case "refused":
            sentence = str(context["sentence"])
        case "extra_forbidden":
            sentence = _unknown(path)
        case "missing":
            sentence = "is missing" + (f": want {kind.want}" if kind is not None and kind.want else "")
        case "hinted":
            sentence = _got_want(kind, details, texts.get(path), str(context["hint"]))
        case error:
            hinter = _HINTS.get(error)
            hint = hinter(kind, details["input"], texts.get(path)) if hinter and kind is not None else ""
            sentence = _got_want(kind, details, texts.get(path), hint)
    return path, sentence


def _got_want(kind: Type | None, details: ErrorDetails, text: str | None, hint: str) -> str:
    value = details["input"]
    if details["type"] in ("too_long", "too_short") and isinstance(value, list | dict):
        got = f"{len(value)} entries"
    elif details["type"] == "string_too_long" and isinstance(value, str):
        got = f"{len(value)} characters"
    else:
        got = shown(value) if text is None else shown(text)[1:-1]
    want = kind.want if kind is not None and kind.want else _want(kind, details)
    return f"got {got}, want {want}" + (f"; {hint}" if hint else "")


def _want(kind: Type | None, details: ErrorDetails) -> str:
    """What a field wants that has no words of its own."""
    context = details.get("ctx", {})
    if "expected" in context:
        return "one of " + str(context["expected"]).replace("'", "").replace(" or ", ", ")
    if kind is None:
        return str(details["msg"]).removeprefix("Input should be ").lower()
    if kind.model is not None:
        names = list(by_alias(kind.model))
        return "a map with " + ", ".join(names[:6]) + (", …" if len(names) > 6 else "")
    if kind.bare is str:
        length = context.get("max_length")
        return f"a string of at most {length} characters" if length else "a string"
    return "a map" if kind.is_map else "a list" if kind.is_list else "another value"


# --------------------------------------------------------------------------------------------------------------------
# How to mend common mistakes, by the type of pydantic's error

_NUMBER = re.compile(r"[-+]?[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")


def _list_hint(_kind: Type, value: object, _text: str | None) -> str:
    return 'start each entry with a dash ("- ")' if isinstance(value, dict) else ""


def _model_hint(_kind: Type, value: object, _text: str | None) -> str:
    return 'take the dash ("- ") away' if isinstance(value, list) else ""


def _choice_hint(kind: Type, value: object, _text: str | None) -> str:
    if not isinstance(value, str):
        return ""
    if isinstance(kind.bare, type) and issubclass(kind.bare, Enum):
        options = [str(member.value) for member in kind.bare]
    else:
        options = [str(option) for option in getattr(kind.bare, "__args__", ())]
    same = [option for option in options if option.lower() == value.strip().lower()]
    close = same or difflib.get_close_matches(value, options, 1)
    return f"did you mean {close[0]}?" if close else ""


def _string_hint(_kind: Type, value: object, text: str | None) -> str:
    if not isinstance(value, bool | int | float):
        return ""
    return f'quote it: "{text if text is not None else value}"'


def _bool_hint(_kind: Type, value: object, _text: str | None) -> str:
    words = {"true": "true", "yes": "true", "on": "true", "1": "true", "false": "false", "no": "false", "off": "false"}
    word = words.get(str(value).lower())
    return f"write {word} without quotes" if word else ""


def _number_hint(kind: Type, value: object, _text: str | None) -> str:
    if isinstance(value, float) and value.is_integer():
        return f"write {int(value)}"
    if not isinstance(value, str):
        return ""
    text = value.strip()
    plain = text.replace(",", "").replace("_", "")
    share = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*%", text)
    unit = re.fullmatch(r"\$?([0-9]+(?:\.[0-9]+)?)\s*[A-Za-z$€]+", text)
    seconds = hinted_duration_seconds(text) if "seconds" in (kind.want or "") else None
    if _NUMBER.fullmatch(plain) and math.isfinite(float(plain)):
        return f"write {text} without quotes" if plain == text else f"write {plain}"
    if share and (kind.want or "").startswith("a share"):
        return f"write {float(share[1]) / 100:g}"
    if seconds is not None:
        return f"write {seconds:g}"
    return f"write the number alone: {unit[1]}" if unit else ""


_HINTS: dict[str, Callable[[Type, object, str | None], str]] = {
    "tuple_type": _list_hint,
    "model_type": _model_hint,
    "enum": _choice_hint,
    "literal_error": _choice_hint,
    "string_type": _string_hint,
    "bool_type": _bool_hint,
    "int_type": _number_hint,
    "float_type": _number_hint,
}


# --------------------------------------------------------------------------------------------------------------------
# Unknown fields

_SPECIAL = {"valueFrom": "is not taken: plain values only, so that no Secret can get into a trial"}


def _folded(name: str) -> str:
    return name.replace("_", "").replace("-", "").lower()


@functools.cache
def _places() -> dict[str, list[str]]:
    """Where in a spec each name is a field."""
    places: dict[str, list[str]] = {}
    for place, _ in every_field(ResearchRun):
        if place.startswith("spec."):
            places.setdefault(_folded(place.rsplit(".", 1)[-1]), []).append(place)
    return places


def _unknown(path: Path) -> str:
    """The sentence for a field that the models do not have."""
    key = str(path[-1])
    if key in _SPECIAL:
        return _SPECIAL[key]
    parent = type_at(ResearchRun, path[:-1])
    model: type[Model] = parent.model if parent is not None and parent.model is not None else ResearchRun
    names = list(by_alias(model))
    alike = [name for name in names if _folded(name) == _folded(key)] or difflib.get_close_matches(key, names, 1, 0.7)
    if alike:
        return f"is an unknown field: did you mean {alike[0]}?"
    elsewhere = _places().get(_folded(key), [])
    if elsewhere:
        return f"is an unknown field here: did you mean {' or '.join(elsewhere[:2])}?"
    return f"is an unknown field: the fields here are {', '.join(names[:14])}" + (", …" if len(names) > 14 else "")
