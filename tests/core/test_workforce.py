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
from tests.core.bench import Bench, held, of

J = JobState
W = WorkerState


def test_gone_needs_the_scheduler_s_word() -> None:
    bench = Bench(jobs=1)
    bench.start("w")
    bench.polled()
    bench.polled(w=NativeState.UNKNOWN)
    assert bench.d.workers["w"].state is W.UP
    bench.polled(w=NativeState.DONE)
    assert bench.d.workers["w"].state is W.GONE


def test_a_silent_worker_is_suspect_then_lost_and_speaks_again_in_between() -> None:
    bench = Bench(jobs=1, policy=Policy(silent_after_s=90))
    bench.start("w")
    bench.wait(91)
    assert bench.d.workers["w"].state is W.SUSPECT
    bench.beat("w", held(0))
    assert bench.d.workers["w"].state is W.UP
    effects = bench.wait(182)
    assert bench.d.workers["w"].state is W.LOST
    assert of(do.CancelWorkers, effects) == [do.CancelWorkers(("w",))]
    assert any(f"job 0 ({Cause.SILENT})" in note.text for note in of(do.Note, effects))
    assert of(do.SubmitWorkers, effects)
    bench.hello("w")
    assert bench.d.workers["w"].state is W.UP


def test_a_worker_that_started_and_stays_silent_is_diagnosed_a_few_and_the_pool_gives_up() -> None:
    bench = Bench(jobs=1, policy=Policy(startup_failures=2, startup_deadline_s=60))
    bench.submit("w")
    for worker, following in (("w", "v"), ("v", "u")):
        bench.polled(**{worker: NativeState.RUNNING})
        assert not of(do.DiagnoseWorker, bench.wait(59))
        effects = bench.wait(2)
        assert of(do.DiagnoseWorker, effects) == [do.DiagnoseWorker(worker)]
        assert do.CancelWorkers((worker,)) in effects
        bench.tell(ev.WorkersSubmitted(of(do.SubmitWorkers, effects)[0].request, (following,)))
        assert not bench.d.ended
        bench.tell(ev.WorkerDiagnosed(worker, "no such file"))
    end = of(do.DeliverEnd, bench.new)[0]
    assert (end.cause, end.state) == (Cause.NEVER_STARTED, J.FAILED) and "no such file" in end.text


def test_a_worker_back_in_the_queue_does_not_hang() -> None:
    bench = Bench(jobs=1)
    bench.submit("w")
    bench.polled(w=NativeState.RUNNING)
    bench.wait(30)
    bench.polled(w=NativeState.PENDING)
    bench.polled(w=NativeState.RUNNING)
    assert not of(do.DiagnoseWorker, bench.wait(59))
    assert of(do.DiagnoseWorker, bench.wait(2))


def test_waiting_in_the_queue_is_said_once_a_change() -> None:
    bench = Bench(Limits(2, 1), jobs=2)
    bench.submit("w", "v")
    notes = [n.text for n in of(do.Note, bench.wait(100))]
    assert notes == ["0 workers up, 2 pending"]
    bench.tell(ev.WorkersPolled({"w": ev.NativeStatus(NativeState.PENDING, "queue is full")}))
    notes = [n.text for n in of(do.Note, bench.wait(100))]
    assert notes == ["0 workers up, 2 pending (queue is full)"]


def test_what_somebody_deletes_is_submitted_again_no_more_often_than_num_resubmits() -> None:
    bench = Bench(Limits(2, 1), jobs=2, policy=Policy(num_resubmits=1))
    bench.submit("w", "v")
    bench.polled(w=NativeState.DELETED)
    bench.submit("u")
    bench.polled(v=NativeState.DELETED)  # of the first wave
    assert bench.d.pools[0].deletions == 1
    bench.submit("t")
    bench.polled(t=NativeState.DELETED, u=NativeState.DELETED)
    bench.wait(1)
    assert not bench.d.pools[0].requested and bench.d.ended
    assert of(do.DeliverEnd, bench.all)[0].cause is Cause.CANCELED


def test_a_deletion_that_the_worker_survived_to_say_goodbye_counts_too() -> None:
    bench = Bench(jobs=1, policy=Policy(num_resubmits=0))
    bench.start("w")
    bench.said("w", m.Bye("warned by signal 15"))
    effects = bench.wait(1.5)
    assert ("w" in of(do.PollWorkers, effects)[0].workers) and not of(do.SubmitWorkers, effects)
    bench.polled(w=NativeState.DELETED)
    assert bench.d.pools[0].deletions == 1
    assert not of(do.SubmitWorkers, bench.wait(10)) and bench.d.ended


