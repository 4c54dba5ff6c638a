"""Simulated nodes: Node objects that look like GPU machines, with KWOK as their kubelet."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import partial
from itertools import count
from types import TracebackType
from typing import Self

import yaml

from clusterlab import stages, tools
from clusterlab.api import JSON_PATCH, STRATEGIC_PATCH, Object
from clusterlab.cluster import Cluster
from clusterlab.processes import Daemon, Reaper, free_ports, listening

GPU = "nvidia.com/gpu"
LEASE_SECONDS = 40

PRODUCTS: Mapping[str, tuple[int, int, int]] = {
    "NVIDIA-H100-80GB-HBM3": (81559, 9, 0),
    "NVIDIA-H200": (143771, 9, 0),
    "NVIDIA-A100-SXM4-80GB": (81920, 8, 0),
    "NVIDIA-L4": (23034, 8, 9),
    "Tesla-T4": (15360, 7, 5),
    "NVIDIA-GeForce-RTX-3080": (10240, 8, 6),
}
"""(memory in MiB, compute capability major, minor) by product, as GPU feature discovery labels them."""


def node(
    name: str,
    *,
    keeper: str,
    gpus: int = 8,
    product: str = "NVIDIA-H100-80GB-HBM3",
    driver: str = "570.86.15",
    cpus: int = 64,
    memory_gib: int = 512,
    taint: bool = True,
    sharing: str = "none",
    labels: Mapping[str, str] | None = None,
) -> Object:
    """A Node as a GPU machine registers it: GFD labels, the taint nvidia.com/gpu, allocatable GPUs.

    `keeper`: id of the KWOK that plays its kubelet. `gpus` 0 makes a CPU machine without any of these.
    `sharing`: value of nvidia.com/gpu.sharing-strategy.
    """
    resources = {"cpu": str(cpus), "memory": f"{memory_gib}Gi", "ephemeral-storage": "1Ti", "pods": "250"}
    marks = {
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": "amd64",
        "node.kubernetes.io/instance-type": "simulated",
        stages.LABEL_ALIVE: keeper,
    }
    taints: list[Object] = []
    if gpus:
        resources[GPU] = str(gpus)
        marks |= _gpu_labels(product, gpus, driver, sharing)
        if taint:
            taints.append({"key": GPU, "value": "present", "effect": "NoSchedule"})
    now = _now()
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": marks | dict(labels or {}),
            "annotations": {"kwok.x-k8s.io/node": "fake"},
        },
        "spec": {"taints": taints},
        "status": {
            "capacity": resources,
            "allocatable": resources,
            "conditions": [
                {
                    "type": "Ready",
                    "status": "True",
                    "reason": "KubeletReady",
                    "message": "simulated",
                    "lastHeartbeatTime": now,
                    "lastTransitionTime": now,
                }
            ],
            "addresses": [
                {"type": "InternalIP", "address": "10.255.0.1"},
                {"type": "Hostname", "address": name},
            ],
            "nodeInfo": {
                "architecture": "amd64",
                "bootID": "",
                "containerRuntimeVersion": "containerd://2.1.0",
                "kernelVersion": "6.8.0",
                "kubeProxyVersion": "",
                "kubeletVersion": tools.KUBERNETES_VERSION,
                "machineID": "",
                "operatingSystem": "linux",
                "osImage": "simulated",
                "systemUUID": "",
            },
        },
    }


class Kwok:
    """KWOK beside a cluster, and the nodes it plays.

    with Kwok(cluster, reaper) as kwok:
        kwok.add(2, gpus=8, product="NVIDIA-L4")
    """

    def __init__(self, cluster: Cluster, reaper: Reaper, *, lease_seconds: int = LEASE_SECONDS) -> None:
        self._cluster = cluster
        self._port = free_ports(1)[0]
        # Two KWOKs beside one cluster (a lent one) must not both play one node, nor choose one name twice.
        self._id = secrets.token_hex(2)
        self._anchor = f"anchor-{self._id}"
        self._numbers = count(1)
        self.nodes: list[str] = []
        """Names of the nodes made here and not yet removed."""
        file = cluster.folder / "kwok.yaml"
        file.write_text(yaml.safe_dump_all(stages.configuration(self._id, lease_seconds)))
        self.daemon = Daemon(
            "kwok",
            [
                tools.program("kwok"),
                f"--kubeconfig={cluster.kubeconfig}",
                f"--config={file}",
                f"--server-address=127.0.0.1:{self._port}",
            ],
            log=cluster.folder / "logs" / "kwok.log",
            reaper=reaper,
        )

    def start(self) -> None:
        """Raises NotReady with the end of KWOK's log."""
        self.daemon.start()
        self.daemon.wait_until(lambda: listening(self._port), 30.0)

    def stop(self) -> None:
        """Deletes the nodes and ends KWOK."""
        self.remove(list(self.nodes))
        self.daemon.stop(1.0)

    def add(
        self,
        number: int = 1,
        *,
        prefix: str = "gpu-",
        gpus: int = 8,
        product: str = "NVIDIA-H100-80GB-HBM3",
        driver: str = "570.86.15",
        cpus: int = 64,
        memory_gib: int = 512,
        taint: bool = True,
        sharing: str = "none",
        labels: Mapping[str, str] | None = None,
    ) -> list[str]:
        """Makes nodes (see `node`) and waits until pods can be scheduled to them; returns their names.

        A prefix that begins with stages.SLOW_PREFIX makes nodes on which pods start slowly.
        """
        names = [f"{prefix}{self._id}-{next(self._numbers)}" for _ in range(number)]
        for name in names:
            body = node(
                name,
                keeper=self._id,
                gpus=gpus,
                product=product,
                driver=driver,
                cpus=cpus,
                memory_gib=memory_gib,
                taint=taint,
                sharing=sharing,
                labels=labels,
            )
            self._cluster.api.create("/api/v1/nodes", body)
            self.nodes.append(name)
        for name in names:
            self._cluster.api.wait(partial(self._schedulable, name), f"node {name} without lifecycle taints")
        return names

    def remove(self, names: Iterable[str]) -> None:
        """Deletes Node objects at once; pods on them are orphans, which the pod garbage collector deletes."""
        for name in names:
            self._cluster.api.delete(f"/api/v1/nodes/{name}")
            if name in self.nodes:
                self.nodes.remove(name)

    def lose(self, name: str) -> None:
        """The machine is cut off: no heartbeat, no news of its pods, and what is deleted there stays Terminating.

        The node counts as lost at once (Ready=Unknown and the taint unreachable:NoExecute), without the grace period
        that the node controller would wait; pods then go by their own tolerationSeconds. With more than two nodes
        lost at once and more than half of all, the node controller suspects the network and evicts nobody.
        """
        if self._anchor not in self.nodes:
            # Were all nodes lost, the node controller would take that for its own fault and evict nobody either.
            anchor = node(self._anchor, keeper=self._id, gpus=0)
            anchor["spec"]["unschedulable"] = True
            self._cluster.api.create("/api/v1/nodes", anchor)
            self.nodes.append(self._anchor)
        self._cluster.api.patch(f"/api/v1/nodes/{name}", {"metadata": {"labels": {stages.LABEL_ALIVE: None}}})
        # KWOK must have let go of the node, or it would set Ready back.
        time.sleep(0.5)
        self._cluster.api.patch(
            f"/api/v1/nodes/{name}/status", self._ready("Unknown", "NodeStatusUnknown"), STRATEGIC_PATCH
        )
        self._cluster.api.wait(
            lambda: any(
                t["key"] == "node.kubernetes.io/unreachable" and t["effect"] == "NoExecute" for t in self._taints(name)
            ),
            f"node {name} tainted unreachable:NoExecute",
        )

    def find_again(self, name: str) -> None:
        """The machine is back: heartbeats go on, and Terminating pods go."""
        self._cluster.api.patch(f"/api/v1/nodes/{name}", {"metadata": {"labels": {stages.LABEL_ALIVE: self._id}}})
        self._cluster.api.wait(lambda: self._schedulable(name), f"node {name} back", timeout_seconds=60)
        # KWOK acts on a pod's events only and has dropped those that came meanwhile: here is a new one each.
        touched = {"metadata": {"annotations": {"sim.autoresearch.dev/node-found-at": _now()}}}
        for pod in self._cluster.api.list("/api/v1/pods", fields=f"spec.nodeName={name}"):
            meta = pod["metadata"]
            self._cluster.api.patch(f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}", touched)

    def cordon(self, name: str, *, cordoned: bool = True) -> None:
        """Nothing new is scheduled to the node."""
        self._cluster.api.patch(f"/api/v1/nodes/{name}", {"spec": {"unschedulable": cordoned}})

    def set_gpus(self, name: str, gpus: int) -> None:
        """The device plugin now reports another number of healthy GPUs."""
        operations = [
            {"op": "add", "path": f"/status/{field}/nvidia.com~1gpu", "value": str(gpus)}
            for field in ("capacity", "allocatable")
        ]
        self._cluster.api.request("PATCH", f"/api/v1/nodes/{name}/status", operations, content_type=JSON_PATCH)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def _taints(self, name: str) -> list[Object]:
        taints: list[Object] = self._cluster.api.get(f"/api/v1/nodes/{name}")["spec"].get("taints", [])
        return taints

    def _schedulable(self, name: str) -> bool:
        """Every new node begins with the taint not-ready, until the node controller has seen its Ready condition."""
        return not any(taint["key"].startswith("node.kubernetes.io/") for taint in self._taints(name))

    @staticmethod
    def _ready(status: str, reason: str) -> Object:
        now = _now()
        return {
            "status": {
                "conditions": [
                    {
                        "type": "Ready",
                        "status": status,
                        "reason": reason,
                        "message": "Kubelet stopped posting node status.",
                        "lastHeartbeatTime": now,
                        "lastTransitionTime": now,
                    }
                ]
            }
        }


def _gpu_labels(product: str, gpus: int, driver: str, sharing: str) -> dict[str, str]:
    memory, major, minor = PRODUCTS.get(product, (24576, 8, 0))
    parts = (*driver.split("."), "0", "0")
    return {
        "nvidia.com/gpu.present": "true",
        "nvidia.com/gpu.product": product,
        "nvidia.com/gpu.memory": str(memory),
        "nvidia.com/gpu.count": str(gpus),
        "nvidia.com/gpu.replicas": "1",
        "nvidia.com/gpu.sharing-strategy": sharing,
        "nvidia.com/gpu.compute.major": str(major),
        "nvidia.com/gpu.compute.minor": str(minor),
        "nvidia.com/cuda.driver-version.full": driver,
        "nvidia.com/cuda.driver-version.major": parts[0],
        "nvidia.com/cuda.driver-version.minor": parts[1],
        "nvidia.com/cuda.driver-version.revision": parts[2],
        "nvidia.com/cuda.driver.major": parts[0],
        "nvidia.com/cuda.driver.minor": parts[1],
        "nvidia.com/cuda.driver.rev": parts[2],
        "nvidia.com/mig.capable": "false",
    }


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
