"""The quickstart's figures, from a run of `examples/quickstart.yaml` as `make quickstart` does it.

    python tests/perf/bench_quickstart.py [WORKDIR]

With the work folder of a finished run it only reads; without, it makes a run in a temporary folder first.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import describe

ROOT = Path(__file__).resolve().parents[2]


def busy_share(trials: list[dict[str, float]], slots: int) -> float:
    """Share of slot time between the first start and the last end of search trials in which a trial ran."""
    first = min(trial["start"] for trial in trials)
    last = max(trial["end"] for trial in trials)
    return sum(trial["end"] - trial["start"] for trial in trials) / (slots * (last - first))


def main() -> None:
    print(describe())
    if len(sys.argv) > 1:
        workdir, seconds = Path(sys.argv[1]), None
    else:
        workdir = Path(tempfile.mkdtemp(prefix="bench-quickstart-")) / "run"
        began = time.monotonic()
        command = [sys.executable, "-c", "from autoresearch_operator.cli import main; main()"]
        subprocess.run(
            [*command, "run", str(ROOT / "examples" / "quickstart.yaml"), "--workdir", str(workdir), "--plain"],
            check=True,
        )
        seconds = time.monotonic() - began

    from autoresearch_operator.local import session as sessions

    with sessions.read(workdir) as session:
        summary = sessions.summary_of(session)
        loaded = session.store.load()
        slots = int(session.store.state("slots"))
        loop = session.store.state("loop") or {}
    trials = [
        {"start": trial.started_at, "end": trial.finished_at}
        for trial in loaded.trials
        if trial.finished_at is not None
    ]
    lengths = [trial["end"] - trial["start"] for trial in trials]
    final = summary.final
    figures = {
        "run seconds": seconds if seconds is None else round(seconds, 1),
        "trials": len(trials),
        "seconds a trial, median": round(statistics.median(lengths), 2),
        "slots busy": round(busy_share(trials, slots), 4),
        "val_bpb baseline": summary.baseline and round(summary.baseline.mean, 4),
        "val_bpb head": summary.incumbent_score and round(summary.incumbent_score.mean, 4),
        "accepted": len(summary.kept),
        "hidden test, baseline": final and round(final.baseline.mean, 4),
        "hidden test, head": final and round(final.head.mean, 4),
        "still helps": final and {effect.number: effect.helps for effect in final.effects},
        "loop, milliseconds": loop,
    }
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
