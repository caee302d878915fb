"""The rules about jobs, each by its own example."""

from __future__ import annotations

import pytest

from gridmap.core import effects as do
from gridmap.core import events as ev
from gridmap.core import messages as m
from gridmap.core.messages import Outcome
from gridmap.core.policy import Limits, Policy
from gridmap.core.spec import JobSpec, Span
from gridmap.core.states import JobState, WorkerState
from gridmap.errors import Cause
from tests.core.bench import Bench, held, of

ONCE = JobSpec("f", "c", rerunnable=False)
GOING_ON = Policy(stop_on_failure=False)
J = JobState


def running(jobs: int = 1, policy: Policy | None = None, spec: JobSpec | None = None) -> Bench:
    bench = Bench(policy=policy, jobs=jobs, spec=spec or JobSpec("f", "c"))
    bench.start("w")
    return bench


def test_a_lease_absent_from_two_heartbeats_goes_back_uncharged() -> None:
    bench = running()
    bench.beat("w")
    assert bench.assigned() == [] and bench.state(0) is J.LEASED
    bench.beat("w")
    assert bench.assigned() == [("w", Span(0, 1), 1)]
    for attempt in range(1, 10):  # uncharged: this may go on for ever
        bench.beat("w")
        bench.beat("w")
        assert bench.assigned() == [("w", Span(0, 1), attempt + 1)]


@pytest.mark.parametrize("inventory", ["held", "unacknowledged"])
def test_a_lease_in_the_inventory_stays(inventory: str) -> None:
    bench = running()
    for _ in range(5):
        if inventory == "held":
            bench.beat("w", held(0, phase=0))
        else:
            bench.beat("w", kept=[m.Key(0, 1, 0)])
    assert bench.state(0) is J.LEASED and len(of(do.Assign, bench.all)) == 1


def test_absences_count_in_a_row_and_an_old_heartbeat_does_not_count() -> None:
    bench = running()
    bench.beat("w")
    for _ in range(5):  # the same one, come again
        bench.said("w", m.Heartbeat(bench.seq))
    assert bench.state(0) is J.LEASED
    bench.beat("w", held(0, phase=0))
    bench.beat("w")
    assert bench.state(0) is J.LEASED


def test_a_lease_unknown_here_is_stopped_there_when_told_of_twice() -> None:
    bench = running()
    bench.beat("w", held(0), held(0, attempt=5))
    assert bench.sent(m.Cancel) == []
    bench.beat("w", held(0), held(0, attempt=5))
    assert bench.sent(m.Cancel) == [m.Cancel([m.Key(0, 1, 5)])]


def test_every_result_is_acknowledged_again_when_the_ack_was_lost() -> None:
    bench = running(2)
    for expected in (1, 0):
        bench.result("w", 0)
        assert len(of(do.Deliver, bench.new)) == expected
        assert bench.sent(m.Ack) == [m.Ack([m.Key(0, 1, 0)])]


def test_first_value_wins_and_a_late_value_is_taken() -> None:
    bench = running()
    bench.beat("w")
    bench.beat("w")  # attempt 0 is void, attempt 1 is on its way
    bench.result("w", 0, attempt=0)
    assert of(do.Deliver, bench.new) == [do.Deliver(Span(0, 1), 0, 0, "w")]
    bench.result("w", 0, attempt=1)
    assert of(do.Deliver, bench.new) == []


def test_a_late_error_of_an_old_attempt_is_ignored() -> None:
    bench = running()
    bench.beat("w")
    bench.beat("w")
    bench.result("w", 0, Outcome.EXCEPTION, attempt=0)
    assert bench.state(0) is J.LEASED and not of(do.DeliverFailure, bench.new)
    bench.result("w", 0, Outcome.EXCEPTION, attempt=1)
    assert [e.cause for e in of(do.DeliverFailure, bench.new)] == [Cause.EXCEPTION]


def test_a_late_value_of_a_lost_worker_spares_the_job_that_waits() -> None:
    bench = running()
    bench.polled(w=ev.NativeState.FAILED)
    assert bench.state(0) is J.REQUEUED
    bench.result("w", 0)
    assert bench.state(0) is J.COMPLETED
    assert not of(do.Assign, bench.wait(10))


