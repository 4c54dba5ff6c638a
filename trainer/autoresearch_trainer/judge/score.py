"""val_bpb of an artifact: bits per byte of text on a split that the candidate never sees; lower is better."""

import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F

from ..data import manifest as manifests
from .audit import Audit, AuditOutcome
from .loader import load
from .program import Program
from .refused import HOST_OUT_OF_MEMORY, NON_FINITE, NOT_CAUSAL, Refused
from .rows import ScoredRows, read_rows


class Limits(Protocol):
    """What `spec.Limits` has of interest here."""

    @property
    def memory_bytes(self) -> int: ...

    @property
    def artifact_bytes(self) -> int: ...


@dataclass(frozen=True)
class DefaultLimits:
    """Used where nobody sets any: 4 GiB for the model's values, 1 GiB for the artifact."""

    memory_bytes: int = 4 << 30
    artifact_bytes: int = 1 << 30


def score_artifact(
    artifact_dir: Path,
    data_dir: Path,
    split: str,
    *,
    audit_pairs: int,
    eval_tokens: int,
    seed: int,
    device: str,
    limits: Limits | None = None,
    seconds: float | None = None,
) -> dict[str, Any]:
    """Scores the artifact and audits its causality; to be called in a process of its own without candidate code.

    Gives {"valBPB", "nats", "bytes", "tokens", "parameters", "audit": {"pairs", "mismatches", "maxDifference"}}, or,
    for an artifact that gets no score, {"reason", "detail", "message"} (with "audit" when it failed there). The score
    does not depend on `seed`, which only adds to the audit's secret randomness. `seconds` bounds the whole call (wall
    clock, looked at between operators). Raises DataError when the data are at fault, which is nothing to hold against
    the candidate.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    random = np.random.default_rng([int.from_bytes(os.urandom(32), "little"), seed])
    given = limits or DefaultLimits()
    manifest = manifests.load(data_dir)
    rows = read_rows(data_dir, split, eval_tokens, random)
    place = torch.device(device)
    settle(place)
    try:
        program = load(
            artifact_dir,
            batch=manifest.eval_batch,
            seq_len=manifest.max_seq_len,
            vocab_size=manifest.vocab_size,
            device=place,
            artifact_bytes=given.artifact_bytes,
            memory_bytes=device_memory(place, given.memory_bytes),
        )
        program.deadline = deadline
        audit = Audit(rows, manifest.vocab_size, audit_pairs, random)
        result = score(program, rows, audit)
        outcome = audit.run(program)
        if outcome.mismatches:
            return _not_causal(outcome).as_json() | {"audit": audit_json(outcome)}
        return result | {"audit": audit_json(outcome), "parameters": program.parameters}
    except Refused as refusal:
        return refusal.as_json()
    except MemoryError:
        return Refused(HOST_OUT_OF_MEMORY, "Judge", "Out of memory while scoring.").as_json()


def settle(device: torch.device) -> None:
    """Has a GPU give equal bits for equal inputs, as a CPU does: the audit compares bits.

    Sums that meet by atomic additions (index_add, scatter_add, cumsum) are put in order, cuBLAS gets workspaces of one
    size, and convolutions keep their float32. An operator that has no such form warns and may round differently, which
    can cost its candidate the audit, never win it a score.
    """
    if device.type != "cuda":
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS is first used
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def device_memory(device: torch.device, host_bytes: int) -> int:
    """Bytes that a model's values may take: the host's limit on a CPU, what is free on a device."""
    return host_bytes if device.type == "cpu" else int(torch.cuda.mem_get_info(device)[0])


def score(program: Program, rows: ScoredRows, audit: Audit | None = None) -> dict[str, Any]:
    """The score of all rows; `audit` sees each batch's logits. Raises Refused (NonFinite).

    Nats are summed in float64 over the targets that have bytes, divided by those bytes and by ln 2; log-softmax is in
    float32 over the first V logits, whatever the model gives beyond them.
    """
    vocab_size = len(rows.token_bytes)
    lengths = torch.from_numpy(rows.token_bytes.astype(np.int64))
    nats = torch.zeros((), dtype=torch.float64)
    scored_bytes = scored_tokens = 0
    for number in range(rows.batches):
        window = torch.from_numpy(rows.windows[number])
        logits = program(window[:, :-1].contiguous())[..., :vocab_size].float()
        _check_finite(logits, number)
        if audit is not None:
            audit.observe(number, logits)
        targets = window[:, 1:]
        length = lengths[targets]
        loss = F.cross_entropy(logits.reshape(-1, vocab_size), targets.reshape(-1).to(logits.device), reduction="none")
        loss = loss.cpu().view_as(targets).double()
        nats += loss[length > 0].sum()
        scored_bytes += int(length.sum())
        scored_tokens += int((length > 0).sum())
    total = float(nats)
    return {
        "valBPB": total / (math.log(2) * scored_bytes),
        "nats": total,
        "bytes": scored_bytes,
        "tokens": scored_tokens,
    }


def _check_finite(logits: torch.Tensor, batch: int) -> None:
    # the extremes are finite exactly when all are, and NaN wins over both
    low, high = torch.aminmax(logits)
    if not (math.isfinite(float(low)) and math.isfinite(float(high))):
        bad = int((~torch.isfinite(logits)).sum())
        raise Refused(
            NON_FINITE,
            "Logits",
            f"{bad} of {logits.numel()} logits of batch {batch} are NaN or infinite: training diverged?",
        )


def _not_causal(outcome: AuditOutcome) -> Refused:
    position, cut = outcome.example or (0, 0)
    return Refused(
        NOT_CAUSAL,
        "Audit",
        f"{outcome.mismatches} of {outcome.pairs} checks failed: a logit at position {position} moved by up to "
        f"{outcome.max_difference:.3g} when tokens after position {cut} and other rows were replaced. A logit may "
        "depend on tokens up to its own only, not on later ones, statistics over the sequence, or other rows.",
    )


def audit_json(outcome: AuditOutcome) -> dict[str, Any]:
    """The outcome as the result document holds it."""
    return {"pairs": outcome.pairs, "mismatches": outcome.mismatches, "maxDifference": outcome.max_difference}
