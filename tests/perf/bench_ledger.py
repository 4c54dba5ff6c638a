"""Figures of git and of the work folder with 5,000 candidates: `python tests/perf/bench_ledger.py [--json]`.

Prints what a landing costs, what one more candidate costs in a ledger of 5,000, and time and memory of loading.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from autoresearch_operator.api.reasons import ExperimentKind, ExperimentPhase, Verdict, VerdictReason
from autoresearch_operator.gateways.git import Repository
from autoresearch_operator.gateways.landing import commit_message
from autoresearch_operator.gateways.ledger import Ledger
from autoresearch_operator.local.store import Store
from autoresearch_operator.research.records import ExperimentRecord, Purpose, TrialKey, TrialPhase, TrialRecord

LANDING_P50_SECONDS = 0.060
LOAD_SECONDS = 1.0
LOAD_MIB = 250
SCRIPT = "\n".join(f"KNOB_{line} = {line}  # a line of a training script of the usual size" for line in range(300))


def candidate(store: Store, base: str, number: int) -> tuple[str, str]:
    edit = SCRIPT.replace("KNOB_7 = 7", f"KNOB_7 = {number}").encode()
    return store.repository.write_candidate(base, {"train.py": edit}, f"try {number}\n", 1_700_000_000 + number)


def trial(number: int, seed: int) -> TrialRecord:
    return TrialRecord(
        TrialKey(number, 64 * number + seed, 1), "cpu", Purpose.SCREEN, number, TrialPhase.SCORED,
        val_bpb=2.123456789 - number / 1e5, audit_pairs=128, train_tokens=123456, tokens_per_second=12345.6,
        reference_seconds=0.0123, peak_memory_bytes=512 << 20, started_at=1.7e9, finished_at=1.7e9 + 12, slot=seed % 2,
        curve=tuple((1000 * point, 5.0 - point / 3) for point in range(1, 9)),
    )  # fmt: skip


def landings(folder: Path, count: int) -> list[float]:
    """Seconds from an accepted edit's text to branch and ledger on disk: all that git does for one accepted idea."""
    store = Store.create(
        folder, request="", namespace="d", name="landings", seed=1, files={"train.py": SCRIPT.encode()}
    )
    experiments: list[ExperimentRecord] = []
    head, took = store.run.source_commit, []
    for number in range(count):
        started = time.perf_counter()
        commit, tree = candidate(store, head, number)
        message = commit_message(f"try {number}", "", {"Experiment": number})
        head = store.repository.landing_commit(head, tree, message, 1_700_001_000 + number)
        record = ExperimentRecord(
            number, ExperimentKind.PROPOSAL, commit, tree, max(0, number - 1), f"try {number}", "search",
            phase=ExperimentPhase.DONE, verdict=Verdict.ACCEPTED, reason=VerdictReason.IMPROVED, landed_commit=head,
        )  # fmt: skip
        experiments.append(record)
        store.save_decisions([record], experiments, [])
        took.append(time.perf_counter() - started)
    store.close()
    return took


def fill(folder: Path, count: int) -> dict[str, float]:
    """Makes a finished run of `count` candidates with two trials each; seconds of one more candidate and verdict."""
    store = Store.create(folder, request="", namespace="d", name="big", seed=1, files={"train.py": SCRIPT.encode()})
    base = store.run.source_commit
    experiments: list[ExperimentRecord] = []
    with store.repository.writer() as writer:
        for number in range(count):
            edit = SCRIPT.replace("KNOB_7 = 7", f"KNOB_7 = {number}").encode()
            commit, tree = writer.commit(parents=(base,), message=f"try {number}\n", when=1, changed={"train.py": edit})
            record = ExperimentRecord(
                number, ExperimentKind.PROPOSAL, commit, tree, 0, f"KNOB_7 7 -> {number}", "search", "Why not.",
                phase=ExperimentPhase.DONE, verdict=Verdict.REJECTED, reason=VerdictReason.NOT_BETTER,
                message="2.1234 is not better than 2.1200 by one noise unit (0.0100).", val_bpb=2.1234, delta=-0.0034,
            )  # fmt: skip
            experiments.append(record)
    trials = [trial(number, seed) for number in range(count) for seed in (0, 8)]
    for record in experiments:
        store.save_experiment(record)
    for item in trials:
        store._write_trial(item, {"version": 1, "name": "x"})
    ledger = store.ledger or Ledger(store.repository, store.run.ledger_ref)
    if not ledger.save(experiments, trials, {"name": "big"}, when=1).ok:
        raise SystemExit("the ledger was not written")
    took = []
    for number in range(count, count + 20):
        started = time.perf_counter()
        commit, tree = candidate(store, base, number)
        record = ExperimentRecord(number, ExperimentKind.PROPOSAL, commit, tree, 0, f"try {number}", "search")
        experiments.append(record)
        store.save_candidates([record], experiments, trials)
        experiments[-1] = dataclasses.replace(
            record, phase=ExperimentPhase.DONE, verdict=Verdict.REJECTED, reason=VerdictReason.NOT_BETTER
        )
        store.save_decisions(experiments[-1:], experiments, trials)
        took.append(time.perf_counter() - started)
    store.close()
    return {"candidate_and_verdict_p50": statistics.median(took)}


LOAD = """
import json, resource, sys, time
from pathlib import Path
from autoresearch_operator.local.store import Store
started = time.perf_counter()
store = Store.open(Path(sys.argv[1]), readonly=sys.argv[2] == "read")
opened = time.perf_counter()
loaded = store.load()
done = time.perf_counter()
print(json.dumps({"open": opened - started, "load": done - opened, "experiments": len(loaded.experiments),
    "trials": len(loaded.trials), "mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))
"""


def load(folder: Path, how: str) -> dict[str, float]:
    done = subprocess.run([sys.executable, "-c", LOAD, str(folder), how], check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--candidates", type=int, default=5000)
    parser.add_argument("--landings", type=int, default=40)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        took = sorted(landings(Path(scratch) / "landings", arguments.landings))
        big = Path(scratch) / "big"
        figures: dict[str, object] = {
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
            "load_average": os.getloadavg()[0],
            "landing_p50_seconds": statistics.median(took),
            "landing_p90_seconds": took[int(len(took) * 0.9)],
            **fill(big, arguments.candidates),
            "resume": load(big, "write"),
            "read": load(big, "read"),
        }
        (big / "index.jsonl").unlink()
        figures["resume_without_index"] = load(big, "write")
        store = Repository.open(big / "repo.git")
        started = time.perf_counter()
        store.repack()
        figures["repack_seconds"] = time.perf_counter() - started
        figures["resume_packed"] = load(big, "write")
        sizes = subprocess.run(
            ["du", "-sm", str(big / "repo.git"), str(big)], check=True, capture_output=True, text=True
        )
        figures["mib_on_disk"] = sizes.stdout.split()[::2]
    print(json.dumps(figures, indent=None if arguments.json else 1))
    read = figures["read"]
    good = (
        statistics.median(took) <= LANDING_P50_SECONDS
        and isinstance(read, dict)
        and read["open"] + read["load"] <= LOAD_SECONDS
        and read["mib"] <= LOAD_MIB
    )
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
