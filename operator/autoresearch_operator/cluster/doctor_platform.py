"""Doctor's checks of what every run stands on: definitions, the operator, rights, the namespace. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from autoresearch_operator.api.crd import Kind
from autoresearch_operator.cluster.canary import Look
from autoresearch_operator.cluster.objects import says
from autoresearch_operator.cluster.seen import Object
from autoresearch_operator.manifests import podstatus
from autoresearch_operator.manifests.names import seconds
from autoresearch_operator.manifests.settings import TrialSettings
from autoresearch_operator.observe.findings import Finding
from autoresearch_operator.observe.text import clean

PART_OF = "app.kubernetes.io/part-of=autoresearch"
POD_SECURITY = "pod-security.kubernetes.io/enforce"
_LEASE_SLACK = 60.0
"""Seconds that this machine's clock may differ from the operator's."""
_INSTALL = "helm install autoresearch charts/autoresearch-operator (docs/install.md)"
_UPGRADE = "helm upgrade, with the chart of the version that you want (docs/upgrading.md)"
OLDEST = (1, 29)
"""Minor version with native sidecars and CEL as the API needs them."""


def server_finding(server: str, version: str) -> Finding:
    """`version` as the API server says it, such as v1.33.1-gke.1."""
    value = f"{version} at {server}"
    parts = version.removeprefix("v").split(".")
    try:
        found = (int(parts[0]), int(parts[1]))
    except (ValueError, IndexError):
        return Finding("api server", "warn", value, "Its version cannot be read; 1.29 or newer is needed.")
    if found < OLDEST:
        return Finding("api server", "fail", value, "Kubernetes 1.29 or newer is needed: trials use native sidecars.")
    return Finding("api server", "ok", value)


def definition_finding(kind: Kind, found: Object | None) -> Finding:
    """Whether the CustomResourceDefinition is there and says what this version of the program says."""
    name = f"definition {kind.plural}"
    if found is None:
        return Finding(name, "fail", f"{kind.name} is not installed", f"{_INSTALL}.")
    established = podstatus.condition(found, "Established") or {}
    if established.get("status") != "True":
        problem = podstatus.condition(found, "NamesAccepted") or established
        return Finding(name, "fail", f"not established: {problem.get('message', '')}", "Another kind has its names.")
    wanted = kind.definition()["spec"]["versions"]
    there = found.get("spec", {}).get("versions") or []
    same = [one for one in there if one.get("name") == wanted[0]["name"]]
    if not same:
        versions = ", ".join(str(one.get("name")) for one in there)
        return Finding(name, "fail", f"it has {versions}, this program speaks {wanted[0]['name']}", f"{_UPGRADE}.")
    if not says(same[0].get("schema"), wanted[0]["schema"]):
        value = "its schema differs from this program's: one of the two is older"
        return Finding(name, "warn", value, f"Bring both to one version: {_UPGRADE}, and this program with it.")
    return Finding(name, "ok", f"{wanted[0]['name']}, as this program knows it")


@dataclass(frozen=True)
class Installation:
    """An operator's Deployment as the chart makes it."""

    deployment: Object

    @property
    def namespace(self) -> str:
        return str(self.deployment["metadata"]["namespace"])

    @property
    def name(self) -> str:
        return str(self.deployment["metadata"]["name"])

    @property
    def env(self) -> Mapping[str, str]:
        """Variables with plain values."""
        pod = self.deployment.get("spec", {}).get("template", {}).get("spec", {})
        containers = pod.get("containers") or [{}]
        chosen = next((one for one in containers if one.get("name") == "operator"), containers[0])
        return {one["name"]: str(one["value"]) for one in chosen.get("env") or () if "value" in one}

    def serves(self, namespace: str) -> bool:
        served = [part for part in self.env.get("AUTORESEARCH_NAMESPACES", "").split(",") if part]
        return "*" in served or namespace in (served or [self.namespace])

    @property
    def lease(self) -> str:
        return self.env.get("AUTORESEARCH_LEASE_NAME", "autoresearch-operator")

    def trials(self, image: str) -> TrialSettings:
        """What it gives trials; `image` where it names none."""
        pull = self.env.get("AUTORESEARCH_TRAINER_PULL_SECRETS", "")
        return TrialSettings(
            image=self.env.get("AUTORESEARCH_TRAINER_IMAGE") or image,
            image_pull_policy=self.env.get("AUTORESEARCH_TRAINER_PULL_POLICY") or "IfNotPresent",
            image_pull_secrets=tuple(part for part in pull.replace(",", " ").split() if part),
            priority_class_name=self.env.get("AUTORESEARCH_TRAINER_PRIORITY_CLASS") or None,
        )


