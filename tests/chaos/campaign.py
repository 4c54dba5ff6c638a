"""Runs `autoresearch run` as a process on a small campaign with the scripted trainer, and reads what it decided."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from autoresearch_operator.local.store import Store, StoreError

HERE = Path(__file__).parent

REQUEST = """\
apiVersion: autoresearch.dev/v1alpha1
kind: ResearchRun
metadata: {name: chaos}
spec:
  tiers:
  - {name: cpu, gpus: 0, budget: {steps: 5}, maxParallel: 2}
  limits: {experiments: EXPERIMENTS}
"""


Measured = dict[tuple[int, int], float | None]
"""(experiment, seed) to the score."""


@dataclass(frozen=True)
class Verdicts:
    """What must not depend on when the loop was killed."""

    branch: str
    verdicts: tuple[tuple[int, str, str], ...]
    measured: Measured = field(compare=False)
    """Compared by `Campaign.check`: on a slot that would idle a trial is run ahead of its turn, so which trials there
    are beside those that decide depends on how long each took."""


class Campaign:
    """One work folder and the command that works on it."""

    def __init__(self, folder: Path, *, experiments: int = 8, trial_seconds: float = 0.03) -> None:
        self.folder = folder
        self.workdir = folder / "run"
        self.request = folder / "request.yaml"
        folder.mkdir(parents=True, exist_ok=True)
        self.request.write_text(REQUEST.replace("EXPERIMENTS", str(experiments)))
        self.environment = {
            **os.environ,
            "AUTORESEARCH_TRAINER": shlex.join([sys.executable, str(HERE / "scripted_trainer.py")]),
            "SCRIPTED_DATA": str(folder / "data"),
            "SCRIPTED_TRIAL_SECONDS": str(trial_seconds),
        }

    def start(self, before: str = "") -> subprocess.Popen[bytes]:
        """Starts the command; `before` is Python that runs in its process first."""
        program = f"{before}\nfrom autoresearch_operator.cli import main\nmain()"
        command = [sys.executable, "-c", program, "run", str(self.request)]
        log = (self.folder / "log.txt").open("ab")
        return subprocess.Popen(
            [*command, "--workdir", str(self.workdir), "--plain"], env=self.environment, stdout=log, stderr=log
        )

    def finish(self, timeout: float = 240, before: str = "") -> int:
        """Runs to the end; the exit code."""
        return self.start(before).wait(timeout)

    def kill_after(self, seconds: float) -> bool:
        """Starts, kills with SIGKILL after `seconds`; False when it had ended by itself."""
        process = self.start()
        time.sleep(seconds)
        ended = process.poll() is not None
        if not ended:
            process.send_signal(signal.SIGKILL)
        process.wait()
        return not ended

    def kill_at_work(self, seconds: float) -> bool:
        """Kills `seconds` after it has written its first new record; False when it had ended by itself."""
        before, process = self._records(), self.start()
        while process.poll() is None and self._records() <= before:
            time.sleep(0.02)
        time.sleep(seconds)
        ended = process.poll() is not None
        process.kill()
        process.wait()
        return not ended

    def _records(self) -> int:
        return sum(1 for folder in ("experiments", "trials") for _ in (self.workdir / folder).rglob("*.json"))

    def log(self) -> str:
        return (self.folder / "log.txt").read_text(errors="replace")

    def check(self, undisturbed: Verdicts) -> Verdicts:
        """The same branch and verdicts, and each measurement once, with the score that it has undisturbed."""
        found = self.verdicts()
        assert found == undisturbed
        both = found.measured.keys() & undisturbed.measured.keys()
        assert both and {key: found.measured[key] for key in both} == {key: undisturbed.measured[key] for key in both}
        return found

    def verdicts(self) -> Verdicts:
        with Store.open(self.workdir, readonly=True) as store:
            loaded = store.load()
            finished = [trial for trial in loaded.trials if trial.finished]
            measured = {(trial.key.experiment, trial.key.seed): trial.val_bpb for trial in finished}
            assert len(measured) == len(finished), "a trial was counted twice"
            return Verdicts(
                branch=store.repository.resolve(store.run.branch_ref),
                verdicts=tuple((e.number, str(e.verdict), str(e.reason)) for e in loaded.experiments),
                measured=measured,
            )

    def measured(self) -> Measured:
        """What was measured so far, as another process reads it; empty before there is a run."""
        try:
            return self.verdicts().measured
        except StoreError:
            return {}