def test_a_job_that_is_not_rerunnable_never_runs_twice() -> None:
    for outcome in (Outcome.DIED, Outcome.STALLED, Outcome.WALLTIME, Outcome.CANCELED):
        bench = running(1, GOING_ON, ONCE)
        bench.result("w", 0, outcome)
        assert bench.state(0) is J.FAILED, outcome
    for gone in (m.Bye("drained"), m.Bye("warned by signal 15"), m.Bye("no word")):
        bench = running(1, GOING_ON, ONCE)
        bench.said("w", gone)
        assert bench.state(0) is J.FAILED, gone


def test_jobs_that_are_not_rerunnable_travel_alone() -> None:
    bench = running(100, spec=ONCE)
    for job in range(20):
        bench.result("w", job)
    assert {e.span.count for e in of(do.Assign, bench.all)} == {1}


def test_a_lease_given_back_unstarted_is_not_charged() -> None:
    bench = running()
    for attempt in range(2):
        bench.result("w", 0, Outcome.RETURNED, attempt=attempt)
        assert bench.assigned() == [("w", Span(0, 1), attempt + 1)]
    bench.result("w", 0, Outcome.DIED, attempt=2)
    assert "resubmission 1 of 3" in of(do.Note, bench.new)[0].text


def test_a_worker_that_only_gives_back_is_sent_away_in_the_end() -> None:
    bench = running()
    for attempt in range(3):
        bench.result("w", 0, Outcome.RETURNED, attempt=attempt)
    assert bench.sent(m.Drain) and bench.assigned() == []
    assert bench.d.workers["w"].state is WorkerState.DRAINING


def test_a_recalled_lease_given_back_is_nothing_against_a_worker() -> None:
    bench = running(2)
    for _ in range(3):
        lease = next(iter(bench.d.workers["w"].leases.values()))
        lease.recalled = True
        bench.result("w", lease.span.first, Outcome.RETURNED, attempt=lease.attempt)
    assert bench.d.workers["w"].state is WorkerState.UP


def test_a_dying_job_runs_again_alone_after_a_pause_and_then_fails() -> None:
    bench = running(1, Policy(num_resubmits=2, backoff_first_s=4.0))
    for attempt, pause in ((0, 4.0), (1, 8.0)):
        bench.result("w", 0, Outcome.DIED, attempt=attempt)
        assert bench.state(0) is J.REQUEUED
        assert not of(do.Assign, bench.wait(pause - 0.1))
        assert of(do.Assign, bench.wait(0.2))
    bench.result("w", 0, Outcome.DIED, attempt=2)
    failure = of(do.DeliverFailure, bench.new)[0]
    assert (failure.cause, failure.attempts, failure.item) == (Cause.DIED, 3, 0)


def test_an_exception_is_final() -> None:
    bench = running(1, GOING_ON)
    bench.result("w", 0, Outcome.EXCEPTION)
    assert bench.state(0) is J.FAILED


def test_stop_on_failure_stops_the_others_and_skips_the_rest() -> None:
    bench = Bench(Limits(2, 1), jobs=50)
    bench.start("w", "v")
    bench.result("w", 0, Outcome.EXCEPTION)
    ends = of(do.DeliverEnd, bench.new)
    assert {e.state for e in ends} == {J.SKIPPED} and sum(e.span.count for e in ends) == 49
    assert len(bench.sent(m.Cancel)) == 2 and len(bench.sent(m.Drain)) == 2
    assert len(of(do.RunEnded, bench.new)) == 1 and bench.d.ended
    bench.tell(ev.JobsAdded(2, JobSpec("f", "c")))
    assert of(do.DeliverEnd, bench.new)[0].span == Span(50, 2)


def test_without_stop_on_failure_the_others_go_on() -> None:
    bench = running(3, GOING_ON)
    bench.result("w", 0, Outcome.EXCEPTION)
    bench.result("w", 1)
    bench.result("w", 2)
    bench.tell(ev.InputEnded())
    assert of(do.RunEnded, bench.new) and bench.state(2) is J.COMPLETED


def test_results_that_arrive_after_the_end_are_acknowledged() -> None:
    bench = running(2)
    bench.tell(ev.CancelRequested())
    bench.result("w", 0)
    assert bench.sent(m.Ack) and not of(do.Deliver, bench.new)


