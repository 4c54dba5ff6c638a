"""Makes a run's objects in the cluster: Experiments, ConfigMaps, Jobs. Names are fixed, so making twice is making once.

An object that exists is ours when it says the same thing. When it belongs to an owner that is gone, the garbage
collector is about to delete it, and we come back. When it says something else, another operator is at work on a run
of this name, and we stop.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from autoresearch_operator.cluster.fold import nodes_to_avoid
from autoresearch_operator.cluster.options import Options
from autoresearch_operator.cluster.seen import Cluster, KubeError, Object
from autoresearch_operator.cluster.state import Projected, Running, RunState, SourceMap
from autoresearch_operator.manifests import experiment, job, network, source
from autoresearch_operator.manifests.names import ANNOTATION_SOURCE, ANNOTATION_TRIAL, experiment_name
from autoresearch_operator.manifests.observe import NotATrial, running_record
from autoresearch_operator.manifests.settings import TrialSettings
from autoresearch_operator.research.records import ExperimentRecord, TrialStart

CONFLICT, FORBIDDEN, INVALID = 409, 403, 422


class NotOurs(Exception):
    """An object of this name says something else than ours: another operator works on this run."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}: another operator works on a run of this name, with a record of its own")


class NotYet(Exception):
    """An object of this name is being deleted; come back in a moment."""


def owner_uid(item: Object) -> str:
    """UID of the object that `item` is deleted with; empty when there is none."""
    owners = item["metadata"].get("ownerReferences") or ()
    return str(next((owner["uid"] for owner in owners if owner.get("controller")), ""))


def check_commit(item: Object, record: ExperimentRecord) -> None:
    """Raises NotOurs: an Experiment is of another commit than the record with its number."""
    commit = item["spec"].get("commit")
    if commit != record.commit:
        raise NotOurs(f"Experiment {item['metadata']['name']} has the commit {commit}, and ours has {record.commit}")


def says(actual: Any, desired: Any) -> bool:
    """Whether what the API server holds says all that it should; what it put in by default does not matter."""
    if isinstance(desired, Mapping):
        return isinstance(actual, Mapping) and all(
            key in actual and says(actual[key], value) for key, value in desired.items()
        )
    if isinstance(desired, list):
        return (
            isinstance(actual, list)
            and len(actual) == len(desired)
            and all(says(one, other) for one, other in zip(actual, desired, strict=True))
        )
    return bool(actual == desired)


