"""What the process measures of itself. Plain numbers: the exposition format is somebody else's matter."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence


class Histogram:
    """Observations counted in buckets, in the unit of its bounds. It belongs to one thread."""

    def __init__(self, bounds: Sequence[float]) -> None:
        """`bounds` are the buckets' upper ends, rising; what is above the last one goes into one more."""
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self.total = 0.0
        """Sum of all observations."""

    def observe(self, value: float) -> None:
        """A clock that was set back gives a negative time, which counts as none: the sum may never fall."""
        value = max(0.0, value)
        self._counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    @property
    def count(self) -> int:
        return sum(self._counts)

    def cumulative(self) -> list[tuple[float, int]]:
        """(upper end, observations up to it), the last upper end infinite."""
        found, so_far = [], 0
        for bound, count in zip((*self._bounds, float("inf")), self._counts, strict=True):
            so_far += count
            found.append((bound, so_far))
        return found
