"""The rules about workers, each by its own example."""

from __future__ import annotations

import pytest

from gridmap.core import effects as do
from gridmap.core import events as ev
from gridmap.core import messages as m
from gridmap.core.events import NativeState
from gridmap.core.policy import Limits, Policy
from gridmap.core.spec import JobSpec, Span
from gridmap.core.states import JobState, WorkerState
from gridmap.errors import Cause
from tests.core.stage import Stage, held, of

J = JobState
W = WorkerState


def test_gone_needs_the_scheduler_s_word() -> None:
    stage = Stage(jobs=1)
    stage.start("w")
    stage.polled()
    stage.polled(w=NativeState.UNKNOWN)
    assert stage.d.workers["w"].state is W.UP
    stage.polled(w=NativeState.DONE)
    assert stage.d.workers["w"].state is W.GONE


def test_what_is_lost_is_said() -> None:
    stage = Stage(Limits(2, 1), jobs=40, policy=Policy(silent_after_s=90))
    stage.submit("w", "v")
    stage.hello("w")
    stage.hello("v")
    stage.polled(w=NativeState.RUNNING, v=NativeState.DONE)
    texts = [note.text for note in of(do.Note, stage.new)]
    assert texts[0] == "worker v on node7 is lost: the scheduler says done"
    assert any("that worker v on node7 had will run anew, uncharged" in text for text in texts)
    notes = of(do.Note, stage.wait(182))
    assert "worker w on node7 was silent for 180 s: it is lost" in [note.text for note in notes]
    assert {note.level for note in notes if "lost" in note.text} == {"warning"}


def test_a_worker_that_leaves_in_peace_is_not_said_to_be_lost() -> None:
    stage = Stage(jobs=1)
    stage.start("w")
    stage.said("w", m.Credit(0))
    stage.polled(w=NativeState.DONE)
    assert not any("is lost" in note.text for note in of(do.Note, stage.all))


def test_a_silent_worker_is_suspect_then_lost_and_speaks_again_in_between() -> None:
    stage = Stage(jobs=1, policy=Policy(silent_after_s=90))
    stage.start("w")
    stage.wait(91)
    assert stage.d.workers["w"].state is W.SUSPECT
    stage.beat("w", held(0))
    assert stage.d.workers["w"].state is W.UP
    effects = stage.wait(182)
    assert stage.d.workers["w"].state is W.LOST
    assert of(do.CancelWorkers, effects) == [do.CancelWorkers(("w",))]
    assert any(f"job 0 ({Cause.SILENT})" in note.text for note in of(do.Note, effects))
    assert of(do.SubmitWorkers, effects)
    stage.hello("w")
    assert stage.d.workers["w"].state is W.UP


def test_a_worker_that_started_and_stays_silent_is_diagnosed_a_few_and_the_pool_gives_up() -> None:
    stage = Stage(jobs=1, policy=Policy(startup_failures=2, startup_deadline_s=60))
    stage.submit("w")
    for worker, following in (("w", "v"), ("v", "u")):
        stage.polled(**{worker: NativeState.RUNNING})
        assert not of(do.DiagnoseWorker, stage.wait(59))
        effects = stage.wait(2)
        assert of(do.DiagnoseWorker, effects) == [do.DiagnoseWorker(worker)]
        assert do.CancelWorkers((worker,)) in effects
        stage.tell(ev.WorkersSubmitted(of(do.SubmitWorkers, effects)[0].request, (following,)))
        assert not stage.d.ended
        stage.tell(ev.WorkerDiagnosed(worker, "no such file"))
    end = of(do.DeliverEnd, stage.new)[0]
    assert (end.cause, end.state) == (Cause.NEVER_STARTED, J.FAILED) and "no such file" in end.text


