"""The rules of a node, each by its own example."""

from __future__ import annotations

from typing import Any

import pytest

from gridmap.core import effects as do
from gridmap.core import events as ev
from gridmap.core import messages as m
from gridmap.core.agent import WARNED_DRAIN_S, WARNED_END_S, AgentCore
from gridmap.core.child import CHILD_END_S, CHILD_START_S
from gridmap.core.children import CHILD_START_FAILURES
from gridmap.core.memory import LOOK_S, Killed, Mark
from gridmap.core.messages import Outcome
from tests.core.stage import of

HELLO = m.Hello("1", "3", m.PROTOCOL, "w", "i", 0, "node7", 1, 1, 2)


class Node:
    """An agent with one child that is ready, and both its blobs."""

    def __init__(
        self,
        blobs: tuple[str, ...] = ("f", "c"),
        ready: bool = True,
        age_s: float = 0.0,
        max_rss_bytes: int = 0,
        **welcome: Any,
    ) -> None:
        self.now = 0.0
        self.max_rss_bytes = max_rss_bytes  # of leases that do not say
        self.core = AgentCore(1, HELLO, age_s)
        self.tell(ev.Tick())
        self.hear(m.Welcome("run", 10.0, 300.0, **welcome))
        for digest in blobs:
            self.tell(ev.BlobStored(digest))
        if ready:
            self.tell(ev.ChildReady(0))

    def tell(self, event: ev.AgentEvent) -> list[Any]:
        self.new = list(self.core.handle(event, self.now))
        return self.new

    def hear(self, message: m.ToAgent) -> list[Any]:
        return self.tell(ev.MonitorSaid(message))

    def wait(self, seconds: float) -> list[Any]:
        until, effects = self.now + seconds, []
        while self.core.next_deadline() <= until:
            self.now = max(self.now, self.core.next_deadline())
            effects += self.tell(ev.Tick())
            self.core._heard_at = self.now  # the monitor lives
        self.now = until
        return effects

    def work(
        self,
        first: int = 0,
        count: int = 1,
        attempt: int = 0,
        reuse: bool = True,
        max_rss_bytes: int = 0,
    ) -> None:
        max_rss_bytes = max_rss_bytes or self.max_rss_bytes
        packets = [(0, count, 1)]
        lease = m.Lease(first, count, attempt, "f", "c", reuse, packets, max_rss_bytes)
        self.hear(m.Work([lease]))

    def answers(self, child: int, first: int, count: int = 1, outcome: int = 0) -> list[Any]:
        item = m.Result(first, count, 0, outcome, 0.1, 1, 1)
        return self.tell(ev.ChildAnswered(child, [item]))

    def ends(self, job: int, child: int = 0) -> list[Any]:
        """A child runs a lease of one job to its end, and is acknowledged."""
        effects = self.answers(child, job) + self.tell(ev.ChildFinished(child))
        return effects + self.hear(m.Ack([m.Key(job, 1, 0)]))

    def dies(self, current: int, **how: Any) -> list[Any]:
        """The child dies as it was told to, or of itself."""
        told = of(do.KillChild, self.new)
        outcome = told[0].outcome if told else int(Outcome.DIED)
        return self.tell(ev.ChildDied(0, current, **{"signal": 9, "outcome": outcome, **how}))


def results(effects: list[Any]) -> list[tuple[int, int, Outcome]]:
    said = [e.message for e in of(do.Say, effects) if isinstance(e.message, m.Results)]
    return [(r.first, r.count, Outcome(r.outcome)) for x in said for r in x.items]


def said(effects: list[Any], kind: type[Any]) -> list[Any]:
    return [e.message for e in of(do.Say, effects) if isinstance(e.message, kind)]


def test_hello_is_said_again_until_it_is_answered() -> None:
    core = AgentCore(1, HELLO)
    assert said(core.handle(ev.Tick(), 0.0), m.Hello)
    assert not said(core.handle(ev.Tick(), 0.5), m.Hello)
    assert said(core.handle(ev.Tick(), core.next_deadline()), m.Hello)
    core.handle(ev.MonitorSaid(m.Welcome("run", 10.0, 300.0)), 2.0)
    assert not said(core.handle(ev.Tick(), 9.0), m.Hello)


