"""What becomes of a job that failed: when, where and with what it is tried again."""

from __future__ import annotations

import time

from gridmap.core import effects as do
from gridmap.core import events as ev
from gridmap.core import messages as m
from gridmap.core.jobs import Range
from gridmap.core.messages import Outcome
from gridmap.core.policy import Limits, Policy
from gridmap.core.spec import JobSpec, RetryRule, Span
from gridmap.core.states import JobState as J
from gridmap.errors import Cause
from tests.core.stage import Stage, held, of

GOING_ON = Policy(stop_on_failure=False)


def spec_of(max_rss_bytes: int = 0, **rule: object) -> JobSpec:
    return JobSpec("f", "c", max_rss_bytes=max_rss_bytes, retry=RetryRule(**rule))  # type: ignore[arg-type]


def ends_as(stage: Stage, *outcomes: Outcome, job: int = 0, worker: str = "w") -> None:
    """Lets attempts of a job end so, one after the other."""
    for attempt, outcome in enumerate(outcomes):
        stage.result(worker, job, outcome, attempt=attempt)
        stage.wait(60)


# --- exceptions -----------------------------------------------------------------------------------


def test_an_exception_that_its_user_named_is_tried_again_and_a_value_wins() -> None:
    stage = Stage(jobs=1)
    stage.start("w")
    ends_as(stage, Outcome.RETRIABLE, Outcome.RETRIABLE, Outcome.VALUE)
    assert stage.state(0) is J.COMPLETED and of(do.Deliver, stage.all)[0].attempts == 3


def test_an_exception_that_its_user_named_is_final_after_the_last_try() -> None:
    stage = Stage(jobs=1, spec=spec_of(times=1), policy=GOING_ON)
    stage.start("w")
    ends_as(stage, Outcome.RETRIABLE, Outcome.RETRIABLE)
    failure = of(do.DeliverFailure, stage.all)[0]
    assert (failure.cause, failure.attempts) == (Cause.EXCEPTION, 2)


def test_a_memory_error_is_the_jobs_own_answer_unless_its_user_says_otherwise() -> None:
    for rule, tries in (({}, 1), ({"no_memory": True}, 4)):
        stage = Stage(jobs=1, spec=spec_of(**rule), policy=GOING_ON)
        stage.start("w")
        ends_as(stage, *[Outcome.NO_MEMORY] * tries)
        failure = of(do.DeliverFailure, stage.all)[0]
        assert (failure.cause, failure.attempts) == (Cause.MEMORY, tries)


# --- more of what it lacked -----------------------------------------------------------------------


def ladder() -> tuple[Limits, ...]:
    """Pools 0 and 1 differ in memory, 0 and 2 in time."""
    return (
        Limits(2, 1, walltime_s=100.0, more_memory=1, more_time=2),
        Limits(2, 1, walltime_s=100.0),
        Limits(2, 1, walltime_s=200.0),
    )


def grown(outcome: Outcome, **rule: object) -> Stage:
    stage = Stage(*ladder(), jobs=3, spec=spec_of(**rule), policy=GOING_ON)
    stage.start("w")
    stage.result("w", 0, outcome)
    return stage


def test_a_job_that_lacked_memory_gets_workers_with_more_and_its_neighbours_stay() -> None:
    stage = grown(Outcome.MEMORY, memory=2.0)
    assert [p.unfinished for p in stage.d.pools] == [2, 1, 0]
    assert of(do.Charged, stage.new)[0].spec == JobSpec("f", "c", 1, retry=RetryRule(memory=2.0))
    stage.wait(1)
    request = of(do.SubmitWorkers, stage.all)[-1]
    assert (request.pool, request.count) == (1, 1)
    stage.tell(ev.WorkersSubmitted(request.request, ("big",)))
    stage.hello("big", pool=1)
    assert [(a[0], a[1].first) for a in stage.assigned()] == [("big", 0)]
    ends_as(stage, Outcome.VALUE, worker="big")  # attempt 0 is not its own: of no account
    stage.result("big", 0, Outcome.VALUE, attempt=1)
    assert stage.state(0) is J.COMPLETED and [p.unfinished for p in stage.d.pools] == [2, 0, 0]


def test_who_has_had_all_the_memory_that_there_is_for_it_fails() -> None:
    stage = grown(Outcome.MEMORY, memory=2.0)
    stage.wait(1)
    request = of(do.SubmitWorkers, stage.all)[-1]
    stage.tell(ev.WorkersSubmitted(request.request, ("big",)))
    stage.hello("big", pool=1)
    stage.result("big", 0, Outcome.NO_MEMORY, attempt=1)
    failure = of(do.DeliverFailure, stage.all)[0]
    assert (failure.cause, failure.attempts, failure.pool) == (Cause.MEMORY, 2, 1)


def test_without_a_word_of_growth_memory_is_tried_again_as_it_was() -> None:
    stage = grown(Outcome.MEMORY)
    assert stage.state(0) is J.REQUEUED and [p.unfinished for p in stage.d.pools] == [3, 0, 0]


