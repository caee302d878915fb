"""How many workers to ask for, and when asking for more is no use."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gridmap.core.effects import Emit, Note, SubmitWorkers
from gridmap.core.events import SubmissionFailed
from gridmap.core.policy import Policy
from gridmap.core.records import GiveUp, PoolRecord, WorkerRecord
from gridmap.errors import Cause


class Staffing:
    """Keeps the requests to the scheduler, and counts what speaks against another one.

    :param emit: takes each effect
    :param give_up: called when no worker of a pool can be had
    """

    def __init__(
        self, policy: Policy, pools: Sequence[PoolRecord], emit: Emit, give_up: GiveUp
    ) -> None:
        self._policy = policy
        self._pools = pools
        self._emit = emit
        self._give_up = give_up
        self._requests: dict[int, tuple[int, int]] = {}
        self._next_request = 0

    def resume(self, next_request: int) -> None:
        """Numbers submissions from here on, so that none has the number of an earlier one."""
        self._next_request = max(self._next_request, next_request)

    def expects(self, pool: int) -> bool:
        """Returns whether a request for this pool has no answer yet."""
        return any(number == pool for number, _ in self._requests.values())

    def ask(self, pool: PoolRecord, now: float) -> None:
        """Asks for the workers that are wanted and have not been asked for."""
        waits = pool.waits()
        there = pool.up + pool.coming + pool.requested
        if pool.most <= 0 and not there:
            text = f"its workers were deleted from the scheduler; the last one, {pool.deleted_text}"
            self._give_up(pool, Cause.CANCELED, text, False, now)
            return
        each = pool.limits.children
        useful = min(pool.limits.max_workers, -(-pool.unfinished // each))
        wanted = int(min(useful - there, pool.most - there, -(-waits // each)))
        count = min(wanted, self._room(pool))
        pool.capped = count < wanted
        if count > 0:
            request, self._next_request = self._next_request, self._next_request + 1
            self._requests[request] = (pool.number, count)
            pool.requested += count
            pool.held_since = math.inf
            pool.asked_at = min(pool.asked_at, now)
            self._emit(SubmitWorkers(request, pool.number, count))

    def _room(self, pool: PoolRecord) -> int:
        """Returns how many more workers this pool may have for the sake of the others."""
        most = self._policy.max_workers
        if not most:
            return pool.limits.max_workers
        all_there = sum(len(each.workers) + each.requested for each in self._pools)
        sharing = sum(1 for each in self._pools if each.unfinished)
        own = len(pool.workers) + pool.requested
        return min(most - all_there, max(1, most // max(1, sharing)) - own)

    # --- the scheduler's answers ------------------------------------------------------------------

    def answered(self, request: int, now: float) -> tuple[PoolRecord, int] | None:
        """The scheduler has answered a request; returns whose it was and for how many workers."""
        if request not in self._requests:
            return None
        number, count = self._requests.pop(request)
        pool = self._pools[number]
        pool.requested -= count
        pool.asked_at = now if pool.requested else math.inf
        return pool, count

    def look(self, pool: PoolRecord, now: float) -> None:
        """A scheduler that says neither yes nor no is waited for only so long."""
        if now < pool.asked_at + self._policy.submit_deadline_s:
            return
        waited = now - pool.asked_at
        self._requests = {r: x for r, x in self._requests.items() if x[0] != pool.number}
        pool.requested, pool.asked_at = 0, math.inf
        text = f"the scheduler did not answer a submission within {waited:.0f} s"
        self._no_more(pool, Cause.NEVER_STARTED, text, now)

    def _no_more(self, pool: PoolRecord, cause: Cause, text: str, now: float) -> None:
        """More workers are not to be had; those that are there, or may yet come, have to do."""
        if pool.up + pool.coming == 0:
            self._give_up(pool, cause, text, True, now)
        else:
            self._emit(Note("warning", f"no more workers: {text}"))

    def failed(self, event: SubmissionFailed, now: float) -> None:
        """Tries again later what may succeed later, for a bounded time; else gives up."""
        asked = self.answered(event.request, now)
        if asked is None:
            return
        pool, _ = asked
        pool.submit_failures += 1
        pool.submit_failing_since = min(pool.submit_failing_since, now)
        waited = now - pool.submit_failing_since
        if not event.transient:
            self._no_more(pool, Cause.REFUSED, event.reason, now)
            return
        if waited >= self._policy.submit_deadline_s and pool.up + pool.coming == 0:
            text = f"the scheduler did not take workers for {waited:.0f} s: {event.reason}"
            self._give_up(pool, Cause.NEVER_STARTED, text, True, now)
            return
        delay = max(1.0, self._policy.backoff_s(pool.submit_failures))
        pool.submit_not_before = now + delay
        pool.gather_at = now
        self._emit(
            Note("warning", f"no workers yet, asking again in {delay:.0f} s: {event.reason}")
        )

    # --- workers that are of no use ---------------------------------------------------------------

    def strike(self, pool: PoolRecord, text: str, now: float) -> None:
        """A worker ended or hung before it said Hello; a few of them in a row are enough."""
        pool.strikes += 1
        if pool.strikes >= self._policy.startup_failures and pool.up == 0:
            head = f"{pool.strikes} workers in a row ended or hung before they did anything. "
            self._give_up(pool, Cause.NEVER_STARTED, head + text, False, now)
            return
        self._emit(Note("warning", f"did not start: {text}"))
        delay = self._policy.backoff_s(pool.strikes)
        pool.submit_not_before = max(pool.submit_not_before, now + delay)
        pool.gather_at = now

    def useless(self, pool: PoolRecord, text: str, now: float) -> None:
        """A worker said Hello and did nothing else; a few of them in a row are enough."""
        pool.useless += 1
        if pool.useless >= self._policy.startup_failures and pool.up == 0:
            head = f"{pool.useless} workers in a row came and ran nothing. "
            self._give_up(pool, Cause.NEVER_STARTED, head + text, False, now)
            return
        self._emit(Note("warning", text))
        delay = self._policy.backoff_s(pool.useless)
        pool.submit_not_before = max(pool.submit_not_before, now + delay)
        pool.gather_at = now

    def deleted(self, worker: WorkerRecord, text: str, now: float) -> None:
        """Somebody deleted a worker: no other takes its place.

        :param text: the scheduler's words
        """
        if worker.canceled:
            return
        pool = self._pools[worker.pool]
        pool.most = min(pool.most, pool.up + pool.coming + pool.requested)
        pool.deleted_text = f"{worker.id}: {text}"
        pool.gather_at = min(pool.gather_at, now)
        self._emit(Note("warning", f"worker {worker.id} is not replaced: {text}"))
