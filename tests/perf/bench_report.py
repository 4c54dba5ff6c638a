"""How long people wait for what they look at. Run by itself: `python tests/perf/bench_report.py`.

Gates (issue figures): `results` over 5,000 candidates within 1 s and 250 MiB; a report of 1,000 experiments within
5 s and 3 MB; one event of the live view under 1 ms. The gates compare CPU seconds, which a busy neighbour does not
stretch; wall seconds are printed beside them.
"""

from __future__ import annotations

import io
import platform
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "observe"))

from autoresearch_operator.local.machine import Slot
from autoresearch_operator.local.view import open_view
from autoresearch_operator.observe.chart import chart_png
from autoresearch_operator.observe.exports import results_tsv, write_json
from autoresearch_operator.observe.report import report_html
from autoresearch_operator.observe.summary import summarise
from autoresearch_operator.observe.tables import render, results_text
from observed_runs import FACTS, made_up, made_up_records

DIFF = (
    "--- a/train.py\n+++ b/train.py\n@@ -1,4 +1,4 @@\n import torch\n-LEARNING_RATE = 0.001\n"
    "+LEARNING_RATE = 0.004  # search: log 0.005..0.2\n DEPTH = 4\n"
)


def timed(name: str, work: Callable[[], object], limit: float) -> bool:
    """Prints wall and CPU seconds; true when the CPU time is within the limit."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"{name:44} {wall:8.3f} s wall {cpu:8.3f} s CPU   limit {limit:g} s   {'ok' if cpu <= limit else 'TOO SLOW'}")
    return cpu <= limit


def main() -> int:
    """Runs all; the exit code says whether every gate held."""
    print(f"{platform.platform()}, Python {platform.python_version()}")
    observed, standing = made_up_records(5000)

    def results() -> None:
        summary = summarise(FACTS, observed, standing, now=1.8e9)
        render(results_text(summary, width=100), width=100)

    good = timed("results, 5,000 candidates", results, 1.0)
    summary = summarise(FACTS, observed, standing, now=1.8e9)
    good &= timed("results as TSV and JSON, 5,000 candidates", lambda: (results_tsv(summary), write_json(summary)), 1.0)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{'peak memory after results':44} {peak:8.0f} MiB   limit 250 MiB   {'ok' if peak <= 250 else 'TOO MUCH'}")
    good &= peak <= 250

    events = 2000
    with open_view(io.StringIO(), mode="live") as view:
        view.started(FACTS)
        slot, begun = Slot(0, (0,), "cpu", 1), time.perf_counter()
        for step in range(events):
            view.trial_progress(slot, {"step": step, "tokens": step * 1000, "loss": 3.0, "progress": 0.5})
        each = (time.perf_counter() - begun) / events
    print(f"{'one event of the live view':44} {each * 1e6:8.1f} us wall   limit 1000 us")
    good &= each < 1e-3

    chart_png(made_up(3))  # imports matplotlib, builds its font cache on a fresh machine
    good &= timed("chart, 5,000 candidates", lambda: chart_png(summary), 3.0)
    thousand = made_up(1000)
    for name, diff in (("one-line edits", DIFF), ("whole-file edits", DIFF * 60), ("hostile edits", "-<\n+>\n" * 800)):
        page: list[str] = []
        diffs = {row.number: diff for row in thousand.rows}
        good &= timed(
            f"report, 1,000 {name}", lambda page=page, diffs=diffs: page.append(report_html(thousand, diffs)), 5.0
        )
        size = len(page[0].encode()) / 1e6
        print(f"{'':44} {size:8.2f} MB   limit 3 MB   {'ok' if size <= 3 else 'TOO LARGE'}")
        good &= size <= 3
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
