"""Workers that run several jobs at once: how many are asked for, and who pays for what."""

from __future__ import annotations

from typing import Any

import pytest

from gridmap.core import effects as do
from gridmap.core import events as ev
from gridmap.core import messages as m
from gridmap.core.agent import AgentCore
from gridmap.core.events import NativeState, Usage
from gridmap.core.memory import CGROUP, Killed, Mark
from gridmap.core.messages import Outcome
from gridmap.core.policy import Limits, Policy
from gridmap.core.states import JobState
from gridmap.errors import Cause
from tests.core.stage import Stage, held, of
from tests.core.test_agent import HELLO, results, said
from tests.core.test_resume import lease, resumed, worker

GB = 1 << 30
J = JobState


# --- the monitor's side ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("jobs", "most", "children", "workers"),
    [(9, 100, 4, 3), (8, 100, 4, 2), (1, 100, 4, 1), (100, 2, 4, 2), (5, 5, 1, 5), (3, 1, 64, 1)],
)
def test_as_many_workers_are_asked_for_as_all_jobs_need(
    jobs: int, most: int, children: int, workers: int
) -> None:
    stage = Stage(Limits(most, children), jobs=jobs)
    (asked,) = of(do.SubmitWorkers, stage.wait(1))
    assert asked.count == workers


def test_max_workers_counts_cluster_jobs_whatever_they_run() -> None:
    limits = [Limits(9, 4), Limits(9, 4)]
    stage = Stage(*limits, policy=Policy(max_workers=3), jobs=100)
    assert [each.count for each in of(do.SubmitWorkers, stage.wait(1))] == [3]


def test_each_process_of_a_worker_has_a_job_before_any_has_two() -> None:
    stage = Stage(Limits(2, 4), jobs=8)
    stage.start("w", "v", children=4, capacity=8)
    given: dict[str, int] = {"w": 0, "v": 0}
    for assigned in of(do.Assign, stage.all):
        given[assigned.worker] += assigned.span.count
    assert given == {"w": 4, "v": 4}
    assert stage.d.summary().children == 8
    stage.said("v", m.Credit(0))
    assert stage.d.summary().children == 4, "one is about to leave"


def test_what_waits_in_one_worker_goes_to_the_idle_process_of_another() -> None:
    stage = Stage(Limits(2, 2), jobs=9)
    stage.submit("w", "v")
    stage.hello("w", children=2, capacity=4)
    stage.hello("v", children=2, capacity=4)
    stage.tell(ev.InputEnded())
    while not stage.sent(m.Recall):  # v answers all that it has, w is slow
        first = leases(stage, "v")[0]
        stage.result("v", first.span.first, count=first.span.count, attempt=first.attempt)
        assert len(leases(stage, "v")) > 0
    assert len(leases(stage, "w")) > 2, "one of them waits there"
    assert len(leases(stage, "v")) == 1, "and one process is idle here"
    (recall,) = stage.sent(m.Recall)
    waiting = leases(stage, "w")[-1]
    assert recall.keys == [waiting.key]
    stage.result("w", waiting.span.first, Outcome.RETURNED, attempt=waiting.attempt)
    assert [(who, span) for who, span, _ in stage.assigned()] == [("v", waiting.span)]


def test_a_worker_that_says_it_has_more_processes_than_were_asked_for_gets_no_more_jobs() -> None:
    stage = Stage(Limits(1, 2), jobs=9)
    stage.start("w", children=50, capacity=100)
    assert stage.d.workers["w"].children == 2


def test_chunks_are_sized_for_all_processes_together() -> None:
    def largest(children: int) -> int:
        stage = Stage(Limits(1, children), jobs=64)
        stage.start("w", children=children, capacity=children)
        while stage.d.jobs.unfinished:
            lease = next(iter(stage.d.workers["w"].leases.values()))
            span = lease.span
            stage.result("w", span.first, count=span.count, attempt=lease.attempt, seconds=1e-5)
        return max(each.span.count for each in of(do.Assign, stage.all))

    # never more than an even share of half of what remains, but for what takes no time at all
    assert largest(1) > largest(16) >= 1


