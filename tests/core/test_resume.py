"""The rules of a monitor that goes on where an earlier one died, each by its own example."""

from __future__ import annotations

from typing import Any

import pytest

from gridmap.core import effects as do
from gridmap.core import events as ev
from gridmap.core import messages as m
from gridmap.core.events import KnownLease, KnownWorker, NativeState
from gridmap.core.messages import Outcome
from gridmap.core.policy import Limits, Policy
from gridmap.core.spec import JobSpec, Span
from gridmap.core.states import JobState, WorkerState
from gridmap.errors import Cause
from tests.core.stage import SPEC, Stage, held, of

J = JobState
W = WorkerState
ONCE = JobSpec("f", "c", rerunnable=False)
FIRST = 5
"""Number of the first try that the new monitor gives."""


def resumed(
    jobs: int,
    *limits: Limits,
    policy: Policy | None = None,
    spec: JobSpec = SPEC,
    attempt: int = FIRST,
    input_ended: bool = True,
    **told: Any,
) -> Stage:
    """A monitor that has just read what another left."""
    stage = Stage(*limits, policy=policy)
    stage.tell(ev.JobsAdded(jobs, spec, attempt))
    stage.tell(ev.RunResumed(**told))
    if input_ended:
        stage.tell(ev.InputEnded())
    return stage


def worker(name: str, pool: int = 0, request: int = 0) -> KnownWorker:
    return KnownWorker(name, pool, request)


def lease(name: str, first: int, count: int = 1, attempt: int = 0, inc: str = "i") -> KnownLease:
    return KnownLease(name, inc, Span(first, count), attempt)


def started(stage: Stage) -> list[int]:
    """Returns every job that was given to a worker, as often as it was."""
    return [job for e in of(do.Assign, stage.all) for job in range(e.span.first, e.span.stop)]


def canceled(stage: Stage) -> list[m.Key]:
    return [key for message in stage.sent(m.Cancel) for key in message.keys]


# --- jobs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [J.COMPLETED, J.FAILED, J.CANCELED, J.SKIPPED])
def test_jobs_that_had_ended_do_not_run(state: JobState) -> None:
    stage = resumed(5, ended=((Span(0, 2), state), (Span(3, 1), J.COMPLETED)))
    stage.start("w")
    for _ in range(2):
        for _, span, attempt in stage.assigned():
            stage.result("w", span.first, count=span.count, attempt=attempt)
    assert sorted(started(stage)) == [2, 4]
    assert stage.state(0) is state and stage.d.ended


def test_a_run_of_which_all_had_ended_is_over_at_once() -> None:
    stage = resumed(3, ended=((Span(0, 3), J.COMPLETED),))
    assert of(do.RunEnded, stage.all) and not of(do.SubmitWorkers, stage.all)
    assert not of(do.Deliver, stage.all) and not of(do.DeliverEnd, stage.all)


def test_no_more_workers_are_asked_for_than_jobs_are_left() -> None:
    stage = resumed(9, Limits(8, 1), ended=((Span(0, 7), J.COMPLETED),))
    stage.wait(1)
    assert [e.count for e in of(do.SubmitWorkers, stage.all)] == [2]


def test_what_was_charged_counts() -> None:
    stage = resumed(2, policy=Policy(num_resubmits=3), charged=(ev.KnownCharge(0, 3),))
    stage.start("w")
    stage.result("w", 0, Outcome.DIED, attempt=FIRST)
    failure = of(do.DeliverFailure, stage.new)[0]
    assert (failure.job, failure.attempts) == (0, 4)


def test_a_value_tells_the_attempts_of_both_monitors() -> None:
    stage = resumed(1, charged=(ev.KnownCharge(0, 2),))
    stage.start("w")
    stage.result("w", 0, attempt=FIRST)
    assert of(do.Deliver, stage.new)[0].attempts == 3


def test_a_job_that_had_failed_on_its_worker_is_not_there_any_more() -> None:
    stage = resumed(
        3,
        Limits(1, 1),
        workers=(worker("w"),),
        leases=(lease("w", 0, 3),),
        charged=(ev.KnownCharge(1, 1, 0),),
    )
    assert [stage.state(job) for job in range(3)] == [J.LEASED, J.QUEUED, J.LEASED]


