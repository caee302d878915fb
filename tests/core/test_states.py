"""The transition tables, and what keeps to them."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from typing import TypeVar

import pytest

from gridmap.core.jobs import IN_FLIGHT, JobTable
from gridmap.core.records import LeaseRecord, WorkerRecord
from gridmap.core.spec import JobSpec, Span
from gridmap.core.states import (
    FINAL_JOB_STATES,
    JOB_TRANSITIONS,
    WORKER_TRANSITIONS,
    InvalidTransition,
    JobState,
    WorkerState,
)

SPEC = JobSpec("f", "c")
S = TypeVar("S")


def test_every_state_has_its_row() -> None:
    assert set(JOB_TRANSITIONS) == set(JobState)
    assert set(WORKER_TRANSITIONS) == set(WorkerState)


def _reached_from(start: S, table: Mapping[S, frozenset[S]]) -> set[S]:
    seen: set[S] = set()
    todo = [start]
    while todo:
        state = todo.pop()
        if state not in seen:
            seen.add(state)
            todo += table[state]
    return seen


def test_every_state_can_be_reached_and_can_end() -> None:
    table = JobTable()
    table.add(1, SPEC)
    assert _reached_from(table[0], JOB_TRANSITIONS) == set(JobState) - {JobState.HELD}
    assert _reached_from(JobState.HELD, JOB_TRANSITIONS) >= {JobState.QUEUED}  # once jobs are held
    assert _reached_from(WorkerRecord("w", 0).state, WORKER_TRANSITIONS) == set(WorkerState)
    assert {s.name for s in FINAL_JOB_STATES} == {"COMPLETED", "FAILED", "CANCELED", "SKIPPED"}


@pytest.mark.parametrize("before", JobState)
@pytest.mark.parametrize("after", JobState)
def test_a_job_goes_only_where_the_table_says(before: JobState, after: JobState) -> None:
    table = JobTable()
    table.add(3, SPEC)
    table._state[1] = before
    if after in JOB_TRANSITIONS[before]:
        table.move(Span(1, 1), after)
        assert table[1] is after
    else:
        with pytest.raises(InvalidTransition, match="job 1"):
            table.move(Span(1, 1), after)
        assert table[1] is before


def test_a_refused_move_moves_no_job_of_the_span() -> None:
    table = JobTable()
    table.add(4, SPEC)
    table.move(Span(0, 4), JobState.LEASED)
    table.move(Span(2, 1), JobState.COMPLETED)
    with pytest.raises(InvalidTransition, match="job 2"):
        table.move(Span(0, 4), JobState.FAILED)
    assert table.counts()[JobState.LEASED] == 3
    assert table.unfinished == 3


def test_spans_of_states_and_segments_of_specs() -> None:
    table = JobTable()
    table.add(5, SPEC)
    table.add(5, JobSpec("g", "c"))
    table.move(Span(0, 10), JobState.LEASED)
    table.move(Span(3, 4), JobState.COMPLETED)
    assert table.spans(Span(0, 10), IN_FLIGHT) == [Span(0, 3), Span(7, 3)]
    assert table.spans(Span(3, 4), IN_FLIGHT) == []
    assert list(table.segments(Span(2, 6))) == [Span(2, 3), Span(5, 3)]
    assert table.spec(4).function == "f" and table.spec(5).function == "g"


def test_a_worker_that_goes_astray_tells_its_story() -> None:
    worker = WorkerRecord("7.1", 0)
    worker.move(WorkerState.UP, "Hello")
    worker.move(WorkerState.GONE, "Bye")
    with pytest.raises(InvalidTransition) as caught:
        worker.move(WorkerState.UP, "again")
    again = pickle.loads(pickle.dumps(caught.value))
    assert "7.1" in str(again) and "UP -> GONE: Bye" in str(again)


def test_a_lease_knows_which_of_its_jobs_have_no_answer() -> None:
    lease = LeaseRecord(Span(10, 10), SPEC, 0, [Span(10, 10)])
    lease.answered(Span(10, 3))
    lease.answered(Span(15, 1))
    assert lease.open == [Span(13, 2), Span(16, 4)]
    assert lease.holds(14) and not lease.holds(15)
    lease.answered(Span(14, 4))
    assert lease.open == [Span(13, 1), Span(18, 2)]
    lease.answered(Span(0, 100))
    assert lease.open == []
