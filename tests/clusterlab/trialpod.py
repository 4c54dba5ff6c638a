"""A trial's pod as the simulated trainer sees it: what a real one would read from its environment and its volumes."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import tarfile
from typing import Any

from autoresearch_trainer.result import LOST, SCORED, Audit, TrialResult, encode

from clusterlab.api import Api, Object
from clusterlab.endings import Ending


class TrialPod:
    """One pod. Raises KeyError from `trial` and `source` when the pod is not shaped as a trial's."""

    def __init__(self, pod: Object, api: Api) -> None:
        self.pod = pod
        self._api = api
        self.name: str = pod["metadata"]["name"]
        self.namespace: str = pod["metadata"]["namespace"]
        self.uid: str = pod["metadata"]["uid"]
        self.labels: dict[str, str] = pod["metadata"].get("labels") or {}
        self.annotations: dict[str, str] = pod["metadata"].get("annotations") or {}
        self.node: str = pod["spec"].get("nodeName", "")

    @property
    def trial(self) -> dict[str, Any]:
        """The document AUTORESEARCH_TRIAL: seed, budget, split, sourceSHA256 …"""
        for container in [*(self.pod["spec"].get("initContainers") or []), *self.pod["spec"]["containers"]]:
            for variable in container.get("env") or []:
                if variable["name"] == "AUTORESEARCH_TRIAL":
                    document: dict[str, Any] = json.loads(variable["value"])
                    return document
        raise KeyError(f"pod {self.name} has no AUTORESEARCH_TRIAL")

    @property
    def seed(self) -> int:
        return int(self.trial["seed"])

    @property
    def identity(self) -> dict[str, Any]:
        """The annotation autoresearch.dev/trial: experiment, seed, attempt, tier, purpose, subject."""
        document: dict[str, Any] = json.loads(self.annotations["autoresearch.dev/trial"])
        return document

    def source(self) -> dict[str, str]:
        """The candidate's files by path, read from its ConfigMap (one request)."""
        volume = next(v for v in self.pod["spec"]["volumes"] if v["name"] == "source")
        path = f"/api/v1/namespaces/{self.namespace}/configmaps/{volume['configMap']['name']}"
        packed = base64.b64decode(self._api.get(path)["binaryData"]["source.tar"])
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            files = {member.name: archive.extractfile(member) for member in archive.getmembers() if member.isfile()}
            return {name: stream.read().decode() for name, stream in files.items() if stream is not None}

    def scored(self, val_bpb: float, **figures: Any) -> str:
        """The judge's message for a score; `figures` are fields of the trainer's TrialResult."""
        trial = self.trial
        fields: dict[str, Any] = {
            "outcome": SCORED,
            "val_bpb": val_bpb,
            "split": trial["split"],
            "nats": val_bpb * 65_536 * 0.6931471805599453,
            "bytes": 65_536,
            "tokens": 20_480,
            "audit": Audit(int(trial.get("auditPairs", 0)), 0, 0.0),
            "steps": 300,
            "train_tokens": 300 * 4096,
            "tokens_per_second": 61_440.0,
            "train_seconds": 20.0,
            "cpu_seconds": 20.0,
            "startup_seconds": 3.0,
            "judge_seconds": 2.0,
            "total_seconds": 26.0,
            "peak_memory_bytes": 1 << 30,
            "parameters": 1_000_000,
            "source_sha256": trial["sourceSHA256"],
            "seed": trial["seed"],
            "hardware": {"product": "simulated", "driver": "1"},
        }
        return self._message(fields | figures)

    def invalid(self, reason: str, detail: str | None = None, message: str = "", **figures: Any) -> str:
        """The judge's message for a failure of the candidate's own; `reason` as in the API."""
        return self._message({"outcome": "Invalid", "reason": reason, "detail": detail, "message": message} | figures)

    def lost(self, detail: str, message: str = "") -> str:
        """The judge's message for a fault that is not the candidate's."""
        return self._message({"outcome": LOST, "detail": detail, "message": message})

    @staticmethod
    def _message(fields: dict[str, Any]) -> str:
        return encode(TrialResult(**fields).as_json()).decode()


def landscape(pod: TrialPod) -> Ending:
    """The default behaviour: the pod's annotations when it has some, else a score fixed by source and seed.

    Scores lie in 1.10..1.20 bits per byte by source, with noise of at most 0.002 by seed, and end after 0.2 s: a
    search over them has something to find, and the same question always gets the same answer.
    """
    if asked := Ending.annotated(pod.pod):
        return asked
    trial = pod.trial
    height = _fraction(str(trial["sourceSHA256"]))
    noise = _fraction(f"{trial['sourceSHA256']} {trial['seed']}") - 0.5
    return Ending.success(pod.scored(round(1.1 + 0.1 * height + 0.004 * noise, 6)), seconds=0.2)


def _fraction(text: str) -> float:
    """A number in 0..1 that depends on the text alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big") / (1 << 56)
