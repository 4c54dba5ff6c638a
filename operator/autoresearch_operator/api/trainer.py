"""What a trial runs, on which data and within which bounds."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Annotated, Final, Self

from pydantic import Field, field_validator, model_validator

from autoresearch_operator.api.base import (
    Bytes,
    Cores,
    Duration,
    ListOnly,
    Model,
    NoNul,
    ObjectName,
    Refusals,
    RelativePath,
    Want,
    duration_between,
    refusal,
    shown,
)


class Evaluation(StrEnum):
    """Who computes the score."""

    VERIFIED = "Verified"
    """The judge, from the model that the candidate handed over, on data that the candidate cannot read."""
    SELF_REPORTED = "SelfReported"
    """The candidate: the last `val_bpb:` line that it printed. Every place that shows such a score says so."""


OWN_VARIABLES: Final = ("AUTORESEARCH_", "LD_", "PYTHON")
"""What the names of the trial's own variables begin with, and of those that change which code runs before the sandbox
does. The trainer refuses them, too."""
OWN_VARIABLES_RULE: Final = "is the trial's own: names that start with AUTORESEARCH_, LD_ or PYTHON cannot be set"
ENV_BYTES: Final = 65536
"""Names and values of all variables, in UTF-8: they travel in one variable of the pod, and Linux ends at 128 KiB."""
ENV_RULE: Final = "has more than 65536 bytes of names and values: put large values in a file of the source"


class EnvVar(Model):
    """One environment variable with a plain value."""

    name: Annotated[
        str,
        Field(min_length=1, max_length=128, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$"),
        Want("a variable's name: letters, digits and _"),
    ]
    """The variable's name. Those that start with AUTORESEARCH_, LD_ or PYTHON are the trial's own and are refused.
    Immutable while the run has scores."""
    value: Annotated[str, Field(max_length=4096), NoNul, Want("a string of at most 4096 characters")] = ""
    """Its value, always a string: quote numbers. Plain values only, so that no Secret can get into a trial. Default
    empty. Immutable while the run has scores."""

    @field_validator("name")
    @classmethod
    def _not_ours(cls, value: str) -> str:
        if value.startswith(OWN_VARIABLES):
            raise refusal(f"{shown(value)} {OWN_VARIABLES_RULE}")
        return value


class PullSecret(Model):
    """A Secret with the credentials of an image registry."""

    name: ObjectName
    """The Secret's name, in the run's namespace. Immutable while the run has scores."""


class DataSpec(Model):
    """A prepared data set on a PersistentVolumeClaim, as `autoresearch prepare` writes it."""

    claim_name: Annotated[ObjectName, Field(examples=["climbmix"])]
    """The PersistentVolumeClaim that holds the data. Immutable while the run has scores."""
    train_path: RelativePath = "train"
    """The folder of the training split in the claim; only the gate mounts it. Default train. Immutable while the run
    has scores."""
    val_path: RelativePath = "val"
    """The folder of the validation split in the claim; only the judge mounts it, so it may not lie inside
    `trainPath`, nor the reverse. Default val. Immutable while the run has scores."""

    @model_validator(mode="after")
    def _apart(self) -> Self:
        train, val = PurePosixPath(self.train_path), PurePosixPath(self.val_path)
        refusals = Refusals()
        mend = "the gate would serve what the judge scores; keep the two folders apart"
        if train == val:
            refusals.add(("valPath",), f"is the same folder as trainPath: {mend}")
        elif train in val.parents:
            refusals.add(("valPath",), f"lies inside trainPath: {mend}")
        elif val in train.parents:
            refusals.add(("trainPath",), f"lies inside valPath: {mend}")
        refusals.raise_any("DataSpec")
        return self


class ResourcesSpec(Model):
    """What one trial may use of a machine beside its GPUs. Requests equal limits in a cluster."""

    cpu: Annotated[Cores | None, Field(examples=[8])] = None
    """CPU cores of a trial. Unset: in a cluster 2 for each GPU, or 1 in a CPU tier; one core of its own in local mode.
    Immutable while the run has scores."""
    memory: Annotated[Bytes | None, Field(examples=["64Gi"])] = None
    """Host memory of a trial; a candidate that takes more is Invalid with HostOutOfMemory. Unset: in a cluster 10Gi for
    each GPU, or 2Gi in a CPU tier; an equal share of this machine's memory in local mode. Immutable while the run has
    scores."""
    ephemeral_storage: Annotated[Bytes | None, Field(examples=["40Gi"])] = None
    """Disk that a trial may write; a candidate that writes more is Invalid with HostStorageExceeded. Unset: in a
    cluster 10Gi, or 2Gi in a CPU tier; 2Gi in local mode. Immutable while the run has scores."""

    @property
    def cpu_cores(self) -> float | None:
        return None if self.cpu is None else self.cpu.value

    @property
    def memory_bytes(self) -> int | None:
        return None if self.memory is None else int(self.memory.value)

    @property
    def ephemeral_storage_bytes(self) -> int | None:
        return None if self.ephemeral_storage is None else int(self.ephemeral_storage.value)


ImageName = Annotated[
    str,
    Field(min_length=1, max_length=512, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@-]*$"),
    Want("an image such as reg.lab.example/trainer@sha256:…"),
]


class TrainerSpec(Model):
    """The program that a trial runs. A change would make scores incomparable, so it is refused once there are some."""

    image: Annotated[ImageName | None, Field(examples=["reg.lab.example/trainer:1.4"])] = None
    """The container image of a trial; a digest keeps it from moving. Unset: the chart's. Not used in local mode.
    Immutable while the run has scores."""
    image_pull_secrets: Annotated[
        tuple[PullSecret, ...], Field(max_length=8), Want("a list such as [{name: reg}]")
    ] = ()
    """Secrets to pull `image` with. Default none. Immutable while the run has scores."""
    command: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=1024), NoNul, Want("a string")], ...],
        Field(min_length=1, max_length=32),
        ListOnly,
        Want("a list of 1 to 32 strings such as [python, train.py]"),
    ] = ("python", "train.py")
    """What a trial runs, at the top of the candidate's files. Default [python, train.py]. Local mode runs Python
    scripts only. Immutable while the run has scores."""
    env: Annotated[
        tuple[EnvVar, ...], Field(max_length=64), Want('a list such as [{name: OMP_NUM_THREADS, value: "8"}]')
    ] = Field(default=(), examples=[[{"name": "OMP_NUM_THREADS", "value": "8"}]])
    """Environment variables of a trial; plain values only, so that no Secret can get in, and at most 64 KiB of names
    and values together. Default none. Immutable while the run has scores."""
    evaluation: Evaluation = Evaluation.VERIFIED
    """Who computes the score: Verified (the judge) or SelfReported (the script's own `val_bpb:` line). Default
    Verified, because a script can print anything. Immutable while the run has scores."""
    startup: Annotated[Duration, duration_between("1s", "6h"), Want("a duration such as 3m or 1h30m")] = Duration("3m")
    """Time allowed before the first step, for imports, compilation and warm-up; longer is Timeout. It is not part of
    the budget. Default 3m, because torch.compile of upstream's script takes about one. Immutable while the run has
    scores."""
    data: Annotated[DataSpec | None, Field(examples=[{"claimName": "climbmix"}])] = None
    """The data to train on and to score on. Unset: the demo corpus of the chart's image, or of this machine in local
    mode. Immutable while the run has scores."""
    resources: ResourcesSpec = Field(default=ResourcesSpec(), examples=[{"cpu": 8, "memory": "64Gi"}])
    """What one trial may use of a machine beside its GPUs. Default: nothing set. Immutable while the run has
    scores."""

    @model_validator(mode="after")
    def _refuse(self) -> Self:
        refusals = Refusals()
        if self.image is not None and self.evaluation is Evaluation.VERIFIED and self.data is None:
            refusals.add(
                ("data",),
                "is missing: only the chart's own image holds the demo corpus; set data, or evaluation: SelfReported",
            )
        names = [variable.name for variable in self.env]
        for index, name in enumerate(names):
            if name in names[:index]:
                refusals.add(("env", index, "name"), f"{shown(name)} is set twice: keep one")
        if sum(len(f"{variable.name}{variable.value}".encode()) for variable in self.env) > ENV_BYTES:
            refusals.add(("env",), ENV_RULE)
        refusals.raise_any("TrainerSpec")
        return self

    @property
    def startup_seconds(self) -> float:
        return self.startup.seconds

    @property
    def script(self) -> str | None:
        """The script of a command `[python, SCRIPT.py]`, or None when the command is of another form."""
        match self.command:
            case (interpreter, script) if re.fullmatch(r"(.*/)?python[0-9.]*", interpreter) and script.endswith(".py"):
                return script
            case _:
                return None
