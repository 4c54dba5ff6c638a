"""Command lines of the control plane's components, with the reason for every flag that is not obvious."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from clusterlab.api import Object
from clusterlab.pki import KeyPair

if TYPE_CHECKING:
    from clusterlab.controlplane import Options

CLIENT_QPS, CLIENT_BURST = 1000, 2000
"""Requests per second the controllers allow themselves. Their defaults (20 to 50) would be what a load test measures:
200 Jobs of 2 s on 32 GPUs took 59 s with them, of which 13 s were work."""

AUDIT_POLICY: Object = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    # One event a request, when it is over: the other stages would double the log and say nothing more.
    "omitStages": ["RequestReceived", "ResponseStarted"],
    "rules": [
        # The components' own heartbeat and the health checks of the tests are no one's traffic.
        {"level": "None", "nonResourceURLs": ["/healthz*", "/readyz*", "/livez*", "/metrics"]},
        {"level": "Metadata"},
    ],
}


@dataclass(frozen=True)
class Layout:
    """Files and ports of one control plane."""

    folder: Path
    etcd_port: int
    etcd_peer_port: int
    api_port: int
    controllers_port: int
    scheduler_port: int

    @property
    def admin_kubeconfig(self) -> Path:
        return self.folder / "kubeconfig"

    @property
    def audit_log(self) -> Path:
        return self.folder / "logs" / "audit.log"

    @property
    def scheduler_configuration(self) -> Path:
        return self.folder / "scheduler.yaml"

    def kubeconfig(self, component: str) -> Path:
        return self.folder / f"kubeconfig-{component}"

    def pki(self, name: str) -> str:
        return str(self.folder / "pki" / name)


def first_address(cidr: str) -> str:
    """The Service `kubernetes` always gets the first address of the range."""
    return str(ipaddress.ip_network(cidr)[1])


def all_of(layout: Layout, options: Options, authority: KeyPair) -> dict[str, list[str]]:
    """Arguments by component name."""
    return {
        "etcd": _etcd(layout),
        "kube-apiserver": _api_server(layout, options, authority),
        "kube-controller-manager": _controllers(layout, options, authority),
        "kube-scheduler": [f"--config={layout.scheduler_configuration}", *_quiet_port(layout.scheduler_port, layout)],
    }


def _etcd(layout: Layout) -> list[str]:
    client, peer = (f"http://127.0.0.1:{port}" for port in (layout.etcd_port, layout.etcd_peer_port))
    return [
        f"--data-dir={layout.folder / 'etcd'}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        # Ten times the writes on a slow disk; only a crash of the machine could lose what was written.
        "--unsafe-no-fsync",
        "--log-level=warn",
        f"--quota-backend-bytes={4 << 30}",
    ]


def _api_server(layout: Layout, options: Options, authority: KeyPair) -> list[str]:
    arguments = [
        f"--etcd-servers=http://127.0.0.1:{layout.etcd_port}",
        f"--bind-address={options.bind_address}",
        f"--secure-port={layout.api_port}",
        f"--advertise-address={options.advertise_address}",
        f"--service-cluster-ip-range={options.service_cidr}",
        f"--tls-cert-file={layout.pki('kube-apiserver.crt')}",
        f"--tls-private-key-file={layout.pki('kube-apiserver.key')}",
        f"--client-ca-file={authority.certificate}",
        f"--token-auth-file={layout.folder / 'tokens.csv'}",
        "--authorization-mode=Node,RBAC",
        # ExtendedResourceToleration: a pod that asks for nvidia.com/gpu tolerates the taint of that name by itself,
        # as on the managed clusters whose GPU nodes carry it.
        "--enable-admission-plugins=NodeRestriction,ExtendedResourceToleration",
        "--allow-privileged",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        f"--service-account-key-file={layout.pki('service-account.pub')}",
        f"--service-account-signing-key-file={layout.pki('service-account.key')}",
        f"--kubelet-client-certificate={layout.pki('kube-apiserver-kubelet-client.crt')}",
        f"--kubelet-client-key={layout.pki('kube-apiserver-kubelet-client.key')}",
        # By default `kubectl logs` looks the node's name up in DNS first.
        "--kubelet-preferred-address-types=InternalIP",
        "--profiling=false",
    ]
    if options.audit:
        arguments += [
            f"--audit-policy-file={layout.folder / 'audit-policy.yaml'}",
            f"--audit-log-path={layout.audit_log}",
            # Batched: the log must not be what a latency measurement measures.
            "--audit-log-mode=batch",
            "--audit-log-batch-max-wait=500ms",
            "--audit-log-maxsize=2000",
        ]
    return arguments


def _controllers(layout: Layout, options: Options, authority: KeyPair) -> list[str]:
    return [
        f"--kubeconfig={layout.kubeconfig('kube-controller-manager')}",
        # One identity a controller, as in a real cluster: the audit log then tells their shares apart.
        "--use-service-account-credentials",
        f"--service-account-private-key-file={layout.pki('service-account.key')}",
        f"--root-ca-file={authority.certificate}",
        f"--cluster-signing-cert-file={authority.certificate}",
        f"--cluster-signing-key-file={authority.key}",
        "--leader-elect=false",
        f"--kube-api-qps={CLIENT_QPS}",
        f"--kube-api-burst={CLIENT_BURST}",
        "--concurrent-job-syncs=50",
        "--concurrent-gc-syncs=50",
        "--concurrent-namespace-syncs=20",
        f"--node-monitor-grace-period={options.node_monitor_grace_seconds}s",
        "--node-monitor-period=2s",
        *_quiet_port(layout.controllers_port, layout),
    ]


def _quiet_port(port: int, layout: Layout) -> list[str]:
    return ["--bind-address=127.0.0.1", f"--secure-port={port}", f"--cert-dir={layout.folder / 'pki'}"]


def scheduler_configuration(layout: Layout) -> Object:
    """The scheduler takes these from a file only."""
    return {
        "apiVersion": "kubescheduler.config.k8s.io/v1",
        "kind": "KubeSchedulerConfiguration",
        "leaderElection": {"leaderElect": False},
        "clientConnection": {
            "kubeconfig": str(layout.kubeconfig("kube-scheduler")),
            "qps": CLIENT_QPS,
            "burst": CLIENT_BURST,
        },
    }