class Objects:
    """Writes for one pass over one run."""

    def __init__(self, cluster: Cluster, state: RunState, settings: TrialSettings, options: Options) -> None:
        self._cluster = cluster
        self._state = state
        self._settings = settings
        self._room = asyncio.Semaphore(options.parallel_writes)
        self._locks: defaultdict[int, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def each(self, tasks: Iterable[Callable[[], Awaitable[None]]]) -> None:
        """Runs all, a few at once; every one gets its chance before the first failure is raised."""

        async def one(task: Callable[[], Awaitable[None]]) -> None:
            async with self._room:
                await task()

        results = await asyncio.gather(*(one(task) for task in tasks), return_exceptions=True)
        failures = [result for result in results if isinstance(result, BaseException)]
        # What stops the run comes before what is only late.
        for failure in sorted(failures, key=lambda failure: isinstance(failure, NotYet)):
            raise failure

    async def ensure_policy(self) -> None:
        """The NetworkPolicy over the run's pods."""
        if self._state.policy_made:
            return
        try:
            await self._cluster.create("networkpolicies", network.network_policy(self._state.body))
        except KubeError as error:
            if error.status != CONFLICT:
                raise
        self._state.policy_made = True

    async def ensure_experiment(self, number: int, now: float) -> Projected:
        """The Experiment of a recorded candidate."""
        async with self._locks[number]:
            known = self._state.objects.get(number)
            if known is not None:
                return known
            state, record = self._state, self._state.experiments[number]
            body = experiment.experiment(state.body, record, state.experiments)
            try:
                made = await self._cluster.create("experiments", body)
            except KubeError as error:
                if error.status != CONFLICT:
                    raise
                made = await self._existing("experiments", body)
                self._check_owner(made, state.uid)
                check_commit(made, record)
            projected = Projected(str(made["metadata"]["uid"]), record.commit, now, made.get("status"))
            state.objects[number] = projected
            return projected

    async def ensure_source(self, number: int, now: float) -> SourceMap:
        """The ConfigMap with a candidate's files. Needs its Experiment, which owns it."""
        owner = await self.ensure_experiment(number, now)
        async with self._locks[number]:
            known = self._state.config_maps.get(number)
            if known is not None and known.owner == owner.uid:
                return known
            state, record = self._state, self._state.experiments[number]
            name = experiment_name(state.name, number)
            parent = {"metadata": {"name": name, "uid": owner.uid}}
            body = await asyncio.to_thread(
                lambda: source.config_map(state.body, record, state.repository.sources.files(record), experiment=parent)
            )
            sha256 = body["metadata"]["annotations"][ANNOTATION_SOURCE]
            try:
                await self._cluster.create("configmaps", body)
            except KubeError as error:
                if error.status != CONFLICT:
                    raise
                found = await self._existing("configmaps", body)
                self._check_owner(found, owner.uid)
                if (found["metadata"].get("annotations") or {}).get(ANNOTATION_SOURCE) != sha256:
                    raise NotOurs(f"ConfigMap {name} holds other files than commit {record.commit[:12]}") from None
            state.config_maps[number] = SourceMap(owner.uid, sha256, now)
            return state.config_maps[number]

    async def start(self, start: TrialStart, now: float) -> None:
        """The Job of one trial, with all that it needs."""
        number = start.key.experiment
        files = await self.ensure_source(number, now)
        state, record = self._state, self._state.experiments[number]
        body = job.trial_job(
            state.body,
            state.run.spec,
            start,
            record,
            files.sha256,
            self._settings,
            pinned=state.hardware.get(start.tier),
            avoid_nodes=nodes_to_avoid(state, number, start.key.seed),
            now=now,
            run_seed=state.seed,
            experiment={"metadata": {"name": experiment_name(state.name, number), "uid": files.owner}},
        )
        try:
            made = await self._cluster.create("jobs", body)
        except KubeError as error:
            if error.status != CONFLICT:
                raise
            made = await self._existing("jobs", body)
            self._check_owner(made, files.owner)
            self._check_trial(made, body)
        state.running[start.key] = Running(running_record(made), body["metadata"]["name"], now)
        state.deleted_jobs.discard(body["metadata"]["name"])
        state.dirty.add(start.subject)

    async def delete_job(self, name: str) -> None:
        await self._cluster.delete("jobs", self._state.key.namespace, name)
        self._state.deleted_jobs.add(name)

    async def prune(self, number: int) -> None:
        """Deletes an Experiment that only git needs to remember; its ConfigMap goes with it."""
        name = experiment_name(self._state.name, number)
        await self._cluster.delete("experiments", self._state.key.namespace, name)
        self._state.objects.pop(number, None)
        self._state.config_maps.pop(number, None)

    async def write_status(self, number: int, status: Mapping[str, Any], now: float) -> None:
        """An Experiment's status."""
        projected = self._state.objects[number]
        previous = projected.status or {}
        patch = {name: value for name, value in status.items() if not says(previous.get(name), value)}
        if patch:
            name = experiment_name(self._state.name, number)
            await self._cluster.patch_status("experiments", self._state.key.namespace, name, patch)
        projected.status, projected.written_at = status, now

    async def _existing(self, kind: str, body: Object) -> Object:
        """The object that was in the way of a creation."""
        metadata = body["metadata"]
        found = await self._cluster.get(kind, metadata["namespace"], metadata["name"])
        if found is None or found["metadata"].get("deletionTimestamp"):
            raise NotYet(f"{metadata['name']} is being deleted")
        return found

    def _check_owner(self, found: Object, uid: str) -> None:
        if owner_uid(found) != uid:
            raise NotYet(f"{found['metadata']['name']} belongs to an owner that is gone")

    def _check_trial(self, found: Object, body: Object) -> None:
        name = body["metadata"]["name"]
        try:
            theirs = running_record(found)
        except NotATrial as error:
            raise NotOurs(str(error)) from None
        ours = running_record(body)
        same = (theirs.tier, theirs.purpose, theirs.subject) == (ours.tier, ours.purpose, ours.subject)
        source_of = [(item["metadata"].get("annotations") or {}).get(ANNOTATION_SOURCE) for item in (found, body)]
        if not same or source_of[0] != source_of[1]:
            raise NotOurs(f"Job {name} measures something else ({ANNOTATION_TRIAL} and {ANNOTATION_SOURCE} differ)")
