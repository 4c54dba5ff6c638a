"""When the controller asks the publisher: at once after a save, and not sooner than a server in trouble allows."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from autoresearch_operator.api.reasons import BranchUpdatedReason
from autoresearch_operator.cluster.controller import Controller
from autoresearch_operator.cluster.meters import Meters
from autoresearch_operator.cluster.publishing import PublishState
from autoresearch_operator.cluster.seen import Key

KEY = Key("lab", "first")


def asked_at(state: PublishState, save_at: float) -> list[float]:
    """Times at which the publisher is asked in 400 s, when each answer is `state` and one save comes at `save_at`."""
    asked: list[float] = []

    def publish(now: float) -> PublishState:
        asked.append(now)
        return state

    async def play() -> None:
        controller: Any = SimpleNamespace(meters=Meters())  # all that it uses of it
        run: Any = SimpleNamespace(
            key=KEY, publishing=None, published=None, publish_wanted=True, publish_after=0.0, publish_at=None,
            repository=SimpleNamespace(publish=publish),
        )  # fmt: skip
        for second in range(400):
            if second == save_at:
                run.publish_wanted = True
            Controller._publish(controller, run, float(second))
            if run.publishing is not None:
                await run.publishing

    asyncio.run(play())
    return asked


@pytest.mark.parametrize(
    ("reason", "times"),
    [
        # Asked again after the pause, and at once after a save.
        (BranchUpdatedReason.UP_TO_DATE, [0, 20, 321]),
        # A server that did not answer is left alone, whatever was saved.
        (BranchUpdatedReason.GIT_UNAVAILABLE, [0, 301]),
    ],
)
def test_an_accepted_edit_does_not_wait_for_the_next_look(reason: BranchUpdatedReason, times: list[int]) -> None:
    assert asked_at(PublishState(reason, "", {}, 300.0), save_at=20) == times