def test_what_will_never_start_ends_the_run_at_once_unless_others_work() -> None:
    never = ev.NativeStatus(
        NativeState.FAILED, "will never start: too much", cause=Cause.NEVER_STARTED
    )
    stage = Stage(jobs=1)
    stage.submit("w")
    stage.tell(ev.WorkersPolled({"w": never}))
    (end,) = of(do.DeliverEnd, stage.new)
    assert (end.cause, end.state) == (Cause.NEVER_STARTED, J.FAILED)
    assert end.text.startswith("worker w: will never start: too much; ask for")
    assert stage.d.ended and not of(do.DiagnoseWorker, stage.new)

    stage = Stage(Limits(2, 1), jobs=2)
    stage.submit("v", "w")
    stage.hello("v")
    stage.tell(ev.WorkersPolled({"w": never}))
    assert not stage.d.ended and of(do.DiagnoseWorker, stage.new)


def test_a_stranger_is_told_what_our_workers_are_called() -> None:
    stage = Stage(jobs=1)
    stage.submit("647_0")
    stage.hello("647")
    (refusal,) = stage.sent(m.Refuse)
    assert refusal.reason == (
        "not a worker of this run, whose workers have names like 647_0: it calls itself 647"
    )


def test_a_worker_back_in_the_queue_does_not_hang() -> None:
    stage = Stage(jobs=1)
    stage.submit("w")
    stage.polled(w=NativeState.RUNNING)
    stage.wait(30)
    stage.polled(w=NativeState.PENDING)
    stage.polled(w=NativeState.RUNNING)
    assert not of(do.DiagnoseWorker, stage.wait(59))
    assert of(do.DiagnoseWorker, stage.wait(2))


def test_waiting_in_the_queue_is_said_once_a_change() -> None:
    stage = Stage(Limits(2, 1), jobs=2)
    stage.submit("w", "v")
    notes = [n.text for n in of(do.Note, stage.wait(100))]
    assert notes == ["0 workers up, 2 pending"]
    stage.tell(ev.WorkersPolled({"w": ev.NativeStatus(NativeState.PENDING, "queue is full")}))
    notes = [n.text for n in of(do.Note, stage.wait(100))]
    assert notes == ["0 workers up, 2 pending (queue is full)"]


def test_what_somebody_deletes_stays_deleted() -> None:
    stage = Stage(Limits(3, 1), jobs=3)
    stage.start("w", "v", "u", capacity=1)
    assert not of(do.SubmitWorkers, stage.polled(w=NativeState.DELETED) + stage.wait(10))
    stage.result("v", stage.assigned_to("v"))
    stage.said("v", m.Bye("", m.Departure.OUT_OF_TIME))
    request = of(do.SubmitWorkers, stage.new)[0]
    assert request.count == 1, "that one is replaced"
    stage.tell(ev.WorkersSubmitted(request.request, ("t",)))
    stage.polled(t=NativeState.DELETED)
    assert not stage.d.ended
    stage.tell(ev.WorkersPolled({"u": ev.NativeStatus(NativeState.DELETED, "deleted by ann")}))
    stage.wait(1)
    end = of(do.DeliverEnd, stage.all)[0]
    assert end.cause is Cause.CANCELED and end.text.endswith("u: deleted by ann")
    assert stage.d.ended and not of(do.SubmitWorkers, stage.wait(100))


def test_a_deletion_that_the_worker_survived_to_say_goodbye_counts_too() -> None:
    stage = Stage(jobs=1, policy=Policy(num_resubmits=0))
    stage.start("w")
    stage.said("w", m.Bye("", m.Departure.WARNED))
    effects = stage.wait(1.5)
    assert ("w" in of(do.PollWorkers, effects)[0].workers) and not of(do.SubmitWorkers, effects)
    stage.polled(w=NativeState.DELETED)
    assert stage.d.pools[0].most == 0
    assert not of(do.SubmitWorkers, stage.wait(10)) and stage.d.ended


@pytest.mark.parametrize("theirs", [{"gridmap": "0.9"}, {"python": "2.7"}, {"protocol": 99}])
def test_a_version_mismatch_is_refused_at_once_with_both_versions(theirs: dict[str, str]) -> None:
    stage = Stage(jobs=1, policy=Policy(gridmap="1", python="3"))
    stage.submit("w")
    stage.hello("w", **theirs)
    text = stage.sent(m.Refuse)[0].reason
    (key, value) = next(iter(theirs.items()))
    assert str(value) in text and "node7" in text
    assert {"gridmap": "1", "python": "3", "protocol": str(m.PROTOCOL)}[key] in text
    assert of(do.DeliverEnd, stage.new)[0].cause is Cause.REFUSED


