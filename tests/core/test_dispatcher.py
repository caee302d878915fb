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
from tests.core.stage import Stage, held, of

ONCE = JobSpec("f", "c", rerunnable=False)
GOING_ON = Policy(stop_on_failure=False)
J = JobState


def running(jobs: int = 1, policy: Policy | None = None, spec: JobSpec | None = None) -> Stage:
    stage = Stage(policy=policy, jobs=jobs, spec=spec or JobSpec("f", "c"))
    stage.start("w")
    return stage


def test_a_lease_absent_from_two_heartbeats_goes_back_uncharged() -> None:
    stage = running()
    stage.beat("w")
    assert stage.assigned() == [] and stage.state(0) is J.LEASED
    stage.beat("w")
    assert stage.assigned() == [("w", Span(0, 1), 1)]
    for attempt in range(1, 10):  # uncharged: this may go on for ever
        for _ in range(3):  # the first was written before the lease, which answered the last one
            stage.beat("w")
        assert stage.assigned() == [("w", Span(0, 1), attempt + 1)]


def test_heartbeats_that_come_all_at_once_were_written_before_the_lease() -> None:
    stage = running()
    for _ in range(8):  # the client was stopped, or cut off, or the arguments are still on the way
        stage.beat("w", heard=-1)
    stage.beat("w", held(0, phase=0))
    stage.beat("w")
    assert stage.state(0) is J.LEASED and len(of(do.Assign, stage.all)) == 1
    stage.beat("w")
    assert stage.assigned() == [("w", Span(0, 1), 1)]


@pytest.mark.parametrize("inventory", ["held", "unacknowledged"])
def test_a_lease_in_the_inventory_stays(inventory: str) -> None:
    stage = running()
    for _ in range(5):
        if inventory == "held":
            stage.beat("w", held(0, phase=0))
        else:
            stage.beat("w", kept=[m.Key(0, 1, 0)])
    assert stage.state(0) is J.LEASED and len(of(do.Assign, stage.all)) == 1


def test_absences_count_in_a_row_and_an_old_heartbeat_does_not_count() -> None:
    stage = running()
    stage.beat("w")
    for _ in range(5):  # the same one, come again
        stage.said("w", m.Heartbeat(stage.seq))
    assert stage.state(0) is J.LEASED
    stage.beat("w", held(0, phase=0))
    stage.beat("w")
    assert stage.state(0) is J.LEASED


def test_a_lease_unknown_here_is_stopped_there_when_told_of_twice() -> None:
    stage = running()
    stage.beat("w", held(0), held(0, attempt=5))
    assert stage.sent(m.Cancel) == []
    stage.beat("w", held(0), held(0, attempt=5))
    assert stage.sent(m.Cancel) == [m.Cancel([m.Key(0, 1, 5)])]


def test_every_result_is_acknowledged_again_when_the_ack_was_lost() -> None:
    stage = running(2)
    for expected in (1, 0):
        stage.result("w", 0)
        assert len(of(do.Deliver, stage.new)) == expected
        assert stage.sent(m.Ack) == [m.Ack([m.Key(0, 1, 0)])]


def test_first_value_wins_and_a_late_value_is_taken() -> None:
    stage = running()
    stage.beat("w")
    stage.beat("w")  # attempt 0 is void, attempt 1 is on its way
    stage.result("w", 0, attempt=0)
    assert of(do.Deliver, stage.new) == [do.Deliver(Span(0, 1), 0, 0, "w")]
    stage.result("w", 0, attempt=1)
    assert of(do.Deliver, stage.new) == []


def test_a_long_call_told_of_apart_does_not_make_chunks_small() -> None:
    stage = running(jobs=100_000)
    leases = stage.d.workers["w"].leases
    for _ in range(8):
        for lease in list(leases.values()):
            count = lease.span.count
            stage.result("w", lease.span.first, count=count, seconds=count * 1e-5)
    span = next(iter(leases.values())).span
    assert span.count > 1000
    short = m.Result(span.first, span.count - 1, 0, Outcome.VALUE, span.count * 1e-5, 1, 1)
    long = m.Result(span.stop - 1, 1, 0, Outcome.VALUE, 0.5, 1, 1)
    stage.said("w", m.Results([short, long]))
    assert of(do.Assign, stage.new)[-1].span.count > 50, "each of the others takes 10 us"


