"""What a cluster's ledger says that a run is, and whether a spec is still that run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter, ValidationError

from autoresearch_operator.api.reasons import ReadyReason
from autoresearch_operator.api.run import ResearchRunSpec
from autoresearch_operator.gateways.errors import GitError, RepositoryDamaged

VERSION = 1
DELETED = "Deleted"
"""`details["finished"]` of a run whose ResearchRun was deleted: its branch is free for others."""


class NotReady(Exception):
    """The run cannot begin; the message says why and what to do."""

    def __init__(self, reason: ReadyReason, message: str, retry_after: float = 60.0) -> None:
        """`retry_after`: seconds after which trying again may help."""
        super().__init__(message[:1024])
        self.reason = reason
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class Document:
    """run.json of a cluster's ledger: what the run is, and what its scores depend on."""

    namespace: str
    name: str
    branch_ref: str
    ledger_ref: str
    source_commit: str
    source_url: str | None
    source_ref: str | None
    """None: it began from the built-in template."""
    inputs: tuple[str, ...]
    """Patterns of the files that trials read."""
    facts: dict[str, Any]
    """The parts of the spec that may not change under scores (see `facts_of`)."""
    details: dict[str, Any] = field(default_factory=dict)
    """What the controller wants to remember."""
    version: int = VERSION

    def as_json(self) -> dict[str, Any]:
        """`finished` stands at the top, where every program that looks for a branch's owner reads it."""
        plain = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        return plain | {"inputs": list(self.inputs), "finished": self.details.get("finished")}


_DOCUMENT = TypeAdapter(Document)


def read_document(value: object, where: str) -> Document:
    """Raises RepositoryDamaged: not a run.json of a version we know. GitError: it is local mode's."""
    if isinstance(value, dict) and "request" in value and "facts" not in value:
        raise GitError(
            f"{where} was written by `autoresearch run` on somebody's machine, which a cluster does not go on from: "
            "choose another metadata.name, or set source.ref to that run's branch and source.branch to a new one"
        )
    try:
        document = _DOCUMENT.validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise RepositoryDamaged(f"{where}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    if document.version != VERSION:
        raise RepositoryDamaged(f"{where} is of version {document.version}; this program reads version {VERSION}")
    return document


def facts_of(spec: ResearchRunSpec) -> dict[str, Any]:
    """What may not change between two starts of one run, as JSON."""
    source = spec.source.model_dump(mode="json", by_alias=True, exclude={"secret_name", "program"})
    tiers = {
        tier.name: tier.model_dump(mode="json", by_alias=True, include={"gpus", "resource_name", "product", "budget"})
        for tier in spec.tiers
    }
    return {"source": source, "trainer": spec.trainer.model_dump(mode="json", by_alias=True), "tiers": tiers}


def check_facts(document: Document, spec: ResearchRunSpec, *, scored: bool) -> dict[str, Any]:
    """The facts to remember from now on.

    Only what was recorded is compared, so that a field which a newer version of this program adds changes nothing.

    Raises:
        NotReady: the ledger's scores were made with something else.
    """
    current, old = facts_of(spec), document.facts
    _compare(document, "spec.source", old["source"], current["source"])
    if not scored:
        return current | {"source": old["source"]}
    _compare(document, "spec.trainer", old["trainer"], current["trainer"])
    for name, tier in old["tiers"].items():
        if name not in current["tiers"]:
            raise _changed(document, f"spec.tiers has no {name} any more", "keep it with maxParallel: 0")
        _compare(document, f"spec.tiers[{name}]", tier, current["tiers"][name])
    return old | {"tiers": current["tiers"] | old["tiers"]}


def _compare(document: Document, where: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    for field_name, value in old.items():
        if new.get(field_name) != value:
            raise _changed(
                document, f"{where}.{field_name} is {new.get(field_name)!r} and was {value!r}", "change it back"
            )


def _changed(document: Document, what: str, mend: str) -> NotReady:
    return NotReady(
        ReadyReason.RUN_CHANGED,
        f"{what}: the ledger {document.ledger_ref} holds the run of this name, and its scores were made with the old "
        f"one; {mend}, or choose another metadata.name",
        300.0,
    )
