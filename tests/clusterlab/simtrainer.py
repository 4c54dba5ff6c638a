"""A simulated trainer: ends the trial pods that the operator makes, as a function given by the test says.

    def behaviour(pod: TrialPod) -> Ending:
        return Ending.success(pod.scored(val_bpb=1.2), seconds=0.3)

    with SimTrainer(cluster, behaviour):
        ...

It sees pods by one watch and writes their last status itself (the kubelet's part). It reads no Jobs and no ledger.
"""

from __future__ import annotations

import heapq
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http import HTTPStatus
from itertools import count
from types import TracebackType
from typing import Self

from clusterlab import endings
from clusterlab.api import STRATEGIC_PATCH, ApiError, Object
from clusterlab.cluster import Cluster
from clusterlab.endings import Ending, Kind
from clusterlab.trialpod import TrialPod, landscape

__all__ = ["Ended", "Ending", "Kind", "SimTrainer", "TrialPod", "landscape"]

TRIALS = "autoresearch.dev/run"


@dataclass(frozen=True)
class Ended:
    """One end that the API server has taken."""

    pod: TrialPod
    ending: Ending
    at: float
    """time.time() after the write."""


@dataclass(order=True)
class _Due:
    at: float
    order: int
    pod: TrialPod = field(compare=False)
    ending: Ending = field(compare=False)
    judging: bool = field(compare=False, default=False)
    """Whether what is due is the judge's start instead of the end."""


