"""etcd, kube-apiserver, kube-controller-manager and kube-scheduler as processes of this machine.

    with ControlPlane.start_new() as plane:
        plane.kubectl("get", "namespaces")
        plane.restart("kube-apiserver")

Needs no root. Everything is below one temporary folder and ends with `stop()`, or with the process that started it.
"""

from __future__ import annotations

import json
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

import yaml

from clusterlab import commandlines, tools
from clusterlab.api import ApiError, Object
from clusterlab.cluster import Cluster, kubeconfig_document
from clusterlab.commandlines import Layout
from clusterlab.pki import Authority, signing_key
from clusterlab.processes import Daemon, Reaper, free_ports, listening

GROUPS = ("kubernetes", "etcd")
"""Tool groups that a control plane is made of."""

COMPONENTS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
"""In the order in which they start."""

READY_SECONDS = 120.0
"""How long one component may take to answer: it takes 5 s on a free machine, and 30 s were seen on a crowded one."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a test may choose about its control plane."""

    bind_address: str = "127.0.0.1"
    """Address the API server listens on; "0.0.0.0" when pods must reach it over a bridge."""
    advertise_address: str = "127.0.0.1"
    """Address behind the Service `kubernetes`; the bridge's when pods must reach it."""
    names: tuple[str, ...] = ()
    """More DNS names and IP addresses for the API server's certificate."""
    service_cidr: str = "10.96.0.0/16"
    """Range of Service addresses; its first one is the Service `kubernetes`, its tenth is customary for DNS."""
    audit: bool = True
    """Whether every request is logged at level Metadata (who, what, how long; never a body) into `audit_path`."""
    node_monitor_grace_seconds: int = 50
    """Seconds without a heartbeat after which a node counts as lost; Kubernetes' own default."""
    component_arguments: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """More arguments by component name; they come last and so win."""


