"""The rules about asking the scheduler, each by its own example."""

from __future__ import annotations

from gridmap.core import effects as do
from gridmap.core import events as ev
from gridmap.core import messages as m
from gridmap.core.events import NativeState
from gridmap.core.policy import Limits, Policy
from gridmap.core.spec import JobSpec, Span
from gridmap.core.states import JobState, WorkerState
from gridmap.errors import Cause
from tests.core.stage import Stage, held, of

BUSY = ev.PollFailed("qmaster is down", transient=True)
PATIENT = Policy(outage_deadline_s=100, silent_after_s=1000, startup_deadline_s=1000)


def asked(stage: Stage, seconds: float) -> list[float]:
    """Lets time pass; returns when the scheduler was asked."""
    times, until = [], stage.now + seconds
    while stage.d.next_deadline() <= until:
        effects = stage.wait(max(0.0, stage.d.next_deadline() - stage.now))
        times += [stage.now] * len(of(do.PollWorkers, effects))
    return times


def test_the_scheduler_is_asked_at_growing_bounded_intervals() -> None:
    stage = Stage(jobs=1, policy=Policy(poll_first_s=1, poll_most_s=15))
    stage.submit("w")
    times = asked(stage, 200)
    gaps = [later - former for former, later in zip(times, times[1:], strict=False)]
    assert gaps[:3] == [1.0, 1.5, 2.25]
    assert gaps == sorted(gaps) and set(gaps[-5:]) == {15.0}


def test_a_submission_has_the_scheduler_asked_soon_again() -> None:
    stage = Stage(Limits(2, 1), jobs=9, policy=PATIENT)
    stage.submit("w")
    asked(stage, 90)
    stage.hello("w")
    stage.submit("v")
    since = stage.now
    assert asked(stage, 5)[0] == since + 1.0


def test_an_outage_is_said_once_and_so_is_its_end() -> None:
    stage = Stage(jobs=1)
    stage.start("w")
    for _ in range(3):
        stage.tell(BUSY)
    stage.polled(w=NativeState.RUNNING)
    stage.polled(w=NativeState.RUNNING)
    notes = of(do.Note, stage.all)
    assert [note.level for note in notes] == ["warning", "info"]
    assert "qmaster is down" in notes[0].text and "answers again" in notes[1].text
    stage.tell(BUSY)
    assert len(of(do.Note, stage.new)) == 1


def test_a_pool_that_only_waits_gives_up_a_scheduler_that_does_not_answer() -> None:
    for failure, words in ((BUSY, "qmaster is down"), (None, "100 s")):
        stage = Stage(jobs=1, policy=PATIENT)
        stage.submit("w")
        for _ in range(9):
            stage.wait(11)
            if failure:
                stage.tell(failure)
        assert not stage.d.ended
        stage.wait(20)
        end = of(do.DeliverEnd, stage.all)[0]
        assert (end.state, end.cause) == (JobState.FAILED, Cause.NEVER_STARTED)
        assert words in end.text and not end.refused
        assert do.CancelWorkers(("w",)) in stage.all


def test_an_answer_about_other_workers_is_none() -> None:
    stage = Stage(Limits(1, 1), Limits(1, 1), jobs=1, policy=PATIENT)
    stage.submit("w")
    for _ in range(12):
        stage.wait(10)
        stage.polled(stranger=NativeState.RUNNING, w=NativeState.UNKNOWN)
    assert "100 s" in of(do.DeliverEnd, stage.all)[0].text


def test_each_answer_gives_the_scheduler_its_time_anew() -> None:
    stage = Stage(jobs=1, policy=PATIENT)
    stage.submit("w")
    for _ in range(10):
        stage.wait(90)
        stage.tell(BUSY)
        stage.polled(w=NativeState.PENDING)
    assert not stage.d.ended