def test_a_late_error_of_an_old_attempt_is_ignored() -> None:
    stage = running()
    stage.beat("w")
    stage.beat("w")
    stage.result("w", 0, Outcome.EXCEPTION, attempt=0)
    assert stage.state(0) is J.LEASED and not of(do.DeliverFailure, stage.new)
    stage.result("w", 0, Outcome.EXCEPTION, attempt=1)
    assert [e.cause for e in of(do.DeliverFailure, stage.new)] == [Cause.EXCEPTION]


def test_a_late_value_of_a_lost_worker_spares_the_job_that_waits() -> None:
    stage = running()
    stage.polled(w=ev.NativeState.FAILED)
    assert stage.state(0) is J.REQUEUED
    stage.result("w", 0)
    assert stage.state(0) is J.COMPLETED
    assert not of(do.Assign, stage.wait(10))


def test_a_job_that_is_not_rerunnable_never_runs_twice() -> None:
    for outcome in (Outcome.DIED, Outcome.STALLED, Outcome.WALLTIME, Outcome.CANCELED):
        stage = running(1, GOING_ON, ONCE)
        stage.result("w", 0, outcome)
        assert stage.state(0) is J.FAILED, outcome
    for gone in (m.Bye("", m.Departure.DRAINED), m.Bye("", m.Departure.WARNED), m.Bye("no word")):
        stage = running(1, GOING_ON, ONCE)
        stage.said("w", gone)
        assert stage.state(0) is J.FAILED, gone


def test_jobs_that_are_not_rerunnable_travel_alone() -> None:
    stage = running(100, spec=ONCE)
    for job in range(20):
        stage.result("w", job)
    assert {e.span.count for e in of(do.Assign, stage.all)} == {1}


def test_a_lease_given_back_unstarted_is_not_charged() -> None:
    stage = running()
    for attempt in range(2):
        stage.result("w", 0, Outcome.RETURNED, attempt=attempt)
        assert stage.assigned() == [("w", Span(0, 1), attempt + 1)]
    stage.result("w", 0, Outcome.DIED, attempt=2)
    assert "resubmission 1 of 3" in of(do.Note, stage.new)[0].text


def test_a_worker_that_only_gives_back_is_sent_away_in_the_end() -> None:
    stage = running()
    for attempt in range(3):
        stage.result("w", 0, Outcome.RETURNED, attempt=attempt)
    assert stage.sent(m.Drain) and stage.assigned() == []
    assert stage.d.workers["w"].state is WorkerState.DRAINING


def test_a_recalled_lease_given_back_is_nothing_against_a_worker() -> None:
    stage = running(2)
    for _ in range(3):
        lease = next(iter(stage.d.workers["w"].leases.values()))
        lease.recalled = True
        stage.result("w", lease.span.first, Outcome.RETURNED, attempt=lease.attempt)
    assert stage.d.workers["w"].state is WorkerState.UP


def test_a_dying_job_runs_again_alone_after_a_pause_and_then_fails() -> None:
    stage = running(1, Policy(num_resubmits=2, backoff_first_s=4.0))
    for attempt, pause in ((0, 4.0), (1, 8.0)):
        stage.result("w", 0, Outcome.DIED, attempt=attempt)
        assert stage.state(0) is J.REQUEUED
        assert not of(do.Assign, stage.wait(pause - 0.1))
        assert of(do.Assign, stage.wait(0.2))
    stage.result("w", 0, Outcome.DIED, attempt=2)
    failure = of(do.DeliverFailure, stage.new)[0]
    assert (failure.cause, failure.attempts, failure.item) == (Cause.DIED, 3, 0)