class ControlPlane(Cluster):
    """A running control plane; made by `start_new()`. Components are named as in COMPONENTS."""

    def __init__(self, options: Options, folder: Path, reaper: Reaper) -> None:
        self.options = options
        self.reaper = reaper
        self.started_seconds = 0.0
        """Seconds from the first process to a cluster that takes pods."""
        self.authority = Authority(folder / "pki")
        self.token = secrets.token_urlsafe(24)
        self._reaped = reaper.folder(folder)
        ports = free_ports(5)
        self.layout = Layout(
            folder=folder,
            etcd_port=ports[0],
            etcd_peer_port=ports[1],
            api_port=ports[2],
            controllers_port=ports[3],
            scheduler_port=ports[4],
        )
        self._write_files()
        super().__init__(self.layout.admin_kubeconfig, folder)
        lines = commandlines.all_of(self.layout, options, self.authority.pair)
        self.daemons = {
            name: Daemon(
                name,
                [tools.program(name), *lines[name], *options.component_arguments.get(name, ())],
                log=folder / "logs" / f"{name}.log",
                reaper=reaper,
            )
            for name in COMPONENTS
        }

    @classmethod
    def start_new(cls, options: Options | None = None) -> Self:
        """Builds what is missing, starts everything and waits until pods can be created.

        Raises ToolsMissing when a program cannot be had, NotReady (with the end of a log) when one does not come up.
        """
        tools.build(GROUPS)
        folder = Path(tempfile.mkdtemp(prefix="autoresearch-cluster-"))
        reaper = Reaper()
        plane = cls(options or Options(), folder, reaper)
        try:
            plane._start_all()
        except BaseException:
            plane.stop()
            raise
        return plane

    # -- What tests read --

    @property
    def audit_path(self) -> Path:
        """The audit log: one JSON event a line. Empty when the option `audit` is off."""
        return self.layout.audit_log

    @property
    def etcd_url(self) -> str:
        """etcd's client URL (plain HTTP on the loopback); `/metrics` has its sizes."""
        return f"http://127.0.0.1:{self.layout.etcd_port}"

    @property
    def server_for_pods(self) -> str:
        """The API server's URL as seen from the advertised address."""
        return f"https://{self.options.advertise_address}:{self.layout.api_port}"

    def audit_size(self) -> int:
        """Bytes written to the audit log so far: a mark for `audit_events`."""
        return self.audit_path.stat().st_size if self.audit_path.exists() else 0

    def audit_events(self, since: int = 0) -> Iterator[Object]:
        """Audit events after the mark `since`; a last line still being written is left out."""
        if not self.audit_path.exists():
            return
        with self.audit_path.open("rb") as log:
            log.seek(since)
            for line in log:
                if line.endswith(b"\n"):
                    yield json.loads(line)

    def user_kubeconfig(self, name: str, group: str, *, server: str | None = None) -> Path:
        """A kubeconfig with a client certificate: ("system:node:<name>", "system:nodes") for a kubelet."""
        pair = self.authority.user(name, group)
        path = self.folder / f"kubeconfig-{pair.certificate.stem}"
        user = {"client-certificate": str(pair.certificate), "client-key": str(pair.key)}
        self._write_kubeconfig(path, user, server)
        return path

    # -- What tests break --

    def stop_component(self, name: str, *, grace_seconds: float = 0.0) -> None:
        """Kills one component; with a grace it gets SIGTERM first."""
        self.daemons[name].stop(grace_seconds)

    def start_component(self, name: str) -> None:
        """Starts one component again on its old ports and data, and waits until it answers."""
        daemon = self.daemons[name]
        daemon.start()
        daemon.wait_until(lambda: self._answers(name), READY_SECONDS)

    def restart(self, name: str, *, grace_seconds: float = 0.0, away_seconds: float = 0.0) -> None:
        """Kills one component, leaves it away for a while and brings it back.

        etcd keeps what it had written to its files: it does not fsync, and only a crash of the machine could tell.
        """
        self.stop_component(name, grace_seconds=grace_seconds)
        time.sleep(away_seconds)
        self.start_component(name)

    def stop(self) -> None:
        """Ends all processes and deletes the folder. A second call does nothing."""
        for name in reversed(COMPONENTS):
            # Nothing here is worth an orderly end: the data goes too.
            self.daemons[name].stop(0.0)
        self.api.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        self.reaper.forget(self._reaped)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    # -- Start --

    def _start_all(self) -> None:
        began = time.monotonic()
        for name in ("etcd", "kube-apiserver"):
            self.start_component(name)
        # Both wait for nothing but the API server: started together, they come up in the time of the slower one.
        late = ("kube-controller-manager", "kube-scheduler")
        for name in late:
            self.daemons[name].start()
        for name in late:
            self.daemons[name].wait_until(partial(self._answers, name), READY_SECONDS)
        self.api.wait(
            lambda: self.api.find("/api/v1/namespaces/default/serviceaccounts/default"),
            "the default service account (the controller-manager makes it)",
            timeout_seconds=READY_SECONDS,
        )
        self.started_seconds = time.monotonic() - began

    def _answers(self, name: str) -> bool:
        if name == "etcd":
            return listening(self.layout.etcd_port)
        if name == "kube-apiserver":
            try:
                return self.api.raw("/readyz") == "ok"
            except ApiError:
                return False
        port = self.layout.controllers_port if name == "kube-controller-manager" else self.layout.scheduler_port
        return listening(port)

    def _write_files(self) -> None:
        layout = self.layout
        for path in (layout.folder / "etcd", layout.folder / "logs"):
            path.mkdir(parents=True, exist_ok=True)
        first_service_address = commandlines.first_address(self.options.service_cidr)
        names = ["localhost", "127.0.0.1", "kubernetes", "kubernetes.default", "kubernetes.default.svc"]
        names += ["kubernetes.default.svc.cluster.local", first_service_address, self.options.advertise_address]
        self.authority.serving("kube-apiserver", tuple(dict.fromkeys([*names, *self.options.names])))
        # The API server shows this one to kubelets (logs, exec).
        self.authority.user("kube-apiserver-kubelet-client", "system:masters")
        signing_key(layout.folder / "pki")
        (layout.folder / "tokens.csv").write_text(f'{self.token},admin,admin,"system:masters"\n')
        (layout.folder / "audit-policy.yaml").write_text(yaml.safe_dump(commandlines.AUDIT_POLICY))
        self._write_kubeconfig(layout.admin_kubeconfig, {"token": self.token})
        for name in ("kube-controller-manager", "kube-scheduler"):
            pair = self.authority.user(f"system:{name}", f"system:{name}")
            user = {"client-certificate": str(pair.certificate), "client-key": str(pair.key)}
            self._write_kubeconfig(layout.kubeconfig(name), user)
        layout.scheduler_configuration.write_text(yaml.safe_dump(commandlines.scheduler_configuration(layout)))

    def _write_kubeconfig(self, path: Path, user: Mapping[str, str], server: str | None = None) -> None:
        url = server or f"https://127.0.0.1:{self.layout.api_port}"
        document = kubeconfig_document(url, self.authority.pair.certificate.read_bytes(), user)
        path.write_text(yaml.safe_dump(document))
        path.chmod(0o600)
