"""An API server in a dictionary: conflicts, versions, owners, a Job controller, and pods that end when told to."""

from __future__ import annotations

import base64
import copy
import hashlib
import io
import itertools
import json
import math
import random
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from autoresearch_operator.cluster.seen import Key, KubeError, Object, Seen
from autoresearch_operator.manifests.names import ANNOTATION_TRIAL, LABEL_RUN, stamp

WATCHED = ("researchruns", "experiments", "jobs", "pods", "configmaps")


class Killed(BaseException):
    """The operator is gone. Not an Exception: nothing may catch it."""


class Writes:
    """Counts what changes anything, and kills the operator at a given one, after it was carried out."""

    def __init__(self) -> None:
        self.done = 0
        self.kill_at: int | None = None
        self.dead = False
        self.kinds: Counter[str] = Counter()

    @contextmanager
    def one(self, what: str) -> Iterator[None]:
        if self.dead:
            raise Killed
        yield
        self.done += 1
        self.kinds[what] += 1
        if self.kill_at is not None and self.done >= self.kill_at:
            self.dead = True
            raise Killed

    def revive(self, kill_after: int | None) -> None:
        self.dead = False
        self.kill_at = None if kill_after is None else self.done + kill_after


class MemoryCluster:
    """`cluster.seen.Cluster` over dictionaries. Garbage is collected at once unless `lazy_collector`."""

    def __init__(self, writes: Writes, clock: Callable[[], float]) -> None:
        self.writes = writes
        self.clock = clock
        self.objects: dict[str, dict[tuple[str, str], dict[str, Any]]] = {}
        self.uids = itertools.count(1)
        self.versions = itertools.count(1)
        self.events: list[tuple[str, str, str]] = []
        self.refuse: Callable[[str, Object], KubeError | None] = lambda _kind, _body: None
        self.lazy_collector = False

    # --- what the controller asks -----------------------------------------------------------------------------------

    async def create(self, kind: str, body: Object) -> Object:
        metadata = body["metadata"]
        place = (metadata["namespace"], metadata["name"])
        if self.writes.dead:
            raise Killed
        if (refusal := self.refuse(kind, body)) is not None:
            raise refusal
        if place in self.of(kind):
            raise KubeError(409, "AlreadyExists", f'{kind} "{metadata["name"]}" already exists')
        for owner in metadata.get("ownerReferences", ()):
            if not owner.get("uid"):
                raise KubeError(422, "Invalid", "metadata.ownerReferences.uid: must not be empty")
        with self.writes.one(f"create {kind}"):
            item = self.put(kind, body)
        return copy.deepcopy(item)

    async def patch(self, kind: str, namespace: str, name: str, patch: Object) -> Object:
        with self.writes.one(f"patch {kind}"):
            return self._merge(kind, namespace, name, patch)

    async def patch_status(self, kind: str, namespace: str, name: str, status: Object) -> Object:
        with self.writes.one(f"patch {kind}/status"):
            if kind == "experiments":
                self._check_final(self.get_now(kind, namespace, name), status)
            return self._merge(kind, namespace, name, {"status": status})

    async def delete(self, kind: str, namespace: str, name: str) -> None:
        with self.writes.one(f"delete {kind}"):
            self.remove(kind, namespace, name)

    async def get(self, kind: str, namespace: str, name: str) -> Object | None:
        if self.writes.dead:
            raise Killed
        return copy.deepcopy(self.of(kind).get((namespace, name)))

    async def list(self, kind: str, namespace: str | None, selector: str = "") -> list[Object]:
        if self.writes.dead:
            raise Killed
        wanted = dict(term.split("=") for term in selector.split(",") if term).items()
        return [
            copy.deepcopy(item)
            for (place, _), item in self.of(kind).items()
            if namespace in (None, place) and wanted <= item["metadata"].get("labels", {}).items()
        ]

    async def event(self, about: Object, type_: str, reason: str, message: str) -> None:
        assert about["kind"] == "ResearchRun"
        self.events.append((type_, reason, message))

    # --- what the test does -----------------------------------------------------------------------------------------

    def of(self, kind: str) -> dict[tuple[str, str], dict[str, Any]]:
        return self.objects.setdefault(kind, {})

    def get_now(self, kind: str, namespace: str, name: str) -> dict[str, Any]:
        try:
            return self.of(kind)[namespace, name]
        except KeyError:
            raise KubeError(404, "NotFound", f'{kind} "{name}" not found') from None

    def put(self, kind: str, body: Object) -> dict[str, Any]:
        item = copy.deepcopy(dict(body))
        metadata = item["metadata"]
        metadata["uid"] = f"uid-{next(self.uids)}"
        metadata["resourceVersion"] = str(next(self.versions))
        metadata["generation"] = 1
        metadata["creationTimestamp"] = stamp(self.clock())
        if kind in ("experiments", "researchruns"):
            item.pop("status", None)
        self.of(kind)[metadata["namespace"], metadata["name"]] = item
        return item

    def remove(self, kind: str, namespace: str, name: str) -> None:
        item = self.of(kind).pop((namespace, name), None)
        if item is not None and not self.lazy_collector:
            self.collect()

    def collect(self) -> None:
        """Deletes everything whose owner is gone."""
        while True:
            alive = {item["metadata"]["uid"] for items in self.objects.values() for item in items.values()}
            garbage = [
                (kind, place)
                for kind, items in self.objects.items()
                for place, item in items.items()
                if any(owner["uid"] not in alive for owner in item["metadata"].get("ownerReferences", ()))
            ]
            if not garbage:
                return
            for kind, place in garbage:
                del self.objects[kind][place]

    def edit(self, kind: str, namespace: str, name: str, patch: Object) -> None:
        """What a person does with kubectl: a new generation."""
        item = self._merge(kind, namespace, name, patch)
        item["metadata"]["generation"] += 1

    def seen(self, key: Key) -> Seen:
        def mine(kind: str) -> dict[str, Object]:
            found: dict[str, Object] = {}
            for (namespace, name), item in self.of(kind).items():
                if namespace == key.namespace and item["metadata"].get("labels", {}).get(LABEL_RUN) == key.name:
                    found[name] = shown = copy.deepcopy(item)
                    # Tests change objects in place; a version that follows from the content misses none of it.
                    content = json.dumps(item, sort_keys=True).encode()
                    shown["metadata"]["resourceVersion"] = hashlib.sha256(content).hexdigest()
            return found

        run = self.of("researchruns").get(tuple(key))
        return Seen(copy.deepcopy(run), mine("experiments"), mine("jobs"), mine("pods"), frozenset(mine("configmaps")))

    def _merge(self, kind: str, namespace: str, name: str, patch: Object) -> dict[str, Any]:
        item = self.get_now(kind, namespace, name)
        _merge_into(item, patch)
        item["metadata"]["resourceVersion"] = str(next(self.versions))
        return item

    def _check_final(self, item: Object, status: Object) -> None:
        """The two rules of the API on which no double verdict rests."""
        old = item.get("status", {})
        if old.get("verdict") and status.get("verdict", old["verdict"]) != old["verdict"]:
            raise KubeError(422, "Invalid", f"a verdict is final: it is {old['verdict']}")
        fresh = status.get("trials", old.get("trials", []))
        for trial in old.get("trials", []):
            if trial["phase"] != "Running" and trial not in fresh:
                raise KubeError(422, "Invalid", f"a finished trial is final: {trial['name']}")

    # --- Job controller, kubelet and trainer ------------------------------------------------------------------------

    def make_pods(self) -> None:
        owned = {
            owner["uid"] for pod in self.of("pods").values() for owner in pod["metadata"].get("ownerReferences", ())
        }
        for (namespace, name), job in list(self.of("jobs").items()):
            if job["metadata"]["uid"] in owned or job["spec"].get("suspend"):
                continue
            template = job["spec"]["template"]
            owner = {"kind": "Job", "name": name, "uid": job["metadata"]["uid"], "controller": True}
            now = stamp(self.clock())
            trial = LABEL_RUN in template["metadata"]["labels"]
            self.put(
                "pods",
                {
                    "metadata": {
                        "name": f"{name}-{next(self.uids)}",
                        "namespace": namespace,
                        "labels": {**template["metadata"]["labels"], "batch.kubernetes.io/job-name": name},
                        "annotations": template["metadata"].get("annotations", {}),
                        "ownerReferences": [owner],
                    },
                    "spec": {**template["spec"], "nodeName": "node-1"},
                    "status": {
                        "phase": "Running" if trial else "Pending",
                        "startTime": now,
                        "initContainerStatuses": [
                            {"name": "gate", "started": True, "state": {"running": {"startedAt": now}}},
                            {"name": "train", "state": {"running": {"startedAt": now}}},
                        ]
                        if trial
                        else [],
                    },
                },
            )

    def running_pods(self) -> list[dict[str, Any]]:
        """Of trials, in the order of their names."""
        pods = [
            pod
            for pod in self.of("pods").values()
            if pod["status"]["phase"] == "Running" and LABEL_RUN in pod["metadata"]["labels"]
        ]
        return sorted(pods, key=lambda pod: pod["metadata"]["name"])

    def end_pod(self, pod: dict[str, Any], result: Object, *, image: str = "sha256:one") -> None:
        """The judge writes `result` and the pod ends."""
        pod["status"] |= {
            "phase": "Succeeded",
            "containerStatuses": [
                {
                    "name": "judge",
                    "imageID": image,
                    "state": {
                        "terminated": {
                            "exitCode": 0,
                            "finishedAt": stamp(self.clock()),
                            "message": json.dumps(result),
                        }
                    },
                }
            ],
        }

    def files_of(self, pod: Object) -> dict[str, str]:
        """What the trial reads: the files in its ConfigMap."""
        namespace = pod["metadata"]["namespace"]
        name = next(v["configMap"]["name"] for v in pod["spec"]["volumes"] if "configMap" in v)
        packed = base64.b64decode(self.get_now("configmaps", namespace, name)["binaryData"]["source.tar"])
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            return {
                member.name: (archive.extractfile(member) or io.BytesIO()).read().decode()
                for member in archive.getmembers()
            }


