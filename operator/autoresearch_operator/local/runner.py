"""The loop on one machine: observe, `plan`, carry out. Every decision is `plan`'s; this file only does what it says.

A pass is level-triggered. Whatever was written before a crash is observed by the next start, and what was not is
planned again, so there is no state here that must survive.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

from autoresearch_operator.api.reasons import Verdict
from autoresearch_operator.api.run import ResearchRun
from autoresearch_operator.engine.candidates import CandidateMaker
from autoresearch_operator.engine.decisions import decided as decided_record
from autoresearch_operator.engine.sources import Sources
from autoresearch_operator.gateways.errors import Result
from autoresearch_operator.local.machine import Slot
from autoresearch_operator.local.store import Store
from autoresearch_operator.local.trainer_process import TrainerError, TrainerProcess
from autoresearch_operator.local.trials import Limits, lost_result, trial_spec, wire_name
from autoresearch_operator.local.view import RunView
from autoresearch_operator.research.plan import plan
from autoresearch_operator.research.records import (
    CandidateWanted,
    ExperimentRecord,
    Observed,
    Plan,
    TrialPhase,
    TrialRecord,
    TrialStart,
)


class Stop(IntEnum):
    """How urgently a person wants the loop to end. Either way the run can be resumed."""

    NO = 0
    AFTER_TRIALS = 1
    """Start nothing more; let running trials finish."""
    NOW = 2
    """End running trials; they are measured again after a resume."""


@dataclass
class Running:
    """A trial that is under way."""

    start: TrialStart
    slot: Slot
    record: TrialRecord


@dataclass(frozen=True)
class Outcome:
    """How a call of `Runner.run` ended."""

    plan: Plan
    stopped: bool
    """A person stopped it before it was finished."""


class Runner:
    """Carries out one run until it is finished or stopped.

    `start_trainer` is called when a trainer is needed and again, at most `restarts` times in a row, when it died.
    """

    def __init__(
        self,
        run: ResearchRun,
        store: Store,
        sources: Sources,
        maker: CandidateMaker,
        view: RunView,
        slots: tuple[Slot, ...],
        *,
        seed: int,
        data: Path,
        limits: Limits,
        start_trainer: Callable[[], TrainerProcess],
        restarts: int,
        stop_timeout: float,
    ) -> None:
        self._run = run
        self._store = store
        self._sources = sources
        self._maker = maker
        self._view = view
        self._slots = slots
        self._seed = seed
        self._data = data
        self._limits = limits
        self._start_trainer = start_trainer
        self._restarts_left = self._restarts = restarts
        self._stop_timeout = stop_timeout
        self._free = list(slots)
        self._running: dict[str, Running] = {}
        self._experiments: list[ExperimentRecord] = []
        self._trials: list[TrialRecord] = []
        self._exhausted = False
        self._stop = Stop.NO
        self._trainer: TrainerProcess | None = None
        self._resumed_at = time.monotonic()
        self._active_before = 0.0
        self._passes: list[float] = []
        self._results_waiting = False

    def request_stop(self) -> Stop:
        """Asked by a person; a second call is more urgent. Safe to call from a signal handler."""
        self._stop = Stop(min(self._stop + 1, Stop.NOW))
        return self._stop

    def run(self) -> Outcome:
        """Runs until the plan is finished or a stop is carried out.

        Raises:
            TrainerError: the trainer kept dying.
            StorageFull: a record could not be written; everything before it is safe.
        """
        loaded = self._store.load()
        self._experiments = list(loaded.experiments)
        self._trials = list(loaded.trials)
        self._active_before = self._store.active_seconds()
        self._resumed_at = time.monotonic()
        current = Plan()
        try:
            while True:
                current = self._pass()
                if current.finished and not self._running:
                    why = current.complete or current.failed
                    self._store.finish(f"{why}: {current.message}", self._experiments, self._trials)
                    self._tell(self._store.publish())
                    return Outcome(current, stopped=False)
                if self._stop is Stop.NOW or (self._stop and not self._running):
                    self._tell(self._store.publish())
                    return Outcome(current, stopped=True)
                self._wait()
        finally:
            self._store.save_active_seconds(self._active())
            self._store.save_state(loop=self._loop_figures())
            if self._trainer is not None:
                self._trainer.close(0.5 if self._stop is Stop.NOW else self._stop_timeout)

    # One pass ------------------------------------------------------------------------------------------------------

    def _pass(self) -> Plan:
        began = time.perf_counter()
        current = self._carry_out()
        if self._results_waiting:
            self._results_waiting = False
            self._passes.append(1e3 * (time.perf_counter() - began))
        return current

    def _loop_figures(self) -> dict[str, float]:
        """What the loop cost beside training: milliseconds from a result to its decision in git and the next start."""
        if not self._passes:
            return {}
        ordered = sorted(self._passes)

        def share(part: float) -> float:
            return round(ordered[min(len(ordered) - 1, int(part * len(ordered)))], 1)

        return {"passes": len(ordered), "p50": share(0.5), "p99": share(0.99), "max": share(1.0)}

    def _carry_out(self) -> Plan:
        while True:
            current = plan(self._run.spec, self._observed(), time.time())
            if current.decisions:
                self._decide(current)
            elif current.candidates and not self._stop:
                self._create(current.candidates)
            else:
                break
        if not self._stop:
            for start in current.starts:
                if not self._free:
                    break
                self._launch(start)
        self._view.update(current.standing, len(self._running))
        return current

    def _observed(self) -> Observed:
        now = time.time()
        return Observed(
            experiments=self._experiments,
            trials=[*self._trials, *(running.record for running in self._running.values())],
            started_at=now - self._active(),
            seed=self._seed,
            exhausted=self._exhausted,
            suspended=self._run.spec.suspend,
            slots=len(self._slots),
        )

    def _active(self) -> float:
        """Seconds this run has been at work, over all its starts: a night switched off does not count."""
        return self._active_before + time.monotonic() - self._resumed_at

    def _decide(self, current: Plan) -> None:
        landing = any(decision.verdict is Verdict.ACCEPTED and decision.number > 0 for decision in current.decisions)
        if landing:
            self._tell(self._store.follow())
        name = f"{self._store.run.namespace}/{self._store.run.name}"
        decided = [
            decided_record(decision, self._experiments, self._trials, self._sources, name)
            for decision in current.decisions
        ]
        experiments = list(self._experiments)
        for record in decided:
            experiments[record.number] = record
        decided = self._store.save_decisions(decided, experiments, self._trials)
        for decision, record in zip(current.decisions, decided, strict=True):
            self._experiments[record.number] = record
            self._view.decided(record, decision, current.standing)
            if record.number > 0 and record.landed_commit is not None:
                self._view.landed(record, record.landed_commit)
        if landing:
            self._tell(self._store.publish())

    def _tell(self, result: Result) -> None:
        """A server that does not take what it should is worth a note; the run's own repository is the record."""
        if not result.ok:
            self._view.note(result.message)

    def _create(self, wanted: tuple[CandidateWanted, ...]) -> None:
        created: list[ExperimentRecord] = []
        for candidate in wanted:
            record = self._maker.make(candidate, self._experiments)
            if record is None:
                self._exhausted = True
                break
            self._experiments.append(record)
            created.append(record)
        if created:
            self._store.save_candidates(created, self._experiments, self._trials)

    def _launch(self, start: TrialStart) -> None:
        trainer = self._ensure_trainer()
        record = self._experiments[start.key.experiment]
        slot = self._free.pop(0)
        folder = self._store.trial_folder(start)
        source = self._sources.lay_out(record, self._store.source_folder(record.number))
        message = trial_spec(
            self._run.spec,
            start,
            slot,
            run_seed=self._seed,
            source=source,
            workdir=folder,
            data=self._data,
            limits=self._limits,
        )
        trial = TrialRecord(
            key=start.key,
            tier=start.tier,
            purpose=start.purpose,
            subject=start.subject,
            phase=TrialPhase.RUNNING,
            started_at=time.time(),
            slot=slot.index,
        )
        self._store.save_trial_start(trial, message)
        self._running[wire_name(start.key, start.tier)] = Running(start, slot, trial)
        trainer.run(message)
        self._view.trial_started(slot, start, record)

    # Events --------------------------------------------------------------------------------------------------------

    def _ensure_trainer(self) -> TrainerProcess:
        if self._trainer is None:
            self._trainer = self._start_trainer()
        return self._trainer

    def _wait(self) -> None:
        """Waits for an event, at most a second (limits on duration are seen then), and takes all that are there."""
        events = self._ensure_trainer().events
        try:
            self._handle(events.get(timeout=1.0))
            while True:
                self._handle(events.get_nowait())
        except queue.Empty:
            return

    def _handle(self, event: dict[str, Any]) -> None:
        kind = event["event"]
        if kind == "died":
            self._trainer_died(str(event.get("message", "")))
            return
        running = self._running.get(str(event.get("name", "")))
        if running is None:
            return
        if kind == "progress":
            self._view.trial_progress(running.slot, event)
        elif kind == "result":
            self._restarts_left = self._restarts
            self._finish(running, event["result"])

    def _finish(self, running: Running, result: dict[str, Any]) -> None:
        self._results_waiting = True
        finished = self._store.finish_trial(running.record, result, finished_at=time.time())
        self._trials.append(finished)
        del self._running[wire_name(running.start.key, running.start.tier)]
        self._free.append(running.slot)
        self._free.sort(key=lambda slot: slot.index)
        self._view.trial_finished(running.slot, finished)

    def _trainer_died(self, message: str) -> None:
        self._trainer = None
        self._restarts_left -= 1
        for running in list(self._running.values()):
            self._finish(running, dict(lost_result(message)))
        if self._restarts_left < 0:
            raise TrainerError(f"the trainer died {self._restarts + 1} times in a row: {message}")
        self._view.note(f"{message}; starting it again, its trials are measured again")
