"""Every rule with a number in it; each names the test that holds it."""

from __future__ import annotations

from msgspec import Struct

from gridmap.core.memory import NEAR_FRACTION
from gridmap.core.messages import Held, Outcome
from gridmap.core.spec import JobSpec, RetryRule
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

HOPELESS = frozenset({Cause.EXCEPTION, Cause.UNPICKLABLE, Cause.REFUSED, Cause.WALLTIME})
"""Causes that another attempt would only repeat, where it gets no more than this one had."""

WALLTIME_MARGIN = 1.5
"""A job is expected to take at most so many times the longest so far."""

UNCHARGED_TRIES = 3
"""So often a worker's first job may be ended by a warning signal that does not say why, uncharged;
it might be a limit on time that nobody knows of."""

SMOOTHING = 0.3
"""Least weight of the newest measurement in the mean duration of a function's calls; else its share
of all calls."""


class Limits(Struct, frozen=True):
    """What one pool of workers may be.

    :param max_workers: most workers at a time
    :param children: processes for jobs in each worker
    :param polled: the backend has to be asked how its workers are
    :param walltime_s: the scheduler ends a worker after so long; 0: never
    :param more_memory: the pool for jobs of this one that need more memory; -1: there is none
    :param more_time: the same for time
    """

    max_workers: int = 1
    children: int = 1
    polled: bool = True
    walltime_s: float = 0.0
    more_memory: int = -1
    more_time: int = -1


def fits(left_s: float, longest_s: float) -> bool:
    """Returns whether a worker should start another job before the scheduler ends it.

    :param left_s: time until then
    :param longest_s: longest job so far on this worker; 0 when it has run none

    Held by tests/core/test_policy.py::test_a_job_starts_only_where_it_fits_before_the_walltime.
    """
    return left_s > WALLTIME_MARGIN * max(0.0, longest_s)


def walltime_margin_s(walltime_s: float) -> float:
    """Returns how long before the end of its time a worker ends what it runs.

    Killing a process and sending its results takes far less than the least of it, an agent that
    waits for a slow disk or a busy monitor may take longer.

    Held by tests/core/test_policy.py::test_the_margin_before_the_walltime.
    """
    return min(walltime_s / 4, max(2.0, min(10.0, walltime_s / 20)))


def came_first(waited_s: float, walltime_s: float) -> bool:
    """Returns whether the first job of a worker had all of its time: no other worker gives more.

    :param waited_s: from the worker's welcome until the job came
    :param walltime_s: 0: not known

    Held by tests/core/test_policy.py::test_a_first_job_that_came_late_had_less_than_all_the_time.
    """
    return waited_s <= (max(1.0, min(10.0, walltime_s / 20)) if walltime_s else 10.0)


def likely_cause(
    cause: Cause, rss_bytes: int, limit_bytes: int, age_s: float, walltime_s: float
) -> Cause:
    """Returns what a worker that is no more probably died of, where all that is known is that.

    :param rss_bytes: memory that its job used when last seen
    :param limit_bytes: what it was allowed; 0: not known
    :param age_s: how long it lived at least
    :param walltime_s: how long it was allowed to; 0: for ever

    Held by tests/core/test_policy.py::test_what_a_lost_worker_probably_died_of.
    """
    if cause not in (Cause.DIED, Cause.SILENT):
        return cause
    if walltime_s and age_s >= walltime_s:
        return Cause.WALLTIME
    return Cause.MEMORY if is_near(rss_bytes, limit_bytes) else cause


def is_near(rss_bytes: int, limit_bytes: int) -> bool:
    """Returns whether so much memory is near a limit; 0 stands for a limit that is not known.

    Held by tests/core/test_policy.py::test_what_a_lost_worker_probably_died_of.
    """
    return limit_bytes > 0 and rss_bytes >= NEAR_FRACTION * limit_bytes


