"""How a trial's resources are divided: between its containers, and between the candidate and its launcher."""

from __future__ import annotations

from dataclasses import dataclass

from autoresearch_operator.api.run import ResearchRunSpec
from autoresearch_operator.api.tiers import Budget, Tier
from autoresearch_operator.manifests.settings import Resources, TrialSettings
from autoresearch_operator.research.trialspec import GIB, MIB, Limits

PROCESSES_PER_GPU = 64
JUDGE_MEMORY = 2 * GIB
"""The judge loads torch and the model whatever the candidate was given; the pod needs no more for it, because judge
and candidate do not run at the same time."""
_MEMORY_RESERVE = 512 * MIB
_STORAGE_RESERVE = 512 * MIB

PULL_SECONDS = 1800.0
"""5 GB of image over 100 Mbit/s take 7 minutes; four times that."""
JUDGE_SECONDS = 1800.0
"""The judge has limits of its own; this is for one that hangs."""


@dataclass(frozen=True)
class Shares:
    """Resources of one trial."""

    gate: Resources
    train: Resources
    judge: Resources
    limits: Limits
    """What the candidate is told it may use: a little less than `train` has, so that its launcher notices an excess
    and reports it before the kernel or the kubelet end the container."""
    threads: int
    work_bytes: int
    """Size of the candidate's own volume."""
    account_bytes: int
    """Size of the volume with the model that was handed over."""
    shared_memory_bytes: int
    """Size of /dev/shm; it counts as memory of `train`."""


def shares(spec: ResearchRunSpec, tier: Tier, settings: TrialSettings) -> Shares:
    """The request's word where there is one, else the installation's default."""
    asked = spec.trainer.resources
    default = settings.gpu_resources if tier.gpus else settings.cpu_resources
    gpus = max(1, tier.gpus)
    train = Resources(
        cpu=asked.cpu_cores or default.cpu * gpus,
        memory=asked.memory_bytes or default.memory * gpus,
        storage=asked.ephemeral_storage_bytes or default.storage,
    )
    limits = Limits(
        memory=max(64 * MIB, train.memory - min(_MEMORY_RESERVE, train.memory // 4)),
        disk=max(1 * MIB, train.storage - min(_STORAGE_RESERVE, train.storage // 8)),
        processes=PROCESSES_PER_GPU * gpus,
        artifact=max(1 * MIB, min(8 * GIB, train.storage // 2)),
    )
    gate = settings.gpu_gate if tier.gpus else settings.cpu_gate
    # The account holds the artifact and a page of JSON beside it; the rest of the gate's storage is its log and /tmp.
    account = limits.artifact + 16 * MIB
    return Shares(
        gate=Resources(gate.cpu, gate.memory, gate.storage + account),
        train=train,
        judge=Resources(train.cpu, max(train.memory, JUDGE_MEMORY), train.storage),
        limits=limits,
        threads=max(1, int(train.cpu) // gpus),
        work_bytes=train.storage,
        account_bytes=account,
        shared_memory_bytes=train.memory // 2,
    )


def backstop_seconds(spec: ResearchRunSpec, budget: Budget) -> int:
    """Seconds after which the kubelet ends a trial's pod, whatever happens in it; counted from its arrival on a node.

    The gate keeps the real time. This is the sum of all that a trial may take, with the trainer's own backstop for
    budgets that do not run by the wall: 4 wall seconds a CPU-second, 2 a step. Time in a queue does not count, which is
    why it stands in the pod and not in the Job.
    """
    match budget.kind:
        case "seconds":
            training = budget.amount + 1.0
        case "cpuSeconds":
            training = 30.0 + 4.0 * budget.amount
        case "steps":
            training = 30.0 + 2.0 * budget.amount
    return int(PULL_SECONDS + spec.trainer.startup_seconds + training + JUDGE_SECONDS)
