"""What a run has measured, and how long the rest will take."""

from __future__ import annotations

import math

import pytest

from gridmap.core.messages import Outcome, Result
from gridmap.monitor.tally import LEAST_POINTS, MOST_NOTES, RECENT_S, Tally

MB = 1 << 20


def result(count: int, seconds: float, peak: int = 0, first: int = 0) -> Result:
    return Result(first, count, 0, int(Outcome.VALUE), seconds, peak, 1)


def tally_of(calls: int, each_s: float, children: int, at_once: int = 1) -> tuple[Tally, float]:
    """Returns a tally after so many calls by busy children, and the time by then."""
    tally, now = Tally(), 100.0
    tally.assigned(now)
    for _ in range(calls // at_once):
        now += each_s * at_once / children
        tally.finished(result(at_once, each_s * at_once), at_once, now)
        tally.assigned(now)
    return tally, now


def test_a_part_of_a_result_counts_for_its_share() -> None:
    tally = Tally()
    tally.finished(result(10, 5.0, 3 * MB), 4, 1.0)
    tally.finished(result(10, 5.0, 2 * MB), 6, 1.0)
    assert (tally.calls, tally.busy_s, tally.peak_rss_bytes) == (10, 5.0, 3 * MB)


@pytest.mark.parametrize("seconds", [math.nan, math.inf, -math.inf, -1.0])
def test_what_no_clock_says_does_not_count(seconds: float) -> None:
    tally = Tally()
    tally.finished(result(1, seconds), 1, 1.0)
    assert (tally.calls, tally.busy_s) == (1, 0.0)


def test_memory_of_running_jobs_counts() -> None:
    tally = Tally()
    tally.resident(5 * MB)
    tally.resident(4 * MB)
    assert tally.peak_rss_bytes == 5 * MB


def test_the_pace_is_that_of_late() -> None:
    tally, now = tally_of(1000, 0.1, 10)
    assert tally.calls_per_s(now) == pytest.approx(100, rel=0.05)
    for _ in range(int(2 * RECENT_S)):  # a call a second from now on
        now += 1
        tally.finished(result(1, 1.0), 1, now)
    assert tally.calls_per_s(now) == pytest.approx(1, rel=0.05)
    assert tally.calls_per_s(now + 10 * RECENT_S) < 0.15


def test_calls_that_end_seldom_have_a_pace() -> None:
    tally, now = tally_of(20, 600.0, 1)
    assert tally.calls_per_s(now) == pytest.approx(1 / 600, rel=0.05)


def test_before_anything_was_given_out_there_is_no_pace() -> None:
    assert Tally().calls_per_s(5.0) == 0.0


# --- time left ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("each_s", "children", "unfinished", "expected_s"),
    [
        (1.0, 4, 400, 100),
        (0.2, 1, 50, 10),
        (600.0, 16, 160, 6000),
        (0.2, 8, 4000, 100),
    ],
)
def test_time_left(each_s: float, children: int, unfinished: int, expected_s: float) -> None:
    tally, now = tally_of(200, each_s, children)
    assert tally.left_s(unfinished, children, now) == pytest.approx(expected_s, rel=0.15)


def test_twice_the_processes_take_half_the_time() -> None:
    tally, now = tally_of(200, 60.0, 4)
    few, many = tally.left_s(400, 4, now), tally.left_s(400, 400, now)
    assert few == pytest.approx(6000, rel=0.1)
    assert many == pytest.approx(60, rel=0.1)  # all at once


def test_of_short_calls_what_carries_them_counts() -> None:
    tally, now = Tally(), 0.0
    tally.assigned(now)
    for _ in range(100):  # 1,000 a second, of which each says that it took a microsecond
        now += 0.1
        tally.finished(result(100, 100e-6), 100, now)
    assert tally.left_s(50_000, 2, now) == pytest.approx(50, rel=0.05)


def test_the_last_calls_come_nearer() -> None:
    tally, now = tally_of(40, 60.0, 4)
    soon, later = tally.left_s(4, 4, now + 10), tally.left_s(4, 4, now + 40)
    assert soon == pytest.approx(50, rel=0.1) and later == pytest.approx(30, abs=11)
    assert tally.left_s(1, 4, now + 59) == pytest.approx(1, abs=0.5)
    assert tally.left_s(1, 4, now + 500) == 0.0


def test_calls_that_become_slow_are_noticed() -> None:
    tally, now = tally_of(1000, 0.1, 2)
    for _ in range(4 * LEAST_POINTS):
        now += 5
        tally.finished(result(1, 10.0), 1, now)
        tally.assigned(now)
    assert tally.left_s(100, 2, now) == pytest.approx(500, rel=0.1)


@pytest.mark.parametrize(("calls", "children"), [(0, 4), (10, 0)])
def test_nothing_is_known_before_a_call_has_ended_or_a_worker_is_up(
    calls: int, children: int
) -> None:
    tally, now = tally_of(calls, 1.0, max(1, children))
    assert tally.left_s(100, children, now) is None


def test_nothing_is_left_of_what_has_ended() -> None:
    assert Tally().left_s(0, 0, 1.0) == 0.0


# --- notes ----------------------------------------------------------------------------------------


def test_the_latest_notes_are_kept() -> None:
    tally = Tally()
    tally.note("debug", "of no interest")
    for number in range(MOST_NOTES + 5):
        tally.note("info", f"note {number}")
    assert len(tally.notes) == MOST_NOTES
    assert tally.notes[-1].text == f"note {MOST_NOTES + 4}"
    assert [note.number for note in tally.notes] == list(range(6, MOST_NOTES + 6))
    assert tally.notes[0].at_s > 1.7e9  # since 1970
