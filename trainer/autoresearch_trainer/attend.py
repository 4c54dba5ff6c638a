"""The loop of a trial: serve the candidate, listen to everyone else, look at the clocks, until the trial is decided."""

import select
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from .clock import wall
from .gate import Gate
from .watch import POLL_SECONDS

Hears = dict[int, Callable[[int], bool]]
"""Descriptor -> what to do when it has something; called with the epoll events, False when nothing more can come."""


def attend(gate: Gate, hears: Hears, look: Callable[[float], None], decided: Callable[[], bool]) -> None:
    """Runs until decided(); look(now) is called every POLL_SECONDS. Afterwards nothing is served any more."""
    hears = {**{channel.fileno(): channel.on_ready for channel in gate.channels}, **hears}
    poller = select.epoll()
    for descriptor in hears:
        poller.register(descriptor, select.EPOLLIN)
    for channel in gate.channels:
        channel.on_interest = partial(poller.modify, channel.fileno())
    next_look = wall()
    while not decided():
        for descriptor, event in poller.poll(POLL_SECONDS):
            if not hears[descriptor](event):
                with suppress(OSError):  # a descriptor that was closed has left the set by itself
                    poller.unregister(descriptor)
        now = wall()
        if now >= next_look:
            next_look = now + POLL_SECONDS
            look(now)
    poller.close()
    for channel in gate.channels:
        channel.on_interest = lambda _: None
