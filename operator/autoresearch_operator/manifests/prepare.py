"""The Job that prepares a data set on a claim: the one pod of ours that may talk to the outside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from autoresearch_operator.manifests import small
from autoresearch_operator.manifests.containers import DATA_FOLDER, TRUSTED_USER
from autoresearch_operator.manifests.names import LABEL_MANAGED_BY, MANAGER
from autoresearch_operator.manifests.settings import Resources, TrialSettings
from autoresearch_operator.research.trialspec import GIB

SECONDS = 24 * 3600
"""Longest time of one attempt. Climbmix at its default size takes under an hour on a home line."""
RETRIES = 4
"""What was fetched is kept on the claim, so a second attempt goes on where the first was cut off."""
RESOURCES = Resources(cpu=2, memory=8 * GIB, storage=1 * GIB)
"""Tokenising keeps one file of the corpus in memory at a time, about 2 GiB with its tokens."""
_TEMPORARY = "256Mi"


class PrepareRefused(ValueError):
    """The arguments do not go with a claim; the message says which and what to do."""


def job(
    namespace: str,
    claim: str,
    arguments: Sequence[str],
    settings: TrialSettings,
    *,
    resources: Resources = RESOURCES,
    proxy: str | None = None,
) -> dict[str, Any]:
    """The Job. `arguments` are those of `autoresearch prepare` that choose the corpus and its sizes.

    Raises:
        PrepareRefused: an argument names a place of this machine.
    """
    _check(arguments)
    name = job_name(claim)
    environment = {
        # Downloads are on the claim too, so that a retry goes on; /tmp is small and in memory's way.
        "AUTORESEARCH_CACHE": f"{DATA_FOLDER}/.cache",
        "HOME": "/tmp",  # noqa: S108 - a volume of the container's own
        **({"HTTPS_PROXY": proxy, "https_proxy": proxy} if proxy else {}),
    }
    command = ["python", "-m", "autoresearch_trainer", "prepare", *arguments, "--parts", "--out", DATA_FOLDER]
    preparing = small.container(
        "prepare",
        command,
        settings,
        resources,
        env=environment,
        mounts=[{"name": "data", "mountPath": DATA_FOLDER}, {"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108 - as above
    )
    volumes: list[small.Object] = [
        {"name": "data", "persistentVolumeClaim": {"claimName": claim}},
        {"name": "tmp", "emptyDir": {"sizeLimit": _TEMPORARY}},
    ]
    # The group makes a fresh volume, which belongs to root, writable; gate and judge read as the same user.
    return small.job(
        namespace,
        name,
        _labels(name),
        [preparing],
        settings,
        seconds=SECONDS,
        retries=RETRIES,
        volumes=volumes,
        group=TRUSTED_USER,
    )


def policy(namespace: str, claim: str, *, proxy: str | None = None) -> dict[str, Any]:
    """What the Job's pod may reach: DNS and HTTPS anywhere (and the proxy's port); nothing may reach it."""
    name = job_name(claim)
    ports = [{"protocol": protocol, "port": 53} for protocol in ("UDP", "TCP")]
    ports.append({"protocol": "TCP", "port": 443})
    if proxy:
        ports.append({"protocol": "TCP", "port": _port(proxy)})
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": namespace, "labels": _labels(name)},
        "spec": {
            "podSelector": {"matchLabels": _labels(name)},
            "policyTypes": ["Ingress", "Egress"],
            "egress": [{"ports": ports}],
        },
    }


def job_name(claim: str) -> str:
    """At most 63 characters: a Job's name is a label's value too."""
    return f"prepare-{claim}"[:63].rstrip("-.")


def _labels(name: str) -> dict[str, str]:
    return {LABEL_MANAGED_BY: MANAGER, small.LABEL_PART: name.replace(".", "-")}


def _port(proxy: str) -> int:
    """Raises PrepareRefused."""
    try:
        parts = urlsplit(proxy)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise PrepareRefused(f"--proxy {proxy} is not a URL such as http://proxy.lab.example:3128")
    if parts.username or parts.password:
        raise PrepareRefused("--proxy holds a password, which everybody who sees the Job could read: use one without")
    return port or (443 if parts.scheme == "https" else 80)


def _check(arguments: Sequence[str]) -> None:
    options = [argument.partition("=")[0] for argument in arguments]
    if "--text" in options:
        raise PrepareRefused(
            "--text names files of this machine, which the cluster cannot read: prepare them here with --parts, then "
            "copy both folders onto the claim (docs/install.md, Data)"
        )
    if "--out" in options:
        raise PrepareRefused("--out does not go with --claim: the data go to the claim's top, as train/ and val/")
    if not {"--demo", "--dataset"} & set(options):
        raise PrepareRefused("no corpus is chosen: add --dataset climbmix, --dataset tinystories or --demo")