def test_the_hello_of_a_stranger_is_refused() -> None:
    stage = Stage(jobs=1)
    stage.start("w")
    stage.hello("stranger")
    assert stage.sent(m.Refuse) and "stranger" not in stage.d.workers
    stage.hello("stranger", pool=7)
    assert stage.sent(m.Refuse)


def test_a_hello_may_come_before_the_scheduler_s_answer() -> None:
    stage = Stage(jobs=1)
    request = of(do.SubmitWorkers, stage.wait(1))[0].request
    stage.hello("w")
    assert stage.sent(m.Welcome)
    stage.tell(ev.WorkersSubmitted(request, ("w",)))
    assert stage.d.pools[0].up == 1 and stage.d.pools[0].coming == 0


@pytest.mark.parametrize("nonsense", [{"children": 0}, {"capacity": -1}, {"pool": 1}])
def test_a_hello_that_makes_no_sense_is_refused(nonsense: dict[str, int]) -> None:
    stage = Stage(Limits(1, 1), Limits(1, 1), jobs=1)
    stage.submit("w")
    stage.hello("w", **nonsense)
    assert stage.sent(m.Refuse) and stage.d.workers["w"].state is W.GONE


def test_a_worker_cannot_claim_more_than_its_pool_has() -> None:
    stage = Stage(jobs=1000)
    stage.start("w", children=10**9, capacity=10**9)
    stage.said("w", m.Credit(10**9))
    assert len(stage.d.workers["w"].leases) <= 8 and stage.d.workers["w"].children == 1


def test_a_repeated_hello_is_welcomed_again_and_loses_nothing() -> None:
    stage = Stage(jobs=1)
    stage.start("w")
    stage.hello("w")
    assert stage.sent(m.Welcome) and stage.state(0) is J.LEASED and stage.assigned() == []


def test_a_new_incarnation_takes_over_and_an_old_one_is_not_heard() -> None:
    stage = Stage(jobs=1)
    stage.start("w")
    stage.hello("w", "j")
    assert stage.sent(m.Welcome) and stage.state(0) is J.REQUEUED
    assert stage.hello("w", "i") == []
    assert stage.d.workers["w"].incarnation == "j"
    stage.said("w", m.Bye("", m.Departure.DRAINED), "i")
    assert stage.d.workers["w"].state is W.UP


def test_a_worker_that_is_started_anew_for_ever_is_thrown_out() -> None:
    stage = Stage(jobs=1, policy=Policy(num_resubmits=1, stop_on_failure=False))
    stage.start("w")
    stage.hello("w", "j")
    stage.hello("w", "k")
    assert stage.sent(m.Refuse) and do.CancelWorkers(("w",)) in stage.new
    assert stage.d.workers["w"].state is W.GONE


def test_a_transient_failure_to_submit_is_tried_again_until_the_deadline() -> None:
    stage = Stage(jobs=1, policy=Policy(submit_deadline_s=100))
    tries = 0
    effects = stage.wait(1)
    while requests := of(do.SubmitWorkers, effects):
        tries += 1
        stage.tell(ev.SubmissionFailed(requests[0].request, "busy", True))
        effects = [] if stage.d.ended else stage.wait(31)
    end = of(do.DeliverEnd, stage.new)[0]
    assert tries > 2 and end.refused and "busy" in end.text and stage.now >= 100


def test_a_refused_submission_ends_the_pool_at_once_unless_workers_are_there() -> None:
    stage = Stage(jobs=2)
    request = of(do.SubmitWorkers, stage.wait(1))[0].request
    stage.tell(ev.SubmissionFailed(request, "no such queue", False))
    assert of(do.DeliverEnd, stage.new)[0].text == "no such queue" and stage.d.ended

    stage = Stage(Limits(2, 1), jobs=9)
    stage.start("w")
    request = of(do.SubmitWorkers, stage.wait(20))[-1].request
    stage.tell(ev.SubmissionFailed(request, "over quota", False))
    assert not stage.d.ended and not of(do.DeliverEnd, stage.new)


