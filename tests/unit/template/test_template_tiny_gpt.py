"""The template: readable knobs, and every structure that a knob can name trains, is judged and is causal."""

import ast
import importlib
import os
import random
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import autoresearch_trainer
import pytest
import torch
import torch.nn.functional as F
from autoresearch_operator.proposers.knobs import read_knobs
from autoresearch_trainer import client
from autoresearch_trainer.data.build import Recipe, prepare
from autoresearch_trainer.data.corpus import Document, assign_splits
from autoresearch_trainer.standalone import StandaloneGate

TEMPLATE = Path(autoresearch_trainer.__file__).parent / "templates" / "tiny-gpt"
SOURCE = (TEMPLATE / "train.py").read_text()
SMALL = {"DEPTH": 2, "DIM": 32, "TOTAL_BATCH": 128, "SEQUENCE": 32, "LEARNING_RATE": 1e-2}

VARIANTS = {
    "plain": {},
    "muon": {"OPTIMIZER": "Muon"},
    "multi-query attention": {"KV_HEADS": 1},
    "grouped-query attention": {"KV_HEADS": 2},
    "one head": {"HEADS": 1, "KV_HEADS": 1},
    "tied embeddings": {"TIE_EMBEDDINGS": True},
    "sliding windows": {"WINDOW_PATTERN": "SSL", "DEPTH": 3},
    "value embeddings": {"VALUE_EMBEDDINGS": True},
    "earlier tokens": {"EARLIER_TOKENS": 3},
    "layer norm, qk norm, capped logits": {"NORM": "layer", "QK_NORM": True, "LOGIT_CAP": 15.0},
    "relu2": {"ACTIVATION": "relu2"},
    "silu": {"ACTIVATION": "silu"},
    "swiglu": {"ACTIVATION": "swiglu", "MLP_RATIO": 3.0},
    "short rows in small pieces": {"SEQUENCE": 16, "MICRO_BATCH": 32},
    "no schedule, no clipping": {"WARMUP": 0.0, "COOLDOWN": 0.0, "GRAD_CLIP": 0.0},
}


def text(number: int) -> str:
    chooser = random.Random(number)
    return " ".join(f"w{chooser.randrange(97)}" for _ in range(80)) + "\n"


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("template") / "data"
    recipe = Recipe("small", "none", 300, max_seq_len=32, eval_batch=4, source="0" * 64)
    prepare(assign_splits([Document(f"f{i}", text(i)) for i in range(120)]), recipe, target, lambda _: None)
    return target


class JudgedGate(StandaloneGate):
    """The gate of a run by hand, which keeps what the judge said."""

    judged: dict | None = None

    def submit(self, model: torch.nn.Module) -> dict | None:
        self.judged = super().submit(model)
        return self.judged


