"""The trusted side of the judge: starts a confined judge process, reads its answer."""

import json
import os
import select
import signal
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import watch
from .classify import Failure
from .clock import wall
from .data.errors import DataError
from .fields import Terms
from .result import SCORED, Audit, TrialResult
from .sandbox import confine, kernel

JUDGE_SECONDS = 600.0
"""Wall seconds the judge may take: scoring is bounded by evalTokens, but a graph may be built to be slow."""
_MAX_ANSWER_BYTES = 1 << 16


@dataclass(frozen=True)
class Score:
    """What the judge measured."""

    val_bpb: float
    nats: float
    bytes: int
    tokens: int
    parameters: int
    pairs: int
    mismatches: int
    max_difference: float


@dataclass(frozen=True)
class JudgeFault:
    """The judge could not work, through no fault of the candidate."""

    message: str


def score(
    terms: Terms, data_dir: Path, artifact_dir: Path, check_stop: Callable[[], None]
) -> Score | Failure | JudgeFault:
    """Scores the artifact in a process of its own. check_stop is called often and may raise to end it."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        _judge(terms, data_dir, artifact_dir, write)
    os.close(write)
    try:
        answer, excess = _collect(terms, read, child, check_stop)
    finally:
        os.close(read)
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    if excess:
        return excess
    if not answer:
        how = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"code {os.WEXITSTATUS(status)}"
        return Failure(
            "ArtifactRefused", "JudgeEnded", f"The judge's process ended with {how} while it ran the artifact."
        )
    return _understand(json.loads(answer))


def conclude(
    result: TrialResult, terms: Terms, data_dir: Path, artifact_dir: Path, check_stop: Callable[[], None]
) -> None:
    """Scores the artifact (see `score`) and writes the outcome into result."""
    began = wall()
    answer = score(terms, data_dir, artifact_dir, check_stop)
    result.judge_seconds = wall() - began
    if isinstance(answer, JudgeFault):
        result.lose("Judge", answer.message)
    elif isinstance(answer, Failure):
        result.fail(answer)
    else:
        result.outcome, result.reason, result.detail, result.message = SCORED, None, None, ""
        result.val_bpb, result.nats = answer.val_bpb, answer.nats
        result.bytes, result.tokens, result.parameters = answer.bytes, answer.tokens, answer.parameters
        result.audit = Audit(answer.pairs, answer.mismatches, answer.max_difference)


def _judge(terms: Terms, data_dir: Path, artifact_dir: Path, write: int) -> None:
    """The judge's process; never returns."""
    code = 1
    try:
        kernel.die_with_parent()
        os.closerange(3, write)
        os.closerange(write + 1, os.sysconf("SC_OPEN_MAX"))
        # PyTorch's compiler makes a folder for itself when it is loaded, which some operators do. Nothing is compiled
        # here and nothing may be written from now on: a folder that is there satisfies it.
        tempfile.tempdir = os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(artifact_dir)
        parts = ["manifest.json", "tokenizer.json", "token_bytes.npy", terms.split]
        confine.confine_judge(
            read=[artifact_dir, *(data_dir / part for part in parts)],
            device=terms.device,
            memory_bytes=terms.limits.memory_bytes,
        )
        os.write(write, json.dumps(_answer(terms, data_dir, artifact_dir)).encode())
        code = 0
    finally:
        os._exit(code)


def _answer(terms: Terms, data_dir: Path, artifact_dir: Path) -> dict[str, Any]:
    import torch

    from .judge import score_artifact

    torch.set_num_threads(terms.threads)
    try:
        return score_artifact(
            artifact_dir,
            data_dir,
            terms.split,
            audit_pairs=terms.audit_pairs,
            eval_tokens=terms.eval_tokens,
            seed=terms.seed,
            device=terms.device,
            limits=terms.limits,
            seconds=JUDGE_SECONDS,
        )
    except MemoryError:
        return {
            "reason": "HostOutOfMemory",
            "detail": "Judge",
            "message": "The model does not fit in memory to be scored.",
        }
    except DataError as error:
        return {"fault": str(error)}


def _collect(terms: Terms, read: int, child: int, check_stop: Callable[[], None]) -> tuple[bytes, Failure | None]:
    """(everything the judge wrote, None) or (b"", why it was ended)."""
    began = wall()
    answer = bytearray()
    while True:
        if select.select([read], [], [], watch.POLL_SECONDS)[0]:
            piece = os.read(read, _MAX_ANSWER_BYTES)
            if not piece:
                return bytes(answer), None
            answer += piece
        check_stop()
        if wall() - began > JUDGE_SECONDS:
            return b"", Failure("Timeout", "Judge", f"Scoring the model took more than {JUDGE_SECONDS:g} s.")
        if watch.resident_bytes(child) > terms.limits.memory_bytes + (1 << 30):
            text = f"Scoring the model took more than {(terms.limits.memory_bytes >> 20) + 1024} MiB of memory."
            return b"", Failure("HostOutOfMemory", "Judge", text)


def _understand(answer: dict[str, Any]) -> Score | Failure | JudgeFault:
    if "fault" in answer:
        return JudgeFault(answer["fault"])
    if answer.get("reason"):
        return Failure(answer["reason"], answer.get("detail") or answer["reason"], answer.get("message") or "")
    audit = answer["audit"]
    return Score(
        val_bpb=answer["valBPB"],
        nats=answer["nats"],
        bytes=answer["bytes"],
        tokens=answer["tokens"],
        parameters=answer["parameters"],
        pairs=audit["pairs"],
        mismatches=audit["mismatches"],
        max_difference=audit["maxDifference"],
    )