def scored(files: dict[str, str], pod: Object, *, product: str = "cpu") -> dict[str, Any]:
    """A TrialResult whose score follows from the script and the seed: a valley over the knobs, noise of sd 0.01."""
    trial = json.loads(pod["metadata"]["annotations"][ANNOTATION_TRIAL])
    return result_of(score(files["train.py"], trial["seed"]), product=product)


def result_of(value: float, *, product: str = "cpu") -> dict[str, Any]:
    return {
        "version": 1,
        "outcome": "Scored",
        "valBPB": value,
        "audit": {"pairs": 1024, "mismatches": 0},
        "trainTokens": 1000,
        "tokensPerSecond": 500.0,
        "referenceSeconds": 0.02,
        "hardware": {"product": product},
        "isolation": {"network": "seccomp", "files": "container"},
    }


def score(text: str, seed: int) -> float:
    numbers = {name: float(value) for name, value in re.findall(r"^([A-Z_]+) = (-?[0-9.e+-]+)", text, re.MULTILINE)}
    value = 1.8 + 0.2 * abs(math.log10(numbers["LEARNING_RATE"] / 0.02)) + 0.05 * abs(numbers["DEPTH"] - 6)
    mark = hashlib.sha256(f"{text}/{seed}".encode()).digest()
    return value + random.Random(mark).gauss(0, 0.01)


def _merge_into(item: dict[str, Any], patch: Object) -> None:
    for name, value in patch.items():
        if value is None:
            item.pop(name, None)
        elif isinstance(value, dict) and isinstance(item.get(name), dict):
            _merge_into(item[name], value)
        else:
            item[name] = copy.deepcopy(value)
