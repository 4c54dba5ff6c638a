"""Between a plan and the trainer: what a trial is told, and what its answer means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoresearch_operator.api.run import ResearchRunSpec
from autoresearch_operator.local.machine import Slot
from autoresearch_operator.research.names import random_seed, trial_name
from autoresearch_operator.research.records import TrialKey, TrialStart

GIB = 1 << 30

EVAL_TOKENS = {"cpu": {"val": 1 << 14, "test": 1 << 15}, "cuda": {"val": 1 << 20, "test": 1 << 22}}
"""Tokens that are scored. Every run of a tier is scored on the same ones, so their number adds no noise to a
comparison; on a CPU, scoring 16,384 costs a tenth of the quickstart's training. The hidden split gets more."""


@dataclass(frozen=True)
class Limits:
    """What one trial may use on this machine."""

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


def trial_spec(
    spec: ResearchRunSpec,
    start: TrialStart,
    slot: Slot,
    *,
    run_seed: int,
    source: Path,
    workdir: Path,
    data: Path,
    limits: Limits,
) -> dict[str, Any]:
    """What the trainer is told (TrialSpec, version 1)."""
    budget = spec.tiers[0].budget
    return {
        "version": 1,
        "name": wire_name(start.key, start.tier),
        "sourceDir": str(source),
        "workDir": str(workdir),
        "script": spec.trainer.script,
        "evaluation": str(spec.trainer.evaluation),
        "dataDir": str(data),
        "split": start.split,
        "budget": {budget.kind: int(budget.amount) if budget.kind == "steps" else budget.amount},
        "startupSeconds": spec.trainer.startup_seconds,
        "seed": random_seed(run_seed, start.key.seed),
        "auditPairs": start.audit_pairs,
        "evalTokens": EVAL_TOKENS[slot.device.split(":")[0]][start.split],
        "device": slot.device,
        "cpus": list(slot.cpus) or None,
        "threads": slot.threads,
        "limits": limits.as_spec(),
        "env": {variable.name: variable.value for variable in spec.trainer.env},
    }


def lost_result(message: str) -> Mapping[str, Any]:
    """The result of a trial whose process vanished: measured again, never held against the idea."""
    return {"version": 1, "outcome": "Lost", "reason": None, "detail": "TrainerDied", "message": message[:400]}
