"""The parts of Kubernetes objects that both kinds share."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, JsonValue, field_validator

from autoresearch_operator.api.base import DNS_LABEL, Model, Want, hinted, refusal, shown

MAX_RUN_NAME = 40

_Keyed = Annotated[
    dict[
        Annotated[str, Field(min_length=1, max_length=317)], Annotated[str, Field(max_length=262_144), Want("a string")]
    ],
    Field(max_length=64),
    Want("a map of strings"),
]
_Stamp = Annotated[str | None, Field(max_length=64)]


class ObjectMeta(Model):
    """An object's name and labels. What the API server adds is taken too, so that `kubectl get -o yaml` loads."""

    name: Annotated[str, Field(min_length=1, max_length=63, pattern=DNS_LABEL), Want("a Kubernetes name")]
    """The object's name. Immutable."""
    namespace: Annotated[
        str, Field(min_length=1, max_length=63, pattern=DNS_LABEL), Want('a namespace: a-z, 0-9 and "-"')
    ] = "default"
    """The namespace. Default "default"; local mode uses it for the names of branches only. Immutable."""
    labels: _Keyed = Field(default_factory=dict)
    """Labels, for selecting objects. Default none. Mutable."""
    annotations: _Keyed = Field(default_factory=dict)
    """Annotations, for notes and tools. Default none. Mutable."""
    uid: _Stamp = None
    """Set by the API server. Ignored in files."""
    resource_version: _Stamp = None
    """Set by the API server. Ignored in files."""
    generation: Annotated[int | None, Field(ge=0)] = None
    """Set by the API server. Ignored in files."""
    creation_timestamp: _Stamp = None
    """Set by the API server. Ignored in files."""
    deletion_timestamp: _Stamp = None
    """Set by the API server. Ignored in files."""
    deletion_grace_period_seconds: Annotated[int | None, Field(ge=0)] = None
    """Set by the API server. Ignored in files."""
    finalizers: Annotated[tuple[Annotated[str, Field(max_length=317)], ...], Field(max_length=32)] = ()
    """What must be cleaned up before the object goes. Default none. Mutable."""
    owner_references: Annotated[tuple[dict[str, JsonValue], ...], Field(max_length=16)] = ()
    """The objects that this one is deleted with. Default none. Mutable."""
    managed_fields: Annotated[tuple[dict[str, JsonValue], ...], Field(max_length=256)] = ()
    """Set by the API server. Ignored in files."""


class RunMeta(ObjectMeta):
    """A ResearchRun's metadata."""

    name: Annotated[
        str,
        Field(min_length=1, max_length=63, examples=["first"]),
        Want(f'a name of at most {MAX_RUN_NAME} characters: a-z, 0-9 and "-", with a letter or digit first and last'),
    ]
    """The run's name, a DNS label of at most 40 characters, because Job names derived from it must fit in 63.
    Immutable."""

    @field_validator("name")
    @classmethod
    def _short_label(cls, value: str) -> str:
        if len(value) > MAX_RUN_NAME:
            raise refusal(
                f"{shown(value)} has {len(value)} characters, want at most {MAX_RUN_NAME}, because Job names derived "
                "from it must fit in 63"
            )
        if not re.fullmatch(DNS_LABEL, value):
            tried = re.sub(r"[^a-z0-9]+", "-", value.lower()).strip("-")
            raise hinted(f"write {tried}" if tried else "choose another name")
        return value


class Condition(Model):
    """One aspect of an object's state, as Kubernetes' conditions are."""

    type: Annotated[str, Field(min_length=1, max_length=64)]
    """The aspect, such as Ready or Complete."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    reason: Annotated[str, Field(min_length=1, max_length=64)]
    """Why, in one word; docs/reference/reasons.md lists them."""
    message: Annotated[str, Field(max_length=1024)] = ""
    """Why, in a sentence."""
    observed_generation: Annotated[int | None, Field(ge=0)] = None
    """The metadata.generation that it was judged from."""
    last_transition_time: Annotated[str, Field(max_length=64)]
    """When `status` last changed, RFC 3339."""