def test_an_exception_is_final() -> None:
    stage = running(1, GOING_ON)
    stage.result("w", 0, Outcome.EXCEPTION)
    assert stage.state(0) is J.FAILED


def test_stop_on_failure_stops_the_others_and_skips_the_rest() -> None:
    stage = Stage(Limits(2, 1), jobs=50)
    stage.start("w", "v")
    stage.result("w", 0, Outcome.EXCEPTION)
    ends = of(do.DeliverEnd, stage.new)
    assert {e.state for e in ends} == {J.SKIPPED} and sum(e.span.count for e in ends) == 49
    assert len(stage.sent(m.Cancel)) == 2 and len(stage.sent(m.Drain)) == 2
    assert len(of(do.RunEnded, stage.new)) == 1 and stage.d.ended
    stage.tell(ev.JobsAdded(2, JobSpec("f", "c")))
    assert of(do.DeliverEnd, stage.new)[0].span == Span(50, 2)


def test_without_stop_on_failure_the_others_go_on() -> None:
    stage = running(3, GOING_ON)
    stage.result("w", 0, Outcome.EXCEPTION)
    stage.result("w", 1)
    stage.result("w", 2)
    stage.tell(ev.InputEnded())
    assert of(do.RunEnded, stage.new) and stage.state(2) is J.COMPLETED


def test_results_that_arrive_after_the_end_are_acknowledged() -> None:
    stage = running(2)
    stage.tell(ev.CancelRequested())
    stage.result("w", 0)
    assert stage.sent(m.Ack) and not of(do.Deliver, stage.new)


def test_part_of_a_run_is_canceled() -> None:
    stage = running(6)
    stage.tell(ev.CancelRequested((Span(4, 1), Span(0, 1), Span(-5, 2), Span(5, 99)), "no more"))
    assert [(e.span, e.text) for e in of(do.DeliverEnd, stage.new)] == [
        (Span(0, 1), "no more"),
        (Span(4, 1), "no more"),
        (Span(5, 1), "no more"),
    ]
    assert stage.sent(m.Cancel) == [m.Cancel([m.Key(0, 1, 0)])]
    assert not stage.d.ended
    stage.tell(ev.InputEnded())
    stage.result("w", 0, Outcome.CANCELED)
    stage.result("w", 1)
    for job in (2, 3):
        stage.result("w", job)
    assert stage.d.ended and stage.d.jobs.counts()[J.COMPLETED] == 3


def test_the_whole_run_is_canceled() -> None:
    stage = running(6)
    stage.tell(ev.CancelRequested(reason="enough"))
    assert [(e.span, e.state, e.text) for e in of(do.DeliverEnd, stage.new)] == [
        (Span(0, 6), J.CANCELED, "enough")
    ]
    assert of(do.RunEnded, stage.new) and stage.d.next_deadline() == float("inf")


def test_a_run_without_jobs_ends_with_its_input() -> None:
    assert of(do.RunEnded, Stage().tell(ev.InputEnded()))


def test_chunks_grow_and_each_child_has_a_second_lease_while_plenty_waits() -> None:
    stage = running(10**6)
    done = 0
    for _ in range(6):
        lease = next(iter(stage.d.workers["w"].leases.values()))
        stage.result("w", lease.span.first, count=lease.span.count, seconds=1e-3 * lease.span.count)
        done += lease.span.count
        assert len(stage.d.workers["w"].leases) == 2
    sizes = [e.span.count for e in of(do.Assign, stage.all)]
    assert sizes == sorted(sizes) and sizes[0] == 1 and sizes[-1] >= 8


def test_a_worker_without_work_has_a_lease_recalled_from_a_slow_one() -> None:
    stage = Stage(Limits(2, 1), jobs=4)
    stage.submit("slow", "quick2")
    stage.tell(ev.InputEnded())
    stage.hello("slow")
    assert len(stage.d.workers["slow"].leases) == 2
    stage.hello("quick2")
    stage.result("quick2", 2)
    stage.result("quick2", 3)
    assert [(e.worker, e.message) for e in of(do.SendMessage, stage.new)][-1] == (
        "slow", m.Recall([m.Key(1, 1, 0)])
    )  # fmt: skip
    stage.beat("quick2")
    assert not stage.sent(m.Recall)
    stage.beat("slow", held(0), held(1, phase=0))  # it has not heard: it is told again
    assert stage.sent(m.Recall) == [m.Recall([m.Key(1, 1, 0)])]
    stage.result("slow", 1, Outcome.RETURNED)
    assert stage.assigned() == [("quick2", Span(1, 1), 1)]