@pytest.fixture
def load(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., ModuleType]]:
    """load(source, steps=2, **knobs): the script as a module beside prepare.py; its gate is `module.prepare._gate`."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def loader(source: str = SOURCE, steps: int = 2, **knobs: object) -> ModuleType:
        for name in ("train", "prepare"):
            sys.modules.pop(name, None)
        for name, value in knobs.items():
            source, count = re.subn(rf"(?m)^{name} = [^#\n]*", lambda _, n=name, v=value: f"{n} = {v!r}  ", source)
            assert count == 1, f"{name} is no knob of the template"
        monkeypatch.setattr(client, "_gate", JudgedGate(data_dir, {"steps": steps}, seed=5))
        shutil.copy(TEMPLATE / "prepare.py", tmp_path)
        (tmp_path / "train.py").write_text(source)
        importlib.invalidate_caches()
        shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
        return importlib.import_module("train")

    yield loader
    for name in ("train", "prepare"):
        sys.modules.pop(name, None)


def test_the_script_is_short_and_ships_with_prepare_alone() -> None:
    assert len(SOURCE.splitlines()) < 350
    assert sorted(path.name for path in TEMPLATE.iterdir() if path.is_file()) == ["prepare.py", "train.py"]


def test_every_knob_is_a_literal_with_a_range_that_holds_its_value() -> None:
    knobs = read_knobs(SOURCE, "train.py")
    section = SOURCE[SOURCE.index("---- Knobs") : SOURCE.index("---- Precision")]
    named = [node.targets[0].id for node in ast.parse(section.partition("\n")[2]).body if isinstance(node, ast.Assign)]
    assert sorted(named) == sorted(knobs.knobs)
    assert len(named) > 20
    for requirement in knobs.requirements:
        assert requirement.holds(knobs.values), requirement.text
    for name in named:
        assert re.search(rf"(?m)^{name} = .*# search: ", section), f"{name} has no search comment"


@pytest.mark.parametrize("knobs", VARIANTS.values(), ids=VARIANTS)
def test_every_structure_trains_and_is_judged_causal(load: Callable[..., ModuleType], knobs: dict) -> None:
    train = load(**(SMALL | knobs))
    train.main()
    judged = train.prepare._gate.judged
    assert judged["audit"]["pairs"] > 0
    assert judged["audit"]["mismatches"] == 0
    assert judged["audit"]["maxDifference"] == 0
    assert 0.1 < judged["valBPB"] < 8


@pytest.mark.parametrize("knobs", VARIANTS.values(), ids=VARIANTS)
def test_logits_do_not_look_ahead(load: Callable[..., ModuleType], knobs: dict) -> None:
    train = load(**(SMALL | knobs))
    torch.manual_seed(0)
    model = train.GPT(300).eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    idx = torch.randint(0, 300, (2, 32))
    changed = idx.clone()
    changed[:, 20:] = torch.randint(0, 300, (2, 12))
    before, after = model(idx), model(changed)
    assert before.shape == (2, 32, 300)
    assert before.dtype == torch.float32
    assert torch.equal(before[:, :20], after[:, :20])
    assert not torch.equal(before[:, 20:], after[:, 20:])


def test_two_micro_batches_make_the_same_update_as_one_batch(load: Callable[..., ModuleType]) -> None:
    train = load(**SMALL)
    x, y = torch.randint(0, 300, (2, 8, 32))
    updated = []
    for pieces in (1, 2):
        torch.manual_seed(1)
        model = train.GPT(300)
        scaler = torch.amp.GradScaler("cpu", enabled=False)
        batches = [(a, b, 1) for a, b in zip(x.chunk(pieces), y.chunk(pieces), strict=True)]
        loss = train.train_step(model, train.make_optimizers(model), scaler, batches, 1.0)
        updated.append((loss, [p.detach().clone() for p in model.parameters()]))
    torch.testing.assert_close(updated[0], updated[1], rtol=1e-4, atol=1e-4)


def test_the_loss_is_that_of_torch_and_so_is_its_gradient(load: Callable[..., ModuleType]) -> None:
    train = load(**SMALL)
    logits = (5 * torch.randn(40, 300)).requires_grad_()
    target = torch.randint(0, 300, (40,))
    ours, theirs = train.CrossEntropy.apply(logits, target), F.cross_entropy(logits, target)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(3 * loss, logits)[0] for loss in (ours, theirs)))


def test_the_schedule_rises_holds_and_falls(load: Callable[..., ModuleType]) -> None:
    train = load(WARMUP=0.2, COOLDOWN=0.4, FINAL_LR=0.1)
    values = [train.schedule(done / 100) for done in range(101)]
    assert 0 < values[0] < 0.1
    assert values[20:60] == [1.0] * 40
    assert values[100] == pytest.approx(0.1)
    assert values[:21] == sorted(values[:21])
    assert values[60:] == sorted(values[60:], reverse=True)


def test_a_loss_that_is_not_finite_ends_the_script_with_a_sentence(load: Callable[..., ModuleType]) -> None:
    train = load(steps=40, **(SMALL | {"LEARNING_RATE": 1e30, "GRAD_CLIP": 0.0}))
    with pytest.raises(SystemExit, match="training diverged; try a lower LEARNING_RATE"):
        train.main()


def test_the_same_seed_gives_the_same_model(load: Callable[..., ModuleType]) -> None:
    scores = []
    for _ in range(2):
        train = load(**SMALL)
        train.main()
        scores.append(train.prepare._gate.judged["valBPB"])
    assert scores[0] == scores[1]


def test_a_loader_ends_in_a_for_loop_and_repeats_itself_for_next(load: Callable[..., ModuleType]) -> None:
    prepare = load(steps=3).prepare
    loader = prepare.make_dataloader(prepare.Tokenizer.from_directory(), 2, 16, "train")
    seen = [x for x, _, _ in loader]
    assert len(seen) == 4  # two are free, one of which is the development slice, and three are the budget
    assert prepare.progress() == 1.0
    x, y, epoch = next(loader)
    assert x.shape == y.shape == (2, 16)
    assert torch.equal(x[:, 1:], y[:, :-1])
    assert epoch == 1
    assert prepare.TIME_BUDGET <= 5.0
    held_out, _, _ = next(prepare.make_dataloader(None, 2, 16, "val"))
    assert not any(torch.equal(held_out, x) for x in seen)


# In the style of scripts for one large GPU and another prepare.py: its own clock and schedule, an endless loader read
# by next(), a loss inside the model, and an evaluation at the end that it takes for the score.
FOREIGN = """
import time
import torch
from torch import nn
from torch.nn import functional as F
from prepare import MAX_SEQ_LEN, TIME_BUDGET, Tokenizer, evaluate_bpb, make_dataloader

