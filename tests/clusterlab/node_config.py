"""Configuration files of the test node's programs, with the reason for every setting that is not obvious."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import yaml

from clusterlab.api import Object
from clusterlab.node_network import Network

PAUSE_IMAGE = "localhost/autoresearch-probe:1"
CLUSTER_DOMAIN = "cluster.local"
CNI_PROGRAMS = ("/usr/lib/cni", "/opt/cni/bin")
"""Where Debian's and the upstream package put the CNI plugins."""


@dataclass(frozen=True)
class Layout:
    """Files of one node. `images` may outlive it: containerd's content and unpacked layers."""

    folder: Path
    images: Path

    @property
    def socket(self) -> Path:
        return self.folder / "containerd.sock"

    @property
    def kubelet(self) -> Path:
        return self.folder / "kubelet"

    def file(self, name: str) -> Path:
        return self.folder / name


def write_all(layout: Layout, network: Network, client_ca: Path, cgroup_root: str) -> None:
    """Writes every file but the kubeconfigs."""
    (layout.folder / "cni").mkdir(parents=True, exist_ok=True)
    layout.file("containerd.toml").write_text(_containerd(layout))
    layout.file("cni/10-node.conflist").write_text(json.dumps(_cni(layout, network)))
    layout.file("kubelet.yaml").write_text(yaml.safe_dump(_kubelet(layout, network, client_ca, cgroup_root)))
    layout.file("kube-proxy.yaml").write_text(yaml.safe_dump(_kube_proxy(layout, network)))
    layout.file("Corefile").write_text(_corefile(layout, network))
    # Pods with dnsPolicy Default; this machine's own servers are none of their business.
    layout.file("resolv.conf").write_text(f"nameserver {network.dns_address}\n")


def _containerd(layout: Layout) -> str:
    plugins = next((folder for folder in CNI_PROGRAMS if Path(folder, "bridge").exists()), CNI_PROGRAMS[0])
    return f"""
version = 2
root = "{layout.images}"
state = "{layout.folder}/containerd-state"
# These need devices or a service that a test node has no use for.
disabled_plugins = ["io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.aufs", "io.containerd.tracing.processor.v1.otlp"]

[grpc]
address = "{layout.socket}"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE_IMAGE}"
# Without CAP_SYS_RESOURCE runc may not lower a score below its own, and dies trying.
restrict_oom_score_adj = true

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{plugins}"
conf_dir = "{layout.folder}/cni"
"""


def _cni(layout: Layout, network: Network) -> Object:
    return {
        "cniVersion": "0.4.0",
        "name": "pods",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isGateway": True,
                "ipMasq": True,
                # A pod that asks for its own Service comes back over the bridge.
                "hairpinMode": True,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": network.pods}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                    "dataDir": str(layout.folder / "cni-addresses"),
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ],
    }


def _kubelet(layout: Layout, network: Network, client_ca: Path, cgroup_root: str) -> Object:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": f"unix://{layout.socket}",
        "authentication": {"anonymous": {"enabled": False}, "x509": {"clientCAFile": str(client_ca)}},
        "authorization": {"mode": "Webhook"},
        "address": network.node_address,
        "clusterDNS": [network.dns_address],
        "clusterDomain": CLUSTER_DOMAIN,
        "resolvConf": str(layout.file("resolv.conf")),
        "podCIDR": network.pods,
        "podLogsDir": str(layout.folder / "pod-logs"),
        "staticPodPath": "",
        "volumePluginDir": str(layout.folder / "volume-plugins"),
        # The machine may have either version of cgroups, may have swap, and has no systemd to ask.
        "failCgroupV1": False,
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": cgroup_root,
        "failSwapOn": False,
        "oomScoreAdj": 0,
        # A full disk of the machine is not what these tests are about, and their images must stay.
        "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "imageMinimumGCAge": "24h",
        # As fast as it can tell: seconds of a test are spent waiting for these.
        "nodeStatusUpdateFrequency": "5s",
        "syncFrequency": "10s",
        "kubeAPIQPS": 100,
        "kubeAPIBurst": 200,
        "registryPullQPS": 0,
        "serializeImagePulls": False,
        "shutdownGracePeriod": "0s",
    }


def _kube_proxy(layout: Layout, network: Network) -> Object:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "clientConnection": {"kubeconfig": str(layout.file("kube-proxy.kubeconfig"))},
        "clusterCIDR": network.pods,
        "healthzBindAddress": f"{network.node_address}:10256",
        "metricsBindAddress": f"{network.node_address}:10249",
        # The machine's connection tracking table is not ours to size.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        "iptables": {"minSyncPeriod": "100ms"},
    }


def _corefile(layout: Layout, network: Network) -> str:
    return f"""
.:53 {{
    bind {network.node_address}
    errors
    ready {network.node_address}:8181
    kubernetes {CLUSTER_DOMAIN} in-addr.arpa {{
        kubeconfig {layout.file("coredns.kubeconfig")}
        pods insecure
        ttl 5
    }}
}}
"""


def dns_objects(network: Network) -> dict[str, Object]:
    """The Service behind which CoreDNS answers, by path; it runs as a process of the node, so it has no pods."""
    labels = {"k8s-app": "kube-dns", "kubernetes.io/name": "CoreDNS"}
    ports = [("dns", "UDP"), ("dns-tcp", "TCP")]
    return {
        "/api/v1/namespaces/kube-system/services/kube-dns": {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "kube-dns", "labels": labels},
            "spec": {
                "clusterIP": network.dns_address,
                "ports": [{"name": name, "protocol": protocol, "port": 53} for name, protocol in ports],
            },
        },
        "/apis/discovery.k8s.io/v1/namespaces/kube-system/endpointslices/kube-dns-node": {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": "kube-dns-node", "labels": {"kubernetes.io/service-name": "kube-dns"}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": [network.node_address], "conditions": {"ready": True}}],
            "ports": [{"name": name, "protocol": protocol, "port": 53} for name, protocol in ports],
        },
    }
