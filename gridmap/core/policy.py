"""Every rule with a number in it; each names the test that holds it."""

from __future__ import annotations

from dataclasses import dataclass

from gridmap.core.messages import Held, Outcome
from gridmap.errors import Cause

CAUSE_OF: dict[Outcome, Cause] = {
    Outcome.EXCEPTION: Cause.EXCEPTION,
    Outcome.DIED: Cause.DIED,
    Outcome.UNPICKLABLE: Cause.UNPICKLABLE,
    Outcome.UNREADABLE: Cause.UNPICKLABLE,
    Outcome.STALLED: Cause.STALLED,
    Outcome.MEMORY: Cause.MEMORY,
    Outcome.WALLTIME: Cause.WALLTIME,
    Outcome.RETRIABLE: Cause.EXCEPTION,
    Outcome.NO_MEMORY: Cause.MEMORY,
}
"""The cause of death that an attempt's outcome stands for."""

HOPELESS = frozenset({Cause.EXCEPTION, Cause.UNPICKLABLE, Cause.REFUSED})
"""Causes that another attempt would only repeat."""

WALLTIME_MARGIN = 1.5
"""A job is expected to take at most so many times the longest so far."""

SMOOTHING = 0.3
"""Weight of the newest measurement in the mean duration of a function's calls."""


@dataclass(frozen=True)
class Limits:
    """What one pool of workers may be.

    :param max_workers: most workers at a time
    :param children: processes for jobs in each worker
    :param polled: the backend has to be asked how its workers are
    :param walltime_s: the scheduler ends a worker after so long; 0: never
    :param max_rss_bytes: a job that uses more memory is ended; 0: any
    """

    max_workers: int = 1
    children: int = 1
    polled: bool = True
    walltime_s: float = 0.0
    max_rss_bytes: int = 0


def fits(left_s: float, longest_s: float) -> bool:
    """Returns whether a worker should start another job before the scheduler ends it.

    :param left_s: time until then
    :param longest_s: longest job so far on this worker; 0 when it has run none

    Held by tests/core/test_policy.py::test_a_job_starts_only_where_it_fits_before_the_walltime.
    """
    return longest_s <= 0 or left_s > WALLTIME_MARGIN * longest_s


@dataclass(frozen=True)
class Policy:
    """The numbers that a run goes by; times in seconds."""

    gridmap: str = ""  # the client's versions; workers must have the same; "" admits any
    python: str = ""
    max_workers: int = 0  # of all pools together; 0: as many as they may have each
    num_resubmits: int = 3
    heartbeat_s: float = 10.0
    grace_s: float = 300.0
    silent_after_s: float = 90.0
    poll_first_s: float = 1.0
    poll_most_s: float = 15.0
    startup_deadline_s: float = 60.0
    startup_failures: int = 3
    submit_deadline_s: float = 300.0
    outage_deadline_s: float = 3600.0  # a scheduler that has the workers may be away so long
    idle_threshold_fraction: float = 0.01
    max_idle_heartbeats: int = 3
    chunk_target_s: float = 0.1
    backoff_first_s: float = 0.1
    backoff_most_s: float = 30.0
    idle_leave_s: float = 5.0
    gather_s: float = 0.02
    stop_on_failure: bool = True

    def backoff_s(self, tries: int) -> float:
        """Returns how long to wait after so many failed tries: doubling, bounded.

        Held by tests/core/test_policy.py::test_backoff_doubles_up_to_its_bound.
        """
        return float(
            min(self.backoff_first_s * 2.0 ** min(max(0, tries - 1), 60), self.backoff_most_s)
        )

    def may_retry(self, cause: Cause, charged: int, rerunnable: bool) -> bool:
        """Returns whether a job that failed for this cause gets another attempt.

        :param charged: attempts charged against the job so far, this one included

        Held by tests/core/test_policy.py::test_who_gets_another_attempt.
        """
        return rerunnable and cause not in HOPELESS and charged <= self.num_resubmits

    def is_idle(self, held: Held) -> bool:
        """Returns whether a running job did nothing since the last heartbeat.

        Held by tests/core/test_policy.py::test_a_job_that_works_or_waits_for_disk_is_not_idle.
        """
        return not held.running and held.cpu_fraction < self.idle_threshold_fraction

    def chunk_size(self, pace: Pace, remaining: int, children: int) -> int:
        """Returns how many jobs the next lease should have, at least 1.

        About `chunk_target_s` of work, at most twice what has been seen to work, and never more
        than an even share of half of what remains, so that all children end together.

        :param remaining: jobs that wait in the queue
        :param children: processes that share them

        Held by tests/core/test_policy.py::test_chunks_grow_by_doubling_and_shrink_at_the_tail.
        """
        size = pace.grown
        if pace.mean_s * size > self.chunk_target_s:
            size = int(self.chunk_target_s / pace.mean_s)
        return max(1, min(size, remaining // (2 * max(1, children))))


@dataclass
class Pace:
    """How long the calls of one function take, as measured so far.

    :param grown: size that the next chunk may have at most
    """

    mean_s: float = 0.0
    grown: int = 1
    known: bool = False

    def measured(self, count: int, seconds: float) -> None:
        """Takes in that `count` calls took `seconds` together."""
        each = max(0.0, seconds) / count
        self.mean_s = self.mean_s + SMOOTHING * (each - self.mean_s) if self.known else each
        self.known = True

    def finished(self, count: int) -> None:
        """Takes in that a chunk of this size went through."""
        self.grown = max(self.grown, 2 * count)