class Policy(Struct, frozen=True):
    """The numbers that a run goes by; times in seconds."""

    gridmap: str = ""  # the client's versions; workers must have the same; "" admits any
    python: str = ""
    max_workers: int = 0  # of all pools together; 0: as many as they may have each
    num_resubmits: int = 3
    heartbeat_s: float = 10.0
    grace_s: float = 300.0
    silent_after_s: float = 90.0
    poll_first_s: float = 1.0
    leaving_s: float = 10.0  # so long the scheduler is given to say who ended a worker
    poll_most_s: float = 15.0
    startup_deadline_s: float = 60.0
    startup_failures: int = 3
    submit_deadline_s: float = 300.0
    other_host_s: float = 30.0  # so long a job waits for a worker on another host than its last
    outage_deadline_s: float = 3600.0  # a scheduler that has the workers may be away so long
    idle_threshold_fraction: float = 0.01
    max_idle_heartbeats: int = 3
    chunk_target_s: float = 0.1
    chunk_least_s: float = 0.001
    late_after_s: float = 0.2  # a lease that runs so long is shared, where somebody has nothing
    backoff_first_s: float = 0.1
    backoff_most_s: float = 30.0
    idle_leave_s: float = 5.0
    gather_s: float = 0.02
    stop_on_failure: bool = True

    def backoff_s(self, tries: int, rule: RetryRule = RetryRule()) -> float:  # noqa: B008
        """Returns how long to wait after so many failed tries: doubling, bounded.

        Held by tests/core/test_policy.py::test_backoff_doubles_up_to_its_bound.
        """
        first_s = self.backoff_first_s if rule.backoff_s < 0 else rule.backoff_s
        most_s = self.backoff_most_s if rule.backoff_most_s < 0 else rule.backoff_most_s
        return float(min(first_s * 2.0 ** min(max(0, tries - 1), 60), most_s))

    def may_retry(
        self, cause: Cause, charged: int, spec: JobSpec, wish: bool | None = None
    ) -> bool:
        """Returns whether a job that failed for this cause gets another attempt.

        :param charged: attempts charged against the job so far, this one included
        :param wish: whether its user wants another try after this very failure; None: that is a
            matter of the cause

        Held by tests/core/test_policy.py::test_who_gets_another_attempt.
        """
        rule = spec.retry
        if wish is None:
            wish = cause.value in rule.causes if rule.causes else cause not in HOPELESS
        return spec.rerunnable and charged <= self.resubmits(spec) and wish

    def resubmits(self, spec: JobSpec) -> int:
        """Returns how often a job is tried again at most."""
        return self.num_resubmits if spec.retry.times < 0 else spec.retry.times

    def is_idle(self, held: Held) -> bool:
        """Returns whether a running job did nothing since the last heartbeat.

        Held by tests/core/test_policy.py::test_a_job_that_works_or_waits_for_disk_is_not_idle.
        """
        return not held.running and held.cpu_fraction < self.idle_threshold_fraction

    def chunk_size(self, pace: Pace, remaining: int, children: int) -> int:
        """Returns how many jobs the next lease should have, at least 1.

        About `chunk_target_s` of work, at most `grown`, and never more than an even share of half
        of what remains, or `chunk_least_s`, so that all children end together.

        :param remaining: jobs that wait in the queue
        :param children: processes that share them

        Held by tests/core/test_policy.py::test_chunks_grow_and_shrink_at_the_tail.
        """
        size = pace.grown
        if pace.mean_s * size > self.chunk_target_s:
            size = int(self.chunk_target_s / pace.mean_s)
        share = remaining // (2 * max(1, children))
        if pace.mean_s * share < self.chunk_least_s:  # to share so little would cost more
            share = min(remaining, int(self.chunk_least_s / max(pace.mean_s, 1e-9)))
        return max(1, min(size, share))


QUICK_CHUNK_S = 0.0005
"""A chunk that took less is followed by one that is eight times as large, any other by a double."""


class Pace(Struct):
    """How long the calls of one function take, as measured so far.

    :param grown: size that the next chunk may have at most
    """

    mean_s: float = 0.0
    grown: int = 1
    calls: int = 0
    latest_s: float = 0.0

    def measured(self, count: int, seconds: float) -> None:
        """Takes in that `count` calls took `seconds` together."""
        self.latest_s = max(0.0, seconds) / count
        self.calls += count
        weight = max(SMOOTHING, count / self.calls)
        self.mean_s += weight * (self.latest_s - self.mean_s)

    def finished(self, count: int) -> None:
        """Takes in that a chunk of this size went through: the next may be larger.

        Held by tests/core/test_policy.py::test_chunks_grow_and_shrink_at_the_tail.
        """
        quick = self.calls > 0 and self.latest_s * count < QUICK_CHUNK_S
        self.grown = max(self.grown, (8 if quick else 2) * count)

    def was_late(self) -> None:
        """Takes in that a chunk took far longer than planned: the mean is not to be trusted.

        Held by tests/core/test_policy.py::test_chunks_grow_anew_after_a_late_one.
        """
        self.grown = 1