def test_a_failure_that_is_told_again_is_charged_once() -> None:
    """The earlier monitor had noted it, and died before it could acknowledge it."""
    stage = resumed(
        1, policy=Policy(num_resubmits=3), workers=(worker("w"),),
        leases=(lease("w", 0),), charged=(ev.KnownCharge(0, 1, 0),),
    )  # fmt: skip
    stage.hello("w")
    stage.result("w", 0, Outcome.DIED)
    assert not of(do.Charged, stage.all) and stage.sent(m.Ack)
    stage.result("w", 0)
    assert stage.state(0) is J.COMPLETED, "a value counts, however late"


def test_a_job_that_was_charged_gets_no_company() -> None:
    stage = resumed(64, charged=(ev.KnownCharge(40, 1),))
    stage.start("w")
    while not stage.d.ended:
        span = next(iter(stage.d.workers["w"].leases.values())).span
        stage.result("w", span.first, count=span.count, attempt=FIRST, seconds=0.0)
    spans = [e.span for e in of(do.Assign, stage.all)]
    assert Span(40, 1) in spans and any(span.count > 1 for span in spans)
    assert sorted(started(stage)) == list(range(64))


def test_tries_are_numbered_above_those_of_the_earlier_monitor() -> None:
    stage = resumed(1)
    stage.start("w")
    assert stage.assigned() == [("w", Span(0, 1), FIRST)]
    stage.result("w", 0, Outcome.DIED, attempt=FIRST)
    stage.wait(1)
    assert ("w", Span(0, 1), FIRST + 1) in [
        (e.worker, e.span, e.attempt) for e in of(do.Assign, stage.all)
    ]


def test_submissions_are_numbered_on() -> None:
    stage = resumed(1, next_request=7)
    stage.wait(1)
    assert [e.request for e in of(do.SubmitWorkers, stage.all)] == [7]


# --- leases ---------------------------------------------------------------------------------------


def test_a_lease_stays_with_its_worker_and_its_results_count() -> None:
    stage = resumed(4, Limits(1, 1), workers=(worker("w"),), leases=(lease("w", 0, 3),))
    assert [stage.state(job) for job in range(4)] == [J.LEASED] * 3 + [J.QUEUED]
    stage.hello("w")
    stage.beat("w", held(0, count=3))
    assert stage.assigned() == [("w", Span(3, 1), FIRST)]
    stage.result("w", 0, count=2)
    assert [(e.span, e.worker) for e in of(do.Deliver, stage.new)] == [(Span(0, 2), "w")]
    stage.beat("w", held(0, count=3), held(3, FIRST))
    assert stage.state(0) is J.COMPLETED
    stage.result("w", 2)
    stage.result("w", 3, attempt=FIRST)
    assert stage.d.ended and started(stage) == [3]
    assert not of(do.SubmitWorkers, stage.all)


def test_a_lease_that_the_ledger_does_not_know_is_not_given_to_another_meanwhile() -> None:
    stage = resumed(3, Limits(2, 1), workers=(worker("w"), worker("v")), leases=(lease("w", 0),))
    assert stage.hello("v") and not stage.assigned(), "w may hold any of them"
    stage.hello("w")
    stage.beat("w", held(0), held(1, 2))
    assert [(e.worker, e.span.first) for e in of(do.Assign, stage.all)] == [("v", 2)]
    stage.result("w", 1, attempt=2)
    assert stage.state(1) is J.COMPLETED


def test_who_does_not_say_what_it_holds_is_not_waited_for_for_long() -> None:
    policy = Policy(heartbeat_s=10)
    stage = resumed(
        2, Limits(2, 1), policy=policy, workers=(worker("w"), worker("v")), leases=(lease("w", 0),)
    )
    stage.hello("v")
    stage.wait(19)
    assert not of(do.Assign, stage.all)
    assert [(e.worker, e.span.first) for e in of(do.Assign, stage.wait(2))] == [("v", 1)]
    stage = resumed(2, Limits(2, 1), workers=(worker("w"), worker("v")), leases=(lease("w", 0),))
    stage.hello("v")
    stage.polled(w=NativeState.FAILED)
    assert [(a[0], a[1].first) for a in stage.assigned()] == [("v", 1)], "it holds nothing any more"


