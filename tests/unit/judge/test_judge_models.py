"""Honest models pass with difference 0; models that peek do not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import judgemodels
import numpy as np
import pytest
import torch
from autoresearch_trainer.judge.loader import load
from judgemodels import BATCH, CHEATS, GPT, HONEST, LENGTH, VOCAB

Write = Callable[[torch.nn.Module], Path]
Judge = Callable[..., dict[str, Any]]


def trained(model: GPT) -> GPT:
    """Random weights of a size that makes every mechanism matter."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.2)
    return model


@pytest.mark.parametrize("kind", HONEST)
def test_an_honest_model_is_scored_bit_for_bit_and_passes_the_audit(kind: str, hand_over: Write, judged: Judge) -> None:
    model = trained(GPT(kind))
    folder = hand_over(model)
    program = load(
        folder,
        batch=BATCH,
        seq_len=LENGTH,
        vocab_size=VOCAB,
        device=torch.device("cpu"),
        artifact_bytes=1 << 24,
        memory_bytes=1 << 28,
    )
    tokens = torch.randint(0, VOCAB, (BATCH, LENGTH))
    with torch.no_grad():
        assert torch.equal(program(tokens), model.eval()(tokens))
    result = judged(folder)
    assert result["audit"] == {"pairs": 128, "mismatches": 0, "maxDifference": 0.0}
    assert 0 < result["valBPB"] < 100


@pytest.mark.parametrize("cheat", CHEATS, ids=lambda cheat: cheat.__name__)
def test_a_model_that_peeks_is_not_causal(cheat: Callable[..., torch.Tensor], hand_over: Write, judged: Judge) -> None:
    result = judged(hand_over(trained(GPT("plain", cheat))))
    assert result["reason"] == "NotCausal"
    assert "valBPB" not in result
    assert result["audit"]["mismatches"] > 0
    assert "position" in result["message"]


def test_bidirectional_attention_is_not_causal(hand_over: Write, judged: Judge) -> None:
    assert judged(hand_over(trained(GPT("bidirectional"))))["reason"] == "NotCausal"


def test_neighbours_are_exposed_even_when_there_is_one_batch_only(hand_over: Write, judged: Judge) -> None:
    folder = hand_over(trained(GPT("plain", judgemodels.hidden_neighbours_first_token)))
    assert judged(folder, eval_tokens=1)["reason"] == "NotCausal"


def test_the_score_is_the_definition_and_depends_on_no_seed(hand_over: Write, judged: Judge, data_dir: Path) -> None:
    model = trained(GPT())
    folder = hand_over(model)
    first, second = judged(folder, seed=1), judged(folder, seed=2)
    assert first == second
    shard = np.fromfile(data_dir / "val/00000.bin", dtype="<u2").astype(np.int64)
    lengths = np.load(data_dir / "token_bytes.npy")
    available, rows = len(shard) // (LENGTH + 1), 64
    starts = [row * available // rows * (LENGTH + 1) for row in range(rows)]
    nats, count = 0.0, 0
    for start in starts:
        window = torch.from_numpy(shard[start : start + LENGTH + 1])
        with torch.no_grad():
            chances = model.eval()(window[None, :-1]).double().log_softmax(-1)[0]
        for position in range(LENGTH):
            target = int(window[position + 1])
            if lengths[target] > 0:
                nats -= float(chances[position, target])
                count += int(lengths[target])
    assert first["bytes"] == count
    assert first["valBPB"] == pytest.approx(nats / np.log(2) / count, rel=1e-5)


def test_weights_are_those_at_submission_not_at_tracing(hand_over: Write, tmp_path: Path) -> None:
    from autoresearch_trainer import artifact

    model = GPT("tied")
    traced = artifact.trace(model, BATCH, LENGTH, VOCAB)
    assert model.training
    with torch.no_grad():
        model.embedding.weight.fill_(0.25)
    assert set(traced.tensors()["head.weight"].unique().tolist()) == {0.25}


def test_zeros_instead_of_logits_score_as_a_guess(hand_over: Write, judged: Judge) -> None:
    class Zeros(GPT):
        def forward(self, tokens: torch.Tensor, targets: torch.Tensor | None = None) -> torch.Tensor:
            return 0.0 * super().forward(tokens, targets)

    result = judged(hand_over(trained(Zeros())))
    assert result["nats"] == pytest.approx(result["tokens"] * np.log(VOCAB), rel=1e-6)


def test_nan_weights_are_not_finite(hand_over: Write, judged: Judge) -> None:
    model = trained(GPT())
    with torch.no_grad():
        model.head.weight[3, 3] = float("nan")
    result = judged(hand_over(model))
    assert result["reason"] == "NonFinite"


def test_state_between_calls_cannot_be_written_down(hand_over: Write) -> None:
    class Remembers(GPT):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros(1))

        def forward(self, tokens: torch.Tensor, targets: torch.Tensor | None = None) -> torch.Tensor:
            self.seen += 1.0
            return super().forward(tokens, targets) + self.seen

    with pytest.raises(RuntimeError, match="keep nothing between calls"):
        hand_over(Remembers())


def test_a_replay_from_python_state_is_frozen_into_the_trace(hand_over: Write, judged: Judge) -> None:
    class Replays(GPT):
        calls = 0

        def forward(self, tokens: torch.Tensor, targets: torch.Tensor | None = None) -> torch.Tensor:
            self.calls += 1
            return super().forward(tokens, targets) + (100.0 * self.calls if self.calls > 1 else 0.0)

    result = judged(hand_over(trained(Replays())))
    assert result["audit"]["mismatches"] == 0


def test_a_loss_instead_of_logits_is_told_before_training(hand_over: Write) -> None:
    class Loss(GPT):
        def forward(self, tokens: torch.Tensor, targets: torch.Tensor | None = None) -> torch.Tensor:
            return super().forward(tokens, tokens if targets is None else targets)

    with pytest.raises(RuntimeError, match=r"needs float logits of shape \[8, 32, 300 or more\].*not a loss"):
        hand_over(Loss())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda x: x + torch.randn_like(x), "random numbers"),
        (lambda x: torch.nn.functional.dropout(x, 0.5, training=True), "eval mode"),
        (lambda x: x * 2 if x.sum().item() > 0 else x, "could not trace"),
    ],
    ids=["random", "dropout in eval", "item"],
)
def test_what_cannot_be_judged_is_told_before_training(
    change: Callable[[torch.Tensor], torch.Tensor], sentence: str, hand_over: Write
) -> None:
    def hidden_change(x: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        return change(x)

    with pytest.raises(RuntimeError, match=sentence):
        hand_over(GPT("plain", hidden_change))
