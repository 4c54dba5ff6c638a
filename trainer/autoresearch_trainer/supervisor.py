"""One trial from its spec to its result: trusted, forked from the warm process, single-threaded.

It copies the source, starts the tree, is the gate, watches the limits, ends what has to end, has the judge score the
artifact and writes the result durably before it reports it. It never runs candidate code and never blocks on a
candidate.
"""

import json
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from . import classify, judging, preparation
from .clock import TreeClock, members, wall
from .data import manifest as manifests
from .data.errors import DataError
from .data.shards import TokenSplit, token_bytes
from .gate import Gate
from .outputlog import OutputLog
from .result import INVALID, LOST, SCORED, Audit, Isolation, TrialResult, encode, write_durably
from .sandbox import kernel
from .spec import TrialSpec
from .tree import TrialTree
from .watch import POLL_SECONDS, Watch

PROGRESS_SECONDS = 0.5
HAND_OVER_GRACE_SECONDS = 10.0
"""How long a script may go on after its model has arrived, to print a summary."""
_OUTPUT_FILE, _RESULT_FILE = "output.log", "result.json"


class _Stopped(Exception):
    """The operator, or its end, asked for the trial to end now."""


class Supervisor:
    """Carries out one trial; `run` is called once."""

    def __init__(self, spec: TrialSpec, control: socket.socket, hardware: dict[str, str]) -> None:
        self._spec = spec
        self._control = control
        self._began = wall()
        self._folders = preparation.TrialFolders(spec.work_dir)
        self._result = TrialResult(
            outcome=LOST,
            split=spec.split,
            seed=spec.seed,
            self_reported=spec.evaluation == "SelfReported",
            hardware=hardware,
        )
        self._tree: TrialTree | None = None
        self._ending: classify.Ending | None = None
        self._forced: classify.Failure | None = None
        self._main = 0
        self._candidate_began = 0.0
        self._left_by: float | None = None

    def run(self) -> dict[str, Any]:
        """Carries the trial out, writes workDir/result.json and returns the document."""
        try:
            self._carry_out()
        except _Stopped:
            self._lost("Stopped", "The trial was stopped before it had a result.")
        except preparation.SourceError as error:
            self._invalid(classify.Failure("Crashed", "Source", str(error)))
        except DataError as error:
            self._lost("Data", str(error))
        except OSError as error:
            self._lost("OSError", f"{type(error).__name__}: {error}")
        finally:
            if self._tree is not None:
                self._tree.end()
        self._result.total_seconds = wall() - self._began
        document = self._result.as_json()
        write_durably(self._spec.work_dir / _RESULT_FILE, document)
        self._folders.remove()
        return document

    def _lost(self, detail: str, message: str) -> None:
        self._result.outcome, self._result.reason = LOST, None
        self._result.detail, self._result.message = detail, message

    def _invalid(self, failure: classify.Failure) -> None:
        self._result.outcome, self._result.reason = INVALID, failure.reason
        self._result.detail, self._result.message = failure.detail, failure.message

    def _carry_out(self) -> None:
        spec = self._spec
        kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
        self._result.source_sha256 = self._folders.make(spec.source_dir, spec.script)
        self._result.reference_seconds = preparation.reference_seconds(spec.threads)
        manifest = manifests.load(spec.data_dir)
        lengths = token_bytes(spec.data_dir, manifest)
        ours, theirs = socket.socketpair()
        output_read, output_write = os.pipe()
        self._candidate_began = wall()
        self._tree = TrialTree(spec, self._folders, theirs, output_write)
        theirs.close()
        os.close(output_write)
        # Only now: what is opened before the fork would be mapped in the candidate too.
        tree_clock = TreeClock(self._tree.root)
        gate = Gate(
            ours,
            spec,
            {
                "budget": spec.budget.as_json(),
                "seed": spec.seed,
                "vocabSize": manifest.vocab_size,
                "maxSeqLen": manifest.max_seq_len,
                "evalBatch": manifest.eval_batch,
                "selfReported": self._result.self_reported,
                "dataDir": str(spec.data_dir) if self._result.self_reported else None,
            },
            lengths.astype("<i2").tobytes(),
            lambda: list(TokenSplit(spec.data_dir, "train", manifest=manifest).shards),
            lambda: judging.ArtifactFiles(self._folders.artifact),
            tree_clock,
        )
        watch = Watch(self._tree.root, tree_clock, spec.limits, [self._folders.run_dir, self._folders.temporary])
        with OutputLog(spec.work_dir / _OUTPUT_FILE, spec.limits.stdout_bytes) as log:
            self._supervise(self._tree, gate, watch, tree_clock, log, output_read)
            self._account(gate, watch, tree_clock)
            self._decide(gate, log)

    def _supervise(
        self, tree: TrialTree, gate: Gate, watch: Watch, tree_clock: TreeClock, log: OutputLog, output: int
    ) -> None:
        """Serves, listens and watches until the candidate has ended or has to be ended."""
        os.set_blocking(output, False)
        hears: dict[int, Callable[[int], bool]] = {  # each returns False when nothing more can come
            gate.fileno(): gate.on_ready,
            output: lambda _: log.take(output),
            tree.connection.fileno(): lambda _: self._hear_launcher(tree.connection),
            self._control.fileno(): self._hear_operator,
        }
        poller = select.epoll()
        for descriptor in hears:
            poller.register(descriptor, select.EPOLLIN)
        gate.on_interest = lambda events: poller.modify(gate.fileno(), events)
        next_poll, next_progress = wall(), wall() + PROGRESS_SECONDS
        while self._ending is None and self._forced is None:
            for descriptor, event in poller.poll(POLL_SECONDS):
                if not hears[descriptor](event):
                    with suppress(OSError):  # a descriptor that was closed has left the set by itself
                        poller.unregister(descriptor)
            now = wall()
            if now >= next_poll:
                next_poll = now + POLL_SECONDS
                self._look(tree, gate, watch, tree_clock, now)
            if now >= next_progress:
                next_progress = now + PROGRESS_SECONDS
                self._report_progress(gate)
        poller.close()
        gate.on_interest = lambda _: None
        if self._forced is None:
            while gate.open and _has_input(gate.fileno()):
                gate.on_ready(select.EPOLLIN)  # what the candidate sent before it ended counts
        tree.end()
        while log.take(output):
            pass
        os.close(output)

    def _look(self, tree: TrialTree, gate: Gate, watch: Watch, tree_clock: TreeClock, now: float) -> None:
        self._find_main(tree.root, tree_clock)
        excess = watch.poll()
        if excess:
            self._forced = classify.Failure(excess.reason, excess.detail, excess.message)
        self._check_clocks(gate, now)

    def _hear_operator(self, _: int) -> bool:
        raise _Stopped

    def _hear_launcher(self, connection: socket.socket) -> bool:
        data = connection.recv(1 << 16)
        if not data:
            if self._ending is None:
                self._ending = classify.Ending(signal=signal.SIGKILL)
            return False
        for line in data.splitlines():
            told = json.loads(line)
            if told.get("isolation"):
                self._result.isolation = Isolation(**told["isolation"])
            if "code" in told:
                self._ending = classify.Ending(told["code"], told["signal"])
        return True

    def _find_main(self, root: int, tree_clock: TreeClock) -> None:
        if self._main:
            return
        children = [member for member in members(root) if member.parent == root]
        if children:
            self._main = min(children, key=lambda member: member.started).pid
            tree_clock.watch_main(self._main)

    def _check_clocks(self, gate: Gate, now: float) -> None:
        spec, account = self._spec, gate.account
        if account.handed_over:
            if self._left_by is None:
                self._left_by = now + HAND_OVER_GRACE_SECONDS
            if now > self._left_by:
                self._ending = classify.Ending(code=0)
            return
        if account.started_wall is None:
            allowed = spec.startup_seconds
            if self._result.self_reported:
                allowed += spec.budget.wall_backstop_seconds
            if now - self._candidate_began > allowed:
                self._forced = classify.Failure(
                    "Timeout",
                    "Startup",
                    f"The clock had not started {allowed:g} s after the script began; the third batch starts it.",
                )
            return
        budget, backstop = spec.budget, spec.budget.wall_backstop_seconds
        # A script that scores itself does so after its last batch; it gets the start-up allowance once more for that.
        scoring = self._result.self_reported and gate.ended
        if scoring:
            backstop += spec.startup_seconds
        if budget.kind != "steps" and gate.spent() > budget.amount + 1.0 and not scoring:
            self._forced = self._overrun(gate.spent())
        elif now - account.started_wall > backstop:
            self._forced = classify.Failure(
                "Timeout",
                "Backstop",
                f"The budget of {budget.amount:g} {budget.kind} was not used up after {backstop:g} s of wall time.",
            )

    def _overrun(self, spent: float) -> classify.Failure:
        budget = self._spec.budget
        used = f"{spent:.2f} of {budget.amount:g} {budget.kind} had been used (1 more is allowed)"
        text = f"{used} and no model was complete."
        return classify.Failure("Timeout", "Budget", text)

    def _report_progress(self, gate: Gate) -> None:
        account = gate.account
        loss = account.last_loss
        event = {
            "event": "progress",
            "name": self._spec.name,
            "step": account.steps,
            "tokens": account.train_tokens,
            "loss": loss if loss is not None and abs(loss) < float("inf") else None,
            "progress": round(gate.progress(), 4),
        }
        with suppress(BlockingIOError):  # a reader that lags loses a progress line, nothing else
            self._control.send(encode(event) + b"\n", socket.MSG_DONTWAIT)

    def _account(self, gate: Gate, watch: Watch, tree_clock: TreeClock) -> None:
        account, result = gate.account, self._result
        result.steps, result.train_tokens, result.curve = account.steps, account.train_tokens, account.curve
        result.peak_memory_bytes = watch.peak_memory_bytes or None
        result.artifact_sha256 = account.artifact_sha256
        if account.started_wall is not None:
            result.startup_seconds = account.started_wall - self._candidate_began
            stopped = account.stopped_wall if account.stopped_wall is not None else wall()
            result.train_seconds = stopped - account.started_wall
            used = account.stopped_cpu if account.handed_over else tree_clock.scan([])
            result.cpu_seconds = max(0.0, used - account.started_cpu)
            spent = result.cpu_seconds if self._spec.budget.kind == "cpuSeconds" else result.train_seconds
            result.tokens_per_second = account.train_tokens / spent if spent > 0 else None

    def _decide(self, gate: Gate, log: OutputLog) -> None:
        account, result, budget = gate.account, self._result, self._spec.budget
        failure = self._forced
        if failure is None and account.handed_over and account.started_wall is not None and budget.kind != "steps":
            spent = (result.cpu_seconds if budget.kind == "cpuSeconds" else result.train_seconds) or 0.0
            if spent > budget.amount + 1.0:
                failure = self._overrun(spent)
        if failure is None and account.artifact_problem:
            failure = classify.Failure("ArtifactRefused", *account.artifact_problem)
        if failure is not None:
            self._invalid(failure)
        elif result.self_reported:
            self._take_word(log)
        elif account.handed_over:
            self._judge()
        else:
            ending = self._ending or classify.Ending(code=0)
            self._invalid(classify.why(ending, log.tail(), account.last_loss, account.problem))

    def _take_word(self, log: OutputLog) -> None:
        """The score of a SelfReported trial: the last val_bpb line, if the script ended well."""
        ending = self._ending or classify.Ending()
        score = log.reported_score()
        if ending.code == 0 and score is not None:
            self._result.outcome, self._result.val_bpb = SCORED, score
            self._result.message = "The script's own figure; nothing checked it."
        elif ending.code == 0:
            text = "The script ended without a line `val_bpb: <number>`."
            self._invalid(classify.Failure("NoArtifact", "NoScore", text))
        else:
            self._invalid(classify.why(ending, log.tail(), None, None))

    def _judge(self) -> None:
        result = self._result
        began = wall()
        answer = judging.score(self._spec, self._folders.artifact, self._stopped)
        result.judge_seconds = wall() - began
        if isinstance(answer, judging.JudgeFault):
            self._lost("Judge", answer.message)
        elif isinstance(answer, classify.Failure):
            self._invalid(answer)
        else:
            result.outcome = SCORED
            result.val_bpb, result.nats = answer.val_bpb, answer.nats
            result.bytes, result.tokens, result.parameters = answer.bytes, answer.tokens, answer.parameters
            result.audit = Audit(answer.pairs, answer.mismatches, answer.max_difference)

    def _stopped(self) -> None:
        """Raises _Stopped once the operator has asked for the end."""
        if _has_input(self._control.fileno()):
            raise _Stopped


def _has_input(descriptor: int) -> bool:
    return bool(select.select([descriptor], [], [], 0)[0])


def run_forked(spec: TrialSpec, control: socket.socket, hardware: dict[str, str]) -> int:
    """The supervisor's process from its fork to its exit code; events go to control, one JSON object a line."""
    began = time.monotonic()
    if spec.cpus is not None:
        os.sched_setaffinity(0, spec.cpus)
    _send(control, {"event": "started", "name": spec.name, "pid": os.getpid()})
    supervisor = Supervisor(spec, control, hardware)
    try:
        document = supervisor.run()
    except OSError as error:
        # The result could not be written: the disk is full or gone. Say so; the operator decides when to try again.
        lost = TrialResult(outcome=LOST, detail="Disk", message=f"workDir: {error}", split=spec.split, seed=spec.seed)
        lost.total_seconds = time.monotonic() - began
        document = lost.as_json()
    _send(control, {"event": "result", "name": spec.name, "result": document})
    return 0


def _send(control: socket.socket, event: dict[str, Any]) -> None:
    with suppress(BrokenPipeError, ConnectionResetError):  # the warm process is gone, and the kernel ends this one
        control.sendall(encode(event) + b"\n")