def test_a_result_is_kept_and_said_again_until_it_is_acknowledged() -> None:
    node = Node()
    node.work()
    node.answers(0, 0)
    node.tell(ev.ChildFinished(0))
    beat = said(node.tell(ev.UsageRead()), m.Heartbeat)[0]
    assert (beat.held, beat.unacknowledged) == ([], [m.Key(0, 1, 0)])
    assert results(node.wait(31)) == [(0, 1, Outcome.VALUE)]
    assert of(do.DropResult, node.hear(m.Ack([m.Key(0, 1, 0)])))
    assert results(node.wait(60)) == []
    assert said(node.tell(ev.UsageRead()), m.Heartbeat)[0].unacknowledged == []


def test_a_heartbeat_is_an_inventory() -> None:
    node = Node()
    node.work(0)
    node.work(1)
    assert of(do.ReadUsage, node.wait(10)) == [do.ReadUsage((0,))]
    beat = said(node.tell(ev.UsageRead({0: ev.Usage(7, 0.5, True, 0)})), m.Heartbeat)[0]
    assert beat.held == [
        m.Held(1, 1, 0, 0, -1, 0, 0.0, False),
        m.Held(0, 1, 0, 1, 0, 7, 0.5, True),
    ]


def test_a_lease_that_comes_twice_runs_once() -> None:
    node = Node()
    node.work()
    node.answers(0, 0)
    node.tell(ev.ChildFinished(0))
    node.hear(m.Ack([m.Key(0, 1, 0)]))
    node.work()
    assert not of(do.GiveLease, node.new)


def test_a_lease_waits_for_its_blobs() -> None:
    node = Node(blobs=())
    node.work()
    assert [x.digest for x in said(node.new, m.NeedBlob)] == ["f", "c"]
    assert len(said(node.wait(31), m.NeedBlob)) == 2
    node.tell(ev.BlobStored("f"))
    assert not of(do.GiveLease, node.new)
    node.tell(ev.BlobStored("c"))
    assert of(do.GiveLease, node.new)


def test_a_blob_that_cannot_be_had_costs_one_job_and_gives_back_the_rest() -> None:
    node = Node(blobs=("c",))
    node.work(0, 5)
    node.hear(m.Blob("f", found=False))
    assert results(node.new) == [(0, 1, Outcome.DIED), (1, 4, Outcome.RETURNED)]
    assert of(do.KeepDeath, node.new)[0].text and of(do.DropLease, node.new)


def test_a_death_takes_one_job_with_it_and_the_rest_goes_back() -> None:
    node = Node()
    node.work(0, 5)
    node.answers(0, 0)
    node.tell(ev.ChildDied(0, 2, -1, 11))
    assert results(node.new) == [
        (1, 1, Outcome.RETURNED), (2, 1, Outcome.DIED), (3, 2, Outcome.RETURNED)
    ]  # fmt: skip
    assert of(do.KeepDeath, node.new)[0].signal == 11 and of(do.StartChild, node.new)


def test_a_child_is_not_believed_about_jobs_that_it_was_not_given() -> None:
    node = Node()
    node.work(0, 2)
    for first, count in ((7, 1), (-1, 1), (0, 9), (1, -1)):
        assert results(node.answers(0, first, count)) == []
    node.tell(ev.ChildFinished(0))
    assert results(node.new) == [(0, 2, Outcome.RETURNED)]


def test_children_that_die_while_starting_make_the_agent_leave_and_give_back_its_leases() -> None:
    node = Node(ready=False)
    node.work()
    for child in range(CHILD_START_FAILURES):
        assert not node.core.left
        node.tell(ev.ChildDied(child, -1, 1))
    assert results(node.new) == [(0, 1, Outcome.RETURNED)] and of(do.Leave, node.new)
    assert "die while they start" in said(node.new, m.Bye)[0].reason


def test_a_child_that_hangs_in_its_start_is_killed_and_one_that_cannot_be_killed_is_given_up() -> (
    None
):
    node = Node(ready=False)
    node.work()
    assert not of(do.KillChild, node.wait(CHILD_START_S - 1))
    assert of(do.KillChild, node.wait(2))
    assert of(do.StartChild, node.wait(CHILD_END_S))
    node.tell(ev.ChildReady(1))
    assert of(do.GiveLease, node.new)
    node.hear(m.Cancel([m.Key(0, 1, 0)], int(Outcome.STALLED)))
    assert results(node.wait(CHILD_END_S + 1)) == [(0, 1, Outcome.STALLED)]


