"""What one trial came to: version 1 of the JSON that goes back to the operator, at most 2 KiB.

Field names are camelCase in JSON (`as_json`); the dataclass is the schema. A quantity that was not measured is null.
"""

import json
import math
import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from .classify import Failure

VERSION = 1
MAX_BYTES = 2048
"""A Kubernetes termination message holds 4 KiB; half of it leaves room for what a kubelet adds."""
MAX_MESSAGE_CHARACTERS = 400
MAX_CURVE_POINTS = 8

SCORED, INVALID, LOST = "Scored", "Invalid", "Lost"
"""Outcomes: a score; the candidate's own failure, with a reason; a fault that is not the candidate's."""


@dataclass
class Audit:
    """Outcome of the causality audit."""

    pairs: int
    mismatches: int
    max_difference: float


@dataclass
class Isolation:
    """Which walls stood around the candidate; "none" where the kernel or a library offers nothing."""

    network: str = "none"
    files: str = "none"
    processes: str = "sweep"
    signals: str = "none"
    memory: str = "rlimit+watch"


@dataclass
class TrialResult:
    """One trial's outcome. Seconds are wall-clock unless the name says CPU; sizes are bytes."""

    outcome: str
    reason: str | None = None
    """A verdict reason of the API; null when scored or lost."""
    detail: str | None = None
    """One word under the reason: an exception's class, a signal, which allowance ran out."""
    message: str = ""
    """A sentence for the person and the proposer, at most 400 characters."""
    val_bpb: float | None = None
    """Bits per byte on the scored split; lower is better."""
    split: str = "val"
    nats: float | None = None
    bytes: int | None = None
    tokens: int | None = None
    """Tokens that were scored."""
    audit: Audit | None = None
    steps: int | None = None
    """Batches served after the clock started."""
    train_tokens: int | None = None
    """Tokens in those batches."""
    tokens_per_second: float | None = None
    train_seconds: float | None = None
    cpu_seconds: float | None = None
    """CPU time of the candidate's whole process tree between the same two instants as train_seconds."""
    startup_seconds: float | None = None
    judge_seconds: float | None = None
    total_seconds: float | None = None
    reference_seconds: float | None = None
    """CPU seconds of one 512 x 512 x 512 float32 matrix product on the trial's core, before it started."""
    peak_memory_bytes: int | None = None
    """Highest sum of resident anonymous and shared memory that the watch saw."""
    peak_vram_bytes: int | None = None
    """Highest use of the device that the watch saw; null without one."""
    parameters: int | None = None
    artifact_sha256: str | None = None
    source_sha256: str | None = None
    seed: int | None = None
    self_reported: bool = False
    isolation: Isolation = field(default_factory=Isolation)
    curve: list[tuple[int, float]] = field(default_factory=list)
    """(tokens, loss) pairs, at most 8, evenly spread."""
    hardware: dict[str, str] = field(default_factory=dict)

    def lose(self, detail: str, message: str) -> None:
        """Makes it a fault that is not the candidate's."""
        self.outcome, self.reason = LOST, None
        self.detail, self.message = detail, message

    def fail(self, failure: Failure) -> None:
        """Makes it the candidate's own failure."""
        self.outcome, self.reason = INVALID, failure.reason
        self.detail, self.message = failure.detail, failure.message

    def as_json(self) -> dict[str, Any]:
        """The document, trimmed to MAX_BYTES.

        Trimmed in this order, until it fits: the curve to every second point, the message to half, `hardware.product`
        to 40 characters. Figures and hashes are never cut.
        """
        message = shorten(self.message, MAX_MESSAGE_CHARACTERS)
        curve = [list(point) for point in thin(self.curve, MAX_CURVE_POINTS)]
        hardware = {name: text[:80] for name, text in self.hardware.items()}
        while True:
            document = self._document(message, curve, hardware)
            if len(encode(document)) <= MAX_BYTES:
                return document
            if len(curve) > 1:
                curve = curve[1::2]
            elif len(message) > 20:
                message = shorten(message, len(message) // 2)
            elif any(len(text) > 20 for text in hardware.values()):
                hardware = {name: text[:20] for name, text in hardware.items()}
            else:
                raise ValueError(f"a result does not fit into {MAX_BYTES} bytes: {encode(document)[:200]!r}")

    def _document(self, message: str, curve: list[list[float]], hardware: dict[str, str]) -> dict[str, Any]:
        audit = self.audit
        return {
            "version": VERSION,
            "outcome": self.outcome,
            "reason": self.reason,
            "detail": self.detail[:60] if self.detail else None,
            "message": message,
            "valBPB": _figure(self.val_bpb),
            "split": self.split,
            "nats": _figure(self.nats),
            "bytes": self.bytes,
            "tokens": self.tokens,
            "audit": None
            if audit is None
            else {"pairs": audit.pairs, "mismatches": audit.mismatches, "maxDifference": _figure(audit.max_difference)},
            "steps": self.steps,
            "trainTokens": self.train_tokens,
            "tokensPerSecond": _rounded(self.tokens_per_second),
            "trainSeconds": _rounded(self.train_seconds),
            "cpuSeconds": _rounded(self.cpu_seconds),
            "startupSeconds": _rounded(self.startup_seconds),
            "judgeSeconds": _rounded(self.judge_seconds),
            "totalSeconds": _rounded(self.total_seconds),
            "referenceSeconds": None if self.reference_seconds is None else round(self.reference_seconds, 7),
            "peakMemoryBytes": self.peak_memory_bytes,
            "peakVRAMBytes": self.peak_vram_bytes,
            "parameters": self.parameters,
            "artifactSHA256": self.artifact_sha256,
            "sourceSHA256": self.source_sha256,
            "seed": self.seed,
            "selfReported": self.self_reported,
            "isolation": vars(self.isolation).copy(),
            "curve": curve,
            "hardware": hardware,
        }


def parse(document: Any) -> TrialResult:
    """The result that `as_json` gave. Raises ValueError with a sentence when it did not give this."""
    if not isinstance(document, dict) or document.get("version") != VERSION:
        raise ValueError(f"a result must be an object of version {VERSION}")
    values: dict[str, Any] = {name: document.get(key) for key, name in _NAMES.items()}
    unknown = sorted(set(document) - set(_NAMES) - {"version"})
    if unknown or values["outcome"] not in (SCORED, INVALID, LOST):
        raise ValueError(f"no result holds {unknown[0]!r}" if unknown else f"{values['outcome']!r} is no outcome")
    try:
        audit = values["audit"]
        values["audit"] = audit and Audit(audit["pairs"], audit["mismatches"], audit["maxDifference"])
        values["isolation"] = Isolation(**document["isolation"])
        values["curve"] = [(tokens, loss) for tokens, loss in document["curve"]]
        values["hardware"] = dict(document["hardware"])
        return TrialResult(**values)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"the result has another form than expected: {error}") from error


