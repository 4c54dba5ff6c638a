"""Drives the real warm process as the operator does: JSON lines in, JSON lines out."""

import hashlib
import json
import os
import queue
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

MODEL = """
import os, sys, time, torch
from autoresearch_trainer import client
gate = client.connect()
torch.manual_seed(gate.seed)
model = torch.nn.Sequential(torch.nn.Embedding(gate.vocab_size, 32), torch.nn.Linear(32, gate.vocab_size))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
def step(batch):
    x, y = batch
    loss = torch.nn.functional.cross_entropy(model(x).flatten(0, 1), y.flatten())
    loss.backward(); optimizer.step(); optimizer.zero_grad()
    return loss.item()
"""
HONEST = (
    MODEL
    + """
gate.trace(model)
for number, batch in enumerate(gate.batches(4, 32)):
    gate.log(number, step(batch))
gate.submit(model)
print("done")
"""
)


def make_data(folder: Path, *, tokens: int = 60_000, max_seq_len: int = 64, eval_batch: int = 4) -> Path:
    """A small prepared data set: a language of 300 tokens in which each follows from the one before, with noise."""
    from autoresearch_trainer.data import manifest as manifests
    from autoresearch_trainer.data import tokenizer as tokenizers
    from autoresearch_trainer.data.shards import ShardWriter

    text = [f"word{i % 97} other{i % 31} = value({i % 13}); " * 3 for i in range(400)]
    tokenizer = tokenizers.train(text, 300)
    rng = np.random.default_rng(0)
    splits = {}
    lengths = tokenizer.token_bytes()
    for split in manifests.SPLITS:
        writer = ShardWriter(folder, split, tokenizer.vocab_size)
        size = raw = 0
        while size < tokens:
            ids = [tokenizer.bos]
            for _ in range(250):
                ids.append(int((ids[-1] * 7 + rng.integers(0, 4)) % tokenizer.bos))
            size += writer.add(ids)
            raw += int(lengths[ids].sum())
        splits[split] = manifests.Split(writer.close(), size, raw)
    tokenizer.save(folder / "tokenizer.json")
    np.save(folder / "token_bytes.npy", lengths)
    manifests.Manifest(
        name="tiny",
        vocab_size=tokenizer.vocab_size,
        max_seq_len=max_seq_len,
        eval_batch=eval_batch,
        tokenizer="tokenizer.json",
        tokenizer_sha256=_sha256(folder / "tokenizer.json"),
        token_bytes="token_bytes.npy",  # noqa: S106 - a file name
        token_bytes_sha256=_sha256(folder / "token_bytes.npy"),
        corpus_sha256="0" * 64,
        licence="none",
        splits=splits,
    ).write(folder)
    return folder


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class WarmProcess:
    """One `python -m autoresearch_trainer warm` and the events it sends."""

    def __init__(self, folder: Path, data_dir: Path, environment: dict[str, str] | None = None) -> None:
        self.folder = folder
        self.data_dir = data_dir
        self.log = (folder / "warm.log").open("wb")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "autoresearch_trainer", "warm"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
        self._events: queue.Queue[dict[str, Any] | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        self.ready = self.next_event(timeout=240)
        self.pid: int = self.ready["pid"]
        self._count = 0

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self._events.put(json.loads(line))
        self._events.put(None)

    def next_event(self, timeout: float = 60) -> dict[str, Any]:
        """The next event; fails when the process has ended."""
        event = self._events.get(timeout=timeout)
        assert event is not None, "the warm process ended"
        return event

    def send(self, command: dict[str, Any]) -> None:
        """Sends one command."""
        assert self.process.stdin
        self.process.stdin.write(json.dumps(command).encode() + b"\n")
        self.process.stdin.flush()

    def spec(self, script: str, *, files: dict[str, str] | None = None, **changes: Any) -> dict[str, Any]:
        """A trial of three steps with small limits; changes replace fields."""
        self._count += 1
        name = changes.pop("name", f"trial-{self._count}")
        source, work = self.folder / f"{name}.source", self.folder / name
        source.mkdir()
        work.mkdir()
        for file, text in {"train.py": script, **(files or {})}.items():
            (source / file).write_text(textwrap.dedent(text))
        limits = {
            "memoryBytes": 1 << 30,
            "diskBytes": 8 << 20,
            "processes": 8,
            "stdoutBytes": 1 << 16,
            "artifactBytes": 4 << 20,
        }
        limits |= changes.pop("limits", {})
        return {
            "version": 1,
            "name": name,
            "sourceDir": str(source),
            "workDir": str(work),
            "script": "train.py",
            "dataDir": str(self.data_dir),
            "split": "val",
            "budget": {"steps": 3},
            "startupSeconds": 60,
            "seed": 11,
            "auditPairs": 8,
            "evalTokens": 512,
            "cpus": [min(os.sched_getaffinity(0))],
            "limits": limits,
            **changes,
        }

    def result(self, name: str, timeout: float = 90) -> dict[str, Any]:
        """The result of a trial that was sent; other events are passed over."""
        deadline = time.monotonic() + timeout
        while True:
            event = self.next_event(timeout=max(0.1, deadline - time.monotonic()))
            if event["event"] == "result" and event["name"] == name:
                result: dict[str, Any] = event["result"]
                return result

    def run(self, script: str, **changes: Any) -> dict[str, Any]:
        """Runs a trial to its result; `output` is added to the document."""
        spec = self.spec(script, **changes)
        self.send({"command": "run", "trial": spec})
        result = self.result(spec["name"])
        log = Path(spec["workDir"]) / "output.log"
        result["output"] = log.read_text(errors="replace") if log.exists() else ""
        return result

    def processes(self) -> set[int]:
        """Every process that descends from the warm one."""
        from autoresearch_trainer.sandbox.namespace import children_of

        return children_of({self.pid})

    def wait_until_idle(self, seconds: float = 2.0) -> set[int]:
        """Descendants still there after at most that long."""
        deadline = time.monotonic() + seconds
        while (left := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.02)
        return left

    def start_daemons(self) -> set[int]:
        """Starts a trial that makes daemons and sleeps; all processes under the warm one once they are there."""
        spec = self.spec("""
            import os, time
            if os.fork() == 0:
                os.setsid()
                if os.fork() == 0: time.sleep(600)
                time.sleep(600)
            time.sleep(600)
        """)
        self.send({"command": "run", "trial": spec})
        assert self.next_event()["event"] == "started"
        deadline = time.monotonic() + 30
        while len(tree := self.processes()) < 5 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert len(tree) >= 5, tree
        return tree

    def close(self) -> None:
        """Ends the process as an operator does: by the end of its stdin."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(timeout=10)
        self.log.close()


def wait_until_gone(pids: set[int], limit_seconds: float = 5) -> float:
    """Seconds until none of pids is alive; the limit when some stay."""
    began = time.monotonic()
    while any(_alive(pid) for pid in pids) and time.monotonic() - began < limit_seconds:
        time.sleep(0.01)
    return time.monotonic() - began


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
