"""Carries out research runs with Jobs: the one entry from the work queue, and what becomes of every fault."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from autoresearch_operator.api.load import load_run
from autoresearch_operator.api.reasons import ConditionType, ReadyReason
from autoresearch_operator.api.run import ResearchRun, RunPhase
from autoresearch_operator.cluster import canaries, projection, runstatus, thinking
from autoresearch_operator.cluster.conditions import Wanted, changed, kept, merged
from autoresearch_operator.cluster.faults import Fault, fault_of
from autoresearch_operator.cluster.meters import Meters
from autoresearch_operator.cluster.options import Options
from autoresearch_operator.cluster.passing import Pass
from autoresearch_operator.cluster.repositories import NotReady, Repositories
from autoresearch_operator.cluster.seen import Cluster, Key, KubeError, Object, Seen
from autoresearch_operator.cluster.state import RunState
from autoresearch_operator.engine.asking import proposers_of
from autoresearch_operator.manifests.settings import TrialSettings

logger = logging.getLogger(__name__)

PUBLISH_LOOK = 0.5
"""Seconds between two looks at a push under way."""
_BAD_WHEN_FALSE = frozenset({ConditionType.READY, ConditionType.BRANCH_UPDATED, ConditionType.ISOLATED})


@dataclass(frozen=True, slots=True)
class _Stop:
    """A run that rests: why, and until when."""

    uid: str
    generation: int
    until: float


class Controller:
    """Reconciles runs; never two passes over one run at once, which is the queue's to see to."""

    def __init__(
        self,
        cluster: Cluster,
        repositories: Repositories,
        trials: TrialSettings,
        *,
        options: Options | None = None,
        clock: Callable[[], float] = time.time,
        meters: Meters | None = None,
    ) -> None:
        """`clock` gives seconds since the epoch."""
        self._cluster = cluster
        self._repositories = repositories
        self._trials = trials
        self._options = options or Options()
        self._clock = clock
        self.meters = meters or Meters()
        self._canaries = canaries.Canaries(cluster, trials)
        self._states: dict[Key, RunState] = {}
        self._stops: dict[Key, _Stop] = {}

    async def reconcile(self, key: Key, seen: Seen) -> float | None:
        """One pass. Seconds until the next is wanted without an event; None: only at the next event.

        Faults of the API server, of git and of the run become conditions and a delay. Anything else that is raised is
        a fault of this program; the run's state is dropped, so that the next call loads it anew.
        """
        body = seen.run
        if body is None:
            self._forget(key)
            self.meters.forget(key)
            self._stops.pop(key, None)
            await self._canaries.withdraw(key)
            await asyncio.to_thread(self._repositories.release, key)
            return None
        if body["metadata"].get("deletionTimestamp"):
            await self._canaries.withdraw(key)
            return None
        resting = self._resting(key, body)
        if resting is not None:
            return resting
        try:
            return await self._pass(key, body, seen)
        except BaseException as error:
            state = self._states.get(key)
            self._forget(key)
            fault = fault_of(error)
            if fault is None:
                raise
            return await self._tell(key, body, state, fault)

    async def close(self) -> None:
        """Waits for pushes under way, at most 5 s, and takes the canaries' pods away."""
        await asyncio.gather(self.pushed(), self._canaries.close())

    async def pushed(self) -> None:
        """Waits for pushes under way, at most 5 s."""
        tasks = [state.publishing for state in self._states.values() if state.publishing is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=5)

    def state(self, key: Key) -> RunState | None:
        """What is known of a run that is being carried out: to be read, on the event loop."""
        return self._states.get(key)

    def _forget(self, key: Key) -> None:
        """What is known of a run is dropped; a push under way ends by itself."""
        self._states.pop(key, None)

    def _resting(self, key: Key, body: Object) -> float | None:
        stop = self._stops.get(key)
        if stop is None:
            return None
        metadata = body["metadata"]
        same = (stop.uid, stop.generation) == (metadata.get("uid"), metadata.get("generation"))
        if same and self._clock() < stop.until:
            return stop.until - self._clock()
        del self._stops[key]
        return None

    # A pass --------------------------------------------------------------------------------------------------------

    async def _pass(self, key: Key, body: Object, seen: Seen) -> float | None:
        state = await self._state(key, body, seen)
        now, shown = self._clock(), _shown(seen)
        if state.shown == shown and (state.look_at is None or now < state.look_at):
            # Most events are echoes of our own writes.
            return None if state.look_at is None else state.look_at - now
        one = Pass(self._cluster, state, seen, self._trials, self._options, self.meters, now)
        await one.run()
        one.look_by(await self._ask_network(state, now))
        one.look_by(self._publish(state, now))
        one.look_by(await self._write_status(state, now))
        state.shown, state.look_at = shown, one.look_again_at
        if one.look_again_at is None:
            return None
        return max(0.0, one.look_again_at - self._clock())

    async def _state(self, key: Key, body: Object, seen: Seen) -> RunState:
        state = self._states.get(key)
        metadata = body["metadata"]
        generation = int(metadata.get("generation", 0))
        if state is not None and state.uid != metadata["uid"]:
            self._forget(key)
            state = None
        if state is None:
            run = self._checked(body)
            repository = await asyncio.to_thread(self._repositories.open, body, run.spec)
            state = await asyncio.to_thread(thinking.open_state, key, body, run, repository)
            found = projection.by_number(seen, state.uid)
            projection.notice(state, found)
            thinking.merge_statuses(state, found, [number for number in found if number < len(state.experiments)])
            if repository.notes:
                state.notes += [("Warning", "RepositoryRepaired", note) for note in repository.notes]
                repository.notes.clear()
            self._states[key] = state
            return state
        if generation != state.generation:
            run = self._checked(body)
            await asyncio.to_thread(state.repository.adopt, run.spec)
            state.run, state.generation, state.settled, state.shown = run, generation, False, 0
            state.maker = thinking.maker_of(run, state.repository, state.seed)
            # Another proposer may have ideas, another image may start, another quota may do.
            state.exhausted, state.refusal, state.mended = False, None, True
            state.evicted_at.clear()
            state.dirty.update(range(len(state.experiments)))
        state.body = body
        return state

    def _checked(self, body: Object) -> ResearchRun:
        """The run as its model has it.

        Raises:
            InvalidResource, NotReady: it cannot be carried out as it is.
        """
        run = parsed(body)
        if not (run.spec.trainer.image or self._trials.image):
            raise NotReady(
                ReadyReason.IMAGE_PULL,
                "spec.trainer.image is not set, and this operator was installed without a default: set either",
            )
        if not proposers_of(run.spec):
            raise NotReady(
                ReadyReason.INVALID_SPEC,
                "spec.proposers: this version proposes with the built-in search only: add {search: {}}",
            )
        return run

    async def _ask_network(self, state: RunState, now: float) -> float | None:
        """Finds out, step by step, whether a NetworkPolicy holds the run's trials; when to take the next step."""
        spec = state.run.spec
        if state.finished is not None or spec.suspend or not canaries.needed(spec, state.tier):
            await self._canaries.withdraw(state.key)
            return None
        state.network, again = await self._canaries.step(state.key, spec, state.tier, now)
        return again

    # Git server ----------------------------------------------------------------------------------------------------

    def _publish(self, state: RunState, now: float) -> float | None:
        """Lets a thread push, when there is something to push; when to look at it again."""
        task = state.publishing
        if task is not None:
            if not task.done():
                return now + PUBLISH_LOOK
            state.publishing, state.published = None, task.result()
            self.meters.published(state.key, state.published)
            pause = state.published.retry_after
            state.publish_at = None if pause is None else now + pause
            # What is saved after a success is offered at once, and the publisher knows the pace; a server that did not
            # take a push is left alone for as long as it said.
            state.publish_after = now if state.published.ok else now + (pause or 0.0)
        due = state.publish_after if state.publish_wanted else state.publish_at
        if due is not None and now >= due:
            state.publish_wanted = False
            state.publishing = asyncio.create_task(asyncio.to_thread(state.repository.publish, now))
            return now + PUBLISH_LOOK
        return due

    # Status --------------------------------------------------------------------------------------------------------

    async def _write_status(self, state: RunState, now: float) -> float | None:
        """Writes the run's status when something of importance changed, or when the last write is long enough ago."""
        previous: Mapping[str, Any] = state.status if state.status is not None else state.body.get("status") or {}
        desired = runstatus.status_of(state, previous, now)
        before = previous.get("conditions") or ()
        news = changed(before, desired["conditions"])
        patch = runstatus.patch_of(desired, previous)
        notes, state.notes = state.notes, []
        if patch:
            gone = {c.get("type") for c in before} - {c["type"] for c in desired["conditions"]}
            important = bool(news or gone or notes or previous.get("phase") != desired["phase"])
            due = state.status_at + self._options.status_interval
            if not important and now < due:
                return due
            await self._patch_run(state.key, patch)
            gone_fields = {name for name, value in patch.items() if value is None}
            state.status = {name: value for name, value in {**previous, **desired}.items() if name not in gone_fields}
            state.status_at = now
        for type_, reason, message in notes:
            await self._cluster.event(state.body, type_, reason, message)
        for condition in news:
            if condition["type"] == ConditionType.PROGRESSING and state.finished is not None:
                continue  # Complete or Failed says the same
            if condition["status"] == "Unknown":
                continue  # it is being found out, and the answer will be news
            await self._cluster.event(state.body, _event_type(condition), condition["reason"], condition["message"])
        return None

    async def _patch_run(self, key: Key, patch: Mapping[str, Any]) -> None:
        try:
            await self._cluster.patch_status("researchruns", key.namespace, key.name, patch)
        except KubeError as error:
            if error.status != 404:  # deleted a moment ago; the watch will tell
                raise

    async def _tell(self, key: Key, body: Object, state: RunState | None, fault: Fault) -> float | None:
        """Says in the run's status why it cannot go on, once, and gives the delay until the next attempt."""
        logger.warning("%s/%s: %s: %s", key.namespace, key.name, fault.reason or "later", fault.message)
        if fault.rests:
            metadata = body["metadata"]
            until = self._clock() + (fault.retry_after or 0.0)
            self._stops[key] = _Stop(str(metadata.get("uid")), int(metadata.get("generation", 0)), until)
        if fault.reason is None:
            return fault.retry_after
        await self._canaries.withdraw(key)
        previous: Mapping[str, Any] = (state.status if state is not None else None) or body.get("status") or {}
        generation = int(body["metadata"].get("generation", 0))
        before = previous.get("conditions") or ()
        wanted = [want for want in kept(before) if want.type is not ConditionType.READY]
        wanted.append(Wanted(ConditionType.READY, False, fault.reason, fault.message))
        conditions = merged(before, wanted, generation=generation, now=self._clock())
        status = {
            "phase": previous.get("phase") or str(RunPhase.PENDING),
            "reason": str(fault.reason),
            "conditions": conditions,
            "observedGeneration": generation,
        }
        patch = runstatus.patch_of({**previous, **status}, previous)
        if patch:
            try:
                await self._patch_run(key, patch)
            except KubeError as error:
                logger.warning("%s/%s: its status could not be written: %s", key.namespace, key.name, error)
            for condition in changed(before, conditions):
                await self._cluster.event(body, _event_type(condition), condition["reason"], condition["message"])
        return fault.retry_after