def test_part_of_a_run_is_canceled() -> None:
    bench = running(6)
    bench.tell(ev.CancelRequested((Span(4, 1), Span(0, 1), Span(-5, 2), Span(5, 99)), "no more"))
    assert [(e.span, e.text) for e in of(do.DeliverEnd, bench.new)] == [
        (Span(0, 1), "no more"),
        (Span(4, 1), "no more"),
        (Span(5, 1), "no more"),
    ]
    assert bench.sent(m.Cancel) == [m.Cancel([m.Key(0, 1, 0)])]
    assert not bench.d.ended
    bench.tell(ev.InputEnded())
    bench.result("w", 0, Outcome.CANCELED)
    bench.result("w", 1)
    for job in (2, 3):
        bench.result("w", job)
    assert bench.d.ended and bench.d.jobs.counts()[J.COMPLETED] == 3


def test_the_whole_run_is_canceled() -> None:
    bench = running(6)
    bench.tell(ev.CancelRequested(reason="enough"))
    assert [(e.span, e.state, e.text) for e in of(do.DeliverEnd, bench.new)] == [
        (Span(0, 6), J.CANCELED, "enough")
    ]
    assert of(do.RunEnded, bench.new) and bench.d.next_deadline() == float("inf")


def test_a_run_without_jobs_ends_with_its_input() -> None:
    assert of(do.RunEnded, Bench().tell(ev.InputEnded()))


def test_chunks_grow_and_each_child_has_a_second_lease_while_plenty_waits() -> None:
    bench = running(1000)
    done = 0
    for _ in range(6):
        lease = next(iter(bench.d.workers["w"].leases.values()))
        bench.result("w", lease.span.first, count=lease.span.count, seconds=0.0)
        done += lease.span.count
        assert len(bench.d.workers["w"].leases) == 2
    sizes = [e.span.count for e in of(do.Assign, bench.all)]
    assert sizes == sorted(sizes) and sizes[0] == 1 and sizes[-1] >= 8


def test_a_worker_without_work_has_a_lease_recalled_from_a_slow_one() -> None:
    bench = Bench(Limits(2, 1), jobs=4)
    bench.submit("slow", "quick2")
    bench.tell(ev.InputEnded())
    bench.hello("slow")
    assert len(bench.d.workers["slow"].leases) == 2
    bench.hello("quick2")
    bench.result("quick2", 2)
    bench.result("quick2", 3)
    assert [(e.worker, e.message) for e in of(do.SendMessage, bench.new)][-1] == (
        "slow", m.Recall([m.Key(1, 1, 0)])
    )  # fmt: skip
    bench.beat("quick2")
    assert not bench.sent(m.Recall)
    bench.beat("slow", held(0), held(1, phase=0))  # it has not heard: it is told again
    assert bench.sent(m.Recall) == [m.Recall([m.Key(1, 1, 0)])]
    bench.result("slow", 1, Outcome.RETURNED)
    assert bench.assigned() == [("quick2", Span(1, 1), 1)]


def test_a_job_that_does_nothing_is_stopped_whatever_its_neighbours_do() -> None:
    bench = Bench(Limits(1, 2), policy=Policy(max_idle_heartbeats=3), jobs=2)
    bench.start("w", children=2, capacity=4)
    for _ in range(3):
        assert not bench.sent(m.Cancel)
        bench.beat("w", held(0, cpu=0.0), m.Held(1, 1, 0, 1, -1, 1, 0.0, False))
    assert bench.sent(m.Cancel) == [m.Cancel([m.Key(0, 1, 0)], int(Outcome.STALLED))]
    assert bench.state(0) is J.RUNNING
    bench.beat("w", held(0, cpu=0.0), held(1))
    assert not bench.sent(m.Cancel)  # counts anew


def test_idle_heartbeats_count_in_a_row() -> None:
    bench = running(1, Policy(max_idle_heartbeats=2))
    for cpu in (0.0, 1.0, 0.0, 1.0, 0.0):
        bench.beat("w", held(0, cpu=cpu))
        assert not bench.sent(m.Cancel)


def test_a_lost_worker_is_charged_for_one_job_a_process() -> None:
    bench = running(100, GOING_ON)
    bench.polled(w=ev.NativeState.FAILED)
    assert bench.d.jobs.counts()[J.REQUEUED] == 1 and bench.state(0) is J.REQUEUED
    assert bench.d.jobs.counts()[J.QUEUED] == 99


def test_a_worker_that_leaves_when_drained_or_warned_is_charged_for_nothing() -> None:
    for reason in ("drained", "warned by signal 15"):
        bench = running(3)
        bench.said("w", m.Bye(reason))
        assert bench.d.jobs.counts()[J.QUEUED] == 3


