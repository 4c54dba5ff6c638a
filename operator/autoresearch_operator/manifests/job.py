"""The Job of one trial: one pod with gate, candidate and judge."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from autoresearch_operator.api.run import ResearchRunSpec
from autoresearch_operator.api.tiers import Tier
from autoresearch_operator.manifests import containers, placement
from autoresearch_operator.manifests.names import (
    ANNOTATION_DEFAULT_CONTAINER,
    ANNOTATION_SOURCE,
    ANNOTATION_TRIAL,
    EXPERIMENT_KIND,
    LABEL_EXPERIMENT,
    LABEL_QUEUE,
    LABEL_TIER,
    TRAIN,
    Object,
    experiment_name,
    job_name,
    ownership,
    run_labels,
    stamp,
)
from autoresearch_operator.manifests.settings import Hardware, TrialSettings
from autoresearch_operator.manifests.shares import Shares, backstop_seconds, shares
from autoresearch_operator.manifests.source import KEY
from autoresearch_operator.research.records import ExperimentRecord, TrialStart
from autoresearch_operator.research.trialspec import MIB, shared_fields, tier_of

GRACE_SECONDS = 3
"""From SIGTERM to SIGKILL. A pod holds its GPUs until it is gone, so as short as the gate needs to hang up."""

_POD_ANNOTATIONS = {
    ANNOTATION_DEFAULT_CONTAINER: TRAIN,
    # Autoscalers otherwise move pods to save a node, and a trial that is moved is measured again.
    "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
    "karpenter.sh/do-not-disrupt": "true",
    # A mesh's proxy cannot reach its control plane from here, and would keep the pod from starting.
    "linkerd.io/inject": "disabled",
}
_POD_LABELS = {"sidecar.istio.io/inject": "false"}


def trial_document(
    spec: ResearchRunSpec, start: TrialStart, source_sha256: str, share: Shares, run_seed: int
) -> dict[str, Any]:
    """What the trial's three processes are told (TrialSpec, version 1), the same for all of them."""
    tier = tier_of(spec, start.tier)
    device = "cuda" if tier.gpus else "cpu"
    fields = shared_fields(spec, start, run_seed=run_seed, device=device, threads=share.threads, limits=share.limits)
    if tier.gpus:
        # torch.compile starts one worker for each core of the node, not of the container, each with torch imported.
        fields["env"] = {"TORCHINDUCTOR_COMPILE_THREADS": str(share.threads), **fields["env"]}
    return {
        **fields,
        "command": list(spec.trainer.command),
        "gpus": tier.gpus,
        "sourceSHA256": source_sha256,
    }


def trial_job(
    run: Object,
    spec: ResearchRunSpec,
    start: TrialStart,
    record: ExperimentRecord,
    source_sha256: str,
    settings: TrialSettings,
    *,
    pinned: Hardware | None = None,
    avoid_nodes: Sequence[str] = (),
    now: float,
    run_seed: int = 0,
    experiment: Object | None = None,
) -> dict[str, Any]:
    """The Job that measures `record` as `start` says; the same arguments give the same Job.

    `record` is the measured experiment (for a REFERENCE run the incumbent, not `start.subject`); `experiment` its
    object, the Job's owner. `pinned` is what the tier's scores were measured on. Nodes in `avoid_nodes` are never used;
    leave it empty where no other node is left, or the pod waits for ever. `now` is in seconds since the epoch.

    Raises:
        KeyError: the run has no tier of that name.
    """
    tier = tier_of(spec, start.tier)
    name = run["metadata"]["name"]
    labels = {**run_labels(name), LABEL_EXPERIMENT: str(start.key.experiment), LABEL_TIER: tier.name}
    identity = {ANNOTATION_TRIAL: _identity(start, now), ANNOTATION_SOURCE: source_sha256}
    queue = {LABEL_QUEUE: spec.queue_name} if spec.queue_name else {}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": job_name(name, start.key),
            "namespace": run["metadata"]["namespace"],
            "labels": {**labels, **queue},
            "annotations": identity,
            **ownership(experiment, EXPERIMENT_KIND),
        },
        "spec": {
            # One pod, ever: an attempt is one measurement, and the operator decides on the next one. So there is no
            # podFailurePolicy either: its Ignore makes a second pod, and hides what became of the first.
            "backoffLimit": 0,
            "completions": 1,
            "parallelism": 1,
            "podReplacementPolicy": "Failed",
            "template": {
                "metadata": {
                    "labels": {**settings.pod_labels, **_POD_LABELS, **labels},
                    "annotations": {**_POD_ANNOTATIONS, **identity},
                },
                "spec": _pod(run, spec, start, record, source_sha256, settings, tier, pinned, avoid_nodes, run_seed),
            },
        },
    }


