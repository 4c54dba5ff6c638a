"""Killing the loop at any instant loses nothing, doubles nothing and changes no verdict."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from campaign import Campaign, Verdicts

FULL = bool(os.environ.get("AUTORESEARCH_FULL"))
KILLS = 100 if FULL else 12


@pytest.mark.timeout(3600 if FULL else 400)
def test_a_run_killed_at_random_instants_ends_like_an_undisturbed_one(
    undisturbed: Verdicts, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw = random.Random(20)
    kills = at_work = campaigns = 0
    while kills < KILLS:
        campaigns += 1
        campaign = Campaign(tmp_path / str(campaigns), trial_seconds=0.2)
        before: set[tuple[tuple[int, int], float | None]] = set()
        for _ in range(KILLS - kills):
            # Half of them in the first seconds, which are start-up and recovery, half once it is at work.
            working = draw.random() < 0.5
            if not (campaign.kill_at_work if working else campaign.kill_after)(draw.uniform(0.0, 2.0)):
                break
            kills += 1
            at_work += working
            before |= campaign.measured().items()
        assert campaign.finish() == 0, campaign.log()
        assert before <= campaign.check(undisturbed).measured.items(), "a finished trial was lost"
    with capsys.disabled():
        print(f"\n{kills} kills, {at_work} of them while it was at work, over {campaigns} campaigns")
    assert at_work >= KILLS // 4


def test_two_runs_with_one_seed_give_the_same_branch_commit_for_commit(undisturbed: Verdicts, tmp_path: Path) -> None:
    campaign = Campaign(tmp_path, trial_seconds=0.005)
    assert campaign.finish() == 0, campaign.log()
    campaign.check(undisturbed)
    assert any(verdict == "Accepted" for _, verdict, _ in undisturbed.verdicts[1:]), (
        "nothing landed: no test of a branch"
    )