def heartbeat(stage: Stage, worker: str, *jobs: tuple[int, int, int]) -> None:
    """Says what jobs use: (number, memory, what it may have)."""
    attempts = {lease.span.first: lease.attempt for lease in leases(stage, worker)}
    stage.beat(
        worker,
        *(m.Held(job, 1, attempts[job], 1, job, rss, 1.0, True, limit) for job, rss, limit in jobs),
    )


def leases(stage: Stage, worker: str) -> list[Any]:
    return list(stage.d.workers[worker].leases.values())


def ended(stage: Stage, state: NativeState, cause: Cause | None = None) -> list[Any]:
    status = ev.NativeStatus(state, "the scheduler's words", cause=cause)
    return stage.tell(ev.WorkersPolled({"w": status}))


@pytest.mark.parametrize(
    ("cause", "told", "charged"),
    [
        # the scheduler says what it was: those that had more than their part pay for all
        (Cause.MEMORY, ((0, 3 * GB, 3 * GB), (1, GB // 2, GB)), {0: "memory"}),
        (Cause.MEMORY, ((0, 2 * GB, 2 * GB), (1, 2 * GB, 2 * GB)), {0: "memory", 1: "memory"}),
        # it knows of no limit: the one that had most
        (Cause.MEMORY, ((0, GB, 0), (1, 2 * GB, 0)), {1: "memory"}),
        (Cause.MEMORY, (), {0: "memory", 1: "memory"}),
        # it says nothing, and one was near what it may have
        (None, ((0, 3 * GB, 3 * GB), (1, GB // 2, GB)), {0: "memory"}),
        (None, ((0, GB // 2, GB), (1, GB // 2, GB)), {0: "died", 1: "died"}),
        (None, (), {0: "died", 1: "died"}),
        (Cause.PREEMPTED, ((0, 3 * GB, 3 * GB), (1, GB // 2, GB)), {}),
    ],
)
def test_who_is_charged_when_a_worker_dies_for_want_of_memory(
    cause: Cause | None, told: tuple[Any, ...], charged: dict[int, str]
) -> None:
    stage = Stage(Limits(1, 2), jobs=2)
    stage.start("w", children=2, capacity=2)
    assert [lease.span.first for lease in leases(stage, "w")] == [0, 1]
    if told:
        heartbeat(stage, "w", *told)
    effects = ended(stage, NativeState.FAILED, cause)
    assert {each.job for each in of(do.Charged, effects)} == set(charged)
    notes = " ".join(note.text for note in of(do.Note, effects))
    for job, why in charged.items():
        assert f"job {job} ({why})" in notes
    states = {job: stage.state(job) for job in (0, 1)}
    assert states == {job: J.REQUEUED if job in charged else J.QUEUED for job in (0, 1)}


def test_each_death_of_a_worker_is_charged_to_somebody() -> None:
    """So a job that takes all the memory cannot bring down one worker after the other for ever."""
    stage = Stage(Limits(1, 2), policy=Policy(num_resubmits=2, stop_on_failure=False), jobs=2)
    status = ev.NativeStatus(NativeState.FAILED, "oom", cause=Cause.MEMORY)
    deaths = 0
    while stage.state(1) is not J.FAILED:
        name = f"w{deaths}"
        stage.start(name, children=2, capacity=2)
        stage.wait(30)
        given = [x.span.first for x in leases(stage, name)]
        assert 1 in given
        heartbeat(stage, name, *((job, (3 if job else 1) * GB, 2 * GB) for job in given))
        stage.tell(ev.WorkersPolled({name: status}))
        deaths += 1
    assert deaths == 3 and stage.state(0) is J.QUEUED


def test_both_jobs_that_had_all_of_a_workers_time_are_charged_for_it() -> None:
    stage = Stage(Limits(1, 2, walltime_s=100.0), jobs=3)
    stage.start("w", children=2, capacity=2)
    stage.result("w", 0)
    assert {lease.span.first: lease.first for lease in leases(stage, "w")} == {1: True, 2: False}
    stage.now += 101
    effects = ended(stage, NativeState.FAILED)
    assert [each.job for each in of(do.DeliverFailure, effects)] == [1]
    assert of(do.DeliverFailure, effects)[0].cause is Cause.WALLTIME


@pytest.mark.parametrize("spoke", [True, False])
def test_all_jobs_that_a_worker_of_an_earlier_monitor_ran_are_charged_with_it(spoke: bool) -> None:
    leases = tuple(lease("w", job) for job in range(3))
    stage = resumed(3, Limits(1, 2), workers=(worker("w"),), leases=leases)
    if spoke:
        stage.hello("w", children=2, capacity=4)
        assert stage.d.workers["w"].children == 2
    effects = ended(stage, NativeState.FAILED)
    assert [each.job for each in of(do.Charged, effects)] == [0, 1]


def test_a_worker_of_an_earlier_monitor_goes_on_with_all_its_jobs() -> None:
    leases = tuple(lease("w", job) for job in range(2))
    stage = resumed(6, Limits(1, 2), workers=(worker("w"),), leases=leases)
    stage.hello("w", children=2, capacity=2)
    stage.beat("w", held(0), held(1))
    assert not stage.assigned(), "both of its processes are at work"
    stage.result("w", 1)
    assert [span.first for _, span, _ in stage.assigned()] == [2]
    assert not stage.sent_requests(), "it is there, and no other may be"


# --- the node's side ------------------------------------------------------------------------------


class Node:
    """An agent whose children are ready and have a job each."""

    def __init__(self, children: int, group_gb: float = 4) -> None:
        self.now = 0.0
        self.limit = int(group_gb * GB)
        self.core = AgentCore(children, HELLO)
        self.tell(ev.Tick())
        self.hear(m.Welcome("run", 10.0, 300.0))
        self.started = of(do.StartChild, self.new) or of(do.StartChild, self.first)
        for digest in ("f", "c"):
            self.tell(ev.BlobStored(digest))
        for child in range(children):
            self.tell(ev.ChildReady(child))
        packets = [(0, 1, 1)]
        work = [m.Lease(job, 1, 0, "f", "c", True, packets, 0) for job in range(children)]
        given = of(do.GiveLease, self.hear(m.Work(work)))
        assert {give.child: give.lease.first for give in given} == {n: n for n in range(children)}

    def tell(self, event: ev.AgentEvent) -> list[Any]:
        self.new = list(self.core.handle(event, self.now))
        if self.now == 0.0 and not hasattr(self, "first"):
            self.first = self.new
        return self.new

    def hear(self, message: m.ToAgent) -> list[Any]:
        return self.tell(ev.MonitorSaid(message))

    def usage(self, *rss_gb: float) -> dict[int, Usage]:
        group = Mark(CGROUP, int(sum(rss_gb) * GB), self.limit)
        return {n: Usage(int(x * GB), 1.0, True, n, (group,)) for n, x in enumerate(rss_gb) if x}

    def killed(self, child: int, others: dict[int, Usage], peak_gb: float = 0) -> list[Any]:
        """The kernel ends a child for want of memory."""
        group = (Mark(CGROUP, 0, self.limit),)
        died = ev.ChildDied(
            child, child, -1, 9, peak_rss_bytes=int(peak_gb * GB), limits=group,
            killed=Killed(CGROUP), others={n: x for n, x in others.items() if n != child},
        )  # fmt: skip
        return self.tell(died)


def test_a_new_child_has_the_place_of_the_one_that_died() -> None:
    node = Node(3)
    assert node.started == [do.StartChild(n, n, 3) for n in range(3)]
    assert of(do.StartChild, node.tell(ev.ChildDied(1, 1, -1, 11))) == [do.StartChild(3, 1, 3)]
    assert of(do.StartChild, node.tell(ev.ChildDied(0, 0, 1))) == [do.StartChild(4, 0, 3)]
    node.tell(ev.ChildDied(2, 2, 1))
    assert of(do.StartChild, node.new) == [do.StartChild(5, 2, 3)]


def test_a_child_that_dies_takes_only_its_job() -> None:
    node = Node(4)
    assert results(node.tell(ev.ChildDied(2, 2, -1, 11))) == [(2, 1, Outcome.DIED)]
    assert not of(do.KillChild, node.new)
    beat = said(node.tell(ev.UsageRead(node.usage(0.1, 0.1, 0, 0.1))), m.Heartbeat)[0]
    assert sorted(held.first for held in beat.held) == [0, 1, 3]


def test_a_blob_that_several_children_need_is_asked_for_once() -> None:
    core = AgentCore(3, HELLO)
    core.handle(ev.Tick(), 0.0)
    core.handle(ev.MonitorSaid(m.Welcome("run", 10.0, 300.0)), 0.0)
    effects: list[Any] = []
    for job in range(3):
        effects += core.handle(ev.ChildReady(job), 0.0)
        lease = m.Lease(job, 1, 0, "f", "c", True, [(0, 1, 1)], 0)
        effects += core.handle(ev.MonitorSaid(m.Work([lease])), 0.0)
    assert said(effects, m.NeedBlob) == [m.NeedBlob("f"), m.NeedBlob("c")]
    core.handle(ev.BlobStored("c"), 0.0)
    assert len(of(do.GiveLease, core.handle(ev.BlobStored("f"), 0.0))) == 3


def test_what_a_job_may_have_is_told_with_regard_to_the_others() -> None:
    node = Node(2)

    def limits(*rss_gb: float) -> list[float]:
        beat = said(node.tell(ev.UsageRead(node.usage(*rss_gb))), m.Heartbeat)[0]
        return [held.limit_bytes / GB for held in beat.held]

    assert limits(1, 1) == [4, 4], "the limit is far"
    assert limits(3.5, 0.25) == [3.75, 2], "its part, or what the other leaves"
    assert limits(2, 2) == [2, 2]


def test_the_one_that_the_kernel_ends_pays_if_it_had_more_than_its_part() -> None:
    node = Node(4)
    effects = node.killed(0, node.usage(2.5, 0.5, 0.5, 0.5), peak_gb=2.5)
    assert results(effects) == [(0, 1, Outcome.MEMORY)]
    assert not of(do.KillChild, effects)
    (kept,) = of(do.KeepDeath, effects)
    assert kept.text.endswith("its control group may have 4.0 GB for 4 jobs at once")
    assert (kept.limit, kept.limit_bytes) == (CGROUP, GB)


def test_one_that_the_kernel_ends_for_anothers_greed_is_not_charged() -> None:
    """The greedy one has many processes, each smaller than the one that was ended."""
    node = Node(4)
    use = node.usage(0.5, 0.25, 2.75, 0.25)
    assert results(node.killed(0, use, peak_gb=0.5)) == [(0, 1, Outcome.CANCELED)]
    assert of(do.KillChild, node.new) == [do.KillChild(2, int(Outcome.MEMORY))]
    died = node.tell(ev.ChildDied(2, 2, -1, 9, int(Outcome.MEMORY)))
    assert results(died) == [(2, 1, Outcome.MEMORY)]
    (kept,) = of(do.KeepDeath, died)
    assert kept.text.startswith("used 2.8 GB, where 4 jobs share the 4.0 GB of their control group")
    assert (kept.rss_bytes, kept.limit_bytes) == (int(2.75 * GB), GB)


def test_where_nobody_had_more_than_its_part_the_one_that_was_ended_pays() -> None:
    node = Node(4)
    effects = node.killed(0, node.usage(0.8, 0.95, 0.95, 0.95), peak_gb=0.8)
    assert results(effects) == [(0, 1, Outcome.MEMORY)]
    assert not of(do.KillChild, effects)


def test_what_an_idle_process_once_had_is_held_against_nobody() -> None:
    node = Node(2)
    node.tell(ev.MemoryRead(node.usage(0.5, 3.4)))
    node.tell(ev.ChildAnswered(1, [m.Result(1, 1, 0, 0, 0.1, 1, 1)]))
    node.tell(ev.ChildFinished(1))
    effects = node.killed(0, {}, peak_gb=0.5)
    assert results(effects) == [(0, 1, Outcome.MEMORY)]
    assert not of(do.KillChild, effects)


def test_a_job_over_its_own_limit_is_ended_whatever_the_others_have() -> None:
    node = Node(2)
    lease = m.Lease(7, 1, 0, "f", "c", True, [(0, 1, 1)], GB)
    node.tell(ev.ChildAnswered(1, [m.Result(1, 1, 0, 0, 0.1, 1, 1)]))
    node.tell(ev.ChildFinished(1))
    assert of(do.GiveLease, node.hear(m.Work([lease])))
    use = node.usage(2.0, 1.1)
    use[1] = use[1]._replace(current=7)
    effects = node.tell(ev.MemoryRead(use))
    assert of(do.KillChild, effects) == [do.KillChild(1, int(Outcome.MEMORY))]
