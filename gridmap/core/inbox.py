"""What workers say of their jobs: results and heartbeats.

Nothing that a worker says may raise here or touch jobs that it was not given: a result counts only
for jobs of a lease that this worker has, or had, and that have had no answer from it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from gridmap.core.effects import Deliver, Emit, Note, Sampled, SendMessage
from gridmap.core.jobs import IN_FLIGHT, UNFINISHED
from gridmap.core.leasing import Leasing
from gridmap.core.memory import human
from gridmap.core.messages import (
    Ack,
    Cancel,
    Drain,
    Heartbeat,
    Held,
    Key,
    Outcome,
    Phase,
    Pulse,
    Recall,
    Result,
    Results,
)
from gridmap.core.policy import CAUSE_OF, Policy, is_near
from gridmap.core.records import LeaseRecord, PoolRecord, WorkerRecord
from gridmap.core.spec import JobSpec, Span
from gridmap.core.states import JobState, WorkerState
from gridmap.core.takeover import Takeover
from gridmap.core.workforce import Workforce
from gridmap.errors import Cause

_OUTCOMES = frozenset(int(outcome) for outcome in Outcome)


def _together(items: Sequence[Result], index: int, span: Span) -> tuple[int, float]:
    """Returns how many calls the values up to this item are of, and how long they took together.

    A worker tells of a long call apart from the short ones before it. The pace is that of all of
    them: taken by itself, one long call would count as much as the thousands before it. So the last
    of such items speaks for all; (0, 0.0) for one that another follows.
    """
    item = items[index]
    if index + 1 < len(items) and _follows(items[index + 1], item, span):
        return 0, 0.0
    count, seconds = item.count, item.seconds
    while index and _follows(items[index], items[index - 1], span):
        index -= 1
        count, seconds = count + items[index].count, seconds + items[index].seconds
    return count, seconds


def _follows(item: Result, before: Result, span: Span) -> bool:
    """Returns whether both are values, and of consecutive jobs of a lease with this span."""
    return (
        item.outcome == before.outcome == Outcome.VALUE
        and item.attempt == before.attempt
        and before.count > 0 < item.count
        and span.first <= before.first
        and before.first + before.count == item.first
        and item.first + item.count <= span.stop
    )


class Inbox:
    """Takes in results and inventories.

    :param emit: takes each effect
    """

    def __init__(
        self,
        policy: Policy,
        pools: list[PoolRecord],
        leasing: Leasing,
        takeover: Takeover,
        force: Workforce,
        emit: Emit,
    ) -> None:
        self._policy = policy
        self._pools = pools
        self._leasing = leasing
        self._takeover = takeover
        self._jobs = leasing.jobs
        self._force = force
        self._emit = emit

    # --- results ----------------------------------------------------------------------------------

    def results(self, worker: WorkerRecord, message: Results, now: float) -> None:
        """Takes results in; whatever they say, the worker may forget them afterwards."""
        for index in range(len(message.items)):
            self._result(worker, message.items, index, now)
        self._emit(SendMessage(worker.id, Ack([item.key for item in message.items])))
        if worker.state is WorkerState.UP:
            self._pools[worker.pool].hungry[worker.id] = None

    def _result(
        self, worker: WorkerRecord, items: Sequence[Result], index: int, now: float
    ) -> None:
        item = items[index]
        lease = worker.lease_of(item.first, item.attempt)
        late = lease is None
        span = Span(item.first, item.count)
        lease = lease or worker.former_lease_of(item.first, item.attempt)
        repeated = self._takeover.has_failed(item.first, item.attempt)
        if lease is None and (item.outcome == Outcome.VALUE or not repeated):
            lease, late = self._takeover.adopt(worker, span, item.attempt), False
        if lease is None or item.count < 1 or not lease.covers(span):
            return
        if item.outcome not in _OUTCOMES or (late and item.outcome != Outcome.VALUE):
            return
        parts = lease.answered(span)
        if item.outcome == Outcome.VALUE:
            self._values(parts, lease, items, index, worker)
        elif item.outcome == Outcome.RETURNED:
            self._returned(parts, lease, worker, now)
        elif parts:
            self._no_value(parts, lease, item, index, worker, now)
        if late and not lease.open:
            del worker.former[(lease.span.first, lease.attempt)]
        elif not late and not lease.open:
            self._leasing.close(worker, lease, now)
        elif not late and lease.since == math.inf:
            self._leasing.begins(worker, lease, now)

    def _values(
        self,
        parts: list[Span],
        lease: LeaseRecord,
        items: Sequence[Result],
        index: int,
        worker: WorkerRecord,
    ) -> None:
        """First value wins, however late it comes."""
        if not parts:
            return
        item = items[index]
        worker.refusals = 0
        self._pools[worker.pool].worked()
        for part in parts:
            for piece in self._jobs.spans(part, UNFINISHED):
                self._leasing.end(piece, JobState.COMPLETED)
                skip, attempts = piece.first - item.first, self._leasing.attempts(piece)
                self._emit(Deliver(piece, index, skip, worker.id, attempts))
        count, seconds = _together(items, index, lease.span)
        if count and math.isfinite(seconds):
            self._leasing.pace(self._jobs.spec(item.first).function).measured(count, seconds)

    def _returned(
        self, parts: list[Span], lease: LeaseRecord, worker: WorkerRecord, now: float
    ) -> None:
        """Given back unstarted, so uncharged; whoever does only that is of no use."""
        whole = parts == [lease.span] and not lease.recalled
        if lease.recalled and parts and parts != [lease.span]:
            self._leasing.pace(lease.spec.function).was_late()
        for part in parts:
            self._leasing.queue_again(self._jobs.spans(part, IN_FLIGHT), lease)
        if whole and worker.state is WorkerState.UP:
            worker.refusals += 1
            if worker.refusals >= self._policy.startup_failures:
                self._force.gives_back_everything(worker, now)

    def _no_value(
        self,
        parts: list[Span],
        lease: LeaseRecord,
        item: Result,
        index: int,
        worker: WorkerRecord,
        now: float,
    ) -> None:
        """The first job ended so; should the result name more, they have not been run."""
        worker.refusals = 0
        job = item.first
        rest = parts
        if parts[0].first == job:
            rest = [Span(job + 1, parts[0].count - 1), *parts[1:]]
            if self._jobs[job] in IN_FLIGHT:
                self._job_ended(job, lease, Outcome(item.outcome), index, worker, now)
        for part in rest:
            self._leasing.queue_again(self._jobs.spans(part, IN_FLIGHT), lease)

    def _job_ended(
        self,
        job: int,
        lease: LeaseRecord,
        outcome: Outcome,
        index: int,
        worker: WorkerRecord,
        now: float,
    ) -> None:
        if outcome is not Outcome.CANCELED:
            self._pools[worker.pool].worked()
            wish = self._wish(outcome, lease.spec)
            cause = CAUSE_OF[outcome]
            self._leasing.attempt_failed(job, lease, cause, index, worker, "", now, wish)
        elif lease.spec.rerunnable:  # stopped for the sake of its neighbours or of its worker
            self._leasing.queue_again([Span(job, 1)], lease)
        else:
            text = f"it was stopped on {worker.host}, and it must not run twice"
            self._leasing.attempt_failed(job, lease, Cause.PREEMPTED, -1, worker, text, now)

    @staticmethod
    def _wish(outcome: Outcome, spec: JobSpec) -> bool | None:
        """Returns whether the user wants another try after this; None where only the cause counts.

        An exception is the job's own answer, unless its user says otherwise.
        """
        if outcome is Outcome.RETRIABLE:
            return True
        return spec.retry.no_memory if outcome is Outcome.NO_MEMORY else None

    # --- heartbeats -------------------------------------------------------------------------------

    def heartbeat(self, worker: WorkerRecord, message: Heartbeat) -> None:
        """Compares the worker's inventory with ours: neither side may forget a lease for long.

        A heartbeat that was written before the worker could have the lease does not count: many may
        come at once after a pause of either side, and large arguments take their time.
        """
        self._emit(SendMessage(worker.id, Pulse(message.seq)))
        if message.seq <= worker.seq:
            return  # older than what is known: it must not count as an absence
        worker.seq = message.seq
        if worker.state is WorkerState.DRAINING:  # the word may have been lost
            self._emit(SendMessage(worker.id, Drain()))
        present = self._held(worker, message.held)
        self._pools[worker.pool].awaited.discard(worker.id)
        worker.blurred = worker.suspended
        for key in message.unacknowledged:
            lease = worker.lease_of(key[0], key[2])
            if lease is not None:
                present.add((lease.span.first, lease.attempt))
        for name, lease in list(worker.leases.items()):
            if name in present:
                lease.absent = 0
            elif message.heard > lease.pulse:
                lease.absent += 1
            if lease.absent >= 2:
                self._leasing.void(worker, lease)
        if worker.state is WorkerState.UP:
            self._pools[worker.pool].hungry.setdefault(worker.id)

    def _held(self, worker: WorkerRecord, inventory: list[Held]) -> set[tuple[int, int]]:
        """Takes in what it holds; returns the names of those leases that it was given."""
        present: set[tuple[int, int]] = set()
        strangers: set[Key] = set()
        for held in inventory:
            lease = worker.lease_of(held.first, held.attempt) or self._takeover.adopt(
                worker, Span(held.first, held.count), held.attempt
            )
            if lease is None:
                strangers.add(Key(held.first, held.count, held.attempt))
                continue
            present.add((lease.span.first, lease.attempt))
            if held.phase == Phase.RUNNING:
                self._running(worker, lease, held)
            if lease.recalled:  # the word may have been lost
                self._emit(SendMessage(worker.id, Recall([lease.key])))
        unknown_twice = strangers & worker.strangers
        worker.strangers = strangers
        if unknown_twice:
            self._emit(SendMessage(worker.id, Cancel(sorted(unknown_twice))))
        return present

    def _running(self, worker: WorkerRecord, lease: LeaseRecord, held: Held) -> None:
        """Takes in what a running lease uses; a job that does nothing for too long is stopped."""
        job = held.current
        if not lease.holds(job):
            lease.idle_job = -1
            return
        last = lease.last or held._replace(rss_bytes=0)
        near = is_near(held.rss_bytes, held.limit_bytes)
        if near and not is_near(last.rss_bytes, last.limit_bytes):
            used, allowed = human(held.rss_bytes), human(held.limit_bytes)
            text = f"job {job} on {worker.host} has {used} of the {allowed} that it may have"
            self._emit(Note("warning", text))
        lease.last = held
        if self._jobs[job] is JobState.LEASED:
            self._jobs.move(Span(job, 1), JobState.RUNNING)
        self._emit(Sampled(job, worker.id, held.rss_bytes, held.cpu_fraction, held.running))
        if worker.blurred or not self._policy.is_idle(held):
            lease.idle_job = -1
            return
        lease.idle_beats = lease.idle_beats + 1 if lease.idle_job == job else 1
        lease.idle_job = job
        if lease.idle_beats >= self._policy.max_idle_heartbeats:
            text = f"job {job} on {worker.host} was idle for {lease.idle_beats} heartbeats"
            lease.idle_job = -1  # counts anew: the word to stop it may get lost
            self._emit(Note("warning", f"{text}: it is stopped"))
            self._emit(SendMessage(worker.id, Cancel([lease.key], int(Outcome.STALLED))))
