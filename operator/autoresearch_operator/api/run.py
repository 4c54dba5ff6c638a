"""ResearchRun: the request for a line of research, and what is known about it."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import Field, Strict, model_validator

from autoresearch_operator.api.base import (
    API_VERSION,
    Commit,
    Duration,
    Flag,
    LabelValue,
    Model,
    Refusals,
    Score,
    Want,
    shown,
)
from autoresearch_operator.api.meta import Condition, RunMeta
from autoresearch_operator.api.proposers import ProposerSpec, SearchSpec
from autoresearch_operator.api.source import SourceSpec, default_branch
from autoresearch_operator.api.tiers import Tier
from autoresearch_operator.api.trainer import TrainerSpec

Count = Annotated[int, Strict(), Field(ge=0)]
Figure = Annotated[float, Strict(), Field(ge=0, allow_inf_nan=False)]


class AcceptanceSpec(Model):
    """When an edit counts as a real improvement."""

    min_improvement: Annotated[
        float, Strict(), Field(ge=0, le=10, allow_inf_nan=False), Want("a number of bits per byte, 0 or more")
    ] = 0.0
    """Bits per byte that an edit must gain at least. Default 0: any gain that is not chance. Mutable; it holds for
    verdicts from then on."""
    significance: Annotated[
        float, Strict(), Field(gt=0, le=0.2, allow_inf_nan=False), Want("a share above 0 and at most 0.2, such as 0.01")
    ] = 0.01
    """How often chance may show what is taken for an improvement, as a share; the looks' own levels are scaled from
    it. Default 0.01, which keeps about 0.26 useless edits in 100. Mutable; it holds for verdicts from then on."""
    looks: Annotated[
        tuple[Annotated[int, Strict(), Field(ge=1, le=32), Want("a whole number of runs from 1 to 32")], ...],
        Field(min_length=1, max_length=4),
        Want("a list of 1 to 4 whole numbers that grow, such as [2, 4, 8]"),
    ] = (2, 4, 8)
    """Numbers of fresh runs of candidate and incumbent after which the two are compared, growing. Default [2, 4, 8]:
    clear cases end early. Mutable; it holds for verdicts from then on."""

    @model_validator(mode="after")
    def _growing(self) -> Self:
        if any(later <= earlier for earlier, later in zip(self.looks, self.looks[1:], strict=False)):
            refusals = Refusals()
            refusals.add(("looks",), f"{list(self.looks)} does not grow: each look needs more runs than the one before")
            refusals.raise_any("AcceptanceSpec")
        return self


class LimitsSpec(Model):
    """When the run ends. Whichever limit is reached first counts."""

    experiments: Annotated[
        int, Strict(), Field(ge=1, le=100_000), Want("a whole number of candidates from 1 to 100000")
    ] = 100
    """Candidates that get a verdict, without the baseline. Default 100, about a night on one GPU. Mutable."""
    duration: Annotated[
        Duration | None,
        Field(examples=["8h"]),
        Want("a duration such as 8h or 1h30m"),
    ] = None
    """Time since the run began; trials under way then still finish. Unset: no limit. Mutable."""
    gpu_hours: Annotated[
        float | None,
        Strict(),
        Field(gt=0, le=10_000_000, allow_inf_nan=False, examples=[128]),
        Want("a number of GPU-hours above 0"),
    ] = None
    """GPU-hours of all trials together. Unset: no limit. Mutable."""
    dollars: Annotated[
        float | None,
        Strict(),
        Field(gt=0, le=1_000_000_000, allow_inf_nan=False, examples=[320]),
        Want("a number of dollars above 0"),
    ] = None
    """Dollars for GPUs and tokens together; needs every tier's pricePerGPUHour and every model's
    pricePerMillionTokens. Unset: no limit. Mutable."""
    consecutive_failures: Annotated[
        int, Strict(), Field(ge=1, le=1000), Want("a whole number of candidates from 1 to 1000")
    ] = 12
    """Invalid candidates in a row that end the run as failed, because then the proposer or the trainer is at fault.
    Default 12. Mutable."""
    target_bpb: Annotated[Score | None, Field(examples=[0.97])] = None
    """The score, in bits per byte, that ends the run as reached. Unset: none. Mutable."""

    @model_validator(mode="after")
    def _long_enough(self) -> Self:
        if self.duration is not None and not 1 <= self.duration.seconds <= 31_536_000:
            refusals = Refusals()
            refusals.add(("duration",), f"got {shown(str(self.duration))}, want a duration between 1s and 8760h")
            refusals.raise_any("LimitsSpec")
        return self

    @property
    def duration_seconds(self) -> float | None:
        return None if self.duration is None else self.duration.seconds


class ResearchRunSpec(Model):
    """What to research, with what, and until when."""

    source: SourceSpec = SourceSpec()
    """Where the code comes from and where accepted edits go. Default: the built-in template tiny-gpt. Immutable, but
    for secretName and program."""
    proposers: Annotated[
        tuple[ProposerSpec, ...],
        Field(min_length=1, max_length=8),
        Want("a list of 1 to 8 proposers such as [{search: {}}]"),
    ] = Field(default=(ProposerSpec(search=SearchSpec()),), examples=[[{"search": {}}]])
    """Who proposes edits. Default: the built-in search, because it needs no key. Mutable."""
    trainer: TrainerSpec = TrainerSpec()
    """What a trial runs. Default: the chart's image and its demo corpus. Immutable while the run has scores."""
    tiers: Annotated[
        tuple[Tier, ...],
        Field(min_length=1, max_length=8),
        Want("a list of 1 to 8 tiers such as [{name: gpu, gpus: 1}]"),
    ] = Field(default=(Tier(name="gpu"),), examples=[[{"name": "gpu", "gpus": 1}]])
    """Kinds of GPU in the order of promotion: screened on the first, confirmed on the last. Default: one, named gpu,
    with 1 GPU. Append-only; maxParallel: 0 retires a tier."""
    acceptance: AcceptanceSpec = AcceptanceSpec()
    """When an edit counts as a real improvement. Default: as chance would show less than once in 100. Mutable."""
    limits: LimitsSpec = LimitsSpec()
    """When the run ends. Default: after 100 candidates, or 12 failures in a row. Mutable."""
    queue_name: Annotated[LabelValue | None, Field(examples=["research"])] = None
    """The Kueue LocalQueue that admits trials. Unset: none. Not used in local mode. Mutable while suspended."""
    suspend: Flag = False
    """True: running trials finish and nothing starts. Default false. Mutable."""

    @model_validator(mode="after")
    def _refuse(self) -> Self:
        refusals = Refusals()
        names = [tier.name for tier in self.tiers]
        for index, name in enumerate(names):
            if name in names[:index]:
                refusals.add(("tiers", index, "name"), f"{shown(name)} is the name of another tier: choose a new one")
        if self.limits.dollars is not None and (missing := self._missing_prices()):
            refusals.add(("limits", "dollars"), f"needs every price: set {' and '.join(missing)} (0 for GPUs you own)")
        refusals.raise_any("ResearchRunSpec")
        return self

    def _missing_prices(self) -> list[str]:
        missing = [
            f"spec.tiers[{index}].pricePerGPUHour"
            for index, tier in enumerate(self.tiers)
            if tier.gpus > 0 and tier.price_per_gpu_hour is None
        ]
        missing += [
            f"spec.proposers[{index}].openai.pricePerMillionTokens"
            for index, proposer in enumerate(self.proposers)
            if proposer.openai is not None and proposer.openai.price_per_million_tokens is None
        ]
        return missing