def test_without_reuse_a_child_runs_one_job() -> None:
    node = Node()
    node.work(0, reuse=False)
    node.answers(0, 0)
    node.tell(ev.ChildFinished(0))
    assert of(do.KillChild, node.new) == [do.KillChild(0)]
    node.tell(ev.ChildDied(0, -1))
    assert of(do.StartChild, node.new) == [do.StartChild(1)]


def test_a_used_child_is_not_given_a_job_that_wants_a_fresh_one() -> None:
    node = Node()
    node.work(0)
    node.answers(0, 0)
    node.tell(ev.ChildFinished(0))
    node.work(1, reuse=False)
    assert of(do.KillChild, node.new) and not of(do.GiveLease, node.new)


def test_a_recall_returns_what_has_not_started() -> None:
    node = Node()
    node.work(0)
    node.work(1)
    node.hear(m.Recall([m.Key(0, 1, 0), m.Key(1, 1, 0)]))
    assert results(node.new) == [(1, 1, Outcome.RETURNED)]


def test_a_recall_of_a_lease_that_runs_ends_it_early() -> None:
    node = Node()
    node.work(0, 10)
    assert of(do.EndEarly, node.hear(m.Recall([m.Key(0, 10, 0)]))) == [
        do.EndEarly(0, m.Key(0, 10, 0))
    ]
    assert not results(node.new)
    assert not of(do.EndEarly, node.hear(m.Recall([m.Key(0, 10, 0)]))), "once is enough"
    node.answers(0, 0, 3)
    node.tell(ev.ChildFinished(0))
    assert results(node.new) == [(3, 7, Outcome.RETURNED)]
    assert not of(do.KillChild, node.new)
    node.work(20, 5)
    assert of(do.GiveLease, node.new)
    assert of(do.EndEarly, node.hear(m.Recall([m.Key(20, 5, 0)])))
    node.dies(22)
    assert results(node.new) == [
        (20, 2, Outcome.RETURNED), (22, 1, Outcome.DIED), (23, 2, Outcome.RETURNED)
    ]  # fmt: skip


@pytest.mark.parametrize("key", [(0, 10, 1), (10, 10, 0), (0, 1, 1)])
def test_a_recall_of_what_does_not_run_here_does_nothing(key: tuple[int, int, int]) -> None:
    node = Node()
    node.work(0, 10)
    assert not node.hear(m.Recall([m.Key(*key)]))
    node.answers(0, 0, 9)
    assert not node.hear(m.Recall([m.Key(0, 10, 0)])), "its last call has begun"
    node.answers(0, 9)
    node.tell(ev.ChildFinished(0))
    assert not node.hear(m.Recall([m.Key(0, 10, 0)])), "it has ended"


def test_a_stalled_job_is_killed_and_named() -> None:
    node = Node()
    node.work(0, 3)
    node.hear(m.Cancel([m.Key(0, 3, 0)], int(Outcome.STALLED)))
    assert of(do.KillChild, node.new) == [do.KillChild(0, int(Outcome.STALLED))]
    node.tell(ev.ChildDied(0, 0, -1, 9, int(Outcome.STALLED)))
    assert results(node.new) == [(0, 1, Outcome.STALLED), (1, 2, Outcome.RETURNED)]


def test_drained_it_finishes_gives_back_and_waits_for_its_last_acknowledgment() -> None:
    node = Node()
    node.work(0)
    node.work(1)
    node.hear(m.Drain())
    assert said(node.new, m.Credit) == [m.Credit(0)]
    assert results(node.new) == [(1, 1, Outcome.RETURNED)] and not node.core.left
    node.answers(0, 0)
    node.tell(ev.ChildFinished(0))
    assert not node.core.left
    node.hear(m.Ack([m.Key(1, 1, 0)]))
    node.hear(m.Ack([m.Key(0, 1, 0)]))
    assert node.core.left and said(node.new, m.Bye) == [m.Bye("drained", m.Departure.DRAINED)]


def test_it_does_not_wait_for_ever_for_an_acknowledgment_but_says_it_again() -> None:
    node = Node()
    node.work()
    node.answers(0, 0)
    node.tell(ev.ChildFinished(0))
    node.hear(m.Drain())
    effects = node.wait(40)
    assert (0, 1, Outcome.VALUE) in results(effects) and of(do.Leave, effects)


