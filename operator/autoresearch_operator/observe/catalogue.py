"""Every metric of the operator, declared once: the exposition and docs/reference/metrics.md are made from this list.

Base units only. Labels have few values each: never the name of an experiment or a trial, never a text that a candidate
or a proposer wrote. What follows from a run's ledger is read from it at each scrape, so a restart neither loses nor
repeats anything; what the process measures of itself begins anew with it, as Prometheus expects of counters.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

PREFIX: Final = "autoresearch_"


class Kind(StrEnum):
    GAUGE = "gauge"
    COUNTER = "counter"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric family."""

    name: str
    """As it is exposed; a counter ends in _total."""
    kind: Kind
    unit: str
    """Empty for plain numbers."""
    labels: tuple[str, ...]
    meaning: str
    question: str
    """What a person who looks at it wants to know."""
    buckets: tuple[float, ...] = ()
    """Upper ends, for a histogram."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One series at one moment; `labels` are the values of the metric's labels, in their order."""

    metric: Metric
    labels: tuple[str, ...]
    value: float


RUN: Final = ("namespace", "run")
TIER: Final = (*RUN, "tier")
BPB: Final = "bits_per_byte"


def _run(name: str, meaning: str, question: str, *labels: str, unit: str = "", kind: Kind = Kind.GAUGE) -> Metric:
    return Metric(f"{PREFIX}run_{name}", kind, unit, (*RUN, *labels), meaning, question)


def _own(name: str, meaning: str, question: str, *labels: str, unit: str = "", kind: Kind = Kind.GAUGE) -> Metric:
    return Metric(f"{PREFIX}{name}", kind, unit, labels, meaning, question)


def _histogram(name: str, meaning: str, question: str, *buckets: float) -> Metric:
    return Metric(f"{PREFIX}{name}", Kind.HISTOGRAM, "seconds", (), meaning, question, buckets)


# A run: how it stands ------------------------------------------------------------------------------------------------

RUN_PHASE = _run(
    "phase", "1 for the phase that the run's status shows, 0 for the others.", "Which runs go on, which are over?",
    "state",
)  # fmt: skip
RUN_CONDITION = _run(
    "condition",
    "1 for each condition of the run's status, with its status (True, False, Unknown) and reason. A reason that this "
    "version does not know is Other.",
    "What is stuck, and why?",
    "condition", "status", "reason",
)  # fmt: skip
RUN_ACTIVE = _run(
    "active_seconds", "Time that counts towards limits.duration.", "How long has it been at work?", unit="seconds"
)

# A run: scores -------------------------------------------------------------------------------------------------------

_INTERVAL = "end of the 95 % interval of"
BASELINE = _run(
    "baseline_bits_per_byte", "Mean val_bpb of the unedited source.", "Where did it begin?", "tier", unit=BPB
)
BASELINE_LOW = _run(
    "baseline_low_bits_per_byte", f"Lower {_INTERVAL} the baseline's mean.", "How sure is that?", "tier", unit=BPB
)
BASELINE_HIGH = _run(
    "baseline_high_bits_per_byte", f"Upper {_INTERVAL} the baseline's mean.", "How sure is that?", "tier", unit=BPB
)
INCUMBENT = _run(
    "incumbent_bits_per_byte",
    "Mean val_bpb of the head of the accepted branch, from runs that had no part in accepting it where there are some.",
    "Is it improving?",
    "tier", unit=BPB,
)  # fmt: skip
INCUMBENT_LOW = _run(
    "incumbent_low_bits_per_byte", f"Lower {_INTERVAL} the incumbent's mean.", "By how much against noise?", "tier",
    unit=BPB,
)  # fmt: skip
INCUMBENT_HIGH = _run(
    "incumbent_high_bits_per_byte", f"Upper {_INTERVAL} the incumbent's mean.", "By how much against noise?", "tier",
    unit=BPB,
)  # fmt: skip
LAST_TRIAL = _run(
    "last_trial_bits_per_byte",
    "val_bpb of the scored trial that ended last (trials of the final comparison, on the hidden split, left out).",
    "What do ideas score now?",
    "tier", unit=BPB,
)  # fmt: skip
LAST_TRIAL_ENDED = _run(
    "last_trial_timestamp_seconds", "When that trial ended, seconds since the epoch.", "Do trials still end?", "tier",
    unit="seconds",
)  # fmt: skip
LAST_ACCEPTED = _run(
    "last_accepted_timestamp_seconds",
    "When the last edit was accepted, seconds since the epoch. It moves once with each, as an annotation wants it.",
    "When did it improve?",
    unit="seconds",
)
NOISE = _run(
    "noise_bits_per_byte", "Standard deviation of one run, pooled over all groups of runs of one commit.",
    "What difference is just chance?", "tier", unit=BPB,
)  # fmt: skip
NOISE_DEGREES = _run(
    "noise_degrees_of_freedom", "Degrees of freedom of that estimate.", "How well is the noise known?", "tier"
)

# A run: what was tried -----------------------------------------------------------------------------------------------