def serving(deployments: Sequence[Object], namespace: str) -> Installation | None:
    """The installation that serves the namespace, the nearest first."""
    found = [Installation(one) for one in deployments]
    mine = [one for one in found if one.serves(namespace)]
    return min(mine, key=lambda one: (one.namespace != namespace, one.namespace, one.name), default=None)


def operator_finding(
    found: Installation | None, others: Sequence[Object], namespace: str, pods: Sequence[Object], version: str
) -> Finding:
    """Whether an operator serves the namespace and is ready. `version` is this program's; `pods` are the operator's."""
    if found is None:
        if others:
            where = ", ".join(f"{o['metadata']['namespace']}/{o['metadata']['name']}" for o in others[:5])
            value = f"none serves the namespace {namespace}; there is {where}"
            advice = f"Add {namespace} to the chart's watchNamespaces, beside those that are there (docs/install.md)."
            return Finding("operator", "fail", value, advice)
        return Finding("operator", "fail", f"none serves the namespace {namespace}", f"{_INSTALL}.")
    status = found.deployment.get("status", {})
    value = f"{found.namespace}/{found.name}"
    if not status.get("readyReplicas"):
        wanted = found.deployment.get("spec", {}).get("replicas", 1)
        why = "it is scaled to 0" if wanted == 0 else _why_not_ready(pods)
        mend = (
            f"kubectl scale deployment {found.name} -n {found.namespace} --replicas=1"
            if wanted == 0
            else f"See kubectl logs -n {found.namespace} deployment/{found.name}, and kubectl describe pod."
        )
        return Finding("operator", "fail", f"{value} is not ready: {why}", mend)
    labels = found.deployment["metadata"].get("labels") or {}
    theirs = str(labels.get("app.kubernetes.io/version") or "unknown")
    if theirs != version:
        advice = "What this program says of the API may not hold there: use one version for both."
        return Finding("operator", "warn", f"{value} is ready, version {theirs}; this program is {version}", advice)
    return Finding("operator", "ok", f"{value} is ready, version {theirs}")


def _why_not_ready(pods: Sequence[Object]) -> str:
    pod = max(pods, key=podstatus.created, default=None)
    if pod is None:
        return "it has no pod"
    scheduled = podstatus.condition(pod, "PodScheduled") or {}
    if scheduled.get("status") == "False":
        return clean(str(scheduled.get("message") or scheduled.get("reason")), 300)
    waiting = podstatus.why_waiting(pod)
    if podstatus.phase(pod) == "Running":
        return "it runs but its readiness probe fails: it waits for the Lease, or its last pass is too old"
    return clean(waiting, 300)


def lease_finding(lease: Object | None, name: str, now: float) -> Finding:
    """Whether somebody holds the Lease and renews it. `now` in seconds since the epoch, of this machine."""
    if lease is None:
        return Finding("lease", "fail", f"there is no Lease {name}", "The operator makes it: see its log.")
    spec = lease.get("spec", {})
    holder, renewed = str(spec.get("holderIdentity") or ""), seconds(spec.get("renewTime"))
    if not holder or renewed is None:
        return Finding("lease", "fail", f"nobody holds {name}", "The operator takes it when it starts: see its log.")
    age = max(0.0, now - renewed)
    if age > float(spec.get("leaseDurationSeconds") or 15) + _LEASE_SLACK:
        value = f"{name} was last renewed {age:.0f} s ago, by {holder}"
        return Finding("lease", "fail", value, "The operator has stopped, or the API server refuses it: see its log.")
    return Finding("lease", "ok", f"{name}, held by {holder}, renewed {age:.0f} s ago")


