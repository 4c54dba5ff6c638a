"""What judging costs at the quickstart's size: 4 layers x 128, T 128, V 1024, one thread. Prints one JSON object.

python tests/perf/bench_judge.py [--pairs 128 1024 2048]
"""

import argparse
import json
import os
import platform
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from autoresearch_trainer import artifact
from autoresearch_trainer.judge.audit import Audit
from autoresearch_trainer.judge.loader import load
from autoresearch_trainer.judge.rows import ScoredRows
from autoresearch_trainer.judge.score import score
from torch import nn

VOCAB, LENGTH, WIDTH, LAYERS, TOKENS = 1024, 128, 128, 4, 32768


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.out = nn.Linear(WIDTH, WIDTH, bias=False)
        self.up = nn.Linear(WIDTH, 4 * WIDTH, bias=False)
        self.down = nn.Linear(4 * WIDTH, WIDTH, bias=False)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        b, t, c = x.shape
        q, k, v = self.qkv(F.rms_norm(x, (c,))).view(b, t, 3, 4, c // 4).permute(2, 0, 3, 1, 4)
        q, k = (torch.cat([a * cos + d * sin, d * cos - a * sin], -1) for a, d in (q.chunk(2, -1), k.chunk(2, -1)))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(b, t, c))
        return x + self.down(F.relu(self.up(F.rms_norm(x, (c,)))).square())


class GPT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.head = nn.Linear(WIDTH, VOCAB, bias=False)
        angle = torch.arange(LENGTH)[:, None] / 1e4 ** (torch.arange(16) / 16)
        self.register_buffer("cos", angle.cos())
        self.register_buffer("sin", angle.sin())

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        return self.head(F.rms_norm(x, (WIDTH,)))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--pairs", type=int, nargs="+", default=[128, 1024, 2048])
    options.add_argument("--batch", type=int, default=64)
    given = options.parse_args()
    batch = given.batch
    torch.set_num_threads(1)
    figures: dict[str, object] = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, "
        f"load {os.getloadavg()[0]:.1f}",
    }

    def timed(name: str, start: float) -> None:
        figures[name] = round(time.thread_time() - start, 3)

    start = time.thread_time()
    artifact.warm()
    timed("warmTorchExport", start)
    model = GPT()
    start = time.thread_time()
    traced = artifact.trace(model, batch, LENGTH, VOCAB)
    timed("traceFirst", start)
    start = time.thread_time()
    traced = artifact.trace(model, batch, LENGTH, VOCAB)
    timed("traceAgain", start)
    figures["graphBytes"] = len(traced.graph_json())
    random = np.random.default_rng(0)
    windows = random.integers(0, VOCAB - 1, (TOKENS // batch // LENGTH, batch, LENGTH + 1))
    windows[:, ::5, 40] = VOCAB - 1
    foreign = random.integers(0, VOCAB - 1, (256, LENGTH))
    rows = ScoredRows(windows, np.full(VOCAB, 3, np.int16), VOCAB - 1, foreign, foreign)
    with tempfile.TemporaryDirectory() as folder:
        start = time.thread_time()
        receiver = artifact.Receiver(Path(folder))
        traced.write(receiver)
        receiver.close()
        timed("stream", start)
        start = time.thread_time()
        program = load(
            Path(folder), batch=batch, seq_len=LENGTH, vocab_size=VOCAB, device=torch.device("cpu"),
            artifact_bytes=1 << 30, memory_bytes=1 << 32,
        )  # fmt: skip
        timed("load", start)
    program(torch.from_numpy(windows[0, :, :-1].copy()))
    start = time.thread_time()
    score(program, rows)
    timed("scoreAlone", start)
    for pairs in given.pairs:
        start = time.thread_time()
        audit = Audit(rows, VOCAB, pairs, random)
        score(program, rows, audit)
        timed(f"scoreAndDigests{pairs}", start)
        start = time.thread_time()
        outcome = audit.run(program)
        timed(f"audit{pairs}", start)
        assert (outcome.pairs, outcome.mismatches) == (pairs, 0), outcome
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