EXPERIMENTS = _run(
    "experiments_total", "Candidates with a final verdict, as status.counts has them.",
    "What becomes of ideas, and why are they refused?", "verdict", "reason", kind=Kind.COUNTER,
)  # fmt: skip
EXPERIMENTS_OPEN = _run(
    "experiments_open", "Candidates without a verdict, by how far they have come.", "Are ideas prepared ahead?",
    "state",
)  # fmt: skip
EXPERIMENTS_LIMIT = _run("experiments_limit", "limits.experiments.", "How many are left?")
TRIALS = _run(
    "trials_total",
    "Finished trials in the ledger by how they ended. The reason is the verdict's for Invalid, the cluster's for Lost "
    "(Other: one that this version does not know), empty for Scored and Starved.",
    "Does the cluster or do the ideas fail?",
    "tier", "state", "reason", kind=Kind.COUNTER,
)  # fmt: skip
PEAK_VRAM = _run(
    "last_trial_peak_vram_bytes", "Peak device memory of the scored trial that ended last; absent where not measured.",
    "Is memory near its limit?", "tier", unit="bytes",
)  # fmt: skip
MAX_VRAM = _run(
    "max_vram_bytes", "The tier's maxVRAM; absent when unset.", "Is memory near its limit?", "tier", unit="bytes"
)

# A run: slots and money ----------------------------------------------------------------------------------------------

SLOTS = _run(
    "slots",
    "Slots by what they do: running (a node has the trial), waiting (its Job exists and no node has it), idle (it may "
    "be used and is not; 0 while the run is suspended or over).",
    "Is any GPU idle?",
    "tier", "state",
)  # fmt: skip
SLOTS_LIMIT = _run("slots_limit", "The tier's maxParallel: trials that may run at once.", "How many could run?", "tier")
SLOT_SECONDS = _run(
    "slot_seconds_total",
    "Time that finished trials held their slots: search, final (the final comparison), invalid (the candidate failed), "
    "starved and lost (both are the infrastructure's, and measured again).",
    "What was the time spent on?",
    "tier", "use", unit="seconds", kind=Kind.COUNTER,
)  # fmt: skip
GPU_SECONDS = _run(
    "gpu_seconds_total", "The same times the tier's GPUs; absent for tiers without.",
    "What were GPUs spent on, and how much was wasted?", "tier", "use", unit="seconds", kind=Kind.COUNTER,
)  # fmt: skip
SPENT_GPU = _run(
    "spent_gpu_seconds", "GPU time of all trials, those that run included, as status.spend has it.",
    "What has it used?", unit="seconds",
)  # fmt: skip
LIMIT_GPU = _run("limit_gpu_seconds", "limits.gpuHours; absent when unset.", "How much may it use?", unit="seconds")
SPENT_DOLLARS = _run(
    "spent_dollars", "What that time costs at the tier's pricePerGPUHour; absent without a price.", "What did it cost?",
    unit="dollars",
)  # fmt: skip
LIMIT_DOLLARS = _run("limit_dollars", "limits.dollars; absent when unset.", "How much may it cost?", unit="dollars")
LIMIT_ACTIVE = _run(
    "limit_active_seconds", "limits.duration; absent when unset.", "How long may it go on?", unit="seconds"
)
PUSHES = _run(
    "pushes_total",
    "Conversations with the run's git server that pushed something or failed, by the reason of BranchUpdated, since "
    "the operator's start. Only runs with source.url have any.",
    "Is git being pushed?",
    "reason", kind=Kind.COUNTER,
)  # fmt: skip

# The operator --------------------------------------------------------------------------------------------------------

BUILD = _own("build_info", "1, with the operator's version.", "What is deployed?", "version")
READY = _own(
    "ready", "1 while the operator is at work, as /readyz says; 0 while it waits for the Lease or is ill.",
    "Is the operator at work?",
)  # fmt: skip
QUEUE_WAITING = _own("queue_waiting_runs", "Runs that are due and wait for a worker.", "Is the operator behind?")
QUEUE_FAILING = _own("queue_failing_runs", "Runs whose last pass raised a fault of this program.", "Does it fail?")
QUEUE_WAIT = _own(
    "queue_longest_wait_seconds", "How long the first of them has been due.", "How far is the operator behind?",
    unit="seconds",
)  # fmt: skip
QUEUE_PASS = _own(
    "queue_longest_pass_seconds", "How long the oldest pass under way has been running.", "Does a pass hang?",
    unit="seconds",
)  # fmt: skip
QUEUE_LAST = _own(
    "queue_last_pass_age_seconds", "Time since a pass ended; absent until the first one did.",
    "Is the operator still planning?", unit="seconds",
)  # fmt: skip
PASS_SECONDS = _histogram(
    "pass_duration_seconds", "Time of one pass over one run: observing, planning, writing.", "Is planning slow?",
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300,
)  # fmt: skip
PASS_FAILURES = _own(
    "pass_failures_total", "Passes that raised a fault of this program.", "Does it fail?", kind=Kind.COUNTER
)
GAP_SECONDS = _histogram(
    "slot_gap_seconds",
    "Time from a trial's pod seen to have ended until the next Job was created in its slot. A slot that found no work "
    "meanwhile is in it, a run that was suspended or came to its end is not.",
    "How long do GPUs wait for the next trial?",
    0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 300, 900,
)  # fmt: skip
PUSH_SECONDS = _histogram(
    "push_duration_seconds", "Time of one conversation with a git server that pushed something or failed.",
    "Is the git server slow?", 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300,
)  # fmt: skip
API_REQUESTS = _own(
    "api_requests_total",
    "Requests to the API server, each attempt counted, by verb, resource and HTTP code (none: no answer). The watches, "
    "which are long requests of their own, are not in it.",
    "Does the API server throttle or refuse?",
    "verb", "resource", "code", kind=Kind.COUNTER,
)  # fmt: skip

METRICS: Final[tuple[Metric, ...]] = tuple(each for each in list(globals().values()) if isinstance(each, Metric))
"""All of them, in the order above."""
