"""What ships: small enough, runs as nobody on a read-only root, and holds nothing of the machine that built it."""

from __future__ import annotations

import os
import re
import socket
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from clusterlab.images import Image
from clusterlab.images_archive import Archive
from clusterlab.node import Node
from clusterlab.node_pods import RESTRICTED, finished, pod

OPERATOR_BYTES = 250_000_000
"""Of the operator's layers over its base: a limit of the project, because every upgrade pulls them."""

CONFIGURATION = ("PIP_CONFIG_FILE", "UV_CONFIG_FILE")
USUAL = ("~/.config/pip/pip.conf", "~/.pip/pip.conf", "/etc/pip.conf", "~/.config/uv/uv.toml", "/etc/uv/uv.toml")
CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


def private_marks() -> dict[str, bytes]:
    """What this machine knows and an image must not: name of the mark, bytes to look for."""
    marks = {}
    places = [os.environ.get(name, "") for name in CONFIGURATION] + [str(Path(place).expanduser()) for place in USUAL]
    texts = [Path(place).read_text() for place in places if place and Path(place).is_file()]
    texts += [value for name, value in os.environ.items() if re.match(r"(?i)(PIP|UV)_.*INDEX|https?_proxy", name)]
    # A host that installed packages name themselves is no secret of this machine.
    published = "\n".join(package.read_text("METADATA") or "" for package in metadata.distributions())
    for url in re.findall(r"https?://[^\s\"']+", "\n".join(texts)):
        host = urlsplit(url).hostname or ""
        if host and host not in published:
            marks[f"index host {host}"] = host.encode()
    bundle = Path(os.environ.get("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt"))
    known = b"".join(path.read_bytes() for path in Path("/usr/share/ca-certificates").rglob("*.crt"))
    if bundle.is_file() and known:
        for number, found in enumerate(CERTIFICATE.findall(bundle.read_bytes())):
            body = found.splitlines()[2]
            if body not in known:
                marks[f"certificate {number} of {bundle}"] = body
    name = socket.gethostname()
    # Short names ("vm", "build") occur in any text.
    if len(name) > 12:
        marks["this machine's name"] = name.encode()
    return marks


@pytest.fixture(scope="module", params=["operator", "trainer"])
def archive(request: pytest.FixtureRequest, project_images: dict[str, Image]) -> Archive:
    return Archive(project_images[request.param].archive)


def test_the_operators_layers_are_small(project_images: dict[str, Image]) -> None:
    base, *ours = Archive(project_images["operator"].archive).layer_bytes
    assert sum(ours) <= OPERATOR_BYTES, f"{sum(ours) / 1e6:.0f} MB over a base of {base / 1e6:.0f} MB: {ours}"


def test_nothing_of_the_building_machine_is_inside(archive: Archive) -> None:
    marks = private_marks()
    text = str(archive.config).encode()
    found = [f"{name} in the configuration" for name, mark in marks.items() if mark in text]
    files = re.compile(
        r"(^|/)(pip\.conf|uv\.toml|\.netrc|\.pypirc|id_(rsa|ed25519))$|^etc/(hostname|resolv\.conf)$|^run/secrets/.|^src/|^root/."
    )
    for entry in archive.entries():
        # The base's own folder of root has the shell's two files.
        if entry.size and files.search(entry.path) and not (entry.layer == 0 and entry.path.startswith("root/")):
            found.append(f"/{entry.path}")
        found += [f"{name} in /{entry.path}" for name, mark in marks.items() if mark in entry.data]
    assert not found


def test_no_build_tool_and_no_second_environment_ships(archive: Archive) -> None:
    # Programs: torch has folders called uv.
    tools = re.compile(r"(^|/)s?bin/(uv|uvx|pip|pip3|hatchling)$|opt/venv/.*/site-packages/(pip|uv|hatchling)/")
    ours = [entry.path for entry in archive.entries(1) if not entry.path.startswith("usr/")]
    assert not [path for path in ours if tools.search(path)]
    assert any(path.startswith("opt/venv/autoresearch/autoresearch_") for path in ours)


def test_labels_and_user_are_set(archive: Archive) -> None:
    config = archive.config["config"]
    assert config["User"] == "65532:65532"
    labels = {name.rpartition(".")[2]: value for name, value in config["Labels"].items()}
    assert labels["licenses"] == "Apache-2.0"
    assert labels["version"]
    assert re.fullmatch(r"[0-9a-f]{40}\+?", labels["revision"])