def _identity(start: TrialStart, now: float) -> str:
    return json.dumps(
        {
            "experiment": start.key.experiment,
            "seed": start.key.seed,
            "attempt": start.key.attempt,
            "tier": start.tier,
            "purpose": str(start.purpose),
            "subject": start.subject,
            "startedAt": stamp(now),
        },
        separators=(",", ":"),
    )


def _pod(
    run: Object,
    spec: ResearchRunSpec,
    start: TrialStart,
    record: ExperimentRecord,
    source_sha256: str,
    settings: TrialSettings,
    tier: Tier,
    pinned: Hardware | None,
    avoid_nodes: Sequence[str],
    run_seed: int,
) -> dict[str, Any]:
    share = shares(spec, tier, settings)
    document = trial_document(spec, start, source_sha256, share, run_seed)
    context = containers.Context(
        image=spec.trainer.image or settings.image,
        pull_policy=settings.image_pull_policy,
        # The kubelet puts values in for $(NAME); escaped, a dollar sign means itself.
        trial=json.dumps(document, separators=(",", ":"), ensure_ascii=False).replace("$", "\\u0024"),
        data=spec.trainer.data,
        gpu={tier.resource_name: str(tier.gpus)} if tier.gpus else {},
    )
    gate, train, judge = (
        containers.gate(context, share),
        containers.train(context, share),
        containers.judge(context, share),
    )
    source = experiment_name(run["metadata"]["name"], record.number)
    optional = {
        "affinity": placement.affinity(tier, pinned, avoid_nodes),
        "nodeSelector": dict(tier.node_selector),
        "runtimeClassName": tier.runtime_class_name,
        "priorityClassName": tier.priority_class_name or settings.priority_class_name,
        "imagePullSecrets": pull_secrets(spec, settings),
    }
    return {
        "restartPolicy": "Never",
        "activeDeadlineSeconds": backstop_seconds(spec, tier.budget),
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "tolerations": placement.tolerations(tier, settings),
        **{key: value for key, value in optional.items() if value},
        "initContainers": [gate, train],
        "containers": [judge],
        "volumes": _volumes(spec, tier, share, source),
    }


def pull_secrets(spec: ResearchRunSpec, settings: TrialSettings) -> list[dict[str, str]]:
    """The Secrets that the run's image is pulled with, as a pod names them."""
    default = () if spec.trainer.image else settings.image_pull_secrets
    names = dict.fromkeys([*(secret.name for secret in spec.trainer.image_pull_secrets), *default])
    return [{"name": name} for name in names]


def _volumes(spec: ResearchRunSpec, tier: Tier, share: Shares, source: str) -> list[Mapping[str, Any]]:
    empty: list[Mapping[str, Any]] = [
        containers.empty("socket", 1 * MIB),
        containers.empty("account", share.account_bytes),
        containers.empty("work", share.work_bytes),
        containers.empty("gate-tmp", 64 * MIB),
        containers.empty("judge-tmp", 256 * MIB),
    ]
    if tier.gpus:
        empty.append(containers.empty("shm", share.shared_memory_bytes, medium="Memory"))
    if spec.trainer.data is not None:
        claim = {"claimName": spec.trainer.data.claim_name, "readOnly": True}
        empty.append({"name": "data", "persistentVolumeClaim": claim})
    files = {"name": source, "items": [{"key": KEY, "path": KEY}], "defaultMode": 0o444}
    return [*empty, {"name": "source", "configMap": files}]
