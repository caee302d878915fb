"""The processes for jobs of one agent: what each of them runs, and what its death means."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass

from gridmap.core.effects import AgentEffect, GiveLease, KeepDeath, KillChild, StartChild
from gridmap.core.events import ChildAnswered, ChildDied, Usage
from gridmap.core.messages import Held, Key, Lease, Outcome, Phase, Result

CHILD_START_FAILURES = 5
"""Children in a row that died before they were ready; then there will be none."""

CHILD_START_S = 60.0
"""How long a child may take until it is ready; then it is killed, and counts as one that died."""

CHILD_END_S = 30.0
"""How long a killed child may take to die; then it is given up as if it had."""


class ChildState(enum.Enum):
    """Where a child stands."""

    STARTING = "starting"
    IDLE = "idle"
    BUSY = "busy"
    ENDING = "ending"  # killed, its death is not known yet


@dataclass
class Child:
    """One process for jobs, which runs one lease at a time."""

    number: int
    state: ChildState = ChildState.STARTING
    since: float = 0.0  # when it came to this state, if that has a deadline
    outcome: int = int(Outcome.CANCELED)  # what it was killed for
    used: bool = False
    lease: Lease | None = None
    position: int = 0  # first job of the lease that has no answer yet
    given_at: float = 0.0

    def patience(self) -> float:
        """Returns until when the child may stay in its state."""
        if self.state is ChildState.STARTING:
            return self.since + CHILD_START_S
        return self.since + CHILD_END_S if self.state is ChildState.ENDING else math.inf

    def runs(self, key: Key) -> bool:
        """Returns whether it is in a lease with jobs of this one."""
        lease = self.lease
        if lease is None or self.state is not ChildState.BUSY or lease.attempt != key.attempt:
            return False
        return lease.first < key.first + key.count and key.first < lease.first + lease.count


class Children:
    """Keeps a number of children; methods that end jobs return their results, in order.

    :param count: number of processes that run jobs at the same time
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._of: dict[int, Child] = {}
        self._next = 0
        self._start_failures = 0
        self.longest_s = 0.0  # longest job so far

    @property
    def broken(self) -> bool:
        """True when no child can be had."""
        return self._start_failures >= CHILD_START_FAILURES

    def busy(self) -> tuple[int, ...]:
        """Returns the numbers of those that have a lease."""
        return tuple(child.number for child in self._of.values() if child.lease is not None)

    def idle(self) -> list[Child]:
        """Returns those that wait for a lease."""
        return [child for child in self._of.values() if child.state is ChildState.IDLE]

    def held(self, usage: Mapping[int, Usage]) -> list[Held]:
        """Returns the leases that run and what they use, for a heartbeat."""
        held = []
        for child in self._of.values():
            if child.lease is not None:
                use = usage.get(child.number, Usage())
                key, phase = child.lease.key, int(Phase.RUNNING)
                held.append(
                    Held(*key, phase, use.current, use.rss_bytes, use.cpu_fraction, use.running)
                )
        return held

    # --- starting and giving ----------------------------------------------------------------------

    def complete(self, now: float, out: list[AgentEffect]) -> None:
        """Starts those that are missing."""
        while len(self._of) < self._count:
            number, self._next = self._next, self._next + 1
            self._of[number] = Child(number, since=now)
            out.append(StartChild(number))

    def ready(self, number: int) -> None:
        """A child has started."""
        child = self._of.get(number)
        if child is not None and child.state is ChildState.STARTING:
            child.state = ChildState.IDLE
            self._start_failures = 0

    def give(self, child: Child, lease: Lease, now: float, out: list[AgentEffect]) -> bool:
        """Lets an idle child run a lease; False when it has to make room for a fresh one."""
        if child.used and not lease.reuse:
            self._kill(child, Outcome.CANCELED, now, out)
            return False
        child.state = ChildState.BUSY
        child.used = True
        child.lease = lease
        child.position = lease.first
        child.given_at = now
        out.append(GiveLease(child.number, lease))
        return True

    # --- answers ----------------------------------------------------------------------------------

    def answered(self, event: ChildAnswered) -> list[Result]:
        """A child said what became of jobs; what it says of others than its own is nonsense."""
        child = self._of.get(event.child)
        if child is None or child.lease is None:
            return []
        lease, stop = child.lease, child.lease.first + child.lease.count
        known = []
        for item in event.items:
            last = item.first + item.count
            if item.attempt == lease.attempt and child.position <= item.first < last <= stop:
                child.position = last
                known.append(item)
                self.longest_s = max(self.longest_s, item.seconds / item.count)
        return known

    def finished(self, number: int, now: float, out: list[AgentEffect]) -> list[Result]:
        """A child is done with its lease; jobs that it skipped must not pay for that.

        One that did none of them cannot do any more, and is replaced.
        """
        child = self._of.get(number)
        if child is None or child.lease is None:
            return []
        lease, child.lease = child.lease, None
        missing = lease.first + lease.count - child.position
        if child.state is ChildState.BUSY:
            child.state = ChildState.IDLE
            if not lease.reuse or missing == lease.count:
                self._kill(child, Outcome.CANCELED, now, out)
        if missing <= 0:
            return []
        return [bare(child.position, missing, lease.attempt, Outcome.RETURNED)]

    # --- ends -------------------------------------------------------------------------------------

    def stop(self, key: Key, outcome: Outcome, now: float, out: list[AgentEffect]) -> None:
        """Kills those that run jobs of this lease."""
        for child in self._of.values():
            if child.runs(key):
                self._kill(child, outcome, now, out)

    def stop_all(self, now: float, out: list[AgentEffect]) -> None:
        """Kills those that run anything."""
        for child in self._of.values():
            if child.state is ChildState.BUSY:
                self._kill(child, Outcome.CANCELED, now, out)

    def _kill(self, child: Child, outcome: Outcome, now: float, out: list[AgentEffect]) -> None:
        child.state, child.since, child.outcome = ChildState.ENDING, now, int(outcome)
        out.append(KillChild(child.number, int(outcome)))

    def died(self, event: ChildDied, now: float, out: list[AgentEffect]) -> list[Result]:
        """A child is gone."""
        child = self._of.pop(event.child, None)
        if child is None:
            return []
        if child.state is ChildState.STARTING:
            self._start_failures += 1
        return [] if child.lease is None else self._blame(child, child.lease, event, now, out)

    def _blame(
        self, child: Child, lease: Lease, event: ChildDied, now: float, out: list[AgentEffect]
    ) -> list[Result]:
        """A death takes one job with it; what was unanswered around that job goes back."""
        stop = lease.first + lease.count
        if child.position >= stop:
            return []
        culprit = event.current if child.position <= event.current < stop else child.position
        outcome = Outcome(event.outcome)
        seconds = max(0.0, now - child.given_at)
        blamed = bare(culprit, 1, lease.attempt, outcome)._replace(seconds=seconds)
        if outcome not in (Outcome.RETURNED, Outcome.CANCELED):
            blamed = blamed._replace(frames=1)
            out.append(KeepDeath(blamed, child.number, event.exit_status, event.signal))
        results = [blamed]
        if culprit > child.position:
            count = culprit - child.position
            results.insert(0, bare(child.position, count, lease.attempt, Outcome.RETURNED))
        if culprit + 1 < stop:
            count = stop - culprit - 1
            results.append(bare(culprit + 1, count, lease.attempt, Outcome.RETURNED))
        return results

    # --- time -------------------------------------------------------------------------------------

    def next_deadline(self) -> float:
        """Returns when `lose_patience` has something to do."""
        return min((child.patience() for child in self._of.values()), default=math.inf)

    def lose_patience(self, now: float, out: list[AgentEffect]) -> list[Result]:
        """A child that hangs in its start is killed; one that cannot be killed is given up."""
        results = []
        for child in [c for c in self._of.values() if now >= c.patience()]:
            if child.state is ChildState.STARTING:
                self._kill(child, Outcome.CANCELED, now, out)
                self._start_failures += 1
            else:
                died = ChildDied(child.number, child.position, outcome=child.outcome)
                results += self.died(died, now, out)
        return results

    def stood_still(self, seconds: float) -> None:
        """The whole machine, or all of this worker, was stopped for so long."""
        for child in self._of.values():
            child.since += seconds


def bare(first: int, count: int, attempt: int, outcome: Outcome) -> Result:
    """Returns the result of jobs that the agent itself decides on."""
    return Result(first, count, attempt, int(outcome), 0.0, 0, 0)
