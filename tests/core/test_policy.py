"""The rules with numbers in them."""

from __future__ import annotations

import pytest

from gridmap.core.messages import Held
from gridmap.core.policy import (
    Pace,
    Policy,
    came_first,
    fits,
    likely_cause,
    walltime_margin_s,
)
from gridmap.core.spec import JobSpec, RetryRule
from gridmap.errors import Cause

POLICY = Policy(num_resubmits=3, chunk_target_s=0.1, backoff_first_s=0.1, backoff_most_s=30)


def held(cpu: float, running: bool) -> Held:
    return Held(0, 1, 0, 1, 0, 1000, cpu, running)


def test_backoff_doubles_up_to_its_bound() -> None:
    assert [POLICY.backoff_s(n) for n in (0, 1, 2, 3, 12, 10_000)] == [0.1, 0.1, 0.2, 0.4, 30, 30]
    rule = RetryRule(backoff_s=5.0, backoff_most_s=12.0)
    assert [POLICY.backoff_s(n, rule) for n in (1, 2, 3, 4)] == [5, 10, 12, 12]
    assert POLICY.backoff_s(1, RetryRule(backoff_s=60.0)) == 30


RULE = RetryRule()
TWICE = RetryRule(times=2)
ONLY_DEATHS = RetryRule(causes=("died",))


@pytest.mark.parametrize(
    ("cause", "charged", "rule", "wish", "again"),
    [
        (Cause.DIED, 1, RULE, None, True),
        (Cause.DIED, 3, RULE, None, True),
        (Cause.DIED, 4, RULE, None, False),
        (Cause.STALLED, 3, RULE, None, True),
        (Cause.SILENT, 3, RULE, None, True),
        (Cause.MEMORY, 3, RULE, None, True),
        (Cause.EXCEPTION, 1, RULE, None, False),
        (Cause.UNPICKLABLE, 1, RULE, None, False),
        (Cause.WALLTIME, 1, RULE, None, False),
        (Cause.EXCEPTION, 3, RULE, True, True),
        (Cause.EXCEPTION, 4, RULE, True, False),
        (Cause.DIED, 1, RULE, False, False),
        (Cause.DIED, 2, TWICE, None, True),
        (Cause.DIED, 3, TWICE, None, False),
        (Cause.DIED, 1, RetryRule(times=0), None, False),
        (Cause.DIED, 1, ONLY_DEATHS, None, True),
        (Cause.SILENT, 1, ONLY_DEATHS, None, False),
        (Cause.WALLTIME, 1, RetryRule(causes=("walltime",)), None, True),
    ],
)
def test_who_gets_another_attempt(
    cause: Cause, charged: int, rule: RetryRule, wish: bool | None, again: bool
) -> None:
    assert POLICY.may_retry(cause, charged, JobSpec("f", "c", retry=rule), wish) is again
    once = JobSpec("f", "c", retry=rule, rerunnable=False)
    assert not POLICY.may_retry(cause, charged, once, wish)


@pytest.mark.parametrize(
    ("cause", "rss", "limit", "age", "walltime", "likely"),
    [
        (Cause.DIED, 0, 0, 10, 0, Cause.DIED),
        (Cause.DIED, 95, 100, 10, 0, Cause.MEMORY),
        (Cause.SILENT, 95, 100, 10, 0, Cause.MEMORY),
        (Cause.DIED, 80, 100, 10, 0, Cause.DIED),
        (Cause.DIED, 95, 0, 10, 0, Cause.DIED),
        (Cause.DIED, 0, 0, 60, 60, Cause.WALLTIME),
        (Cause.DIED, 95, 100, 60, 60, Cause.WALLTIME),
        (Cause.DIED, 0, 0, 59, 60, Cause.DIED),
        (Cause.DIED, 0, 0, -float("inf"), 60, Cause.DIED),
        (Cause.PREEMPTED, 95, 100, 60, 60, Cause.PREEMPTED),
        (Cause.CANCELED, 95, 100, 60, 60, Cause.CANCELED),
    ],
)
def test_what_a_lost_worker_probably_died_of(
    cause: Cause, rss: int, limit: int, age: float, walltime: float, likely: Cause
) -> None:
    assert likely_cause(cause, rss, limit, age, walltime) is likely


def test_a_job_that_works_or_waits_for_disk_is_not_idle() -> None:
    assert POLICY.is_idle(held(0.0, running=False))
    assert not POLICY.is_idle(held(0.0, running=True))
    assert not POLICY.is_idle(held(0.5, running=False))


def test_chunks_grow_and_shrink_at_the_tail() -> None:
    pace = Pace()
    sizes = []
    for _ in range(7):
        size = POLICY.chunk_size(pace, remaining=100_000, children=4)
        sizes.append(size)
        pace.measured(size, size * 1e-4)
        pace.finished(size)
    assert sizes == [1, 8, 16, 32, 64, 128, 256], "at first they take next to no time"
    assert POLICY.chunk_size(pace, remaining=800, children=4) == 100
    assert POLICY.chunk_size(pace, remaining=30, children=4) == 10, "a millisecond of work"
    assert POLICY.chunk_size(pace, remaining=3, children=4) == 3
    slow = Pace(mean_s=0.01, grown=1000, calls=1000)
    assert POLICY.chunk_size(slow, remaining=3, children=4) == 1


def test_chunks_are_about_a_tenth_of_a_second_of_work() -> None:
    pace = Pace(mean_s=0.01, grown=1000, calls=1000)
    assert POLICY.chunk_size(pace, remaining=100_000, children=4) == 10
    pace.measured(1, 10.0)
    assert POLICY.chunk_size(pace, remaining=100_000, children=4) == 1


def test_a_job_starts_only_where_it_fits_before_the_walltime() -> None:
    assert fits(left_s=0.1, longest_s=0.0), "the first job of a worker is always tried"
    assert fits(left_s=16.0, longest_s=10.0)
    assert not fits(left_s=15.0, longest_s=10.0)
    assert not fits(left_s=0.0, longest_s=0.0)


def test_the_margin_before_the_walltime() -> None:
    margins = [walltime_margin_s(s) for s in (0, 2, 10, 40, 100, 200, 86400)]
    assert margins == [0, 0.5, 2, 2, 5, 10, 10]


def test_a_first_job_that_came_late_had_less_than_all_the_time() -> None:
    for walltime_s, within_s in ((0, 10), (2, 1), (100, 5), (86400, 10)):
        assert came_first(within_s, walltime_s) and not came_first(within_s + 0.1, walltime_s)


def test_chunks_grow_anew_after_a_late_one() -> None:
    policy, pace = Policy(), Pace()
    pace.measured(5000, 0.005)
    pace.finished(5000)
    assert policy.chunk_size(pace, 79, 8) == 79
    pace.was_late()
    assert policy.chunk_size(pace, 79, 8) == 1
    pace.finished(1)
    assert policy.chunk_size(pace, 79, 8) == 8
