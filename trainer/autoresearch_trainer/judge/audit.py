"""The causality audit: a logit must not depend on tokens that come after it.

A pair is a scored row and a cut. The tokens after the cut are replaced by other real text, and the logits up to the cut
must stay what they were when the row was scored. The program is a pure function of its batch, so nothing but a
dependency on later tokens, or on other rows, can move them. An audited row keeps its slot in the batch, because kernels
may round differently by place, and gets other mates, because a row that reads its neighbours cheats as well.

    Half of the cuts are at the first token of a document (as far as the rows have any): the decoy is the start of
    another document, and nothing before the cut tells the two apart. A model that looks ahead only where a new text
    begins, where ordinary cuts seldom fall, is caught there. The other half are uniform over all positions.

A model that looks ahead by one token at a share p of the positions, weighted as cuts are drawn, passes n pairs with
probability (1 - p)^n; looking further is caught more easily. Zero mismatches therefore bound p, with 95 % confidence,
by

    p <= 1 - 0.05^(1/n)        n = 2048: 0.146 %        n = 128: 2.3 %

Cuts and decoys come from the operating system's randomness: a candidate that knows the trial's seed learns nothing from
it.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from .program import Program
from .rows import Rows, ScoredRows

TOLERANCE = {"cpu": 0.0, "cuda": 0.0}
"""Largest difference of a logit that counts as none, by class of device. A kernel chosen by shape alone adds in one
order whatever the numbers are, so equal inputs in an equal place give equal bits, in float32 and bfloat16 alike;
kernels with atomic additions would need a tolerance, and are told to add in order (`score.settle`)."""

CUTS_PER_START = 4
"""Most pairs at one document start: few starts in the rows shall not take half of all cuts to themselves."""
MAX_MEASURED = 8
"""Mismatching pairs whose difference is measured, each by scoring its batch again; the rest are counted only."""


@dataclass(frozen=True)
class Pair:
    """One check: of the scored row (batch, slot), tokens 0..cut stay; those after it are replaced."""

    batch: int
    slot: int
    cut: int
    at_start: bool


@dataclass
class AuditOutcome:
    """What was found."""

    pairs: int = 0
    mismatches: int = 0
    max_difference: float = 0.0
    example: tuple[int, int] | None = None
    """(position of a logit that moved, cut after which tokens were replaced)."""


def bound(pairs: int, confidence: float = 0.95) -> float:
    """Largest share of positions that may look ahead, given that many uniform cuts without a mismatch; 1.0 for none."""
    return 1.0 - (1.0 - confidence) ** (1.0 / pairs) if pairs else 1.0


class Audit:
    """Plans the pairs before scoring, remembers a digest of what is to stay, and checks it afterwards."""

    def __init__(self, rows: ScoredRows, vocab_size: int, pairs: int, random: np.random.Generator) -> None:
        self._rows, self._random = rows, random
        self._vocab_size = vocab_size
        self._plan = self._draw(pairs)
        self._kept: dict[tuple[int, int], torch.Tensor] = {}
        self._wanted: dict[int, list[int]] = {}
        for batch, slot in sorted({(pair.batch, pair.slot) for group in self._plan for pair in group if pair}):
            self._wanted.setdefault(batch, []).append(slot)
        # 64 random bits for each token's logit; see _digest
        multipliers = np.frombuffer(random.bytes(8 * vocab_size), dtype=np.int64)
        self._multipliers = torch.from_numpy(multipliers.copy())

    def observe(self, batch: int, logits: torch.Tensor) -> None:
        """Remembers digests of the rows of a scored batch that will be audited. logits: (B, T, V) float32."""
        for slot in self._wanted.get(batch, ()):
            self._kept[batch, slot] = self._digest(logits[slot])

    def run(self, program: Program) -> AuditOutcome:
        """Checks every pair: one forward pass for as many pairs as a batch has rows. Raises Refused."""
        outcome = AuditOutcome()
        for group in self._plan:
            tokens = self._decoys(group)
            logits = program(torch.from_numpy(tokens))[..., : self._vocab_size].float()
            for pair in group:
                if pair is None:
                    continue
                outcome.pairs += 1
                kept = self._kept[pair.batch, pair.slot][: pair.cut + 1]
                moved = torch.nonzero(self._digest(logits[pair.slot, : pair.cut + 1]) != kept)
                if len(moved):
                    self._measure(program, pair, logits[pair.slot], int(moved[0]), outcome)
        return outcome

    def _measure(self, program: Program, pair: Pair, found: torch.Tensor, position: int, outcome: AuditOutcome) -> None:
        difference = float("inf")
        if outcome.mismatches < MAX_MEASURED:
            inputs = torch.from_numpy(self._rows.windows[pair.batch, :, :-1].copy())
            scored = program(inputs)[pair.slot, : pair.cut + 1, : self._vocab_size].float()
            difference = float((scored - found[: pair.cut + 1]).abs().nan_to_num(nan=float("inf")).max())
            outcome.max_difference = max(outcome.max_difference, difference)
        if difference > TOLERANCE.get(program.device.type, 0.0):
            outcome.mismatches += 1
            outcome.example = outcome.example or (position, pair.cut)

    def _digest(self, logits: torch.Tensor) -> torch.Tensor:
        """(T,) int64 of (T, V) float32: equal bits give equal digests, others differ but for a chance of 2^-33 each.

        The bits of each logit, as a 32-bit number, times 64 secret random bits, added up modulo 2^64. Two rows collide
        only if the random factor of some logit takes one particular value, whatever the other logits are; a difference
        of 32-bit numbers has at most 31 factors of two, which leaves 33 bits to chance. Keeping the logits themselves
        would take gigabytes at a large vocabulary.
        """
        multipliers = self._multipliers.to(logits.device)
        bits = logits.contiguous().view(torch.int32)
        return (bits.to(torch.int64) * multipliers).sum(dim=-1)

    def _draw(self, pairs: int) -> list[list[Pair | None]]:
        """Groups of one pair a slot, together `pairs` rounded up to whole batches; None where a stranger sits."""
        batches, batch, width = self._rows.windows.shape
        length = width - 1
        alone = batches == 1
        # In a set of one batch the mates would keep their own prefixes in every check; so half of them give way to
        # strangers.
        per_group = batch - batch // 2 if alone else batch
        count = -(-pairs // per_group) if pairs else 0
        starts: Rows = np.argwhere(self._rows.windows[:, :, : length - 1] == self._rows.bos)
        if len(self._rows.documents) < 2:
            starts = starts[:0]  # no other document's beginning to put there
        starts = self._random.permutation(np.repeat(starts, CUTS_PER_START, axis=0))
        queues: list[list[Pair]] = [[] for _ in range(batch)]
        left = pairs // 2
        for number, slot, cut in starts:
            if left and len(queues[slot]) < (count + 1) // 2:
                queues[slot].append(Pair(int(number), int(slot), int(cut), True))
                left -= 1
        groups: list[list[Pair | None]] = []
        for _ in range(count):
            strangers = set(self._random.permutation(batch)[: batch - per_group].tolist())
            group: list[Pair | None] = []
            for slot in range(batch):
                if slot in strangers:
                    group.append(None)
                elif queues[slot]:
                    group.append(queues[slot].pop())
                else:
                    number, cut = self._random.integers(batches), self._random.integers(length - 1)
                    group.append(Pair(int(number), slot, int(cut), False))
            groups.append(group)
        return groups

    def _decoys(self, group: list[Pair | None]) -> Rows:
        """(B, T) tokens in which every audited row goes on differently after its cut, and strangers fill the rest."""
        tokens = np.empty((len(group), self._rows.windows.shape[2] - 1), dtype=np.int64)
        for slot, pair in enumerate(group):
            if pair is None:
                tokens[slot] = self._rows.foreign[self._random.integers(len(self._rows.foreign))]
                continue
            row = self._rows.windows[pair.batch, slot, :-1]
            tokens[slot] = row
            after = pair.cut + 1
            tokens[slot, after:] = self._suffix(row, pair, len(row) - after)
        return tokens

    def _suffix(self, row: NDArray[np.int64], pair: Pair, length: int) -> NDArray[np.int64]:
        """Real text whose first token is not the one that it replaces, so that a look ahead by one token shows."""
        source = self._rows.documents[:, 1:] if pair.at_start else self._rows.foreign
        for _ in range(16):
            decoy = source[self._random.integers(len(source)), :length]
            if decoy[0] != row[pair.cut + 1]:
                return decoy
        decoy = decoy.copy()
        decoy[0] = (
            row[self._random.integers(len(row))] if pair.at_start else (decoy[0] + 1) % len(self._rows.token_bytes)
        )
        return decoy
