"""A cluster as tests see it, whether we started it or somebody lent it: a kubeconfig and what one does with it."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from clusterlab import tools
from clusterlab.api import Api, ApiError, Object

RESTRICTED = {
    "pod-security.kubernetes.io/enforce": "restricted",
    "pod-security.kubernetes.io/enforce-version": "latest",
}


class KubectlFailed(Exception):
    """kubectl ended with another code than 0; the message is its standard error."""


def kubeconfig_document(server: str, authority: bytes, user: Mapping[str, Any], namespace: str = "default") -> Object:
    """A kubeconfig with one context. `authority`: the CA's PEM; `user`: the entry with token or certificate."""
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "clusterlab",
        "clusters": [
            {
                "name": "clusterlab",
                "cluster": {
                    "server": server,
                    "certificate-authority-data": base64.b64encode(authority).decode(),
                },
            }
        ],
        "users": [{"name": "clusterlab", "user": dict(user)}],
        "contexts": [
            {
                "name": "clusterlab",
                "context": {"cluster": "clusterlab", "user": "clusterlab", "namespace": namespace},
            }
        ],
    }


class Cluster:
    """A cluster behind a kubeconfig with administrator's rights.

    `folder` is where derived files go (kubeconfigs of service accounts); it must exist.
    """

    def __init__(self, kubeconfig: Path, folder: Path) -> None:
        self.kubeconfig = kubeconfig
        self.folder = folder
        self.api = Api(kubeconfig)

    def kubectl(
        self, *arguments: str, input: str | Object | None = None, kubeconfig: Path | None = None, check: bool = True
    ) -> str:
        """Runs kubectl and returns its standard output; an `input` object is passed as JSON (for `-f -`).

        Raises KubectlFailed with kubectl's own words, unless `check` is off (then output and errors are returned).
        """
        text = json.dumps(input) if isinstance(input, dict) else input
        done = subprocess.run(
            [kubectl_program(), "--kubeconfig", str(kubeconfig or self.kubeconfig), *arguments],
            input=text,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env={key: value for key, value in os.environ.items() if key != "KUBECONFIG"},
        )
        if done.returncode == 0:
            return done.stdout
        if not check:
            return done.stdout + done.stderr
        raise KubectlFailed(f"kubectl {' '.join(arguments)}: {done.stderr.strip() or done.stdout.strip()}")

    def create_namespace(self, name: str, labels: Mapping[str, str] | None = None) -> None:
        """Makes a namespace and waits until a pod can be created in it. The restricted level is enforced by default.

        Raises ApiError when it exists.
        """
        self.api.create(
            "/api/v1/namespaces",
            {"metadata": {"name": name, "labels": dict(RESTRICTED if labels is None else labels)}},
        )
        self.api.wait(
            lambda: self.api.find(f"/api/v1/namespaces/{name}/serviceaccounts/default"),
            f"the default service account of namespace {name}",
        )

    def delete_namespace(self, name: str, *, wait_seconds: float = 0.0) -> None:
        """Asks for the namespace's deletion; waits until it is gone when `wait_seconds` is given."""
        self.api.delete(f"/api/v1/namespaces/{name}")
        if wait_seconds:
            self.api.wait(
                lambda: self.api.find(f"/api/v1/namespaces/{name}") is None,
                f"namespace {name} gone",
                timeout_seconds=wait_seconds,
                every_seconds=0.2,
            )

    def install_crds(self, documents: Iterable[Object | Path]) -> None:
        """Applies CustomResourceDefinitions (objects, or files of them) and waits until the server serves them."""
        names: list[str] = []
        for document in documents:
            loaded = list(yaml.safe_load_all(document.read_text())) if isinstance(document, Path) else [document]
            for crd in filter(None, loaded):
                name = crd["metadata"]["name"]
                self.api.apply(f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}", crd)
                names.append(name)
        for name in names:
            self.api.wait(partial(self._established, name), f"CRD {name} established")

    def service_account(
        self,
        namespace: str,
        name: str,
        *,
        rules: Iterable[Object] = (),
        cluster_rules: Iterable[Object] = (),
        token_seconds: int = 86_400,
    ) -> Path:
        """A kubeconfig with a token of the service account, which is made when it is not there.

        `rules` become a Role in its namespace, `cluster_rules` a ClusterRole; both bound to it. Raises ApiError.
        """
        base = f"/api/v1/namespaces/{namespace}/serviceaccounts"
        if self.api.find(f"{base}/{name}") is None:
            self.api.create(base, {"metadata": {"name": name}})
        subject = {"kind": "ServiceAccount", "name": name, "namespace": namespace}
        if own := list(rules):
            self._bind(f"/namespaces/{namespace}", "Role", name, own, subject)
        if wide := list(cluster_rules):
            self._bind("", "ClusterRole", f"{namespace}-{name}", wide, subject)
        answer = self.api.create(
            f"{base}/{name}/token",
            {
                "apiVersion": "authentication.k8s.io/v1",
                "kind": "TokenRequest",
                "spec": {"expirationSeconds": token_seconds},
            },
        )
        document = yaml.safe_load(self.kubeconfig.read_text())
        known = document["clusters"][0]["cluster"]
        path = self.folder / f"kubeconfig-{namespace}-{name}"
        made = kubeconfig_document(self.api.server, b"", {"token": answer["status"]["token"]}, namespace)
        made["clusters"][0]["cluster"] = known
        path.write_text(yaml.safe_dump(made))
        path.chmod(0o600)
        return path

    def _bind(self, where: str, kind: str, name: str, rules: list[Object], subject: Object) -> None:
        base = f"/apis/rbac.authorization.k8s.io/v1{where}"
        header = {"apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {"name": name}}
        self.api.apply(f"{base}/{kind.lower()}s/{name}", header | {"kind": kind, "rules": rules})
        self.api.apply(
            f"{base}/{kind.lower()}bindings/{name}",
            header
            | {
                "kind": f"{kind}Binding",
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name},
                "subjects": [subject],
            },
        )

    def _established(self, name: str) -> bool:
        crd = self.api.get(f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}")
        conditions = {c["type"]: c["status"] for c in crd.get("status", {}).get("conditions") or ()}
        if conditions.get("Established") != "True":
            return False
        # Established comes a moment before the handler serves the path.
        spec = crd["spec"]
        try:
            for version in spec["versions"]:
                self.api.list(f"/apis/{spec['group']}/{version['name']}/{spec['names']['plural']}")
        except ApiError:
            return False
        return True


def kubectl_program() -> str:
    """Our own kubectl when it is built (same version as the server), else the one on the path. Raises ToolsMissing."""
    if tools.is_built("kubernetes"):
        return str(tools.program("kubectl"))
    found = shutil.which("kubectl")
    if found is None:
        raise tools.ToolsMissing(
            "kubectl is missing: run `scripts/cluster build kubernetes` once, or install it "
            "(https://kubernetes.io/docs/tasks/tools)"
        )
    return found