def test_a_submission_without_an_answer_has_a_deadline() -> None:
    stage = Stage(jobs=1, policy=Policy(submit_deadline_s=100))
    request = of(do.SubmitWorkers, stage.wait(1))[0].request
    stage.wait(101)
    assert of(do.DeliverEnd, stage.all)[0].cause is Cause.NEVER_STARTED
    stage.tell(ev.WorkersSubmitted(request, ("w",)))
    assert stage.new == [do.CancelWorkers(("w",))]


def test_a_submission_that_was_answered_has_no_deadline_any_more() -> None:
    stage = Stage(jobs=1, policy=Policy(submit_deadline_s=100))
    stage.start("w")
    for _ in range(50):
        stage.wait(10)
        stage.beat("w", held(0))
    assert not of(do.Note, stage.all) and not stage.d.ended


def test_each_answer_gives_the_other_submissions_their_time_anew() -> None:
    stage = Stage(Limits(9, 1), jobs=1, policy=Policy(submit_deadline_s=100))
    stage.wait(1)
    stage.tell(ev.JobsAdded(1, JobSpec("f", "c")))
    stage.wait(89)
    assert [e.request for e in of(do.SubmitWorkers, stage.all)] == [0, 1]
    stage.tell(ev.WorkersSubmitted(0, ("w",)))
    stage.hello("w")
    for _ in range(9):
        stage.beat("w", held(0))
        stage.wait(10)
    assert not of(do.Note, stage.all)
    stage.wait(11)
    assert "did not answer a submission" in of(do.Note, stage.all)[0].text


def test_no_more_workers_than_max_workers_nor_than_jobs() -> None:
    for jobs, most, children, expected in ((10, 3, 1, 3), (2, 9, 1, 2), (10, 9, 4, 3)):
        stage = Stage(Limits(most, children), jobs=jobs)
        assert [e.count for e in of(do.SubmitWorkers, stage.wait(1))] == [expected]
        assert not of(do.SubmitWorkers, stage.wait(60))


def test_each_kind_of_resources_has_its_own_pool() -> None:
    stage = Stage(Limits(1, 1), Limits(1, 1), jobs=1)
    stage.tell(ev.JobsAdded(1, JobSpec("f", "c", pool=1)))
    requests = of(do.SubmitWorkers, stage.wait(1))
    assert sorted(e.pool for e in requests) == [0, 1]
    for e in requests:
        stage.tell(ev.WorkersSubmitted(e.request, (f"w{e.pool}",)))
    stage.hello("w1", pool=1)
    assert stage.assigned() == [("w1", Span(1, 1), 0)]


def test_pending_workers_are_deleted_when_nothing_waits_any_more() -> None:
    stage = Stage(Limits(3, 1), jobs=3)
    stage.submit("w", "v", "u")
    stage.tell(ev.InputEnded())
    stage.hello("w")
    for job in range(2):
        stage.result("w", job)
    stage.hello("v")  # and finds nothing to do
    assert of(do.CancelWorkers, stage.all) == [do.CancelWorkers(("u",))]
    stage.hello("u")
    assert stage.sent(m.Refuse)


def test_idle_workers_are_drained_after_a_while_once_the_input_has_ended() -> None:
    stage = Stage(Limits(2, 1), jobs=2, policy=Policy(idle_leave_s=5))
    stage.start("w", "v")
    stage.result("v", 1)
    assert stage.d.workers["v"].idle_since > 1e9  # more input may come
    stage.tell(ev.InputEnded())
    stage.beat("v")
    assert not [e for e in of(do.SendMessage, stage.wait(4)) if e.message == m.Drain()]
    assert of(do.SendMessage, stage.wait(2)) == [do.SendMessage("v", m.Drain())]
    stage.beat("v")
    assert stage.sent(m.Drain)  # the word may have been lost
    stage.said("v", m.Bye("", m.Departure.DRAINED))
    assert stage.d.workers["v"].state is W.GONE and not of(do.Note, stage.new)


