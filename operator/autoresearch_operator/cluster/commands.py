"""What the command line asks of a cluster, from the login to the answer."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import yaml

from autoresearch_operator.api import yamltree
from autoresearch_operator.api.load import load_run
from autoresearch_operator.cluster import doctor
from autoresearch_operator.cluster.seen import KubeError, Object
from autoresearch_operator.gateways.kube_admin import AdminCluster
from autoresearch_operator.manifests import prepare
from autoresearch_operator.manifests.settings import TrialSettings
from autoresearch_operator.observe.findings import Finding

IMAGE_VARIABLE = "AUTORESEARCH_TRAINER_IMAGE"


@dataclass(frozen=True, slots=True)
class Way:
    """The way into a cluster, as kubectl takes it."""

    kubeconfig: Path | None = None
    context: str | None = None


def default_image() -> str:
    """The image that the chart of this version names, unless the environment says another."""
    return os.environ.get(IMAGE_VARIABLE) or f"autoresearch-trainer:{metadata.version('autoresearch-operator')}"


def diagnose(
    way: Way,
    namespace: str,
    *,
    file: Path | None,
    image: str | None,
    canary: bool,
    canary_seconds: float,
    say: Callable[[str], None],
) -> list[Finding]:
    """`autoresearch doctor --namespace`. With `file`, the ResearchRun in it is checked instead of those that are there.

    Raises:
        LoginError: no way into a cluster.
        InvalidResource: the file holds no valid ResearchRun.
        OSError: it cannot be read.
    """
    run: Object | None = None
    if file is not None:
        body = load_run(file.read_text(encoding="utf-8"), filename=str(file), local=False)
        run = body.model_dump(mode="json", exclude_none=True)
        run["metadata"]["namespace"] = namespace
    options = doctor.Options(
        namespace=namespace,
        image=image or default_image(),
        run=run,
        canary=canary,
        canary_seconds=canary_seconds,
        say=say,
    )

    async def work() -> list[Finding]:
        cluster = await AdminCluster.connect_as(way.kubeconfig, way.context)
        try:
            return await doctor.diagnose(cluster, options)
        finally:
            await cluster.close()

    return asyncio.run(work())


def preparation(
    namespace: str, claim: str, arguments: Sequence[str], *, image: str | None, proxy: str | None
) -> list[Object]:
    """The NetworkPolicy and the Job that prepare a data set on a claim.

    Raises:
        PrepareRefused: the arguments do not go with a claim.
    """
    settings = TrialSettings(image=image or default_image())
    policy = prepare.policy(namespace, claim, proxy=proxy)
    return [policy, prepare.job(namespace, claim, arguments, settings, proxy=proxy)]


def as_yaml(bodies: Sequence[Object]) -> str:
    """The objects as one YAML stream."""
    parts = [yaml.dump(body, Dumper=yamltree.Dumper, sort_keys=False, allow_unicode=True, width=120) for body in bodies]
    return "---\n".join(parts)


def apply(way: Way, bodies: Sequence[Object]) -> list[str]:
    """Creates the objects in this order; sentences about each. One that exists is left as it is.

    Raises:
        LoginError: no way into a cluster.
        KubeError: the API server refuses one.
    """
    kinds = {"Job": "jobs", "NetworkPolicy": "networkpolicies"}

    async def work() -> list[str]:
        cluster = await AdminCluster.connect_as(way.kubeconfig, way.context)
        said = []
        try:
            for body in bodies:
                named = f"{body['kind'].lower()}/{body['metadata']['name']}"
                try:
                    await cluster.create(kinds[body["kind"]], body)
                except KubeError as error:
                    if error.status != 409:
                        raise
                    said.append(f"{named} is there already and was left as it is")
                else:
                    said.append(f"{named} created")
        finally:
            await cluster.close()
        return said

    return asyncio.run(work())
