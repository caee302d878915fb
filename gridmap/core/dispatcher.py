"""The one place that decides: events in (the time among them), effects out, no I/O.

It thinks in ranges of consecutive jobs: a queue of ranges, leases that are ranges, results that
come back by range.  A range splits only where jobs part ways.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gridmap.core.effects import (
    Assign,
    Deliver,
    DeliverEnd,
    DeliverFailure,
    DispatcherEffect,
    Note,
    RunEnded,
    Sampled,
    SendMessage,
)
from gridmap.core.events import (
    CancelRequested,
    DispatcherEvent,
    InputEnded,
    JobsAdded,
    MessageReceived,
    SubmissionFailed,
    WorkerDiagnosed,
    WorkersPolled,
    WorkersSubmitted,
)
from gridmap.core.jobs import IN_FLIGHT, UNFINISHED, WAITING, JobTable, Range
from gridmap.core.messages import (
    Ack,
    Bye,
    Cancel,
    Credit,
    Drain,
    Heartbeat,
    Held,
    Hello,
    Key,
    Outcome,
    Phase,
    Pulse,
    Recall,
    Result,
    Results,
)
from gridmap.core.policy import CAUSE_OF, Limits, Pace, Policy
from gridmap.core.records import LeaseRecord, PoolRecord, WorkerRecord
from gridmap.core.spec import Span
from gridmap.core.states import JobState, WorkerState
from gridmap.core.workforce import Workforce
from gridmap.errors import Cause

DONORS_LOOKED_AT = 64
"""Workers looked at when an idle one seeks work that another holds unstarted."""

_J = JobState


@dataclass(frozen=True)
class Summary:
    """A run at a glance: numbers of jobs and workers."""

    jobs: dict[JobState, int]
    up: int
    pending: int


class Dispatcher:
    """The state machine of one run.

    :param policy: the numbers to go by
    :param limits: one for each pool of workers
    :param run: the run's id, told to the workers
    """

    def __init__(self, policy: Policy, limits: Sequence[Limits], run: str = "") -> None:
        self._policy = policy
        self._out: list[DispatcherEffect] = []
        self._charged: dict[int, int] = {}
        self._pace: dict[str, Pace] = {}
        self._input_ended = False
        self.ended = False
        self.jobs = JobTable()
        self.pools = [PoolRecord(number, limit) for number, limit in enumerate(limits)]
        self._force = Workforce(policy, self.pools, self._emit, self._lost, self._give_up)
        self._force.run = run

    @property
    def workers(self) -> dict[str, WorkerRecord]:
        """Every worker that the run ever had, by native id."""
        return self._force.workers

    # --- the two calls ----------------------------------------------------------------------------

    def handle(self, event: DispatcherEvent, now: float) -> list[DispatcherEffect]:
        """Takes one event; returns what to do, in order."""
        self._out = []
        if isinstance(event, MessageReceived):
            self._message(event, now)
        elif isinstance(event, JobsAdded):
            self._add(event, now)
        elif isinstance(event, InputEnded):
            self._input_ended = True
            for pool in self.pools:
                pool.gather_at = min(pool.gather_at, now)
        elif isinstance(event, WorkersSubmitted):
            self._force.submitted(event, now)
        elif isinstance(event, SubmissionFailed):
            self._force.submission_failed(event, now)
        elif isinstance(event, WorkersPolled):
            self._force.polled(event, now)
        elif isinstance(event, WorkerDiagnosed):
            self._force.diagnosed(event, now)
        elif isinstance(event, CancelRequested):
            self._cancel(event, now)
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
            if wake is not None:
                deadline = min(deadline, wake)
        return deadline

    def summary(self) -> Summary:
        """Returns the run at a glance."""
        up = sum(pool.up for pool in self.pools)
        pending = sum(pool.coming + pool.requested for pool in self.pools)
        return Summary(self.jobs.counts(), up, pending)

    def _go_on(self, now: float) -> None:
        """After every event: what has become due, possible or unnecessary."""
        for pool in self.pools:
            for item in pool.queue.wake(now):
                for span in self.jobs.spans(item.span, frozenset({_J.REQUEUED})):
                    self.jobs.move(span, _J.QUEUED)
                self._wake_hungry(pool)
            if pool.hungry:
                self._feed(pool, now)
        self._force.keep_time(now, self._input_ended)
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
        pool.queue.put(Range(span, event.spec))
        pool.gather_at = min(pool.gather_at, now + self._policy.gather_s)
        for worker_id, worker in pool.workers.items():
            if worker.state is WorkerState.UP and not worker.leases:
                pool.hungry[worker_id] = None

    def _feed(self, pool: PoolRecord, now: float) -> None:
        """Leases waiting jobs to workers that have room, in turn."""
        while pool.hungry:
            worker = pool.workers[next(iter(pool.hungry))]
            del pool.hungry[worker.id]
            if len(worker.leases) >= self._room(worker, pool):
                continue
            item = self._take(pool)
            if item is None:
                self._starves(worker, pool, now)
                continue
            lease = LeaseRecord(item.span, item.spec, item.attempt, [item.span])
            worker.leases[(item.span.first, item.attempt)] = lease
            worker.idle_since = math.inf
            self.jobs.move(item.span, _J.LEASED)
            self._emit(Assign(worker.id, item.span, item.attempt, item.spec))
            pool.hungry[worker.id] = None

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
            pace = self._pace.setdefault(item.spec.function, Pace())
            size = self._policy.chunk_size(pace, queue.count, pool.expected_children())
            item = queue.take(1 if single else size)
            waiting = self.jobs.spans(item.span, WAITING)
            for span in reversed(waiting[1:]):
                queue.put_back(Range(span, item.spec, item.attempt, item.alone))
            if waiting:
                return Range(waiting[0], item.spec, item.attempt, item.alone)
        return None

    def _starves(self, worker: WorkerRecord, pool: PoolRecord, now: float) -> None:
        """A worker has room and nothing waits: take back what another has not started."""
        if self._input_ended and not pool.waits() and pool.coming:
            pool.gather_at = min(pool.gather_at, now)
        if worker.leases:
            return
        if self._input_ended and not pool.waits():
            self._force.idle(worker, now)
        for donor in itertools.islice(pool.workers.values(), DONORS_LOOKED_AT):
            if len(donor.leases) <= donor.children or donor.state is not WorkerState.UP:
                continue
            lease = next(reversed(donor.leases.values()))
            if not lease.recalled:
                lease.recalled = True
                self._emit(SendMessage(donor.id, Recall([lease.key])))
                return

    def _queue_again(self, spans: Iterable[Span], lease: LeaseRecord, alone: bool = False) -> None:
        """Puts jobs back to the front of the queue, uncharged."""
        pool = self.pools[lease.spec.pool]
        for span in reversed(list(spans)):
            self.jobs.move(span, _J.QUEUED)
            pool.queue.put_back(Range(span, lease.spec, lease.attempt + 1, alone))
        self._wake_hungry(pool)

    def _wake_hungry(self, pool: PoolRecord) -> None:
        """Work has come up: whoever is not full is asked again."""
        for worker in itertools.islice(pool.workers.values(), DONORS_LOOKED_AT):
            if worker.state is WorkerState.UP and len(worker.leases) < worker.capacity:
                pool.hungry.setdefault(worker.id)

    def _end(self, span: Span, state: JobState) -> None:
        self.jobs.move(span, state)
        self.pools[self.jobs.spec(span.first).pool].unfinished -= span.count

    # --- what workers say -------------------------------------------------------------------------

    def _message(self, event: MessageReceived, now: float) -> None:
        message = event.message
        if isinstance(message, Hello):
            self._force.hello(event.worker, message, now)
            return
        worker = self._force.heard(event.worker, event.incarnation, now)
        if isinstance(message, Results):
            if event.worker in self.workers:
                self._results(self.workers[event.worker], message, now)
        elif worker is None:
            return
        elif isinstance(message, Heartbeat):
            self._heartbeat(worker, message, now)
        elif isinstance(message, Credit):
            worker.capacity = message.capacity
            self.pools[worker.pool].hungry[worker.id] = None
        elif isinstance(message, Bye):
            self._force.leaves(worker, message.reason, now)

    def _results(self, worker: WorkerRecord, message: Results, now: float) -> None:
        """Takes results in; whatever they say, the worker may forget them afterwards."""
        for index, item in enumerate(message.items):
            span = Span(item.first, item.count)
            if span.stop > len(self.jobs):
                continue
            lease = worker.lease_of(item.first, item.attempt)
            if item.outcome == Outcome.VALUE:
                self._values(span, item, index, worker)
            elif lease is not None and lease.holds(item.first):
                self._no_value(lease, item, index, worker, now)
            if lease is not None:
                lease.answered(span)
                if not lease.open:
                    self._close(worker, lease)
        self._emit(SendMessage(worker.id, Ack([item.key for item in message.items])))
        if worker.state is WorkerState.UP:
            self.pools[worker.pool].hungry[worker.id] = None

    def _values(self, span: Span, item: Result, index: int, worker: WorkerRecord) -> None:
        """First value wins, however late it comes."""
        for part in self.jobs.spans(span, UNFINISHED):
            self._end(part, _J.COMPLETED)
            self._emit(Deliver(part, index, part.first - span.first, worker.id))
        self._pace.setdefault(self.jobs.spec(span.first).function, Pace()).measured(
            span.count, item.seconds
        )
        self._force.worked(self.pools[worker.pool])

    def _no_value(
        self, lease: LeaseRecord, item: Result, index: int, worker: WorkerRecord, now: float
    ) -> None:
        span = Span(item.first, item.count)
        if item.outcome in (Outcome.RETURNED, Outcome.CANCELED):
            lease.answered(span)
            self._queue_again(self.jobs.spans(span, IN_FLIGHT), lease)
            return
        if self.jobs[item.first] in IN_FLIGHT:
            cause = CAUSE_OF[Outcome(item.outcome)]
            self._attempt_failed(item.first, lease, cause, index, worker, "", now)

    def _close(self, worker: WorkerRecord, lease: LeaseRecord) -> None:
        worker.leases.pop((lease.span.first, lease.attempt), None)
        self._pace.setdefault(lease.spec.function, Pace()).finished(lease.span.count)

    # --- heartbeats -------------------------------------------------------------------------------

    def _heartbeat(self, worker: WorkerRecord, message: Heartbeat, now: float) -> None:
        """Compares the worker's inventory with ours: neither side may forget a lease for long."""
        self._emit(SendMessage(worker.id, Pulse(message.seq)))
        if worker.state is WorkerState.DRAINING:  # the word may have been lost
            self._emit(SendMessage(worker.id, Drain()))
        strangers: set[Key] = set()
        present: set[tuple[int, int]] = set()
        for held in message.held:
            lease = worker.lease_of(held.first, held.attempt)
            if lease is None:
                strangers.add(Key(held.first, held.count, held.attempt))
                continue
            present.add((lease.span.first, lease.attempt))
            if held.phase == Phase.RUNNING:
                self._running(worker, lease, held)
        unknown_twice = strangers & worker.strangers
        worker.strangers = strangers
        if unknown_twice:
            self._emit(SendMessage(worker.id, Cancel(sorted(unknown_twice))))
        for key in message.unacknowledged:
            lease = worker.lease_of(key[0], key[2])
            if lease is not None:
                present.add((lease.span.first, lease.attempt))
        for name, lease in list(worker.leases.items()):
            lease.absent = 0 if name in present else lease.absent + 1
            if lease.absent >= 2:
                del worker.leases[name]
                self._void(lease)
        self.pools[worker.pool].hungry.setdefault(worker.id)

    def _void(self, lease: LeaseRecord) -> None:
        """The worker does not know of this lease: its jobs go back, uncharged."""
        for span in lease.open:
            self._queue_again(self.jobs.spans(span, IN_FLIGHT), lease)

    def _running(self, worker: WorkerRecord, lease: LeaseRecord, held: Held) -> None:
        """Takes in what a running lease uses; a job that does nothing for too long is stopped."""
        job = held.current
        if not lease.span.first <= job < lease.span.stop or not lease.holds(job):
            worker.idle_beats.clear()
            return
        if self.jobs[job] is _J.LEASED:
            self.jobs.move(Span(job, 1), _J.RUNNING)
        self._emit(Sampled(job, worker.id, held.rss_bytes, held.cpu_fraction, held.running))
        if not self._policy.is_idle(held):
            worker.idle_beats.pop(job, None)
            return
        worker.idle_beats[job] = beats = worker.idle_beats.get(job, 0) + 1
        if beats >= self._policy.max_idle_heartbeats:
            del worker.idle_beats[job]  # counts anew: the word to stop it may get lost
            text = f"job {job} on {worker.host} was idle for {beats} heartbeats: it is stopped"
            self._emit(Note("warning", text))
            self._emit(SendMessage(worker.id, Cancel([lease.key], int(Outcome.STALLED))))

    # --- failures ---------------------------------------------------------------------------------

    def _attempt_failed(
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
            self._end(Span(job, 1), _J.FAILED)
            self._emit(DeliverFailure(job, cause, charged, index, worker.id, text))
            if self._policy.stop_on_failure:
                self._halt(_J.SKIPPED, Cause.CANCELED, f"the run stopped when job {job} failed")
            return
        self.jobs.move(Span(job, 1), _J.REQUEUED)
        again = Range(Span(job, 1), lease.spec, lease.attempt + 1, alone=True)
        pool = self.pools[lease.spec.pool]
        pool.queue.put_later(again, now + self._policy.backoff_s(charged))
        pool.gather_at = min(pool.gather_at, now)
        most = self._policy.num_resubmits
        say = f"job {job} ({cause}) on {worker.host}: resubmission {charged} of {most}"
        self._emit(Note("warning", f"{say}; {text}" if text else say))
        self._wake_hungry(pool)

    def _lost(self, worker: WorkerRecord, cause: Cause, text: str, now: float) -> None:
        """A worker is no more: the job that each of its processes was in is charged for it."""
        leases = list(worker.leases.values())
        worker.leases.clear()
        worker.idle_beats.clear()
        for order, lease in enumerate(leases):
            inside = [s for span in lease.open for s in self.jobs.spans(span, IN_FLIGHT)]
            if inside and (order < worker.children or not lease.spec.rerunnable):
                culprit, rest = inside[0].first, Span(inside[0].first + 1, inside[0].count - 1)
                inside[:1] = [rest] if rest.count else []
                self._attempt_failed(culprit, lease, cause, -1, worker, text, now)
            self._queue_again((s for x in inside for s in self.jobs.spans(x, IN_FLIGHT)), lease)

    def _give_up(
        self, pool: PoolRecord, cause: Cause, text: str, refused: bool, now: float
    ) -> None:
        """No worker of this pool can be had: its jobs fail, and with them, if so asked, the run."""
        for span in self.jobs.spans(Span(0, len(self.jobs)), UNFINISHED):
            for part in self._of_pool(span, pool.number):
                self._end(part, _J.FAILED)
                self._emit(DeliverEnd(part, _J.FAILED, cause, text, refused))
        pool.queue.clear()
        if self._policy.stop_on_failure:
            self._halt(_J.SKIPPED, Cause.CANCELED, "the run stopped: " + text)

    def _of_pool(self, span: Span, pool: int) -> Iterable[Span]:
        for part in self.jobs.segments(span):
            if self.jobs.spec(part.first).pool == pool:
                yield part

    def _cancel(self, event: CancelRequested, now: float) -> None:
        if event.spans is None:
            self._halt(_J.CANCELED, Cause.CANCELED, event.reason)
            return
        for span in event.spans:
            self._stop_leases(span)
            for part in self.jobs.spans(span, UNFINISHED):
                for piece in self.jobs.segments(part):
                    self._end(piece, _J.CANCELED)
                self._emit(DeliverEnd(part, _J.CANCELED, Cause.CANCELED, event.reason))

    def _stop_leases(self, span: Span) -> None:
        for worker in self.workers.values():
            keys = [
                lease.key
                for lease in worker.leases.values()
                if lease.span.first < span.stop and span.first < lease.span.stop
            ]
            if keys:
                self._emit(SendMessage(worker.id, Cancel(keys)))

    def _halt(self, state: JobState, cause: Cause, text: str) -> None:
        """Ends every job that has not ended, and the run."""
        if self.ended:
            return
        everything = Span(0, len(self.jobs))
        self._stop_leases(everything)
        for span in self.jobs.spans(everything, UNFINISHED):
            self.jobs.move(span, state)
            self._emit(DeliverEnd(span, state, cause, text))
        for pool in self.pools:
            pool.queue.clear()
            pool.unfinished = 0
        for worker in self.workers.values():
            worker.leases.clear()
        self._input_ended = True
        self._finish()

    def _finish(self) -> None:
        if not self.ended:
            self.ended = True
            self._force.dismiss()
            self._emit(RunEnded())
