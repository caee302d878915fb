"""Who runs which jobs: leases given, taken back, lost; jobs that run again, fail or are stopped."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from gridmap.core.effects import (
    Assign,
    Charged,
    DeliverEnd,
    DeliverFailure,
    Emit,
    Note,
    SendMessage,
)
from gridmap.core.events import KnownLease
from gridmap.core.jobs import IN_FLIGHT, UNFINISHED, WAITING, JobTable, Range
from gridmap.core.messages import Cancel, Recall
from gridmap.core.policy import Pace, Policy
from gridmap.core.records import LeaseRecord, PoolRecord, WorkerRecord
from gridmap.core.spec import Span
from gridmap.core.states import FINAL_JOB_STATES, JobState, WorkerState
from gridmap.errors import Cause

DONORS_LOOKED_AT = 64
"""Workers looked at when an idle one seeks work that another holds unstarted."""

_J = JobState

Halt = Callable[[JobState, Cause, str], None]


class Leasing:
    """Moves jobs between the queues, the workers and their ends.

    :param emit: takes each effect
    :param halt: called when a failure is to end the run: (state of the other jobs, cause, text)
    """

    def __init__(self, policy: Policy, pools: Sequence[PoolRecord], emit: Emit, halt: Halt) -> None:
        self._policy = policy
        self._pools = pools
        self._emit = emit
        self._halt = halt
        self._charged: dict[int, int] = {}
        self._pace: dict[str, Pace] = {}
        self.jobs = JobTable()

    # --- giving -----------------------------------------------------------------------------------

    def attempts(self, span: Span) -> int:
        """Returns how often the first of these jobs was tried; one that failed once is alone."""
        return self._charged.get(span.first, 0) + 1

    def wake(self, pool: PoolRecord, now: float) -> None:
        """Queues the jobs that have backed off long enough."""
        for item in pool.queue.wake(now):
            for span in self.jobs.spans(item.span, frozenset({_J.REQUEUED})):
                self.jobs.move(span, _J.QUEUED)

    def feed(self, pool: PoolRecord) -> list[WorkerRecord]:
        """Leases waiting jobs to workers that have room, in turn; returns those that got none."""
        idle = []
        while pool.hungry or (pool.starving and pool.queue.first() is not None):
            starved = pool.starving and pool.queue.first() is not None  # theirs is the first turn
            worker_id, _ = (pool.starving if starved else pool.hungry).popitem(last=False)
            pool.starving.pop(worker_id, None)
            worker = pool.workers[worker_id]
            if len(worker.leases) >= self._room(worker, pool):
                continue
            item = self._take(pool)
            if item is None:
                pool.starving[worker_id] = None
                if not worker.leases:
                    self._recall_for(pool)
                    idle.append(worker)
                continue
            self._lease(item, worker)
            pool.hungry[worker_id] = None
        return idle

    def _lease(self, item: Range, worker: WorkerRecord) -> None:
        lease = LeaseRecord(item.span, item.spec, item.attempt, [item.span])
        worker.leases[(item.span.first, item.attempt)] = lease
        worker.idle_since = math.inf
        self.jobs.move(item.span, _J.LEASED)
        self._emit(Assign(worker.id, item.span, item.attempt, item.spec))
        self._weigh(worker)

    def _room(self, worker: WorkerRecord, pool: PoolRecord) -> int:
        """Returns how many leases a worker may hold: more than it runs only where plenty waits."""
        if pool.queue.count > (pool.coming + pool.requested) * pool.limits.children:
            return worker.capacity
        return min(worker.capacity, worker.children)

    def _take(self, pool: PoolRecord) -> Range | None:
        """Takes jobs from the queue that still need to be run; None when there are none."""
        queue = pool.queue
        while (item := queue.first()) is not None:
            single = item.alone or not item.spec.rerunnable or not item.spec.reuse
            size = self._policy.chunk_size(
                self.pace(item.spec.function), queue.count, pool.expected_children()
            )
            item = queue.take(1 if single else size)
            waiting = self.jobs.spans(item.span, frozenset({_J.QUEUED}))  # some ended, or went
            for span in reversed(waiting[1:]):
                queue.put_back(Range(span, item.spec, item.attempt, item.alone))
            if waiting:
                return Range(waiting[0], item.spec, item.attempt, item.alone)
        return None

    def pace(self, function: str) -> Pace:
        """Returns how long the calls of a function take."""
        return self._pace.setdefault(function, Pace())

    def resume(
        self, ended: Iterable[tuple[Span, JobState]], charged: Iterable[tuple[int, int]]
    ) -> None:
        """Takes in which jobs ended under an earlier monitor of the run, and what it charged."""
        for span, state in ended:
            if state in FINAL_JOB_STATES:
                for part in self.jobs.spans(_within(span, len(self.jobs)), UNFINISHED):
                    for piece in self.jobs.segments(part):
                        self.end(piece, state)
        self._charged.update((job, attempts) for job, attempts in charged if attempts > 0)

    def pool_of(self, span: Span) -> int | None:
        """Returns the pool of these jobs; None where they cannot make up a lease."""
        if span.count < 1 or _within(span, len(self.jobs)) != span:
            return None
        return self.jobs.spec(span.first).pool if list(self.jobs.segments(span)) == [span] else None

    def requeue(self) -> None:
        """Leaves in the queues what waits and no more; who was charged waits alone."""
        charged = sorted(self._charged)
        for pool in self._pools:
            items = []
            while (item := pool.queue.first()) is not None:
                items.append(pool.queue.take(item.span.count))
            for item in items:
                for span in self.jobs.spans(item.span, frozenset({_J.QUEUED})):
                    between = charged[
                        bisect_left(charged, span.first) : bisect_left(charged, span.stop)
                    ]
                    at = span.first
                    for job in [*between, span.stop]:
                        if job > at:
                            pool.queue.put(replace(item, span=Span(at, job - at)))
                        if job < span.stop:
                            pool.queue.put(replace(item, span=Span(job, 1), alone=True))
                        at = job + 1

    def adopt(self, worker: WorkerRecord, span: Span, attempt: int) -> LeaseRecord | None:
        """Leaves jobs that wait to the worker that an earlier monitor gave them to, if they all
        do."""
        if not worker.resumed or self.pool_of(span) != worker.pool:
            return None
        if self.jobs.spans(span, frozenset({_J.QUEUED})) != [span]:
            return None
        lease = LeaseRecord(span, self.jobs.spec(span.first), attempt, [span])
        worker.leases[(span.first, attempt)] = lease
        self.jobs.move(span, _J.LEASED)
        return lease

    def restore(self, worker: WorkerRecord, known: KnownLease, now: float) -> None:
        """Gives a worker a lease again that it had: what of it still waits."""
        name = (known.span.first, known.attempt)
        waiting = self.jobs.spans(known.span, frozenset({_J.QUEUED}))
        if not waiting or name in worker.leases or self.pool_of(known.span) != worker.pool:
            return
        spec = self.jobs.spec(known.span.first)
        worker.incarnation = worker.incarnation or known.incarnation
        lease = LeaseRecord(known.span, spec, known.attempt, waiting)
        if worker.incarnation != known.incarnation:  # of a process that is no more
            if not spec.rerunnable:
                text = f"worker {worker.id} was started anew"
                for job in (job for s in waiting for job in range(s.first, s.stop)):
                    self.attempt_failed(job, lease, Cause.DIED, -1, worker, text, now)
            return
        worker.leases[name] = lease
        for span in waiting:
            self.jobs.move(span, _J.LEASED)

    # --- taking back ------------------------------------------------------------------------------

    def _recall_for(self, pool: PoolRecord) -> None:
        """A worker has nothing to do: take back what another has not started."""
        for donor_id in list(itertools.islice(pool.loaded, DONORS_LOOKED_AT)):
            donor = pool.workers[donor_id]
            spare = itertools.islice(
                reversed(donor.leases.values()), len(donor.leases) - donor.children
            )
            lease = next((x for x in spare if not x.recalled), None)
            if lease is not None:
                lease.recalled = True
                self._emit(SendMessage(donor_id, Recall([lease.key])))
                return
            del pool.loaded[donor_id]

    def _weigh(self, worker: WorkerRecord) -> None:
        """Keeps the list of those that hold more than they run."""
        loaded = self._pools[worker.pool].loaded
        if worker.state is WorkerState.UP and len(worker.leases) > worker.children:
            loaded.setdefault(worker.id)
        else:
            loaded.pop(worker.id, None)

    def close(self, worker: WorkerRecord, lease: LeaseRecord) -> None:
        """Every job of a lease has been answered."""
        worker.leases.pop((lease.span.first, lease.attempt), None)
        self.pace(lease.spec.function).finished(lease.span.count)
        self._weigh(worker)

    def void(self, worker: WorkerRecord, lease: LeaseRecord) -> None:
        """The worker does not know of this lease: its jobs go back, uncharged."""
        name = (lease.span.first, lease.attempt)
        worker.former[name] = worker.leases.pop(name)
        for span in lease.open:
            self.queue_again(self.jobs.spans(span, IN_FLIGHT), lease)
        self._weigh(worker)

    def queue_again(self, spans: Iterable[Span], lease: LeaseRecord) -> None:
        """Puts jobs back to the front of the queue, uncharged."""
        pool = self._pools[lease.spec.pool]
        for span in reversed(list(spans)):
            self.jobs.move(span, _J.QUEUED)
            pool.queue.put_back(Range(span, lease.spec, lease.attempt + 1))
            pool.gather_at = -math.inf  # those who could have run them may have left

    def lost(self, worker: WorkerRecord, cause: Cause, text: str, now: float) -> None:
        """A worker is no more: the job that each of its processes was in is charged for it.

        Nothing ran any more in a worker that left of its own accord (PREEMPTED): nothing is
        charged, but what must not run twice does not run again.
        """
        running = 0 if cause is Cause.PREEMPTED else worker.children
        for order, lease in enumerate(worker.void_leases()):
            inside = [s for span in lease.open for s in self.jobs.spans(span, IN_FLIGHT)]
            if inside and (order < running or not lease.spec.rerunnable):
                culprit, rest = inside[0].first, Span(inside[0].first + 1, inside[0].count - 1)
                inside[:1] = [rest] if rest.count else []
                self.attempt_failed(culprit, lease, cause, -1, worker, text, now)
            self.queue_again((s for x in inside for s in self.jobs.spans(x, IN_FLIGHT)), lease)
        self._weigh(worker)

    # --- ends -------------------------------------------------------------------------------------

    def end(self, span: Span, state: JobState) -> None:
        """Takes consecutive jobs of one pool to a final state."""
        self.jobs.move(span, state)
        self._pools[self.jobs.spec(span.first).pool].unfinished -= span.count

    def attempt_failed(
        self,
        job: int,
        lease: LeaseRecord,
        cause: Cause,
        index: int,
        worker: WorkerRecord,
        text: str,
        now: float,
    ) -> None:
        """Charges a job for an attempt; it runs again, alone, or fails for good."""
        charged = self._charged[job] = self._charged.get(job, 0) + 1
        if not self._policy.may_retry(cause, charged, lease.spec.rerunnable):
            self.end(Span(job, 1), _J.FAILED)
            self._emit(DeliverFailure(job, cause, charged, index, worker.id, text))
            if self._policy.stop_on_failure:
                self._halt(_J.SKIPPED, Cause.CANCELED, f"the run stopped when job {job} failed")
            return
        self.jobs.move(Span(job, 1), _J.REQUEUED)
        self._emit(Charged(job, charged))
        again = Range(Span(job, 1), lease.spec, lease.attempt + 1, alone=True)
        pool = self._pools[lease.spec.pool]
        pool.queue.put_later(again, now + self._policy.backoff_s(charged))
        pool.gather_at = min(pool.gather_at, now)
        most = self._policy.num_resubmits
        say = f"job {job} ({cause}) on {worker.host}: resubmission {charged} of {most}"
        self._emit(Note("warning", f"{say}; {text}" if text else say))

    def give_up(self, pool: PoolRecord, cause: Cause, text: str, refused: bool, now: float) -> None:
        """No worker of this pool can be had: what waits for one fails, and, if so asked, the run.

        What a worker that leaves still runs may end well.
        """
        failed = False
        for span in self.jobs.spans(Span(0, len(self.jobs)), WAITING):
            for part in self.jobs.segments(span):
                if self.jobs.spec(part.first).pool == pool.number:
                    failed = True
                    self.end(part, _J.FAILED)
                    self._emit(DeliverEnd(part, _J.FAILED, cause, text, refused))
        pool.queue.clear()
        if failed and self._policy.stop_on_failure:
            self._halt(_J.SKIPPED, Cause.CANCELED, "the run stopped: " + text)

    def cancel(
        self, spans: Iterable[Span], workers: Iterable[WorkerRecord], state: JobState, text: str
    ) -> None:
        """Ends those of these jobs that have not ended, and stops their leases."""
        inside = (_within(span, len(self.jobs)) for span in spans)
        wanted = sorted(span for span in inside if span.count > 0)
        self._stop_leases(wanted, workers)
        for span in wanted:
            for part in self.jobs.spans(span, UNFINISHED):
                for piece in self.jobs.segments(part):
                    self.end(piece, state)
                self._emit(DeliverEnd(part, state, Cause.CANCELED, text))

    def _stop_leases(self, spans: list[Span], workers: Iterable[WorkerRecord]) -> None:
        for worker in workers:
            keys = []
            for lease in worker.leases.values():
                at = bisect_left(spans, (lease.span.stop, 0))  # spans before it start early enough
                if any(s.stop > lease.span.first for s in spans[max(0, at - 1) : at]):
                    keys.append(lease.key)
            if keys:
                self._emit(SendMessage(worker.id, Cancel(keys)))


def _within(span: Span, count: int) -> Span:
    first = max(0, span.first)
    return Span(first, min(span.stop, count) - first)
