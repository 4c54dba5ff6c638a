"""Doctor's checks of nodes: what GPUs there are, and whether a tier's trials fit on any of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autoresearch_operator.api.base import Quantity
from autoresearch_operator.api.tiers import Tier
from autoresearch_operator.cluster.seen import Object
from autoresearch_operator.manifests import podstatus
from autoresearch_operator.manifests.placement import SHARING_LABEL, driver_label, product_labels
from autoresearch_operator.observe.findings import Finding
from autoresearch_operator.observe.text import clean, plural, size

SHARED = ("time-slicing", "mps")
_GPU = ("nvidia.com/", "amd.com/")
_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_HARD = frozenset({"NoSchedule", "NoExecute"})


@dataclass(frozen=True)
class Place:
    """One node, and what pods have taken of it."""

    node: Object
    taken: Mapping[str, float] | None
    """Resource name to amount; None: other people's pods may not be read."""

    @property
    def name(self) -> str:
        return str(self.node["metadata"]["name"])

    @property
    def labels(self) -> Mapping[str, str]:
        return dict(self.node["metadata"].get("labels") or {})

    @property
    def usable(self) -> bool:
        """Ready and not cordoned."""
        ready = podstatus.condition(self.node, "Ready") or {}
        return ready.get("status") == "True" and not self.node.get("spec", {}).get("unschedulable")

    @property
    def offered(self) -> Mapping[str, float]:
        """Resource name to amount."""
        found: Mapping[str, Any] = self.node.get("status", {}).get("allocatable") or {}
        return {name: amount(value) for name, value in found.items()}

    def free(self, resource: str) -> float | None:
        if self.taken is None:
            return None
        return max(0.0, self.offered.get(resource, 0.0) - self.taken.get(resource, 0.0))

    def product(self, resource: str) -> str:
        return next((self.labels[label] for label in product_labels(resource) if label in self.labels), "")

    @property
    def sharing(self) -> str:
        """How its GPUs are shared between pods; empty: they are not."""
        if self.labels.get(SHARING_LABEL) in SHARED:
            return self.labels[SHARING_LABEL]
        replicas = self.labels.get("nvidia.com/gpu.replicas", "1")
        if replicas.isdigit() and int(replicas) > 1:
            return f"{replicas} replicas"
        return "*.shared resources" if any(name.endswith(".shared") for name in self.offered) else ""


def amount(text: object) -> float:
    """A Kubernetes quantity as a number; 0 for what is none."""
    try:
        return Quantity.parse(text).value
    except ValueError:
        return 0.0


def places(nodes: Iterable[Object], taken: Mapping[str, Mapping[str, float]] | None) -> list[Place]:
    """`taken`: by node, as `add_taken` counted; None: not known."""
    found = [Place(node, None if taken is None else taken.get(node["metadata"]["name"], {})) for node in nodes]
    return sorted(found, key=lambda place: place.name)


def add_taken(taken: dict[str, dict[str, float]], pods: Iterable[Object]) -> None:
    """Adds what these pods have been given to `taken`, by node."""
    for pod in pods:
        node = podstatus.node(pod)
        if node is None or podstatus.phase(pod) in podstatus.FINAL:
            continue
        mine = taken.setdefault(node, {})
        for name, value in requests(pod.get("spec", {})).items():
            mine[name] = mine.get(name, 0.0) + value


def requests(spec: Mapping[str, Any]) -> dict[str, float]:
    """What the scheduler counts for a pod: containers and sidecars together, or the largest init container."""
    running: dict[str, float] = defaultdict(float)
    peak: dict[str, float] = defaultdict(float)
    for container in spec.get("initContainers") or ():
        asked = _asked(container)
        if container.get("restartPolicy") == "Always":
            for name, value in asked.items():
                running[name] += value
        else:
            for name, value in asked.items():
                peak[name] = max(peak[name], running[name] + value)
    for container in spec.get("containers") or ():
        for name, value in _asked(container).items():
            running[name] += value
    return {name: max(running[name], peak[name]) for name in {*running, *peak}}


def _asked(container: Mapping[str, Any]) -> dict[str, float]:
    resources = container.get("resources") or {}
    both = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
    return {name: amount(value) for name, value in both.items()}


def gpu_findings(found: Sequence[Place]) -> list[Finding]:
    """One line a product of GPU, and one for each way of sharing."""
    groups: dict[tuple[str, str], list[Place]] = defaultdict(list)
    for place in found:
        for resource, number in place.offered.items():
            if resource.startswith(_GPU) and number >= 1 and not resource.endswith(".shared"):
                groups[resource, place.product(resource)].append(place)
    lines = [_product(resource, product, members) for (resource, product), members in sorted(groups.items())]
    if not groups:
        lines.append(
            Finding(
                "gpus", "warn", f"no GPU on {plural(len(found), 'node')}",
                "Install the GPU's device plugin (for NVIDIA the GPU operator), or use tiers with gpus: 0.",
            )
        )  # fmt: skip
    advice = "Trials keep away from them, because a neighbour moves the scores: give research nodes whole GPUs."
    lines += [
        Finding(f"sharing on {place.name}", "warn", f"its GPUs are shared between pods: {place.sharing}", advice)
        for place in found
        if place.sharing
    ]
    return lines


