"""What a trial is told, in the words that local mode and the cluster share (TrialSpec, version 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from autoresearch_operator.api.run import ResearchRunSpec
from autoresearch_operator.api.tiers import Tier
from autoresearch_operator.research.names import random_seed, trial_name
from autoresearch_operator.research.records import TrialKey, TrialStart

VERSION = 1
MIB = 1 << 20
GIB = 1 << 30

EVAL_TOKENS = {"cpu": {"val": 1 << 14, "test": 1 << 14}, "cuda": {"val": 1 << 20, "test": 1 << 22}}
"""Tokens that are scored. Every run of a tier is scored on the same ones, so their number adds no noise to a
comparison; on a CPU, scoring 16,384 costs a tenth of the quickstart's training. On a GPU the hidden split gets more."""


@dataclass(frozen=True)
class Limits:
    """What one trial may use of the machine it runs on."""

    memory: int
    """Bytes of host memory of the candidate's whole process tree."""
    disk: int = 10 * GIB
    """Bytes the candidate may write."""
    processes: int = 64
    """Processes at once: a training script with data workers needs a dozen."""
    stdout: int = 1 << 20
    """Bytes of output that are kept: head and tail."""
    artifact: int = 8 * GIB
    """Bytes of the model handed over."""

    def as_spec(self) -> dict[str, int]:
        return {
            "memoryBytes": self.memory,
            "diskBytes": self.disk,
            "processes": self.processes,
            "stdoutBytes": self.stdout,
            "artifactBytes": self.artifact,
        }


def wire_name(key: TrialKey, tier: str) -> str:
    """The name a trial has in the conversation with the trainer: unique within a run."""
    return f"{trial_name(tier, key)}@{key.experiment}"


def tier_of(spec: ResearchRunSpec, name: str) -> Tier:
    """The tier of that name.

    Raises:
        KeyError: the run has no such tier; tiers are append-only, so this is a fault of the caller.
    """
    for tier in spec.tiers:
        if tier.name == name:
            return tier
    raise KeyError(f"the run has no tier {name!r}")


def shared_fields(
    spec: ResearchRunSpec, start: TrialStart, *, run_seed: int, device: str, threads: int, limits: Limits
) -> dict[str, Any]:
    """The fields that are the same wherever the trial runs. `device` is `cpu`, `cuda` or `cuda:N`."""
    budget = tier_of(spec, start.tier).budget
    return {
        "version": VERSION,
        "name": wire_name(start.key, start.tier),
        "evaluation": str(spec.trainer.evaluation),
        "split": start.split,
        "budget": {budget.kind: int(budget.amount) if budget.kind == "steps" else budget.amount},
        "startupSeconds": spec.trainer.startup_seconds,
        "seed": random_seed(run_seed, start.key.seed),
        "auditPairs": start.audit_pairs,
        "evalTokens": EVAL_TOKENS[device.split(":", maxsplit=1)[0]][start.split],
        "device": device,
        "threads": threads,
        "limits": limits.as_spec(),
        "env": {variable.name: variable.value for variable in spec.trainer.env},
    }