@pytest.mark.parametrize(("signal", "kills"), [(15, True), (12, True), (10, False)])
def test_some_warnings_end_what_runs_and_a_softer_one_lets_it_finish(
    signal: int, kills: bool
) -> None:
    node = Node()
    node.work(0)
    node.work(1)
    node.tell(ev.TerminationWarned(signal))
    assert results(node.new) == [(1, 1, Outcome.RETURNED)]
    assert bool(of(do.KillChild, node.new)) is kills
    if kills:  # it had started: whoever must not run twice has to know
        assert results(node.dies(0)) == [(0, 1, Outcome.CANCELED)]
    else:
        node.answers(0, 0)
        node.tell(ev.ChildFinished(0))
    effects = node.hear(m.Ack([m.Key(0, 1, 0), m.Key(1, 1, 0)]))
    bye = m.Bye(f"warned by signal {signal}", m.Departure.WARNED)
    assert said(effects, m.Bye) == [bye]


def test_it_leaves_when_refused_and_when_nobody_speaks_to_it() -> None:
    node = Node()
    assert of(do.Leave, node.hear(m.Refuse("other version")))
    assert node.core.next_deadline() == float("inf") and node.tell(ev.Tick()) == []
    node = Node()
    while not of(do.Leave, node.new):
        node.now = node.core.next_deadline()
        node.tell(ev.Tick())
    assert node.now == 300.0


def test_it_leaves_before_the_walltime_would_cut_a_job() -> None:
    node = Node()
    node.hear(m.Welcome("run", 10.0, 300.0, walltime_s=60.0))
    node.work(0)
    node.work(1)
    node.wait(40.0)
    long = m.Result(0, 1, 0, int(Outcome.VALUE), 40.0, 1, 1)
    effects = node.tell(ev.ChildAnswered(0, [long])) + node.tell(ev.ChildFinished(0))
    assert results(effects) == [(0, 1, Outcome.VALUE), (1, 1, Outcome.RETURNED)]
    assert not of(do.GiveLease, effects)
    effects = node.hear(m.Ack([m.Key(0, 1, 0), m.Key(1, 1, 0)]))
    assert said(effects, m.Bye) == [m.Bye("out of time", m.Departure.OUT_OF_TIME)]


def test_an_agent_that_hears_nothing_leaves_but_not_for_having_been_stopped_itself() -> None:
    node = Node()
    node.now += 100_000  # SIGSTOP
    assert not of(do.Leave, node.tell(ev.Tick()))
    while not node.core.left:
        node.now = node.core.next_deadline()
        node.tell(ev.Tick())
    assert node.now == 100_300


def test_children_of_an_agent_that_was_stopped_are_given_their_time() -> None:
    node = Node(ready=False)
    node.now += 100_000
    assert not of(do.KillChild, node.tell(ev.Tick()))
    assert of(do.KillChild, node.wait(CHILD_START_S + 1))


def test_a_draining_agent_that_was_stopped_waits_for_its_acknowledgments_all_the_same() -> None:
    node = Node()
    node.work()
    node.answers(0, 0)
    node.tell(ev.ChildFinished(0))
    node.hear(m.Drain())
    node.now += 100_000
    assert not of(do.Leave, node.tell(ev.Tick()))
    assert of(do.Leave, node.hear(m.Ack([m.Key(0, 1, 0)])))


# --- the end of the worker's time -----------------------------------------------------------------


def test_a_job_that_had_its_workers_whole_time_is_cut_in_time_and_charged() -> None:
    node = Node(walltime_s=60.0)  # of which 3 s are kept for last words
    node.work(0, 3)
    node.work(3)
    assert not of(do.KillChild, node.wait(56.9))
    node.wait(0.1)
    assert of(do.KillChild, node.new) == [do.KillChild(0, int(Outcome.WALLTIME))]
    assert results(node.new) == [(3, 1, Outcome.RETURNED)]
    node.tell(ev.ChildDied(0, 0, -1, 9, int(Outcome.WALLTIME)))
    assert results(node.new) == [(0, 1, Outcome.WALLTIME), (1, 2, Outcome.RETURNED)]
    (death,) = of(do.KeepDeath, node.new)
    assert death.text == (
        "ended after 57.0 s, shortly before the end of its worker's time limit of 60 s"
    )
    keys = [m.Key(3, 1, 0), m.Key(0, 1, 0), m.Key(1, 2, 0)]
    assert said(node.hear(m.Ack(keys)), m.Bye) == [m.Bye("out of time", m.Departure.OUT_OF_TIME)]


