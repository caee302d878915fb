"""The workers of a run: how many, which of them live, what to make of those that do not speak."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence

from gridmap.core.effects import (
    CancelWorkers,
    DiagnoseWorker,
    DispatcherEffect,
    Note,
    PollWorkers,
    SendMessage,
    SubmitWorkers,
)
from gridmap.core.events import (
    NativeState,
    NativeStatus,
    SubmissionFailed,
    WorkerDiagnosed,
    WorkersPolled,
    WorkersSubmitted,
)
from gridmap.core.messages import PROTOCOL, Drain, Hello, Refuse, Welcome
from gridmap.core.policy import Policy
from gridmap.core.records import ENDED, LIVE, PoolRecord, WorkerRecord
from gridmap.core.states import WorkerState
from gridmap.errors import Cause

_S = WorkerState
_COMING = frozenset({_S.REQUESTED, _S.PENDING})
_OVER = frozenset({NativeState.DONE, NativeState.FAILED, NativeState.DELETED})

Emit = Callable[[DispatcherEffect], None]
Lose = Callable[[WorkerRecord, Cause, str, float], None]
GiveUp = Callable[[PoolRecord, Cause, str, bool, float], None]


class Workforce:
    """Decides about workers; tells whoever owns the jobs what was lost with one.

    :param emit: takes each effect
    :param lose: called with a worker whose leases are void from now on
    :param give_up: called when no worker of a pool can be had: (pool, cause, text, refused, now)
    """

    def __init__(
        self, policy: Policy, pools: Sequence[PoolRecord], emit: Emit, lose: Lose, give_up: GiveUp
    ) -> None:
        self._policy = policy
        self._pools = pools
        self._emit = emit
        self._lose = lose
        self._give_up = give_up
        self._requests: dict[int, tuple[int, int]] = {}
        self._next_request = 0
        self._timers: list[tuple[float, int, str]] = []
        self._order = 0
        self.workers: dict[str, WorkerRecord] = {}
        self.run = ""
        self.closing = False

    # --- what workers say -------------------------------------------------------------------------

    def heard(self, worker_id: str, incarnation: str, now: float) -> WorkerRecord | None:
        """Notes that a worker spoke; returns it if it may take part."""
        worker = self.workers.get(worker_id)
        if worker is None or worker.incarnation != incarnation or worker.state in ENDED:
            return None
        worker.heard_at = now
        if worker.state is _S.SUSPECT:
            self._move(worker, _S.UP, "spoke again")
            self._pools[worker.pool].hungry[worker.id] = None
        return worker

    def hello(self, worker_id: str, hello: Hello, now: float) -> WorkerRecord | None:
        """Takes a worker in, or refuses it; returns it if it may work."""
        if not 0 <= hello.pool < len(self._pools):
            self._emit(SendMessage(worker_id, Refuse(f"this run has no pool {hello.pool}")))
            return None
        worker = self.workers.get(worker_id)
        if worker is None:
            if not self._requests:
                self._emit(SendMessage(worker_id, Refuse("not a worker of this run")))
                return None
            worker = self._enlist(worker_id, hello.pool)
        mismatch = self._mismatch(hello)
        if mismatch:
            self._refuse(worker, mismatch, now)
            return None
        again = worker.incarnation == hello.incarnation
        if worker.state is _S.GONE or (self.closing and not again):
            self._emit(SendMessage(worker_id, Refuse("not wanted any more")))
            return None
        if not again and worker.incarnation:
            self._lose(worker, Cause.DIED, f"worker {worker.id} was started anew", now)
        self._admit(worker, hello, now)
        return worker

    def _admit(self, worker: WorkerRecord, hello: Hello, now: float) -> None:
        worker.incarnation = hello.incarnation
        worker.host = hello.host
        worker.children = hello.children
        worker.capacity = hello.capacity
        worker.log_stdout, worker.log_stderr = hello.log_stdout, hello.log_stderr
        worker.heard_at = now
        if worker.state is not _S.DRAINING:
            self._move(worker, _S.UP, f"Hello from {hello.host}")
            self._pools[worker.pool].hungry[worker.id] = None
            self._pools[worker.pool].strikes = 0
        self._remind(now + self._policy.silent_after_s, worker.id)
        welcome = Welcome(self.run, self._policy.heartbeat_s, self._policy.grace_s)
        self._emit(SendMessage(worker.id, welcome))

    def _mismatch(self, hello: Hello) -> str:
        policy = self._policy
        if hello.protocol != PROTOCOL or (policy.gridmap and hello.gridmap != policy.gridmap):
            return (
                f"gridmap {hello.gridmap} (protocol {hello.protocol}) runs on {hello.host}, but "
                f"the client has {policy.gridmap} (protocol {PROTOCOL}): install the same there"
            )
        if policy.python and hello.python != policy.python:
            return (
                f"Python {hello.python} runs on {hello.host}, but the client has {policy.python}: "
                "functions cannot travel between them; use the same interpreter on both"
            )
        return ""

    def _refuse(self, worker: WorkerRecord, text: str, now: float) -> None:
        self._emit(SendMessage(worker.id, Refuse(text)))
        if worker.state in _COMING:
            self._move(worker, _S.GONE, "refused")
            pool = self._pools[worker.pool]
            if pool.up == 0:
                self._give_up(pool, Cause.REFUSED, text, False, now)
            else:
                self._emit(Note("warning", f"worker {worker.id} refused: {text}"))

    def leaves(self, worker: WorkerRecord, reason: str, now: float) -> None:
        """A worker said Bye."""
        worked = worker.state is _S.DRAINING or reason == "drained"
        self._end(worker, _S.GONE, reason, now)
        if not worked and not self.closing:
            self._emit(Note("info", f"worker {worker.id} on {worker.host} left: {reason}"))
            if reason.startswith("processes"):
                self._strike(self._pools[worker.pool], f"worker {worker.id}: {reason}", now)

    def worked(self, pool: PoolRecord) -> None:
        """A result came: whatever failed to start before, this pool works."""
        pool.strikes = 0

    # --- what the scheduler says ------------------------------------------------------------------

    def submitted(self, event: WorkersSubmitted, now: float) -> None:
        """Takes note of new workers; those that are not wanted any more are deleted again."""
        pool_number, count = self._requests.pop(event.request, (0, len(event.workers)))
        pool = self._pools[pool_number]
        pool.requested -= count
        pool.submit_failures, pool.submit_failing_since = 0, math.inf
        if self.closing or pool.unfinished == 0:
            self._emit(CancelWorkers(event.workers))
            return
        for worker_id in event.workers:
            if worker_id not in self.workers:
                self._enlist(worker_id, pool_number)
        self._poll_soon(pool, now)

    def _enlist(self, worker_id: str, pool_number: int) -> WorkerRecord:
        worker = WorkerRecord(worker_id, pool_number)
        self.workers[worker_id] = worker
        pool = self._pools[pool_number]
        pool.workers[worker_id] = worker
        pool.coming += 1
        return worker

    def submission_failed(self, event: SubmissionFailed, now: float) -> None:
        """Tries again later what may succeed later, for a bounded time; else gives up."""
        pool_number, count = self._requests.pop(event.request, (0, 0))
        pool = self._pools[pool_number]
        pool.requested -= count
        pool.submit_failures += 1
        pool.submit_failing_since = min(pool.submit_failing_since, now)
        if not event.transient:
            self._give_up(pool, Cause.REFUSED, event.reason, True, now)
            return
        if now >= pool.submit_failing_since + self._policy.submit_deadline_s:
            waited = now - pool.submit_failing_since
            text = f"the scheduler did not take workers for {waited:.0f} s: {event.reason}"
            self._give_up(pool, Cause.NEVER_STARTED, text, True, now)
            return
        delay = max(1.0, self._policy.backoff_s(pool.submit_failures))
        pool.submit_not_before = now + delay
        pool.gather_at = now
        self._emit(
            Note("warning", f"no workers yet, asking again in {delay:.0f} s: {event.reason}")
        )

    def polled(self, event: WorkersPolled, now: float) -> None:
        """Takes the scheduler's word; what it leaves out stays as it was."""
        deleted: dict[int, int] = {}
        for worker_id, status in event.status.items():
            worker = self.workers.get(worker_id)
            if worker is None or worker.state in ENDED:
                continue
            worker.native = status
            if status.state in _OVER:
                if status.state is NativeState.DELETED and not worker.canceled:
                    deleted[worker.pool] = deleted.get(worker.pool, 0) + 1
                self._over(worker, status, now)
            elif worker.state in _COMING and status.state is not NativeState.UNKNOWN:
                self._seen(worker, status, now)
        for number, count in deleted.items():
            self._deleted(self._pools[number], count, now)

    def _seen(self, worker: WorkerRecord, status: NativeStatus, now: float) -> None:
        self._move(worker, _S.PENDING, f"the scheduler says {status.state.value}")
        if status.state is NativeState.RUNNING and worker.running_since == math.inf:
            worker.running_since = now
            self._remind(now + self._policy.startup_deadline_s, worker.id)

    def _over(self, worker: WorkerRecord, status: NativeStatus, now: float) -> None:
        """The scheduler is done with a worker; find out why if it never worked."""
        coming = worker.state in _COMING
        text = status.text or f"the scheduler says {status.state.value}"
        self._end(worker, _S.GONE, text, now, _cause(status))
        if coming and status.state is not NativeState.DELETED and not self.closing:
            self._emit(DiagnoseWorker(worker.id))

    def _deleted(self, pool: PoolRecord, count: int, now: float) -> None:
        """Somebody deleted workers: once is bad luck, more often is a wish."""
        pool.deletions += 1
        self._emit(Note("warning", f"{count} of the run's workers were deleted from the scheduler"))
        if pool.deletions > self._policy.num_resubmits and pool.up + pool.coming == 0:
            text = f"the run's workers were deleted from the scheduler {pool.deletions} times"
            self._give_up(pool, Cause.CANCELED, text, False, now)

    def diagnosed(self, event: WorkerDiagnosed, now: float) -> None:
        """A worker that never worked has been looked into."""
        worker = self.workers.get(event.worker)
        if worker is not None and not worker.incarnation:
            self._strike(self._pools[worker.pool], f"worker {worker.id}: {event.text}", now)

    def _strike(self, pool: PoolRecord, text: str, now: float) -> None:
        pool.strikes += 1
        if pool.strikes >= self._policy.startup_failures and pool.up == 0:
            head = f"{pool.strikes} workers in a row ended or hung before they did anything. "
            self._give_up(pool, Cause.NEVER_STARTED, head + text, False, now)
            return
        self._emit(Note("warning", f"did not start: {text}"))
        delay = self._policy.backoff_s(pool.strikes)
        pool.submit_not_before = max(pool.submit_not_before, now + delay)
        pool.gather_at = now

    # --- time -------------------------------------------------------------------------------------

    def next_deadline(self) -> float:
        """Returns when `keep_time` has something to do at the latest."""
        deadline = self._timers[0][0] if self._timers else math.inf
        for pool in self._pools:
            wanted = max(pool.gather_at, pool.submit_not_before)
            deadline = min(deadline, wanted, pool.poll_at)
        return deadline

    def keep_time(self, now: float, input_ended: bool) -> None:
        """Does what time alone makes necessary."""
        while self._timers and self._timers[0][0] <= now:
            worker = self.workers.get(heapq.heappop(self._timers)[2])
            if worker is not None and worker.state not in ENDED:
                self._look_at(worker, now)
        for pool in self._pools:
            if now >= max(pool.gather_at, pool.submit_not_before):
                pool.gather_at = math.inf
                self._staff(pool, input_ended)
            if now >= pool.poll_at:
                self._poll(pool, now)

    def _look_at(self, worker: WorkerRecord, now: float) -> None:
        limit = self._policy.silent_after_s
        if worker.state in _COMING:
            if now >= worker.running_since + self._policy.startup_deadline_s:
                self._hangs(worker, now)
        elif worker.state is _S.SUSPECT:
            if now >= worker.suspect_since + limit:
                self._lost(worker, now)
            else:
                self._remind(worker.suspect_since + limit, worker.id)
        elif now >= worker.heard_at + limit:
            if worker.state is _S.DRAINING:
                self._lost(worker, now)
                return
            self._move(worker, _S.SUSPECT, f"silent for {now - worker.heard_at:.0f} s")
            worker.suspect_since = now
            self._poll_soon(self._pools[worker.pool], now)
            self._remind(now + limit, worker.id)
            text = (
                f"worker {worker.id} on {worker.host} is silent for {now - worker.heard_at:.0f} s"
            )
            self._emit(Note("warning", text))
        else:
            if worker.idle_since + self._policy.idle_leave_s <= now:
                self.drain(worker, "nothing left to do")
            self._remind(worker.heard_at + limit, worker.id)

    def _hangs(self, worker: WorkerRecord, now: float) -> None:
        """Running for the scheduler, but never a word: look into it, and have it deleted."""
        waited = now - worker.running_since
        self._end(worker, _S.LOST, f"no Hello within {waited:.0f} s", now)
        self._emit(DiagnoseWorker(worker.id))
        self._cancel([worker])

    def _lost(self, worker: WorkerRecord, now: float) -> None:
        text = f"worker {worker.id} on {worker.host} was silent for {now - worker.heard_at:.0f} s"
        self._end(worker, _S.LOST, text, now, Cause.SILENT)
        self._cancel([worker])

    def idle(self, worker: WorkerRecord, now: float) -> None:
        """A worker has no lease and there is none for it: it leaves if that goes on."""
        if worker.idle_since == math.inf and self._pools[worker.pool].limits.polled:
            worker.idle_since = now
            self._remind(now + self._policy.idle_leave_s, worker.id)

    def drain(self, worker: WorkerRecord, why: str) -> None:
        """Lets a worker finish and leave."""
        if worker.state in (_S.UP, _S.SUSPECT):
            self._move(worker, _S.DRAINING, why)
            self._emit(SendMessage(worker.id, Drain()))

    def dismiss(self) -> None:
        """The run is over: workers leave, those that have not come are deleted."""
        self.closing = True
        for worker in self.workers.values():
            self.drain(worker, "the run is over")
        self._cancel([w for w in self.workers.values() if w.state in _COMING])
        for pool in self._pools:
            pool.gather_at = pool.poll_at = math.inf

    # --- how many ---------------------------------------------------------------------------------

    def _staff(self, pool: PoolRecord, input_ended: bool) -> None:
        """Asks for the workers that are wanted, deletes those that will not be needed."""
        if self.closing:
            return
        waits = pool.waits()
        if not waits:
            if input_ended:
                self._dismiss_coming(pool)
            return
        each = pool.limits.children
        useful = min(pool.limits.max_workers, -(-pool.unfinished // each))
        count = min(useful - pool.up - pool.coming - pool.requested, -(-waits // each))
        if count > 0:
            request, self._next_request = self._next_request, self._next_request + 1
            self._requests[request] = (pool.number, count)
            pool.requested += count
            self._emit(SubmitWorkers(request, pool.number, count))

    def _dismiss_coming(self, pool: PoolRecord) -> None:
        coming = [w for w in pool.workers.values() if w.state in _COMING]
        for worker in coming:
            self._move(worker, _S.GONE, "not needed any more")
        self._cancel(coming)

    def _poll(self, pool: PoolRecord, now: float) -> None:
        live = [w.id for w in pool.workers.values() if w.state not in ENDED]
        if not live:
            pool.poll_at = math.inf
            return
        pool.poll_at = now + pool.poll_every_s
        pool.poll_every_s = min(pool.poll_every_s * 1.5, self._policy.poll_most_s)
        self._emit(PollWorkers(tuple(live)))
        self._say_how_many(pool)

    def _say_how_many(self, pool: PoolRecord) -> None:
        """Waiting in the scheduler's queue is no error, but it is said."""
        reasons = {w.native.text for w in pool.workers.values() if w.state in _COMING}
        reasons.discard("")
        why = f" ({'; '.join(sorted(reasons)[:2])})" if reasons else ""
        text = f"{pool.up} workers up, {pool.coming} pending{why}"
        if pool.up == 0 and pool.coming and text != pool.said:
            pool.said = text
            self._emit(Note("info", text))

    def _poll_soon(self, pool: PoolRecord, now: float) -> None:
        if pool.limits.polled:
            pool.poll_every_s = self._policy.poll_first_s
            pool.poll_at = min(pool.poll_at, now + pool.poll_every_s)

    # --- ends -------------------------------------------------------------------------------------

    def _end(
        self, worker: WorkerRecord, to: WorkerState, why: str, now: float, cause: Cause = Cause.DIED
    ) -> None:
        """Ends a worker; its leases go back, and others may be wanted in its place."""
        pool = self._pools[worker.pool]
        if to is _S.LOST and worker.state is _S.REQUESTED:
            self._move(worker, _S.PENDING, "running for the scheduler")
        if to is _S.LOST and worker.state is _S.UP:
            self._move(worker, _S.SUSPECT, why)
        self._move(worker, to, why)
        pool.gather_at = min(pool.gather_at, now)
        self._lose(worker, cause, why, now)

    def _cancel(self, workers: Sequence[WorkerRecord]) -> None:
        if workers:
            for worker in workers:
                worker.canceled = True
            self._emit(CancelWorkers(tuple(w.id for w in workers)))

    def _move(self, worker: WorkerRecord, to: WorkerState, why: str) -> None:
        """Takes a worker to a state and keeps the pool's counts true."""
        pool = self._pools[worker.pool]
        before = worker.state
        worker.move(to, why)
        pool.up += (to in LIVE - _COMING) - (before in LIVE - _COMING)
        pool.coming += (to in _COMING) - (before in _COMING)
        if to is not _S.UP:
            pool.hungry.pop(worker.id, None)

    def _remind(self, at: float, worker_id: str) -> None:
        self._order += 1
        heapq.heappush(self._timers, (at, self._order, worker_id))


def _cause(status: NativeStatus) -> Cause:
    return Cause.CANCELED if status.state is NativeState.DELETED else Cause.DIED
