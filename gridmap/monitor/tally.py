"""What a run has measured so far: seconds, memory, pace, and what is worth telling."""

from __future__ import annotations

import math
import time
from collections import deque
from typing import NamedTuple

from gridmap.core.messages import Result

RECENT_S = 30.0
"""The pace is that of so long a time."""

LEAST_POINTS = 8
"""Where calls end seldom, the time reaches back so many of their ends."""

POINTS_EVERY_S = 0.5
MOST_NOTES = 100

SHORT_S = 0.05
"""Of calls that take less, most of the time may be what carries them; their own says little."""


class Note(NamedTuple):
    """Something that a person would like to know.

    :param number: counts the notes of a run, from 1
    :param at_s: seconds since 1970
    :param level: "debug", "info", "warning", "error"
    """

    number: int
    at_s: float
    level: str
    text: str


class _Point(NamedTuple):
    at_s: float
    calls: int
    busy_s: float


class Tally:
    """Adds up what comes in; the monitor's thread alone touches it.

    A call counts when it has ended in a value or failed for good.  Times are those of the monotonic
    clock.
    """

    def __init__(self) -> None:
        self.calls = 0
        self.busy_s = 0.0
        """Seconds that the calls took, all of them together."""
        self.peak_rss_bytes = 0
        """Largest resident memory of a process for jobs."""
        self.resubmitted = 0
        """Attempts that failed and were followed by another."""
        self.died = 0
        """Jobs that failed for good, and not by an exception of their own."""
        self.expected: int | None = None
        """How many jobs there will be, where the input says so before it has been read."""
        self.notes: deque[Note] = deque(maxlen=MOST_NOTES)
        self._noted = 0
        self._points: deque[_Point] = deque()
        self._assigned_at = 0.0

    # --- what comes in ----------------------------------------------------------------------------

    def assigned(self, now: float) -> None:
        """A worker was given jobs."""
        self._assigned_at = now
        if not self._points:
            self._points.append(_Point(now, self.calls, self.busy_s))

    def finished(self, result: Result, calls: int, now: float) -> None:
        """Calls have ended.

        :param result: names them, and maybe others whose end was known
        """
        seconds = result.seconds * calls / max(calls, result.count)
        if 0 < seconds < math.inf:  # a worker may say anything
            self.busy_s += seconds
        self.calls += calls
        self.resident(result.peak_rss_bytes)
        points = self._points
        if not points or now - points[-1].at_s >= POINTS_EVERY_S:
            points.append(_Point(now, self.calls, self.busy_s))
            while len(points) > LEAST_POINTS and points[0].at_s < now - RECENT_S:
                points.popleft()

    def resident(self, rss_bytes: int) -> None:
        """A process for jobs had so much memory."""
        if rss_bytes > self.peak_rss_bytes:
            self.peak_rss_bytes = rss_bytes

    def note(self, level: str, text: str) -> None:
        """Keeps the latest of what is told to people."""
        if level != "debug":
            self._noted += 1
            self.notes.append(Note(self._noted, time.time(), level, text))

    # --- what follows from it ---------------------------------------------------------------------

    def calls_per_s(self, now: float) -> float:
        """Returns how many calls have ended lately, per second."""
        if not self._points:
            return 0.0
        first = self._points[0]
        return (self.calls - first.calls) / max(now - first.at_s, POINTS_EVERY_S)

    def left_s(self, unfinished: int, children: int, now: float) -> float | None:
        """Returns how long the calls that have not ended will take; None where nothing is known.

        It goes by the seconds that calls took lately.  What carries them may be slower than the
        processes are; so it is no less than what follows from the pace at which they ended.

        :param children: calls that can run at once
        """
        if not unfinished:
            return 0.0
        if not self.calls or not self._points or children < 1:
            return None
        first, last = self._points[0], self._points[-1]
        calls, busy_s = self.calls - first.calls, self.busy_s - first.busy_s
        each_s = busy_s / calls if calls else self.busy_s / self.calls
        # those that run are half done, if they did not begin together
        in_turn_s = each_s * (unfinished - children / 2) / children
        last_one_s = self._assigned_at + each_s - now
        left_s = max(0.0, in_turn_s, last_one_s)
        ended = last.calls - first.calls
        if ended and (each_s < SHORT_S or unfinished > 2 * children):
            left_s = max(left_s, unfinished * (last.at_s - first.at_s) / ended)
        return left_s