def test_a_later_job_that_is_cut_goes_back_uncharged() -> None:
    node = Node(walltime_s=60.0)
    node.work(0)
    node.wait(5.0)
    node.ends(0)
    node.work(1)
    assert of(do.GiveLease, node.new)
    node.wait(52.0)
    assert results(node.dies(1)) == [(1, 1, Outcome.CANCELED)]
    assert not of(do.KeepDeath, node.new)


def test_a_job_of_a_chunk_that_is_cut_is_not_its_workers_first() -> None:
    node = Node(walltime_s=60.0)
    node.work(0, 5)
    node.wait(20.0)
    node.answers(0, 0, 2)
    node.wait(37.0)
    assert results(node.dies(2)) == [(2, 1, Outcome.CANCELED), (3, 2, Outcome.RETURNED)]


def test_whoever_was_first_but_came_late_had_little_of_the_time() -> None:
    node = Node(walltime_s=60.0)
    node.wait(30.0)
    node.work(0)
    node.wait(27.0)
    assert results(node.dies(0)) == [(0, 1, Outcome.CANCELED)]


def test_the_time_limit_counts_from_the_start_of_the_worker() -> None:
    node = Node(age_s=30.0, walltime_s=60.0)
    node.work(0)
    assert not of(do.KillChild, node.wait(26.9))
    assert of(do.KillChild, node.wait(0.2))


def test_the_time_limit_goes_on_while_the_worker_is_stopped() -> None:
    node = Node(walltime_s=60.0)
    node.work(0)
    node.now += 58.0
    assert of(do.KillChild, node.tell(ev.Tick()))


def test_a_job_whose_worker_was_stopped_has_not_had_all_of_its_time() -> None:
    node = Node(walltime_s=60.0)
    node.work(0)
    node.now += 30.0  # suspended
    node.tell(ev.Tick())
    node.wait(27.0)
    assert results(node.dies(0)) == [(0, 1, Outcome.CANCELED)]


def test_an_idle_worker_leaves_before_its_time_is_over_and_takes_no_job_then() -> None:
    node = Node(walltime_s=60.0)
    effects = node.wait(57.0)
    assert said(effects, m.Bye) == [m.Bye("out of time", m.Departure.OUT_OF_TIME)]


def test_a_worker_whose_time_is_over_before_a_job_could_start_is_no_good() -> None:
    node = Node(blobs=(), walltime_s=60.0)
    node.work(0)
    effects = node.wait(57.0) + node.hear(m.Ack([m.Key(0, 1, 0)]))
    assert results(effects) == [(0, 1, Outcome.RETURNED)]
    (bye,) = said(effects, m.Bye)
    assert bye.departure == m.Departure.FAILED and "time limit of 60 s" in bye.reason


@pytest.mark.parametrize("acknowledged", [True, False])
def test_it_leaves_before_the_end_though_a_child_cannot_be_killed(acknowledged: bool) -> None:
    node = Node(walltime_s=60.0)
    node.work(0)
    effects = node.wait(57.0 + WARNED_END_S)
    assert results(effects) == [(0, 1, Outcome.WALLTIME)]
    effects = node.hear(m.Ack([m.Key(0, 1, 0)])) if acknowledged else node.wait(0.5)
    assert of(do.Leave, effects) and node.now <= 58.5


def test_a_job_that_is_cut_by_a_warning_near_the_end_of_the_time_is_charged() -> None:
    node = Node(walltime_s=60.0)
    node.work(0)
    node.wait(55.0)
    node.tell(ev.TerminationWarned(12))
    assert results(node.dies(0)) == [(0, 1, Outcome.WALLTIME)]
    text = of(do.KeepDeath, node.new)[0].text
    assert text == (
        "ended after 55.0 s, by SIGUSR2 (12) from the scheduler 55 s after the start of its worker"
    )


