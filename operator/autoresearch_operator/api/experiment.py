"""Experiment: one candidate edit and its measurements, created by the operator."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, Strict, model_validator

from autoresearch_operator.api.base import API_VERSION, Commit, Model, Refusals, Score
from autoresearch_operator.api.meta import Condition, ObjectMeta
from autoresearch_operator.api.reasons import (
    ExperimentKind,
    ExperimentPhase,
    TrialPurpose,
    TrialStatusPhase,
    Verdict,
    VerdictReason,
)

MAX_TRIALS = 32
"""Trials that one Experiment's status holds."""

Tally = Annotated[int, Strict(), Field(ge=0)]
Figure = Annotated[float, Strict(), Field(ge=0, allow_inf_nan=False)]
Stamp = Annotated[str, Field(max_length=64)]
"""A time in RFC 3339."""


class ExperimentSpec(Model):
    """What the candidate is. All of it is immutable."""

    number: Annotated[int, Strict(), Field(ge=0, le=1_000_000)]
    """The candidate's number in its run; 0 is the baseline. Immutable."""
    kind: ExperimentKind
    """Where it came from: Baseline, Proposal, Combination or Ablation. Immutable."""
    commit: Commit
    """The candidate's commit. Immutable."""
    tree: Commit
    """The git tree of that commit. Immutable."""
    base: Commit
    """The commit that the edit was made on; the baseline's is its own. Immutable."""
    title: Annotated[str, Field(min_length=1, max_length=200)]
    """The edit in a line. Immutable."""
    proposer: Annotated[str, Field(min_length=1, max_length=200)]
    """Who proposed it: search, a model's name, or a person's. Immutable."""


class TrialStatus(Model):
    """One measurement of the candidate: a tier, a seed, an attempt; one Job."""

    name: Annotated[str, Field(min_length=1, max_length=63)]
    """The trial's name in its experiment, such as h100-s1-a1."""
    tier: Annotated[str, Field(min_length=1, max_length=20)]
    """The tier that it ran in."""
    seed: Tally
    """The number of its seed."""
    attempt: Annotated[int, Strict(), Field(ge=1, le=100)]
    """1 for the first try; more after infrastructure faults."""
    experiment: Annotated[int | None, Strict(), Field(ge=0, le=1_000_000)] = None
    """The number of the experiment that it measured, when that is another than the object's own: the incumbent's runs
    beside a candidate's. Unset: this one."""
    purpose: TrialPurpose | None = None
    """What it was run for. Unset: not told."""
    phase: TrialStatusPhase
    """How far it has come; any phase but Running is final."""
    reason: VerdictReason | None = None
    """Why it is Invalid. Unset: it is not."""
    message: Annotated[str, Field(max_length=512)] = ""
    """What happened, in a sentence. Empty: nothing to tell."""
    val_bpb: Score | None = Field(default=None)
    """Bits per byte. Unset: it has no score."""
    audit_pairs: Tally | None = None
    """Pairs of the causality audit that it passed. Unset: not audited."""
    train_tokens: Tally | None = None
    """Tokens that it trained on. Unset: it did not train."""
    peak_vram_bytes: Tally | None = None
    """Most device memory in use at once. Unset: not measured, or a CPU tier."""
    peak_memory_bytes: Tally | None = None
    """Most host memory in use at once. Unset: not measured."""
    tokens_per_second: Figure | None = None
    """Training tokens a second. Unset: it did not train."""
    reference_seconds: Figure | None = None
    """Time of a reference calculation beside it; long means that the machine was slow. Unset: not measured."""
    cpu_seconds: Figure | None = None
    """CPU time of its training, as the kernel counted it. Unset: not measured."""
    started_at: Stamp | None = None
    """When its Job was created, RFC 3339. Unset: not told."""
    finished_at: Stamp | None = None
    """When it ended, RFC 3339. Unset: it runs."""
    pod_uid: Annotated[str | None, Field(max_length=64)] = Field(default=None)
    """The pod's UID. Unset: no pod yet."""
    node: Annotated[str | None, Field(max_length=253)] = None
    """The node that it ran on. Unset: not scheduled yet."""
    product: Annotated[str | None, Field(max_length=128)] = None
    """The GPU's product. Unset: not known yet."""
    driver: Annotated[str | None, Field(max_length=64)] = None
    """The GPU driver's version. Unset: not known yet."""

    @model_validator(mode="after")
    def _score_if_scored(self) -> Self:
        refusals = Refusals()
        if (self.phase is TrialStatusPhase.SCORED) != (self.val_bpb is not None):
            refusals.add(("valBPB",), f"a trial has a score exactly when its phase is Scored, and it is {self.phase}")
        refusals.raise_any("TrialStatus")
        return self


class ExperimentStatus(Model):
    """What is known about a candidate. A verdict is final, a finished trial is final."""

    phase: ExperimentPhase = ExperimentPhase.PENDING
    """How far it has come: Pending, Screening, Confirming, Landing or Done."""
    verdict: Verdict | None = None
    """Accepted, Rejected or Invalid. Unset: not decided."""
    reason: VerdictReason | None = None
    """Why, in one word. Unset: not decided."""
    message: Annotated[str, Field(max_length=1024)] = ""
    """Why, in a sentence with the figures that decided."""
    val_bpb: Score | None = Field(default=None)
    """Mean score, bits per byte. Unset: none of its trials has one."""
    delta: Annotated[float, Strict(), Field(allow_inf_nan=False)] | None = None
    """Incumbent minus candidate, bits per byte; positive is better. Unset: not compared."""
    landed_commit: Commit | None = None
    """The commit on the branch that holds the edit. Unset: not accepted."""
    conditions: Annotated[tuple[Condition, ...], Field(max_length=4)] = ()
    """Finished."""
    trials: Annotated[tuple[TrialStatus, ...], Field(max_length=MAX_TRIALS)] = ()
    """Its measurements, at most 32."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        refusals = Refusals()
        if self.verdict is Verdict.ACCEPTED and self.landed_commit is None:
            refusals.add(("verdict",), "Accepted needs landedCommit: an edit is accepted when it is in git, not before")
        if self.verdict is not Verdict.ACCEPTED and self.landed_commit is not None:
            refusals.add(("landedCommit",), "is set without the verdict Accepted")
        if (self.verdict is None) != (self.reason is None):
            refusals.add(("reason",), "a verdict has a reason, and a reason a verdict: set both or neither")
        if (self.verdict is None) == (self.phase is ExperimentPhase.DONE):
            refusals.add(("phase",), f"is {self.phase}: it is Done exactly when there is a verdict")
        # The incumbent's run beside a candidate's has the same tier, seed and attempt, hence the same name.
        names = [(trial.name, trial.experiment) for trial in self.trials]
        if len(set(names)) < len(names):
            refusals.add(("trials",), "two trials have the same name: a trial is measured once")
        refusals.raise_any("ExperimentStatus")
        return self


class Experiment(Model):
    """One candidate edit. Created by the operator; its measurements are in `status.trials`."""

    api_version: Literal["autoresearch.dev/v1alpha1"] = API_VERSION
    """The version of this API."""
    kind: Literal["Experiment"] = "Experiment"
    """The kind of object."""
    metadata: ObjectMeta
    """The object's name, <run>-<number>, and labels."""
    spec: ExperimentSpec
    """What the candidate is. Immutable."""
    status: ExperimentStatus | None = None
    """What is known about it. Written by the operator."""
