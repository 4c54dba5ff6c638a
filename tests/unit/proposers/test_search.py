"""Search: deterministic, quick to use what helped, never the same program twice, better than chance."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from statistics import mean
from typing import Any

import pytest
from autoresearch_operator.api.reasons import ExperimentKind, Verdict, VerdictReason
from autoresearch_operator.proposers.edits import fingerprint
from autoresearch_operator.proposers.interface import Exhausted, HistoryEntry, Proposal, ProposalRequest
from autoresearch_operator.proposers.knobs import knob_values
from autoresearch_operator.proposers.search import Sampler, Search
from autoresearch_operator.research.records import Change

TEMPLATE = Path(__file__).parents[3] / "trainer/autoresearch_trainer/templates/tiny-gpt/train.py"
SCRIPT = """
LEARNING_RATE = 1e-3  # search: log 0.0003..0.05
DEPTH = 4  # search: int 1..12
OPTIMIZER = "AdamW"  # search: choice AdamW, Muon
BATCH = 8  # search: choice 2, 4, 8, 16
WIDTH = 128  # search: int 32..256 step 16
HEADS = 4  # search: choice 1, 2, 4, 8
WARMUP = 0.1  # search: linear 0..0.5
COOLDOWN = 0.3  # search: linear 0..1
BETA = 0.95
MUON_MOMENTUM = 0.9
# require: WIDTH % HEADS == 0 and WARMUP + COOLDOWN <= 1
"""


def score(values: dict[str, Any]) -> float:
    """A made-up landscape with what real ones have: an optimum off the start, an interaction, a few flat knobs."""
    rate = math.log2(values["LEARNING_RATE"] / (0.012 if values["OPTIMIZER"] == "Muon" else 0.006))
    return (
        1.7
        + 0.02 * rate**2
        + 0.15 * math.log2(values["DEPTH"])
        + (0.0 if values["OPTIMIZER"] == "Muon" else 0.05)
        + 0.04 * abs(math.log2(values["BATCH"] / 4))
        + 0.05 * abs(math.log2(values["WIDTH"] / 96))
        + 0.2 * (values["COOLDOWN"] - 0.7) ** 2
        + 0.3 * abs(values["BETA"] - 0.98)
    )


@dataclass
class Campaign:
    """A greedy run on the landscape with `ahead` candidates in flight."""

    sampler: Sampler
    seed: int
    ahead: int = 4
    noise: float = 0.005
    entries: list[HistoryEntry] = field(default_factory=list)
    made: list[Proposal] = field(default_factory=list)
    ended: Exhausted | None = None

    def run(self, count: int, script: str = SCRIPT) -> float:
        draw = Random(self.seed)
        files = {"train.py": script}
        waiting: list[tuple[int, Proposal, int]] = []
        best, base = self._score(files), 0
        self._record(0, 0, files, (), Verdict.REJECTED, best, None)
        for number in range(1, count + 1):
            if len(waiting) >= self.ahead:
                at, done, on = waiting.pop(0)
                value = self._score(done.files) + draw.gauss(0, self.noise)
                better = best - value > 2 * self.noise
                accepted = Verdict.ACCEPTED if better else Verdict.REJECTED
                self._record(at, on, done.files, done.changes, accepted, value, best - value)
                if better:
                    files, best, base = dict(done.files), self._score(done.files), at
            pending = [
                HistoryEntry(at, ExperimentKind.PROPOSAL, on, knob_values(p.files), fingerprint(p.files), p.changes)
                for at, p, on in waiting
            ]
            answer = Search(self.sampler).propose(
                ProposalRequest(number, self.seed, base, files, tuple(self.entries), pending)
            )
            if isinstance(answer, Exhausted):
                self.ended = answer
                break
            self.made.append(answer)
            waiting.append((number, answer, base))
        return best

    def _score(self, files: Any) -> float:
        return score({name.removeprefix("train.py:"): value for name, value in knob_values(files).items()})

    def _record(
        self, number: int, base: int, files: Any, made: Any, verdict: Verdict, value: float, delta: Any
    ) -> None:
        reason = VerdictReason.IMPROVED if verdict is Verdict.ACCEPTED else VerdictReason.NOT_BETTER
        self.entries.append(
            HistoryEntry(
                number,
                ExperimentKind.PROPOSAL,
                base,
                knob_values(files),
                fingerprint(files),
                made,
                verdict,
                reason,
                value,
                delta,
            )
        )


def first(script: str, **more: Any) -> Proposal | Exhausted:
    return Search().propose(ProposalRequest(1, 0, 0, {"train.py": script}, **more))


def test_search_beats_chance_at_equal_numbers_of_trials() -> None:
    searched = mean(Campaign("tpe", seed).run(40) for seed in range(4))
    drawn = mean(Campaign("random", seed).run(40) for seed in range(4))
    assert searched < drawn - 0.05


def test_fifteen_candidates_are_enough_for_the_large_gains() -> None:
    campaign = Campaign("tpe", 0)
    assert (
        campaign.run(15)
        < score({**{key.removeprefix("train.py:"): value for key, value in knob_values({"train.py": SCRIPT}).items()}})
        - 0.3
    )


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_the_same_request_gets_the_same_answer(sampler: Sampler) -> None:
    first_time, second_time = Campaign(sampler, 3), Campaign(sampler, 3)
    first_time.run(30), second_time.run(30)
    assert [proposal.title for proposal in first_time.made] == [proposal.title for proposal in second_time.made]
    assert first_time.made == second_time.made


@pytest.mark.parametrize("sampler", ["tpe", "random", "grid"])
def test_no_program_is_measured_twice_and_every_condition_holds(sampler: Sampler) -> None:
    campaign = Campaign(sampler, 1)
    campaign.run(60)
    marks = [fingerprint(proposal.files) for proposal in campaign.made]
    assert len(set(marks)) == len(marks)
    assert fingerprint({"train.py": SCRIPT}) not in marks
    for proposal in campaign.made:
        values = knob_values(proposal.files)
        assert values["train.py:WIDTH"] % values["train.py:HEADS"] == 0  # type: ignore[operator] # both are numbers
        lines = zip(proposal.files["train.py"].split("\n"), SCRIPT.split("\n"), strict=True)
        assert all(len(a.split("#")) == len(b.split("#")) for a, b in lines), "comments survive"


def test_the_first_wave_tries_the_strongest_knobs_each_once() -> None:
    campaign = Campaign("tpe", 0)
    campaign.run(4)
    assert [proposal.title for proposal in campaign.made] == [
        "DEPTH 4 -> 1",
        "LEARNING_RATE 1e-3 -> 4e-3",
        "WIDTH 128 -> 64",
        'OPTIMIZER "AdamW" -> "Muon"',
    ]


def test_a_step_that_helped_is_repeated_and_one_that_failed_is_not() -> None:
    def entry(number: int, base: int, rate: str, delta: float | None, verdict: Verdict) -> HistoryEntry:
        files = {"train.py": SCRIPT.replace("1e-3", rate)}
        made = () if rate == "1e-3" else (Change("train.py", "LEARNING_RATE", "1e-3", rate),)
        return HistoryEntry(
            number,
            ExperimentKind.PROPOSAL,
            base,
            knob_values(files),
            fingerprint(files),
            made,
            verdict,
            VerdictReason.IMPROVED,
            2.0,
            delta,
        )

    start = entry(0, 0, "1e-3", None, Verdict.REJECTED)
    helped = [start, entry(1, 0, "4e-3", 0.2, Verdict.ACCEPTED)]
    answer = Search().propose(ProposalRequest(5, 0, 1, {"train.py": SCRIPT.replace("1e-3", "4e-3")}, helped))
    assert isinstance(answer, Proposal)
    assert answer.title == "LEARNING_RATE 4e-3 -> 1.6e-2"
    failed = [start, entry(1, 0, "4e-3", -0.2, Verdict.REJECTED)]
    answer = first(SCRIPT.replace("DEPTH = 4", "DEPTH = 1"), history=failed)
    assert isinstance(answer, Proposal)
    assert answer.title != "LEARNING_RATE 1e-3 -> 4e-3"


def test_knobs_of_a_choice_not_taken_wait() -> None:
    campaign = Campaign("tpe", 0)
    campaign.run(12)
    assert not any("MUON_MOMENTUM" in proposal.title for proposal in campaign.made)


def test_a_grid_and_a_small_space_end() -> None:
    script = "A = True\nB = 'x'  # search: choice x, y, z\n"
    for sampler in ("grid", "tpe", "random"):
        campaign = Campaign(sampler, 0)
        campaign._score = lambda _: 1.0  # type: ignore[method-assign] # a flat landscape
        campaign.run(20, script)
        assert campaign.ended is not None
        assert {proposal.title for proposal in campaign.made} == {"A True -> False", "B 'x' -> 'y'", "B 'x' -> 'z'"}
    answer = first("print(1)\n")
    assert isinstance(answer, Exhausted)
    assert "has no knobs to search" in answer.message


def test_what_is_infeasible_is_not_proposed() -> None:
    answer = first(SCRIPT, feasible=lambda files: "DEPTH = 4" not in files["train.py"])
    assert isinstance(answer, Proposal)
    assert answer.title == "DEPTH 4 -> 1"


def test_an_unknown_sampler_is_refused() -> None:
    with pytest.raises(ValueError, match="sampler is 'best': use one of tpe, grid, random"):
        Search("best")  # type: ignore[arg-type] # the point of the test


def test_the_first_six_tries_on_the_template_change_six_different_knobs() -> None:
    script = TEMPLATE.read_text()
    flat = Campaign("tpe", 0)
    flat._score = lambda _: 1.0  # type: ignore[method-assign] # a flat landscape
    flat.run(25, script)
    assert len(flat.made) == 25
    assert len({proposal.changes[0].name for proposal in flat.made[:6]}) == 6


def test_search_is_imported_without_optuna() -> None:
    code = "import sys, autoresearch_operator.proposers.search as s; sys.exit('optuna' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