def test_a_worker_without_credit_is_leaving_and_another_comes_in_its_place() -> None:
    stage = Stage(jobs=3)
    stage.start("w")
    stage.said("w", m.Credit(0))
    stage.result("w", 0)
    assert stage.assigned() == [] and stage.d.workers["w"].state is W.DRAINING
    assert not stage.sent_requests()[1:], "it may be about to say that somebody deleted it"
    stage.wait(1.1)
    assert stage.sent_requests() == [0, 1]


def test_who_left_warned_is_replaced_once_the_scheduler_has_said_how_it_ended() -> None:
    stage = Stage(jobs=3)
    stage.start("w")
    stage.said("w", m.Bye("warned by signal 15", m.Departure.WARNED))
    stage.wait(5)
    stage.polled(w=ev.NativeState.RUNNING)  # it takes its time to end
    assert stage.sent_requests() == [0]
    stage.polled(w=ev.NativeState.DONE)
    stage.wait(0.1)
    assert stage.sent_requests() == [0, 1]


def test_who_left_warned_is_replaced_whatever_the_scheduler_does_not_say() -> None:
    stage = Stage(jobs=3)
    stage.start("w")
    stage.said("w", m.Bye("warned by signal 15", m.Departure.WARNED))
    stage.wait(9)
    assert stage.sent_requests() == [0]
    stage.wait(2)
    assert stage.sent_requests() == [0, 1]


def test_workers_that_leave_one_after_the_other_do_not_hold_up_the_next_for_ever() -> None:
    names = [f"w{number}" for number in range(30)]
    stage = Stage(Limits(30, 1), jobs=100)
    stage.start(*names)
    for name in names[:12]:
        stage.said(name, m.Credit(0))
        stage.said(name, m.Bye("warned by signal 10", m.Departure.WARNED))
        stage.wait(1)
        if len(stage.sent_requests()) > 1:
            break
    assert len(stage.sent_requests()) > 1, "others are asked for while workers still leave"


def test_workers_that_come_and_run_nothing_end_the_pool() -> None:
    stage = Stage(jobs=1, policy=Policy(startup_failures=2, num_resubmits=99))
    for worker in ("w", "v"):
        stage.submit(worker)
        stage.hello(worker)
        stage.said(worker, m.Bye("processes for jobs die while they start"))
        if worker == "w":
            assert not stage.d.ended
    stage.wait(1)
    assert stage.d.ended


def test_a_silent_draining_worker_is_lost() -> None:
    stage = Stage(jobs=3)
    stage.start("w")
    stage.said("w", m.Credit(0))
    stage.wait(91)
    assert stage.d.workers["w"].state is W.LOST


def test_a_worker_that_is_out_of_time_is_replaced_at_once_and_blamed_for_nothing() -> None:
    stage = Stage(Limits(1, 1, walltime_s=3600.0), jobs=20)
    for number in range(5):
        stage.start(f"w{number}")
        assert m.Welcome("run", 10.0, 300.0, 3600.0) in [
            e.message for e in of(do.SendMessage, stage.new)
        ]
        effects = stage.said(f"w{number}", m.Credit(0))
        effects += stage.said(f"w{number}", m.Bye("", m.Departure.OUT_OF_TIME)) + stage.wait(1.0)
        assert of(do.SubmitWorkers, effects)
    assert not stage.d.ended
    assert not of(do.DeliverFailure, stage.all) and not of(do.DeliverEnd, stage.all)


def test_a_suspended_worker_is_waited_for_however_long_and_counted_anew_afterwards() -> None:
    stage = Stage(jobs=2, policy=Policy(silent_after_s=90))
    stage.start("w")
    for _ in range(100):
        stage.polled(w=NativeState.SUSPENDED)
        stage.wait(1000)
        stage.polled(w=NativeState.UNKNOWN)
    assert stage.d.workers["w"].state is W.SUSPECT and stage.state(0) is J.LEASED
    assert [note.text for note in of(do.Note, stage.all)] == [
        "worker w is suspended by the scheduler; waiting"
    ]
    stage.polled(w=NativeState.RUNNING)
    stage.wait(89)
    assert stage.d.workers["w"].state is W.SUSPECT
    stage.wait(2)
    assert stage.d.workers["w"].state is W.LOST