def test_each_worker_without_work_has_another_lease_recalled() -> None:
    stage = Stage(Limits(3, 1), jobs=12)
    stage.submit("slow", "a", "b")
    stage.hello("slow", capacity=4)
    assert len(stage.d.workers["slow"].leases) == 4
    stage.tell(ev.CancelRequested((Span(4, 8),)))  # nothing is left for the others
    stage.hello("a")
    assert stage.sent(m.Recall) == [m.Recall([m.Key(3, 1, 0)])]
    stage.hello("b")
    assert stage.sent(m.Recall) == [m.Recall([m.Key(2, 1, 0)])]


def test_a_worker_that_holds_no_more_than_it_runs_is_asked_for_nothing() -> None:
    stage = Stage(Limits(2, 1), jobs=12)
    stage.submit("slow", "a")
    stage.hello("slow")
    assert list(stage.d.pools[0].loaded) == ["slow"]
    stage.tell(ev.CancelRequested((Span(2, 10),)))
    stage.result("slow", 0)
    assert list(stage.d.pools[0].loaded) == []
    stage.result("slow", 1)
    stage.hello("a")
    assert not stage.sent(m.Recall)


def late(policy: Policy | None = None, children: int = 2) -> tuple[Stage, Span]:
    """One process runs many calls, of which the others took next to no time; nothing waits."""
    stage = Stage(Limits(1, children), policy=policy, jobs=200)
    stage.start("w", children=children, capacity=2 * children)
    leases = stage.d.workers["w"].leases
    while stage.d.pools[0].queue.count or len(leases) > 1:
        span = next(iter(leases.values())).span
        stage.result("w", span.first, count=span.count, seconds=1e-6 * span.count)
    stage.tell(ev.InputEnded())
    (lease,) = leases.values()
    assert lease.span.count > 10
    return stage, lease.span


def recalls(effects: list[do.DispatcherEffect]) -> list[m.Message]:
    sent = [e.message for e in of(do.SendMessage, effects)]
    return [message for message in sent if isinstance(message, m.Recall)]


def test_who_has_nothing_to_do_gets_what_a_late_lease_has_not_begun() -> None:
    stage, span = late()
    assert not recalls(stage.wait(Policy().late_after_s - 0.01))
    assert recalls(stage.wait(0.02)) == [m.Recall([m.Key(*span, 0)])]
    assert not recalls(stage.wait(5)), "it is asked once"
    stage.result("w", span.first, count=3, seconds=0.6)
    rest = Span(span.first + 3, span.count - 3)
    stage.result("w", rest.first, Outcome.RETURNED, count=rest.count)
    got = stage.assigned()
    assert [(s.count, attempt) for _, s, attempt in got] == [(1, 1)] * 4
    assert got[0][1].first == rest.first
    assert stage.d.workers["w"].refusals == 0
    for job in range(rest.first, rest.stop):
        stage.result("w", job, attempt=1, seconds=0.2)
    assert of(do.RunEnded, stage.new)


def test_a_late_lease_is_left_alone_while_everybody_is_busy() -> None:
    stage, _ = late(children=1)
    assert not recalls(stage.wait(5))


