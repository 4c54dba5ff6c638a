"""A trial's CPU-second budget beside busy neighbours: steps within 10 % of quiet; the wall-clock budget for comparison.

    python tests/perf/bench_cpu_budget.py [--cpu-seconds 3] [--rounds 3]

Runs one training script on one core, alone and with two busy loops on the same core, in turns, once with a budget in
CPU seconds and once in wall seconds. "Quiet" is as quiet as the machine is: on a shared one compare the load that is
printed. Prints one JSON line.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "local" / "runtime"))

import machine
import warmdriver

SCRIPT = (
    warmdriver.MODEL
    + """
model = torch.nn.Sequential(torch.nn.Embedding(gate.vocab_size, 256), torch.nn.Linear(256, 1024), torch.nn.ReLU(),
                            torch.nn.Linear(1024, gate.vocab_size))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
gate.trace(model)
for batch in gate.batches(8, 64): step(batch)
gate.submit(model)
"""
)


@contextmanager
def busy_neighbours(core: int, count: int) -> Iterator[None]:
    """count endless loops on core."""
    loop = f"import os\nos.sched_setaffinity(0, [{core}])\nwhile True: pass\n"
    neighbours = [subprocess.Popen([sys.executable, "-c", loop]) for _ in range(count)]
    try:
        yield
    finally:
        for neighbour in neighbours:
            neighbour.kill()
            neighbour.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cpu-seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    core = max(os.sched_getaffinity(0))
    steps: dict[str, list[int]] = {}
    with tempfile.TemporaryDirectory(prefix="bench-budget-") as folder:
        data_dir, home = Path(folder, "data"), Path(folder, "trials")
        data_dir.mkdir()
        home.mkdir()
        warmdriver.make_data(data_dir)
        warm = warmdriver.WarmProcess(home, data_dir)
        for _ in range(arguments.rounds):
            for kind in ("cpuSeconds", "seconds"):
                for neighbours in (0, 2):
                    with busy_neighbours(core, neighbours):
                        budget = {kind: arguments.cpu_seconds}
                        result = warm.run(SCRIPT, budget=budget, cpus=[core], limits={"memoryBytes": 2 << 30})
                    if result["outcome"] != "Scored":
                        print(json.dumps(result), file=sys.stderr)
                        return 1
                    steps.setdefault(f"{kind}-{'busy' if neighbours else 'quiet'}", []).append(result["steps"])
        warm.close()
    middle = {name: statistics.median(values) for name, values in steps.items()}
    report = {
        "benchmark": "cpuBudget",
        "cpuSecondsChange": round(middle["cpuSeconds-busy"] / middle["cpuSeconds-quiet"] - 1, 4),
        "bar": 0.10,
        "wallSecondsChange": round(middle["seconds-busy"] / middle["seconds-quiet"] - 1, 4),
        "steps": steps,
        "machine": machine.describe(),
    }
    print(json.dumps(report))
    return 0 if abs(report["cpuSecondsChange"]) <= 0.10 else 1


if __name__ == "__main__":
    sys.exit(main())