def _product(resource: str, product: str, members: Sequence[Place]) -> Finding:
    name = f"gpus {product}" if product else f"gpus {resource}"
    total = sum(place.offered[resource] for place in members)
    free = _free(members, resource)
    drivers = sorted({place.labels.get(driver_label(resource), "") for place in members} - {""})
    idle = [place.name for place in members if not place.usable]
    value = f"{total:g} {resource} on {plural(len(members), 'node')}{_free_words(free)}"
    value += f"; driver {', '.join(drivers)}" if drivers else ""
    if not product:
        return Finding(
            name, "warn", value,
            "The nodes do not say which product it is: run GPU feature discovery, or scores of different GPUs may mix.",
        )  # fmt: skip
    if idle:
        return Finding(name, "warn", f"{value}; not ready or cordoned: {_listed(idle)}", "Nothing starts on those.")
    if len(drivers) > 1:
        advice = "A tier is pinned to the driver of its first baseline: bring the nodes to one version."
        return Finding(name, "warn", value, advice)
    return Finding(name, "ok", value)


def tier_finding(name: str, tier: Tier, pod: Mapping[str, Any], found: Sequence[Place]) -> Finding:
    """Whether the trials of a tier have a place. `pod` is the spec of the pod that would be made."""
    chosen = fitting(name, tier, pod, found)
    if isinstance(chosen, Finding):
        return chosen
    usable = [place for place in chosen if place.usable]
    if not usable:
        value = f"{_listed([place.name for place in chosen])}: not ready or cordoned"
        return Finding(name, "fail", value, "Uncordon them (kubectl uncordon NODE), or mend their kubelet.")
    return _capacity(name, tier, usable, requests(pod))


def fitting(name: str, tier: Tier, pod: Mapping[str, Any], found: Sequence[Place]) -> list[Place] | Finding:
    """The places that a tier's trials fit on once these are empty and ready, or why there are none, in the order of
    the scheduler's questions. `pod` is the spec of the pod that would be made."""
    resource, wanted = tier.resource_name, tier.gpus
    having = [place for place in found if not wanted or place.offered.get(resource, 0.0) >= wanted]
    if not having:
        largest = max((place.offered.get(resource, 0.0) for place in found), default=0.0)
        if largest:
            value = f"no node has {wanted} {resource}; the largest has {largest:g}"
            return Finding(name, "fail", value, "A trial runs on one node: add a tier with fewer gpus.")
        advice = f"Install the device plugin that offers {resource}, correct resourceName, or add a tier with gpus: 0."
        return Finding(name, "fail", f"no node offers {resource}", advice)
    chosen = [place for place in having if selected(place, pod)]
    if not chosen:
        return _unselected(name, tier, having)
    welcome = [place for place in chosen if not untolerated(place, pod)]
    if not welcome:
        taints = sorted({taint for place in chosen for taint in untolerated(place, pod)})
        value = f"{plural(len(chosen), 'node')} would fit, all tainted: {_listed(taints)}"
        return Finding(name, "fail", value, "Add the taint to the tier's tolerations, or take it off the nodes.")
    needs = requests(pod)
    large = [place for place in welcome if all(place.offered.get(k, 0.0) >= v for k, v in needs.items() if v)]
    if not large:
        best = max(welcome, key=lambda place: place.offered.get("memory", 0.0))
        value = (
            f"a trial asks for {_amounts(needs)}; {best.name}, the largest that would do, has {_amounts(best.offered)}"
        )
        return Finding(
            name, "fail", value, "Lower spec.trainer.resources, which new runs may set, or use larger nodes."
        )
    return large


def _capacity(name: str, tier: Tier, usable: Sequence[Place], needs: Mapping[str, float]) -> Finding:
    parallel = 1 if tier.max_parallel is None else tier.max_parallel
    room = sum(_fits(place.offered, needs) for place in usable)
    now = None
    if all(place.taken is not None for place in usable):
        now = sum(_fits({key: place.free(key) or 0.0 for key in place.offered}, needs) for place in usable)
    on = f"on {plural(len(usable), 'node')}" if len(usable) > 1 else f"on {usable[0].name}"
    value = f"room for {plural(room, 'trial')} {on}" + ("" if now is None else f", {now} now") + f"; wanted: {parallel}"
    products = sorted({place.product(tier.resource_name) for place in usable} - {""}) if tier.gpus else []
    if len(products) > 1:
        value += f"; products: {', '.join(products)}"
        advice = "The first baseline pins the tier to one of them: set tiers[].product to choose."
        return Finding(name, "warn", value, advice)
    if room < parallel:
        return Finding(name, "warn", value, "The rest waits for a place: lower maxParallel, or add nodes.")
    if now is not None and now < min(parallel, 1):
        return Finding(name, "warn", value, "Others hold the place: the run starts when they are done.")
    return Finding(name, "ok", value)