def test_a_pool_with_live_workers_goes_on_while_the_scheduler_does_not_answer() -> None:
    stage = Stage(Limits(2, 1), jobs=9, policy=PATIENT)
    stage.submit("w", "v")
    stage.hello("w")
    for _ in range(50):
        stage.wait(10)
        stage.tell(BUSY)
        stage.beat("w", held(0))
    assert not stage.d.ended and stage.d.workers["w"].state is WorkerState.UP
    assert not of(do.DeliverEnd, stage.all)


def test_the_time_of_a_live_worker_is_not_counted_against_the_next_one() -> None:
    stage = Stage(jobs=9, policy=PATIENT)
    stage.submit("w")
    stage.wait(90)
    stage.hello("w")
    stage.wait(500)
    stage.polled(w=NativeState.DONE)
    stage.submit("v")
    assert not stage.d.ended
    stage.wait(90)
    assert not stage.d.ended


def test_a_worker_that_came_and_left_gives_the_next_one_its_time() -> None:
    stage = Stage(jobs=1, policy=PATIENT)
    stage.submit("w")
    stage.wait(95)
    stage.hello("w")
    stage.said("w", m.Bye("", m.Departure.OUT_OF_TIME))
    stage.submit("v")
    stage.wait(90)
    assert not stage.d.ended
    stage.wait(20)
    assert stage.d.ended


def test_workers_that_no_job_waits_for_need_no_answer() -> None:
    stage = Stage(Limits(2, 1), jobs=2, policy=PATIENT)
    stage.submit("w", "v")
    stage.hello("w")
    stage.tell(ev.CancelRequested((Span(1, 1),)))
    stage.said("w", m.Credit(0))
    stage.wait(300)
    assert stage.d.pools[0].coming and not stage.d.pools[0].up and not stage.d.ended


def test_workers_that_nothing_waits_for_stay_in_the_scheduler_s_queue() -> None:
    stage = Stage(Limits(2, 1), jobs=2, policy=PATIENT)
    stage.start("w")
    stage.tell(ev.JobsAdded(1, JobSpec("f", "c")))
    request = of(do.SubmitWorkers, stage.wait(20))[-1]
    stage.tell(ev.WorkersSubmitted(request.request, ("v",)))
    stage.result("w", 0)
    stage.result("w", 1)
    assert stage.d.jobs[2] is JobState.LEASED
    stage.said("w", m.Credit(0))
    effects = stage.wait(300)
    assert stage.d.pools[0].coming and not of(do.CancelWorkers, effects)


def test_the_time_of_workers_that_were_not_needed_is_not_counted_against_the_next_one() -> None:
    stage = Stage(Limits(2, 1), jobs=2, policy=PATIENT)
    stage.start("w")
    stage.tell(ev.JobsAdded(1, JobSpec("f", "c")))
    request = of(do.SubmitWorkers, stage.wait(20))[-1]
    stage.tell(ev.WorkersSubmitted(request.request, ("v",)))
    stage.result("w", 0)
    stage.result("w", 1)
    stage.said("w", m.Credit(0))
    stage.wait(50)
    stage.tell(ev.InputEnded())
    assert do.CancelWorkers(("v",)) in stage.new
    stage.said("w", m.Bye("it broke"))
    stage.submit("u")
    stage.wait(90)
    assert not stage.d.ended
    stage.wait(20)
    assert stage.d.ended


def test_where_failures_do_not_stop_the_run_the_other_pools_go_on() -> None:
    policy = Policy(outage_deadline_s=100, silent_after_s=1000, stop_on_failure=False)
    stage = Stage(Limits(1, 1), Limits(1, 1), jobs=1, policy=policy)
    stage.tell(ev.JobsAdded(1, JobSpec("f", "c", pool=1)))
    stage.tell(ev.InputEnded())
    stage.wait(1)
    for request in of(do.SubmitWorkers, stage.all):
        stage.tell(ev.WorkersSubmitted(request.request, (f"w{request.pool}",)))
    stage.hello("w1", pool=1)
    stage.wait(150)
    assert [end.span.first for end in of(do.DeliverEnd, stage.all)] == [0]
    assert do.CancelWorkers(("w0",)) in stage.all and not stage.d.ended
    stage.result("w1", 1)
    assert stage.d.ended