NONSENSE = [
    m.Results([m.Result(first, count, attempt, outcome, seconds, -1, -1)])
    for first in (-(10**30), -1, 1, 5, 10**30)
    for count in (-1, 0, 1, 10**30)
    for attempt in (-1, 0, 7)
    for outcome in (-1, 0, 1, 5, 7, 99)
    for seconds in (float("nan"),)
]


def test_nothing_that_a_worker_says_disturbs_the_jobs_of_another() -> None:
    bench = Bench(Limits(2, 1), jobs=8)
    bench.start("liar", "honest", capacity=4)
    mine = {s.first for w, s, _ in [(e.worker, e.span, 0) for e in of(do.Assign, bench.all)]
            if w == "liar"}  # fmt: skip
    before = {job: bench.state(job) for job in range(8) if job not in mine}
    for message in NONSENSE:
        item = message.items[0]
        if item.first in mine and item.attempt == 0:
            continue
        bench.said("liar", message)
        assert bench.sent(m.Ack)
    for seq in (-5, 10**30):
        nonsense = m.Held(-1, 10**9, 3, 77, 10**30, -1, float("nan"), True)
        bench.said("liar", m.Heartbeat(seq, [nonsense], [m.Key(0, -1, 9)]))
    bench.said("liar", m.Credit(10**30))
    bench.said("stranger", NONSENSE[0])
    assert {job: bench.state(job) for job in before} == before
    assert len(bench.d.workers["liar"].leases) <= 8


def test_a_result_that_goes_beyond_its_lease_is_not_taken() -> None:
    bench = running(5)
    bench.result("w", 0, count=3)
    assert not of(do.Deliver, bench.new) and bench.state(0) is J.LEASED


def test_an_error_that_names_several_jobs_is_one_job_s() -> None:
    bench = chunked()
    lease = next(x for x in bench.d.workers["w"].leases.values() if x.span.count >= 4)
    span = lease.span
    bench.result("w", span.first, Outcome.EXCEPTION, count=span.count)
    assert bench.state(span.first) is J.FAILED
    assert {bench.state(j) for j in range(span.first + 1, span.stop)} <= {J.QUEUED, J.LEASED}


def test_a_part_given_back_twice_goes_back_once() -> None:
    bench = chunked()
    lease = next(x for x in bench.d.workers["w"].leases.values() if x.span.count >= 4)
    first, stop = lease.span.first, lease.span.stop
    bench.result("w", first)
    bench.result("w", first, Outcome.RETURNED, count=stop - first)  # the first has its value
    assert bench.state(first) is J.COMPLETED
    left = {bench.state(job) for job in range(first + 1, stop)}
    assert left <= {J.QUEUED, J.LEASED}
    assert bench.d.workers["w"].lease_of(first, 0) is None


def test_values_of_a_chunk_are_delivered_with_what_to_leave_out() -> None:
    bench = chunked()
    span = next(x.span for x in bench.d.workers["w"].leases.values() if x.span.count >= 4)
    bench.result("w", span.first)
    bench.result("w", span.first, count=span.count)
    assert of(do.Deliver, bench.new) == [
        do.Deliver(Span(span.first + 1, span.count - 1), 0, 1, "w")
    ]


def chunked() -> Bench:
    """A worker whose leases have several jobs."""
    bench = running(1000, GOING_ON)
    for _ in range(6):
        lease = next(iter(bench.d.workers["w"].leases.values()))
        bench.result("w", lease.span.first, count=lease.span.count, seconds=0.0)
    return bench


def test_summary_counts_jobs_and_workers() -> None:
    bench = Bench(Limits(3, 1), jobs=3)
    bench.submit("w", "v", "u")
    bench.hello("w")
    summary = bench.d.summary()
    assert (summary.up, summary.pending, summary.jobs[J.LEASED]) == (1, 2, 1)


def test_the_next_deadline_is_when_a_job_has_backed_off() -> None:
    bench = running(1, Policy(backoff_first_s=4.0))
    bench.result("w", 0, Outcome.DIED)
    bench.tell(ev.Tick())
    assert bench.d.next_deadline() <= bench.now + 4.0


def test_a_value_tells_how_many_attempts_it_took() -> None:
    bench = running(policy=GOING_ON)
    bench.result("w", 0, Outcome.DIED)
    bench.wait(1.0)
    bench.result("w", 0, attempt=1)
    assert [e.attempts for e in of(do.Deliver, bench.all)] == [2]
