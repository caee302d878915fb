"""When to ask the scheduler how the workers are, and what to make of one that does not answer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from gridmap.core.effects import Emit, Note, PollWorkers
from gridmap.core.events import NativeState, NativeStatus, PollFailed
from gridmap.core.policy import Policy
from gridmap.core.records import COMING, GiveUp, PoolRecord
from gridmap.errors import Cause


class Polling:
    """Keeps the times of the polls, and of those that had no answer.

    :param emit: takes each effect
    :param give_up: called when nobody says whether a pool's workers will ever come
    """

    def __init__(
        self, policy: Policy, pools: Sequence[PoolRecord], emit: Emit, give_up: GiveUp
    ) -> None:
        self._policy = policy
        self._pools = pools
        self._emit = emit
        self._give_up = give_up
        self._failure = ""  # last words of a scheduler that does not answer

    # --- asking -----------------------------------------------------------------------------------

    def soon(self, pool: PoolRecord, now: float) -> None:
        """Something has changed: starts again with short intervals."""
        if pool.limits.polled:
            pool.poll_every_s = self._policy.poll_first_s
            pool.poll_at = min(pool.poll_at, now + pool.poll_every_s)

    def keep_time(self, pool: PoolRecord, now: float) -> None:
        """Asks when it is time to, and gives up a pool that has waited too long for an answer."""
        if now >= pool.poll_at:
            self._ask(pool, now)
        if pool.up or not pool.coming:  # somebody lives, or nobody is expected
            pool.unanswered_since = math.inf
        if now >= self._patience(pool):
            self._no_answer(pool, now)

    def next_deadline(self, pool: PoolRecord) -> float:
        """Returns when `keep_time` has something to do for this pool at the latest."""
        return min(pool.poll_at, self._patience(pool))

    def _ask(self, pool: PoolRecord, now: float) -> None:
        pool.departed = {w: until for w, until in pool.departed.items() if now < until}
        live = [*pool.workers, *pool.departed]
        if not live:
            pool.poll_at = math.inf
            return
        pool.poll_at = now + pool.poll_every_s
        pool.poll_every_s = min(pool.poll_every_s * 1.5, self._policy.poll_most_s)
        pool.unanswered_since = min(pool.unanswered_since, now)
        self._emit(PollWorkers(tuple(live)))
        self._say_how_many(pool)

    def _say_how_many(self, pool: PoolRecord) -> None:
        """Waiting in the scheduler's queue is no error, but it is said."""
        if pool.up or not pool.coming:
            return
        reasons = {w.native.text for w in pool.workers.values() if w.state in COMING}
        reasons.discard("")
        why = f" ({'; '.join(sorted(reasons)[:2])})" if reasons else ""
        each = pool.limits.children
        jobs = f", each for {each} jobs at once" if each > 1 else ""
        text = f"{pool.up} workers up, {pool.coming} pending{jobs}{why}"
        if text != pool.said:
            pool.said = text
            self._emit(Note("info", text))

    # --- the answers ------------------------------------------------------------------------------

    def answered(self, status: Mapping[str, NativeStatus]) -> None:
        """The scheduler speaks; pools of whose workers it says nothing wait on."""
        if self._failure:
            self._failure = ""
            self._emit(Note("info", "the scheduler answers again"))
        known = [w for w, said in status.items() if said.state is not NativeState.UNKNOWN]
        for pool in self._pools:
            if any(worker in pool.workers for worker in known):
                pool.unanswered_since = math.inf

    def failed(self, event: PollFailed) -> None:
        """Says that the scheduler does not answer, once until it does."""
        if not self._failure:
            doubt = "" if event.transient else ", though that may not help"
            text = f"the scheduler does not say how the workers are: {event.reason}"
            self._emit(Note("warning", f"{text}; it is asked again{doubt}"))
        self._failure = event.reason or "no reason given"

    def _patience(self, pool: PoolRecord) -> float:
        """Returns until when to wait for an answer about workers that have yet to come."""
        return pool.unanswered_since + self._policy.outage_deadline_s

    def _no_answer(self, pool: PoolRecord, now: float) -> None:
        waited = now - pool.unanswered_since
        pool.unanswered_since = math.inf
        pool.gather_at = now  # they may not be needed any more
        text = f"the scheduler did not say for {waited:.0f} s what became of {pool.coming} workers"
        if self._failure:
            text += f": {self._failure}"
        self._give_up(pool, Cause.NEVER_STARTED, text, False, now)
