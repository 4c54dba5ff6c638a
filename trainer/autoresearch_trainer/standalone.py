"""A gate for `python train.py` by hand: reads the prepared data itself and scores the model in the same process.

Nothing is isolated and the budget is the script's word; the figure is for the person at the keyboard. Windows come in
the same order as in a trial with the same seed.
"""

import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import wire
from .data import manifest as manifests
from .data.errors import DataError
from .data.files import cache_root
from .data.shards import TokenSplit, token_bytes
from .windows import WindowOrder

if TYPE_CHECKING:
    import torch

DATA_VARIABLE = "AUTORESEARCH_DATA_DIR"
"""A prepared data set; unset: the newest demo corpus in the cache."""
BUDGET_VARIABLE = "AUTORESEARCH_BUDGET"
"""JSON as in a ResearchRun, {"cpuSeconds": 10} when unset."""
SEED_VARIABLE = "AUTORESEARCH_SEED"
"""0 when unset."""


class StandaloneGate:
    """See `client.Gate` for the meaning of each member."""

    def __init__(self, data_dir: Path, budget: dict[str, float], seed: int) -> None:
        self.budget = budget
        self.seed = seed
        self.data_dir: Path | None = data_dir
        self.self_reported = False
        self.ranks = 1
        self._manifest = manifests.load(data_dir)
        self.vocab_size = self._manifest.vocab_size
        self.max_seq_len = self._manifest.max_seq_len
        self.eval_batch = self._manifest.eval_batch
        self.token_bytes = token_bytes(data_dir, self._manifest)
        self._data = data_dir
        self._served = 0
        self._started: float | None = None
        self._progress = 0.0
        self._orders: dict[int, WindowOrder] = {}
        self._traced: Any = None
        self._traced_model: torch.nn.Module | None = None

    @classmethod
    def from_environment(cls) -> "StandaloneGate":
        """The stand-in that the variables above describe. Raises DataError when no data set is prepared."""
        named = os.environ.get(DATA_VARIABLE)
        if named:
            data_dir = Path(named)
        else:
            found = sorted((cache_root() / "data").glob("demo-*/manifest.json"), key=lambda path: path.stat().st_mtime)
            if not found:
                raise DataError(
                    "no prepared data was found: run `python -m autoresearch_trainer prepare --demo`, "
                    f"or set {DATA_VARIABLE}"
                )
            data_dir = found[-1].parent
        budget = json.loads(os.environ.get(BUDGET_VARIABLE, '{"cpuSeconds": 10}'))
        return cls(data_dir, budget, int(os.environ.get(SEED_VARIABLE, "0")))

    @property
    def progress(self) -> float:
        return self._progress

    def _clock(self) -> float:
        return time.monotonic() if "seconds" in self.budget else time.process_time()

    def batches(self, batch: int, seq_len: int) -> "Iterator[tuple[torch.Tensor, torch.Tensor]]":
        import torch

        problem = wire.layout_problem(batch, seq_len, self.max_seq_len)
        if problem:
            raise ValueError(problem)
        if seq_len not in self._orders:
            shards = TokenSplit(self._data, "train", manifest=self._manifest).shards
            self._orders[seq_len] = WindowOrder(shards, seq_len, self.seed)
        window = np.empty((batch, seq_len + 1), dtype=np.uint16)
        ((kind, amount),) = self.budget.items()
        while True:
            if self._served == wire.FREE_BATCHES:
                self._started = self._clock()
            if self._started is not None:
                counted = self._served - wire.FREE_BATCHES
                self._progress = min(1.0, (counted if kind == "steps" else self._clock() - self._started) / amount)
                if self._progress >= 1.0:
                    return
            self._served += 1
            self._orders[seq_len].fill(window)
            yield torch.from_numpy(window[:, :-1].astype(np.int64)), torch.from_numpy(window[:, 1:].astype(np.int64))

    def log(self, step: int, loss: float) -> None:
        """Does nothing: the script prints for itself."""

    def trace(self, model: "torch.nn.Module") -> None:
        from .artifact import trace

        self._traced = trace(model, self.eval_batch, self.max_seq_len, self.vocab_size)
        self._traced_model = model

    def submit(self, model: "torch.nn.Module") -> dict[str, Any] | None:
        from . import judge
        from .receiver import Receiver

        if self._traced_model is not model:
            self.trace(model)
        with tempfile.TemporaryDirectory(prefix="autoresearch-") as folder:
            files = Receiver(Path(folder))
            self._traced.write(files)
            files.close()
            return judge.score_artifact(
                Path(folder), self._data, "val", audit_pairs=128, eval_tokens=32768, seed=self.seed, device="cpu"
            )