class Net(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.table = nn.Embedding(size, 24)
        self.mix = nn.Linear(24, 24)
        self.out = nn.Linear(24, size)
    def forward(self, idx, targets=None, reduction="mean"):
        logits = self.out(torch.tanh(self.mix(self.table(idx))))
        if targets is None:
            return logits
        return F.cross_entropy(logits.view(-1, logits.size(-1)), targets.view(-1), reduction=reduction)

tokenizer = Tokenizer.from_directory()
net = torch.compile(Net(tokenizer.get_vocab_size()), backend="eager")
opt = torch.optim.SGD(net.parameters(), lr=0.1)
loader = make_dataloader(tokenizer, 4, MAX_SEQ_LEN, "train")
x, y, epoch = next(loader)
trained_seconds, step, schedule = 0.0, 0, []
while True:
    started = time.time()
    for _ in range(2):
        net(x, y).backward()
        x, y, epoch = next(loader)
    progress = min(trained_seconds / TIME_BUDGET, 1.0)
    schedule.append(progress)
    for group in opt.param_groups:
        group["lr"] = 0.1 * (1 - progress)
    opt.step()
    opt.zero_grad()
    step += 1
    if step > 3:
        trained_seconds += time.time() - started
    if step > 3 and trained_seconds >= TIME_BUDGET:
        break
net.eval()
val_bpb = evaluate_bpb(net, tokenizer, 3)
"""


def test_a_script_written_for_another_prepare_runs_verified(load: Callable[..., ModuleType]) -> None:
    script = load(FOREIGN, steps=21)
    assert script.schedule == sorted(script.schedule)
    assert script.schedule[-1] == 1.0
    assert script.step == 11  # 22 batches: the budget of 21, one free batch, less the one that is being looked at
    judged = sys.modules["prepare"]._gate.judged
    assert judged["audit"]["mismatches"] == 0
    assert script.val_bpb == pytest.approx(judged["valBPB"], rel=0.2)


def test_two_ranks_train_one_model_and_one_of_them_hands_it_over(data_dir: Path, tmp_path: Path) -> None:
    for name in ("train.py", "prepare.py"):
        shutil.copy(TEMPLATE / name, tmp_path)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {
        "AUTORESEARCH_DATA_DIR": str(data_dir), "AUTORESEARCH_BUDGET": '{"steps": 12}', "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "",
    }  # fmt: skip
    ranks = [
        subprocess.Popen(
            [sys.executable, "train.py"], cwd=tmp_path, env=os.environ | settings | {"RANK": str(rank)}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        for rank in (0, 1)
    ]  # fmt: skip
    outputs = [process.communicate(timeout=240)[0] for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0], outputs
    assert "2 x 1 x 16 x 32 tokens a step" in outputs[0]
    assert "valBPB" in outputs[0]
    assert "valBPB" not in outputs[1]