@pytest.mark.parametrize("theirs", [{"gridmap": "0.9"}, {"python": "2.7"}, {"protocol": 99}])
def test_a_version_mismatch_is_refused_at_once_with_both_versions(theirs: dict[str, str]) -> None:
    bench = Bench(jobs=1, policy=Policy(gridmap="1", python="3"))
    bench.submit("w")
    bench.hello("w", **theirs)
    text = bench.sent(m.Refuse)[0].reason
    (key, value) = next(iter(theirs.items()))
    assert str(value) in text and "node7" in text
    assert {"gridmap": "1", "python": "3", "protocol": str(m.PROTOCOL)}[key] in text
    assert of(do.DeliverEnd, bench.new)[0].cause is Cause.REFUSED


def test_the_hello_of_a_stranger_is_refused() -> None:
    bench = Bench(jobs=1)
    bench.start("w")
    bench.hello("stranger")
    assert bench.sent(m.Refuse) and "stranger" not in bench.d.workers
    bench.hello("stranger", pool=7)
    assert bench.sent(m.Refuse)


def test_a_hello_may_come_before_the_scheduler_s_answer() -> None:
    bench = Bench(jobs=1)
    request = of(do.SubmitWorkers, bench.wait(1))[0].request
    bench.hello("w")
    assert bench.sent(m.Welcome)
    bench.tell(ev.WorkersSubmitted(request, ("w",)))
    assert bench.d.pools[0].up == 1 and bench.d.pools[0].coming == 0


@pytest.mark.parametrize("nonsense", [{"children": 0}, {"capacity": -1}, {"pool": 1}])
def test_a_hello_that_makes_no_sense_is_refused(nonsense: dict[str, int]) -> None:
    bench = Bench(Limits(1, 1), Limits(1, 1), jobs=1)
    bench.submit("w")
    bench.hello("w", **nonsense)
    assert bench.sent(m.Refuse) and bench.d.workers["w"].state is W.GONE


def test_a_worker_cannot_claim_more_than_its_pool_has() -> None:
    bench = Bench(jobs=1000)
    bench.start("w", children=10**9, capacity=10**9)
    bench.said("w", m.Credit(10**9))
    assert len(bench.d.workers["w"].leases) <= 8 and bench.d.workers["w"].children == 1


def test_a_repeated_hello_is_welcomed_again_and_loses_nothing() -> None:
    bench = Bench(jobs=1)
    bench.start("w")
    bench.hello("w")
    assert bench.sent(m.Welcome) and bench.state(0) is J.LEASED and bench.assigned() == []


def test_a_new_incarnation_takes_over_and_an_old_one_is_not_heard() -> None:
    bench = Bench(jobs=1)
    bench.start("w")
    bench.hello("w", "j")
    assert bench.sent(m.Welcome) and bench.state(0) is J.REQUEUED
    assert bench.hello("w", "i") == []
    assert bench.d.workers["w"].incarnation == "j"
    bench.said("w", m.Bye("drained"), "i")
    assert bench.d.workers["w"].state is W.UP


def test_a_worker_that_is_started_anew_for_ever_is_thrown_out() -> None:
    bench = Bench(jobs=1, policy=Policy(num_resubmits=1, stop_on_failure=False))
    bench.start("w")
    bench.hello("w", "j")
    bench.hello("w", "k")
    assert bench.sent(m.Refuse) and do.CancelWorkers(("w",)) in bench.new
    assert bench.d.workers["w"].state is W.GONE


def test_a_transient_failure_to_submit_is_tried_again_until_the_deadline() -> None:
    bench = Bench(jobs=1, policy=Policy(submit_deadline_s=100))
    tries = 0
    effects = bench.wait(1)
    while requests := of(do.SubmitWorkers, effects):
        tries += 1
        bench.tell(ev.SubmissionFailed(requests[0].request, "busy", True))
        effects = [] if bench.d.ended else bench.wait(31)
    end = of(do.DeliverEnd, bench.new)[0]
    assert tries > 2 and end.refused and "busy" in end.text and bench.now >= 100


def test_a_refused_submission_ends_the_pool_at_once_unless_workers_are_there() -> None:
    bench = Bench(jobs=2)
    request = of(do.SubmitWorkers, bench.wait(1))[0].request
    bench.tell(ev.SubmissionFailed(request, "no such queue", False))
    assert of(do.DeliverEnd, bench.new)[0].text == "no such queue" and bench.d.ended

    bench = Bench(Limits(2, 1), jobs=9)
    bench.start("w")
    request = of(do.SubmitWorkers, bench.wait(20))[-1].request
    bench.tell(ev.SubmissionFailed(request, "over quota", False))
    assert not bench.d.ended and not of(do.DeliverEnd, bench.new)


