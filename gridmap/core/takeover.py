"""What an earlier monitor of the run left: jobs that ended, charges, leases that live on."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence

from msgspec.structs import replace

from gridmap.core.events import KnownCharge, KnownLease
from gridmap.core.jobs import UNFINISHED
from gridmap.core.leasing import Leasing
from gridmap.core.records import LeaseRecord, PoolRecord, WorkerRecord
from gridmap.core.spec import Span
from gridmap.core.states import FINAL_JOB_STATES, JobState
from gridmap.errors import Cause

_J = JobState


class Takeover:
    """Leaves to the workers of an earlier monitor what they have, and queues the rest."""

    def __init__(self, leasing: Leasing, pools: Sequence[PoolRecord]) -> None:
        self._leasing = leasing
        self._jobs = leasing.jobs
        self._pools = pools
        self._failed_at: dict[int, int] = {}  # by job: number of the last try that failed

    def take_in(
        self, ended: Iterable[tuple[Span, JobState]], charged: Iterable[KnownCharge]
    ) -> None:
        """Takes in which jobs ended under the earlier monitor, and what it charged."""
        for span, state in ended:
            inside = span.within(len(self._jobs))
            if state in FINAL_JOB_STATES and inside.count > 0:
                for part in self._jobs.spans(inside, UNFINISHED):
                    self._leasing.end(part, state)
        for job, attempts, attempt, spec in charged:
            if not 0 <= job < len(self._jobs):
                continue
            self._failed_at[job] = attempt
            if attempts > 0:
                self._leasing.charged[job] = attempts
                known = spec is not None and 0 <= spec.pool < len(self._pools)
                if spec is not None and known and self._jobs[job] in UNFINISHED:
                    self._leasing.change(job, self._jobs.spec(job), spec)

    def has_failed(self, job: int, attempt: int) -> bool:
        """Returns whether the earlier monitor had heard that this try of a job failed."""
        return self._failed_at.get(job, -1) >= attempt

    def pool_of(self, span: Span) -> int | None:
        """Returns the pool of these jobs; None where they cannot make up a lease."""
        if span.count < 1 or span.within(len(self._jobs)) != span:
            return None
        return (
            self._jobs.spec(span.first).pool if list(self._jobs.segments(span)) == [span] else None
        )

    def requeue(self) -> None:
        """Leaves in the queues what waits and no more; who was charged waits alone."""
        charged = sorted(self._leasing.charged)
        for pool in self._pools:
            items = []
            while (item := pool.queue.first()) is not None:
                items.append(pool.queue.take(item.span.count))
            for item in items:
                for span in self._jobs.spans(item.span, frozenset({_J.QUEUED})):
                    between = charged[
                        bisect_left(charged, span.first) : bisect_left(charged, span.stop)
                    ]
                    at = span.first
                    for job in [*between, span.stop]:
                        if job > at:
                            pool.queue.put(replace(item, span=Span(at, job - at)))
                        if job < span.stop:
                            spec = self._jobs.spec(job)
                            one = replace(item, span=Span(job, 1), spec=spec, alone=True)
                            self._pools[spec.pool].queue.put(one)
                        at = job + 1

    def adopt(self, worker: WorkerRecord, span: Span, attempt: int) -> LeaseRecord | None:
        """Leaves jobs that wait to the worker that an earlier monitor gave them to, if they all
        do."""
        if not worker.resumed or self.pool_of(span) != worker.pool:
            return None
        if self._jobs.spans(span, frozenset({_J.QUEUED})) != [span]:
            return None
        lease = LeaseRecord(span, self._jobs.spec(span.first), attempt, [span])
        worker.leases[(span.first, attempt)] = lease
        self._jobs.move(span, _J.LEASED)
        return lease

    def restore(self, worker: WorkerRecord, known: KnownLease, now: float) -> None:
        """Gives a worker a lease again that it had: what of it still waits."""
        name = (known.span.first, known.attempt)
        inside = known.span.within(len(self._jobs))
        if known.span.count < 1 or inside != known.span or name in worker.leases:
            return
        waiting = [
            part
            for span in self._jobs.spans(known.span, frozenset({_J.QUEUED}))
            for part in self._left_to(worker, span, known.attempt)
        ]
        if not waiting:
            return
        spec = self._jobs.spec(waiting[0].first)
        worker.incarnation = worker.incarnation or known.incarnation
        lease = LeaseRecord(known.span, spec, known.attempt, waiting)
        if worker.incarnation != known.incarnation:  # of a process that is no more
            if not spec.rerunnable:
                text = f"worker {worker.id} was started anew"
                for job in (job for s in waiting for job in range(s.first, s.stop)):
                    self._leasing.attempt_failed(job, lease, Cause.DIED, -1, worker, text, now)
            return
        lease.since = now  # or earlier, or it waits there
        worker.leases[name] = lease
        for span in waiting:
            self._jobs.move(span, _J.LEASED)

    def _left_to(self, worker: WorkerRecord, span: Span, attempt: int) -> Iterator[Span]:
        """Yields the jobs of a lease of an earlier monitor that may still be with its worker: not
        those that have failed there, which may have gone to another pool."""
        at = span.first
        for job in [*range(span.first, span.stop), span.stop]:
            over = job == span.stop or self.has_failed(job, attempt)
            if over or self._jobs.spec(job).pool != worker.pool:
                if job > at:
                    yield Span(at, job - at)
                at = job + 1
