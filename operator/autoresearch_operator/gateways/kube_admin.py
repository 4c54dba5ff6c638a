"""The cluster as a person sees it: with a person's login, and asking without doing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Self

from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config import ConfigException

from autoresearch_operator.gateways.kube import FIELD_MANAGER, KubeCluster, Object
from autoresearch_operator.gateways.kube_errors import KubeError, LoginError
from autoresearch_operator.gateways.kube_kinds import KINDS
from autoresearch_operator.gateways.kube_login import login

FIRST_ANSWER_SECONDS = 20.0
"""How long the first request may take, tries included. A login program that opens a browser takes longer: the answer
then is that nobody answered, and the second try finds the token."""


class AdminCluster(KubeCluster):
    """Requests to one API server under a person's identity. Every method raises KubeError."""

    @classmethod
    async def connect_as(cls, kubeconfig: Path | None, context: str | None) -> Self:
        """Logs in with a kubeconfig (unset: as kubectl finds it, or the pod's service account) and one of its contexts.

        Raises:
            LoginError: the file or the context cannot be used.
        """
        if kubeconfig is None and context is None:
            configuration = await login()
        else:
            configuration = type.__call__(Configuration)
            load: Callable[..., Awaitable[None]] = config.load_kube_config  # which has no types
            try:
                await load(
                    config_file=None if kubeconfig is None else str(kubeconfig),
                    context=context,
                    client_configuration=configuration,
                )
            except (ConfigException, OSError) as error:
                named = f"{kubeconfig or 'the kubeconfig'}" + (f", context {context}" if context else "")
                raise LoginError(f"{named} cannot be used: {error}") from error
        return cls(ApiClient(configuration))

    @property
    def server(self) -> str:
        """The API server's base URL."""
        return str(self._client.configuration.host)

    async def version(self) -> str:
        """The API server's version, such as v1.33.1; the first thing to ask."""
        try:
            async with asyncio.timeout(FIRST_ANSWER_SECONDS):
                return str((await self._request("GET", "/version")).get("gitVersion", "unknown"))
        except TimeoutError as error:
            raise KubeError(0, "NoAnswer", f"no answer from {self.server} in {FIRST_ANSWER_SECONDS:g} s") from error

    async def read(self, path: str) -> Object | None:
        """Whatever is at a path; None: nothing (404)."""
        try:
            return await self._request("GET", path)
        except KubeError as error:
            if error.status == 404:
                return None
            raise

    async def rehearse(self, kind: str, body: Object) -> Object:
        """A creation with everything that belongs to it (defaults, admission, quota) except the object."""
        path = KINDS[kind].path(body["metadata"].get("namespace"))
        return await self._request("POST", path, body=body, query={"fieldManager": FIELD_MANAGER, "dryRun": "All"})

    async def allowed(self, verb: str, group: str, resource: str, namespace: str | None, name: str = "") -> bool:
        """Whether this login may do that; `resource` may be `pods/log`, `namespace` None means all of the cluster."""
        plural, _, subresource = resource.partition("/")
        wanted = {"verb": verb, "group": group, "resource": plural, "subresource": subresource, "name": name}
        attributes = {key: value for key, value in wanted.items() if value} | (
            {"namespace": namespace} if namespace else {}
        )
        review: Mapping[str, Any] = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        answer = await self._request("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", body=review)
        return bool(answer.get("status", {}).get("allowed"))

    async def _log_in_again(self, refused: ApiClient) -> ApiClient:
        """A person's kubeconfig does not change while a command runs: what was refused stays refused."""
        return refused
