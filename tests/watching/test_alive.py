"""A run at a glance is the same whoever looks: its own program or somebody beside it."""

from __future__ import annotations

import time

import pytest

from gridmap.core import events as ev
from gridmap.core.messages import Outcome, Result
from gridmap.core.policy import Limits
from gridmap.monitor.tally import Tally
from gridmap.run_status import status_of
from gridmap.views import UNDER_WAY, RunView
from gridmap.watching.alive import look, run_now
from tests.core.stage import Stage, held


def at_work() -> tuple[Stage, Tally]:
    """A worker that holds more jobs than it can run, and what has been measured."""
    stage, tally = Stage(Limits(1, 2), jobs=100), Tally()
    stage.start("w", children=2, capacity=8)
    begun = time.monotonic() - 10.0
    tally.assigned(begun)
    for number in range(10):
        stage.result("w", number, seconds=2.0)
        tally.finished(Result(number, 1, 0, int(Outcome.VALUE), 2.0, 0, 1), 1, begun + number)
    return stage, tally


def test_both_ways_to_look_tell_the_same() -> None:
    stage, tally = at_work()
    stage.tell(ev.InputEnded())
    status = status_of(stage.d, tally, time.monotonic())
    # it began long before this program: its pace is that of late
    told = RunView("r", created_s=time.time() - 86_400, completed=10, busy_s=10 * 1e6)
    view = run_now(told, look(stage.d, tally), "host", 1)
    assert view.state == UNDER_WAY
    for name in ("total", "completed", "failed", "canceled", "running", "queued", "workers_up",
                 "workers_pending", "children_up"):  # fmt: skip
        assert getattr(view, name) == getattr(status, name), name
    assert status.running == 2 and status.running + status.queued == status.total - 10
    assert view.calls_per_s == pytest.approx(status.calls_per_s, rel=0.1) == pytest.approx(1, 0.1)
    assert view.left_s == pytest.approx(status.left_s, rel=0.1) and view.left_s > 80


def test_input_that_has_not_been_read_takes_time_too() -> None:
    stage, tally = at_work()
    assert look(stage.d, tally).status.left_s is None  # nobody knows how much there is
    tally.expected = 1000
    longer = look(stage.d, tally).status.left_s
    stage.tell(ev.InputEnded())
    left = look(stage.d, tally).status.left_s
    assert longer is not None and left is not None and longer > 5 * left


def test_a_job_that_no_heartbeat_told_of_runs_all_the_same() -> None:
    stage = Stage(Limits(1, 1), jobs=200)
    stage.start("w", capacity=4)
    assert look(stage.d, Tally()).running == {}, "it may wait for its function"
    for job in range(1, 4):
        stage.result("w", job - 1)
        alive = look(stage.d, Tally())
        assert list(alive.running) == [job] == alive.workers["w"].current
        assert alive.running[job].peak_rss_bytes == 0, "nothing is known of that yet"


def test_what_a_heartbeat_told_of_counts_until_that_job_has_ended() -> None:
    stage = Stage(Limits(1, 1), jobs=20)
    stage.start("w")
    stage.result("w", 0)
    stage.beat("w", held(1))
    (job,) = look(stage.d, Tally()).running
    assert job == 1 and look(stage.d, Tally()).running[1].peak_rss_bytes
    stage.result("w", 1)
    assert 1 not in look(stage.d, Tally()).running and len(look(stage.d, Tally()).running) == 1