class SimTrainer:
    """Ends trial pods; `behaviour` is called once a pod, from a thread of this object, when its first container runs.

    behaviour: what the pod comes to; default: its annotations, else the score of `landscape`.
    namespace: only pods there; None is all namespaces.
    labels: only pods with these labels; default: every pod of a run.
    writers: status writes at the same time.
    """

    def __init__(
        self,
        cluster: Cluster,
        behaviour: Callable[[TrialPod], Ending] | None = None,
        *,
        namespace: str | None = None,
        labels: str = TRIALS,
        writers: int = 8,
    ) -> None:
        self._cluster = cluster
        self._api = cluster.api
        self._behaviour = behaviour or landscape
        self._path = f"/api/v1/namespaces/{namespace}/pods" if namespace else "/api/v1/pods"
        self._labels = labels
        self._writers = writers
        self.ended: list[Ended] = []
        """In the order of their writes."""
        self.errors: list[BaseException] = []
        """What `behaviour` raised, or a write that was refused; `stop()` raises the first."""
        self._known: set[str] = set()
        self._latest: dict[str, Object] = {}
        self._due: queue.Queue[_Due | None] = queue.Queue()
        self._order = count()
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Begins to watch; pods that run already are taken up."""
        self._threads = [
            threading.Thread(target=self._watch, name="sim-trainer-watch", daemon=True),
            threading.Thread(target=self._end, name="sim-trainer-end", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Leaves the pods as they are. Raises the first error there was."""
        self._stopping.set()
        self._due.put(None)
        # The watching thread ends when the server closes its watch; nothing it sees is acted on any more.
        for thread in self._threads[1:]:
            thread.join(timeout=30)
        if self.errors:
            raise self.errors[0]

    def wait_for(self, number: int, timeout_seconds: float = 60.0) -> list[Ended]:
        """The first `number` ends. Raises TimeoutError."""
        self._api.wait(
            lambda: self.errors or len(self.ended) >= number,
            f"{number} trial pods ended, {len(self.ended)} are",
            timeout_seconds=timeout_seconds,
        )
        if self.errors:
            raise self.errors[0]
        return self.ended[:number]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    # -- Seeing --

    def _watch(self) -> None:
        try:
            self._watch_on()
        except Exception as error:  # a thread would keep it to itself, and the pods would run for ever
            self.errors.append(error)

    def _watch_on(self) -> None:
        while not self._stopping.is_set():
            try:
                listed = self._api.request("GET", self._path, query={"labelSelector": self._labels})
                for pod in listed.get("items", []):
                    self._see(pod)
                for kind, pod in self._api.watch(
                    self._path, version=listed["metadata"]["resourceVersion"], labels=self._labels, timeout_seconds=60
                ):
                    if self._stopping.is_set():
                        return
                    if kind == "DELETED":
                        self._latest.pop(pod["metadata"]["uid"], None)
                    elif kind != "BOOKMARK":
                        self._see(pod)
            except ApiError:
                # The API server is away (a test restarts it) or the version is too old: list again.
                self._stopping.wait(0.2)

    def _see(self, pod: Object) -> None:
        uid = pod["metadata"]["uid"]
        self._latest[uid] = pod
        if uid in self._known or not _begun(pod):
            return
        self._known.add(uid)
        trial = TrialPod(pod, self._api)
        try:
            ending = self._behaviour(trial)
        except Exception as error:  # the test's own function: its failure is the test's failure, raised by stop()
            self.errors.append(error)
            return
        if ending.kind is Kind.NEVER:
            return
        now = time.monotonic()
        if ending.kind is Kind.SUCCESS and ending.judge_seconds > 0:
            start = now + max(0.0, ending.seconds - ending.judge_seconds)
            self._due.put(_Due(start, next(self._order), trial, ending, judging=True))
        self._due.put(_Due(now + ending.seconds, next(self._order), trial, ending))

    # -- Ending --

    def _end(self) -> None:
        waiting: list[_Due] = []
        with ThreadPoolExecutor(self._writers, thread_name_prefix="sim-trainer-write") as pool:
            while True:
                pause = max(0.0, waiting[0].at - time.monotonic()) if waiting else None
                try:
                    due = self._due.get(timeout=pause)
                except queue.Empty:
                    pool.submit(self._carry_out, heapq.heappop(waiting))
                    continue
                if due is None:
                    return
                heapq.heappush(waiting, due)

    def _carry_out(self, due: _Due) -> None:
        try:
            self._write_until_taken(due)
        except Exception as error:  # a thread of the pool would keep it to itself
            self.errors.append(error)

    def _write_until_taken(self, due: _Due) -> None:
        while not self._stopping.is_set():
            try:
                taken = self._write(due)
            except ApiError as error:
                if error.status == HTTPStatus.NOT_FOUND:
                    return
                # A server whose etcd was away answers from an old cache and calls that a conflict.
                again = error.status == HTTPStatus.CONFLICT and self._is_there(due.pod)
                if error.status == HTTPStatus.CONFLICT and not again:
                    return  # another pod of that name
                if again or error.status == 0 or error.status >= HTTPStatus.TOO_MANY_REQUESTS:
                    self._stopping.wait(0.2)  # a kubelet repeats its report until the server takes it
                    continue
                raise
            if taken and not due.judging:
                self.ended.append(Ended(due.pod, due.ending, time.time()))
            return

    def _is_there(self, pod: TrialPod) -> bool:
        try:
            found = self._api.find(f"/api/v1/namespaces/{pod.namespace}/pods/{pod.name}")
        except ApiError:
            return True  # nobody knows: ask again
        return found is not None and found["metadata"]["uid"] == pod.uid

    def _write(self, due: _Due) -> bool:
        """False when the pod went away before its end."""
        pod = self._latest.get(due.pod.uid)
        if pod is None:
            return False
        path = f"/api/v1/namespaces/{due.pod.namespace}/pods/{due.pod.name}"
        if due.ending.kind is Kind.DELETED:
            self._api.delete(path)
            return True
        status = endings.judging(pod) if due.judging else endings.ended(pod, due.ending)
        # With the uid, a pod of the same name that came later is refused (409) instead of ended.
        body = {"metadata": {"uid": due.pod.uid}, "status": status}
        self._api.patch(f"{path}/status", body, STRATEGIC_PATCH)
        return True


def _begun(pod: Object) -> bool:
    """Whether a container of the pod runs and nobody has asked for its deletion."""
    if pod["metadata"].get("deletionTimestamp") or pod["status"].get("phase") not in ("Pending", "Running"):
        return False
    statuses = [
        *(pod["status"].get("initContainerStatuses") or []),
        *(pod["status"].get("containerStatuses") or []),
    ]
    return any("running" in (status.get("state") or {}) for status in statuses)