def test_a_first_job_that_outlives_a_soft_warning_is_charged_for_the_hard_one() -> None:
    for first in (True, False):  # the limit itself is not known
        node = Node()
        if not first:
            node.work(0)
            node.wait(20.0)
            node.ends(0)
        node.work(1)
        node.wait(20.0)
        node.tell(ev.TerminationWarned(10))  # s_rt
        assert not of(do.KillChild, node.wait(20.0))
        node.tell(ev.TerminationWarned(12))
        expected = Outcome.WALLTIME if first else Outcome.CANCELED
        assert results(node.dies(1)) == [(1, 1, expected)]
        assert results(node.tell(ev.TerminationWarned(12))) == []  # it comes twice


@pytest.mark.parametrize("attempt", [0, 2, 3])
def test_a_first_job_is_not_ended_by_warnings_for_ever(attempt: int) -> None:
    node = Node()
    node.work(0, attempt=attempt)
    node.wait(20.0)
    node.tell(ev.TerminationWarned(12))  # preempted, deleted, or a limit that nobody told of
    expected = Outcome.DIED if attempt == 3 else Outcome.CANCELED
    assert results(node.dies(0)) == [(0, 1, expected)]
    if attempt == 3:
        assert "by SIGUSR2 (12) from the scheduler" in of(do.KeepDeath, node.new)[0].text


def test_a_warned_worker_does_not_wait_long_for_what_cannot_be_killed_or_is_not_acknowledged() -> (
    None
):
    node = Node()
    node.work(0)
    node.tell(ev.TerminationWarned(15))
    assert results(node.wait(WARNED_END_S)) == [(0, 1, Outcome.CANCELED)]
    assert not node.core.left
    assert of(do.Leave, node.wait(WARNED_DRAIN_S))
    assert [result.first for result in node.core.unacknowledged()] == [0]


def test_a_softly_warned_worker_is_cut_at_the_end_of_its_time() -> None:
    node = Node(walltime_s=60.0)
    node.work(0)
    node.tell(ev.TerminationWarned(10))
    assert of(do.KillChild, node.wait(57.0))


# --- memory ---------------------------------------------------------------------------------------


def looks(effects: list[Any]) -> list[do.LookAtMemory]:
    return of(do.LookAtMemory, effects)


def usage(rss: int, *marks: Mark, current: int = 0) -> dict[int, ev.Usage]:
    return {0: ev.Usage(rss, 0.25, True, current, marks)}


def test_a_heartbeat_says_which_pulse_was_the_last_to_be_heard() -> None:
    node = Node()
    for seq in (1, 3, 2):
        node.hear(m.Pulse(seq))
    assert said(node.tell(ev.UsageRead({})), m.Heartbeat)[0].heard == 3
    node.tell(ev.MonitorChanged())
    assert said(node.tell(ev.UsageRead({})), m.Heartbeat)[0].heard == -1, "that was another's"


def test_who_comes_late_on_every_worker_is_not_tried_for_ever() -> None:
    """Its arguments take long to arrive, so it never has all of a worker's time."""
    outcomes = []
    for attempt in range(5):
        node = Node(walltime_s=3600.0)
        node.wait(30)
        node.work(0, attempt=attempt)
        node.wait(3600 - 30 - 10)
        node.tell(ev.ChildDied(0, 0, -1, 9, int(Outcome.WALLTIME)))
        outcomes.append(results(node.new)[0][2])
    assert outcomes == [Outcome.CANCELED] * 3 + [Outcome.WALLTIME] * 2


def test_it_looks_at_the_memory_of_whoever_is_busy_and_of_nobody_else() -> None:
    node = Node(max_rss_bytes=100)
    assert looks(node.wait(5)) == []
    node.work(0)
    assert looks(node.wait(3 * LOOK_S)) == 3 * [do.LookAtMemory((0,), 100)]
    node.ends(0)
    assert looks(node.wait(5)) == []


def test_it_looks_more_often_while_memory_grows() -> None:
    node = Node()
    node.work(0)
    assert looks(node.wait(LOOK_S))
    node.tell(ev.MemoryRead(usage(50, Mark("cgroup", 50, 100))))
    assert looks(node.wait(0.49)) == [] and looks(node.wait(0.02))
    node.tell(ev.MemoryRead(usage(20, Mark("cgroup", 20, 100))))
    assert looks(node.wait(0.77)) == [] and looks(node.wait(0.04))


