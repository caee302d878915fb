"""What the dispatcher remembers of workers, leases and pools."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable

from msgspec import Struct, field

from gridmap.core.events import NativeState, NativeStatus
from gridmap.core.jobs import RangeQueue
from gridmap.core.messages import Held, Key
from gridmap.core.policy import Limits, is_near
from gridmap.core.spec import JobSpec, Span
from gridmap.core.states import WORKER_TRANSITIONS, InvalidTransition, WorkerState
from gridmap.errors import Cause

LIVE = frozenset({WorkerState.REQUESTED, WorkerState.PENDING, WorkerState.UP, WorkerState.SUSPECT})
"""States of workers that work or may yet come to work."""

COMING = frozenset({WorkerState.REQUESTED, WorkerState.PENDING})
"""States of workers that have not said Hello."""

ENDED = frozenset({WorkerState.GONE, WorkerState.LOST})


class LeaseRecord(Struct):
    """One try of consecutive jobs on a worker.

    :param open: those of its jobs that the worker has not answered, in order
    :param last: what its worker last said of it while a job ran
    """

    span: Span
    spec: JobSpec
    attempt: int
    open: list[Span]
    pulse: int = -1  # the last one that the worker was sent before it
    absent: int = 0  # heartbeats in a row that should have known of it, and did not
    recalled: bool = False
    since: float = math.inf  # when it began to run, as far as can be known from here
    first: bool = False  # its first job was the first of a process of its worker
    last: Held | None = None
    idle_job: int = -1
    idle_beats: int = 0  # heartbeats in a row in which that job did nothing

    @property
    def key(self) -> Key:
        return Key(self.span.first, self.span.count, self.attempt)

    @property
    def left(self) -> int:
        """How many of its jobs have no answer yet."""
        return sum(span.count for span in self.open)

    def holds(self, job: int) -> bool:
        """Returns whether this job has no answer yet."""
        return any(span.first <= job < span.stop for span in self.open)

    def covers(self, span: Span) -> bool:
        """Returns whether all these jobs belong to the lease."""
        return self.span.first <= span.first and span.stop <= self.span.stop

    def answered(self, done: Span) -> list[Span]:
        """Takes jobs out of those without an answer; returns those that were among them."""
        left: list[Span] = []
        taken: list[Span] = []
        for span in self.open:
            first, stop = max(span.first, done.first), min(span.stop, done.stop)
            if first >= stop:
                left.append(span)
                continue
            taken.append(Span(first, stop - first))
            parts = Span(span.first, first - span.first), Span(stop, span.stop - stop)
            left += [part for part in parts if part.count]
        self.open = left
        return taken


def greedy(
    running: list[LeaseRecord], causes: Iterable[Cause], of_worker: Cause
) -> list[LeaseRecord]:
    """Returns those leases, of several that a worker ran, to which its end for want of memory is to
    be put down; none where nothing speaks for that, or nothing is known of who had how much.

    :param causes: what the worker seems to have died of, as far as each lease can tell
    :param of_worker: the same, as the scheduler says

    Held by tests/core/test_packing.py::test_who_is_charged_when_a_worker_dies_for_want_of_memory.
    """
    if len(running) < 2:
        return []
    short = (one for one, cause in zip(running, causes, strict=False) if cause is Cause.MEMORY)
    known = [
        (lease.last.rss_bytes, lease.last.limit_bytes, lease)
        for lease in short
        if lease.last is not None and lease.holds(lease.last.current)
    ]
    near = [lease for rss, limit, lease in known if is_near(rss, limit)]
    if near or of_worker is not Cause.MEMORY or not known:
        return near
    return [max(known, key=lambda one: one[0])[2]]


class WorkerRecord(Struct):
    """One worker: what it is, and what is known of it.

    :param former: leases taken from it before all their jobs were answered: a late value counts
    :param past: incarnations that a newer one has replaced
    :param refusals: leases in a row that it gave back whole, unasked
    :param served: leases of which it answered every job
    """

    id: str
    pool: int
    state: WorkerState = WorkerState.REQUESTED
    incarnation: str = ""
    host: str = ""
    children: int = 1
    capacity: int = 0
    log_stdout: str = ""
    log_stderr: str = ""
    leases: dict[tuple[int, int], LeaseRecord] = field(default_factory=dict)
    former: dict[tuple[int, int], LeaseRecord] = field(default_factory=dict)
    past: set[str] = field(default_factory=set)
    resumed: bool = False  # it worked for an earlier monitor of the run
    seq: int = -1  # of its last heartbeat
    refusals: int = 0
    served: int = 0
    up_since: float = math.inf
    asked_to_leave: bool = False
    request: int = -1  # the submission that it came from
    reminder_at: float = math.inf
    heard_at: float = -math.inf
    suspect_since: float = math.inf
    running_since: float = math.inf  # for the scheduler, while it has not said Hello
    idle_since: float = math.inf
    suspended: bool = False  # by the scheduler, as far as we know
    blurred: bool = False  # its next heartbeat tells of a time in which it was suspended
    canceled: bool = False  # we asked the scheduler to delete it
    strangers: set[Key] = field(default_factory=set)  # held by it, last heartbeat, unknown here
    native: NativeStatus = NativeStatus(NativeState.UNKNOWN)
    story: list[str] = field(default_factory=list)

    @property
    def named(self) -> str:
        """What to call it in words for people."""
        return f"worker {self.id} on {self.host}" if self.host else f"worker {self.id}"

    @property
    def is_of_scheduler(self) -> bool:
        """True when the scheduler named it; another may only say that it is a worker."""
        return self.request >= 0 or self.resumed

    def move(self, to: WorkerState, why: str) -> None:
        """Takes the worker to a state.

        :raises InvalidTransition: the table does not have it; the error tells the worker's story
        """
        if to is self.state:
            return
        if to not in WORKER_TRANSITIONS[self.state]:
            story = "\n".join(self.story)
            raise InvalidTransition(f"worker {self.id}", self.state, to, story)
        self.story.append(f"{self.state.name} -> {to.name}: {why}")
        self.state = to

    def lease_of(self, job: int, attempt: int) -> LeaseRecord | None:
        """Returns the lease under which the worker runs this try of a job."""
        return _find(self.leases, job, attempt)

    def former_lease_of(self, job: int, attempt: int) -> LeaseRecord | None:
        """Returns the lease, no longer valid, under which it was given this try of a job."""
        return _find(self.former, job, attempt)

    def void_leases(self) -> list[LeaseRecord]:
        """Takes all leases from the worker; returns them, oldest first."""
        leases = list(self.leases.values())
        self.former.update((name, lease) for name, lease in self.leases.items() if lease.open)
        self.leases.clear()
        return leases


def _find(leases: dict[tuple[int, int], LeaseRecord], job: int, attempt: int) -> LeaseRecord | None:
    exact = leases.get((job, attempt))
    if exact is not None:
        return exact
    for lease in leases.values():
        if lease.attempt == attempt and lease.span.first <= job < lease.span.stop:
            return lease
    return None


class PoolRecord(Struct):
    """The workers and the waiting jobs of one kind of Resources.

    :param workers: those that have not ended
    :param hungry: ids of workers that may have room for a lease, in the order of their turn
    :param starving: ids of workers that had room when nothing waited
    :param loaded: ids of workers that hold more than they run
    :param strikes: workers in a row that ended or hung before they said Hello
    :param useless: workers in a row that said Hello and left without an answer to any job
    :param most: workers that there may be at a time, after somebody deleted some
    :param awaited: workers of an earlier monitor that have yet to say what they hold
    :param awaited_until: how long nothing is leased for that reason
    :param departed: workers that left warned, and until when to ask the scheduler who did it
    """

    number: int
    limits: Limits
    queue: RangeQueue = field(default_factory=RangeQueue)
    workers: dict[str, WorkerRecord] = field(default_factory=dict)
    hungry: OrderedDict[str, None] = field(default_factory=OrderedDict)
    starving: OrderedDict[str, None] = field(default_factory=OrderedDict)
    loaded: OrderedDict[str, None] = field(default_factory=OrderedDict)
    unfinished: int = 0
    requested: int = 0  # workers asked for, not answered yet
    up: int = 0
    coming: int = 0  # workers submitted that have not said Hello
    reconsider_at: float = math.inf  # when a job that is kept for another host is kept no longer
    share_at: float = -math.inf  # when, at the earliest, a lease runs late, if somebody starves
    gather_at: float = math.inf  # when to see whether more workers are wanted
    submit_not_before: float = -math.inf
    leaving_until: float = -math.inf  # so long those that departed hold up the next submission
    held_since: float = math.inf  # when the first of those that leave held it up
    submit_failures: int = 0
    submit_failing_since: float = math.inf
    poll_at: float = math.inf
    poll_every_s: float = 0.0
    unanswered_since: float = math.inf  # first poll without an answer while all have yet to come
    asked_at: float = math.inf  # when the request was made that has no answer yet
    strikes: int = 0
    useless: int = 0
    most: float = math.inf
    deleted_text: str = ""  # what the scheduler said of the last of them
    awaited: set[str] = field(default_factory=set)
    awaited_until: float = -math.inf
    departed: dict[str, float] = field(default_factory=dict)
    capped: bool = False  # it would have more workers if other pools had fewer
    said: str = ""

    def worked(self) -> None:
        """A result came: whatever failed to start before, this pool works."""
        self.strikes = self.useless = 0

    def waits(self) -> int:
        """Returns how many jobs wait, those that back off counted as one a range."""
        return self.queue.count + self.queue.later

    def expected_children(self) -> int:
        """Returns how many processes for jobs there are or will be soon."""
        return (self.up + self.coming + self.requested) * self.limits.children

    def hold(self, now: float, wait_s: float, leaving_s: float, most_s: float) -> None:
        """Somebody leaves: others are asked for once it is known why, or a while has gone by.

        However many leave one after the other: not later than `most_s` after the first of them.
        """
        if now > self.held_since + 2 * most_s:  # nobody was asked for then
            self.held_since = now
        self.held_since = min(self.held_since, now)
        latest = self.held_since + most_s
        self.submit_not_before = max(self.submit_not_before, min(now + wait_s, latest))
        self.leaving_until = max(self.leaving_until, min(now + leaving_s, latest))

    @property
    def staff_at(self) -> float:
        """When to see whether more workers are wanted."""
        leaving_until = self.leaving_until if self.departed else -math.inf
        return max(self.gather_at, self.submit_not_before, leaving_until)


Lose = Callable[[WorkerRecord, Cause, str, float], None]
"""Takes back what a worker held: (worker, cause, text, now)."""

GiveUp = Callable[[PoolRecord, Cause, str, bool, float], None]
"""Ends what waits for a pool that can have no workers: (pool, cause, text, refused, now)."""
