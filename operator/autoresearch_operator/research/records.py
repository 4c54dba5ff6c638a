"""What was observed and what is to be done: the vocabulary of `plan`.

Everything here is immutable and free of I/O. Scores are bits per byte (lower is better), times are seconds,
sizes are bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from autoresearch_operator.api.reasons import (
    CompleteReason,
    ExperimentKind,
    ExperimentPhase,
    FailedReason,
    ProgressingReason,
    Verdict,
    VerdictReason,
)


class Purpose(StrEnum):
    """Why a trial is run. Decisions and reported scores never share a run."""

    BASELINE = "Baseline"
    """A first measurement of the unedited source; fills the noise pool."""
    SCREEN = "Screen"
    """The one run every idea gets; thrown away when the idea is confirmed."""
    CONFIRM = "Confirm"
    """A fresh run of the candidate beside an incumbent's run of the same seed."""
    REFERENCE = "Reference"
    """The incumbent's run of the same seed as a CONFIRM run; `subject` is the candidate it is compared with."""
    REFRESH = "Refresh"
    """A run of a new incumbent that had no part in accepting it."""
    FINAL = "Final"
    """A run for the final comparison, scored on the hidden test split."""


class TrialPhase(StrEnum):
    RUNNING = "Running"
    SCORED = "Scored"
    INVALID = "Invalid"
    """The candidate's own fault; `reason` says which."""
    STARVED = "Starved"
    """The machine was slower than the tier's usual: measured again, free."""
    LOST = "Lost"
    """An infrastructure fault: measured again, free, at most five times."""


@dataclass(frozen=True, slots=True)
class TrialKey:
    """The identity of one measurement. `seed` is unique per purpose and subject (see `names.trial_seed`)."""

    experiment: int
    seed: int
    attempt: int


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """One measurement of one candidate, as observed."""

    key: TrialKey
    tier: str
    purpose: Purpose
    subject: int
    """The experiment that this run helps to decide (for REFERENCE: the candidate, not the incumbent)."""
    phase: TrialPhase
    reason: VerdictReason | None = None
    detail: str = ""
    """A finer name for the reason, such as the exception's type."""
    message: str = ""
    val_bpb: float | None = None
    """Bits per byte on the validation split (FINAL: on the hidden test split)."""
    audit_pairs: int = 0
    """(row, cut) pairs of the causality audit that this run passed."""
    train_tokens: int = 0
    tokens_per_second: float | None = None
    reference_seconds: float | None = None
    """Time of the trusted reference matmul beside the trial; slow means that the machine was starved."""
    peak_memory_bytes: int | None = None
    peak_vram_bytes: int | None = None
    started_at: float = 0.0
    """Seconds since the epoch."""
    finished_at: float | None = None
    slot: int | None = None
    curve: tuple[tuple[int, float], ...] = ()
    """At most 8 points of (tokens seen, training loss in nats per token)."""
    cpu_seconds: float | None = None
    """CPU time of training, the candidate's whole process tree, as the kernel counted it."""

    @property
    def finished(self) -> bool:
        return self.phase is not TrialPhase.RUNNING


@dataclass(frozen=True, slots=True)
class Change:
    """One changed knob: its name and the literals as they stand in the file."""

    path: str
    name: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class ExperimentRecord:
    """One candidate, as recorded in the ledger."""

    number: int
    kind: ExperimentKind
    commit: str
    tree: str
    base: int
    """Number of the experiment whose accepted commit this edit was made on (0: the baseline)."""
    title: str
    proposer: str
    hypothesis: str = ""
    changes: tuple[Change, ...] = ()
    sources: tuple[int, ...] = ()
    """COMBINATION: the experiments put together. ABLATION: the one accepted experiment left out."""
    refused: tuple[VerdictReason, str] | None = None
    """A check or a merge refused it before any run: reason and sentence."""
    phase: ExperimentPhase = ExperimentPhase.PENDING
    verdict: Verdict | None = None
    reason: VerdictReason | None = None
    message: str = ""
    val_bpb: float | None = None
    delta: float | None = None
    """Incumbent minus candidate, bits per byte: positive is better."""
    delta_error: float | None = None
    """Standard error of `delta`."""
    landed_commit: str | None = None
    created_at: float = 0.0
    decided_at: float | None = None


