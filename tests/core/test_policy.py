"""The rules with numbers in them."""

from __future__ import annotations

import pytest

from gridmap.core.messages import Held
from gridmap.core.policy import Pace, Policy, fits
from gridmap.errors import Cause

POLICY = Policy(num_resubmits=3, chunk_target_s=0.1, backoff_first_s=0.1, backoff_most_s=30)


def held(cpu: float, running: bool) -> Held:
    return Held(0, 1, 0, 1, 0, 1000, cpu, running)


def test_backoff_doubles_up_to_its_bound() -> None:
    assert [POLICY.backoff_s(n) for n in (0, 1, 2, 3, 12, 10_000)] == [0.1, 0.1, 0.2, 0.4, 30, 30]


@pytest.mark.parametrize(
    ("cause", "charged", "rerunnable", "again"),
    [
        (Cause.DIED, 1, True, True),
        (Cause.DIED, 3, True, True),
        (Cause.DIED, 4, True, False),
        (Cause.DIED, 1, False, False),
        (Cause.STALLED, 3, True, True),
        (Cause.SILENT, 3, True, True),
        (Cause.EXCEPTION, 1, True, False),
        (Cause.UNPICKLABLE, 1, True, False),
    ],
)
def test_who_gets_another_attempt(
    cause: Cause, charged: int, rerunnable: bool, again: bool
) -> None:
    assert POLICY.may_retry(cause, charged, rerunnable) is again


def test_a_job_that_works_or_waits_for_disk_is_not_idle() -> None:
    assert POLICY.is_idle(held(0.0, running=False))
    assert not POLICY.is_idle(held(0.0, running=True))
    assert not POLICY.is_idle(held(0.5, running=False))


def test_chunks_grow_by_doubling_and_shrink_at_the_tail() -> None:
    pace = Pace()
    sizes = []
    for _ in range(6):
        size = POLICY.chunk_size(pace, remaining=100_000, children=4)
        sizes.append(size)
        pace.measured(size, size * 1e-6)
        pace.finished(size)
    assert sizes == [1, 2, 4, 8, 16, 32]
    assert POLICY.chunk_size(pace, remaining=80, children=4) == 10
    assert POLICY.chunk_size(pace, remaining=3, children=4) == 1


def test_chunks_are_about_a_tenth_of_a_second_of_work() -> None:
    pace = Pace(mean_s=0.01, grown=1000, known=True)
    assert POLICY.chunk_size(pace, remaining=100_000, children=4) == 10
    pace.measured(1, 10.0)
    assert POLICY.chunk_size(pace, remaining=100_000, children=4) == 1


def test_a_job_starts_only_where_it_fits_before_the_walltime() -> None:
    assert fits(left_s=0.1, longest_s=0.0), "the first job of a worker is always tried"
    assert fits(left_s=16.0, longest_s=10.0)
    assert not fits(left_s=15.0, longest_s=10.0)