def test_a_lease_that_waits_behind_another_is_not_late() -> None:
    stage = Stage(Limits(2, 1), jobs=100)
    stage.start("w", "v")
    for worker in ("w", "v"):
        for _ in range(3):
            lease = next(iter(stage.d.workers[worker].leases.values()))
            stage.result(worker, lease.span.first, count=lease.span.count)
    first, second = stage.d.workers["w"].leases.values()
    assert second.span.count > 1
    stage.wait(0.15)
    stage.tell(ev.CancelRequested((Span(second.span.stop, 100),)))
    stage.result("w", first.span.first, count=first.span.count, seconds=0.15)
    for lease in list(stage.d.workers["v"].leases.values()):
        stage.result("v", lease.span.first, count=lease.span.count)
    assert "v" in stage.d.pools[0].starving
    assert not recalls(stage.wait(0.19))
    assert recalls(stage.wait(0.02)) == [m.Recall([second.key])]


def test_whoever_runs_a_late_lease_is_told_again_if_it_has_not_heard() -> None:
    stage, span = late()
    stage.wait(1)
    assert recalls(stage.beat("w", held(span.first, count=span.count)))
    stage.result("w", span.first, count=span.count, seconds=0.2)
    assert of(do.RunEnded, stage.new), "it had ended meanwhile"


def test_no_more_late_leases_are_asked_for_than_there_are_idle_processes() -> None:
    stage = Stage(Limits(4, 1), jobs=400)
    stage.start("a", "b", "c", "d")
    workers = stage.d.workers
    for _ in range(4):
        for name in "abcd":
            lease = next(iter(workers[name].leases.values()))
            stage.result(name, lease.span.first, count=lease.span.count)
    spans = [x.span for name in "abc" for x in list(workers[name].leases.values())[:1]]
    last = {name: next(iter(workers[name].leases.values())) for name in "abc"}
    assert all(lease.span.count > 1 for lease in last.values())
    kept = {job for span in spans for job in range(span.first, span.stop)}
    stage.tell(ev.CancelRequested(tuple(Span(j, 1) for j in range(400) if j not in kept)))
    for name in "abcd":
        for lease in list(workers[name].leases.values())[0 if name == "d" else 1 :]:
            stage.result(name, lease.span.first, Outcome.CANCELED, count=lease.span.count)
    assert len(recalls(stage.wait(0.21))) == 1
    assert len(recalls(stage.wait(1))) == 2, "it still has nothing to do"


def test_a_death_in_a_late_lease_costs_one_job() -> None:
    stage, span = late(GOING_ON)
    stage.wait(1)
    stage.result("w", span.first, Outcome.DIED)
    stage.result("w", span.first + 1, Outcome.RETURNED, count=span.count - 1)
    notes = of(do.Note, stage.all)
    assert [note.text for note in notes if "resubmission" in note.text] == [
        f"job {span.first} (died) on node7: resubmission 1 of 3"
    ]
    assert {attempt for _, _, attempt in stage.assigned()} == {1}


def test_workers_get_leases_in_turn() -> None:
    stage = Stage(Limits(2, 1), jobs=2)
    stage.start("w", "v", capacity=3)
    stage.result("w", 0)
    stage.result("v", 1)
    stage.tell(ev.JobsAdded(6, JobSpec("f", "c")))
    workers = [worker for worker, _, _ in stage.assigned()]
    assert workers[:4] == ["w", "v", "w", "v"]


def test_a_job_that_does_nothing_is_stopped_whatever_its_neighbours_do() -> None:
    stage = Stage(Limits(1, 2), policy=Policy(max_idle_heartbeats=3), jobs=2)
    stage.start("w", children=2, capacity=4)
    for _ in range(3):
        assert not stage.sent(m.Cancel)
        stage.beat("w", held(0, cpu=0.0), m.Held(1, 1, 0, 1, -1, 1, 0.0, False))
    assert stage.sent(m.Cancel) == [m.Cancel([m.Key(0, 1, 0)], int(Outcome.STALLED))]
    assert stage.state(0) is J.RUNNING
    stage.beat("w", held(0, cpu=0.0), held(1))
    assert not stage.sent(m.Cancel)  # counts anew


def test_idle_heartbeats_count_in_a_row() -> None:
    stage = running(1, Policy(max_idle_heartbeats=2))
    for cpu in (0.0, 1.0, 0.0, 1.0, 0.0):
        stage.beat("w", held(0, cpu=cpu))
        assert not stage.sent(m.Cancel)


