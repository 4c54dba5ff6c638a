"""The fields that every form of a trial's JSON shares, and how each is checked.

Every problem is named at once, with its path in the document, so that a caller mends it in one go. Unknown fields are
refused: a misspelt limit that is silently ignored would be no limit.
"""

import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

VERSION = 1
"""The version of a trial's document."""

EVALUATIONS = ("Verified", "SelfReported")
SPLITS = ("val", "test")
BUDGET_KINDS = ("seconds", "cpuSeconds", "steps")

RESERVED_ENV_PREFIXES = ("AUTORESEARCH_", "LD_", "PYTHON")
"""Variables that the trial sets itself, or that change which code runs before the sandbox does."""


class SpecError(ValueError):
    """The trial cannot be started as asked; str() holds one sentence a problem."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__(" ".join(problems))
        self.problems = problems


@dataclass(frozen=True)
class Budget:
    """How much training a trial may do, from the first counted batch to the finished artifact."""

    kind: str
    """"seconds" (wall), "cpuSeconds" (of the candidate's whole process tree) or "steps" (batches)."""
    amount: float
    """In the unit of the kind; above 0; a whole number for steps."""

    def as_json(self) -> dict[str, float]:
        """The one-key form of the API."""
        return {self.kind: int(self.amount) if self.kind == "steps" else self.amount}

    @property
    def wall_backstop_seconds(self) -> float:
        """Wall seconds after which a trial whose budget does not run by the wall is ended all the same.

        A candidate that sleeps spends no CPU time and asks for no batch; without this it would hold its slot for ever.
        Four times the CPU budget leaves room for a core shared with three others; two seconds a step is far above any
        CPU step in use (tests use step budgets); 30 s cover the hand-over of a large artifact.
        """
        if self.kind == "seconds":
            return self.amount + 1.0
        return 30.0 + self.amount * (4.0 if self.kind == "cpuSeconds" else 2.0)


@dataclass(frozen=True)
class Limits:
    """What a candidate may use of the machine; passing one ends the trial with a reason of its own."""

    memory_bytes: int = 4 << 30
    """Resident anonymous and shared memory of the whole process tree. Default 4 GiB."""
    disk_bytes: int = 1 << 30
    """Bytes on disk under the trial's folder. Default 1 GiB."""
    processes: int = 64
    """Processes alive at once. Default 64."""
    stdout_bytes: int = 1 << 20
    """Bytes of output that are kept: the first and the last half. Default 1 MiB."""
    artifact_bytes: int = 1 << 30
    """Longest artifact that is accepted. Default 1 GiB."""


class Reader:
    """Takes typed values out of one JSON object and collects what is wrong with it."""

    def __init__(self, document: dict[str, Any], path: str, problems: list[str]) -> None:
        self._document = dict(document)
        self._path = path
        self._problems = problems

    def _where(self, name: str) -> str:
        return f"{self._path}{name}"

    def problem(self, name: str, sentence: str) -> None:
        self._problems.append(f"{self._where(name)}: {sentence}")

    def take(self, name: str, default: Any, check: Callable[[Any], str | None], *, required: bool = False) -> Any:
        if name not in self._document:
            if required:
                self.problem(name, "is missing.")
            return default
        value = self._document.pop(name)
        wrong = check(value)
        if wrong:
            self.problem(name, wrong)
            return default
        return value

    def finish(self) -> None:
        for name in self._document:
            self.problem(name, "is not a field of a trial (version 1); remove it.")


def whole(low: int, high: int) -> Callable[[Any], str | None]:
    def check(value: Any) -> str | None:
        if isinstance(value, bool) or not isinstance(value, int):
            return f"{value!r} is not a whole number."
        return None if low <= value <= high else f"{value} is outside {low}..{high}."

    return check


def number(low: float, high: float) -> Callable[[Any], str | None]:
    def check(value: Any) -> str | None:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return f"{value!r} is not a number."
        return None if low < value <= high else f"{value} must be above {low:g} and at most {high:g}."

    return check


def choice(*words: str) -> Callable[[Any], str | None]:
    return lambda value: None if value in words else f"{value!r} is not one of {', '.join(words)}."


def pattern(pattern: str, meaning: str) -> Callable[[Any], str | None]:
    compiled = re.compile(pattern)
    return lambda value: (
        None if isinstance(value, str) and compiled.fullmatch(value) else f"{value!r} is not {meaning}."
    )


def folder(value: Any) -> str | None:
    if not isinstance(value, str) or not os.path.isabs(value):  # noqa: PTH117 - value may be any JSON
        return f"{value!r} is not an absolute path."
    return None if Path(value).is_dir() else f"{value} is not a folder."


def relative(value: Any) -> str | None:
    if not isinstance(value, str) or not value or "\0" in value:
        return f"{value!r} is not a file name."
    path = Path(value)
    return f"{value} must lie inside the source folder." if path.is_absolute() or ".." in path.parts else None


def cores(value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, list) or not value or any(isinstance(c, bool) or not isinstance(c, int) for c in value):
        return f"{value!r} is not a list of core numbers, or null."
    missing = sorted(set(value) - os.sched_getaffinity(0))
    return (
        f"core {missing[0]} is not one this process may use ({sorted(os.sched_getaffinity(0))})." if missing else None
    )


def environment(value: Any) -> str | None:
    if not isinstance(value, dict) or any(not isinstance(v, str) or "\0" in v for v in value.values()):
        return "must be an object whose values are strings."
    for name in value:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            return f"{name!r} is not the name of a variable."
        if name.startswith(RESERVED_ENV_PREFIXES):
            return (
                f"{name} is set by the trial itself; choose a name that does not begin with "
                f"{', '.join(RESERVED_ENV_PREFIXES)}."
            )
    return None


def _budget(value: Any, problems: list[str]) -> Budget:
    fallback = Budget("steps", 1)
    if not isinstance(value, dict) or len(value) != 1 or next(iter(value)) not in BUDGET_KINDS:
        problems.append(f"budget: {value!r} must hold exactly one of {', '.join(BUDGET_KINDS)}.")
        return fallback
    kind, amount = next(iter(value.items()))
    wrong = whole(1, 10**9)(amount) if kind == "steps" else number(0, 10**7)(amount)
    if wrong:
        problems.append(f"budget.{kind}: {wrong}")
        return fallback
    return Budget(kind, float(amount))


def _limits(value: Any, problems: list[str]) -> Limits:
    defaults = Limits()
    if not isinstance(value, dict):
        problems.append(f"limits: {value!r} must be an object.")
        return defaults
    reader = Reader(value, "limits.", problems)
    limits = Limits(
        memory_bytes=reader.take("memoryBytes", defaults.memory_bytes, whole(64 << 20, 1 << 50)),
        disk_bytes=reader.take("diskBytes", defaults.disk_bytes, whole(1 << 16, 1 << 50)),
        processes=reader.take("processes", defaults.processes, whole(1, 1 << 16)),
        stdout_bytes=reader.take("stdoutBytes", defaults.stdout_bytes, whole(1 << 12, 1 << 32)),
        artifact_bytes=reader.take("artifactBytes", defaults.artifact_bytes, whole(1 << 12, 1 << 45)),
    )
    reader.finish()
    return limits


def version(value: Any) -> str | None:
    return None if value == VERSION else f"{value!r} is not a version this trainer knows; it knows {VERSION}."


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What is asked of one trial wherever it runs: on a person's machine or in a pod."""

    name: str
    """Names the trial in events; letters, digits and -_.@ only."""
    split: str = "val"
    """The split the judge scores: val or test."""
    budget: Budget
    seed: int
    """Seeds Python, NumPy, torch and the data order; 0..2^31-1."""
    evaluation: str = "Verified"
    """Verified (the judge scores the artifact) or SelfReported (the last val_bpb line of the output)."""
    startup_seconds: float = 180.0
    """Wall seconds from process start to the first counted batch. Default 180."""
    audit_pairs: int = 128
    """(row, cut) pairs of the causality audit. Default 128."""
    eval_tokens: int = 32768
    """Tokens scored, rounded to whole batches. Default 32768."""
    device: str = "cpu"
    """cpu, cuda or cuda:N."""
    threads: int = 1
    """torch's threads inside an operator. Default 1."""
    limits: Limits = field(default_factory=Limits)
    env: dict[str, str] = field(default_factory=dict)
    """Variables added to the candidate's otherwise fixed environment."""

    @property
    def self_reported(self) -> bool:
        """Whether the score is the script's own word."""
        return self.evaluation == "SelfReported"


def terms(reader: Reader, problems: list[str]) -> dict[str, Any]:
    """The fields of Terms but `device`, whose words differ, taken out of reader."""
    reader.take("version", VERSION, version, required=True)
    return {
        "name": reader.take(
            "name", "", pattern(r"[A-Za-z0-9@._-]{1,120}", "a name of letters, digits and -_.@"), required=True
        ),
        "evaluation": reader.take("evaluation", "Verified", choice(*EVALUATIONS)),
        "split": reader.take("split", "val", choice(*SPLITS)),
        "budget": _budget(reader.take("budget", {}, lambda _: None), problems),
        "startup_seconds": float(reader.take("startupSeconds", 180.0, number(0, 86400))),
        "seed": reader.take("seed", 0, whole(0, 2**31 - 1), required=True),
        "audit_pairs": reader.take("auditPairs", 128, whole(0, 1 << 20)),
        "eval_tokens": reader.take("evalTokens", 32768, whole(1, 1 << 40)),
        "threads": reader.take("threads", 1, whole(1, 1024)),
        "limits": _limits(reader.take("limits", {}, lambda _: None), problems),
        "env": reader.take("env", {}, environment),
    }
