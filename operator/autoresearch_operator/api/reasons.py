"""Words with a fixed meaning: phases, verdicts and reasons. Tables in the docs are generated from here."""

from enum import StrEnum


class ExperimentKind(StrEnum):
    """Where a candidate came from."""

    BASELINE = "Baseline"
    """The unedited source; experiment 0 of every run."""
    PROPOSAL = "Proposal"
    """An edit from a proposer or a person."""
    COMBINATION = "Combination"
    """Edits that were measured apart, put together and measured again."""
    ABLATION = "Ablation"
    """The head without one accepted edit, measured at the end of the run only; it is never landed."""


class ExperimentPhase(StrEnum):
    """How far a candidate has come."""

    PENDING = "Pending"
    """Recorded in the ledger; nothing has started."""
    SCREENING = "Screening"
    """The first run is going, or its score waits for earlier candidates to be decided."""
    CONFIRMING = "Confirming"
    """The candidate and the incumbent run side by side on fresh seeds."""
    LANDING = "Landing"
    """Accepted by the rule; the commit is being pushed."""
    DONE = "Done"
    """The verdict is final."""


class Verdict(StrEnum):
    """What became of a candidate; final once written."""

    ACCEPTED = "Accepted"
    """A real improvement: its edit is on the branch."""
    REJECTED = "Rejected"
    """It ran as it should and is not a proven improvement."""
    INVALID = "Invalid"
    """It gave no score that may be compared."""


class VerdictReason(StrEnum):
    """Why. One reason for every verdict."""

    IMPROVED = "Improved"
    """The confirmation runs alone show an improvement that chance would rarely show."""
    NOT_BETTER = "NotBetter"
    """The first run did not beat the incumbent by one noise unit."""
    NOT_SIGNIFICANT = "NotSignificant"
    """The first run was better; the confirmation runs could not show that it was more than chance."""
    SUPERSEDED = "Superseded"
    """It passed against an older incumbent and goes on as a Combination on the new one."""
    MEASURED = "Measured"
    """A baseline or an ablation: it was measured for comparison, not for acceptance."""
    VRAM_LIMIT = "VRAMLimit"
    """Peak device memory is above the tier's maxVRAM."""
    CUDA_OUT_OF_MEMORY = "CUDAOutOfMemory"
    """The device ran out of memory."""
    HOST_OUT_OF_MEMORY = "HostOutOfMemory"
    """The candidate used more host memory than its trial may have."""
    HOST_STORAGE = "HostStorageExceeded"
    """The candidate wrote more to disk than its trial may."""
    PROCESS_LIMIT = "ProcessLimitExceeded"
    """The candidate started more processes than its trial may have."""
    NON_FINITE = "NonFinite"
    """The loss, a weight or a logit was NaN or infinite."""
    TIMEOUT = "Timeout"
    """The start-up allowance or the budget ran out before the artifact was handed over."""
    CRASHED = "Crashed"
    """The script ended with an error; the message names the exception."""
    NO_ARTIFACT = "NoArtifact"
    """The script ended without handing over a model."""
    ARTIFACT_REFUSED = "ArtifactRefused"
    """What was handed over is not a well-formed artifact; the message says where."""
    OPERATOR_NOT_ALLOWED = "OperatorNotAllowed"
    """The model's graph uses an operator that the judge does not run."""
    NOT_CAUSAL = "NotCausal"
    """A logit depends on tokens that come after it."""
    IMPLAUSIBLE = "Implausible"
    """Under 60 % of the incumbent's score: held for a person, never landed by itself."""
    REBASE_CONFLICT = "RebaseConflict"
    """The edit no longer applies to the incumbent."""
    DUPLICATE = "Duplicate"
    """The same code was measured before."""
    CHECK_FAILED = "CheckFailed"
    """A check before the first run refused the edit; the message names it."""
    INFRASTRUCTURE = "InfrastructureFailed"
    """Five attempts at one trial were lost to faults that are not the candidate's."""


class ProgressingReason(StrEnum):
    """Why a run is, or is not, moving."""

    SEARCHING = "Searching"
    """Candidates are being measured."""
    WAITING_FOR_PROPOSALS = "WaitingForProposals"
    """Slots are free and no proposer has an idea ready."""
    COMPARING = "FinalComparison"
    """The search is over; baseline, head and ablations run on the hidden test split."""
    QUEUED = "Queued"
    """Trials wait for admission by a queue."""
    NO_CAPACITY = "NoCapacity"
    """No node has room for a trial."""
    KUEUE_PODS_READY_TIMEOUT = "KueuePodsReadyTimeout"
    """Kueue evicted pods that were training in an init container."""
    HARDWARE_CHANGED = "HardwareChanged"
    """A trial ran on other hardware than the baseline's."""
    SUSPENDED = "Suspended"
    """spec.suspend is true: running trials finish, nothing starts."""


class CompleteReason(StrEnum):
    """Why a run ended well."""

    TARGET_REACHED = "TargetReached"
    """The incumbent's score is at or under limits.targetBPB."""
    EXPERIMENT_LIMIT = "ExperimentLimit"
    """limits.experiments candidates have a verdict."""
    DURATION_LIMIT = "DurationLimit"
    """limits.duration has passed."""
    BUDGET_SPENT = "BudgetSpent"
    """limits.gpuHours or limits.dollars is spent."""
    PROPOSALS_EXHAUSTED = "ProposalsExhausted"
    """Every proposer has said that it has nothing more to try."""


class FailedReason(StrEnum):
    """Why a run cannot go on."""

    BASELINE_FAILED = "BaselineFailed"
    """The unedited source gives no score: mend it before searching."""
    CONSECUTIVE_FAILURES = "ConsecutiveFailures"
    """limits.consecutiveFailures candidates in a row were Invalid."""
