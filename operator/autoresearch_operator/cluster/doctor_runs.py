"""Doctor's checks of what a run names: claims, Secrets, queue. Pure: objects in, findings out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from autoresearch_operator.api.run import ResearchRun
from autoresearch_operator.cluster.credentials import BASIC_AUTH, SSH_AUTH, SecretNotAllowed, address, check_allowed
from autoresearch_operator.cluster.objects import says
from autoresearch_operator.cluster.seen import Object
from autoresearch_operator.observe.findings import Finding

API_KEY = "api-key"
_PULL = frozenset({"kubernetes.io/dockerconfigjson", "kubernetes.io/dockercfg"})
_SEVERAL = frozenset({"ReadOnlyMany", "ReadWriteMany"})


@dataclass(frozen=True, slots=True)
class NamedSecret:
    """A Secret that a run names, and for what."""

    name: str
    url: str | None
    """Where it would be sent; None: it is for pulling images."""
    kind: str
    """`git`, `model` or `pull`."""
    field: str
    """Where the run names it."""


def secrets_of(run: ResearchRun) -> Iterator[NamedSecret]:
    """Every Secret that the run names."""
    source = run.spec.source
    if source.secret_name and source.url:
        yield NamedSecret(source.secret_name, source.url, "git", "spec.source.secretName")
    for index, proposer in enumerate(run.spec.proposers):
        model = proposer.openai
        if model is not None and model.secret_name:
            yield NamedSecret(model.secret_name, model.base_url, "model", f"spec.proposers[{index}].openai.secretName")
    for index, pull in enumerate(run.spec.trainer.image_pull_secrets):
        yield NamedSecret(pull.name, None, "pull", f"spec.trainer.imagePullSecrets[{index}]")


def secret_finding(  # noqa: PLR0911 - one return an obstacle
    name: str, wanted: NamedSecret, secret: Object | None
) -> Finding:
    """Whether the Secret can be used for that. What is in it is never shown, only which keys are missing."""
    if secret is None:
        return Finding(name, "fail", f"there is no Secret {wanted.name} ({wanted.field})", _creation(wanted))
    kind, keys = str(secret.get("type") or "Opaque"), set(secret.get("data") or {})
    if wanted.url is None:
        if kind not in _PULL:
            return Finding(name, "fail", f"it is of type {kind}", _creation(wanted))
        return Finding(name, "ok", f"{kind}, for pulling images")
    try:
        check_allowed(secret, wanted.url)
    except SecretNotAllowed as error:
        words, _, mend = str(error).partition(": whoever owns it ")
        return Finding(name, "fail", words, f"Whoever owns it {mend}." if mend else "")
    host = address(wanted.url).host
    if wanted.kind == "model":
        if API_KEY not in keys:
            return Finding(name, "fail", f"it has no key {API_KEY}", _creation(wanted))
        return Finding(name, "ok", f"labelled for use, for {host}")
    ssh = address(wanted.url).scheme == "ssh"
    right, needed = (SSH_AUTH, ("ssh-privatekey", "known_hosts")) if ssh else (BASIC_AUTH, ("username", "password"))
    if kind != right:
        return Finding(name, "fail", f"it is of type {kind}, and {wanted.url} needs {right}", _creation(wanted))
    if missing := [key for key in needed if key not in keys]:
        return Finding(name, "fail", f"it has no {' and no '.join(missing)}", _creation(wanted))
    return Finding(name, "ok", f"{kind}, labelled for use, for {host}")


def _creation(wanted: NamedSecret) -> str:
    if wanted.kind == "pull":
        return (
            f"Create it: kubectl create secret docker-registry {wanted.name} --docker-server=… --docker-username=… "
            "--docker-password=…"
        )
    mark = (
        f"then kubectl label secret {wanted.name} autoresearch.dev/usable=true and "
        f"kubectl annotate secret {wanted.name} autoresearch.dev/hosts={address(wanted.url or '').host}"
    )
    if wanted.kind == "model":
        return f"Create it: kubectl create secret generic {wanted.name} --from-file={API_KEY}=FILE, {mark}."
    if address(wanted.url or "").scheme == "ssh":
        files = "--from-file=ssh-privatekey=KEY --from-file=known_hosts=FILE"
        return f"Create it: kubectl create secret generic {wanted.name} --type={SSH_AUTH} {files}, {mark}."
    return (
        f"Create it: kubectl create secret generic {wanted.name} --type={BASIC_AUTH} --from-literal=username=git "
        f"--from-file=password=FILE, {mark}."
    )


def parallel_trials(run: ResearchRun) -> int:
    """How many trials' pods may exist at once; a tier that says nothing runs one."""
    return sum(1 if tier.max_parallel is None else tier.max_parallel for tier in run.spec.tiers)


