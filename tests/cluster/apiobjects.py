"""The two kinds of the API as tests make and change them."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from clusterlab.api import ApiError
from clusterlab.cluster import Cluster

COMMIT = "ab" * 20
OTHER = "cd" * 20

Object = dict[str, Any]


def refused(error: pytest.ExceptionInfo[ApiError]) -> str:
    """The API server's sentences. Fails when it said something else than that the object is invalid."""
    assert error.value.status == 422, error.value
    return error.value.message


def condition(type_: str) -> Object:
    return {"type": type_, "status": "True", "reason": "Improved", "lastTransitionTime": "2026-01-01T00:00:00Z"}


class Runs:
    """The two kinds in one namespace of the cluster."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self.api = cluster.api
        self.cluster = cluster
        self.namespace = namespace
        self._base = f"/apis/autoresearch.dev/v1alpha1/namespaces/{namespace}"

    def create(self, spec: Object | None = None, name: str = "") -> str:
        """Makes a ResearchRun and gives its name. Raises ApiError."""
        name = name or f"r-{uuid.uuid4().hex[:8]}"
        body: Object = {"apiVersion": "autoresearch.dev/v1alpha1", "kind": "ResearchRun", "metadata": {"name": name}}
        self.api.create(f"{self._base}/researchruns", body if spec is None else body | {"spec": spec})
        return name

    def get(self, name: str) -> Object:
        return self.api.get(f"{self._base}/researchruns/{name}")

    def patch(self, name: str, spec: Object) -> None:
        self.api.patch(f"{self._base}/researchruns/{name}", {"spec": spec})

    def patch_status(self, name: str, status: Object) -> None:
        self.api.patch(f"{self._base}/researchruns/{name}/status", {"status": status})

    def scored(self, spec: Object | None = None, *tiers: str) -> str:
        """A run whose tiers have a measured baseline."""
        name = self.create(spec)
        baseline = {"commit": COMMIT, "valBPB": 1.25, "runs": 1}
        self.patch_status(name, {"tiers": [{"name": tier, "baseline": baseline} for tier in tiers or ("gpu",)]})
        return name

    def experiment(self, status: Object | None = None, *, name: str = "", **spec: Any) -> str:
        """Makes an Experiment, then writes its status. Gives its name. Raises ApiError."""
        name = name or f"r-{uuid.uuid4().hex[:8]}-17"
        whole = {
            "number": 17,
            "kind": "Proposal",
            "commit": COMMIT,
            "tree": COMMIT,
            "base": OTHER,
            "title": "matrix LR .04 -> .03",
            "proposer": "search",
            **spec,
        }
        body = {
            "apiVersion": "autoresearch.dev/v1alpha1",
            "kind": "Experiment",
            "metadata": {"name": name, "labels": {"autoresearch.dev/run": "r"}},
            "spec": whole,
        }
        self.api.create(f"{self._base}/experiments", body)
        if status is not None:
            self.tell(name, status)
        return name

    def tell(self, name: str, status: Object | None) -> None:
        """Merge-patches an Experiment's status, as the operator does."""
        self.api.patch(f"{self._base}/experiments/{name}/status", {"status": status})

    def change(self, name: str, spec: Object) -> None:
        self.api.patch(f"{self._base}/experiments/{name}", {"spec": spec})
