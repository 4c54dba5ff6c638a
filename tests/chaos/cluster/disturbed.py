"""A run that something is done to, and what it should come to all the same."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import controlledruns
from clusterlab.cluster import Cluster
from controlledruns import OperatorProcess, Watched, request
from gitservers import GitServer
from runrepositories import Store, secret

SCRIPT = """\
WIDTH = 64  # search: int 16..256
DEPTH = 4  # search: int 1..8
LR = 0.1  # search: log 0.001..1
DECAY = 0.01  # search: log 0.0001..0.5
"""
OPERATORS = "operators"
"""The namespace of Leases: not the run's, which some tests delete."""


class Operator(OperatorProcess):
    """One whose Lease lives elsewhere, which pushes as often as it likes, and which compares often."""

    def __init__(self, cluster: Cluster, namespace: str, folder: Path, *, name: str = "operator", **own: str) -> None:
        super().__init__(cluster, namespace, folder, name=name)
        self._environment |= {
            "AUTORESEARCH_LEASE_NAMESPACE": OPERATORS,
            "AUTORESEARCH_LEASE_NAME": f"{name}-{namespace}",
            "AUTORESEARCH_LEASE_SECONDS": "5",
            "AUTORESEARCH_PUSHES_PER_MINUTE": "600",
            "AUTORESEARCH_RESYNC_SECONDS": "10",
        } | {f"AUTORESEARCH_{key.upper()}": value for key, value in own.items()}
        if "kubeconfig" in own:
            self._environment["KUBECONFIG"] = own["kubeconfig"]

    def at_work(self) -> int:
        """How many starts have come as far as working."""
        return self.log.read_text().count("at work after") if self.log.exists() else 0

    def wait_at_work(self, starts: int = 1, seconds: float = 120) -> None:
        until = time.monotonic() + seconds
        while self.at_work() < starts:
            assert time.monotonic() < until, self.log.read_text()[-3000:]
            time.sleep(0.05)


class Disturbed:
    """A run, the operator that carries it out, and what the plan alone decides in a repository nobody disturbs."""

    def __init__(
        self, cluster: Cluster, namespace: str, folder: Path, *, server: GitServer | None = None, **spec: Any
    ) -> None:
        self.cluster, self.namespace, self.folder, self.server = cluster, namespace, folder, server
        self.secrets = Store()
        if server is not None:
            assert server.ca is not None
            host = server.url.split("/")[2]
            ca = {"ca": server.ca.read_text()}
            given = secret("kubernetes.io/basic-auth", host, username="me", word=server.password or "none", **ca)
            self.secrets[namespace, "lab-git"] = given
            spec["source"] = {"url": server.url, "ref": "main", "secretName": "lab-git"}
        self.body = request(namespace, **spec)
        # Before anything is pushed: the same first state of the server.
        self.expected = controlledruns.planned(folder / "undisturbed", self.body, secrets=self.secrets)
        self.operator = Operator(cluster, namespace, folder)

    @property
    def run(self) -> Watched:
        return Watched(self.cluster, self.namespace, self.body["metadata"]["name"])

    def apply(self) -> None:
        """Applies the run, and the Secret it names."""
        for given in self.secrets.values():
            body = {"apiVersion": "v1", "kind": "Secret", **given}
            self.cluster.api.create(f"/api/v1/namespaces/{self.namespace}/secrets", body)
        self.cluster.api.create(self.run.path("researchruns"), self.body)

    def begin(self) -> None:
        """Starts the operator and the run, and waits until ideas are tried."""
        self.operator.start()
        self.apply()
        self.run.wait(lambda: self.run.status().get("phase") == "Running", "the baseline", 180)

    def wait_done(self, number: int, seconds: float = 180) -> None:
        """Waits until so many verdicts were given."""
        self.run.wait(lambda: self.done() >= number, f"{number} verdicts", seconds)

    def done(self) -> int:
        counts = self.run.status().get("counts") or {}
        return int(counts.get("done", 0))

    def over(self) -> bool:
        return bool(self.run.condition("Complete") or self.run.condition("Failed"))

    def check(self, seconds: float = 240, *, volume: Path | None = None) -> None:
        """Waits for the run's end, and compares every copy of the result with what was to come out.

        `volume`: where the ledger is read, default the operator's; a new folder takes it from the git server.
        """
        self.run.wait_complete(seconds)
        best = self.run.status()["best"]["commit"]
        assert best == self.expected[1], self.operator.log.read_text()[-6000:]
        if self.server is not None:
            self.run.wait(lambda: self.server_head() == self.expected[1], "the branch on the server", 60)
            self.wait_for_the_servers_ledger()
        self.operator.stop()
        assert self.found(volume or self.operator.volume) == self.expected
        assert any(verdict[2] == "Accepted" for verdict in self.expected[0][1:]), "nothing landed: no test of a branch"
        said = {item["spec"]["number"]: item["status"].get("verdict") for item in self.run.items("experiments")}
        assert said == {number: verdict for number, _, verdict, *_ in self.expected[0]}

    def found(self, volume: Path) -> Any:
        """What a volume's ledger says; fails when a measurement is in it twice."""
        return controlledruns.ledger(volume, self.body, secrets=self.secrets)

    def wait_for_the_servers_ledger(self) -> None:
        """Waits until the ledger on the git server says that the run is over: it is pushed after the status is written,
        and a branch without its record would be half a result."""
        self.run.wait(lambda: self._server_run().get("finished"), "the record's end on the server", 120)

    def _server_run(self) -> dict[str, Any]:
        assert self.server is not None
        ref = f"refs/autoresearch/{self.namespace}-{self.body['metadata']['name']}/ledger"
        if ref not in self.server.refs():
            return {}
        show = ["git", "-C", str(self.server.path), "show", f"{ref}:run.json"]
        told: dict[str, Any] = json.loads(subprocess.run(show, capture_output=True, check=True).stdout)
        return told

    def server_head(self) -> str | None:
        """Where the branch is on the git server."""
        assert self.server is not None
        name = self.body["metadata"]["name"]
        return self.server.refs().get(f"refs/heads/autoresearch/{self.namespace}-{name}")


def script(server: GitServer) -> GitServer:
    """Puts a script with several knobs on the server's main branch."""
    server.person("refs/heads/main", train__py=SCRIPT)
    return server
