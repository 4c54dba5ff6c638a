"""Kinds of GPU (or CPU) with their budgets."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, JsonValue, Strict, field_validator, model_validator

from autoresearch_operator.api.base import (
    DNS_LABEL,
    Bytes,
    LabelValue,
    Model,
    ObjectName,
    Refusals,
    Want,
    refusal,
    shown,
)

BudgetKind = Literal["seconds", "cpuSeconds", "steps"]

Seconds = Annotated[float, Strict(), Field(gt=0, le=604_800, allow_inf_nan=False)]
"""At most a week."""


class Budget(Model):
    """How much training one trial gets, from its third batch to the model handed over. Exactly one field is set."""

    seconds: Annotated[Seconds | None, Field(examples=[300]), Want("a number of seconds above 0")] = None
    """Wall-clock seconds; the default of tiers with GPUs, {seconds: 300}, as upstream's five minutes. Unset: another
    unit counts. Immutable: add a tier with a new name."""
    cpu_seconds: Annotated[Seconds | None, Field(examples=[300]), Want("a number of CPU-seconds above 0")] = None
    """CPU time of the candidate's whole process tree, in seconds, read from the kernel; the default of tiers with
    gpus: 0, {cpuSeconds: 300}, because a busy neighbour takes wall-clock time but not CPU time. Unset: another unit
    counts. Immutable: add a tier with a new name."""
    steps: Annotated[
        int | None, Strict(), Field(ge=1, le=1_000_000_000), Want("a whole number of batches, 1 or more")
    ] = None
    """Batches served; for tests and for runs that must repeat bit for bit, because it does not punish a slow edit.
    Unset: another unit counts. Immutable: add a tier with a new name."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        given = [name for name in ("seconds", "cpu_seconds", "steps") if getattr(self, name) is not None]
        if len(given) != 1:
            refusals = Refusals()
            found = f"{len(given)} are" if given else "none is"
            refusals.add((), f"want exactly one of seconds, cpuSeconds and steps, and {found} set")
            refusals.raise_any("Budget")
        return self

    @classmethod
    def default(cls, gpus: int) -> Self:
        """Five minutes: of wall-clock time with GPUs, of CPU time without."""
        return cls(seconds=300.0) if gpus > 0 else cls(cpu_seconds=300.0)

    @property
    def kind(self) -> BudgetKind:
        if self.seconds is not None:
            return "seconds"
        return "cpuSeconds" if self.cpu_seconds is not None else "steps"

    @property
    def amount(self) -> float:
        """In the unit that `kind` names."""
        return float(self.seconds or self.cpu_seconds or self.steps or 0)


def _default_budget(data: dict[str, Any]) -> Budget:
    return Budget.default(data["gpus"])


class Toleration(Model):
    """A taint that trials of the tier may be scheduled in spite of; the fields are Kubernetes' own."""

    key: Annotated[str | None, Field(max_length=317), Want("a taint's key")] = None
    """The taint's key. Unset: all keys, with operator Exists. Mutable."""
    operator: Annotated[Literal["Exists", "Equal"], Want("Exists or Equal")] = "Equal"
    """Exists or Equal. Default Equal, as in Kubernetes. Mutable."""
    value: Annotated[str | None, Field(max_length=63), Want("a taint's value")] = None
    """The taint's value, with operator Equal. Unset: the empty value. Mutable."""
    effect: Annotated[
        Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None, Want("NoSchedule, PreferNoSchedule or NoExecute")
    ] = None
    """NoSchedule, PreferNoSchedule or NoExecute. Unset: all of them. Mutable."""
    toleration_seconds: Annotated[
        int | None, Strict(), Field(ge=0, le=86_400), Want("a whole number of seconds from 0 to 86400")
    ] = None
    """Seconds until eviction, with effect NoExecute. Unset: for ever. Mutable."""