def test_each_job_of_a_chunk_has_its_own_idle_heartbeats() -> None:
    stage = running(1, Policy(max_idle_heartbeats=3))
    stage.result("w", 0)
    stage.tell(ev.JobsAdded(20, JobSpec("f", "c")))
    (worker, span, _), *_ = stage.assigned()
    assert span.count == 2

    def idle(job: int) -> m.Held:
        return m.Held(span.first, span.count, 0, int(m.Phase.RUNNING), job, 1, 0.0, False)

    for job in (span.first, span.first, span.first + 1, span.first + 1):
        stage.beat(worker, idle(job))
        assert not stage.sent(m.Cancel)
    stage.beat(worker, idle(span.first + 1))
    assert stage.sent(m.Cancel) == [m.Cancel([m.Key(*span, 0)], int(Outcome.STALLED))]


def test_a_lost_worker_is_charged_for_one_job_a_process() -> None:
    stage = running(100, GOING_ON)
    stage.polled(w=ev.NativeState.FAILED)
    assert stage.d.jobs.counts()[J.REQUEUED] == 1 and stage.state(0) is J.REQUEUED
    assert stage.d.jobs.counts()[J.QUEUED] == 99


@pytest.mark.parametrize(("told", "charged"), [(2, 2), (-1, 1), (0, 1), (9, 1), (10**30, 1)])
def test_a_lost_worker_is_charged_for_the_job_that_it_was_last_known_to_run(
    told: int, charged: int
) -> None:
    """Those before it in its lease have ended, and their values were on their way."""
    stage = running(1, GOING_ON)
    stage.result("w", 0)
    stage.tell(ev.JobsAdded(20, JobSpec("f", "c")))
    (worker, span, _), *_ = stage.assigned()
    assert span == Span(1, 2)
    stage.beat(worker, m.Held(*span, 0, int(m.Phase.RUNNING), told, 1, 1.0, False))
    stage.polled(w=ev.NativeState.FAILED)
    counts = stage.d.jobs.counts()
    assert (counts[J.REQUEUED], counts[J.QUEUED]) == (1, 19) and stage.state(charged) is J.REQUEUED


def test_a_worker_that_leaves_when_drained_or_warned_is_charged_for_nothing() -> None:
    for departure in (m.Departure.DRAINED, m.Departure.WARNED, m.Departure.OUT_OF_TIME):
        stage = running(3)
        stage.said("w", m.Bye("", departure))
        assert stage.d.jobs.counts()[J.QUEUED] == 3


@pytest.mark.parametrize("departure", [m.Departure.FAILED, -1, 99, 10**30])
def test_a_worker_that_cannot_go_on_or_says_nonsense_is_charged_whatever_it_says(
    departure: int,
) -> None:
    stage = running(3)
    stage.said("w", m.Bye("drained", departure))
    assert stage.d.jobs.counts()[J.REQUEUED] == 1 and stage.d.jobs.counts()[J.QUEUED] == 2


NONSENSE = [
    m.Results([m.Result(first, count, attempt, outcome, seconds, -1, -1)])
    for first in (-(10**30), -1, 1, 5, 10**30)
    for count in (-1, 0, 1, 10**30)
    for attempt in (-1, 0, 7)
    for outcome in (-1, 0, 1, 5, 7, 99)
    for seconds in (float("nan"),)
]


def test_nothing_that_a_worker_says_disturbs_the_jobs_of_another() -> None:
    stage = Stage(Limits(2, 1), jobs=8)
    stage.start("liar", "honest", capacity=4)
    mine = {s.first for w, s, _ in [(e.worker, e.span, 0) for e in of(do.Assign, stage.all)]
            if w == "liar"}  # fmt: skip
    before = {job: stage.state(job) for job in range(8) if job not in mine}
    for message in NONSENSE:
        item = message.items[0]
        if item.first in mine and item.attempt == 0:
            continue
        stage.said("liar", message)
        assert stage.sent(m.Ack)
    for seq in (-5, 10**30):
        nonsense = m.Held(-1, 10**9, 3, 77, 10**30, -1, float("nan"), True)
        stage.said("liar", m.Heartbeat(seq, [nonsense], [m.Key(0, -1, 9)]))
    stage.said("liar", m.Credit(10**30))
    stage.said("stranger", NONSENSE[0])
    assert {job: stage.state(job) for job in before} == before
    assert len(stage.d.workers["liar"].leases) <= 8


