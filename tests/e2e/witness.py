"""Everything that trial pods show to the outside while they live: their Jobs are deleted once the result is kept."""

from __future__ import annotations

import json
import threading
import time
from datetime import datetime

from clusterlab.api import Api, ApiError, Object

CONTAINERS = ("gate", "train", "judge")


class Witness:
    """Follows the trial pods of a namespace from a thread: `pods` by name as last seen, `logs` by pod and container."""

    def __init__(self, api: Api, namespace: str) -> None:
        self._api = api
        self._path = f"/api/v1/namespaces/{namespace}/pods"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self.pods: dict[str, Object] = {}
        self.logs: dict[tuple[str, str], str] = {}

    def __enter__(self) -> Witness:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def text(self) -> str:
        """All of it."""
        return json.dumps(list(self.pods.values())) + "\n".join(self.logs.values())

    def seconds(self) -> list[float]:
        """From a pod's creation to the end of its last container, for the pods that were seen finished."""
        found = []
        for pod in self.pods.values():
            ends = [
                state["terminated"]["finishedAt"]
                for status in pod["status"].get("containerStatuses", ())
                if (state := status["state"]).get("terminated")
            ]
            if ends:
                made = datetime.fromisoformat(pod["metadata"]["creationTimestamp"])
                found.append((max(map(datetime.fromisoformat, ends)) - made).total_seconds())
        return sorted(found)

    def _follow(self) -> None:
        while not self._stop.is_set():
            try:
                for pod in self._api.list(self._path, labels="autoresearch.dev/run"):
                    self._look(pod)
            except ApiError:
                pass  # the API server is asked again at once
            time.sleep(0.5)

    def _look(self, pod: Object) -> None:
        name = pod["metadata"]["name"]
        self.pods[name] = pod
        statuses = [*pod["status"].get("initContainerStatuses", ()), *pod["status"].get("containerStatuses", ())]
        for status in statuses:
            if status["state"].get("waiting") or status["name"] not in CONTAINERS:
                continue
            try:
                said = self._api.raw(f"{self._path}/{name}/log", {"container": status["name"]})
            except ApiError:
                continue  # the pod went between the two questions
            self.logs[name, status["name"]] = said