@dataclass(frozen=True, slots=True)
class Right:
    """Something a person does."""

    verb: str
    group: str
    resource: str
    why: str
    needed: bool = False
    """Without it there is no run; else a check or a look is missing."""


RIGHTS = (
    Right("create", "autoresearch.dev", "researchruns", "start runs", needed=True),
    Right("get", "autoresearch.dev", "researchruns", "see runs", needed=True),
    Right("list", "autoresearch.dev", "experiments", "see results", needed=True),
    Right("patch", "autoresearch.dev", "researchruns", "suspend and change runs"),
    Right("delete", "autoresearch.dev", "researchruns", "delete runs"),
    Right("list", "", "pods", "see trials"),
    Right("get", "", "pods/log", "read a trial's output"),
    Right("create", "", "pods", "let the doctor try a trial's pod without making it"),
    Right("create", "batch", "jobs", "let the doctor send a canary, and prepare data"),
    Right("create", "networking.k8s.io", "networkpolicies", "let the doctor send a canary, and prepare data"),
    Right("get", "", "secrets", "let the doctor check the Secrets that runs name"),
    Right("get", "", "persistentvolumeclaims", "let the doctor check the claims that runs name"),
)


def rights_finding(granted: Mapping[Right, bool], namespace: str) -> Finding:
    """What this login may do in the namespace."""
    lacking = [right for right in RIGHTS if not granted.get(right, False)]
    words = "; ".join(f"{right.verb} {right.resource} ({right.why})" for right in lacking)
    if any(right.needed for right in lacking):
        advice = f"Ask for a RoleBinding in {namespace}; rbac.aggregate: true of the chart adds runs to view and edit."
        return Finding("your rights", "fail", f"missing: {words}", advice)
    if lacking:
        return Finding(
            "your rights", "warn", f"missing: {words}", "Runs work without; those checks are left out below."
        )
    return Finding("your rights", "ok", "all that a person needs here")


def namespace_finding(namespace: str, found: Object | None) -> Finding:
    """Whether the namespace is there, and at which Pod Security level; `found` None: there is none."""
    if found is None:
        return Finding(
            "namespace", "fail", f"there is no namespace {namespace}", f"kubectl create namespace {namespace}"
        )
    if found.get("status", {}).get("phase") == "Terminating":
        return Finding("namespace", "fail", f"{namespace} is being deleted", "Wait, or use another one.")
    level = (found["metadata"].get("labels") or {}).get(POD_SECURITY)
    if level is None:
        advice = f"Trials meet the restricted level; enforce it: kubectl label ns {namespace} {POD_SECURITY}=restricted"
        return Finding("namespace", "ok", f"{namespace}; no Pod Security level of its own is enforced", advice)
    return Finding("namespace", "ok", f"{namespace} enforces the Pod Security level {level}, which trials meet")


def policy_finding(seen: Look) -> Finding:
    """What the canary's answer means for runs."""
    name = "network policies"
    if seen.enforced:
        return Finding(name, "ok", f"enforced: {seen.message}")
    if seen.enforced is None:
        advice = "Whether NetworkPolicies hold is not known; trials of one GPU are confined without them (seccomp)."
        return Finding(name, "warn", f"unknown: {seen.message}", advice)
    advice = (
        "This cluster's network does not carry NetworkPolicies out. Trials of one GPU or none are confined by seccomp "
        "all the same; a trial of several GPUs is not, and its run says Isolated=False. Install a network that does."
    )
    return Finding(name, "warn", f"not enforced: {seen.message}", advice)
