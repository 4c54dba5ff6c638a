"""What the watches told, by run: slim copies in memory, and nothing else.

kopf's own indexes were tried on paper and left: they keep what a relist no longer shows (an object that was deleted
while the watch was down stays for ever), cannot be corrected from outside, and know nothing of versions. These plain
dictionaries are fed by the same events, by the answers to our own writes, and by the slow comparison with the API
server (`handlers.comparison`), and the newest version wins whatever the order in which they arrive.
"""

from __future__ import annotations

import sys
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from autoresearch_operator.cluster.seen import Key, Object, Seen

RUN_LABEL: Final = "autoresearch.dev/run"
WATCHED: Final = ("researchruns", "experiments", "jobs", "pods")
LABELLED: Final = ("jobs", "pods", "configmaps")
"""Kinds of which only the operator's own objects are asked for, by `RUN_LABEL`: what others run never arrives."""
COMPARED: Final = (*WATCHED, "configmaps")

_METADATA: Final = (
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "labels",
    "annotations",
    "ownerReferences",
)
_GRAVES: Final = 1024
_DROPPED_ANNOTATION: Final = "kubectl.kubernetes.io/last-applied-configuration"
_POD_SPEC: Final = ("nodeName", "schedulingGates", "terminationGracePeriodSeconds")
_CONTAINER: Final = ("name", "resources")
"""Of a pod's containers; their status has all else that is asked for."""


@dataclass(slots=True)
class _RunObjects:
    run: Object | None = None
    experiments: dict[str, Object] = field(default_factory=dict)
    jobs: dict[str, Object] = field(default_factory=dict)
    pods: dict[str, Object] = field(default_factory=dict)
    config_maps: dict[str, Object] = field(default_factory=dict)

    def group(self, kind: str) -> dict[str, Object]:
        return {
            "experiments": self.experiments,
            "jobs": self.jobs,
            "pods": self.pods,
            "configmaps": self.config_maps,
        }[kind]

    def empty(self) -> bool:
        return self.run is None and not (self.experiments or self.jobs or self.pods or self.config_maps)


class View:
    """All objects of all runs. `changed` is called with the run's key after each change, from the event loop."""

    def __init__(self, changed: Callable[[Key], None] = lambda _key: None) -> None:
        self.changed = changed
        self._runs: dict[Key, _RunObjects] = defaultdict(_RunObjects)
        self._places: dict[str, dict[tuple[str, str], tuple[Key, str, int]]] = {kind: {} for kind in COMPARED}
        """For each kind and (namespace, name): the run it is filed under, its uid and its version."""
        self._gone: OrderedDict[tuple[str, str], int] = OrderedDict()
        """(kind, uid) of the last deleted objects and their last version: the answer to a write of ours can come after
        the news of the deletion."""

    def put(self, kind: str, obj: Object) -> bool:
        """Takes a version of an object in; False when it was known or is older than what is known."""
        metadata = obj["metadata"]
        place = (metadata["namespace"], metadata["name"])
        version = version_of(obj)
        known = self._places[kind].get(place)
        if (known is not None and known[2] >= version) or self._gone.get((kind, metadata["uid"]), -1) >= version:
            return False
        key = run_of(kind, obj)
        if known is not None and known[0] != key:
            self._remove(kind, place, known[0])
        if key is None:
            return known is not None
        self._places[kind][place] = (key, metadata["uid"], version)
        slim = _SLIM[kind](obj)
        if kind == "researchruns":
            self._runs[key].run = slim
        else:
            self._runs[key].group(kind)[place[1]] = slim
        self.changed(key)
        return True

    def drop(self, kind: str, namespace: str, name: str, uid: str, version: int) -> bool:
        """Takes an object out, last seen as `version`; not a newer one of the same name."""
        self._gone[kind, uid] = version
        while len(self._gone) > _GRAVES:
            self._gone.popitem(last=False)
        known = self._places[kind].get((namespace, name))
        if known is None or known[1] != uid:
            return False
        self._remove(kind, (namespace, name), known[0])
        return True

    def _remove(self, kind: str, place: tuple[str, str], key: Key) -> None:
        del self._places[kind][place]
        objects = self._runs[key]
        if kind == "researchruns":
            objects.run = None
        else:
            objects.group(kind).pop(place[1], None)
        if objects.empty():
            del self._runs[key]
        self.changed(key)

    def seen(self, key: Key) -> Seen:
        """All of one run, now. The dictionaries are copies, the objects in them are shared: never change them."""
        objects = self._runs.get(key)
        if objects is None:
            return Seen(run=None)
        return Seen(
            run=objects.run,
            experiments=dict(objects.experiments),
            jobs=dict(objects.jobs),
            pods=dict(objects.pods),
            config_maps=frozenset(objects.config_maps),
        )

    def runs(self) -> list[Key]:
        """Every run of which there is anything, also one that is deleted and whose children are still there."""
        return list(self._runs)

    def requests(self) -> Iterator[tuple[Key, Object]]:
        """The ResearchRuns that there are."""
        for key, objects in self._runs.items():
            if objects.run is not None:
                yield key, objects.run

    def versions(self, kind: str) -> dict[tuple[str, str], tuple[str, int]]:
        """(namespace, name) -> (uid, version) of all objects of a kind."""
        return {place: (uid, version) for place, (_, uid, version) in self._places[kind].items()}

    def version(self, kind: str, namespace: str, name: str) -> tuple[str, int] | None:
        known = self._places[kind].get((namespace, name))
        return None if known is None else (known[1], known[2])

    def counts(self) -> dict[str, int]:
        return {kind: len(places) for kind, places in self._places.items()}


