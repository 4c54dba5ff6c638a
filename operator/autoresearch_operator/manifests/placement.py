"""Where a tier's pods may run: nodes with the right, unshared GPUs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from autoresearch_operator.api.tiers import Tier
from autoresearch_operator.manifests.settings import Hardware, TrialSettings

Term = dict[str, Any]
"""A nodeSelectorTerm. The terms of a node affinity are alternatives; within one, all expressions must hold."""

SHARING_LABEL = "nvidia.com/gpu.sharing-strategy"
_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"


def product_labels(resource_name: str) -> tuple[str, ...]:
    """The node labels that name the product behind an extended resource.

    A MIG slice has a label of its own where a node mixes slices; where all slices are alike, the GPU's label tells.
    """
    vendor = resource_name.partition("/")[0]
    if vendor == "nvidia.com":
        own = () if resource_name == "nvidia.com/gpu" else (f"{resource_name}.product",)
        return ("nvidia.com/gpu.product", *own)
    if vendor == "amd.com":
        return ("amd.com/gpu.product-name", "beta.amd.com/gpu.product-name")
    return (f"{resource_name}.product",)


def driver_label(resource_name: str) -> str:
    """The node label with the version of an accelerator's driver."""
    vendor = resource_name.partition("/")[0]
    return "amd.com/gpu.driver-version" if vendor == "amd.com" else "nvidia.com/cuda.driver-version.full"


def label_spelling(product: str) -> str:
    """A product's name as a node's label spells it: NVIDIA's discovery writes "NVIDIA-L4" for "NVIDIA L4"."""
    return "-".join(product.split())


def affinity(tier: Tier, pinned: Hardware | None, avoid_nodes: Sequence[str]) -> dict[str, Any]:
    """The tier's affinity with the operator's own rules put to it; empty when there is nothing to say.

    The user's node terms are alternatives, so ours are put to each of them. Preferences and pod affinities stay.
    """
    result: dict[str, Any] = dict(tier.affinity)
    ours = [
        {**_expressions([*products, *_unshared(tier)]), **_fields(avoid_nodes)}
        for products in _products(tier, pinned) or [[]]
    ]
    ours = [term for term in ours if term]
    if not ours:
        return result
    given = result.get("nodeAffinity")
    if given is not None and not isinstance(given, Mapping):
        return result  # not an affinity at all: the API server's own sentence says so
    node = dict(given or {})
    theirs = _terms(node)
    if theirs == []:
        return result  # terms that match no node: with ours put to them they would match some
    node[_REQUIRED] = {
        "nodeSelectorTerms": [_both(mine, other) for other in (theirs or [{}]) for mine in ours],
    }
    result["nodeAffinity"] = node
    return result


def tolerations(tier: Tier, settings: TrialSettings) -> list[dict[str, Any]]:
    """The tier's tolerations, the customary one for its resource, and a short stay on a node that is lost."""
    result = [toleration.model_dump(mode="json", exclude_none=True) for toleration in tier.tolerations]
    if tier.gpus > 0:
        # A node with MIG slices carries the GPU's taint, not the slice's.
        keys = dict.fromkeys((tier.resource_name, f"{tier.resource_name.partition('/')[0]}/gpu"))
        ours = [{"key": key, "operator": "Exists", "effect": "NoSchedule"} for key in keys]
        result += [one for one in ours if one not in result]
    given = {one.get("key") for one in result if one.get("effect") in (None, "NoExecute")}
    if None in given:
        return result
    for key in ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"):
        if key not in given:
            result.append(
                {
                    "key": key,
                    "operator": "Exists",
                    "effect": "NoExecute",
                    "tolerationSeconds": settings.node_loss_seconds,
                }
            )
    return result


def _products(tier: Tier, pinned: Hardware | None) -> list[list[Term]]:
    """Alternatives, each a list of expressions: the product that was asked for, else the one that was measured on.

    A product that was only measured binds where nodes say their product: a cluster without these labels stays usable,
    and a mismatch is seen in the result. Other vendors' labels do not follow from the name that the driver gives.
    """
    if tier.gpus == 0:
        return []
    labels = product_labels(tier.resource_name)
    if tier.product is not None:
        return [[{"key": label, "operator": "In", "values": [tier.product]}] for label in labels]
    if pinned is None or not pinned.product or not tier.resource_name.startswith("nvidia.com/"):
        return []
    spelled = label_spelling(pinned.product)
    return [
        *([{"key": label, "operator": "In", "values": [spelled]}] for label in labels),
        [{"key": label, "operator": "DoesNotExist"} for label in labels],
    ]


def _unshared(tier: Tier) -> list[Term]:
    if tier.gpus == 0:
        return []
    return [{"key": SHARING_LABEL, "operator": "NotIn", "values": ["time-slicing", "mps"]}]


def _expressions(expressions: Sequence[Term]) -> Term:
    return {"matchExpressions": list(expressions)} if expressions else {}


def _fields(avoid_nodes: Sequence[str]) -> Term:
    """By name, not by the hostname label, which may differ; the API takes one value each."""
    if not avoid_nodes:
        return {}
    names = sorted(set(avoid_nodes))
    return {"matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": [name]} for name in names]}


def _terms(node: Mapping[str, Any]) -> list[Term] | None:
    """The user's terms; None when there are none to meet. An empty term matches no node and is left out."""
    required = node.get(_REQUIRED)
    if required is None:
        return None
    terms = required.get("nodeSelectorTerms") if isinstance(required, Mapping) else None
    if not isinstance(terms, list) or not all(isinstance(term, Mapping) for term in terms):
        return []
    return [dict(term) for term in terms if term.get("matchExpressions") or term.get("matchFields")]


def _both(first: Term, second: Term) -> Term:
    return {
        key: [*second.get(key, ()), *first.get(key, ())]
        for key in ("matchExpressions", "matchFields")
        if first.get(key) or second.get(key)
    }
