"""Who proposes edits."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import Field, JsonValue, Strict, field_validator, model_validator

from autoresearch_operator.api.base import Model, ObjectName, Refusals, Want, refusal, shown


class Sampler(StrEnum):
    """How the built-in search chooses its next point."""

    TPE = "tpe"
    """A list of first probes, then a tree-structured Parzen estimator over all results, then two-knob moves."""
    GRID = "grid"
    """Every combination of the annotated ranges, in a fixed order."""
    RANDOM = "random"
    """Points drawn at random: the honest control for the other two."""


class Feedback(StrEnum):
    """How much of a score a language model is told."""

    ROUNDED = "Rounded"
    """Scores in steps of half a noise unit, so that a model cannot chase noise."""
    EXACT = "Exact"
    """Scores as measured."""
    VERDICT_ONLY = "VerdictOnly"
    """Accepted, rejected or invalid, and no figure."""


class SearchSpec(Model):
    """The built-in search over the script's module-level literals. It needs no key and no network."""

    sampler: Sampler = Sampler.TPE
    """How the next point is chosen: tpe, grid or random. Default tpe, because it equalled code-editing models in the
    one published comparison. Mutable."""


TokenPrice = Annotated[
    float,
    Strict(),
    Field(ge=0, le=1_000_000, allow_inf_nan=False),
    Want("a number of dollars for a million tokens, 0 or more"),
]


class TokenPrices(Model):
    """What a million tokens cost, in dollars."""

    input: TokenPrice
    """Dollars for a million prompt tokens. Mutable."""
    cached_input: TokenPrice | None = None
    """Dollars for a million prompt tokens that the server had in its cache. Unset: the same as `input`. Mutable."""
    output: TokenPrice
    """Dollars for a million tokens that the model wrote. Mutable."""


_OURS = ("api_key", "messages", "model", "n", "stream")


class OpenAISpec(Model):
    """A language model behind any server that speaks OpenAI's chat protocol."""

    base_url: Annotated[
        str,
        Field(min_length=1, max_length=1024, examples=["http://vllm.ml.svc:8000/v1"]),
        Want("a URL that starts with http:// or https://"),
    ]
    """The server's address, up to and with /v1. Mutable."""
    model: Annotated[
        str,
        Field(min_length=1, max_length=200, examples=["qwen3-coder"]),
        Want("a model's name as the server lists it"),
    ]
    """The model's name, as the server lists it. Mutable."""
    secret_name: Annotated[ObjectName | None, Field(examples=["llm-key"])] = None
    """The Secret whose key `api-key` is sent as bearer token. Unset: no token is sent, as for a server in your own
    cluster. Mutable."""
    parameters: Annotated[
        dict[Annotated[str, Field(min_length=1, max_length=64)], JsonValue],
        Field(max_length=32, json_schema_extra={"x-kubernetes-preserve-unknown-fields": True}),
        Want("a map of request parameters such as {temperature: 0.8}"),
    ] = Field(default_factory=dict, examples=[{"temperature": 0.8, "max_tokens": 8192}])
    """Passed through in every request, such as temperature and max_tokens. Default none: the server's own. Mutable."""
    price_per_million_tokens: Annotated[
        TokenPrices | None, Field(examples=[{"input": 0.3, "cachedInput": 0.03, "output": 1.2}])
    ] = None
    """What tokens cost, in dollars; needed when `limits.dollars` is set. Unset: tokens are counted, not priced.
    Mutable."""
    feedback: Feedback = Feedback.ROUNDED
    """How much of a score the model is told: Rounded, Exact or VerdictOnly. Default Rounded, to half a noise unit, so
    that it cannot chase noise. Mutable."""

    @field_validator("base_url")
    @classmethod
    def _http_only(cls, value: str) -> str:
        try:
            parts = urlsplit(value)
            host, _ = parts.hostname, parts.port
        except ValueError as error:
            raise refusal(f"the URL cannot be read: {error}") from error
        if parts.username is not None or parts.password is not None:
            raise refusal("the URL holds a password: put credentials in secretName")
        if parts.scheme not in ("http", "https") or not host:
            raise refusal(f"{shown(value)} is not a URL that starts with http:// or https://")
        if parts.query or parts.fragment or not value.isprintable() or " " in value:
            raise refusal('the URL goes on after its path ("?", "#" or a blank): put credentials in secretName')
        return value

    @field_validator("parameters")
    @classmethod
    def _not_ours(cls, value: dict[str, JsonValue]) -> dict[str, JsonValue]:
        if taken := sorted(set(value) & set(_OURS)):
            raise refusal(f"{', '.join(taken)} is set by the operator: take it out")
        return value


class ProposerSpec(Model):
    """One proposer and its share of the candidates. Exactly one of `search` and `openai` is set."""

    weight: Annotated[int, Strict(), Field(ge=1, le=1000), Want("a whole number of shares from 1 to 1000")] = 1
    """Its share of the candidates, beside the other proposers' weights. Default 1. Mutable."""
    search: Annotated[SearchSpec | None, Field(examples=[{"sampler": "tpe"}])] = None
    """The built-in search; `search: {}` takes its defaults. Unset: this proposer is another kind. Mutable."""
    openai: Annotated[
        OpenAISpec | None, Field(examples=[{"baseURL": "http://localhost:8000/v1", "model": "qwen3-coder"}])
    ] = None
    """A language model behind an OpenAI-compatible server. Unset: this proposer is another kind. Mutable."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.search is None) == (self.openai is None):
            refusals = Refusals()
            found = "neither is set" if self.search is None else "both are set"
            refusals.add(
                (), f"want exactly one of search and openai, and {found}; the built-in search is `search: {{}}`"
            )
            refusals.raise_any("ProposerSpec")
        return self

    @property
    def name(self) -> str:
        """What the ledger calls it: the model's name, or "search"."""
        return "search" if self.openai is None else self.openai.model