def test_whoever_comes_near_a_limit_is_told_of_at_once_and_only_once() -> None:
    node = Node()
    node.work(0)
    assert not of(do.ReadUsage, node.tell(ev.MemoryRead(usage(89, Mark("cgroup", 89, 100)))))
    near = usage(90, Mark("h_vmem", 10, 200), Mark("cgroup", 90, 100))
    assert of(do.ReadUsage, node.tell(ev.MemoryRead(near)))
    (beat,) = said(node.tell(ev.UsageRead(near)), m.Heartbeat)
    assert (beat.held[0].rss_bytes, beat.held[0].limit_bytes) == (90, 100)
    for used, news in ((95, False), (81, False), (90, False), (79, False), (90, True)):
        node.tell(ev.MemoryRead(usage(used, Mark("cgroup", used, 100))))
        assert bool(of(do.ReadUsage, node.new)) is news
    assert not of(do.KillChild, node.new)


def test_a_job_over_max_rss_is_ended_and_told_why() -> None:
    node = Node(max_rss_bytes=100 * 1024**2)
    node.work(0, 3)
    assert not of(do.KillChild, node.tell(ev.MemoryRead(usage(100 * 1024**2, current=1))))
    node.tell(ev.MemoryRead(usage(150 * 1024**2, current=1)))
    assert of(do.KillChild, node.new) == [do.KillChild(0, int(Outcome.MEMORY))]
    assert results(node.dies(1)) == [
        (0, 1, Outcome.RETURNED), (1, 1, Outcome.MEMORY), (2, 1, Outcome.RETURNED)
    ]  # fmt: skip
    (death,) = of(do.KeepDeath, node.new)
    assert death.text == "used 150.0 MB of the 100.0 MB that max_rss allows"
    assert (death.limit, death.limit_bytes) == ("max_rss", 100 * 1024**2)
    assert (death.rss_bytes, death.cpu_fraction) == (150 * 1024**2, 0.25)


def test_each_lease_says_how_much_memory_its_jobs_may_use() -> None:
    node = Node()
    node.work(0, max_rss_bytes=200)
    assert looks(node.wait(LOOK_S)) == [do.LookAtMemory((0,), 200)]
    (beat,) = said(node.tell(ev.UsageRead(usage(150))), m.Heartbeat)
    assert beat.held[0].limit_bytes == 200
    assert not of(do.KillChild, node.tell(ev.MemoryRead(usage(150))))
    assert of(do.KillChild, node.tell(ev.MemoryRead(usage(201))))


def test_a_job_does_not_pay_for_memory_of_the_one_before_it() -> None:
    node = Node(max_rss_bytes=100)
    node.work(0, 2)
    node.tell(ev.MemoryRead(usage(150, current=0)))
    killed = of(do.KillChild, node.new)
    node.answers(0, 0)  # it had ended meanwhile
    node.tell(ev.ChildDied(0, 1, -1, 9, killed[0].outcome))
    assert results(node.new) == [(1, 1, Outcome.CANCELED)]


@pytest.mark.parametrize(("used", "killed"), [(50, False), (51, True)])
def test_a_child_that_keeps_much_memory_makes_room_for_a_fresh_one(used: int, killed: bool) -> None:
    node = Node(max_rss_bytes=100)
    node.work(0)
    node.tell(ev.MemoryRead(usage(used)))
    assert bool(of(do.KillChild, node.ends(0))) is killed


def test_a_child_that_the_kernel_ended_for_want_of_memory() -> None:
    limits = (Mark("cgroup", 0, 4 * 1024**3),)
    for killed, outcome in ((Killed("cgroup"), Outcome.MEMORY), (Killed(), Outcome.DIED)):
        node = Node()
        node.work(0)
        node.tell(ev.MemoryRead(usage(7)))
        assert results(node.dies(0, limits=limits, killed=killed)) == [(0, 1, outcome)]
        (death,) = of(do.KeepDeath, node.new)
        assert (death.rss_bytes, death.cpu_fraction, death.signal) == (7, 0.25, 9)
        assert death.limit_bytes == (4 * 1024**3 if killed.limit else 0)
        assert ("want of memory" in death.text) is bool(killed.limit)