def test_results_count_before_the_worker_has_said_hello_to_this_monitor() -> None:
    stage = resumed(1, workers=(worker("w"),), leases=(lease("w", 0),))
    stage.result("w", 0)
    assert of(do.Deliver, stage.new) and stage.sent(m.Ack) and stage.d.ended


def test_of_a_lease_only_what_has_not_ended_is_waited_for() -> None:
    stage = resumed(
        3,
        ended=((Span(1, 1), J.COMPLETED),),
        workers=(worker("w"),),
        leases=(lease("w", 0, 3),),
    )
    stage.hello("w")
    stage.result("w", 0, count=3)
    assert [(e.span, e.skip) for e in of(do.Deliver, stage.new)] == [
        (Span(0, 1), 0),
        (Span(2, 1), 2),
    ]
    assert stage.d.ended


def test_the_last_lease_of_a_job_is_the_one_that_counts() -> None:
    stage = resumed(
        4,
        workers=(worker("w"), worker("v")),
        leases=(lease("w", 0, 4), lease("v", 2, 2, attempt=1)),
    )
    stage.hello("w")
    stage.hello("v")
    assert stage.d.workers["w"].leases[(0, 0)].open == [Span(0, 2)]
    stage.result("w", 2, Outcome.DIED, count=2)  # it had lost these
    assert not of(do.Charged, stage.new) and stage.state(2) is J.LEASED
    stage.result("v", 2, count=2, attempt=1)
    stage.result("w", 0, count=2)
    assert stage.d.ended and started(stage) == []


def test_a_lease_that_its_worker_does_not_hold_goes_back_uncharged() -> None:
    stage = resumed(1, workers=(worker("w"),), leases=(lease("w", 0),))
    stage.hello("w")
    stage.beat("w")
    assert started(stage) == []
    stage.beat("w")
    assert stage.assigned() == [("w", Span(0, 1), 1)] and not of(do.Charged, stage.all)


# --- workers that are not what they were ----------------------------------------------------------


def test_a_worker_that_was_started_anew_has_lost_its_leases() -> None:
    stage = resumed(2, workers=(worker("w"),), leases=(lease("w", 0, 2),))
    stage.hello("w", "j")
    assert [(c.job, c.attempts, c.attempt) for c in of(do.Charged, stage.new)] == [(0, 1, 0)]
    assert stage.assigned() == [("w", Span(1, 1), 1)]
    stage.result("w", 1, attempt=1, incarnation="j")
    stage.wait(1)
    stage.result("w", 0, attempt=1, incarnation="j")
    assert stage.d.ended
    assert stage.d.workers["w"].past == {"i"}


def test_leases_of_a_process_before_the_last_one_are_not_waited_for() -> None:
    leases = (lease("w", 0, inc="i"), lease("w", 1, inc="j"))
    stage = resumed(2, workers=(worker("w"),), leases=leases)
    stage.hello("w", "j")
    stage.said("w", m.Heartbeat(1, [held(1)]), "j")
    assert stage.assigned() == [("w", Span(0, 1), FIRST)]
    assert not of(do.Charged, stage.all)
    stage.result("w", 1, incarnation="j")
    assert stage.state(1) is J.COMPLETED


def test_a_worker_that_never_comes_back_is_suspected_then_lost_and_its_jobs_run_again() -> None:
    policy = Policy(silent_after_s=90)
    stage = resumed(2, policy=policy, workers=(worker("w"),), leases=(lease("w", 0, 2),))
    assert not of(do.SubmitWorkers, stage.wait(89))
    stage.wait(2)
    assert stage.d.workers["w"].state is W.SUSPECT
    effects = stage.wait(91)
    assert stage.d.workers["w"].state is W.LOST
    assert of(do.CancelWorkers, effects) == [do.CancelWorkers(("w",))]
    assert any(f"job 0 ({Cause.SILENT})" in note.text for note in of(do.Note, effects))
    stage.start("v")
    stage.result("v", 1, attempt=1)
    stage.result("v", 0, attempt=1)
    assert sorted(started(stage)) == [0, 1] and stage.d.ended


