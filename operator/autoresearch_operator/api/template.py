"""The commented ResearchRun that `autoresearch init` writes, made from the models' docstrings."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from autoresearch_operator.api.base import API_VERSION, Model
from autoresearch_operator.api.fields import by_alias, field_type, first_sentence
from autoresearch_operator.api.run import ResearchRunSpec
from autoresearch_operator.api.tiers import Budget
from autoresearch_operator.api.yamltree import Dumper

_WIDTH = 100

_HEAD = """\
# A ResearchRun: what to research, with what, and until when.
#
#   autoresearch run FILE      carries it out on this machine
#   kubectl apply -f FILE      carries it out on a cluster that has the operator
#
# A line such as "#ref: HEAD" shows a default or an example: take the "#" away to set it.
# docs/reference/api.md says more about each field.
"""


def commented_run(name: str, *, gpus: int = 0) -> str:
    """The text of a ResearchRun called `name` with one tier of `gpus` GPUs a trial; 0 trains on the CPU.

    Every field that has a default or an example is there; the ones a newcomer may want to change are active. The
    text loads without problems when `name` is a name that a run may have.
    """
    budget = Budget.default(gpus)
    active: dict[str, Any] = {
        "source.template": "tiny-gpt",
        "proposers[].search": {},
        "trainer.evaluation": "Verified",
        "tiers[].name": "gpu" if gpus else "cpu",
        "tiers[].gpus": gpus,
        "tiers[].budget": {budget.kind: int(budget.amount)},
        "acceptance.significance": 0.01,
        "limits.experiments": 100,
        "suspend": False,
    }
    head = [f"apiVersion: {API_VERSION}", "kind: ResearchRun", "metadata:", f"  name: {_flow(name)}", "spec:"]
    return _HEAD + "\n".join([*head, *_fields(ResearchRunSpec, "", "  ", active)]) + "\n"


def _fields(model: type[Model], path: str, indent: str, active: dict[str, Any]) -> Iterator[str]:
    """The lines of one model's fields: active ones first, because a list's entry must begin with one."""
    fields = by_alias(model)
    for alias in sorted(fields, key=lambda alias: not _is_active(f"{path}{alias}", active)):
        field, here = fields[alias], f"{path}{alias}"
        kind = field_type(field)
        if here in active:
            yield from _comment(first_sentence(field), indent)
            yield f"{indent}{alias}: {_flow(active[here])}"
        elif kind.model is not None and _is_active(here, active):
            yield from _comment(first_sentence(field), indent)
            yield f"{indent}{alias}:"
            yield from _fields(kind.model, f"{here}.", indent + "  ", active)
        elif kind.item is not None and kind.item.model is not None and _is_active(here, active):
            yield from _comment(first_sentence(field), indent)
            yield f"{indent}{alias}:"
            yield from _entry(list(_fields(kind.item.model, f"{here}[].", indent + "  ", active)), indent)
        elif (value := _shown_value(field)) is not None:
            yield from _comment(first_sentence(field), indent)
            yield f"{indent}#{alias}: {_flow(value)}"


def _is_active(path: str, active: dict[str, Any]) -> bool:
    return any(key == path or key.startswith((f"{path}.", f"{path}[]")) for key in active)


def _entry(lines: list[str], indent: str) -> Iterator[str]:
    """Put the dash of a list's only entry before its first active line."""
    begun = False
    for line in lines:
        text = line.removeprefix(indent + "  ")
        if not begun and not text.startswith("#"):
            begun = True
            yield f"{indent}- {text}"
        else:
            yield line


def _shown_value(field: FieldInfo) -> Any:
    """What stands beside a field's name in a comment: an example, or else its default; None when it has neither."""
    default = field.default
    if field.examples:
        return field.examples[0]
    return None if default is PydanticUndefined or default in (None, ()) else default


def _comment(text: str, indent: str) -> Iterator[str]:
    yield from textwrap.wrap(text, _WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")


def _flow(value: Any) -> str:
    """A value on one line."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json", exclude_none=True)
    if isinstance(value, tuple):
        value = list(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    value = str(value) if isinstance(value, str) else value
    text: str = yaml.dump(value, Dumper=Dumper, default_flow_style=True, sort_keys=False, width=10_000)
    return text.removesuffix("\n").removesuffix("\n...").strip()
