"""When the scheduler ends this worker, and whom that end is to be charged to."""

from __future__ import annotations

import math

from gridmap.core.policy import came_first, fits, walltime_margin_s

LAST_WORDS_FRACTION = 0.5
"""Of the margin: then what cannot be ended is given up, and the agent leaves."""


class TimeLimit:
    """A worker's own time.

    :param age_s: how long the worker had been running when its agent was born
    """

    def __init__(self, age_s: float = 0.0) -> None:
        self._age_s = age_s
        self._began_at: float | None = None
        self._welcomed_at: float | None = None
        self.walltime_s = 0.0

    def born(self, now: float) -> None:
        """The agent looks at the clock for the first time."""
        if self._began_at is None:
            self._began_at = now - self._age_s

    def told(self, walltime_s: float, now: float) -> None:
        """The monitor said how long the worker may run, 0: for ever."""
        self.walltime_s = walltime_s
        if self._welcomed_at is None:
            self._welcomed_at = now

    @property
    def cut_at(self) -> float:
        """When whatever runs has to be ended, so that its results can still be sent."""
        if not self.walltime_s or self._began_at is None:
            return math.inf
        return self._began_at + self.walltime_s - walltime_margin_s(self.walltime_s)

    @property
    def last_words_at(self) -> float:
        """When to leave at the latest, with whatever could not be ended or said."""
        return self.cut_at + LAST_WORDS_FRACTION * walltime_margin_s(self.walltime_s)

    def has_time(self, now: float, longest_s: float) -> bool:
        """Returns whether another job may start."""
        return fits(self.cut_at - now, longest_s)

    def nearly_up(self, now: float) -> bool:
        """Returns whether the scheduler may be ending the worker because its time is up."""
        return now >= self.cut_at - walltime_margin_s(self.walltime_s)

    def age_s(self, now: float) -> float:
        """Returns how long the worker has been running."""
        return 0.0 if self._began_at is None else now - self._began_at

    def gives_all(self, arrived_at: float, now: float) -> bool:
        """Returns whether a first job that came at this time can have all of the worker's.

        On a worker that lives for seconds, its own start may take most of them.
        """
        waited_s = 0.0 if self._welcomed_at is None else arrived_at - self._welcomed_at
        return came_first(waited_s, self.walltime_s) and self.cut_at - now >= self.walltime_s / 2
