"""A trainer that speaks the warm process's protocol and computes its scores from the source, in milliseconds.

It stands in where the loop is under test and training would only take time: kills, full disks,
repeatability.
The score is a fixed function of the knobs in train.py and of the seed, so every run of one campaign agrees.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import re
import sys
import threading
import time
from pathlib import Path

OUT = threading.Lock()


def say(event: dict[str, object]) -> None:
    with OUT:
        sys.stdout.write(json.dumps(event) + "\n")
        sys.stdout.flush()


def score(source: Path, seed: int) -> float:
    """Bits per byte: a valley over the knobs, and noise of sd 0.01 that follows from source and seed."""
    text = (source / "train.py").read_text()
    numbers = {name: float(value) for name, value in re.findall(r"^([A-Z_]+) = (-?[0-9.e+-]+)", text, re.MULTILINE)}
    rate = numbers.get("LEARNING_RATE", 1e-3)
    depth = numbers.get("DEPTH", 4)
    value = 1.8 + 0.2 * abs(math.log10(rate / 1.2e-2)) + 0.05 * abs(depth - 1)
    mark = hashlib.sha256(f"{text}/{seed}".encode()).digest()
    return value + random.Random(mark).gauss(0, 0.01)


def run(trial: dict[str, object]) -> None:
    source, workdir = Path(str(trial["sourceDir"])), Path(str(trial["workDir"]))
    time.sleep(random.uniform(0.0, float(os.environ.get("SCRIPTED_TRIAL_SECONDS", "0.03"))))
    result = {
        "version": 1,
        "outcome": "Scored",
        "reason": None,
        "detail": "",
        "message": "",
        "valBPB": score(source, int(str(trial["seed"]))),
        "split": trial["split"],
        "tokens": 32768,
        "audit": {"pairs": trial["auditPairs"], "mismatches": 0, "maxDifference": 0.0},
        "trainTokens": 1000,
        "tokensPerSecond": 1000.0,
        "referenceSeconds": 0.02,
        "peakMemoryBytes": 1 << 20,
        "seed": trial["seed"],
    }
    temporary = workdir / "result.json.tmp"
    with temporary.open("w") as file:
        json.dump(result, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(workdir / "result.json")
    say({"event": "result", "name": trial["name"], "result": result})


def main() -> None:
    if sys.argv[1:2] == ["prepare"]:
        folder = Path(os.environ["SCRIPTED_DATA"])
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "manifest.json").write_text(json.dumps({"name": "scripted", "identity": "scripted"}))
        print(json.dumps({"dataDir": str(folder)}))
        return
    say({"event": "ready", "version": 1, "pid": os.getpid(), "isolation": {}, "hardware": {"product": "scripted"}})
    for line in sys.stdin:
        command = json.loads(line)
        if command["command"] == "exit":
            break
        if command["command"] == "run":
            threading.Thread(target=run, args=(command["trial"],), daemon=True).start()
    os._exit(0)


if __name__ == "__main__":
    main()
