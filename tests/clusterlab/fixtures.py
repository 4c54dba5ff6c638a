"""Fixtures of every folder of tests that needs a cluster. A conftest.py takes them with

    from clusterlab.fixtures import *  (the names of __all__)

AUTORESEARCH_TEST_KUBECONFIG=<file> points them at a cluster that exists; AUTORESEARCH_REQUIRE_CLUSTER=1 makes a missing
prerequisite a failure instead of a skip.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import NoReturn

import pytest

from clusterlab import tools
from clusterlab.cluster import Cluster
from clusterlab.controlplane import GROUPS, ControlPlane
from clusterlab.kwok import Kwok
from clusterlab.processes import Reaper
from clusterlab.simtrainer import SimTrainer

__all__ = ["components", "control_plane", "kwok", "kwok_nodes", "namespace", "sim_trainer"]

LENT = "AUTORESEARCH_TEST_KUBECONFIG"
REQUIRED = "AUTORESEARCH_REQUIRE_CLUSTER"

_numbers = count(1)


def missing(sentence: str) -> NoReturn:
    """Skips the test with the sentence; fails it where a cluster is required (CI)."""
    if os.environ.get(REQUIRED) == "1":
        pytest.fail(f"{sentence} ({REQUIRED}=1 makes this a failure)", pytrace=False)
    pytest.skip(sentence)


def build_for(session: pytest.Session, *groups: str) -> None:
    """Builds tool groups before the first test, outside every test's time limit; for `pytest_collection_finish`.

    A sentence about what cannot be had is kept for the fixtures to skip or fail with.
    """
    # A lent cluster brings its own server, and kubectl may be the machine's.
    wanted = [group for group in groups if not (os.environ.get(LENT) and group in GROUPS)]
    if session.config.option.collectonly or all(tools.is_built(group) for group in wanted):
        return
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    try:
        tools.build(wanted, say=reporter.write_line if reporter else print)
    except tools.ToolsMissing as error:
        _missing_tools.append(str(error))


_missing_tools: list[str] = []


def _need(*groups: str) -> None:
    for group in groups:
        try:
            tools.program(tools.GROUPS[group].programs[0])
        except tools.ToolsMissing as error:
            missing(_missing_tools[0] if _missing_tools else str(error))


@pytest.fixture(scope="session")
def control_plane() -> Iterator[Cluster]:
    """The session's cluster: a control plane of our own, or the one that AUTORESEARCH_TEST_KUBECONFIG names."""
    if lent := os.environ.get(LENT):
        with tempfile.TemporaryDirectory(prefix="autoresearch-cluster-") as folder:
            yield Cluster(Path(lent), Path(folder))
        return
    _need(*GROUPS)
    with ControlPlane.start_new() as plane:
        yield plane


@pytest.fixture
def components(control_plane: Cluster) -> ControlPlane:
    """The session's control plane for tests that stop its parts or read its audit log; a lent cluster cannot serve."""
    if not isinstance(control_plane, ControlPlane):
        pytest.skip(f"this test stops parts of the control plane: unset {LENT} to have it start its own")
    return control_plane


@pytest.fixture
def namespace(control_plane: Cluster) -> Iterator[str]:
    """The name of a fresh namespace that enforces the restricted Pod Security level; its deletion is only asked for."""
    name = f"t{os.getpid()}-{next(_numbers)}"
    control_plane.create_namespace(name)
    yield name
    control_plane.delete_namespace(name)


@pytest.fixture(scope="session")
def kwok(control_plane: Cluster) -> Iterator[Kwok]:
    """KWOK beside the session's cluster, without nodes."""
    _need("kwok")
    reaper = control_plane.reaper if isinstance(control_plane, ControlPlane) else Reaper()
    with Kwok(control_plane, reaper) as running:
        yield running


@pytest.fixture
def kwok_nodes(kwok: Kwok) -> Iterator[Callable[..., list[str]]]:
    """`kwok_nodes(2, gpus=8, product="NVIDIA-L4")` makes simulated nodes, removed after the test; see Kwok.add."""
    made: list[str] = []

    def add(number: int = 1, **wishes: object) -> list[str]:
        names = kwok.add(number, **wishes)  # type: ignore[arg-type]  # passed through to Kwok.add, which checks them
        made.extend(names)
        return names

    yield add
    kwok.remove(made)


@pytest.fixture
def sim_trainer(control_plane: Cluster, namespace: str) -> Iterator[Callable[..., SimTrainer]]:
    """`sim_trainer(behaviour)` ends the trial pods of the test's namespace as `behaviour(pod)` says; see SimTrainer."""
    running: list[SimTrainer] = []

    def start(*arguments: object, **wishes: object) -> SimTrainer:
        trainer = SimTrainer(control_plane, *arguments, namespace=namespace, **wishes)  # type: ignore[arg-type]  # checked there
        running.append(trainer)
        trainer.start()
        return trainer

    yield start
    for trainer in running:
        trainer.stop()