class RunPhase(StrEnum):
    """How far a run has come, in one word."""

    PENDING = "Pending"
    """The source or the baseline is not there yet."""
    RUNNING = "Running"
    """Candidates are being measured."""
    SUSPENDED = "Suspended"
    """spec.suspend is true."""
    COMPLETE = "Complete"
    """A limit or the target was reached."""
    FAILED = "Failed"
    """It cannot go on; the condition Failed says why."""


class RunCounts(Model):
    """Numbers of candidates, without the baseline."""

    done: Count = 0
    """Candidates with a verdict."""
    accepted: Count = 0
    """Candidates on the branch."""
    rejected: Count = 0
    """Candidates that ran as they should and are no proven improvement."""
    invalid: Count = 0
    """Candidates that gave no score."""
    pending: Count = 0
    """Candidates that are recorded and wait for their first run."""
    running: Count = 0
    """Trials that run now."""


class MeasuredCommit(Model):
    """A commit and its score in one tier."""

    commit: Commit
    """The commit that was measured."""
    val_bpb: Score
    """Mean score, bits per byte."""
    interval: Annotated[tuple[Score, Score] | None, Want("two scores, lower first")] = None
    """95 % interval of the mean, bits per byte. Unset: too few runs."""
    runs: Count = 0
    """Runs behind the mean."""


class BestResult(Model):
    """The best accepted commit in the tier that decides."""

    tier: Annotated[str, Field(min_length=1, max_length=20)]
    """The tier of the score: the last that is not retired."""
    commit: Commit
    """The head of the accepted branch."""
    val_bpb: Score
    """Its mean score, bits per byte, rounded to 6 decimals."""
    experiment: Annotated[int | None, Strict(), Field(ge=0, le=1_000_000)] = None
    """The experiment that brought it; 0 is the baseline. Unset: a commit that a person made."""