def claim_finding(name: str, run: ResearchRun, claim: Object | None, *, nodes: int | None) -> Finding:
    """Whether the data claim can be mounted by all trials at once. `nodes` that trials may run on; None: not known."""
    data = run.spec.trainer.data
    wanted = data.claim_name if data is not None else ""
    if claim is None:
        return Finding(
            name, "fail", f"there is no PersistentVolumeClaim {wanted}",
            f"Create it (examples/cluster/claim.yaml), then fill it: autoresearch prepare --claim {wanted} --apply",
        )  # fmt: skip
    modes = list(claim.get("status", {}).get("accessModes") or claim.get("spec", {}).get("accessModes") or ())
    phase = str(claim.get("status", {}).get("phase") or "Pending")
    value = f"{phase}, {', '.join(modes)}"
    if phase == "Lost":
        return Finding(name, "fail", value, "Its volume is gone: make the claim anew and prepare the data again.")
    trials = parallel_trials(run)
    if not _SEVERAL & set(modes) and trials > 1:
        if "ReadWriteOncePod" in modes:
            return Finding(
                name, "fail", f"{value}: one pod at a time, and {trials} trials may run at once",
                "Copy the data to a claim with ReadOnlyMany or ReadWriteMany, or set maxParallel: 1.",
            )  # fmt: skip
        if nodes is None or nodes > 1:
            where = "" if nodes is None else f", on {nodes} nodes"
            return Finding(
                name, "fail", f"{value}: one node at a time, and {trials} trials may run at once{where}",
                "Use a claim with ReadOnlyMany or ReadWriteMany, or keep the tier on one node with nodeSelector.",
            )  # fmt: skip
    if phase == "Pending":
        return Finding(
            name, "warn", value,
            "It has no volume yet: kubectl describe pvc says why; with WaitForFirstConsumer the first pod brings it.",
        )  # fmt: skip
    return Finding(name, "ok", value)


def queue_finding(name: str, queue: str, groups: Object | None, found: Object | None) -> Finding:
    """Whether the run's Kueue queue is there and admits. `groups`: Kueue's API group; None: it is not installed."""
    if groups is None:
        return Finding(
            name, "fail", f"the run names the queue {queue}, and this cluster has no Kueue",
            "Take spec.queueName out (suspend the run first), or install Kueue.",
        )  # fmt: skip
    if found is None:
        return Finding(
            name, "fail", f"there is no LocalQueue {queue} in this namespace",
            "Ask for one (kubectl get localqueues lists them), or suspend the run and change spec.queueName.",
        )  # fmt: skip
    conditions: Mapping[str, Object] = {str(c.get("type")): c for c in found.get("status", {}).get("conditions") or ()}
    active = conditions.get("Active")
    cluster = found.get("spec", {}).get("clusterQueue", "?")
    if active is not None and active.get("status") != "True":
        why = str(active.get("message") or active.get("reason"))
        return Finding(name, "fail", f"the queue admits nothing: {why}", f"Mend the ClusterQueue {cluster}.")
    return Finding(name, "ok", f"{queue}, of the ClusterQueue {cluster}")


def refusal(name: str, said: str) -> Finding:
    """Why the API server would not take a trial's pod, and what helps."""
    hints = {
        "exceeded quota": "Ask for more quota, lower maxParallel or spec.trainer.resources of a new run.",
        "must specify": "A ResourceQuota asks for resources that a trial does not name: see kubectl describe quota.",
        "violates PodSecurity": "Trials meet the restricted level: a webhook must have changed them.",
        "usage per": "A LimitRange forbids these amounts: see kubectl describe limitrange; set spec.trainer.resources.",
        "PriorityClass": "Create it, or correct priorityClassName (chart: priorityClass.create).",
        "RuntimeClass": "Correct tiers[].runtimeClassName (kubectl get runtimeclass).",
        "admission webhook": "A policy of this cluster refuses trials: show its owner `autoresearch render FILE`.",
    }
    folded = said.lower()
    advice = next(
        (hint for words, hint in hints.items() if words.lower() in folded), "The sentence is the API server's."
    )
    return Finding(name, "fail", said, advice)


def changed(asked: Mapping[str, Any], made: Mapping[str, Any]) -> list[str]:
    """Containers of a trial whose resources the API server changed or that it added."""
    found = []
    for kind in ("initContainers", "containers"):
        before = {one["name"]: one.get("resources") or {} for one in asked.get(kind) or ()}
        for one in made.get(kind) or ():
            if one["name"] not in before:
                found.append(f"the pod by a container {one['name']}")
            elif not says(one.get("resources") or {}, before[one["name"]]):
                found.append(f"the resources of {one['name']}")
    return found
