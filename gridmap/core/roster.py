"""The workers that a run has had: where each stands, when to look at it, and who may be one."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence

from gridmap.core.effects import CancelWorkers, Emit
from gridmap.core.messages import PROTOCOL, Hello
from gridmap.core.policy import Policy
from gridmap.core.records import COMING, ENDED, LIVE, Lose, PoolRecord, WorkerRecord
from gridmap.core.states import WorkerState
from gridmap.errors import Cause

_S = WorkerState


class Roster:
    """Keeps the workers, and their pools' counts true.

    :param emit: takes each effect
    :param lose: called with a worker whose leases are void from now on
    """

    def __init__(self, pools: Sequence[PoolRecord], emit: Emit, lose: Lose) -> None:
        self._pools = pools
        self._emit = emit
        self._lose = lose
        self._timers: list[tuple[float, int, str]] = []
        self._order = 0
        self.workers: dict[str, WorkerRecord] = {}

    def enlist(self, worker_id: str, pool_number: int) -> WorkerRecord:
        """Expects a worker."""
        worker = WorkerRecord(worker_id, pool_number)
        self.workers[worker_id] = worker
        pool = self._pools[pool_number]
        pool.workers[worker_id] = worker
        pool.coming += 1
        return worker

    def end(
        self, worker: WorkerRecord, to: WorkerState, why: str, now: float, cause: Cause = Cause.DIED
    ) -> None:
        """Ends a worker; its leases go back, and others may be wanted in its place."""
        pool = self._pools[worker.pool]
        if to is _S.LOST and worker.state is _S.REQUESTED:
            self.move(worker, _S.PENDING, "running for the scheduler")
        if to is _S.LOST and worker.state is _S.UP:
            self.move(worker, _S.SUSPECT, why)
        self.move(worker, to, why)
        pool.gather_at = min(pool.gather_at, now)
        self._lose(worker, cause, why, now)

    def cancel(self, workers: Sequence[WorkerRecord]) -> None:
        """Has workers deleted; what only says that it is one may have another job's name."""
        workers = [worker for worker in workers if worker.is_of_scheduler]
        if workers:
            for worker in workers:
                worker.canceled = True
            self._emit(CancelWorkers(tuple(w.id for w in workers)))

    def move(self, worker: WorkerRecord, to: WorkerState, why: str) -> None:
        """Takes a worker to a state and keeps the pool's counts true."""
        pool = self._pools[worker.pool]
        before = worker.state
        worker.move(to, why)
        pool.up += (to in LIVE - COMING) - (before in LIVE - COMING)
        pool.coming += (to in COMING) - (before in COMING)
        if to is not _S.UP:
            for names in (pool.hungry, pool.starving, pool.loaded):
                names.pop(worker.id, None)
        if to in ENDED:
            pool.workers.pop(worker.id, None)
            pool.awaited.discard(worker.id)
            for other in self._pools:
                if other.capped:  # its turn
                    other.capped, other.gather_at = False, -math.inf

    def remind(self, at: float, worker: WorkerRecord) -> None:
        """Has the worker looked at then, or before: each has one reminder."""
        if at < worker.reminder_at:
            worker.reminder_at = at
            self._order += 1
            heapq.heappush(self._timers, (at, self._order, worker.id))

    def next_reminder(self) -> float:
        """Returns when the next worker is to be looked at."""
        return self._timers[0][0] if self._timers else math.inf

    def due(self, now: float) -> Iterator[WorkerRecord]:
        """Yields the workers that are to be looked at by now."""
        while self._timers and self._timers[0][0] <= now:
            at, _, worker_id = heapq.heappop(self._timers)
            worker = self.workers[worker_id]
            if at == worker.reminder_at:
                worker.reminder_at = math.inf
                if worker.state not in ENDED:
                    yield worker


def why_not(hello: Hello, worker: WorkerRecord, policy: Policy) -> str:
    """Returns why this worker cannot work for this client; "" where it can."""
    mismatch = _mismatch(hello, policy)
    if mismatch:
        return mismatch
    if hello.pool != worker.pool:
        return f"worker {worker.id} is of pool {worker.pool}, not {hello.pool}"
    if hello.children < 1 or hello.capacity < 1:
        return f"worker {worker.id} on {hello.host} has no process for jobs"
    return ""


def _mismatch(hello: Hello, policy: Policy) -> str:
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