def test_a_result_that_goes_beyond_its_lease_is_not_taken() -> None:
    stage = running(5)
    stage.result("w", 0, count=3)
    assert not of(do.Deliver, stage.new) and stage.state(0) is J.LEASED


def test_an_error_that_names_several_jobs_is_one_job_s() -> None:
    stage = chunked()
    lease = next(x for x in stage.d.workers["w"].leases.values() if x.span.count >= 4)
    span = lease.span
    stage.result("w", span.first, Outcome.EXCEPTION, count=span.count)
    assert stage.state(span.first) is J.FAILED
    assert {stage.state(j) for j in range(span.first + 1, span.stop)} <= {J.QUEUED, J.LEASED}


def test_a_part_given_back_twice_goes_back_once() -> None:
    stage = chunked()
    lease = next(x for x in stage.d.workers["w"].leases.values() if x.span.count >= 4)
    first, stop = lease.span.first, lease.span.stop
    stage.result("w", first)
    stage.result("w", first, Outcome.RETURNED, count=stop - first)  # the first has its value
    assert stage.state(first) is J.COMPLETED
    left = {stage.state(job) for job in range(first + 1, stop)}
    assert left <= {J.QUEUED, J.LEASED}
    assert stage.d.workers["w"].lease_of(first, 0) is None


def test_values_of_a_chunk_are_delivered_with_what_to_leave_out() -> None:
    stage = chunked()
    span = next(x.span for x in stage.d.workers["w"].leases.values() if x.span.count >= 4)
    stage.result("w", span.first)
    stage.result("w", span.first, count=span.count)
    assert of(do.Deliver, stage.new) == [
        do.Deliver(Span(span.first + 1, span.count - 1), 0, 1, "w")
    ]


def chunked() -> Stage:
    """A worker whose leases have several jobs."""
    stage = running(1000, GOING_ON)
    for _ in range(6):
        lease = next(iter(stage.d.workers["w"].leases.values()))
        stage.result("w", lease.span.first, count=lease.span.count, seconds=0.0)
    return stage


def test_summary_counts_jobs_and_workers() -> None:
    stage = Stage(Limits(3, 1), jobs=3)
    stage.submit("w", "v", "u")
    stage.hello("w")
    summary = stage.d.summary()
    assert (summary.up, summary.pending, summary.jobs[J.LEASED]) == (1, 2, 1)


def test_the_next_deadline_is_when_a_job_has_backed_off() -> None:
    stage = running(1, Policy(backoff_first_s=4.0))
    stage.result("w", 0, Outcome.DIED)
    stage.tell(ev.Tick())
    assert stage.d.next_deadline() <= stage.now + 4.0


def test_a_value_tells_how_many_attempts_it_took() -> None:
    stage = running(policy=GOING_ON)
    stage.result("w", 0, Outcome.DIED)
    stage.wait(1.0)
    stage.result("w", 0, attempt=1)
    assert [e.attempts for e in of(do.Deliver, stage.all)] == [2]


def test_a_worker_may_say_that_it_has_more_children_than_it_said_before() -> None:
    stage = Stage(Limits(2, 3), jobs=5)
    stage.submit("w", "v")
    stage.hello("w", children=1, capacity=2)
    assert len(stage.d.workers["w"].leases) == 2 > stage.d.workers["w"].children
    stage.hello("w", children=3, capacity=2)
    stage.hello("v", children=1, capacity=3)
    for job in (2, 3, 4):
        stage.result("v", job)
    assert not stage.d.pools[0].queue.count and not stage.sent(m.Recall)