def test_a_worker_that_was_suspended_goes_on_when_it_speaks() -> None:
    stage = Stage(jobs=9)
    stage.start("w")
    stage.polled(w=NativeState.SUSPENDED)
    stage.wait(1000)
    stage.result("w", 0)
    assert stage.d.workers["w"].state is W.UP and [w for w, _, _ in stage.assigned()] == ["w"]
    stage.polled(w=NativeState.SUSPENDED)  # it works all the same
    assert stage.d.workers["w"].state is W.UP
    stage.polled(w=NativeState.RUNNING)
    stage.wait(181)
    assert stage.d.workers["w"].state is W.LOST


def test_a_suspended_worker_gets_nothing_and_a_draining_one_is_waited_for_too() -> None:
    stage = Stage(Limits(2, 1), jobs=2)
    stage.start("w", "v")
    stage.polled(w=NativeState.SUSPENDED)
    stage.result("w", 0)
    stage.polled(w=NativeState.RUNNING)
    stage.polled(w=NativeState.SUSPENDED)
    stage.tell(ev.JobsAdded(9, JobSpec("f", "c")))
    assert stage.assigned() == []
    stage.result("v", 1)
    assert {worker for worker, _, _ in stage.assigned()} == {"v"}
    stage.said("v", m.Credit(0))
    stage.polled(v=NativeState.SUSPENDED)
    stage.wait(1000)
    assert stage.d.workers["v"].state is W.DRAINING


def test_a_suspended_worker_that_is_deleted_is_gone() -> None:
    stage = Stage(jobs=1)
    stage.start("w")
    stage.polled(w=NativeState.SUSPENDED)
    stage.polled(w=NativeState.DELETED)
    assert stage.d.workers["w"].state is W.GONE
    assert of(do.DeliverEnd, stage.all)[0].cause is Cause.CANCELED


def test_a_worker_that_is_suspended_before_its_first_word_starts_late() -> None:
    stage = Stage(jobs=1, policy=Policy(startup_deadline_s=60))
    stage.submit("w")
    stage.polled(w=NativeState.RUNNING)
    stage.polled(w=NativeState.SUSPENDED)
    for _ in range(10):
        stage.polled(w=NativeState.SUSPENDED)
        assert not of(do.DiagnoseWorker, stage.wait(100))
    stage.polled(w=NativeState.RUNNING)
    assert not of(do.DiagnoseWorker, stage.wait(59))
    assert of(do.DiagnoseWorker, stage.wait(2))


def test_what_a_suspended_worker_does_not_do_is_no_idleness() -> None:
    stage = Stage(jobs=1, policy=Policy(max_idle_heartbeats=1))
    stage.start("w")
    stage.polled(w=NativeState.SUSPENDED)
    for _ in range(3):
        stage.beat("w", held(0, cpu=0.0))
        assert not stage.sent(m.Cancel)
    stage.polled(w=NativeState.RUNNING)
    stage.beat("w", held(0, cpu=0.0))  # tells of the time before, too
    assert not stage.sent(m.Cancel)
    stage.beat("w", held(0, cpu=0.0))
    assert stage.sent(m.Cancel)


def test_a_worker_that_was_suspended_for_a_moment_is_looked_at_again_in_time() -> None:
    stage = Stage(jobs=1, policy=Policy(silent_after_s=90))
    stage.start("w")
    stage.wait(50)
    stage.polled(w=NativeState.SUSPENDED)
    stage.wait(10)
    stage.polled(w=NativeState.RUNNING)  # its silence counts from here
    stage.wait(89)
    assert stage.d.workers["w"].state is W.SUSPECT
    stage.wait(2)
    assert stage.d.workers["w"].state is W.LOST


def test_pools_share_the_workers_of_a_run() -> None:
    limits = [Limits(9, 1)] * 2
    stage = Stage(*limits, policy=Policy(max_workers=4, stop_on_failure=False))
    for pool in (0, 1):
        stage.tell(ev.JobsAdded(20, JobSpec("f", "c", pool)))
    stage.tell(ev.InputEnded())
    stage.wait(1)
    assert [(e.pool, e.count) for e in of(do.SubmitWorkers, stage.all)] == [(0, 2), (1, 2)]


