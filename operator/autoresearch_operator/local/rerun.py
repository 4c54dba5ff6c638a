"""Measures a recorded trial again, outside the record: the way to check any number in a report."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoresearch_operator.local.session import Session, SessionError
from autoresearch_operator.local.trainer_process import TrainerProcess
from autoresearch_operator.research.records import TrialPhase
from autoresearch_operator.settings import Settings


@dataclass(frozen=True)
class Again:
    """A trial measured again."""

    recorded: float | None
    measured: float | None
    result: dict[str, Any]
    sentence: str


def measure_again(session: Session, number: int, seed: int | None, settings: Settings) -> Again:
    """Runs the trial of experiment `number` with trial seed `seed` (default: its first scored one) once more.

    Raises:
        SessionError: there is no such trial.
    """
    loaded = session.store.load()
    own = [trial for trial in loaded.trials if trial.key.experiment == number and trial.finished]
    chosen = [trial for trial in own if (seed is None or trial.key.seed == seed)]
    scored = [trial for trial in chosen if trial.phase is TrialPhase.SCORED] or chosen
    if not scored:
        seeds = ", ".join(str(trial.key.seed) for trial in own) or "none"
        raise SessionError(f"experiment {number} has no finished trial of that seed; it has: {seeds}")
    trial = scored[0]
    spec = session.store.trial_spec(trial.key, trial.tier)
    if spec is None:
        raise SessionError(f"what trial {trial.key.seed} of experiment {number} was told is not on record any more")
    with tempfile.TemporaryDirectory(prefix="autoresearch-rerun-") as folder:
        source = session.sources.lay_out(loaded.experiments[number], Path(folder) / "source")
        workdir = Path(folder) / "trial"
        workdir.mkdir()
        result = _measure({**spec, "sourceDir": str(source), "workDir": str(workdir)}, Path(folder), settings)
    measured = result.get("valBPB")
    if measured is None:
        sentence = f"it gave no score: {result.get('reason') or result.get('outcome')}: {result.get('message')}"
    elif trial.val_bpb is None:
        sentence = f"measured {measured:.6f} bpb; the record has no score for it"
    else:
        difference = measured - trial.val_bpb
        same = "the same to the bit" if difference == 0 else f"a difference of {difference:+.6f}"
        sentence = f"measured {measured:.6f} bpb, recorded {trial.val_bpb:.6f}: {same}"
    return Again(trial.val_bpb, measured, result, sentence)


def _measure(spec: dict[str, Any], folder: Path, settings: Settings) -> dict[str, Any]:
    trainer = TrainerProcess(settings.trainer, folder / "trainer.log")
    try:
        trainer.wait_ready(settings.ready_timeout)
        trainer.run(spec)
        while True:
            event = trainer.events.get()
            if event["event"] == "died":
                raise SessionError(str(event.get("message")))
            if event["event"] == "result":
                return dict(event["result"])
    finally:
        trainer.close(settings.stop_timeout)
