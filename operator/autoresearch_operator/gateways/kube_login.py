"""Finding the way into the cluster: the pod's service account, else a kubeconfig."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from kubernetes.aio import config as kubernetes_config
from kubernetes.aio.client import Configuration
from kubernetes.aio.config import ConfigException

from autoresearch_operator.gateways.kube_errors import LoginError

_config: Any = kubernetes_config  # whose functions carry no types

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


def own_namespace() -> str:
    """The namespace this process runs in, as its service account says; `default` outside a cluster."""
    try:
        return (SERVICE_ACCOUNT / "namespace").read_text(encoding="utf-8").strip() or "default"
    except OSError:
        return "default"


async def login() -> Configuration:
    """Server, certificates and credentials, read anew at each call.

    In a pod the token's file is read again every minute (it is replaced about once an hour). A kubeconfig's tokens
    from a login program live for as long as that program says: who gets a 401 logs in again.

    Raises:
        LoginError: neither a service account nor a usable kubeconfig.
    """
    # A Configuration made by calling the class would start from whatever default another part of the process has set.
    configuration: Configuration = type.__call__(Configuration)
    try:
        if not os.environ.get("KUBECONFIG") and (SERVICE_ACCOUNT / "token").exists():
            _config.load_incluster_config(client_configuration=configuration)
        else:
            # The library would take the variable's value of when it was read in.
            file = os.environ.get("KUBECONFIG") or None
            await _config.load_kube_config(config_file=file, client_configuration=configuration)
    except (ConfigException, OSError) as error:
        raise LoginError(
            f"no way into a cluster: {error}. In a pod, mount its service account; elsewhere set KUBECONFIG to a"
            " kubeconfig file"
        ) from error
    return configuration
