"""Kueue's own controller beside a control plane, with its definitions and webhooks; it manages Jobs only.

    with Kueue(plane) as kueue:
        kueue.queue(namespace, "research", gpus=4)

No cert-manager: Kueue makes its certificates itself and keeps them in a Secret, which a kubelet would mount for it. The
API server finds the webhooks by a Service of type ExternalName, as no pod runs behind it. A control plane that Kueue
was started beside is of no use without it: its webhooks refuse every Job once they do not answer.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from clusterlab import tools
from clusterlab.api import Object
from clusterlab.controlplane import ControlPlane
from clusterlab.processes import Daemon, free_ports, listening

NAMESPACE = "kueue-system"
SERVICE = "kueue-webhook-service"
SECRET = "kueue-webhook-server-cert"  # noqa: S105 - a name
GROUP = "/apis/kueue.x-k8s.io/v1beta2"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
READY_SECONDS = 120.0
_ADMISSION = "/apis/admissionregistration.k8s.io/v1"


def manifests() -> Path:
    """The folder of Kueue's manifests, in the module that its program is built from.

    Raises ToolsMissing when the module cannot be had.
    """
    asked = subprocess.run(
        [tools.go(), "mod", "download", "-json", "sigs.k8s.io/kueue"],
        cwd=tools.GROUPS["kueue"].folder,
        env=os.environ | {"GOWORK": "off", "GOFLAGS": "-mod=readonly"},
        capture_output=True,
        text=True,
        check=False,
    )
    folder = json.loads(asked.stdout or "{}").get("Dir")
    if not folder:
        raise tools.ToolsMissing(f"Kueue's module could not be read: {asked.stderr.strip()[-400:]}")
    return Path(folder) / "config" / "components"


class Kueue:
    """The controller, its definitions, its webhooks."""

    def __init__(self, plane: ControlPlane, **configuration: Any) -> None:
        """`configuration`: more fields of Kueue's Configuration, such as waitForPodsReady."""
        self._plane = plane
        self._webhook_port, self._health_port = free_ports(2)
        self._folder = plane.folder / "kueue"
        self._certificates = self._folder / "certificates"
        self._certificates.mkdir(parents=True)
        self._configuration = configuration
        self._daemon = self._program()

    def start(self) -> None:
        """Raises NotReady with the end of Kueue's log."""
        self._install()
        self._daemon.start()
        self._daemon.wait_until(self._certified, READY_SECONDS)
        self._daemon.wait_until(self._answers, READY_SECONDS)

    def stop(self) -> None:
        self._daemon.stop(2.0)

    def configure(self, **configuration: Any) -> None:
        """Starts Kueue anew with these fields of its Configuration in place of the former ones."""
        self.stop()
        self._configuration = configuration
        self._daemon = self._program()
        self._daemon.start()
        self._daemon.wait_until(self._answers, READY_SECONDS)

    def queue(self, namespace: str, name: str, *, gpus: int, flavor: str = "any") -> None:
        """A LocalQueue of a ClusterQueue `<namespace>-<name>` with this quota of GPUs, and room enough of the rest."""
        quota = {"cpu": 512, "memory": "8Ti", "ephemeral-storage": "64Ti", "nvidia.com/gpu": gpus}
        cluster_queue = {
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
            "resourceGroups": [
                {
                    "coveredResources": list(quota),
                    "flavors": [
                        {
                            "name": flavor,
                            "resources": [{"name": what, "nominalQuota": much} for what, much in quota.items()],
                        }
                    ],
                }
            ],
        }
        self._apply(f"{GROUP}/resourceflavors/{flavor}", "ResourceFlavor", {})
        self._apply(f"{GROUP}/clusterqueues/{namespace}-{name}", "ClusterQueue", cluster_queue)
        path = f"{GROUP}/namespaces/{namespace}/localqueues/{name}"
        self._apply(path, "LocalQueue", {"clusterQueue": f"{namespace}-{name}"})
        self._plane.api.wait(lambda: _is(self._plane.api.get(path), "Active"), f"LocalQueue {name} active")

    def hold(self, namespace: str, name: str, policy: str) -> None:
        """Sets a queue's stopPolicy: None, Hold (nothing new is admitted) or HoldAndDrain (and all is evicted)."""
        self._plane.api.patch(f"{GROUP}/clusterqueues/{namespace}-{name}", {"spec": {"stopPolicy": policy}})

    def workloads(self, namespace: str) -> list[Object]:
        return list(self._plane.api.list(f"{GROUP}/namespaces/{namespace}/workloads"))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    # Installation --------------------------------------------------------------------------------------------------

    def _install(self) -> None:
        source = manifests()
        if self._plane.api.find(f"/api/v1/namespaces/{NAMESPACE}") is None:
            self._plane.create_namespace(NAMESPACE)
        api = self._plane.api
        api.apply(
            f"/api/v1/namespaces/{NAMESPACE}/services/{SERVICE}",
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": SERVICE, "namespace": NAMESPACE},
                "spec": {"type": "ExternalName", "externalName": "localhost"},
            },
        )
        api.apply(
            f"/api/v1/namespaces/{NAMESPACE}/secrets/{SECRET}",
            {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET, "namespace": NAMESPACE}},
        )
        self._plane.install_crds(self._definitions(source / "crd"))
        for webhooks in yaml.safe_load_all((source / "webhook" / "manifests.yaml").read_text()):
            kind = webhooks["kind"]
            name = f"kueue-{kind.removesuffix('WebhookConfiguration').lower()}-webhook-configuration"
            webhooks["metadata"] = {"name": name}
            webhooks["webhooks"] = [hook for hook in webhooks["webhooks"] if _is_ours(hook)]
            for hook in webhooks["webhooks"]:
                self._direct(hook["clientConfig"])
            api.apply(f"{_ADMISSION}/{kind.lower()}s/{name}", webhooks)

    def _definitions(self, folder: Path) -> Iterator[Object]:
        """As the kustomization beside them puts them together."""
        for file in sorted((folder / "bases").glob("*.yaml")):
            crd = yaml.safe_load(file.read_text())
            patch = folder / "patches" / f"webhook_in_{crd['spec']['names']['plural']}.yaml"
            if patch.exists() and len(crd["spec"]["versions"]) > 1:
                crd["spec"]["conversion"] = yaml.safe_load(patch.read_text())["spec"]["conversion"]
                self._direct(crd["spec"]["conversion"]["webhook"]["clientConfig"])
            yield crd

    def _direct(self, client: dict[str, Any]) -> None:
        client["service"] |= {"namespace": NAMESPACE, "name": SERVICE, "port": self._webhook_port}

    def _certified(self) -> bool:
        """Writes the certificates where Kueue looks for them, as a kubelet does with a mounted Secret."""
        secret = self._plane.api.get(f"/api/v1/namespaces/{NAMESPACE}/secrets/{SECRET}")
        data: Mapping[str, str] = secret.get("data") or {}
        if "tls.crt" not in data:
            return False
        for name, value in data.items():
            (self._certificates / name).write_bytes(base64.b64decode(value))
        return True

    # The program ---------------------------------------------------------------------------------------------------

    def _program(self) -> Daemon:
        document = {
            "apiVersion": "config.kueue.x-k8s.io/v1beta2",
            "kind": "Configuration",
            "namespace": NAMESPACE,
            "health": {"healthProbeBindAddress": f"127.0.0.1:{self._health_port}"},
            "metrics": {"bindAddress": "0"},
            "webhook": {"host": "127.0.0.1", "port": self._webhook_port, "certDir": str(self._certificates)},
            "leaderElection": {"leaderElect": False},
            "internalCertManagement": {
                "enable": True,
                "webhookServiceName": SERVICE,
                "webhookSecretName": SECRET,
            },
            "integrations": {"frameworks": ["batch/job"]},
            **self._configuration,
        }
        file = self._folder / "configuration.yaml"
        file.write_text(yaml.safe_dump(document))
        return Daemon(
            "kueue",
            # Its server of pending workloads would need an API service of its own.
            [tools.program("kueue"), f"--config={file}", "--feature-gates=VisibilityOnDemand=false"],
            log=self._plane.folder / "logs" / "kueue.log",
            reaper=self._plane.reaper,
            environment=os.environ | {"KUBECONFIG": str(self._plane.kubeconfig)},
        )

    def _answers(self) -> bool:
        return listening(self._webhook_port)

    def _apply(self, path: str, kind: str, spec: Object) -> None:
        metadata = {"name": path.rsplit("/", 1)[1]}
        if "/namespaces/" in path:
            metadata["namespace"] = path.split("/")[-3]
        self._plane.api.apply(
            path, {"apiVersion": "kueue.x-k8s.io/v1beta2", "kind": kind, "metadata": metadata, "spec": spec}
        )


def _is_ours(hook: Mapping[str, Any]) -> bool:
    """Whether a webhook is of Kueue's own kinds or of Jobs: those of frameworks that are switched off go nowhere."""
    groups = {group for rule in hook["rules"] for group in rule["apiGroups"]}
    return groups <= {"kueue.x-k8s.io", "batch"}


def _is(item: Object, condition: str) -> bool:
    found = item.get("status", {}).get("conditions") or ()
    return any(one["type"] == condition and one["status"] == "True" for one in found)
