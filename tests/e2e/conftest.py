"""Tests on a real node: containers, volumes, networks, logs. They need root and Debian's container tools."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import count

import pytest
from clusterlab import images, node, tools
from clusterlab.controlplane import GROUPS, ControlPlane
from clusterlab.fixtures import build_for, missing
from clusterlab.images import Image
from clusterlab.node import Node
from clusterlab.node_network import Network

_numbers = count(1)
_not_built: list[str] = []
_project: dict[str, Image] = {}


def pytest_collection_finish(session: pytest.Session) -> None:
    """Programs and images are built before the first test, whose time limit is not for compilers."""
    asked = {
        name for item in session.items if "tests/e2e/" in item.nodeid for name in getattr(item, "fixturenames", ())
    }
    if session.config.option.collectonly or node.missing():
        return
    if "real_node" in asked:
        build_for(session, *GROUPS, *node.GROUPS)
    if "project_images" in asked:
        try:
            _project.update(images.project())
        except tools.ToolsMissing as error:
            _not_built.append(str(error))


@pytest.fixture(scope="session")
def real_node() -> Iterator[Node]:
    """The session's node; `real_node.plane` is its control plane."""
    if reason := node.missing():
        missing(reason)
    network = Network.pick()
    try:
        plane = ControlPlane.start_new(network.options())
    except tools.ToolsMissing as error:
        missing(str(error))
    with plane, Node(plane, network) as started:
        yield started


@pytest.fixture
def namespace(real_node: Node) -> Iterator[str]:
    """The name of a fresh namespace on the real node's cluster that enforces the restricted Pod Security level."""
    name = f"e{os.getpid()}-{next(_numbers)}"
    real_node.plane.create_namespace(name)
    yield name
    real_node.plane.delete_namespace(name)


@pytest.fixture(scope="session")
def project_images() -> dict[str, Image]:
    """The "operator" and "trainer" images built from this checkout, the trainer without CUDA's libraries."""
    if not _project:
        missing(_not_built[0] if _not_built else node.missing() or "the images were not built")
    return _project


@pytest.fixture(scope="session")
def operator_image(real_node: Node, project_images: dict[str, Image]) -> Image:
    """The operator's image, known to the node."""
    real_node.import_image(project_images["operator"])
    return project_images["operator"]


@pytest.fixture(scope="session")
def trainer_image(real_node: Node, project_images: dict[str, Image]) -> Image:
    """The trainer's image, known to the node."""
    real_node.import_image(project_images["trainer"])
    return project_images["trainer"]