class TierStatus(Model):
    """What is known about one tier."""

    name: Annotated[str, Field(min_length=1, max_length=20)]
    """The tier's name."""
    noise: Figure | None = None
    """Standard deviation of one run, bits per byte, pooled over all same-commit groups. Unset: not yet known."""
    noise_degrees: Count = 0
    """Degrees of freedom behind `noise`."""
    baseline: MeasuredCommit | None = None
    """The unedited source; set from its first score on, and then the tier holds scores. Unset: not yet measured."""
    incumbent: MeasuredCommit | None = None
    """The head of the accepted branch. Unset: not yet measured."""
    product: Annotated[str | None, Field(max_length=128)] = None
    """The GPU's product, pinned by the first baseline. Unset: not yet pinned."""
    driver: Annotated[str | None, Field(max_length=64)] = None
    """The GPU driver's version, pinned by the first baseline. Unset: not yet pinned."""
    image_id: Annotated[str | None, Field(max_length=512)] = None
    """The image's digest, pinned by the first baseline. Unset: not yet pinned."""


class Spend(Model):
    """What the run has used."""

    gpu_hours: Figure = 0.0
    """GPU-hours of all trials, rounded to 3 decimals."""
    dollars: Figure = 0.0
    """Dollars for GPUs and tokens, as far as prices are known, rounded to cents."""
    tokens: Count = 0
    """Tokens of language models, in and out."""


class ResearchRunStatus(Model):
    """What is known about a run. Small on purpose: histories are Experiments and git."""

    phase: RunPhase = RunPhase.PENDING
    """How far the run has come."""
    reason: Annotated[str | None, Field(max_length=64)] = None
    """Why it is there, in one word: the reason of the condition that explains `phase`. Unset: not told yet."""
    conditions: Annotated[tuple[Condition, ...], Field(max_length=16)] = ()
    """Ready, Progressing, BranchUpdated, Isolated, Complete and Failed."""
    observed_generation: Count = 0
    """The metadata.generation that this status was made from."""
    branch: Annotated[str | None, Field(max_length=256)] = None
    """The branch that accepted edits are pushed to. Unset: the run has not begun."""
    repository: Annotated[str | None, Field(max_length=1024)] = None
    """Where the branch can be cloned from: spec.source.url, or the operator's own git server. Unset: the run has not
    begun."""
    ledger_ref: Annotated[str | None, Field(max_length=256)] = None
    """The git ref that holds the record of all candidates and trials. Unset: the run has not begun."""
    started_at: Annotated[str | None, Field(max_length=64)] = None
    """When the run began, RFC 3339. Unset: it has not begun."""
    active_seconds: Figure = 0.0
    """Seconds that count towards limits.duration: since the run began, without the time suspended."""
    counts: RunCounts = RunCounts()
    """Numbers of candidates."""
    best: BestResult | None = None
    """The head of the accepted branch and its score. Unset: not yet measured."""
    gain: Annotated[float | None, Strict(), Field(allow_inf_nan=False)] = None
    """Baseline minus `best`, bits per byte, rounded to 6 decimals; positive is better. Unset: not yet measured."""
    tiers: Annotated[tuple[TierStatus, ...], Field(max_length=8)] = ()
    """Noise, baseline and incumbent of each tier."""
    spend: Spend = Spend()
    """What the run has used."""


class ResearchRun(Model):
    """The request for a line of research: source, proposers, trainer, tiers, acceptance, limits."""

    api_version: Literal["autoresearch.dev/v1alpha1"] = API_VERSION
    """The version of this API."""
    kind: Literal["ResearchRun"] = "ResearchRun"
    """The kind of object."""
    metadata: RunMeta
    """The run's name and labels."""
    spec: ResearchRunSpec = ResearchRunSpec()
    """What to research. Default: built-in template, built-in search, one GPU, 5 minutes a trial, 100 candidates."""
    status: ResearchRunStatus | None = None
    """Written by the operator. Ignored in files."""

    @model_validator(mode="after")
    def _branch_is_not_ref(self) -> Self:
        if self.spec.source.ref.removeprefix("refs/heads/") == self.branch:
            refusals = Refusals()
            refusals.add(
                ("spec", "source", "ref"),
                f"is {shown(self.branch)}, this run's own branch: accepted edits go to a branch of their own; "
                "choose another metadata.name or set spec.source.branch",
            )
            refusals.raise_any("ResearchRun")
        return self

    @property
    def branch(self) -> str:
        """The branch that accepted edits go to."""
        return self.spec.source.branch or default_branch(self.metadata.namespace, self.metadata.name)