def test_a_worker_that_the_scheduler_says_is_gone_has_lost_its_leases_at_once() -> None:
    stage = resumed(2, workers=(worker("w"),), leases=(lease("w", 0, 2),))
    assert "w" in of(do.PollWorkers, stage.wait(2))[0].workers
    before = stage.now
    stage.polled(w=NativeState.FAILED)
    assert stage.d.workers["w"].state is W.GONE
    stage.start("v")
    assert stage.now < before + 2 and ("v", Span(1, 1), 1) in stage.assigned()


def test_of_what_a_lost_worker_had_the_oldest_was_running_and_is_charged() -> None:
    leases = (lease("w", 0), lease("w", 1, attempt=1), lease("w", 2, attempt=2))
    stage = resumed(3, workers=(worker("w"),), leases=leases)
    stage.polled(w=NativeState.FAILED)
    assert [(c.job, c.attempts, c.attempt) for c in of(do.Charged, stage.all)] == [(0, 1, 0)]


def test_the_scheduler_s_silence_about_a_worker_takes_nothing_from_it() -> None:
    stage = resumed(1, workers=(worker("w"),), leases=(lease("w", 0),))
    stage.polled()
    stage.polled(w=NativeState.UNKNOWN)
    stage.hello("w")
    stage.result("w", 0)
    assert stage.d.ended and started(stage) == []


def test_a_worker_that_was_given_nothing_yet_is_expected() -> None:
    stage = resumed(1, Limits(1, 1), workers=(worker("w"),))
    assert not of(do.SubmitWorkers, stage.wait(5))
    stage.hello("w")
    assert stage.sent(m.Welcome) and stage.assigned() == [("w", Span(0, 1), FIRST)]


def test_workers_that_had_left_before_do_not_speak_against_their_pool() -> None:
    names = ("u", "v", "w")
    stage = resumed(
        2, Limits(3, 1), policy=Policy(startup_failures=3), workers=tuple(map(worker, names))
    )
    stage.polled(**dict.fromkeys(names, NativeState.FAILED))
    assert not of(do.DiagnoseWorker, stage.new)
    for name in names:
        stage.tell(ev.WorkerDiagnosed(name, "the scheduler no longer knows it"))
    assert not stage.d.ended
    stage.start("x")
    assert stage.assigned()


# --- leases of which the ledger does not know -----------------------------------------------------


def test_a_result_of_a_lease_that_the_ledger_missed_counts() -> None:
    stage = resumed(4, workers=(worker("w"),), leases=(lease("w", 0),))
    stage.hello("w")
    stage.result("w", 2, count=2, attempt=3)
    assert [e.span for e in of(do.Deliver, stage.new)] == [Span(2, 2)]
    assert [stage.state(job) for job in (2, 3)] == [J.COMPLETED] * 2
    assert 2 not in started(stage) and 3 not in started(stage)


def test_a_lease_that_the_ledger_missed_stays_where_it_is() -> None:
    stage = resumed(4, Limits(2, 1), workers=(worker("w"), worker("v")), leases=(lease("w", 0),))
    stage.hello("w", capacity=1)
    stage.beat("w", held(0), held(1, 3, count=3))
    assert [stage.state(job) for job in (1, 2, 3)] == [J.RUNNING, J.LEASED, J.LEASED]
    stage.hello("v")
    assert not stage.assigned() and not canceled(stage)
    stage.result("w", 1, count=3, attempt=3)
    stage.result("w", 0)
    assert stage.d.ended and started(stage) == []


def test_nothing_is_adopted_that_another_has() -> None:
    workers = (worker("w"), worker("v"))
    stage = resumed(2, workers=workers, leases=(lease("w", 0), lease("v", 1)))
    stage.hello("w")
    stage.hello("v")
    for _ in range(2):
        stage.beat("w", held(0), held(1, 3))
    assert canceled(stage) == [m.Key(1, 1, 3)]
    stage.result("w", 1, attempt=3)
    stage.result("w", 0, Outcome.DIED, attempt=3, count=2)
    assert not of(do.Deliver, stage.all) and not of(do.Charged, stage.all)
    assert [stage.state(job) for job in (0, 1)] == [J.RUNNING, J.LEASED]


