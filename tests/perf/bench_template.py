"""What single edits of the template are worth: val_bpb after some CPU-seconds of one thread, all from one baseline.

    python tests/perf/bench_template.py [--cpu-seconds 10] [--seeds 1]

By hand (no gate, no sandbox): the figures are for choosing ranges and probes, and for showing that the demo has room.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import autoresearch_trainer
from machine import describe

TEMPLATE = Path(autoresearch_trainer.__file__).parent / "templates" / "tiny-gpt"
BEST = {"DEPTH": 1, "LEARNING_RATE": 0.01, "TOTAL_BATCH": 512, "DIM": 64, "EARLIER_TOKENS": 2, "SEQUENCE": 64}
CASES: list[dict[str, object]] = [
    {},
    {"LEARNING_RATE": 0.004},
    {"LEARNING_RATE": 0.01},
    {"DEPTH": 2},
    {"DEPTH": 1},
    {"DIM": 64},
    {"TOTAL_BATCH": 512},
    {"SEQUENCE": 64},
    {"EARLIER_TOKENS": 2},
    {"OPTIMIZER": "Muon"},
    {"VALUE_EMBEDDINGS": True},
    {"DEPTH": 1, "LEARNING_RATE": 0.006},
    {"DEPTH": 1, "LEARNING_RATE": 0.006, "EARLIER_TOKENS": 1},
    {"DEPTH": 1, "LEARNING_RATE": 0.006, "EARLIER_TOKENS": 1, "DIM": 64},
    BEST,
]


def measure(knobs: dict[str, object], cpu_seconds: float, seed: int, data_dir: str) -> tuple[float, int]:
    """(val_bpb, optimizer steps) of one run by hand with the knobs changed."""
    source = (TEMPLATE / "train.py").read_text()
    for name, value in knobs.items():
        source, count = re.subn(rf"(?m)^{name} = [^#\n]*", lambda _, n=name, v=value: f"{n} = {v!r}  ", source)
        if count != 1:
            raise SystemExit(f"{name} is no knob of the template")
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(TEMPLATE / "prepare.py", folder)
        (Path(folder) / "train.py").write_text(source)
        settings = {
            "AUTORESEARCH_DATA_DIR": data_dir, "AUTORESEARCH_SEED": str(seed), "OMP_NUM_THREADS": "1",
            "AUTORESEARCH_BUDGET": json.dumps({"cpuSeconds": cpu_seconds}), "CUDA_VISIBLE_DEVICES": "",
        }  # fmt: skip
        run = [sys.executable, "train.py"]
        output = subprocess.run(
            run, cwd=folder, env=os.environ | settings, capture_output=True, text=True, check=True
        ).stdout
    score, steps = re.search(r"valBPB ([\d.]+)", output), re.search(r"steps: (\d+)", output)
    if score is None or steps is None:
        raise SystemExit(f"the template printed no score:\n{output}")
    return float(score[1]), int(steps[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpu-seconds", type=float, default=10.0)
    parser.add_argument("--seeds", type=int, default=1)
    arguments = parser.parse_args()
    print(describe())
    prepared = subprocess.run(
        [sys.executable, "-m", "autoresearch_trainer", "prepare", "--demo"], capture_output=True, text=True, check=True
    )
    data_dir = json.loads(prepared.stdout.splitlines()[-1])["dataDir"]
    print("| val_bpb | steps | edit |\n|---|---|---|")
    for knobs in CASES:
        for seed in range(1, arguments.seeds + 1):
            score, steps = measure(knobs, arguments.cpu_seconds, seed, data_dir)
            edit = ", ".join(f"{name} {value}" for name, value in knobs.items()) or "baseline"
            print(f"| {score:.3f} | {steps} | {edit} |", flush=True)


if __name__ == "__main__":
    main()
