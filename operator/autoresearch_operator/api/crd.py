"""The CustomResourceDefinitions of both kinds, made from the models, the rules and the columns listed here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from autoresearch_operator.api import experimentrules, runrules
from autoresearch_operator.api.base import API_VERSION, Model
from autoresearch_operator.api.experiment import Experiment
from autoresearch_operator.api.run import ResearchRun
from autoresearch_operator.api.structural import Rules, structural

GROUP, VERSION = API_VERSION.split("/")


@dataclass(frozen=True, slots=True)
class Column:
    """A column of `kubectl get`."""

    name: str
    type: str
    path: str
    meaning: str
    wide: bool = False
    """Shown with `-o wide` only."""

    def entry(self) -> dict[str, Any]:
        entry: dict[str, Any] = {
            "name": self.name,
            "type": self.type,
            "jsonPath": self.path,
            "description": self.meaning,
        }
        return entry | ({"priority": 1} if self.wide else {})


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of the API, as its CustomResourceDefinition names and shows it."""

    model: type[Model]
    plural: str
    short: str
    rules: Rules
    columns: tuple[Column, ...]
    list_keys: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.plural}.{GROUP}"

    def definition(self) -> dict[str, Any]:
        """The CustomResourceDefinition; raises NotStructural."""
        schema = structural(self.model, self.rules, self.list_keys)
        schema = {"description": " ".join((self.model.__doc__ or "").split()), **schema}
        return {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": self.name},
            "spec": {
                "group": GROUP,
                "names": {
                    "kind": self.model.__name__,
                    "listKind": f"{self.model.__name__}List",
                    "plural": self.plural,
                    "singular": self.model.__name__.lower(),
                    "shortNames": [self.short],
                    "categories": ["autoresearch"],
                },
                "scope": "Namespaced",
                "versions": [
                    {
                        "name": VERSION,
                        "served": True,
                        "storage": True,
                        "subresources": {"status": {}},
                        "additionalPrinterColumns": [column.entry() for column in self.columns],
                        "schema": {"openAPIV3Schema": schema},
                    }
                ],
            },
        }


_AGE = Column("Age", "date", ".metadata.creationTimestamp", "Time since it was created.")

RESEARCH_RUN: Final = Kind(
    ResearchRun,
    "researchruns",
    "rr",
    runrules.RULES,
    (
        Column("Phase", "string", ".status.phase", "How far the run has come."),
        Column("Best", "number", ".status.best.valBPB", "Score of the branch's head, bits per byte; lower is better."),
        Column("Gain", "number", ".status.gain", "Baseline minus best, bits per byte."),
        Column("Done", "integer", ".status.counts.done", "Candidates with a verdict."),
        Column("Accepted", "integer", ".status.counts.accepted", "Candidates on the branch."),
        Column("Running", "integer", ".status.counts.running", "Trials that run now."),
        Column("GPU-h", "number", ".status.spend.gpuHours", "GPU-hours of all trials."),
        _AGE,
        Column("Branch", "string", ".status.branch", "Where accepted edits are.", wide=True),
        Column("Reason", "string", ".status.reason", "Why the run is in its phase.", wide=True),
    ),
    {
        "spec.tiers": "name",
        "spec.trainer.env": "name",
        "spec.trainer.imagePullSecrets": "name",
        "status.conditions": "type",
        "status.tiers": "name",
    },
)

EXPERIMENT: Final = Kind(
    Experiment,
    "experiments",
    "exp",
    experimentrules.RULES,
    (
        Column("Run", "string", r".metadata.labels.autoresearch\.dev/run", "The ResearchRun that it belongs to."),
        Column("No", "integer", ".spec.number", "The candidate's number in its run."),
        Column("Phase", "string", ".status.phase", "How far the candidate has come."),
        Column("Verdict", "string", ".status.verdict", "Accepted, Rejected or Invalid."),
        Column("Reason", "string", ".status.reason", "Why, in one word."),
        Column("BPB", "number", ".status.valBPB", "Mean score, bits per byte; lower is better."),
        Column("Delta", "number", ".status.delta", "Incumbent minus candidate, bits per byte; positive is better."),
        _AGE,
        Column("Title", "string", ".spec.title", "The edit in a line.", wide=True),
        Column("Commit", "string", ".spec.commit", "The candidate's commit.", wide=True),
    ),
    # status.trials has no key: the incumbent's run beside a candidate's has the same name, and is told from it by
    # `experiment`, which only one of them has.
    {"status.conditions": "type"},
)

KINDS: Final = (RESEARCH_RUN, EXPERIMENT)