def _json_name(field: str) -> str:
    first, *rest = field.split("_")
    return first + "".join({"vram": "VRAM", "sha256": "SHA256", "bpb": "BPB"}.get(w, w.title()) for w in rest)


_NAMES = {_json_name(member.name): member.name for member in fields(TrialResult)}
"""JSON name -> field."""


def encode(document: dict[str, Any]) -> bytes:
    """Compact UTF-8 JSON on one line; refuses NaN, which is no JSON."""
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode("utf-8", "replace")


def shorten(text: str, limit: int) -> str:
    """text on one printable line of at most limit characters, cut in the middle: both ends of an error matter."""
    line = "".join(c if c.isprintable() else " " for c in text).strip()
    if len(line) <= limit:
        return line
    head = (limit - 3) * 2 // 3
    return f"{line[:head]}...{line[len(line) - (limit - 3 - head) :]}"


def thin(points: list[tuple[int, float]], count: int) -> list[tuple[int, float]]:
    """At most count points of a curve, evenly spread, the last one kept; values that are no number are left out."""
    finite = [(tokens, round(loss, 4)) for tokens, loss in points if math.isfinite(loss)]
    if len(finite) <= count:
        return finite
    return [finite[(index + 1) * len(finite) // count - 1] for index in range(count)]


def write_durably(path: Path, document: dict[str, Any]) -> None:
    """Writes document so that after a power cut path holds all of it or does not exist.

    Raises OSError when the disk is full or gone.
    """
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as stream:
        stream.write(encode(document) + b"\n")
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _figure(value: float | None) -> float | None:
    """The value in full, or null where JSON has no word for it."""
    return None if value is None or not math.isfinite(value) else value


def _rounded(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, 4)
