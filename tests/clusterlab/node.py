"""A node that runs real containers: containerd, kubelet, kube-proxy and CoreDNS, joined to a control plane.

    network = Network.pick()
    with ControlPlane.start_new(network.options()) as plane, Node(plane, network) as node:
        node.import_image(images.probe())

Needs root and Debian's containerd, runc, CNI plugins, iptables and conntrack. Everything runs in namespaces of its own,
whose first process takes the rest with it when it ends: see node_init.py.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Self

from clusterlab import images, node_config, node_images, node_init, reaper, tools
from clusterlab.api import JSON_PATCH, ApiError
from clusterlab.controlplane import ControlPlane
from clusterlab.images import Image
from clusterlab.node_cgroups import CgroupRoot
from clusterlab.node_config import Layout
from clusterlab.node_network import Network
from clusterlab.processes import Daemon, NotReady

GROUPS = ("kubernetes", "coredns")
PACKAGES = {
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "iptables": "iptables",
    "conntrack": "conntrack",
    "nsenter": "util-linux",
    "ip": "iproute2",
}
"""Debian package by program."""
NAMESPACES = ("unshare", "--mount", "--net", "--pid", "--fork", "--kill-child=SIGKILL")
TUNABLES = ("vm.overcommit_memory", "vm.panic_on_oom", "kernel.panic", "kernel.panic_on_oops")
"""What a kubelet sets for the whole machine; put back when the node ends."""


def missing() -> str | None:
    """Why no node can run here, as a sentence with the way out; None when one can."""
    if os.geteuid() != 0:
        return "a node that runs real containers needs root: run these tests as root, or in CI"
    absent = {package for program, package in PACKAGES.items() if shutil.which(program) is None}
    if not any(Path(folder, "bridge").exists() for folder in node_config.CNI_PROGRAMS):
        absent.add("containernetworking-plugins")
    if absent:
        return f"install what the node is made of: apt install {' '.join(sorted(absent))}"
    return None


class Node:
    """One node. `name` is its object's name; `labels` are put on it after it has registered."""

    def __init__(
        self,
        plane: ControlPlane,
        network: Network,
        *,
        name: str = "real-node",
        labels: Mapping[str, str] | None = None,
    ) -> None:
        if reason := missing():
            raise tools.ToolsMissing(reason)
        tools.build(GROUPS)
        self.plane = plane
        self.network = network
        self.name = name
        self.labels = dict(labels or {})
        self.started_seconds = 0.0
        """Seconds from the first process to a Ready node with DNS."""
        folder = Path(tempfile.mkdtemp(prefix="autoresearch-node-"))
        self._kept = node_images.Kept.take(tools.cache().parent / "node")
        self.layout = Layout(folder=folder, images=self._kept.folder if self._kept else folder / "containerd")
        self.logs = folder / "logs"
        self._undo = [plane.reaper.folder(folder)]
        self._cgroups = CgroupRoot(f"autoresearch-node-{network.octet}")
        self._undo += [plane.reaper.command(command) for command in self._cgroups.remove_commands()]
        self._init = Daemon(
            "node",
            [*NAMESPACES, sys.executable, "-I", "-S", node_init.__file__, folder],
            log=self.logs / "node.log",
            reaper=plane.reaper,
        )
        self._first = 0
        self.daemons: dict[str, Daemon] = {}
        """containerd, kubelet, kube-proxy, coredns: each may be stopped and started again by a test."""

    # -- Life --

    def start(self) -> None:
        """Starts everything and waits until pods can run and resolve names. Raises NotReady with the end of a log."""
        began = time.monotonic()
        self.logs.mkdir(parents=True, exist_ok=True)
        for name in TUNABLES:
            path = f"/proc/sys/{name.replace('.', '/')}"
            now = Path(path).read_text().strip()
            self._undo.append(self.plane.reaper.command(["sh", "-c", f"echo {now} > {path}"]))
        try:
            self._start_namespaces()
            self._write_files()
            self._start_containerd()
            self._start_kubelet()
            self._start_services()
        except BaseException:
            self.stop()
            raise
        self.started_seconds = time.monotonic() - began

    def stop(self) -> None:
        """Ends the node and everything in it, and takes away what it left. A second call does nothing."""
        for daemon in reversed(self.daemons.values()):
            daemon.stop(0.0)
        self.daemons = {}
        # The first process of the PID namespace: the kernel ends every container with it.
        self._init.stop(0.0)
        if self._undo:
            self._cgroups.remove()
            for line in reversed(self._undo):
                kind, _, _ = line.partition(" ")
                if kind == "command":
                    with contextlib.suppress(OSError, subprocess.SubprocessError):
                        reaper.clean(line)
                self.plane.reaper.forget(line)
            self._undo = []
        shutil.rmtree(self.layout.folder, ignore_errors=True)
        if self._kept:
            self._kept.release()
            self._kept = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    # -- What tests do --

    def import_image(self, image: Image) -> float:
        """Makes an image known to the node under its own name; returns the seconds it took.

        One that an earlier node of this machine has imported is there already. Raises NotReady with containerd's words.
        """
        began = time.monotonic()
        listed = node_images.targets(self._ctr("images", "list"))
        if image.digest not in listed or listed.get(image.name) != listed[image.digest]:
            self._ctr("images", "import", str(image.archive))
            # What the name meant before, or the disk would fill with every change of our code.
            stale = node_images.nameless(node_images.targets(self._ctr("images", "list")))
            if stale:
                self._ctr("images", "remove", *stale)
        return time.monotonic() - began

    def image_names(self) -> list[str]:
        """Names of the images on the node."""
        return self._ctr("images", "list", "-q").split()

    def set_gpus(self, count: int, resource: str = "nvidia.com/gpu", *, product: str = "") -> None:
        """Gives the node `count` simulated GPUs and waits until pods can ask for them; 0 takes them away.

        No device is behind them: a pod that asks for one gets the scheduling and nothing else.
        """
        path = f"/status/capacity/{resource.replace('/', '~1')}"
        change = [{"op": "add", "path": path, "value": str(count)}]
        self.plane.api.patch(f"{self.path}/status", change, JSON_PATCH)
        if product:
            self.plane.api.patch(self.path, {"metadata": {"labels": {"nvidia.com/gpu.product": product}}})
        self.plane.api.wait(
            lambda: self.plane.api.get(self.path)["status"]["allocatable"].get(resource) == str(count),
            f"{count} {resource} allocatable on {self.name} (the kubelet copies the capacity)",
            timeout_seconds=60,
        )

    @property
    def path(self) -> str:
        """Path of the Node object."""
        return f"/api/v1/nodes/{self.name}"

    def run(self, *command: str, timeout_seconds: float = 60.0) -> str:
        """Standard output of a command inside the node's namespaces. Raises NotReady with what it said."""
        done = subprocess.run(
            [*self._inside(), *command], capture_output=True, text=True, timeout=timeout_seconds, check=False
        )
        if done.returncode != 0:
            raise NotReady(f"{' '.join(command)} on the node: {done.stderr.strip()[-2000:]}")
        return done.stdout

    def answers(self, url: str, *, seconds: float = 0.0) -> bool:
        """Whether `url` answers 200 to this machine, asked until `seconds` have passed."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                with urllib.request.urlopen(url, timeout=1) as answer:  # noqa: S310 - http to our own node
                    return bool(answer.status == HTTPStatus.OK)
            except (urllib.error.URLError, OSError):
                if time.monotonic() >= deadline:
                    return False
                time.sleep(0.1)

    # -- Start --

    def _start_namespaces(self) -> None:
        self._init.start()
        ready = self.layout.folder / "ready"
        self._init.wait_until(ready.exists, 20)
        children = Path(f"/proc/{self._init.pid}/task/{self._init.pid}/children").read_text().split()
        self._first = int(children[0])
        link, network = self.network.link, self.network
        self._undo.append(self.plane.reaper.command(["ip", "link", "delete", link]))
        # A cable between this machine and the node: it goes when the node's network namespace does.
        _run("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", str(self._first))
        _run("ip", "address", "add", f"{network.host_address}/30", "dev", link)
        _run("ip", "link", "set", link, "up")
        self.run("ip", "address", "add", f"{network.node_address}/30", "dev", "eth0")
        self.run("ip", "link", "set", "eth0", "up")
        self.run("ip", "route", "add", "default", "via", network.host_address)
        # Tests on this machine may talk to pods and Services as pods do.
        for destination in (network.pods, network.services):
            _run("ip", "route", "add", destination, "via", network.node_address)

    def _write_files(self) -> None:
        root = self._cgroups.create()
        node_config.write_all(self.layout, self.network, self.plane.authority.pair.certificate, root)
        users = {
            "kubelet": (f"system:node:{self.name}", "system:nodes"),
            "kube-proxy": ("system:kube-proxy", "system:authenticated"),
            # CoreDNS in a real cluster is a service account with its own role; here it may read what it needs.
            "coredns": ("system:node-dns", "system:masters"),
        }
        for program, (user, group) in users.items():
            made = self.plane.user_kubeconfig(user, group, server=self.plane.server_for_pods)
            shutil.copyfile(made, self.layout.file(f"{program}.kubeconfig"))

    def _start_containerd(self) -> None:
        daemon = self._daemon("containerd", "containerd", "--config", self.layout.file("containerd.toml"))
        daemon.start()
        daemon.wait_until(self._containerd_answers, 30)
        if left := self._ctr("containers", "list", "--quiet").split():
            # Containers of the last node, which ended with it; the kubelet must not inherit them.
            self._ctr("containers", "remove", *left)
            daemon.stop()
            shutil.rmtree(self.layout.images / "io.containerd.grpc.v1.cri", ignore_errors=True)
            daemon.start()
            daemon.wait_until(self._containerd_answers, 30)
        self.import_image(images.probe())

    def _start_kubelet(self) -> None:
        self._daemon(
            "kubelet",
            tools.program("kubelet"),
            f"--config={self.layout.file('kubelet.yaml')}",
            f"--kubeconfig={self.layout.file('kubelet.kubeconfig')}",
            f"--root-dir={self.layout.kubelet}",
            f"--cert-dir={self.layout.kubelet / 'pki'}",
            f"--hostname-override={self.name}",
            f"--node-ip={self.network.node_address}",
        ).start()

    def _start_services(self) -> None:
        proxy = self._daemon(
            "kube-proxy",
            tools.program("kube-proxy"),
            f"--config={self.layout.file('kube-proxy.yaml')}",
            f"--hostname-override={self.name}",
        )
        dns = self._daemon("coredns", tools.program("coredns"), "-conf", self.layout.file("Corefile"))
        proxy.start()
        dns.start()
        for path, document in node_config.dns_objects(self.network).items():
            self.plane.api.apply(path, document)
        self.daemons["kubelet"].wait_until(self._ready, 90)
        if self.labels:
            self.plane.api.patch(self.path, {"metadata": {"labels": self.labels}})
        dns.wait_until(lambda: self.answers(f"http://{self.network.node_address}:8181/ready"), 30)
        proxy.wait_until(lambda: self.answers(f"http://{self.network.node_address}:10256/healthz"), 30)

    def _daemon(self, name: str, *argv: str | Path) -> Daemon:
        made = Daemon(
            name,
            [*self._inside(), *argv],
            log=self.logs / f"{name}.log",
            reaper=self.plane.reaper,
            # No proxy of this machine lies between the node and its control plane.
            environment={"PATH": os.environ["PATH"] + ":/usr/sbin:/sbin", "HOME": str(self.layout.folder)},
        )
        self.daemons[name] = made
        return made

    def _inside(self) -> list[str]:
        return ["nsenter", "--target", str(self._first), "--mount", "--net", "--pid", "--"]

    def _ctr(self, *arguments: str) -> str:
        command = ("ctr", "--address", str(self.layout.socket), "--namespace", "k8s.io", *arguments)
        return self.run(*command, timeout_seconds=900)

    def _containerd_answers(self) -> bool:
        try:
            self._ctr("version")
        except NotReady:
            return False
        return True

    def _ready(self) -> bool:
        try:
            found = self.plane.api.find(self.path)
        except ApiError:
            return False
        conditions = {c["type"]: c["status"] for c in (found or {}).get("status", {}).get("conditions", [])}
        return conditions.get("Ready") == "True"


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise NotReady(f"{' '.join(command)}: {done.stderr.strip()}")
