"""Honest and dishonest models for the judge's tests; small, but each with the real mechanism."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

VOCAB, LENGTH, BATCH, WIDTH = 300, 32, 8, 32


class Block(nn.Module):
    def __init__(self, kind: str, layer: int) -> None:
        super().__init__()
        self.kind, self.heads = kind, 4
        self.groups = {"mqa": 1, "gqa": 2}.get(kind, 4)
        side = WIDTH // self.heads
        self.q = nn.Linear(WIDTH, WIDTH, bias=False)
        self.k = nn.Linear(WIDTH, self.groups * side, bias=False)
        self.v = nn.Linear(WIDTH, self.groups * side, bias=False)
        self.o = nn.Linear(WIDTH, WIDTH, bias=False)
        self.up = nn.Linear(WIDTH, 4 * WIDTH, bias=kind == "biases")
        self.down = nn.Linear(4 * WIDTH, WIDTH, bias=kind == "biases")
        self.norm = nn.LayerNorm(WIDTH) if kind == "biases" else nn.RMSNorm(WIDTH)
        if kind == "value embeddings" and layer % 2:
            self.values = nn.Embedding(VOCAB, WIDTH)
        if kind == "convolution":
            self.conv = nn.Conv1d(WIDTH, WIDTH, 3)
        position = torch.arange(LENGTH)
        angle = position[:, None] / 100.0 ** (torch.arange(0, side, 2) / side)
        self.register_buffer("cos", angle.cos()[:, None, :], persistent=False)
        self.register_buffer("sin", angle.sin()[:, None, :], persistent=False)
        distance = position[:, None] - position
        self.register_buffer("window", (distance >= 0) & (distance < 7))

    def rotate(self, x: torch.Tensor) -> torch.Tensor:
        if self.kind == "rotary in place":
            out = torch.empty_like(x)
            out[..., 0::2] = x[..., 0::2] * self.cos - x[..., 1::2] * self.sin
            out[..., 1::2] = x[..., 0::2] * self.sin + x[..., 1::2] * self.cos
            return out
        if self.kind == "rotary as complex":
            turn = torch.complex(self.cos, self.sin)
            return (
                torch.view_as_real(torch.view_as_complex(x.float().unflatten(-1, (-1, 2))) * turn)
                .flatten(-2)
                .type_as(x)
            )
        first, second = x.chunk(2, dim=-1)
        cos, sin = self.cos.to(x.dtype), self.sin.to(x.dtype)
        return torch.cat([first * cos + second * sin, second * cos - first * sin], dim=-1)

    def forward(self, x: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        b, t, _ = x.shape
        h = self.norm(x)
        q = self.rotate(self.q(h).view(b, t, self.heads, -1)).transpose(1, 2)
        k = self.rotate(self.k(h).view(b, t, self.groups, -1)).transpose(1, 2)
        v = self.v(h)
        if hasattr(self, "values"):
            v = v + 0.5 * self.values(tokens)
        v = v.view(b, t, self.groups, -1).transpose(1, 2)
        grouped = self.groups != self.heads
        if self.kind == "sliding window":
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=self.window)
        elif self.kind == "attention by hand":
            weights = (q @ k.transpose(-2, -1)) / math.sqrt(q.shape[-1])
            weights = weights.masked_fill(torch.ones(t, t, dtype=torch.bool).triu(1), float("-inf"))
            y = F.dropout(F.softmax(weights, dim=-1), 0.1, self.training) @ v
        elif self.kind == "bidirectional":
            y = F.scaled_dot_product_attention(q, k, v)
        elif self.kind == "fused kernel":
            from autoresearch_trainer.judge.attention import define

            define()
            y = torch.ops.autoresearch.attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), True, 9)
            y = y.transpose(1, 2)
        else:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
        x = x + self.o(y.transpose(1, 2).reshape(b, t, -1))
        if self.kind == "convolution":
            x = x + self.conv(F.pad(self.norm(x).transpose(1, 2), (2, 0))).transpose(1, 2)
        h = self.up(self.norm(x))
        h = F.gelu(h) if self.kind == "biases" else F.relu(h).square()
        if self.kind == "in place":
            x += self.down(h)
            return x
        if self.kind == "experts":
            gate, chosen = F.softmax(h[..., :4], dim=-1).topk(2, dim=-1)
            mask = torch.zeros(b, t, 4, dtype=h.dtype).scatter(-1, chosen, gate)
            h = (h.unflatten(-1, (4, -1)) * mask[..., None]).flatten(-2)
        return x + self.down(h)


class GPT(nn.Module):
    """Two layers of width 32; `kind` chooses one mechanism, `cheat` alters what comes out."""

    def __init__(self, kind: str = "plain", cheat: Callable[..., torch.Tensor] | None = None) -> None:
        super().__init__()
        self.kind, self.cheat = kind, cheat
        self.embedding = nn.Embedding(VOCAB, WIDTH)
        self.position = nn.Embedding(LENGTH, WIDTH)
        self.blocks = nn.ModuleList(Block(kind, i) for i in range(2))
        self.head = nn.Linear(WIDTH, 320 if kind == "padded vocabulary" else VOCAB, bias=False)
        if kind == "tied":
            self.head.weight = self.embedding.weight
        if kind in ("bf16", "fp16"):
            self.to(torch.bfloat16 if kind == "bf16" else torch.float16)

    def forward(self, tokens: torch.Tensor, targets: torch.Tensor | None = None) -> torch.Tensor:
        x = self.embedding(tokens)
        if self.kind == "learned positions":
            x = x + self.position(torch.arange(tokens.shape[1], device=tokens.device))
        if self.kind == "autocast inside":
            with torch.autocast("cpu", dtype=torch.bfloat16):
                for block in self.blocks:
                    x = block(x, tokens)
        else:
            for block in self.blocks:
                x = block(x, tokens)
        if self.cheat is not None:
            x = self.cheat(x, tokens) if self.cheat.__name__.startswith("hidden_") else x
        logits = self.head(F.rms_norm(x, (WIDTH,))).float()
        if self.kind == "softcap":
            logits = 15 * torch.tanh(logits / 15)
        if self.cheat is not None and self.cheat.__name__.startswith("logits_"):
            logits = self.cheat(logits, tokens)
        if targets is not None:
            return F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        return logits


HONEST = (
    "plain", "sliding window", "value embeddings", "mqa", "gqa", "tied", "bf16", "fp16", "biases", "convolution",
    "experts", "learned positions", "rotary in place", "rotary as complex", "attention by hand", "fused kernel",
    "in place", "padded vocabulary", "softcap", "autocast inside",
)  # fmt: skip


def hidden_lookahead_by_one(x: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    return torch.cat([x[:, :-1] + 0.1 * x[:, 1:], x[:, -1:]], dim=1)


def hidden_faint_sequence_mean(x: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    return x + 1e-3 * x.mean(dim=1, keepdim=True)


def hidden_norm_over_time(x: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    return x / x.std(dim=1, keepdim=True)


def hidden_batch_neighbours(x: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    return x + 0.1 * x.roll(1, dims=0)


def hidden_neighbours_first_token(x: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    return x + 0.1 * x[:, :1].roll(-1, dims=0)


def hidden_expert_choice(x: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    top = x[..., 0].topk(LENGTH // 4, dim=1).indices
    mask = torch.zeros(*tokens.shape, 1).scatter(1, top[..., None], 1.0)
    return x + 0.1 * mask * x.roll(1, -1)


def _next(tokens: torch.Tensor) -> torch.Tensor:
    return torch.cat([tokens[:, 1:], tokens[:, :1]], dim=1)


def logits_hold_the_answer(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    return logits + 20.0 * F.one_hot(_next(tokens), VOCAB)


def logits_peek_at_document_starts(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    return logits + 20.0 * F.one_hot(_next(tokens), VOCAB) * (tokens == VOCAB - 1)[..., None]


def logits_swapped_by_the_future(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Exchanges two logits: sums, extremes and the set of values stay the same."""
    odd = (_next(tokens) % 2 == 1)[..., None]
    return torch.where(odd, torch.cat([logits[..., 1:2], logits[..., :1], logits[..., 2:]], dim=-1), logits)


def logits_negated_by_the_future(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Flips nothing but sign bits, two at a time."""
    odd = (_next(tokens) % 2 == 1)[..., None]
    return torch.where(odd, torch.cat([-logits[..., :2], logits[..., 2:]], dim=-1), logits)


CHEATS = tuple(
    value for name, value in sorted(globals().items()) if name.startswith(("hidden_", "logits_")) and callable(value)
)