def test_a_pool_without_a_worker_gets_one_when_another_pools_worker_has_left() -> None:
    limits = [Limits(9, 1)] * 2
    stage = Stage(*limits, policy=Policy(max_workers=1, chunk_target_s=10))
    for pool in (0, 1):
        stage.tell(ev.JobsAdded(1, JobSpec("f", "c", pool)))
    stage.tell(ev.InputEnded())
    stage.start("1.1")
    assert [e.pool for e in of(do.SubmitWorkers, stage.all)] == [0]
    stage.result("1.1", 0)
    stage.wait(stage.d._policy.idle_leave_s + 1)
    assert of(do.SubmitWorkers, stage.all)[1:] == []  # it has been asked to leave, and is there
    stage.said("1.1", m.Bye("drained", int(m.Departure.DRAINED)))
    stage.wait(1)
    assert [e.pool for e in of(do.SubmitWorkers, stage.all)] == [0, 1]


def test_a_worker_that_came_before_the_schedulers_answer_and_is_done_stays_for_more() -> None:
    """Its input comes in pieces: nothing is left to be done just when the answer comes."""
    stage = Stage(Limits(2, 1), jobs=2)
    request = of(do.SubmitWorkers, stage.wait(1))[0]
    stage.hello("w", capacity=2)
    stage.result("w", 0)
    stage.result("w", 1)
    effects = stage.tell(ev.WorkersSubmitted(request.request, ("w", "v")))
    assert [e.workers for e in of(do.CancelWorkers, effects)] == [("v",)]
    stage.tell(ev.JobsAdded(1, JobSpec("f", "c")))
    assert stage.assigned() == [("w", Span(2, 1), 0)]


def test_time_in_which_the_client_was_stopped_counts_against_no_worker() -> None:
    stage = Stage(Limits(3, 1), jobs=3)
    stage.submit("w", "v", "u")
    stage.hello("w")
    stage.hello("v")
    stage.said("v", m.Credit(0))
    stage.polled(u=NativeState.RUNNING)
    stage.now += 1000  # no Tick in all that time
    effects = stage.tell(ev.Tick())
    states = [stage.d.workers[w].state for w in "wvu"]
    assert states == [W.UP, W.DRAINING, W.PENDING] and not of(do.CancelWorkers, effects)
    stage.wait(200)
    states = [stage.d.workers[w].state for w in "wvu"]
    assert states == [W.LOST, W.LOST, W.LOST], "now they had their time"


# --- workers that nobody asked for ----------------------------------------------------------------


def test_no_more_come_before_the_answer_than_were_asked_for() -> None:
    stage = Stage(Limits(2, 1), jobs=10)
    stage.wait(1)
    stage.hello("1.1")
    stage.hello("7.7")
    assert stage.hello("8.8") == [] and set(stage.d.workers) == {"1.1", "7.7"}
    request = of(do.SubmitWorkers, stage.all)[-1]
    stage.tell(ev.WorkersSubmitted(request.request, ("1.1", "1.2")))
    assert of(do.SendMessage, stage.hello("1.2"))[0].message == m.Welcome("run", 10.0, 300.0)
    assert isinstance(of(do.SendMessage, stage.hello("8.8"))[0].message, m.Refuse)


def test_the_scheduler_is_not_asked_to_delete_what_it_never_named() -> None:
    stage = Stage(Limits(2, 1), jobs=10)
    stage.wait(1)
    stage.hello("7.7")  # the name of another job, perhaps
    request = of(do.SubmitWorkers, stage.all)[-1]
    stage.tell(ev.WorkersSubmitted(request.request, ("1.1", "1.2")))
    stage.hello("1.1")
    stage.wait(1000)  # all fall silent
    canceled = [each for effect in of(do.CancelWorkers, stage.all) for each in effect.workers]
    assert "1.1" in canceled and "7.7" not in canceled
    assert stage.d.workers["7.7"].state is WorkerState.LOST