def test_where_there_is_nothing_to_grow_memory_is_tried_again_as_it_was() -> None:
    stage = Stage(jobs=1, spec=spec_of(memory=2.0), policy=GOING_ON)
    stage.start("w")
    ends_as(stage, *[Outcome.MEMORY] * 4)
    assert of(do.DeliverFailure, stage.all)[0].attempts == 4


def test_of_a_lease_of_which_one_job_has_moved_the_rest_stays_with_its_worker() -> None:
    moved = JobSpec("f", "c", 1)
    stage = Stage(*ladder(), jobs=4)
    stage.tell(
        ev.RunResumed(
            ended=((Span(0, 2), J.COMPLETED),),
            charged=(ev.KnownCharge(2, 1, 0, moved),),
            workers=(ev.KnownWorker("w", 0, 0),),
            leases=(ev.KnownLease("w", "i", Span(1, 3), 0),),
        )
    )
    assert [lease.open for lease in stage.d.workers["w"].leases.values()] == [[Span(3, 1)]]
    stage.hello("w")
    stage.beat("w", m.Held(1, 3, 0, 1, 3, 1, 1.0, True))
    stage.result("w", 3)
    assert stage.state(3) is J.COMPLETED and stage.state(2) is J.QUEUED


def test_max_rss_grows_up_to_its_bound_without_other_workers() -> None:
    spec = spec_of(1000, memory=2.0, memory_most_bytes=3000)
    stage = Stage(jobs=1, spec=spec, policy=GOING_ON)
    stage.start("w")
    ends_as(stage, Outcome.MEMORY, Outcome.MEMORY, Outcome.MEMORY)
    assert [e.spec.max_rss_bytes for e in of(do.Assign, stage.all)] == [1000, 2000, 3000]
    assert of(do.DeliverFailure, stage.all)[0].attempts == 3


def test_a_job_that_was_cut_by_the_walltime_gets_more_time_or_fails() -> None:
    stage = grown(Outcome.WALLTIME)
    assert [p.unfinished for p in stage.d.pools] == [2, 0, 1]
    stage = Stage(Limits(1, 1, walltime_s=100.0), jobs=2, policy=GOING_ON)
    stage.start("w")
    stage.result("w", 0, Outcome.WALLTIME)
    failure = of(do.DeliverFailure, stage.new)[0]
    assert (failure.cause, failure.attempts) == (Cause.WALLTIME, 1)


def test_a_late_value_for_jobs_of_which_one_has_moved_counts_in_both_pools() -> None:
    stage = Stage(*ladder(), jobs=64, spec=spec_of(memory=2.0), policy=GOING_ON)
    stage.submit("w")
    stage.hello("w", capacity=1)
    while True:
        worker, span, attempt = next(x for x in stage.assigned() if x[0] == "w")
        if span.count > 2:
            break
        stage.result("w", span.first, count=span.count, attempt=attempt)
    stage.beat("w", m.Held(*span, attempt, 1, span.first, 95, 1.0, True, 100))
    before = [p.unfinished for p in stage.d.pools]
    stage.polled(w=ev.NativeState.FAILED)  # short of memory when last seen: its first job moves
    assert [p.unfinished for p in stage.d.pools] == [before[0] - 1, 1, 0]
    stage.result("w", span.first, count=span.count, attempt=attempt)
    assert [p.unfinished for p in stage.d.pools] == [before[0] - span.count, 0, 0]


def test_what_a_job_was_given_survives_its_monitor() -> None:
    moved = JobSpec("f", "c", 1, max_rss_bytes=5)
    stage = Stage(*ladder(), jobs=3)
    stage.tell(ev.RunResumed(charged=(ev.KnownCharge(1, 2, 1, moved),)))
    assert [p.unfinished for p in stage.d.pools] == [2, 1, 0]
    stage.wait(1)
    for request in of(do.SubmitWorkers, stage.all):
        stage.tell(ev.WorkersSubmitted(request.request, (f"w{request.pool}",)))
        stage.hello(f"w{request.pool}", pool=request.pool)
    assert [(e.worker, e.span, e.spec) for e in of(do.Assign, stage.all) if e.worker == "w1"] == [
        ("w1", Span(1, 1), moved)
    ]
    stage.result("w1", 1, attempt=0)
    assert stage.state(1) is J.COMPLETED and of(do.Deliver, stage.all)[-1].attempts == 3


# --- where and when -------------------------------------------------------------------------------


def two_hosts(policy: Policy = GOING_ON, **rule: object) -> Stage:
    stage = Stage(Limits(2, 1), jobs=2, spec=spec_of(**rule), policy=policy)
    stage.submit("a", "b")
    stage.hello("a", host="one", capacity=1)
    stage.hello("b", host="two", capacity=1)
    return stage


def test_a_job_that_died_prefers_another_host() -> None:
    stage = two_hosts()
    stage.result("a", 0, Outcome.DIED)
    stage.wait(5)
    assert stage.state(0) is J.QUEUED, "kept for the other host, though one is free here"
    stage.result("b", 1)
    assert stage.assigned() == [("b", Span(0, 1), 1)]