def _fits(room: Mapping[str, float], needs: Mapping[str, float]) -> int:
    """How many pods of these needs fit beside each other."""
    return min((int(room.get(key, 0.0) // value) for key, value in needs.items() if value), default=0)


def _unselected(name: str, tier: Tier, having: Sequence[Place]) -> Finding:
    shared = [place.name for place in having if place.labels.get(SHARING_LABEL) in SHARED]
    if tier.gpus and len(shared) == len(having):
        return Finding(
            name, "fail", f"every node with {tier.resource_name} shares its GPUs: {_listed(shared)}",
            "Switch time-slicing or MPS off for these nodes: a neighbour moves the scores.",
        )  # fmt: skip
    products = sorted({place.product(tier.resource_name) for place in having} - {""})
    if tier.product is not None and tier.product not in products:
        value = f"no node has the product {tier.product}; there are: {_listed(products) or 'nodes without that label'}"
        return Finding(name, "fail", value, "Use the label's own spelling; a tier's product is fixed, so add a tier.")
    value = f"{plural(len(having), 'node')} could carry it, and none matches nodeSelector and affinity"
    return Finding(name, "fail", value, "Correct tiers[].nodeSelector and affinity, which may be changed at any time.")


def untolerated(place: Place, pod: Mapping[str, Any]) -> list[str]:
    """Taints that keep the pod away, as `key=value:effect`; Kubernetes' own come and go with the node's state."""
    tolerations = pod.get("tolerations") or ()
    return [
        f"{taint['key']}{'=' + taint['value'] if taint.get('value') else ''}:{taint['effect']}"
        for taint in place.node.get("spec", {}).get("taints") or ()
        if taint.get("effect") in _HARD
        and not str(taint["key"]).startswith("node.kubernetes.io/")
        and not any(_tolerates(toleration, taint) for toleration in tolerations)
    ]


def _tolerates(toleration: Mapping[str, Any], taint: Mapping[str, Any]) -> bool:
    if toleration.get("effect") not in (None, "", taint.get("effect")):
        return False
    exists = toleration.get("operator") == "Exists"
    if not toleration.get("key"):
        return exists
    same = toleration["key"] == taint["key"]
    return same and (exists or (toleration.get("value") or "") == (taint.get("value") or ""))


def selected(place: Place, pod: Mapping[str, Any]) -> bool:
    """Whether the pod's nodeSelector and required node affinity allow the node."""
    if any(place.labels.get(key) != value for key, value in (pod.get("nodeSelector") or {}).items()):
        return False
    node = (pod.get("affinity") or {}).get("nodeAffinity") or {}
    terms = (node.get(_REQUIRED) or {}).get("nodeSelectorTerms")
    return terms is None or any(_term(place, term) for term in terms)


def _term(place: Place, term: Mapping[str, Any]) -> bool:
    expressions, fields = term.get("matchExpressions") or (), term.get("matchFields") or ()
    if not expressions and not fields:
        return False
    names = {"metadata.name": place.name}
    return all(_holds(one, place.labels) for one in expressions) and all(_holds(one, names) for one in fields)


def _holds(expression: Mapping[str, Any], labels: Mapping[str, str]) -> bool:  # noqa: PLR0911 - a table of operators
    value = labels.get(str(expression.get("key")))
    values: Sequence[str] = expression.get("values") or ()
    match expression.get("operator"):
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt" | "Lt" as operator:
            try:
                here, limit = int(value or ""), int(values[0])
            except (ValueError, IndexError):
                return False
            return here > limit if operator == "Gt" else here < limit
    return False


def _free(members: Sequence[Place], resource: str) -> float | None:
    amounts = [place.free(resource) for place in members if place.usable]
    known = [one for one in amounts if one is not None]
    return sum(known) if len(known) == len(amounts) else None


def _free_words(free: float | None) -> str:
    return "" if free is None else f", {free:g} free"


def _amounts(amounts: Mapping[str, float]) -> str:
    words = [f"{amounts['cpu']:g} cores"] if "cpu" in amounts else []
    words += [size(int(amounts["memory"]))] if "memory" in amounts else []
    words += [f"{size(int(amounts['ephemeral-storage']))} of disk"] if "ephemeral-storage" in amounts else []
    return ", ".join([*words, *(f"{n:g} {k}" for k, n in amounts.items() if k.startswith(_GPU) and n)])


def _listed(names: Sequence[str], most: int = 5) -> str:
    shown = ", ".join(clean(name, 120) for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")