def parsed(body: Object) -> ResearchRun:
    """The run as its model has it.

    Raises:
        InvalidResource: it slipped past the schema, such as one that was stored before a rule was made.
    """
    metadata = body["metadata"]
    value = {
        "apiVersion": body.get("apiVersion"),
        "kind": body.get("kind"),
        "metadata": {"name": metadata["name"], "namespace": metadata["namespace"]},
        "spec": body.get("spec") or {},
    }
    return load_run(json.dumps(value), filename=str(metadata["name"]), local=False)


def _shown(seen: Seen) -> int:
    """A number that changes with what a pass looks at: a run's generation, and all of Jobs, pods and ConfigMaps; of
    Experiments only which there are, for nobody but us writes their status."""
    versions = [
        frozenset((name, item["metadata"].get("resourceVersion")) for name, item in items.items())
        for items in (seen.jobs, seen.pods)
    ]
    experiments = frozenset((name, item["metadata"].get("uid")) for name, item in seen.experiments.items())
    return hash((seen.config_maps, experiments, *versions))


def _event_type(condition: Mapping[str, Any]) -> str:
    bad = condition["type"] == ConditionType.FAILED or (
        condition["status"] != "True" and condition["type"] in _BAD_WHEN_FALSE
    )
    return "Warning" if bad else "Normal"