class Tier(Model):
    """A kind of GPU with its own budget, noise and incumbent score. Scores compare only within a tier."""

    name: Annotated[
        str,
        Field(min_length=1, max_length=20, pattern=DNS_LABEL, examples=["h100"]),
        Want('a name of at most 20 characters: a-z, 0-9 and "-", with a letter or digit first and last'),
    ]
    """The tier's name, unique in the run; it is part of the names of trials, so at most 20 characters. Immutable."""
    gpus: Annotated[int, Strict(), Field(ge=0, le=16), Want("a whole number of GPUs (0 = CPU)")] = 1
    """GPUs of one trial, 0 to 16; 0 trains on the CPU. Default 1. Immutable: add a tier with a new name."""
    resource_name: Annotated[
        str,
        Field(min_length=1, max_length=128, pattern=r"^[a-z0-9.-]+/[A-Za-z0-9._-]+$"),
        Want("an extended resource such as nvidia.com/gpu"),
    ] = "nvidia.com/gpu"
    """The extended resource that nodes offer, such as amd.com/gpu or nvidia.com/mig-3g.40gb. Default nvidia.com/gpu.
    Shared ones (*.shared) are refused, because a neighbour would move the scores. Immutable: add a tier with a new
    name."""
    product: Annotated[LabelValue | None, Field(examples=["NVIDIA-H100-80GB-HBM3"])] = None
    """The GPU's product label. Unset: pinned by the first baseline. Immutable: add a tier with a new name."""
    budget: Annotated[Budget, Want("a map such as {seconds: 300}")] = Field(
        default_factory=_default_budget, examples=[{"seconds": 300}]
    )
    """How much training one trial gets. Default {seconds: 300}, with gpus: 0 {cpuSeconds: 300}. Immutable: add a tier
    with a new name."""
    max_parallel: Annotated[
        int | None,
        Strict(),
        Field(ge=0, le=1024, examples=[4]),
        Want("a whole number of trials from 0 to 1024 (0 retires the tier)"),
    ] = None
    """Trials that may run at once; 0 retires the tier. Unset: 1 in a cluster, in local mode one for each GPU or core of
    this machine. Mutable."""
    max_vram: Annotated[Bytes | None, Field(examples=["76Gi"])] = None
    """Device memory that a trial may use, as nvidia-smi counts it; above it the trial is Invalid with VRAMLimit, and
    the proposer is told. Unset: the device's own memory. Mutable."""
    price_per_gpu_hour: Annotated[
        float | None,
        Strict(),
        Field(ge=0, le=100_000, allow_inf_nan=False, examples=[2.2]),
        Want("a number of dollars, 0 or more (0 for GPUs you own)"),
    ] = None
    """Dollars for one GPU for one hour, 0 for GPUs you own; needed when `limits.dollars` is set. Unset: GPU-hours are
    counted, not priced. Mutable."""
    runtime_class_name: Annotated[ObjectName | None, Field(examples=["nvidia"])] = None
    """The RuntimeClass of the tier's pods. Unset: the cluster's default. Not used in local mode. Mutable."""
    node_selector: Annotated[
        dict[
            Annotated[str, Field(min_length=1, max_length=317)], Annotated[str, Field(max_length=63), Want("a string")]
        ],
        Field(max_length=16),
        Want("a map of node labels"),
    ] = Field(default_factory=dict)
    """Labels that a node must have. Default none. Not used in local mode. Mutable."""
    affinity: Annotated[
        dict[Annotated[str, Field(max_length=64)], JsonValue],
        Field(max_length=3, json_schema_extra={"x-kubernetes-preserve-unknown-fields": True}),
        Want("a map with nodeAffinity, podAffinity or podAntiAffinity"),
    ] = Field(default_factory=dict)
    """A pod's affinity, as Kubernetes spells it; the operator adds its own rule against shared GPUs. Default none. Not
    used in local mode. Mutable."""
    tolerations: Annotated[tuple[Toleration, ...], Field(max_length=16), Want("a list of tolerations")] = ()
    """Taints that trials of the tier may be scheduled in spite of. Default none. Not used in local mode. Mutable."""
    priority_class_name: Annotated[ObjectName | None, Field(examples=["research-low"])] = None
    """The PriorityClass of the tier's pods. Unset: the cluster's default. Not used in local mode. Mutable."""

    @field_validator("resource_name")
    @classmethod
    def _exclusive(cls, value: str) -> str:
        if value.endswith(".shared"):
            raise refusal(
                f"{shown(value)} is a shared GPU, and a neighbour would move the scores: want a whole GPU or MIG"
            )
        return value

    @field_validator("affinity")
    @classmethod
    def _kinds(cls, value: dict[str, JsonValue]) -> dict[str, JsonValue]:
        if unknown := sorted(set(value) - {"nodeAffinity", "podAffinity", "podAntiAffinity"}):
            raise refusal(f"{unknown[0]} is not a kind: want nodeAffinity, podAffinity or podAntiAffinity")
        return value

    @property
    def max_vram_bytes(self) -> int | None:
        return None if self.max_vram is None else int(self.max_vram.value)
