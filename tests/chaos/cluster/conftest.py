"""Faults of a whole cluster. The control plane is this folder's own: its parts are stopped."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

# The operator's process and what a run should come to, as tests/cluster has them.
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "cluster"))

from clusterlab.fixtures import build_for, components, control_plane, kwok, kwok_nodes, namespace, sim_trainer

__all__ = ["components", "control_plane", "kwok", "kwok_nodes", "namespace", "sim_trainer"]


def pytest_collection_finish(session: pytest.Session) -> None:
    """The first run on a machine builds the programs, before any test's time limit starts."""
    if any("tests/chaos/cluster/" in item.nodeid for item in session.items):
        build_for(session, "kubernetes", "etcd", "kwok")