def test_no_job_waits_for_another_host_for_long() -> None:
    stage = two_hosts(Policy(stop_on_failure=False, other_host_s=30.0))
    stage.result("a", 0, Outcome.DIED)
    stage.wait(29)
    assert stage.state(0) is J.QUEUED
    assert [(e.worker, e.span.first) for e in of(do.Assign, stage.wait(2))] == [("a", 0)]


def test_where_there_is_no_other_host_nobody_waits_for_it() -> None:
    stage = Stage(Limits(2, 1), jobs=2, policy=GOING_ON)
    stage.start("a", "b", capacity=1)
    stage.result("a", 0, Outcome.DIED)
    assert [e.worker for e in of(do.Assign, stage.wait(1))] == ["a"]
    stage = two_hosts(other_host=False)
    stage.result("a", 0, Outcome.DIED)
    assert [e.worker for e in of(do.Assign, stage.wait(1))] == ["a"]


def test_others_are_not_held_up_by_a_job_that_is_kept_for_another_host() -> None:
    stage = Stage(Limits(2, 1), jobs=5, policy=GOING_ON)
    stage.submit("a", "b")
    stage.hello("a", host="one", capacity=1)
    stage.hello("b", host="two", capacity=1)
    first = stage.assigned_to("a")
    stage.result("a", first, Outcome.DIED)
    stage.wait(1)
    assert stage.assigned_to("a") != first and stage.state(first) is J.QUEUED


def test_nothing_is_due_for_a_job_that_is_kept_for_nobody() -> None:
    stage = two_hosts()
    stage.result("a", 0, Outcome.DIED)
    stage.wait(1)
    stage.said("a", m.Bye("", m.Departure.OUT_OF_TIME))
    stage.wait(100)
    assert stage.d.next_deadline() > stage.now


def test_the_other_host_goes_away() -> None:
    stage = two_hosts()
    stage.result("a", 0, Outcome.DIED)
    stage.wait(1)
    stage.polled(b=ev.NativeState.FAILED)
    assert ("a", Span(0, 1), 1) in stage.assigned()


# --- what it died of ------------------------------------------------------------------------------


def test_a_lost_worker_tells_by_its_last_heartbeat_what_it_died_of() -> None:
    stage = Stage(jobs=1, policy=Policy(num_resubmits=0))
    stage.start("w")
    last = held(0)._replace(rss_bytes=95, limit_bytes=100)
    stage.beat("w", last)
    stage.polled(w=ev.NativeState.FAILED)
    failure = of(do.DeliverFailure, stage.new)[0]
    assert (failure.cause, failure.last) == (Cause.MEMORY, last)


def test_the_schedulers_word_on_the_cause_counts() -> None:
    stage = Stage(jobs=1, policy=Policy(num_resubmits=0))
    stage.start("w")
    status = ev.NativeStatus(ev.NativeState.FAILED, "too long", cause=Cause.WALLTIME)
    stage.tell(ev.WorkersPolled({"w": status}))
    failure = of(do.DeliverFailure, stage.new)[0]
    assert (failure.cause, failure.text) == (Cause.WALLTIME, "too long")


def test_a_worker_that_was_cut_by_the_walltime_charges_only_its_first_job() -> None:
    stage = Stage(Limits(1, 1, walltime_s=100.0), jobs=2)
    stage.start("w")
    stage.result("w", 0)
    stage.wait(100)
    stage.polled(w=ev.NativeState.FAILED)
    assert stage.state(1) is J.QUEUED and not of(do.Charged, stage.all)
    stage = Stage(Limits(1, 1, walltime_s=100.0), jobs=1)
    stage.start("w")
    stage.wait(60)
    stage.beat("w", held(0))
    stage.wait(41)
    stage.polled(w=ev.NativeState.FAILED)
    assert of(do.DeliverFailure, stage.new)[0].cause is Cause.WALLTIME


def test_a_job_that_is_near_its_limit_on_memory_is_spoken_of_once() -> None:
    stage = Stage(jobs=1)
    stage.start("w")
    for used in (50, 95, 96, 40, 92):
        stage.beat("w", held(0)._replace(rss_bytes=used << 20, limit_bytes=100 << 20))
    notes = [n.text for n in of(do.Note, stage.all) if "may have" in n.text]
    assert notes == [
        f"job 0 on node7 has {used}.0 MB of the 100.0 MB that it may have" for used in (95, 92)
    ]


def test_many_jobs_that_are_kept_for_another_host_cost_little() -> None:
    stage = Stage(Limits(2, 1), jobs=3000, policy=GOING_ON)
    stage.submit("a", "b")
    stage.hello("a", host="one", capacity=1)
    stage.hello("b", host="two", capacity=1)
    pool = stage.d.pools[0]
    pool.queue.clear()
    for job in range(100, 3000):
        again = Range(Span(job, 1), JobSpec("f", "c"), 1, True, "one", 1e9)
        pool.queue.put(again)
    began = time.perf_counter()
    for _ in range(20):
        stage.tell(ev.Tick())
        pool.hungry["a"] = None
    assert time.perf_counter() - began < 0.5
