"""Killing the loop at any instant loses nothing, doubles nothing and changes no verdict."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from campaign import Campaign, Verdicts

FULL = bool(os.environ.get("AUTORESEARCH_FULL"))
KILLS = 100 if FULL else 12


@pytest.mark.timeout(1800 if FULL else 400)
def test_a_run_killed_at_random_instants_ends_like_an_undisturbed_one(undisturbed: Verdicts, tmp_path: Path) -> None:
    campaign = Campaign(tmp_path, trial_seconds=0.2)
    draw = random.Random(20)
    killed = sum(campaign.kill_after(draw.uniform(0.3, 4.0)) for _ in range(KILLS))
    assert killed >= 1, "every start ended before it could be killed: the test kills too late"
    assert campaign.finish() == 0, campaign.log()
    found = campaign.verdicts()
    assert len(set(found.trials)) == len(found.trials), "a trial was counted twice"
    assert found == undisturbed


def test_two_runs_with_one_seed_give_the_same_branch_commit_for_commit(undisturbed: Verdicts, tmp_path: Path) -> None:
    campaign = Campaign(tmp_path, trial_seconds=0.005)
    assert campaign.finish() == 0, campaign.log()
    assert campaign.verdicts() == undisturbed
    assert any(verdict == "Accepted" for _, verdict, _ in undisturbed.verdicts[1:]), (
        "nothing landed: no test of a branch"
    )
