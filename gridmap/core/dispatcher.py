"""The one place that decides: events in (the time among them), effects out, no I/O.

It thinks in ranges of consecutive jobs: a queue of ranges, leases that are ranges, results that
come back by range.  A range splits only where jobs part ways.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from msgspec import Struct

from gridmap.core.effects import DeliverEnd, DispatcherEffect, RunEnded
from gridmap.core.events import (
    CancelRequested,
    DispatcherEvent,
    InputEnded,
    JobsAdded,
    KnownWorker,
    MessageReceived,
    PollFailed,
    RunResumed,
    SubmissionFailed,
    WorkerDiagnosed,
    WorkersPolled,
    WorkersSubmitted,
)
from gridmap.core.inbox import Inbox
from gridmap.core.jobs import UNFINISHED, Range
from gridmap.core.leasing import Leasing
from gridmap.core.messages import Bye, Credit, Heartbeat, Hello, Results
from gridmap.core.policy import Limits, Policy
from gridmap.core.polling import Polling
from gridmap.core.records import PoolRecord, WorkerRecord
from gridmap.core.spec import Span
from gridmap.core.staffing import Staffing
from gridmap.core.states import JobState, WorkerState
from gridmap.core.takeover import Takeover
from gridmap.core.workforce import Workforce
from gridmap.errors import Cause

_J = JobState


class Summary(Struct, frozen=True):
    """A run at a glance: numbers of jobs and workers.

    :param children: jobs that the workers that are up can run at once
    :param coming: of the workers that are pending, those of each pool
    """

    jobs: dict[JobState, int]
    up: int
    pending: int
    children: int
    coming: list[int]

    @property
    def running(self) -> int:
        """Jobs that run: workers hold more than they can run at once."""
        return min(self.jobs[_J.LEASED] + self.jobs[_J.RUNNING], self.children)

    @property
    def queued(self) -> int:
        """Jobs that have not ended and do not run."""
        return sum(self.jobs[state] for state in UNFINISHED) - self.running


class Dispatcher:
    """The state machine of one run.

    :param policy: the numbers to go by
    :param limits: one for each pool of workers
    :param run: the run's id, told to the workers
    """

    def __init__(self, policy: Policy, limits: Sequence[Limits], run: str = "") -> None:
        self._policy = policy
        self._out: list[DispatcherEffect] = []
        self._input_ended = False
        self.ended = False
        self._handled_at = math.inf
        self.pools = [PoolRecord(number, limit) for number, limit in enumerate(limits)]
        self._leasing = Leasing(policy, self.pools, self._emit, self._halt)
        self.jobs = self._leasing.jobs
        give_up = self._leasing.give_up
        self._staffing = Staffing(policy, self.pools, self._emit, give_up)
        self._polling = Polling(policy, self.pools, self._emit, give_up)
        self._force = Workforce(
            policy,
            self.pools,
            self._staffing,
            self._polling,
            self._emit,
            self._leasing.lost,
            give_up,
        )
        self._force.run = run
        self._takeover = Takeover(self._leasing, self.pools)
        self._inbox = Inbox(
            policy, self.pools, self._leasing, self._takeover, self._force, self._emit
        )

    @property
    def input_ended(self) -> bool:
        """True when no more jobs will come."""
        return self._input_ended

    @property
    def workers(self) -> dict[str, WorkerRecord]:
        """Every worker that the run ever had, by native id."""
        return self._force.workers

    # --- the two calls ----------------------------------------------------------------------------

    def handle(self, event: DispatcherEvent, now: float) -> list[DispatcherEffect]:
        """Takes one event; returns what to do, in order."""
        self._out = []
        self._notice_a_stop(now)
        if isinstance(event, MessageReceived):
            self._message(event, now)
        elif isinstance(event, JobsAdded):
            self._add(event, now)
        elif isinstance(event, RunResumed):
            self._resume(event, now)
        elif isinstance(event, InputEnded):
            self._input_ended = True
            for pool in self.pools:
                pool.gather_at = min(pool.gather_at, now)
        elif isinstance(event, WorkersSubmitted):
            self._force.submitted(event, now)
        elif isinstance(event, SubmissionFailed):
            self._staffing.failed(event, now)
        elif isinstance(event, WorkersPolled):
            self._force.polled(event, now)
        elif isinstance(event, PollFailed):
            self._polling.failed(event)
        elif isinstance(event, WorkerDiagnosed):
            self._force.diagnosed(event, now)
        elif isinstance(event, CancelRequested):
            self._cancel(event)
        if not self.ended:
            self._go_on(now)
        return self._out

    def next_deadline(self) -> float:
        """Returns when `handle` wants a Tick at the latest."""
        if self.ended:
            return math.inf
        deadline = self._force.next_deadline()
        for pool in self.pools:
            wake = pool.queue.next_wake()
            deadline = min(deadline, pool.reconsider_at, math.inf if wake is None else wake)
        return deadline

    def _notice_a_stop(self, now: float) -> None:
        """Time in which this process itself was stopped counts against no worker."""
        if now - self._handled_at >= self._policy.heartbeat_s:
            late_s = now - max(self._handled_at, self.next_deadline())
            if late_s >= self._policy.heartbeat_s:
                self._force.stood_still(late_s)
        self._handled_at = now

    def summary(self) -> Summary:
        """Returns the run at a glance."""
        up = sum(pool.up for pool in self.pools)
        coming = [pool.coming + pool.requested for pool in self.pools]
        children = sum(w.children for w in self.workers.values() if w.state is WorkerState.UP)
        return Summary(self.jobs.counts(), up, sum(coming), children, coming)

    def _go_on(self, now: float) -> None:
        """After every event: what has become due, possible or unnecessary."""
        for pool in self.pools:
            self._leasing.wake(pool, now)
            pool.reconsider_at = math.inf
            if pool.hungry or pool.starving:
                self._feed(pool, now)
        self._force.keep_time(now, self._input_ended)
        for pool in self.pools:  # what a worker had that was given up just now
            if pool.starving and pool.queue.first() is not None:
                self._feed(pool, now)
            self._leasing.share(pool, now)
        if self._input_ended and self.jobs.unfinished == 0:
            self._finish()

    def _emit(self, effect: DispatcherEffect) -> None:
        self._out.append(effect)

    # --- jobs come and go -------------------------------------------------------------------------

    def _add(self, event: JobsAdded, now: float) -> None:
        span = self.jobs.add(event.count, event.spec)
        if self.ended:
            self.jobs.move(span, _J.SKIPPED)
            text = "the run had ended when it was added"
            self._emit(DeliverEnd(span, _J.SKIPPED, Cause.CANCELED, text))
            return
        pool = self.pools[event.spec.pool]
        pool.unfinished += event.count
        pool.queue.put(Range(span, event.spec, event.attempt, nbytes=event.nbytes))
        pool.gather_at = min(pool.gather_at, now + self._policy.gather_s)

    def _resume(self, event: RunResumed, now: float) -> None:
        """Takes over from an earlier monitor; what its workers hold stays with them for now."""
        self._takeover.take_in(event.ended, event.charged)
        self._staffing.resume(event.next_request)
        worked = {lease.worker for lease in event.leases}
        for known in event.workers:
            self._force.resume(known, known.id in worked, now)
        for lease in reversed(event.leases):  # the last word on a job is the one that counts
            if lease.worker not in self.workers:  # it said Hello before the scheduler's answer
                pool = self._takeover.pool_of(lease.span)
                if pool is None:
                    continue
                self._force.resume(KnownWorker(lease.worker, pool, -1), True, now)
            self._takeover.restore(self.workers[lease.worker], lease, now)
        for worker in self.workers.values():
            worker.leases = dict(reversed(worker.leases.items()))  # the oldest is the first
        self._takeover.requeue()

    def _feed(self, pool: PoolRecord, now: float) -> None:
        """Leases what waits; those who get nothing leave in time if no more is to come."""
        idle = self._leasing.feed(pool, now)
        if self._input_ended and idle and not pool.waits():
            if pool.coming:
                pool.gather_at = min(pool.gather_at, now)
            for worker in idle:
                self._force.idle(worker, now)

    # --- what workers say -------------------------------------------------------------------------

    def _message(self, event: MessageReceived, now: float) -> None:
        message = event.message
        if isinstance(message, Hello):
            self._force.hello(event.worker, message, now)
            return
        worker = self._force.heard(event.worker, event.incarnation, now)
        if isinstance(message, Results):
            if event.worker in self.workers:
                self._inbox.results(self.workers[event.worker], message, now)
        elif worker is None:
            return
        elif isinstance(message, Heartbeat):
            self._inbox.heartbeat(worker, message)
        elif isinstance(message, Credit):
            self._force.credit(worker, message.capacity, now)
        elif isinstance(message, Bye):
            self._force.leaves(worker, message, now)

    # --- the end ----------------------------------------------------------------------------------

    def _cancel(self, event: CancelRequested) -> None:
        if event.spans is None:
            self._halt(_J.CANCELED, Cause.CANCELED, event.reason)
            return
        self._leasing.cancel(event.spans, self.workers.values(), _J.CANCELED, event.reason)

    def _halt(self, state: JobState, cause: Cause, text: str) -> None:
        """Ends every job that has not ended, and the run."""
        if self.ended:
            return
        everything = [Span(0, len(self.jobs))]
        self._leasing.cancel(everything, self.workers.values(), state, text)
        for pool in self.pools:
            pool.queue.clear()
        for worker in self.workers.values():
            worker.void_leases()
        self._input_ended = True
        self._finish()

    def _finish(self) -> None:
        if not self.ended:
            self.ended = True
            self._force.dismiss()
            self._emit(RunEnded())
