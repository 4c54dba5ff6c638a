"""What a training script may use. Not editable: the same file is put beside every candidate.

Batches, clock, seed and tokenizer come from the gate, which is another process; the score comes from the judge, which
is a third. Nothing in this file can make a score better: changing it in memory changes what a script sees, not what it
is given. The names are those that training scripts of this kind already use: one written for them runs as it is.
"""

import math
import os

import torch
import torch.nn.functional as F
from autoresearch_trainer import client

_gate = client.connect()

MAX_SEQ_LEN = _gate.max_seq_len  # tokens; the judge scores rows of this length, training may use shorter ones
EVAL_BATCH = _gate.eval_batch  # rows; the judge runs the model at (EVAL_BATCH, MAX_SEQ_LEN)
SEED = _gate.seed  # the gate's; the data order depends on it whatever a script does with it
RANK, WORLD_SIZE = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
DEVICE = torch.device("cpu")
if torch.cuda.is_available():
    DEVICE = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(DEVICE)

_development = []  # one batch of training data that no loader hands out: [(x, y)], (B, T) int64 on DEVICE


def progress():
    """Share of the budget that is spent, 0 to 1, as of the last batch: what a schedule should follow."""
    return _gate.progress


class _TimeBudget(float):
    """The budget's number, for scripts that compare it with seconds which they counted themselves.

    `elapsed / TIME_BUDGET` and `elapsed >= TIME_BUDGET` answer from the gate's clock instead, so that such a script has
    the right schedule and stops in time whether the budget is in seconds, CPU-seconds or steps.
    """

    def __rtruediv__(self, elapsed):
        return progress()

    def __le__(self, elapsed):
        return progress() >= 1.0

    def __gt__(self, elapsed):
        return progress() < 1.0


TIME_BUDGET = _TimeBudget(next(iter(_gate.budget.values())))


class Tokenizer:
    """The fixed byte-level BPE. A trial sees token ids only; encode and decode work where the data can be read."""

    @classmethod
    def from_directory(cls, tokenizer_dir=None):  # noqa: ARG003 - there is one tokenizer
        return cls()

    def get_vocab_size(self):
        return _gate.vocab_size

    def get_bos_token_id(self):
        return _gate.vocab_size - 1  # the one special token; every document starts with it

    def encode(self, text):
        return self._full().encode(text)

    def decode(self, ids):
        return self._full().decode(ids)

    def _full(self):
        from autoresearch_trainer.data import load, tokenizer

        if _gate.data_dir is None:
            raise RuntimeError("a verified trial trains on token ids and cannot read the tokenizer: run this by hand")
        return tokenizer.load(_gate.data_dir / load(_gate.data_dir).tokenizer)


def get_token_bytes(device="cpu"):
    """Raw bytes of each token, int32 (vocab_size,); 0 for special tokens, which are not scored."""
    return torch.from_numpy(_gate.token_bytes.astype("int32")).to(device)


class make_dataloader:
    """Batches (x, y, epoch): x and y int64 (B, T) on DEVICE, y one token ahead; each torchrun rank gets its own.

    `for` ends when the budget is spent. `next()` on the loader itself then gives the last batch again, for scripts that
    finish a step before they look at TIME_BUDGET: the clock runs on, so there is nothing to be had from it.
    split="train" is the gate's stream; "val" repeats the development slice: held-out *training* data, for the log.
    """

    def __init__(self, tokenizer, B, T, split, buffer_size=0):  # noqa: ARG002 - rows come packed
        if split not in ("train", "val"):
            raise ValueError(f"split is {split!r}: use 'train', or 'val' for the development slice")
        self._split = split
        self._batches = _gate.batches(B, T)
        if not _development:
            _development.append(self._to_device(next(self._batches)))
        self._last = _development[0]

    def __iter__(self):
        while (batch := self._take()) is not None:
            yield *batch, 1

    def __next__(self):
        batch = self._take()
        if batch is not None:
            self._last = batch
        return *self._last, 1

    def _take(self):
        if self._split == "val":
            return _development[0]
        mine, turns = None, WORLD_SIZE // _gate.ranks
        for turn in range(
            turns
        ):  # by hand every rank reads the whole stream; in a trial the gate deals the batches out
            batch = next(self._batches, None)
            if batch is None:
                return None
            mine = batch if turn == RANK % turns else mine
        return self._to_device(mine)

    @staticmethod
    def _to_device(batch):
        if DEVICE.type == "cpu":
            return batch
        return tuple(part.pin_memory().to(DEVICE, non_blocking=True) for part in batch)


def log(step, loss):
    """Shows loss (nats per token) in the live view and the curve of the report. It has no part in the score."""
    _gate.log(step, loss)


def trace(model):
    """Records the model's graph as the judge will run it. Done before training it costs no budget."""
    _gate.trace(_plain(model))


def submit(model):
    """Hands the model over, which ends the trial's clock. What is handed over is what is scored.

    Run by hand, the judge's result is printed. A self-reported trial hands nothing over.
    """
    result = _gate.submit(_plain(model)) if RANK == 0 else None
    if result:
        print(
            "by hand: " + ", ".join(f"{name} {value}" for name, value in result.items() if not isinstance(value, dict))
        )


@torch.no_grad()
def evaluate_bpb(model, tokenizer, batch_size):  # noqa: ARG001 - the tokenizer is fixed
    """Hands the model over (`submit`) and gives bits per byte of the development slice, lower is better.

    That figure is for the log: it is from one small batch of training data. The score is the judge's, on data that no
    script sees. Only a self-reported trial, which has no judge, reads the validation split itself and prints `val_bpb`.
    """
    submit(model)
    model = _plain(model)
    was_training = model.training
    model.eval()
    batches = _validation() if _gate.self_reported else _development
    pieces = [piece for x, y in batches for piece in zip(x.split(batch_size), y.split(batch_size), strict=True)]
    lengths, nats, count = get_token_bytes(DEVICE), 0.0, 0
    for x, y in pieces:
        logits = model(x)
        logits = (logits[0] if isinstance(logits, (tuple, list)) else logits)[..., : _gate.vocab_size]
        losses = F.cross_entropy(logits.float().flatten(0, 1), y.flatten(), reduction="none")
        scored = lengths[y.flatten()]
        nats += float((losses * (scored > 0)).double().sum())
        count += int(scored.sum())
    model.train(was_training)
    bits = nats / (math.log(2) * max(count, 1))
    if _gate.self_reported and RANK == 0:
        print(f"val_bpb: {bits:.6f}", flush=True)
    return bits


def _validation(tokens=32768):
    """Rows of the validation split, spread over it: (x, y) of EVAL_BATCH rows each, for self-reported trials."""
    from autoresearch_trainer.data import TokenSplit

    if _gate.data_dir is None:
        raise RuntimeError("a self-reported trial in a cluster brings its own validation data: none are mounted here")
    split = TokenSplit(_gate.data_dir, "val")
    rows = min(max(1, tokens // MAX_SEQ_LEN), (split.tokens - 1) // MAX_SEQ_LEN)
    stride = (split.tokens - 1) // rows
    windows = [torch.from_numpy(split.window(i * stride, MAX_SEQ_LEN + 1).astype("int64")) for i in range(rows)]
    return [
        (part[:, :-1].contiguous(), part[:, 1:].contiguous())
        for part in torch.stack(windows).to(DEVICE).split(EVAL_BATCH)
    ]


def _plain(model):
    """The module behind torch.compile, with the same weights."""
    return getattr(model, "_orig_mod", model)
