"""Trials reach nothing and nothing reaches them."""

from __future__ import annotations

from typing import Any

from autoresearch_operator.manifests.names import (
    LABEL_RUN,
    RUN_KIND,
    Object,
    network_policy_name,
    ownership,
    run_labels,
)


def network_policy(run: Object) -> dict[str, Any]:
    """Denies all traffic to and from a run's pods, DNS too: both directions are listed and neither has a rule.

    Loopback is not the network's business, so the processes of a trial of several GPUs still find each other. Probes
    are run inside containers, not over the network.
    """
    name = run["metadata"]["name"]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {
            "name": network_policy_name(name),
            "namespace": run["metadata"]["namespace"],
            "labels": run_labels(name),
            **ownership(run, RUN_KIND),
        },
        "spec": {
            "podSelector": {"matchLabels": {LABEL_RUN: name}},
            "policyTypes": ["Ingress", "Egress"],
        },
    }
