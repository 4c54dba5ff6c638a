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
    NOT_MEASURED = "NotMeasured"
    """The run ended before this candidate had the runs that a decision needs."""
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


class TrialPurpose(StrEnum):
    """Why a trial is run, as `status.trials[]` of an Experiment shows it. Decisions and reports never share a run."""

    BASELINE = "Baseline"
    """A first measurement of the unedited source: it tells the noise."""
    SCREEN = "Screen"
    """The one run every idea gets; thrown away when the idea is confirmed."""
    CONFIRM = "Confirm"
    """A fresh run of the candidate beside the incumbent's run of the same seed."""
    REFERENCE = "Reference"
    """The incumbent's run of the same seed as a Confirm run."""
    REFRESH = "Refresh"
    """A run of a new incumbent that had no part in accepting it."""
    FINAL = "Final"
    """A run for the final comparison, scored on the hidden test split."""


class TrialStatusPhase(StrEnum):
    """How far a trial has come, as `status.trials[]` of an Experiment shows it."""

    RUNNING = "Running"
    """It waits for its pod, or runs."""
    SCORED = "Scored"
    """It has a score."""
    INVALID = "Invalid"
    """It gave no score, through the candidate's own fault; `reason` says which."""
    STARVED = "Starved"
    """The machine was slower than the tier's usual: measured again, free."""
    LOST = "Lost"
    """An infrastructure fault: measured again, free, at most five times."""


class ConditionType(StrEnum):
    """What a condition of a ResearchRun or an Experiment is about."""

    READY = "Ready"
    """The run has all it needs to begin: source, credentials, data, nodes."""
    PROGRESSING = "Progressing"
    """Candidates are being measured, or why not."""
    BRANCH_UPDATED = "BranchUpdated"
    """The branch in git holds every accepted edit."""
    ISOLATED = "Isolated"
    """A candidate can reach neither the network nor the data it is scored on."""
    COMPLETE = "Complete"
    """The run ended well."""
    FAILED = "Failed"
    """The run cannot go on."""
    FINISHED = "Finished"
    """Of an Experiment: its verdict is final; the reason is the verdict's."""


class ReadyReason(StrEnum):
    """Why a run can, or cannot, begin."""

    INVALID_SPEC = "InvalidSpec"
    """The request breaks a rule that the API server did not check, such as one younger than the request."""
    VERIFIED = "Verified"
    """Source, credentials, data and nodes were found and tried."""
    SOURCE_NOT_FOUND = "SourceNotFound"
    """The repository, the ref or an editable path does not exist."""
    CREDENTIALS_REJECTED = "CredentialsRejected"
    """The git server or the model's server refused the Secret's credentials."""
    SECRET_NOT_ALLOWED = "SecretNotAllowed"  # noqa: S105 - a reason, not a password
    """The Secret is not labelled for use, or not for the host that the URL names."""
    SOURCE_TOO_LARGE = "SourceTooLarge"
    """The candidate's files are over 700 KiB packed."""
    DATA_NOT_SHARED = "DataNotShared"
    """The data claim cannot be mounted by as many pods as the tiers run at once."""
    NO_MATCHING_NODE = "NoMatchingNode"
    """No node has the tier's resource, product and labels."""
    PODS_FORBIDDEN = "PodsForbidden"
    """The API server refused a trial's pod; the message is its sentence."""
    IMAGE_PULL = "ImagePull"
    """The trainer's image could not be pulled; the message is the kubelet's."""
    BRANCH_IN_USE = "BranchInUse"
    """Another run pushes to the same branch."""
    GIT_UNAVAILABLE = "GitUnavailable"
    """The git server cannot be reached, so the source is not here yet; it is tried again."""
    REPOSITORY_UNUSABLE = "RepositoryUnusable"
    """The run's repository on the operator's volume is damaged and there is no copy to restore it from, or the volume
    is full."""
    RUN_CHANGED = "RunChanged"
    """Git holds an earlier run of this name that had another source, trainer or tiers: its scores do not compare."""


class BranchUpdatedReason(StrEnum):
    """Whether git holds what was accepted."""

    UP_TO_DATE = "UpToDate"
    """The branch holds every accepted edit."""
    DIVERGED = "Diverged"
    """Somebody else's commits are on the branch; accepted edits are put on top of them."""
    PUSH_REJECTED = "PushRejected"
    """The git server refused the push; the message is its sentence."""
    GIT_UNAVAILABLE = "GitUnavailable"
    """The git server cannot be reached; the push is tried again."""
    CREDENTIALS_REJECTED = "CredentialsRejected"
    """The git server no longer accepts the Secret's credentials, or the Secret may no longer be used; it is read again
    before each push."""
    BRANCH_IN_USE = "BranchInUse"
    """Another run pushes to the same branch, or the same run is at work elsewhere."""


class IsolatedReason(StrEnum):
    """Whether candidates are confined."""

    ENFORCED = "Enforced"
    """A candidate can open no socket, or, with several GPUs, a canary pod under the same NetworkPolicy as the trials
    reached nothing."""
    NETWORK_POLICY_NOT_ENFORCED = "NetworkPolicyNotEnforced"
    """A trial of several GPUs needs NetworkPolicies, and a canary pod got through one, or it is not known yet whether
    the cluster's network carries them out; the message says which."""
    SELF_REPORTED = "SelfReported"
    """Scores are the candidates' own words; no isolation makes them true."""