@dataclass(frozen=True, slots=True)
class Observed:
    """All that a pass may look at."""

    experiments: Sequence[ExperimentRecord]
    """In order of number, without gaps."""
    trials: Sequence[TrialRecord]
    started_at: float
    seed: int = 0
    exhausted: bool = False
    """Every proposer said that it has nothing more to try."""
    suspended: bool = False
    slots: int = 1
    """Trials that may run at once (the tier's maxParallel, or the machine's slots in local mode)."""
    proposal_dollars: float = 0.0
    """Spent on language models so far; counts towards limits.dollars."""


@dataclass(frozen=True, slots=True)
class CandidateWanted:
    """A candidate to be created under exactly this number.

    PROPOSAL: ask a proposer, which may look at experiments up to `visible` and must treat later ones as pending.
    COMBINATION: put the edits of `sources` on `base`. ABLATION: take the edit of `sources[0]` out of `base`.
    """

    number: int
    kind: ExperimentKind
    base: int
    visible: int = -1
    sources: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class TrialStart:
    key: TrialKey
    tier: str
    purpose: Purpose
    subject: int
    split: str
    """"val" or "test"."""
    audit_pairs: int


@dataclass(frozen=True, slots=True)
class Decision:
    """A final verdict to be written. An ACCEPTED one is written together with its landing commit, never before."""

    number: int
    verdict: Verdict
    reason: VerdictReason
    message: str
    """A sentence with the figures that decided."""
    val_bpb: float | None = None
    delta: float | None = None
    delta_error: float | None = None


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with its standard error and the runs behind it; bits per byte."""

    mean: float
    error: float
    runs: int


@dataclass(frozen=True, slots=True)
class Effect:
    """Leave-one-out: how much worse the head is without one accepted edit, on the hidden test split."""

    number: int
    delta: float
    """Ablation minus head, bits per byte: positive means that the edit helps."""
    error: float
    helps: bool | None
    """None: the runs do not tell, or the edit could not be taken out by itself (see `message`)."""
    message: str = ""


@dataclass(frozen=True, slots=True)
class FinalComparison:
    """Baseline and head on the hidden test split, fresh seeds on both sides."""

    baseline: Interval
    head: Interval
    effects: tuple[Effect, ...] = ()
    complete: bool = False


@dataclass(frozen=True, slots=True)
class Standing:
    """What a status shows: derived, never stored as truth."""

    incumbent: int
    incumbent_score: Interval | None
    baseline_score: Interval | None
    noise: float | None
    """Standard deviation of one run, bits per byte, pooled over all same-commit groups of the tier."""
    noise_degrees: int
    phases: dict[int, ExperimentPhase] = field(default_factory=dict)
    """Phases of experiments that are not Done."""
    decided: int = 0
    accepted: int = 0
    running: int = 0
    trials_finished: int = 0
    final: FinalComparison | None = None
    decided_limit: int | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do next. Carrying out a plan twice changes nothing the second time."""

    candidates: tuple[CandidateWanted, ...] = ()
    starts: tuple[TrialStart, ...] = ()
    decisions: tuple[Decision, ...] = ()
    """In the order in which they must be written; at most one ACCEPTED, and it is the last."""
    progressing: ProgressingReason = ProgressingReason.SEARCHING
    complete: CompleteReason | None = None
    failed: FailedReason | None = None
    message: str = ""
    standing: Standing = Standing(0, None, None, None, 0)

    @property
    def finished(self) -> bool:
        return self.complete is not None or self.failed is not None
