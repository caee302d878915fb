"""What runs, as the monitor can tell it."""

from __future__ import annotations

from gridmap.core.policy import Limits
from gridmap.watching.alive import look
from tests.core.stage import Stage, held


def test_a_job_that_no_heartbeat_told_of_runs_all_the_same() -> None:
    stage = Stage(Limits(1, 1), jobs=200)
    stage.start("w", capacity=4)
    assert look(stage.d).running == {}, "it may wait for its function"
    for job in range(1, 4):
        stage.result("w", job - 1)
        alive = look(stage.d)
        assert list(alive.running) == [job] == alive.workers["w"].current
        assert alive.running[job].peak_rss_bytes == 0, "nothing is known of that yet"


def test_what_a_heartbeat_told_of_counts_until_that_job_has_ended() -> None:
    stage = Stage(Limits(1, 1), jobs=20)
    stage.start("w")
    stage.result("w", 0)
    stage.beat("w", held(1))
    (job,) = look(stage.d).running
    assert job == 1 and look(stage.d).running[1].peak_rss_bytes
    stage.result("w", 1)
    assert 1 not in look(stage.d).running and len(look(stage.d).running) == 1
