"""Between a plan and the trainer: what a trial is told, and what its answer means."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoresearch_operator.api.run import ResearchRunSpec
from autoresearch_operator.local.machine import Slot
from autoresearch_operator.research.records import TrialStart
from autoresearch_operator.research.trialspec import GIB, Limits, shared_fields, wire_name

__all__ = ["GIB", "Limits", "lost_result", "trial_spec", "wire_name"]


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
    """What the trainer is told (TrialSpec, version 1), with the folders of this machine."""
    return {
        **shared_fields(spec, start, run_seed=run_seed, device=slot.device, threads=slot.threads, limits=limits),
        "sourceDir": str(source),
        "workDir": str(workdir),
        "script": spec.trainer.script,
        "dataDir": str(data),
        "cpus": list(slot.cpus) or None,
    }


def lost_result(message: str) -> Mapping[str, Any]:
    """The result of a trial whose process vanished: measured again, never held against the idea."""
    return {"version": 1, "outcome": "Lost", "reason": None, "detail": "TrainerDied", "message": message[:400]}
