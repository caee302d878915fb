"""Who runs which jobs: leases given, taken back, lost; jobs that run again, fail or are stopped."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence

from msgspec.structs import replace

from gridmap.core.effects import (
    Assign,
    Charged,
    DeliverEnd,
    DeliverFailure,
    Emit,
    Note,
    SendMessage,
)
from gridmap.core.jobs import IN_FLIGHT, UNFINISHED, WAITING, JobTable, Range
from gridmap.core.messages import Cancel, Recall
from gridmap.core.policy import Pace, Policy, likely_cause
from gridmap.core.records import LeaseRecord, PoolRecord, WorkerRecord, greedy
from gridmap.core.spec import JobSpec, Span
from gridmap.core.states import JobState, WorkerState
from gridmap.errors import Cause

DONORS_LOOKED_AT = 64
"""Workers looked at when an idle one seeks work that another holds unstarted."""

AVOIDED_LOOKED_AT = 64
"""Jobs kept for other hosts that are passed over when a worker seeks work."""

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
        self.charged: dict[int, int] = {}
        self._grown: set[int] = set()  # jobs that were given more than they began with
        self._pace: dict[str, Pace] = {}
        self.jobs = JobTable()

    # --- giving -----------------------------------------------------------------------------------

    def attempts(self, span: Span) -> int:
        """Returns how often the first of these jobs was tried; one that failed once is alone."""
        return self.charged.get(span.first, 0) + 1

    def wake(self, pool: PoolRecord, now: float) -> None:
        """Queues the jobs that have backed off long enough."""
        for item in pool.queue.wake(now):
            for span in self.jobs.spans(item.span, frozenset({_J.REQUEUED})):
                self.jobs.move(span, _J.QUEUED)

    def feed(self, pool: PoolRecord, now: float) -> list[WorkerRecord]:
        """Leases waiting jobs to workers that have room, in turn; returns those that got none.

        Where an earlier monitor's workers live, they say first what they hold: its last leases may
        be unknown here, and their jobs would be run twice.
        """
        if pool.awaited and now < pool.awaited_until:
            pool.reconsider_at = pool.awaited_until
            return []
        idle = []
        passed: dict[str, None] = {}
        while pool.hungry or (pool.starving and pool.queue.first() is not None):
            starved = pool.starving and pool.queue.first() is not None  # theirs is the first turn
            worker_id, _ = (pool.starving if starved else pool.hungry).popitem(last=False)
            pool.starving.pop(worker_id, None)
            worker = pool.workers[worker_id]
            if len(worker.leases) >= self._room(worker, pool):
                continue
            item = self._take(pool, worker, now)
            if item is None:
                passed[worker_id] = None
                if len(worker.leases) < worker.children:
                    self._recall_for(pool)
                if not worker.leases:
                    idle.append(worker)
                continue
            self._lease(item, worker, now)
            pool.hungry[worker_id] = None
        pool.starving.update(passed)
        return idle

    def _lease(self, item: Range, worker: WorkerRecord, now: float) -> None:
        lease = LeaseRecord(item.span, item.spec, item.attempt, [item.span], pulse=worker.seq)
        worker.leases[(item.span.first, item.attempt)] = lease
        lease.first = not worker.served and len(worker.leases) <= worker.children
        if worker.served and len(worker.leases) <= worker.children:
            self.begins(worker, lease, now)
        worker.idle_since = math.inf
        self.jobs.move(item.span, _J.LEASED)
        self._emit(Assign(worker.id, item.span, item.attempt, item.spec))
        self._weigh(worker)

    def _room(self, worker: WorkerRecord, pool: PoolRecord) -> int:
        """Returns how many leases a worker may hold: more than it runs only where plenty waits."""
        if pool.queue.count > (pool.coming + pool.requested) * pool.limits.children:
            return worker.capacity
        return min(worker.capacity, worker.children)

    def _take(self, pool: PoolRecord, worker: WorkerRecord, now: float) -> Range | None:
        """Takes jobs from the queue that still need to be run; None when there are none for it."""
        queue = pool.queue
        avoided: list[Range] = []
        taken = None
        while taken is None and (item := queue.first()) is not None:
            looks = item.avoid and len(avoided) < AVOIDED_LOOKED_AT
            if looks and self._rather_elsewhere(item, pool, worker, now):
                avoided.append(queue.take(item.span.count))
                continue
            single = item.alone or not item.spec.rerunnable or not item.spec.reuse
            size = self._policy.chunk_size(
                self.pace(item.spec.function), queue.count, pool.expected_children()
            )
            item = queue.take(1 if single else size)
            waiting = self.jobs.spans(item.span, frozenset({_J.QUEUED}))  # some ended, or went
            for span in reversed(waiting[1:]):
                queue.put_back(replace(item, span=span))
            if waiting:
                taken = replace(item, span=waiting[0])
        for item in reversed(avoided):
            queue.put_back(item)
        return taken

    def _rather_elsewhere(
        self, item: Range, pool: PoolRecord, worker: WorkerRecord, now: float
    ) -> bool:
        """Returns whether a job that failed on this host is kept for a worker on another one."""
        if worker.host != item.avoid or now >= item.avoid_until:
            return False
        others = (w for w in pool.workers.values() if w.state is WorkerState.UP)
        if not any(w.host != item.avoid and w.capacity > 0 for w in others):
            return False
        pool.reconsider_at = min(pool.reconsider_at, item.avoid_until)
        return True

    def pace(self, function: str) -> Pace:
        """Returns how long the calls of a function take."""
        return self._pace.setdefault(function, Pace())

    # --- taking back ------------------------------------------------------------------------------

    def _recall_for(self, pool: PoolRecord) -> None:
        """A process has nothing to do: take back what another worker has not started."""
        for donor_id in list(itertools.islice(pool.loaded, DONORS_LOOKED_AT)):
            donor = pool.workers[donor_id]
            most = max(0, len(donor.leases) - donor.children)  # it may have more of them by now
            spare = itertools.islice(reversed(donor.leases.values()), most)
            lease = next((x for x in spare if not x.recalled), None)
            if lease is not None:
                lease.recalled = True
                self._emit(SendMessage(donor_id, Recall([lease.key])))
                return
            del pool.loaded[donor_id]

    def share(self, pool: PoolRecord, now: float) -> None:
        """Some have nothing to do: take back what leases that run late have not begun.

        What comes back is shared by all, in small chunks; so it is not asked of more leases than
        there are processes without work, and of others only when these still have none.
        """
        if not pool.starving or pool.queue.first() is not None:
            return
        if now >= pool.share_at:
            pool.share_at = self._recall_late(pool, now)
        pool.reconsider_at = min(pool.reconsider_at, pool.share_at)

    def _recall_late(self, pool: PoolRecord, now: float) -> float:
        """Recalls leases that run; returns when to look for others."""
        late: list[tuple[int, str, LeaseRecord]] = []
        look_at = math.inf
        for worker in pool.workers.values():
            for lease in worker.leases.values():
                if lease.recalled or lease.since == math.inf or lease.left < 2:
                    continue
                at = lease.since + self._policy.late_after_s
                if at <= now:
                    late.append((lease.left, worker.id, lease))
                else:
                    look_at = min(look_at, at)
        late.sort(key=lambda entry: entry[0], reverse=True)
        starving = (pool.workers[worker_id] for worker_id in pool.starving)
        idle = sum(max(0, min(w.capacity, w.children) - len(w.leases)) for w in starving)
        for _, worker_id, lease in late[:idle]:
            lease.recalled = True
            self._emit(SendMessage(worker_id, Recall([lease.key])))
        if len(late) > idle:
            look_at = now
        return max(look_at, now + self._policy.chunk_target_s)  # all workers are looked at

    def begins(self, worker: WorkerRecord, lease: LeaseRecord, now: float) -> None:
        """A worker seems to run a lease from now on.

        Those that it runs are its oldest, one in each of its processes; but the first one of all
        may wait for its function to come, and nothing is known of it before it is answered.
        """
        lease.since = now
        if lease.span.count > 1:
            pool = self._pools[worker.pool]
            pool.share_at = min(pool.share_at, now + self._policy.late_after_s)

    def _weigh(self, worker: WorkerRecord) -> None:
        """Keeps the list of those that hold more than they run."""
        loaded = self._pools[worker.pool].loaded
        if worker.state is WorkerState.UP and len(worker.leases) > worker.children:
            loaded.setdefault(worker.id)
        else:
            loaded.pop(worker.id, None)

    def close(self, worker: WorkerRecord, lease: LeaseRecord, now: float) -> None:
        """Every job of a lease has been answered."""
        worker.leases.pop((lease.span.first, lease.attempt), None)
        worker.served += 1
        if not lease.recalled:
            self.pace(lease.spec.function).finished(lease.span.count)
        for other in itertools.islice(worker.leases.values(), worker.children):
            if other.since == math.inf:
                self.begins(worker, other, now)
        self._weigh(worker)

    def void(self, worker: WorkerRecord, lease: LeaseRecord) -> None:
        """The worker does not know of this lease: its jobs go back, uncharged."""
        name = (lease.span.first, lease.attempt)
        worker.former[name] = worker.leases.pop(name)
        back = [s for span in lease.open for s in self.jobs.spans(span, IN_FLIGHT)]
        self.queue_again(back, lease)
        self._say_given_back(worker, back)
        self._weigh(worker)

    def _say_given_back(self, worker: WorkerRecord, spans: list[Span]) -> None:
        jobs = sum(span.count for span in spans)
        if jobs:
            what = f"job {spans[0].first}" if jobs == 1 else f"{jobs} jobs"
            text = f"{what} that {worker.named} had will run anew, uncharged"
            self._emit(Note("info", text))

    def queue_again(self, spans: Iterable[Span], lease: LeaseRecord) -> None:
        """Puts jobs back to the front of the queue, uncharged."""
        pool = self._pools[lease.spec.pool]
        for span in reversed(list(spans)):
            self.jobs.move(span, _J.QUEUED)
            pool.queue.put_back(Range(span, lease.spec, lease.attempt + 1))
            pool.gather_at = -math.inf  # those who could have run them may have left

    def lost(self, worker: WorkerRecord, cause: Cause, text: str, now: float) -> None:
        """A worker is no more: the job that each of its processes was in, as far as it has told, is
        charged, or, where memory was short, those that had more than their part.

        Nothing ran any more in a worker that left of its own accord (PREEMPTED): nothing is
        charged, but what must not run twice does not run again.
        """
        leases = worker.void_leases()
        running = leases[: 0 if cause is Cause.PREEMPTED else worker.children]
        causes = [self._why(worker, lease, cause, now) for lease in leases]
        charged = list(map(id, greedy(running, causes, cause) or running))
        back: list[Span] = []
        for lease, why in zip(leases, causes, strict=True):
            inside = [s for span in lease.open for s in self.jobs.spans(span, IN_FLIGHT)]
            # others had used its time
            cut = why is Cause.WALLTIME and worker.served > 0 and not lease.first
            if inside and ((id(lease) in charged and not cut) or not lease.spec.rerunnable):
                told = -1 if lease.last is None else lease.last.current
                known = any(told in range(span.first, span.stop) for span in inside)
                culprit = told if known else inside[0].first
                self.attempt_failed(culprit, lease, why, -1, worker, text, now)
            inside = [s for x in inside for s in self.jobs.spans(x, IN_FLIGHT)]
            self.queue_again(inside, lease)
            back += inside
        self._say_given_back(worker, back)
        self._weigh(worker)

    def _why(self, worker: WorkerRecord, lease: LeaseRecord, cause: Cause, now: float) -> Cause:
        """Returns what a lost worker probably died of, as far as this lease can tell."""
        last, walltime_s = lease.last, self._pools[worker.pool].limits.walltime_s
        rss, limit = (last.rss_bytes, last.limit_bytes) if last is not None else (0, 0)
        return likely_cause(cause, rss, limit, now - worker.up_since, walltime_s)

    # --- ends -------------------------------------------------------------------------------------

    def end(self, span: Span, state: JobState) -> None:
        """Takes consecutive jobs to a final state."""
        self.jobs.move(span, state)
        for part in self.jobs.segments(span):
            self._pools[self.jobs.spec(part.first).pool].unfinished -= part.count

    def attempt_failed(
        self,
        job: int,
        lease: LeaseRecord,
        cause: Cause,
        index: int,
        worker: WorkerRecord,
        text: str,
        now: float,
        wish: bool | None = None,
    ) -> None:
        """Charges a job for an attempt; it runs again, alone, or fails for good.

        :param wish: whether its user wants another try after this very failure; None: that is a
            matter of the cause
        """
        charged = self.charged[job] = self.charged.get(job, 0) + 1
        spec = self.jobs.spec(job)
        more = self._more(spec, cause)
        if more is not None:
            wish = True
        elif cause is Cause.MEMORY and spec.retry.memory > 1 and job in self._grown:
            wish = False  # it has had all that it may have
        if not self._policy.may_retry(cause, charged, spec, wish):
            self.end(Span(job, 1), _J.FAILED)
            last = lease.last if lease.last is not None and lease.last.current == job else None
            failure = DeliverFailure(job, cause, charged, index, worker.id, text, spec.pool, last)
            self._emit(failure)
            if self._policy.stop_on_failure:
                self._halt(_J.SKIPPED, Cause.CANCELED, f"the run stopped when job {job} failed")
            return
        self.jobs.move(Span(job, 1), _J.REQUEUED)
        if more is not None:
            self.change(job, spec, more)
        begun = worker.up_since if lease.first and lease.since == math.inf else lease.since
        lost_s = max(0.0, now - begun) if begun < math.inf else 0.0
        charge = Charged(
            job, charged, lease.attempt, more, cause, worker.id, text, lost_s, index, spec.pool
        )
        self._emit(charge)
        self._again(job, more or spec, lease.attempt + 1, charged, worker.host, now)
        most = self._policy.resubmits(spec)
        say = f"job {job} ({cause}) on {worker.host}: resubmission {charged} of {most}"
        self._emit(Note("warning", f"{say}; {text}" if text else say))

    def _again(
        self, job: int, spec: JobSpec, attempt: int, charged: int, host: str, now: float
    ) -> None:
        """Queues a job that failed, after a pause."""
        rule = spec.retry
        at = now + self._policy.backoff_s(charged, rule)
        avoid = host if rule.other_host else ""
        until = at + self._policy.other_host_s
        pool = self._pools[spec.pool]
        again = Range(Span(job, 1), spec, attempt, alone=True, avoid=avoid, avoid_until=until)
        pool.queue.put_later(again, at)
        pool.gather_at = min(pool.gather_at, now)

    def _more(self, spec: JobSpec, cause: Cause) -> JobSpec | None:
        """Returns what a job that had too little is to get; None where it cannot have more."""
        limits, rule = self._pools[spec.pool].limits, spec.retry
        if cause is Cause.WALLTIME and limits.more_time >= 0:
            return replace(spec, pool=limits.more_time)
        if cause is not Cause.MEMORY or rule.memory <= 1:
            return None
        bound = rule.memory_most_bytes or math.inf
        rss = int(min(spec.max_rss_bytes * rule.memory, bound))
        pool = limits.more_memory if limits.more_memory >= 0 else spec.pool
        more = replace(spec, pool=pool, max_rss_bytes=max(rss, spec.max_rss_bytes))
        return more if more != spec else None

    def change(self, job: int, before: JobSpec, after: JobSpec) -> None:
        """Gives a job other workers, or other limits."""
        self._grown.add(job)
        self.jobs.set_spec(job, after)
        self._pools[before.pool].unfinished -= 1
        pool = self._pools[after.pool]
        pool.unfinished += 1
        pool.gather_at = -math.inf

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
        inside = (span.within(len(self.jobs)) for span in spans)
        wanted = sorted(span for span in inside if span.count > 0)
        self._stop_leases(wanted, workers)
        for span in wanted:
            for part in self.jobs.spans(span, UNFINISHED):
                self.end(part, state)
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