def test_nothing_is_adopted_that_has_ended() -> None:
    stage = resumed(
        2, ended=((Span(0, 1), J.FAILED),), workers=(worker("w"),), leases=(lease("w", 0),)
    )
    stage.hello("w")
    stage.result("w", 0, attempt=3)
    assert not of(do.Deliver, stage.all) and stage.state(0) is J.FAILED


def test_nothing_is_adopted_from_a_worker_of_this_monitor() -> None:
    stage = resumed(8, Limits(1, 1))
    stage.start("w", capacity=1)
    for _ in range(2):
        stage.beat("w", held(0, FIRST), held(6, 3))
    assert canceled(stage) == [m.Key(6, 1, 3)] and stage.state(6) is J.QUEUED
    stage.result("w", 6, attempt=3)
    assert stage.state(6) is J.QUEUED and not of(do.Deliver, stage.all)


@pytest.mark.parametrize(("first", "count"), [(-1, 2), (3, 9), (9, 1), (1, 0), (1, -1), (0, 4)])
def test_nothing_is_adopted_that_makes_no_sense(first: int, count: int) -> None:
    stage = Stage(Limits(1, 1), Limits(1, 1))
    stage.tell(ev.JobsAdded(2, SPEC, FIRST))
    stage.tell(ev.JobsAdded(2, JobSpec("f", "c", pool=1), FIRST))  # no lease has jobs of two pools
    stage.tell(ev.RunResumed(workers=(worker("w"),)))
    stage.hello("w", capacity=1)
    stage.beat("w", m.Held(first, count, 3, 0, -1, 0, 0.0, False))
    stage.result("w", first, count=count, attempt=3)
    assert not of(do.Deliver, stage.all) and len(stage.d.workers["w"].leases) == 1
    assert len(stage.d.jobs) == 4


# --- what must not run twice ----------------------------------------------------------------------


def test_what_must_not_run_twice_stays_with_its_worker() -> None:
    stage = resumed(1, spec=ONCE, workers=(worker("w"),), leases=(lease("w", 0),))
    stage.hello("w")
    stage.result("w", 0)
    assert stage.state(0) is J.COMPLETED and started(stage) == []


def test_what_must_not_run_twice_fails_with_its_worker() -> None:
    def gone(stage: Stage) -> None:
        stage.polled(w=NativeState.FAILED)

    def silent(stage: Stage) -> None:
        stage.wait(200)

    def anew(stage: Stage) -> None:
        stage.hello("w", "j")

    for happens in (gone, silent, anew):
        policy = Policy(stop_on_failure=False)
        leases = (lease("w", 0),)
        stage = resumed(2, spec=ONCE, policy=policy, workers=(worker("w"),), leases=leases)
        happens(stage)
        assert [e.job for e in of(do.DeliverFailure, stage.all)] == [0], happens
        if happens is anew:
            stage.result("w", 1, attempt=FIRST, incarnation="j")
        else:
            stage.start("v")
            stage.result("v", 1, attempt=FIRST)
        assert started(stage) == [1] and stage.d.ended, happens


def test_what_must_not_run_twice_fails_where_its_worker_is_not_even_known() -> None:
    stage = resumed(2, spec=ONCE, policy=Policy(stop_on_failure=False), leases=(lease("w", 0),))
    stage.wait(2)
    stage.polled(w=NativeState.FAILED)
    stage.start("v")
    stage.result("v", 1, attempt=FIRST)
    assert started(stage) == [1] and stage.state(0) is J.FAILED and stage.d.ended


def test_what_must_not_run_twice_fails_with_the_process_that_had_it() -> None:
    leases = (lease("w", 0, inc="i"), lease("w", 1, inc="j"))
    policy = Policy(stop_on_failure=False)
    stage = resumed(3, spec=ONCE, policy=policy, workers=(worker("w"),), leases=leases)
    stage.hello("w", "j")
    stage.said("w", m.Heartbeat(1, [held(1)]), "j")
    stage.result("w", 1, incarnation="j")
    stage.result("w", 2, attempt=FIRST, incarnation="j")
    assert stage.d.ended and started(stage) == [2]
    assert [stage.state(job) for job in range(3)] == [J.FAILED, J.COMPLETED, J.COMPLETED]


