"""Tests against a real API server, scheduler and controller-manager, with simulated nodes."""

import pytest
from clusterlab.fixtures import build_for, components, control_plane, kwok, kwok_nodes, namespace, sim_trainer

__all__ = ["components", "control_plane", "kwok", "kwok_nodes", "namespace", "sim_trainer"]


def pytest_collection_finish(session: pytest.Session) -> None:
    """The first run on a machine builds the programs, before any test's time limit starts."""
    if any("tests/cluster/" in item.nodeid for item in session.items):
        build_for(session, "kubernetes", "etcd", "kwok")
    if any("tests/cluster/test_chart" in item.nodeid for item in session.items):
        build_for(session, "helm", "kubeconform")
    if any("tests/cluster/test_kueue" in item.nodeid for item in session.items):
        build_for(session, "kueue")
