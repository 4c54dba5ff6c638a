"""Training under the gate against the same loop that reads the shards itself; the bar is 0.98 of its tokens per second.

    python tests/perf/bench_gate.py [--steps 20] [--rounds 15] [--layers 4]

Both loops run in one candidate under one warm process, in turns, so that they share core, memory and noise; the loop
that reads itself uses the same windows, from a file in its own folder. Prints one JSON line.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "local" / "runtime"))

import machine
import warmdriver

SCRIPT = """
import json, statistics, time
import numpy as np
import torch
from autoresearch_trainer import client
from autoresearch_trainer.windows import WindowOrder

B, T = 8, 128
gate = client.connect()
torch.manual_seed(gate.seed)
torch.set_flush_denormal(True)

class Block(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm1, self.norm2 = torch.nn.LayerNorm(width), torch.nn.LayerNorm(width)
        self.qkv, self.out = torch.nn.Linear(width, 3 * width), torch.nn.Linear(width, width)
        self.up, self.down = torch.nn.Linear(width, 4 * width), torch.nn.Linear(4 * width, width)
    def forward(self, x):
        b, t, c = x.shape
        q, k, v = (p.view(b, t, 4, c // 4).transpose(1, 2) for p in self.qkv(self.norm1(x)).split(c, 2))
        y = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(b, t, c))
        return x + self.down(self.up(self.norm2(x)).relu())

model = torch.nn.Sequential(torch.nn.Embedding(gate.vocab_size, 128), *[Block(128) for _ in range(LAYERS)],
                            torch.nn.Linear(128, gate.vocab_size))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

def step(x, y):
    loss = torch.nn.functional.cross_entropy(model(x).flatten(0, 1), y.flatten())
    loss.backward(); optimizer.step(); optimizer.zero_grad()

def itself():
    shard = np.memmap("shard.bin", dtype="<u2", mode="r")
    order = WindowOrder([shard], T, gate.seed)
    window = np.empty((B, T + 1), dtype=np.uint16)
    while True:
        order.fill(window)
        yield torch.from_numpy(window[:, :-1].astype(np.int64)), torch.from_numpy(window[:, 1:].astype(np.int64))

loops = {"gate": gate.batches(B, T), "itself": itself()}
steps = STEPS
rates = {name: [] for name in loops}
for turn in range(ROUNDS + 1):
    # The order changes from turn to turn, so that a drift of the machine hits both alike.
    for name in sorted(loops, reverse=bool(turn % 2)):
        began = time.perf_counter()
        for _ in range(steps):
            step(*next(loops[name]))
        if turn:
            rates[name].append(steps * B * T / (time.perf_counter() - began))
waits = []
for _ in range(300):
    began = time.perf_counter(); next(loops["gate"]); waits.append(time.perf_counter() - began)
print("RATES", json.dumps({**rates, "batchSeconds": statistics.median(waits)}))
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20, help="steps in one turn")
    parser.add_argument("--rounds", type=int, default=15, help="turns of each loop")
    parser.add_argument("--layers", type=int, default=4)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-gate-") as folder:
        data_dir = Path(folder, "data")
        data_dir.mkdir()
        warmdriver.make_data(data_dir, max_seq_len=128)
        home = Path(folder, "trials")
        home.mkdir()
        warm = warmdriver.WarmProcess(home, data_dir)
        script = SCRIPT
        for name, value in (("STEPS", arguments.steps), ("ROUNDS", arguments.rounds), ("LAYERS", arguments.layers)):
            script = script.replace(name, str(value))
        spec = warm.spec(script, budget={"seconds": 600}, limits={"memoryBytes": 2 << 30})
        shard = Path(data_dir, "train", "00000.bin").read_bytes()
        Path(spec["sourceDir"], "shard.bin").write_bytes(shard)
        warm.send({"command": "run", "trial": spec})
        warm.result(spec["name"], timeout=600)
        output = Path(spec["workDir"], "output.log").read_text()
        warm.close()
    line = next((line for line in output.splitlines() if line.startswith("RATES ")), None)
    if line is None:
        print(output, file=sys.stderr)
        return 1
    rates = json.loads(line.removeprefix("RATES "))
    ratios = sorted(ours / own for ours, own in zip(rates["gate"], rates["itself"], strict=True))
    middle = ratios[len(ratios) // 2]
    report = {
        "benchmark": "gate",
        "ratio": round(middle, 4),
        "ratioQuartiles": [round(ratios[len(ratios) // 4], 4), round(ratios[3 * len(ratios) // 4], 4)],
        "bar": 0.98,
        "tokensPerSecond": {name: round(sorted(rates[name])[len(ratios) // 2]) for name in ("gate", "itself")},
        "batchMicroseconds": round(rates["batchSeconds"] * 1e6, 1),
        "machine": machine.describe(),
    }
    print(json.dumps(report))
    return 0 if middle >= 0.98 else 1


if __name__ == "__main__":
    sys.exit(main())
