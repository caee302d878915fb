"""The queue of ranges."""

from __future__ import annotations

import random
from collections import Counter

from gridmap.core.jobs import JOINED_BYTES, JobTable, Range, RangeQueue
from gridmap.core.spec import JobSpec, Span
from gridmap.core.states import JOB_TRANSITIONS, InvalidTransition, JobState

SPEC = JobSpec("f", "c")


def test_a_range_is_taken_in_parts_and_put_back_in_front() -> None:
    queue = RangeQueue()
    queue.put(Range(Span(0, 10), SPEC))
    queue.put(Range(Span(10, 5), SPEC, attempt=1))
    first = queue.take(4)
    assert (first.span, queue.count) == (Span(0, 4), 11)
    queue.put_back(first)
    assert [queue.take(99).span for _ in range(3)] == [Span(0, 4), Span(4, 6), Span(10, 5)]
    assert queue.count == 0 and queue.first() is None


def test_ranges_that_follow_each_other_are_joined_while_they_are_small() -> None:
    queue = RangeQueue()
    half = JOINED_BYTES // 2
    for first, nbytes in ((0, half), (10, half), (20, 1), (40, 1)):
        queue.put(Range(Span(first, 10), SPEC, nbytes=nbytes))
    queue.put(Range(Span(50, 10), SPEC, alone=True))
    assert queue.count == 50
    spans = [queue.take(99).span for _ in range(4)]
    assert spans == [Span(0, 20), Span(20, 10), Span(40, 10), Span(50, 10)]


def test_a_range_that_backs_off_comes_back_in_time() -> None:
    queue = RangeQueue()
    queue.put_later(Range(Span(0, 1), SPEC), 5.0)
    queue.put_later(Range(Span(1, 1), SPEC), 3.0)
    assert (queue.next_wake(), queue.later, queue.count) == (3.0, 2, 0)
    assert queue.wake(2.9) == []
    assert [item.span for item in queue.wake(4.0)] == [Span(1, 1)]
    assert (queue.next_wake(), queue.count) == (5.0, 1)
    queue.clear()
    assert (queue.next_wake(), queue.first(), queue.count) == (None, None, 0)


def test_neighbours_of_one_kind_share_a_segment() -> None:
    table = JobTable()
    for name in ("f", "f", "g", "f"):
        table.add(2, JobSpec(name, "c"))
    assert list(table.segments(Span(0, 8))) == [Span(0, 4), Span(4, 2), Span(6, 2)]
    assert list(table.segments(Span(3, 1))) == [Span(3, 1)]
    assert [table.spec(job).function for job in range(8)] == list("ffffggff")


def test_the_counts_are_those_of_the_jobs() -> None:
    table, random_ = JobTable(), random.Random(7)
    for _ in range(30):
        table.add(random_.randrange(0, 20), SPEC)
    refused = 0
    for _ in range(3000):
        first = random_.randrange(len(table))
        span = Span(first, random_.randrange(0, min(6, len(table) - first + 1)))
        states = JOB_TRANSITIONS[table[first]]
        try:
            table.move(span, random_.choice(sorted(states) or list(JobState)))
        except InvalidTransition:
            refused += 1
        found = Counter(table[job] for job in range(len(table)))
        assert table.counts() == {state: found[state] for state in JobState}
    assert 0 < refused < 3000
