"""`autoresearch doctor --namespace`: looks at a cluster before a run takes a GPU of it.

The checks are pure and stand in doctor_platform, doctor_places and doctor_runs; here the objects are fetched.
What this login may not read is a finding too, and the rest goes on without it.
"""

from __future__ import annotations

import asyncio
import secrets as randomness
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from typing import Any, TypeVar

from autoresearch_operator.api.crd import KINDS as DEFINED
from autoresearch_operator.api.load import InvalidResource
from autoresearch_operator.api.reasons import ExperimentKind
from autoresearch_operator.api.run import ResearchRun, RunPhase
from autoresearch_operator.cluster import canary, doctor_places, doctor_platform, doctor_runs
from autoresearch_operator.cluster.controller import parsed
from autoresearch_operator.cluster.credentials import SecretNotAllowed, credentials
from autoresearch_operator.cluster.doctor_platform import Installation
from autoresearch_operator.cluster.seen import KubeError, Object
from autoresearch_operator.gateways.kube_admin import AdminCluster
from autoresearch_operator.gateways.kube_kinds import Kind
from autoresearch_operator.gateways.process import Access
from autoresearch_operator.gateways.rehearsal import rehearse_push
from autoresearch_operator.manifests import job
from autoresearch_operator.manifests.settings import TrialSettings
from autoresearch_operator.observe.findings import Finding
from autoresearch_operator.research.names import trial_seed
from autoresearch_operator.research.records import ExperimentRecord, Purpose, TrialKey, TrialStart
from autoresearch_operator.research.terms import AUDIT_PAIRS

CANARY_SECONDS = 180.0
"""How long the canary may take by default: both pods start within seconds, unless a node has to pull the image."""
_LOOK_SECONDS = 1.0
_ASK = "This login may not look: ask an administrator to run this command."
_DEPLOYMENT = Kind("apps", "v1", "deployments")
_NAMESPACE = Kind("", "v1", "namespaces", namespaced=False)
_DEFINITION = Kind("apiextensions.k8s.io", "v1", "customresourcedefinitions", namespaced=False)
_EXAMPLE = {"apiVersion": "autoresearch.dev/v1alpha1", "kind": "ResearchRun", "spec": {}}

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Options:
    """What to look at."""

    namespace: str
    image: str
    """The trainer's image where no operator says one."""
    run: Object | None = None
    """A ResearchRun to check instead of those in the namespace; it need not be in the cluster."""
    canary: bool = True
    canary_seconds: float = CANARY_SECONDS
    push: bool = True
    clock: Callable[[], float] = time.time
    say: Callable[[str], None] = lambda _sentence: None
    """Told what takes long."""


async def diagnose(cluster: AdminCluster, options: Options) -> list[Finding]:
    """Looks at everything; seconds, and up to `canary_seconds` for the canary. Makes nothing but the canary."""
    try:
        version = await cluster.version()
    except KubeError as error:
        advice = "Try kubectl version with the same kubeconfig and context; a VPN or a proxy may be missing."
        return [Finding("api server", "fail", error.message, advice)]
    doctor = _Doctor(cluster, options)
    doctor.findings.append(doctor_platform.server_finding(cluster.server, version))
    await doctor.platform()
    await doctor.nodes()
    await doctor.runs()
    if options.canary:
        await doctor.canary()
    return doctor.findings