# --- nonsense -------------------------------------------------------------------------------------


def finishes(stage: Stage, jobs: int) -> None:
    """Checks that a worker can run all that is left."""
    for _ in range(1000):
        if stage.d.ended:
            break
        if not stage.d.pools[0].up:
            stage.start("fresh", capacity=1)
        for _, span, attempt in [
            ("", x.span, x.attempt) for w in stage.d.workers.values() for x in w.leases.values()
        ]:
            owner = next(w for w in stage.d.workers.values() if (span.first, attempt) in w.leases)
            stage.result(
                owner.id, span.first, count=span.count, attempt=attempt,
                incarnation=owner.incarnation,
            )  # fmt: skip
        stage.wait(1)
    assert stage.d.ended and len(stage.d.jobs) == jobs
    assert stage.d.jobs.counts()[J.COMPLETED] == jobs
    assert all(pool.unfinished == 0 for pool in stage.d.pools)


@pytest.mark.parametrize(
    "told",
    [
        {"workers": (worker("w", pool=7), worker("v", pool=-1))},
        {"workers": (worker("w"), worker("w"), worker("w", request=3))},
        {"workers": (worker("w"),), "leases": (lease("w", 0), lease("w", 0))},
        {"workers": (worker("w"),), "leases": (lease("w", 0, 4), lease("w", 0, 2))},
        {"workers": (worker("w"),), "leases": (lease("w", 0, 2), lease("w", 0, 4))},
        {"workers": (worker("w"),), "leases": (lease("w", 2, 99), lease("w", -1, 2))},
        {
            "workers": (worker("w"),),
            "leases": (lease("w", 99), lease("w", 1, 0), lease("w", 1, -1)),
        },
        {"workers": (worker("w", pool=7),), "leases": (lease("w", 0),)},
        {"leases": (lease("nobody", 0), lease("", 1))},
        {"charged": tuple(ev.KnownCharge(*x) for x in ((-1, 3), (99, 3), (0, -5)))},
        {"charged": (ev.KnownCharge(0, 1, 0, JobSpec("f", "c", 9)), ev.KnownCharge(9, 1, 0, SPEC))},
        {"ended": ((Span(4, 9), J.COMPLETED), (Span(-3, 2), J.FAILED), (Span(1, 0), J.FAILED))},
        {"ended": ((Span(3, 9), J.COMPLETED), (Span(-1, 2), J.COMPLETED))},
        {"ended": ((Span(0, 2), J.COMPLETED), (Span(1, 1), J.COMPLETED))},
        {"ended": ((Span(0, 1), J.QUEUED), (Span(1, 1), J.LEASED), (Span(2, 1), J.REQUEUED))},
        {"next_request": -4},
    ],
)
def test_nonsense_in_what_an_earlier_monitor_left_does_no_harm(told: dict[str, Any]) -> None:
    stage = resumed(4, **told)
    pool = stage.d.pools[0]
    assert pool.up + pool.coming == len(pool.workers) == len(stage.d.workers)
    for known in told.get("workers", ()):
        if known.id in stage.d.workers and stage.d.workers[known.id].state is not W.UP:
            stage.hello(known.id)
    finishes(stage, 4)
    assert all(e.request >= 0 for e in of(do.SubmitWorkers, stage.all))


def test_of_a_lease_a_worker_keeps_what_is_of_its_own_pool() -> None:
    stage = Stage(Limits(1, 1), Limits(1, 1))
    stage.tell(ev.JobsAdded(2, SPEC, FIRST))
    stage.tell(ev.JobsAdded(2, JobSpec("f", "c", pool=1), FIRST))
    leases = (lease("w", 0, 4), lease("v", 0, 2))
    stage.tell(ev.RunResumed(workers=(worker("w"), worker("v", pool=1)), leases=leases))
    assert [stage.state(job) for job in range(4)] == [J.LEASED] * 2 + [J.QUEUED] * 2
    assert not stage.d.workers["v"].leases
