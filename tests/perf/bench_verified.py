"""What the judge costs: a candidate of the quickstart's size, Verified against SelfReported; the bar is 10 % more time.

    python tests/perf/bench_verified.py [--rounds 3] [--cpu-seconds 10]

Both forms run the unedited template on the demo corpus under one warm process, in turns, and score as many tokens.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "local" / "runtime"))

import machine
import warmdriver

ROOT = Path(__file__).resolve().parents[2]
EVAL_TOKENS = 1 << 14


def demo() -> Path:
    command = [sys.executable, "-m", "autoresearch_trainer", "prepare", "--demo"]
    answer = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
    return Path(json.loads(answer.stdout.splitlines()[-1])["dataDir"])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cpu-seconds", type=float, default=10)
    arguments = parser.parse_args()
    print(machine.describe())
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source"
        shutil.copytree(ROOT / "trainer/autoresearch_trainer/templates/tiny-gpt", source)
        work = Path(folder) / "work"
        work.mkdir()
        warm = warmdriver.WarmProcess(work, demo())
        runs: dict[str, list[dict[str, Any]]] = {"Verified": [], "SelfReported": []}
        for number in range(arguments.rounds):
            for evaluation, results in runs.items():
                result = warm.run(
                    "",
                    sourceDir=str(source),
                    evaluation=evaluation,
                    budget={"cpuSeconds": arguments.cpu_seconds},
                    evalTokens=EVAL_TOKENS,
                    auditPairs=64,
                    seed=number,
                    limits={"memoryBytes": 4 << 30, "diskBytes": 1 << 30, "artifactBytes": 1 << 28, "processes": 64},
                )
                if result["outcome"] != "Scored":
                    sys.exit(f"{evaluation}: {result['reason']}: {result['message']}")
                results.append(result)
        warm.close()
    seconds = {name: [round(result["totalSeconds"], 2) for result in results] for name, results in runs.items()}
    ratios = [a / b for a, b in zip(seconds["Verified"], seconds["SelfReported"], strict=True)]
    print(json.dumps({"benchmark": "verified", "ratio": round(statistics.median(ratios), 3), "bar": 1.1, **seconds}))


if __name__ == "__main__":
    main()