def test_our_code_is_the_last_and_a_small_layer(project_images: dict[str, Image]) -> None:
    """A change of ours moves megabytes, not torch."""
    for name, image in project_images.items():
        opened = Archive(image.archive)
        first = min(entry.layer for entry in opened.entries(1) if "autoresearch/autoresearch_" in entry.path)
        assert sum(opened.layer_bytes[first:]) < 40_000_000, (name, opened.layer_bytes)


def ours(name: str, image: Image, *command: str, user: int = 65532) -> dict[str, object]:
    """A pod of one of our images as the restricted level wants it: read-only root, numeric user, nothing granted."""
    container = {
        "name": name,
        "image": image.name,
        "imagePullPolicy": "Never",
        "securityContext": {**RESTRICTED, "runAsUser": user, "runAsGroup": user},
        "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"cpu": "2", "memory": "2Gi"}},
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
    }
    container["args" if command and command[0] == "version" else "command"] = list(command)
    return pod(name, container, volumes=[{"name": "tmp", "emptyDir": {}}])


def said(node: Node, namespace: str, body: dict[str, object], seconds: float = 120.0) -> str:
    """The log of a pod that succeeded."""
    name = str(body["metadata"]["name"])  # type: ignore[index]  # made by pod()
    node.plane.api.create(f"/api/v1/namespaces/{namespace}/pods", body)
    finished(node, namespace, name, seconds)
    return node.plane.kubectl("logs", "-n", namespace, name)


def test_the_operator_image_runs_its_command(real_node: Node, namespace: str, operator_image: Image) -> None:
    text = said(real_node, namespace, ours("version", operator_image, "version"))
    assert re.search(r"^autoresearch-operator \d", text, re.MULTILINE)
    assert "torch not installed" in text


def test_the_operator_image_has_git_ssh_and_everything_it_imports(
    real_node: Node, namespace: str, operator_image: Image
) -> None:
    script = (
        "import importlib, pkgutil, subprocess, autoresearch_operator as ours, kubernetes.aio.client as client\n"
        "for found in pkgutil.walk_packages(ours.__path__, 'autoresearch_operator.'):\n"
        "    importlib.import_module(found.name)\n"
        "import matplotlib.pyplot as plot; plot.figure().savefig('/tmp/a.svg')\n"
        "client.CoreV1Api\n"
        "for command in (['git', '--version'], ['git', 'http-backend', '--help'], ['ssh', '-V']):\n"
        "    print(subprocess.run(command, capture_output=True, text=True).returncode)\n"
        "print(subprocess.run(['git', 'init', '--bare', '/tmp/r'], capture_output=True).returncode)\n"
    )
    text = said(real_node, namespace, ours("imports", operator_image, "/opt/venv/bin/python", "-c", script))
    codes = text.split()
    assert (codes[0], codes[2], codes[3]) == ("0", "0", "0"), text


def test_the_trainer_image_imports_torch_and_knows_its_commands(
    real_node: Node, namespace: str, trainer_image: Image
) -> None:
    script = (
        "import time; began = time.monotonic(); import torch; x = torch.ones(8, 8, requires_grad=True)\n"
        "(x @ x).sum().backward(); print('torch', torch.__version__, round(time.monotonic() - began, 1))\n"
        "import getpass, os, pyseccomp; print(getpass.getuser(), os.getcwd())\n"
    )
    text = said(real_node, namespace, ours("torch", trainer_image, "python", "-c", script))
    assert text.startswith("torch 2.")
    assert text.splitlines()[-1] == "candidate /"
    text = said(real_node, namespace, ours("commands", trainer_image, "python", "-m", "autoresearch_trainer", "--help"))
    assert {"gate", "train", "judge", "prepare"} <= set(text.split())


def test_the_demo_corpus_is_for_gate_and_judge_alone(real_node: Node, namespace: str, trainer_image: Image) -> None:
    look = (
        "import json, os\n"
        "try: print(*(sorted(os.listdir('/opt/autoresearch/data/' + part)) for part in ('train', 'val')))\n"
        "except PermissionError: print('refused')\n"
    )
    assert said(real_node, namespace, ours("candidate", trainer_image, "python", "-c", look)) == "refused\n"
    trusted = said(real_node, namespace, ours("trusted", trainer_image, "python", "-c", look, user=65533))
    train, val = re.findall(r"\[[^]]*\]", trusted)
    assert "'train'" in train and "'val'" not in train and "'test'" not in train
    assert "'val'" in val and "'test'" in val and "'train'" not in val
