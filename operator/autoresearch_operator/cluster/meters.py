"""What the controller measures of itself while it works: the only figures of /metrics that no record holds."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping

from autoresearch_operator.cluster.publishing import PublishState
from autoresearch_operator.cluster.seen import Key
from autoresearch_operator.observe import catalogue
from autoresearch_operator.observe.instruments import Histogram


class Meters:
    """Belongs to the event loop that the passes run on."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives seconds, from anywhere."""
        self._clock = clock
        self._freed: defaultdict[Key, deque[float]] = defaultdict(deque)
        """When slots came free that no new trial has taken yet."""
        self._pushes: defaultdict[Key, defaultdict[str, int]] = defaultdict(lambda: defaultdict(int))
        self.gaps = Histogram(catalogue.GAP_SECONDS.buckets)
        self.push_seconds = Histogram(catalogue.PUSH_SECONDS.buckets)

    def histograms(self) -> Mapping[str, Histogram]:
        """By the name of their metric."""
        return {catalogue.GAP_SECONDS.name: self.gaps, catalogue.PUSH_SECONDS.name: self.push_seconds}

    def freed(self, key: Key, slots: int, most: int) -> None:
        """So many trials were seen to have ended, in a run that may use `most` slots."""
        waiting = self._freed[key]
        waiting.extend([self._clock()] * slots)
        while len(waiting) > most:
            waiting.popleft()

    def filled(self, key: Key) -> None:
        """A new trial's Job was made; it takes the slot that has been free for longest."""
        waiting = self._freed.get(key)
        if waiting:
            self.gaps.observe(self._clock() - waiting.popleft())

    def at_rest(self, key: Key) -> None:
        """The run wants no trial: what is free now is not idle."""
        self._freed.pop(key, None)

    def published(self, key: Key, state: PublishState) -> None:
        """A look at a git server that found nothing to push is no push."""
        if state.seconds is not None and (state.pushed or not state.ok):
            self.push_seconds.observe(state.seconds)
            self._pushes[key][str(state.reason)] += 1

    def pushes(self, key: Key) -> Mapping[str, int]:
        """By reason, since the start."""
        return dict(self._pushes.get(key, {}))

    def forget(self, key: Key) -> None:
        """The run was deleted."""
        self._freed.pop(key, None)
        self._pushes.pop(key, None)