def version_of(obj: Object) -> int:
    """The resourceVersion as a number: within one kind, a greater one is newer (documented so since Kubernetes 1.35,
    and true of etcd always)."""
    return int(obj["metadata"]["resourceVersion"])


def run_of(kind: str, obj: Object) -> Key | None:
    """The run that an object belongs to; None: to none."""
    metadata = obj["metadata"]
    namespace = metadata["namespace"]
    if kind == "researchruns":
        return Key(namespace, metadata["name"])
    label = (metadata.get("labels") or {}).get(RUN_LABEL)
    if label:
        return Key(namespace, label)
    # A person can take a label away; an owner reference they would have to mean.
    owners = (owner for owner in metadata.get("ownerReferences") or () if owner.get("kind") == "ResearchRun")
    return next((Key(namespace, owner["name"]) for owner in owners), None)


# --------------------------------------------------------------------------------------------------------------------
# Slim copies: 5,000 experiments have to fit in well under 100 MiB


def _slim_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    slim = {name: _lean(metadata[name]) for name in _METADATA if name in metadata}
    annotations = slim.get("annotations")
    if annotations:
        annotations.pop(_DROPPED_ANNOTATION, None)
    return slim


def _lean(value: Any) -> Any:
    """A copy whose keys and short strings are shared between all objects.

    Each event of a watch is parsed by itself, so that otherwise every object would have its own "status".
    """
    if isinstance(value, dict):
        return {sys.intern(name): _lean(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_lean(inner) for inner in value]
    if isinstance(value, str) and len(value) <= 40:
        return sys.intern(value)
    return value


def _slim(obj: Object, spec: Collection[str] | None, without: Collection[str] = ()) -> dict[str, Any]:
    found = obj.get("spec") or {}
    kept = found if spec is None else {name: found[name] for name in spec if name in found}
    return {
        "apiVersion": sys.intern(obj.get("apiVersion", "")),
        "kind": sys.intern(obj.get("kind", "")),
        "metadata": _slim_metadata(obj["metadata"]),
        "spec": _lean({name: value for name, value in kept.items() if name not in without}),
        "status": _lean(obj.get("status") or {}),
    }


def _slim_pod(obj: Object) -> dict[str, Any]:
    slim = _slim(obj, _POD_SPEC)
    containers = (obj.get("spec") or {}).get("containers") or ()
    slim["spec"]["containers"] = [_lean({name: one.get(name) or {} for name in _CONTAINER}) for one in containers]
    return slim


_SLIM: Final[Mapping[str, Callable[[Object], dict[str, Any]]]] = {
    "researchruns": lambda obj: _slim(obj, None),
    "experiments": lambda obj: _slim(obj, None),
    # Each Job repeats its pod template, ten times the size of all else in it; what was started is in its annotation.
    "jobs": lambda obj: _slim(obj, None, without=("template",)),
    "pods": _slim_pod,
    "configmaps": lambda obj: {"metadata": {"name": obj["metadata"]["name"]}},
}
