"""The chart, installed with real Helm on the test node as an administrator would, and what a person then does."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from clusterlab import tools
from clusterlab.node import Node
from clusterlab.processes import Daemon, free_ports

CHART = Path(__file__).resolve().parents[2] / "charts" / "autoresearch-operator"
RELEASE = "lab"
NAME = f"{RELEASE}-autoresearch-operator"
GROUP = "/apis/autoresearch.dev/v1alpha1"

Object = dict[str, Any]


class HelmFailed(Exception):
    """Helm ended with another code than 0; the message is what it said."""


class Lab:
    """A namespace at the restricted level with one installation of the operator that serves it."""

    def __init__(self, node: Node, namespace: str, folder: Path, values: Mapping[str, Any]) -> None:
        self.node, self.namespace, self.folder = node, namespace, folder
        self.plane, self.api = node.plane, node.plane.api
        self.volume = folder / "volume"
        """The volume of repositories, as this machine sees it."""
        (self.git_port,) = free_ports(1)
        self._values = folder / "values.yaml"
        self._values.write_text(yaml.safe_dump({**values, "git": {"baseURL": f"http://localhost:{self.git_port}"}}))
        self.seconds: dict[str, float] = {}
        """What took how long, for docs/benchmarks.md."""

    def provide_volume(self) -> None:
        """One local volume, as an administrator of a cluster without a provisioner makes it."""
        self.volume.mkdir()
        body = {
            "metadata": {"name": self.namespace},
            "spec": {
                "capacity": {"storage": "10Gi"},
                "accessModes": ["ReadWriteOnce"],
                "persistentVolumeReclaimPolicy": "Retain",
                "claimRef": {"namespace": self.namespace, "name": f"{NAME}-data"},
                "local": {"path": str(self.volume)},
                "nodeAffinity": {
                    "required": {
                        "nodeSelectorTerms": [
                            {
                                "matchExpressions": [
                                    {"key": "kubernetes.io/hostname", "operator": "In", "values": [self.node.name]}
                                ]
                            }
                        ]
                    }
                },
            },
        }
        self.api.create("/api/v1/persistentvolumes", body)

    def helm(self, *arguments: str | Path) -> str:
        """Standard output. Raises HelmFailed."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("HELM_", "KUBE"))}
        environment |= {f"HELM_{kind}_HOME": str(self.folder / kind.lower()) for kind in ("CACHE", "CONFIG", "DATA")}
        done = subprocess.run(
            [str(tools.program("helm")), *map(str, arguments), "--namespace", self.namespace],
            env=environment | {"KUBECONFIG": str(self.plane.kubeconfig)},
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )
        if done.returncode != 0:
            raise HelmFailed(f"{done.stdout}\n{done.stderr}\n{self.words()}")
        return done.stdout

    def install(self) -> str:
        """`helm install`, until the operator is ready; what it said."""
        began = time.monotonic()
        said = self.helm("install", RELEASE, CHART, "--values", self._values, "--wait", "--timeout", "5m")
        self.seconds.setdefault("helm install until ready", time.monotonic() - began)
        return said

    def words(self) -> str:
        """What the operator's pod says of itself, for the message of a failure."""
        return self.kubectl("describe", "pods", "-l", "app.kubernetes.io/name=autoresearch-operator") + self.log()

    def log(self) -> str:
        return self.kubectl("logs", f"deployment/{NAME}", "--tail=-1")

    def kubectl(self, *arguments: str, input: str | Object | None = None, check: bool = False) -> str:
        """kubectl in the lab's namespace."""
        return self.plane.kubectl("-n", self.namespace, *arguments, input=input, check=check)

    def run(self, name: str) -> Object:
        return self.api.get(f"{GROUP}/namespaces/{self.namespace}/researchruns/{name}")

    def experiments(self, name: str) -> list[Object]:
        """In the order of their numbers."""
        path = f"{GROUP}/namespaces/{self.namespace}/experiments"
        found = self.api.list(path, labels=f"autoresearch.dev/run={name}")
        return sorted(found, key=lambda body: int(body["spec"]["number"]))

    def wait_for(self, condition: str, name: str, seconds: float) -> None:
        """`kubectl wait`; fails with all that is known about the run."""
        deadline = time.monotonic() + seconds
        while True:
            # In pieces: kubectl's own time limit says nothing about the run.
            said = self.kubectl("wait", f"--for=condition={condition}", f"rr/{name}", "--timeout=20s")
            if "condition met" in said:
                return
            over = {c["type"] for c in self.run(name).get("status", {}).get("conditions", ()) if c["status"] == "True"}
            if time.monotonic() > deadline or "Failed" in over - {condition}:
                raise AssertionError(f"{said}\n{self.told(name)}\n{self.log()[-6000:]}")

    def told(self, name: str) -> str:
        """Everything that kubectl tells about a run."""
        parts = [
            self.kubectl("get", "rr,exp", "-o", "wide"),
            self.kubectl("describe", f"rr/{name}"),
            self.kubectl("get", "jobs,pods", "-o", "wide"),
        ]
        return "\n".join(parts)

    @contextmanager
    def git_server(self) -> Iterator[None]:
        """`kubectl port-forward` to the git server while the block runs, as the chart's NOTES say."""
        forward = Daemon(
            "port-forward",
            [
                *(tools.program("kubectl"), "--kubeconfig", self.plane.kubeconfig, "-n", self.namespace),
                *("port-forward", f"service/{NAME}", f"{self.git_port}:8081"),
            ],
            log=self.folder / "port-forward.log",
            reaper=self.plane.reaper,
        )
        forward.start()
        try:
            forward.wait_until(lambda: "Forwarding from" in (self.folder / "port-forward.log").read_text(), 60)
            yield
        finally:
            forward.stop()


def git(folder: Path, *arguments: str) -> str:
    """Standard output of git in `folder`, with nobody's configuration."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "GIT_CONFIG_NOSYSTEM": "1"}
    done = subprocess.run(
        ["git", "-c", "safe.directory=*", "-C", str(folder), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"git {' '.join(arguments)}: {done.stderr}"
    return done.stdout.strip()


def landings(folder: Path, head: str, source: str) -> list[dict[str, str]]:
    """Trailers of the commits that the run put on its branch, oldest first, with the commit's name under `commit`."""
    found = []
    for commit in git(folder, "rev-list", "--reverse", f"{source}..{head}").split():
        lines = git(folder, "show", "-s", "--format=%(trailers:only,unfold)", commit).splitlines()
        found.append({"commit": commit, **dict(line.split(": ", 1) for line in lines if ": " in line)})
    return found
