"""What the dispatcher remembers of workers, leases and pools."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from gridmap.core.events import NativeState, NativeStatus
from gridmap.core.jobs import RangeQueue
from gridmap.core.messages import Key
from gridmap.core.policy import Limits
from gridmap.core.spec import JobSpec, Span
from gridmap.core.states import WORKER_TRANSITIONS, InvalidTransition, WorkerState

LIVE = frozenset({WorkerState.REQUESTED, WorkerState.PENDING, WorkerState.UP, WorkerState.SUSPECT})
"""States of workers that work or may yet come to work."""

ENDED = frozenset({WorkerState.GONE, WorkerState.LOST})


@dataclass
class LeaseRecord:
    """One try of consecutive jobs on a worker.

    :param open: those of its jobs that the worker has not answered, in order
    """

    span: Span
    spec: JobSpec
    attempt: int
    open: list[Span]
    absent: int = 0  # heartbeats in a row that did not know of it
    recalled: bool = False

    @property
    def key(self) -> Key:
        return Key(self.span.first, self.span.count, self.attempt)

    def holds(self, job: int) -> bool:
        """Returns whether this job has no answer yet."""
        return any(span.first <= job < span.stop for span in self.open)

    def answered(self, done: Span) -> None:
        """Takes jobs out of those without an answer."""
        left: list[Span] = []
        for span in self.open:
            before = Span(span.first, min(done.first, span.stop) - span.first)
            start = max(done.stop, span.first)
            after = Span(start, span.stop - start)
            if before.count >= span.count or after.count >= span.count:
                left.append(span)
            else:
                left += [part for part in (before, after) if part.count > 0]
        self.open = left


@dataclass
class WorkerRecord:
    """One worker: what it is, and what is known of it."""

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
    heard_at: float = -math.inf
    suspect_since: float = math.inf
    running_since: float = math.inf  # for the scheduler, while it has not said Hello
    idle_since: float = math.inf
    canceled: bool = False  # we asked the scheduler to delete it
    strangers: set[Key] = field(default_factory=set)  # held by it, last heartbeat, unknown here
    native: NativeStatus = NativeStatus(NativeState.UNKNOWN)
    idle_beats: dict[int, int] = field(default_factory=dict)
    story: list[str] = field(default_factory=list)

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
        for lease in self.leases.values():
            if lease.attempt == attempt and lease.span.first <= job < lease.span.stop:
                return lease
        return None


@dataclass
class PoolRecord:
    """The workers and the waiting jobs of one kind of Resources.

    :param hungry: ids of workers that may have room for a lease, in the order of their turn
    :param strikes: workers in a row that ended or hung before they did anything
    """

    number: int
    limits: Limits
    queue: RangeQueue = field(default_factory=RangeQueue)
    workers: dict[str, WorkerRecord] = field(default_factory=dict)
    hungry: dict[str, None] = field(default_factory=dict)
    unfinished: int = 0
    requested: int = 0  # workers asked for, not answered yet
    up: int = 0
    coming: int = 0  # workers submitted that have not said Hello
    gather_at: float = math.inf  # when to see whether more workers are wanted
    submit_not_before: float = -math.inf
    submit_failures: int = 0
    submit_failing_since: float = math.inf
    poll_at: float = math.inf
    poll_every_s: float = 0.0
    strikes: int = 0
    deletions: int = 0
    said: str = ""

    def waits(self) -> int:
        """Returns how many jobs wait, those that back off counted as one a range."""
        return self.queue.count + self.queue.later

    def expected_children(self) -> int:
        """Returns how many processes for jobs there are or will be soon."""
        return (self.up + self.coming + self.requested) * self.limits.children
