"""What an installation of the operator sets for trials; the chart's values end up here."""

from __future__ import annotations

from dataclasses import dataclass, field

from autoresearch_operator.research.trialspec import GIB, MIB


@dataclass(frozen=True, slots=True)
class Resources:
    """What one container may use; requests equal limits."""

    cpu: float
    """Cores."""
    memory: int
    """Bytes."""
    storage: int
    """Bytes of ephemeral storage."""

    def quantities(self) -> dict[str, str]:
        """As a container's requests and limits."""
        return {"cpu": cores(self.cpu), "memory": size(self.memory), "ephemeral-storage": size(self.storage)}


@dataclass(frozen=True, slots=True)
class Hardware:
    """What a tier's scores were measured on, pinned by its first baseline run."""

    product: str | None = None
    """The accelerator's name, as a node's label spells it."""
    driver: str | None = None
    image_id: str | None = None


@dataclass(frozen=True)
class TrialSettings:
    """Settings of trial pods that a run's author does not choose."""

    image: str
    """The trainer's image, for runs that name none. No default: the chart's version and the trainer's belong
    together."""
    image_pull_policy: str = "IfNotPresent"
    """Default IfNotPresent: 5 GB are pulled once a node. A tag that moved meanwhile shows as another image ID, and the
    trial is not scored."""
    image_pull_secrets: tuple[str, ...] = ()
    """Names of Secrets in the run's namespace to pull `image` with. Default none. Used for the default image only: a
    run that names an image names its Secrets."""
    priority_class_name: str | None = None
    """The PriorityClass of tiers that name none. Default none: the cluster's default."""
    gpu_resources: Resources = Resources(cpu=2, memory=10 * GIB, storage=10 * GIB)
    """Of `train` and `judge` in GPU tiers where spec.trainer.resources is silent: cores and memory for each GPU,
    storage for the trial. Default 2 cores, 10Gi and 10Gi, because that fits beside the gate on the smallest cloud
    nodes with a GPU (4 cores, 16 GiB), and a pod that fits nowhere is a worse first result than a slow compile."""
    cpu_resources: Resources = Resources(cpu=1, memory=2 * GIB, storage=2 * GIB)
    """Of `train` and `judge` in CPU tiers where spec.trainer.resources is silent. Default 1 core, 2Gi and 2Gi: the
    template trains on one thread and needs about 0.7 GiB with torch imported."""
    gpu_gate: Resources = Resources(cpu=0.5, memory=1 * GIB, storage=512 * MIB)
    """Of `gate` in GPU tiers, beside the room for the model that it takes in. Default half a core and 1Gi: it copies
    batches, at most a few thousand a second."""
    cpu_gate: Resources = Resources(cpu=0.25, memory=512 * MIB, storage=256 * MIB)
    """Of `gate` in CPU tiers, beside the room for the model that it takes in. Default a quarter of a core and 512Mi."""
    node_loss_seconds: int = 60
    """Seconds that a trial stays on a node that is not ready or unreachable; then it is lost and measured elsewhere.
    Default 60 (Kubernetes' own is 300): a GPU-minute is cheaper than five minutes without the result."""
    pod_labels: dict[str, str] = field(default_factory=dict)
    """More labels of trial pods. Default none. The operator's own win."""


def cores(value: float) -> str:
    """Cores as a Kubernetes quantity, to the thousandth."""
    thousandths = max(1, round(value * 1000))
    return str(thousandths // 1000) if thousandths % 1000 == 0 else f"{thousandths}m"


def size(value: int) -> str:
    """Bytes as a Kubernetes quantity, in the largest binary unit that is exact."""
    for power, unit in ((3, "Gi"), (2, "Mi"), (1, "Ki")):
        if value and value % 1024**power == 0:
            return f"{value // 1024**power}{unit}"
    return str(value)