class _Doctor:
    def __init__(self, cluster: AdminCluster, options: Options) -> None:
        self._cluster = cluster
        self._options = options
        self._namespace = options.namespace
        self._there = True
        """The namespace exists, as far as can be seen."""
        self._settings = TrialSettings(image=options.image)
        self._places: list[doctor_places.Place] | None = None
        self._rights: Mapping[doctor_platform.Right, bool] = {}
        self.findings: list[Finding] = []

    # What every run stands on ---------------------------------------------------------------------------------------

    async def platform(self) -> None:
        """Definitions, operator, Lease, rights, namespace."""
        for kind in DEFINED:
            found = await self._try(f"definition {kind.plural}", self._read(_DEFINITION, None, kind.name))
            if found is not _UNKNOWN:
                self.findings.append(doctor_platform.definition_finding(kind, found))
        await self._operator()
        found = await self._try("namespace", self._read(_NAMESPACE, None, self._namespace))
        if found is not _UNKNOWN:
            self._there = found is not None
            self.findings.append(doctor_platform.namespace_finding(self._namespace, found))
        granted = await asyncio.gather(
            *(
                self._cluster.allowed(right.verb, right.group, right.resource, self._namespace)
                for right in doctor_platform.RIGHTS
            ),
            return_exceptions=True,
        )
        self._rights = {right: answer is True for right, answer in zip(doctor_platform.RIGHTS, granted, strict=True)}
        self.findings.append(doctor_platform.rights_finding(self._rights, self._namespace))

    async def _operator(self) -> None:
        deployments = await self._deployments()
        if deployments is None:
            return
        found = doctor_platform.serving(deployments, self._namespace)
        pods: Sequence[Object] = ()
        if found is not None:
            self._settings = found.trials(self._options.image)
            chosen = found.deployment.get("spec", {}).get("selector", {}).get("matchLabels") or {}
            selector = ",".join(f"{key}={value}" for key, value in chosen.items())
            with suppress(KubeError):  # only the reason would be missing
                pods = await self._cluster.list("pods", found.namespace, selector)
        version = metadata.version("autoresearch-operator")
        self.findings.append(doctor_platform.operator_finding(found, deployments, self._namespace, pods, version))
        if found is not None:
            await self._lease(found)

    async def _lease(self, found: Installation) -> None:
        lease = await self._try("lease", self._cluster.get("leases", found.namespace, found.lease))
        if lease is not _UNKNOWN:
            self.findings.append(doctor_platform.lease_finding(lease, found.lease, self._options.clock()))

    async def _deployments(self) -> list[Object] | None:
        """Operators of the cluster, or of the namespace where only that may be read."""
        for namespace in (None, self._namespace):
            with suppress(KubeError):
                path = f"{_DEPLOYMENT.path(namespace)}?labelSelector={doctor_platform.PART_OF.replace('=', '%3D')}"
                found = list((await self._cluster.read(path) or {}).get("items") or ())
                if found or namespace is None:
                    return found
        value = "no Deployment of it can be seen with this login; it may run in a namespace that is closed to you"
        self._unknown("operator", value, "Ask whoever installed it to run this command.")
        return None

    # Nodes ----------------------------------------------------------------------------------------------------------

    async def nodes(self) -> None:
        """GPUs by product, and sharing."""
        nodes = await self._try("nodes", self._cluster.list("nodes", None))
        if nodes is _UNKNOWN:
            return
        counted: dict[str, dict[str, float]] = {}
        taken: Mapping[str, Mapping[str, float]] | None = counted
        try:
            async for page in self._cluster.pages("pods", None):
                doctor_places.add_taken(counted, page)
        except KubeError as error:
            taken = None
            self._unknown("gpus in use", error.message, "How many GPUs are free is left out.")
        self._places = doctor_places.places(nodes, taken)
        self.findings += doctor_places.gpu_findings(self._places)

    # Runs -----------------------------------------------------------------------------------------------------------

    async def runs(self) -> None:
        """What each unfinished run names; without any, a run with an empty spec, for its pods alone."""
        if not self._there:
            return
        bodies = await self._bodies()
        if bodies is None:
            return
        for body in bodies:
            name = body["metadata"]["name"]
            try:
                run = parsed(body)
            except InvalidResource as error:
                self.findings.append(Finding(f"run {name}", "fail", str(error), "Correct it and apply it again."))
                continue
            await self._run(body, run)
        if not bodies:
            body = {**_EXAMPLE, "metadata": {"name": "first", "namespace": self._namespace}}
            await self._run(body, parsed(body), "a run with spec: {}")

    async def _bodies(self) -> list[Object] | None:
        if self._options.run is not None:
            return [self._options.run]
        try:
            found = await self._cluster.list("researchruns", self._namespace)
        except KubeError as error:
            if error.status != 404:  # that is: not installed, which has a line of its own
                self._unknown("runs", error.message, _ASK if error.status == 403 else "")
                return None
            found = []
        over = (RunPhase.COMPLETE, RunPhase.FAILED)
        return [body for body in found if body.get("status", {}).get("phase") not in over]

    async def _run(self, body: Object, run: ResearchRun, title: str = "") -> None:
        title = title or f"run {run.metadata.name}"
        pods = {tier.name: self._job(body, run, tier.name) for tier in run.spec.tiers}
        places: int | None = None
        if self._places is not None:
            for tier in run.spec.tiers:
                pod = pods[tier.name]["spec"]["template"]["spec"]
                name = f"{title}: tier {tier.name}"
                self.findings.append(doctor_places.tier_finding(name, tier, pod, self._places))
                fitting = [p for p in self._places if p.usable and doctor_places.selected(p, pod)]
                places = max(places or 0, len(fitting))
        await self._claim(title, run, places)
        await self._named(title, run)
        await self._queue(title, run)
        for tier in run.spec.tiers:
            await self._rehearse(f"{title}: pods {tier.name}", pods[tier.name])

    def _job(self, body: Object, run: ResearchRun, tier: str) -> dict[str, Any]:
        """The Job of a first trial. The files that it would mount are not needed to ask for it."""
        nothing = "0" * 40
        record = ExperimentRecord(0, ExperimentKind.BASELINE, nothing, nothing, 0, "the unedited source", "source")
        key = TrialKey(0, trial_seed(Purpose.BASELINE, 0, 0), 1)
        start = TrialStart(key, tier, Purpose.BASELINE, 0, "val", AUDIT_PAIRS)
        return job.trial_job(body, run.spec, start, record, "0" * 64, self._settings, now=self._options.clock())

    async def _claim(self, title: str, run: ResearchRun, places: int | None) -> None:
        data = run.spec.trainer.data
        if data is None:
            return
        name = f"{title}: claim {data.claim_name}"
        claim = await self._try(name, self._cluster.get("persistentvolumeclaims", self._namespace, data.claim_name))
        if claim is not _UNKNOWN:
            self.findings.append(doctor_runs.claim_finding(name, run, claim, nodes=places))

    async def _named(self, title: str, run: ResearchRun) -> None:
        pull = () if run.spec.trainer.image else self._settings.image_pull_secrets
        wanted = [*doctor_runs.secrets_of(run)]
        wanted += [doctor_runs.NamedSecret(secret, None, "pull", "the chart's trials.pullSecrets") for secret in pull]
        git: Object | None = None
        usable = not run.spec.source.secret_name
        for one in wanted:
            name = f"{title}: secret {one.name}"
            found = await self._try(name, self._cluster.get("secrets", self._namespace, one.name))
            if found is _UNKNOWN:
                continue
            finding = doctor_runs.secret_finding(name, one, found)
            self.findings.append(finding)
            if one.kind == "git" and finding.status == "ok":
                git, usable = found, True
        if run.spec.source.url and usable and self._options.push:
            await self._push(f"{title}: push", run, git)

    async def _push(self, name: str, run: ResearchRun, secret: Object | None) -> None:
        url, branch = str(run.spec.source.url), f"refs/heads/{run.branch}"
        self._options.say(f"asking {url} whether it lets a push in")

        def rehearse() -> Finding:
            try:
                with credentials(secret, url, Access()) as access:
                    answer = rehearse_push(url, run.spec.source.ref, branch, access)
            except SecretNotAllowed as error:
                return Finding(name, "fail", str(error), "Correct the Secret.")
            if not answer.ok:
                advice = (
                    "Asked from this machine: where the operator sees more of the network, its own answer is the run's "
                    "condition Ready or BranchUpdated (docs/troubleshooting.md)."
                )
                return Finding(name, "fail", answer.message, advice)
            return Finding(name, "ok", answer.message)

        self.findings.append(await asyncio.to_thread(rehearse))

    async def _queue(self, title: str, run: ResearchRun) -> None:
        queue = run.spec.queue_name
        if not queue:
            return
        name = f"{title}: queue"
        group = await self._try(name, self._cluster.read("/apis/kueue.x-k8s.io"))
        if group is _UNKNOWN:
            return
        found = None
        if group is not None:
            kind = Kind("kueue.x-k8s.io", group["preferredVersion"]["version"], "localqueues")
            found = await self._try(name, self._read(kind, self._namespace, queue))
            if found is _UNKNOWN:
                return
        self.findings.append(doctor_runs.queue_finding(name, queue, group, found))

    async def _rehearse(self, name: str, wanted: Mapping[str, Any]) -> None:
        """Has the API server look at the Job and its pod without making them: quota, limits, Pod Security, webhooks."""
        if not all(
            self._rights.get(right)
            for right in self._rights
            if right.verb == "create" and right.resource in ("pods", "jobs")
        ):
            self._unknown(name, "this login may not create pods and Jobs, so the API server cannot be asked", "")
            return
        unique = f"doctor-{randomness.token_hex(4)}"
        head = {"name": unique, "namespace": self._namespace}
        template = wanted["spec"]["template"]
        # Without the run's label: a dry run reaches webhooks, and they must not take it for a trial of that run.
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {**template["metadata"], **head},
            "spec": template["spec"],
        }
        try:
            await self._cluster.rehearse("jobs", {**wanted, "metadata": {**wanted["metadata"], **head}})
            made = await self._cluster.rehearse("pods", pod)
        except KubeError as error:
            self.findings.append(doctor_runs.refusal(name, error.message))
            return
        changed = doctor_runs.changed(pod["spec"], made.get("spec") or {})
        if changed:
            value = f"the API server takes it, but changes {', '.join(changed)}"
            advice = "A LimitRange or a webhook of the cluster does that; scores then belong to other resources."
            self.findings.append(Finding(name, "warn", value, advice))
        else:
            self.findings.append(Finding(name, "ok", "the API server takes a trial's pod: quota, limits, Pod Security"))

    # The canary -----------------------------------------------------------------------------------------------------

    async def canary(self) -> None:
        """Sends it, waits for its answer and removes it, whatever happens."""
        if not self._there:
            return
        name = f"doctor-{randomness.token_hex(4)}"
        self._options.say(
            f"sending two small pods to see whether NetworkPolicies hold; at most {self._options.canary_seconds:g} s"
        )
        seen = canary.Look(False, None, "nothing was seen yet")
        try:
            async with asyncio.timeout(self._options.canary_seconds):
                while not seen.done:
                    seen = await canary.look(self._cluster, self._namespace, self._settings, name=name)
                    if not seen.done:
                        await asyncio.sleep(_LOOK_SECONDS)
        except TimeoutError:
            seen = canary.Look(True, None, f"no answer in {self._options.canary_seconds:g} s; {seen.message}")
        except KubeError as error:
            seen = canary.Look(True, None, error.message)
        finally:
            with suppress(KubeError):  # it ends and goes by itself, too
                await asyncio.shield(canary.remove(self._cluster, self._namespace, name=name))
        self.findings.append(doctor_platform.policy_finding(seen))

    # ----------------------------------------------------------------------------------------------------------------

    async def _read(self, kind: Kind, namespace: str | None, name: str) -> Object | None:
        return await self._cluster.read(kind.path(namespace, name))

    async def _try(self, name: str, asking: Awaitable[Answer]) -> Answer | Any:
        """The answer, or _UNKNOWN after a finding that says why there is none."""
        try:
            return await asking
        except KubeError as error:
            self._unknown(name, error.message, _ASK if error.status == 403 else "")
            return _UNKNOWN

    def _unknown(self, name: str, value: str, advice: str) -> None:
        self.findings.append(Finding(name, "warn", f"unknown: {value}", advice))


_UNKNOWN: Any = object()