def test_a_submission_without_an_answer_has_a_deadline() -> None:
    bench = Bench(jobs=1, policy=Policy(submit_deadline_s=100))
    request = of(do.SubmitWorkers, bench.wait(1))[0].request
    bench.wait(101)
    assert of(do.DeliverEnd, bench.all)[0].cause is Cause.NEVER_STARTED
    bench.tell(ev.WorkersSubmitted(request, ("w",)))
    assert bench.new == [do.CancelWorkers(("w",))]


def test_no_more_workers_than_max_workers_nor_than_jobs() -> None:
    for jobs, most, children, expected in ((10, 3, 1, 3), (2, 9, 1, 2), (10, 9, 4, 3)):
        bench = Bench(Limits(most, children), jobs=jobs)
        assert [e.count for e in of(do.SubmitWorkers, bench.wait(1))] == [expected]
        assert not of(do.SubmitWorkers, bench.wait(60))


def test_each_kind_of_resources_has_its_own_pool() -> None:
    bench = Bench(Limits(1, 1), Limits(1, 1), jobs=1)
    bench.tell(ev.JobsAdded(1, JobSpec("f", "c", pool=1)))
    requests = of(do.SubmitWorkers, bench.wait(1))
    assert sorted(e.pool for e in requests) == [0, 1]
    for e in requests:
        bench.tell(ev.WorkersSubmitted(e.request, (f"w{e.pool}",)))
    bench.hello("w1", pool=1)
    assert bench.assigned() == [("w1", Span(1, 1), 0)]


def test_pending_workers_are_deleted_when_nothing_waits_any_more() -> None:
    bench = Bench(Limits(3, 1), jobs=3)
    bench.submit("w", "v", "u")
    bench.tell(ev.InputEnded())
    bench.hello("w")
    for job in range(2):
        bench.result("w", job)
    bench.hello("v")  # and finds nothing to do
    assert of(do.CancelWorkers, bench.all) == [do.CancelWorkers(("u",))]
    bench.hello("u")
    assert bench.sent(m.Refuse)


def test_idle_workers_are_drained_after_a_while_once_the_input_has_ended() -> None:
    bench = Bench(Limits(2, 1), jobs=2, policy=Policy(idle_leave_s=5))
    bench.start("w", "v")
    bench.result("v", 1)
    assert bench.d.workers["v"].idle_since > 1e9  # more input may come
    bench.tell(ev.InputEnded())
    bench.beat("v")
    assert not [e for e in of(do.SendMessage, bench.wait(4)) if e.message == m.Drain()]
    assert of(do.SendMessage, bench.wait(2)) == [do.SendMessage("v", m.Drain())]
    bench.beat("v")
    assert bench.sent(m.Drain)  # the word may have been lost
    bench.said("v", m.Bye("drained"))
    assert bench.d.workers["v"].state is W.GONE and not of(do.Note, bench.new)


def test_a_worker_without_credit_is_leaving_and_another_comes_in_its_place() -> None:
    bench = Bench(jobs=3)
    bench.start("w")
    bench.said("w", m.Credit(0))
    bench.result("w", 0)
    assert bench.assigned() == [] and bench.d.workers["w"].state is W.DRAINING
    assert of(do.SubmitWorkers, bench.all)[-1].request == 1


def test_workers_that_come_and_run_nothing_end_the_pool() -> None:
    bench = Bench(jobs=1, policy=Policy(startup_failures=2, num_resubmits=99))
    for worker in ("w", "v"):
        bench.submit(worker)
        bench.hello(worker)
        bench.said(worker, m.Bye("processes for jobs die while they start"))
        if worker == "w":
            assert not bench.d.ended
    bench.wait(1)
    assert bench.d.ended


def test_a_silent_draining_worker_is_lost() -> None:
    bench = Bench(jobs=3)
    bench.start("w")
    bench.said("w", m.Credit(0))
    bench.wait(91)
    assert bench.d.workers["w"].state is W.LOST


def test_a_worker_that_is_out_of_time_is_replaced_at_once_and_blamed_for_nothing() -> None:
    bench = Bench(Limits(1, 1, walltime_s=3600.0), jobs=20)
    for number in range(5):
        bench.start(f"w{number}")
        assert m.Welcome("run", 10.0, 300.0, 3600.0) in [
            e.message for e in of(do.SendMessage, bench.new)
        ]
        effects = bench.said(f"w{number}", m.Credit(0))
        effects += bench.said(f"w{number}", m.Bye(m.OUT_OF_TIME)) + bench.wait(1.0)
        assert of(do.SubmitWorkers, effects)
    assert not bench.d.ended
    assert not of(do.DeliverFailure, bench.all) and not of(do.DeliverEnd, bench.all)
