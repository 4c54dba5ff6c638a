"""What a run was asked to do and where: everything in a summary that is not an observation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from autoresearch_operator.api.run import ResearchRun
from autoresearch_operator.api.tiers import Budget, Tier
from autoresearch_operator.observe.text import clean
from autoresearch_operator.research.accept import Rules


@dataclass(frozen=True, slots=True)
class TierFacts:
    """What a reader needs to know of a tier."""

    name: str
    gpus: int = 0
    budget: str = ""
    """In words, such as `10 CPU-seconds`."""
    price_per_gpu_hour: float | None = None


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What a run was asked to do and where: everything in a summary that is not an observation."""

    name: str
    branch: str = ""
    repository: str = ""
    """Path or URL that `git clone` takes."""
    source: str = ""
    """Template or repository that the run started from."""
    base_commit: str = ""
    seed: int = 0
    evaluation: str = "Verified"
    tiers: tuple[TierFacts, ...] = ()
    rules: Rules = field(default_factory=Rules)
    experiments_limit: int | None = None
    data: str = ""
    data_public: bool = False
    """The data set can be read on this machine by everybody, such as the demo corpus."""
    isolation: Mapping[str, str] = field(default_factory=dict)
    """What held in the trials: network, files, processes, signals, memory."""
    hardware: Mapping[str, str] = field(default_factory=dict)
    local: bool = True


@dataclass(frozen=True, slots=True)
class IsolationStatement:
    """Which protections held, in words."""

    headline: str
    because: str
    protections: tuple[tuple[str, bool, str], ...]
    """(what it keeps the candidate from, whether it held, how)."""


def facts_of(
    run: ResearchRun,
    *,
    repository: str = "",
    base_commit: str = "",
    seed: int = 0,
    data: str = "",
    data_public: bool = False,
    isolation: Mapping[str, str] | None = None,
    hardware: Mapping[str, object] | None = None,
    local: bool = True,
) -> RunFacts:
    """The facts of a run, from its YAML and from what the run's folder recorded about this machine."""
    spec = run.spec
    return RunFacts(
        name=run.metadata.name,
        branch=run.branch,
        repository=repository,
        source=f"template {spec.source.template_name}" if spec.source.url is None else spec.source.url,
        base_commit=base_commit,
        seed=seed,
        evaluation=spec.trainer.evaluation.value,
        tiers=tuple(_tier_facts(tier) for tier in spec.tiers),
        rules=Rules(spec.acceptance.looks, spec.acceptance.significance, spec.acceptance.min_improvement),
        experiments_limit=spec.limits.experiments,
        data=data or ("demo corpus" if spec.trainer.data is None else spec.trainer.data.claim_name),
        data_public=data_public,
        isolation=dict(isolation or {}),
        hardware={str(key): str(value) for key, value in (hardware or {}).items() if value is not None},
        local=local,
    )


def budget_words(budget: Budget) -> str:
    """`10 CPU-seconds`, `300 seconds`, `400 steps`."""
    return f"{budget.amount:g} " + {"cpuSeconds": "CPU-seconds", "seconds": "seconds", "steps": "steps"}[budget.kind]


def _tier_facts(tier: Tier) -> TierFacts:
    return TierFacts(tier.name, tier.gpus, budget_words(tier.budget), tier.price_per_gpu_hour)


def isolation_statement(facts: RunFacts) -> IsolationStatement:
    """Which protections held in this run's trials, in words that a reader of the report can weigh."""
    held = {key: str(value) for key, value in facts.isolation.items()}
    named = (
        ("network", "No network"),
        ("files", "No files but its own"),
        ("processes", "No process survives its trial"),
        ("signals", "No signal to other processes"),
        ("memory", "No more memory than granted"),
    )
    protections = tuple(
        (
            words,
            held[key] not in ("none", ""),
            f"by {clean(held[key], 60)}" if held[key] not in ("none", "") else "not offered by this machine",
        )
        for key, words in named
        if key in held
    )
    if facts.evaluation == "SelfReported":
        return IsolationStatement(
            "Self-reported, not verified",
            "scores are what the candidate's own script printed; nothing checked them",
            protections,
        )
    if facts.data_public:
        because = "the demo corpus is public on this machine, so a candidate could know the text it is scored on"
    elif facts.local:
        because = "candidates run on the machine that holds the validation data, under the same kernel"
    else:
        missing = [words.lower() for words, ok, _ in protections if not ok]
        missing += [f"{words.lower()} (not recorded)" for key, words in named if key not in held]
        if not missing:
            return IsolationStatement("Verified and isolated", "every protection held in every trial", protections)
        because = "missing: " + "; ".join(missing)
    return IsolationStatement("Verified, not isolated", because, protections)
