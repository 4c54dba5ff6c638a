"""One pass over one run: observe, think, carry out. Killed anywhere, the next pass goes on from what is there."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from autoresearch_operator.api.reasons import ProgressingReason, ReadyReason
from autoresearch_operator.cluster import projection, readiness, thinking
from autoresearch_operator.cluster.fold import QUEUE_EVICTION, Folded, fold
from autoresearch_operator.cluster.meters import Meters
from autoresearch_operator.cluster.objects import NotYet, Objects
from autoresearch_operator.cluster.options import Options
from autoresearch_operator.cluster.pauses import out_of_patience, pause_until
from autoresearch_operator.cluster.seen import Cluster, KubeError, Object, Seen
from autoresearch_operator.cluster.state import Hindrance, Running, RunState
from autoresearch_operator.manifests import observe, outcomes
from autoresearch_operator.manifests.names import experiment_name, job_name
from autoresearch_operator.manifests.settings import TrialSettings
from autoresearch_operator.research.records import TrialKey, TrialPhase, TrialStart

REFUSED_FOR = 15.0
"""Seconds until a refused pod is tried again: a quota empties when a trial ends, and a person mends within minutes."""
MOVED_FOR = 30.0
"""Seconds until a landing that the branch had no place for is tried again."""
EVENTS_EVERY = 15.0
"""Seconds between two looks at a namespace's Events."""
EVENTS_COME = 2.0
"""Seconds after which an Event is there that was sent when a Job was suspended."""
CLOCK_LOOK = 10.0
"""Seconds between two plans of a run with a limit that passes by itself: time, GPU-hours, dollars."""
RUNNING_LOOK = 30.0
"""Seconds between two looks at running trials of which no watch tells: a clock decides about lost nodes."""