def test_a_largest_memory_of_an_earlier_job_proves_nothing() -> None:
    limits = (Mark("h_vmem", 0, 100),)
    for peak_before, outcome in ((97, Outcome.DIED), (50, Outcome.MEMORY)):
        node = Node()
        node.work(0, 2)
        item = m.Result(0, 1, 0, int(Outcome.VALUE), 0.1, peak_before, 1)
        node.tell(ev.ChildAnswered(0, [item]))
        node.dies(1, signal=11, peak_rss_bytes=97, limits=limits)
        assert results(node.new) == [(1, 1, outcome)]


def test_what_a_job_used_last_is_known_of_every_death() -> None:
    node = Node()
    node.work(0)
    node.tell(ev.UsageRead({0: ev.Usage(70, 0.5, True, 0)}))
    node.hear(m.Cancel([m.Key(0, 1, 0)], int(Outcome.STALLED)))
    node.dies(0)
    (death,) = of(do.KeepDeath, node.new)
    assert (death.rss_bytes, death.cpu_fraction, death.limit) == (70, 0.5, "")


# --- another monitor ------------------------------------------------------------------------------


def test_to_another_monitor_it_says_hello_until_it_is_welcomed() -> None:
    node = Node()
    assert said(node.tell(ev.MonitorChanged()), m.Hello) == [HELLO]
    assert not said(node.tell(ev.Tick()), m.Hello)
    assert said(node.wait(2.5), m.Hello) == [HELLO, HELLO]
    node.hear(m.Pulse(1))  # a last word of the former one is no welcome
    assert said(node.wait(1), m.Hello)
    node.hear(m.Welcome("run", 10.0, 300.0))
    assert not said(node.wait(20), m.Hello)


def test_another_monitor_hears_at_once_of_all_that_is_here() -> None:
    node = Node()
    node.work(0)
    node.answers(0, 0)
    node.tell(ev.ChildFinished(0))
    node.work(1)
    node.answers(0, 1)
    node.tell(ev.ChildFinished(0))
    node.work(2)
    node.hear(m.Ack([m.Key(0, 1, 0)]))
    node.tell(ev.MonitorChanged())
    assert results(node.new) == [] and not of(do.ReadUsage, node.new)
    node.now += 20  # time to say what got no answer again
    effects = node.hear(m.Welcome("run", 10.0, 300.0))
    assert results(effects) == [(1, 1, Outcome.VALUE)]
    assert of(do.ReadUsage, effects) == [do.ReadUsage((0,))]
    beat = said(node.tell(ev.UsageRead({0: ev.Usage(current=2)})), m.Heartbeat)[0]
    assert [held.first for held in beat.held] == [2]
    assert beat.unacknowledged == [m.Key(1, 1, 0)]
    assert results(node.wait(9)) == []  # it was said just now
    node.hear(m.Welcome("run", 10.0, 300.0))  # the same monitor says it twice
    assert results(node.new) == [] and not of(do.ReadUsage, node.new)


def test_another_monitor_is_asked_at_once_for_the_blobs_that_are_missing() -> None:
    node = Node(blobs=("c",))
    node.work()
    node.tell(ev.MonitorChanged())
    effects = node.hear(m.Welcome("run", 10.0, 300.0))
    assert [need.digest for need in said(effects, m.NeedBlob)] == ["f"]


def test_it_keeps_working_while_it_looks_for_another_monitor() -> None:
    node = Node()
    node.work(0)
    node.work(1)
    node.tell(ev.MonitorChanged())
    assert results(node.answers(0, 0)) == [(0, 1, Outcome.VALUE)]
    assert of(do.GiveLease, node.tell(ev.ChildFinished(0)))
    node.answers(0, 1)
    node.tell(ev.ChildFinished(0))
    effects = node.hear(m.Welcome("run", 10.0, 300.0))
    assert results(effects) == [(0, 1, Outcome.VALUE), (1, 1, Outcome.VALUE)]


def test_it_leaves_after_its_grace_though_it_looks_for_another_monitor() -> None:
    node = Node()
    while not node.core.left:
        node.now = node.core.next_deadline()
        node.tell(ev.MonitorChanged() if node.now == 200.0 else ev.Tick())
    assert said(node.new, m.Bye)[0].reason == "no word from the monitor"
    assert node.now == 300.0


def test_another_monitor_may_refuse_it() -> None:
    node = Node()
    node.tell(ev.MonitorChanged())
    assert of(do.Leave, node.hear(m.Refuse("not a worker of this run")))
