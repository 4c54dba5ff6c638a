"""Fixtures of the tests of the API."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from apiobjects import Runs
from clusterlab.cluster import Cluster

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def installed(control_plane: Cluster) -> Cluster:
    """The cluster with both kinds, as the files in crds/ define them."""
    control_plane.install_crds(sorted((ROOT / "crds").glob("*.yaml")))
    return control_plane


@pytest.fixture(scope="module")
def runs(installed: Cluster) -> Iterator[Runs]:
    """A namespace for a whole module: names in it are chosen anew each time."""
    namespace = f"api-{uuid.uuid4().hex[:8]}"
    installed.create_namespace(namespace)
    yield Runs(installed, namespace)
    installed.delete_namespace(namespace)