class Pass:
    """One pass. `look_again_at` is, at the end, when the next is wanted without an event; None: never."""

    def __init__(
        self,
        cluster: Cluster,
        state: RunState,
        seen: Seen,
        settings: TrialSettings,
        options: Options,
        meters: Meters,
        now: float,
    ) -> None:
        self._cluster = cluster
        self._state = state
        self._seen = seen
        self._settings = settings
        self._options = options
        self._meters = meters
        self._objects = Objects(cluster, state, settings, options)
        self._now = now
        self.look_again_at: float | None = None

    def look_by(self, when: float | None) -> None:
        if when is not None:
            self.look_again_at = when if self.look_again_at is None else min(self.look_again_at, when)

    async def run(self) -> None:
        """Raises LedgerMoved, StorageFull, GitError, KnobError, NotOurs, KubeError; the state may then be half made."""
        state = self._state
        state.tick(self._now)
        found = projection.by_number(self._seen, state.uid)
        projection.notice(state, found)
        folded = fold(state, self._seen, self._now, self._options)
        self._apply(folded)
        await self._count_evictions()
        await self._make_anew(folded)
        await self._look_for_missing(folded)
        await self._look_for_unseen(folded)
        await self._read_events(folded)
        await self._objects.ensure_policy()
        if not state.settled or (state.think_at is not None and self._now >= state.think_at):
            await self._work(found)
        self.look_by(state.think_at)
        if state.unsaved:
            await asyncio.to_thread(thinking.save, state)
        await self._project()
        await self._clean(folded)
        await self._end()
        self._plan_next_look(folded)

    # Observe -------------------------------------------------------------------------------------------------------

    def _apply(self, folded: Folded) -> None:
        state = self._state
        if folded.finished or folded.running.keys() != state.running.keys() or folded.hindrances != state.hindrances:
            state.settled = False
        state.places.update(folded.places)
        state.hardware = folded.hardware
        state.running = folded.running
        state.isolation = folded.isolation or state.isolation
        state.retry_at.update(folded.retry_at)
        state.hindrances = folded.hindrances
        state.deleted_jobs &= self._seen.jobs.keys()
        if folded.finished:
            self._meters.freed(state.key, len(folded.finished), state.slots)
            state.add_trials(folded.finished)
            state.unsaved = True
        self._note_evictions(folded)
        if state.diverged and self._now - state.diverged_at >= MOVED_FOR:
            state.diverged, state.settled = "", False
        for running in state.running.values():
            self._restore_source(running)

    def _note_evictions(self, folded: Folded) -> None:
        state = self._state
        for trial in folded.finished:
            if trial.phase is TrialPhase.SCORED:
                state.evicted_at.clear()
            elif trial.detail == QUEUE_EVICTION and trial.key in state.training:
                state.taken_back[job_name(state.name, trial.key)] = self._now
        state.training = folded.training

    async def _count_evictions(self) -> None:
        """Counts the trials whose queue ran out of patience: a pod that trains in an init container is not ready for
        it. Places are taken back for other reasons, too, such as preemption, and only Kueue's Events tell."""
        state = self._state
        ripe = [job for job, when in state.taken_back.items() if self._now - when >= EVENTS_COME]
        if ripe:
            events = await self._cluster.list("events", state.key.namespace)
            for job in ripe:
                del state.taken_back[job]
                if out_of_patience(job, events):
                    state.evicted_at.append(self._now)
        for when in state.taken_back.values():
            self.look_by(when + EVENTS_COME)

    async def _make_anew(self, folded: Folded) -> None:
        """After an edit of the request, deletes the Jobs that could not begin with the old one: they come back with the
        new one, under the same names."""
        state = self._state
        if not state.mended:
            return
        state.mended = False
        for key in folded.faulty:
            await self._objects.delete_job(folded.jobs.pop(key))
            state.running.pop(key)
        if folded.faulty:
            state.hindrances = [one for one in state.hindrances if not one.stops]
            self.look_by(self._now + 1.0)

    def _restore_source(self, running: Running) -> None:
        """Forgets a ConfigMap that somebody deleted, so that it is made again: the kubelet tries to mount it again."""
        number = running.record.key.experiment
        known = self._state.config_maps.get(number)
        name = experiment_name(self._state.name, number)
        if known is not None and name not in self._seen.config_maps:
            if self._now - known.known_at >= self._options.lost_job_after:
                del self._state.config_maps[number]
            else:
                self.look_by(known.known_at + self._options.lost_job_after)

    async def _look_for_missing(self, folded: Folded) -> None:
        """Asks for Jobs that we made and that no watch has shown: the watch is late, or the Job is gone."""
        for running in folded.missing:
            job = await self._cluster.get("jobs", self._state.key.namespace, running.job)
            if job is not None:
                running.created_at = self._now
                continue
            gone = observe.outcome(None, None, self._now)
            if isinstance(gone, outcomes.Lost):
                running.seen = True  # the next fold takes it for deleted, which it is
                self.look_by(self._now)

    async def _look_for_unseen(self, folded: Folded) -> None:
        """Asks for Experiments that we made and that no watch has shown: one that is gone takes its Jobs with it."""
        state, deleted = self._state, any(trial.detail == "JobDeleted" for trial in folded.finished)
        for number, known in [each for each in state.objects.items() if not each[1].seen]:
            ripe = known.looked_at + self._options.lost_job_after
            if not deleted and self._now < ripe:
                self.look_by(ripe)
                continue
            item = await self._cluster.get("experiments", state.key.namespace, experiment_name(state.name, number))
            if item is not None and item["metadata"].get("uid") == known.uid:
                known.looked_at = self._now
                self.look_by(self._now + self._options.lost_job_after)
            else:
                projection.forget(state, number)

    async def _read_events(self, folded: Folded) -> None:
        """Asks why Jobs have no pods: only their Events tell that the Job controller was refused."""
        state = self._state
        if not folded.silent:
            if state.refusal is not None and self._now - state.refused_at >= REFUSED_FOR:
                state.refusal, state.settled = None, False
            return
        if self._now - state.events_read_at >= EVENTS_EVERY:
            state.events_read_at = self._now
            uids = {str(job["metadata"].get("uid")) for job in folded.silent}
            events = await self._cluster.list("events", state.key.namespace)
            mine = [_as_core(event) for event in events if _about(event) in uids]
            self._refuse(observe.events_fault(mine, self._now))
        self.look_by(state.events_read_at + EVENTS_EVERY)

    def _refuse(self, fault: outcomes.RunFault | outcomes.Waiting | None) -> bool:
        """Notes what the API server's refusal means; False when it means nothing to a run."""
        state = self._state
        if fault is None:
            return False
        state.refused_at = self._now
        if isinstance(fault, outcomes.Waiting) and any(each.seen for each in state.running.values()):
            # Others run: the quota is just smaller than maxParallel.
            state.refusal = Hindrance(ProgressingReason.NO_CAPACITY, fault.message)
        else:
            state.refusal = Hindrance(ReadyReason.PODS_FORBIDDEN, fault.message)
        return True

    # Think and carry out -------------------------------------------------------------------------------------------

    async def _work(self, found: Mapping[int, Object]) -> None:
        """Verdicts, trials and a few candidates.

        Free slots come before new candidates: proposing takes time, and a GPU should not wait for it. So a pass makes a
        few, and the next one looks first whether a trial has ended meanwhile. Once the plan wants nothing that can be
        done now it is settled: until a trial ends or a time comes, another look would find the same.
        """
        state, before = self._state, self.look_again_at
        self.look_again_at = None
        state.settled = await self._is_settled(found)
        state.think_at = self.look_again_at
        limits = state.run.spec.limits
        if limits.gpu_hours is not None or limits.dollars is not None or limits.duration is not None:
            by = self._now + CLOCK_LOOK
            state.think_at = by if state.think_at is None else min(by, state.think_at)
        self.look_by(before)

    async def _is_settled(self, found: Mapping[int, Object]) -> bool:
        state = self._state
        made = 0
        while True:
            state.plan = await asyncio.to_thread(thinking.think, state, self._now)
            await self._start()
            wanted = state.plan.candidates[: self._options.candidates_at_once]
            if not wanted:
                return True
            if made:
                self.look_by(self._now)
                return False
            dry = state.exhausted
            made = await asyncio.to_thread(thinking.make_candidates, state, wanted, found)
            projection.notice(state, found)
            if made == 0 and dry:
                return True

    async def _start(self) -> None:
        state = self._state
        if state.refusal is not None and self._now - state.refused_at < REFUSED_FOR:
            self.look_by(state.refused_at + REFUSED_FOR)
            return
        if any(one.stops for one in state.hindrances):
            return
        pause = pause_until(state)
        if pause is not None and self._now < pause:
            self.look_by(pause)
            return
        due: list[TrialStart] = []
        for start in state.plan.starts:
            when = state.retry_at.get((start.key.experiment, start.key.seed), 0.0)
            if when <= self._now:
                due.append(start)
            else:
                self.look_by(when)
        if not due:
            return
        await asyncio.to_thread(thinking.check_current, state)
        missing = await readiness.check(self._cluster, state, due[0], self._settings, self._options, self._now)
        if missing is not None:
            self.look_by(missing)
            return
        try:
            await self._objects.each([self._starting(start) for start in due])
        except NotYet:
            self.look_by(self._now + 1.0)
        except KubeError as error:
            if not self._refuse(observe.creation_fault(error.status, error.message, self._now)):
                raise
            self.look_by(self._now + REFUSED_FOR)

    def _starting(self, start: TrialStart) -> Any:
        async def begin() -> None:
            await self._objects.start(start, self._now)
            self._meters.filled(self._state.key)

        return begin

    async def _project(self) -> None:
        state = self._state
        for running in list(state.running.values()):
            number = running.record.key.experiment
            if number in state.objects and number not in state.config_maps:
                await self._quietly(self._objects.ensure_source(number, self._now))
        wanted = projection.project(state, self._now, self._options)
        await self._quietly(projection.carry_out(wanted, state, self._objects, self._now))
        self.look_by(wanted.look_again_at)
        if wanted.create:
            # Their statuses can be written now that they exist.
            again = projection.project(state, self._now, self._options)
            again.create = []
            await self._quietly(projection.carry_out(again, state, self._objects, self._now))
            self.look_by(again.look_again_at)

    async def _quietly(self, work: Any) -> None:
        try:
            await work
        except NotYet:
            self.look_by(self._now + 1.0)

    async def _clean(self, folded: Folded) -> None:
        """Deletes Jobs whose results are in the ledger and in an Experiment's status."""
        over = [name for key, name in folded.jobs.items() if self._is_over(key)]
        await self._objects.each([self._deleting(name) for name in over])

    def _is_over(self, key: TrialKey) -> bool:
        state, trial = self._state, self._state.trials.get(key)
        if trial is None:
            return False
        # A Job whose trial was lost may come back to life, in a queue or on a node that returns, beside the next
        # attempt; and it has no score that a second copy would have to keep.
        pruned = trial.subject not in state.objects and trial.subject not in state.dirty
        return key in state.recorded or trial.phase is TrialPhase.LOST or pruned

    def _deleting(self, name: str) -> Any:
        async def delete() -> None:
            await self._objects.delete_job(name)

        return delete

    async def _end(self) -> None:
        """Notes the run's end in the ledger once nothing runs, or that it goes on after its limits were raised."""
        state, plan = self._state, self._state.plan
        why = f"{plan.complete or plan.failed}: {plan.message}" if plan.finished and not state.running else None
        if why != state.finished:
            await asyncio.to_thread(thinking.set_finished, state, why)
        if state.finished is not None or state.run.spec.suspend:
            self._meters.at_rest(state.key)

    def _plan_next_look(self, folded: Folded) -> None:
        state = self._state
        self.look_by(folded.look_again_at)
        if state.running:
            self.look_by(self._now + RUNNING_LOOK)
        if state.diverged:
            self.look_by(state.diverged_at + MOVED_FOR)


def _about(event: Object) -> str:
    regarding = event.get("regarding") or event.get("involvedObject") or {}
    return str(regarding.get("uid", ""))


def _as_core(event: Object) -> dict[str, Any]:
    """An Event of events.k8s.io with the names that core/v1 has for the same things."""
    return {
        **event,
        "message": event.get("note", event.get("message", "")),
        "lastTimestamp": event.get("deprecatedLastTimestamp") or event.get("lastTimestamp"),
    }
