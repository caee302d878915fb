"""The processes for jobs of one agent: what each of them runs, and what its death means."""

from __future__ import annotations

import math
from collections.abc import Mapping

from gridmap.core import memory
from gridmap.core.child import Child, ChildState, Reason
from gridmap.core.effects import (
    AgentEffect,
    EndEarly,
    GiveLease,
    KeepDeath,
    KillChild,
    StartChild,
)
from gridmap.core.events import ChildAnswered, ChildDied, Usage
from gridmap.core.messages import Held, Key, Lease, Outcome, Phase, Result
from gridmap.core.policy import UNCHARGED_TRIES

CHILD_START_FAILURES = 5
"""Children in a row that died before they were ready; then there will be none."""


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
        self.worked = False  # a job has ended here

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
                use = usage.get(child.number)
                child.use = use or child.use
                use = use or Usage()
                told = Held(
                    *child.lease.key,
                    int(Phase.RUNNING),
                    use.current,
                    use.rss_bytes,
                    use.cpu_fraction,
                    use.running,
                    self._may_have(child, use, usage),
                )
                held.append(told)
        return held

    # --- starting and giving ----------------------------------------------------------------------

    def complete(self, now: float, out: list[AgentEffect]) -> None:
        """Starts those that are missing."""
        if len(self._of) == self._count:
            return
        taken = {child.place for child in self._of.values()}
        for place in sorted(set(range(self._count)) - taken):
            number, self._next = self._next, self._next + 1
            self._of[number] = Child(number, place, since=now)
            out.append(StartChild(number, place, self._count))

    def ready(self, number: int) -> None:
        """A child has started."""
        child = self._of.get(number)
        if child is not None and child.state is ChildState.STARTING:
            child.state = ChildState.IDLE
            self._start_failures = 0

    def give(
        self, child: Child, lease: Lease, now: float, out: list[AgentEffect], early: bool = False
    ) -> bool:
        """Lets an idle child run a lease; False when it has to make room for a fresh one.

        :param early: it can have all of the worker's time, if nothing else has run
        """
        if child.used and (not lease.reuse or self._leaves_no_room(child, lease)):
            self._kill(child, Reason(Outcome.CANCELED), now, out)
            return False
        child.state = ChildState.BUSY
        child.used = True
        child.lease = lease
        child.first, child.early = not self.worked, early
        child.ends_early = False
        child.position = lease.first
        child.position_at = now
        child.use, child.near = Usage(), False
        out.append(GiveLease(child.number, lease))
        return True

    def end_early(self, key: Key, out: list[AgentEffect]) -> None:
        """Has the child that runs this lease end it after the call that it is in.

        What it has not begun by then is given back when it says that it has finished.
        """
        for child in self._of.values():
            lease = child.lease
            if lease is None or lease.key != key or child.state is not ChildState.BUSY:
                continue
            if not child.ends_early and child.position + 1 < lease.first + lease.count:
                child.ends_early = True
                out.append(EndEarly(child.number, key))

    # --- answers ----------------------------------------------------------------------------------

    def answered(self, event: ChildAnswered, now: float) -> list[Result]:
        """A child said what became of jobs; what it says of others than its own is nonsense."""
        child = self._of.get(event.child)
        if child is None or child.lease is None:
            return []
        lease, stop = child.lease, child.lease.first + child.lease.count
        known = []
        for item in event.items:
            last = item.first + item.count
            if item.attempt == lease.attempt and child.position <= item.first < last <= stop:
                child.position, child.position_at = last, now
                child.peak_rss_bytes = max(child.peak_rss_bytes, item.peak_rss_bytes)
                known.append(item)
                self.longest_s = max(self.longest_s, item.seconds / item.count)
                self.worked = True
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
            if not lease.reuse or missing == lease.count or self._leaves_no_room(child, lease):
                self._kill(child, Reason(Outcome.CANCELED), now, out)
        if missing <= 0:
            return []
        return [bare(child.position, missing, lease.attempt, Outcome.RETURNED)]

    # --- memory -----------------------------------------------------------------------------------

    def look(self, usage: Mapping[int, Usage], now: float, out: list[AgentEffect]) -> bool:
        """Takes in what is used; kills whoever uses too much.

        :returns: True when a job has just come near a limit
        """
        news = False
        for number, use in usage.items():
            child = self._of.get(number)
            if child is None or child.state is not ChildState.BUSY:
                continue
            child.use = use
            of = self._marks(child, use)
            near = memory.nearest(of)
            news = news or (near >= memory.NEAR_FRACTION and not child.near)
            child.near = near >= (memory.AGAIN_FRACTION if child.near else memory.NEAR_FRACTION)
            mark = memory.over(of)
            if mark is not None:
                text = memory.describe(mark, -1, 0)
                reason = Reason(Outcome.MEMORY, text, mark, use.current)
                self._kill(child, reason, now, out)
        return news

    def look_after_s(self, before: Mapping[int, Usage], gone_s: float) -> float:
        """Returns when to look at their memory again.

        :param before: what they used `gone_s` ago
        """
        waits = [
            memory.look_after_s(
                self._marks(child, child.use),
                self._marks(child, before.get(number, Usage())),
                gone_s,
            )
            for number, child in self._of.items()
            if child.state is ChildState.BUSY
        ]
        return min(waits, default=memory.LOOK_S)

    def exact_above_bytes(self) -> int:
        """Returns the least of what the jobs that run may use; 0: they may use any."""
        allowed = [child.lease.max_rss_bytes for child in self._of.values() if child.lease]
        return min((limit for limit in allowed if limit), default=0)

    def _leaves_no_room(self, child: Child, lease: Lease) -> bool:
        """Returns whether a child has, or once had, so much that the next job might pay for it."""
        had = max(child.use.rss_bytes, child.peak_rss_bytes)
        return 0 < lease.max_rss_bytes < 2 * had

    def _marks(self, child: Child, use: Usage) -> tuple[memory.Mark, ...]:
        allowed = child.lease.max_rss_bytes if child.lease is not None else 0
        return memory.marks(use.marks, use.rss_bytes, allowed)

    def _may_have(self, child: Child, use: Usage, all_use: Mapping[int, Usage]) -> int:
        """Returns how much memory a job may have as things stand, 0 where that is not known."""
        others = sum(x.rss_bytes for number, x in all_use.items() if number != child.number)
        parts = (
            memory.part_of(mark, use.rss_bytes, others, self._count)
            if mark.limit == memory.CGROUP
            else mark
            for mark in self._marks(child, use)
        )
        return memory.least(parts)

    # --- ends -------------------------------------------------------------------------------------

    def stop(self, key: Key, outcome: Outcome, now: float, out: list[AgentEffect]) -> None:
        """Kills those that run jobs of this lease."""
        for child in self._of.values():
            if child.runs(key):
                self._kill(child, Reason(outcome), now, out)

    def stop_all(self, reason: Reason, now: float, out: list[AgentEffect]) -> None:
        """Kills those that run anything."""
        for child in self._of.values():
            if child.state is ChildState.BUSY:
                self._kill(child, reason, now, out)

    def _kill(self, child: Child, reason: Reason, now: float, out: list[AgentEffect]) -> None:
        child.state, child.since, child.reason = ChildState.ENDING, now, reason
        out.append(KillChild(child.number, int(reason.outcome)))

    def died(self, event: ChildDied, now: float, out: list[AgentEffect]) -> list[Result]:
        """A child is gone."""
        child = self._of.pop(event.child, None)
        if child is None:
            return []
        if child.state is ChildState.STARTING:
            self._start_failures += 1
        if child.lease is None:
            return []
        return self._ended(child, child.lease, event, now, out)

    def give_up(self, now: float, out: list[AgentEffect]) -> list[Result]:
        """Answers for all that run anything as if they had died."""
        results = []
        for child in list(self._of.values()):
            if child.lease is not None:
                outcome = int(child.reason.outcome)
                died = ChildDied(child.number, child.position, outcome=outcome)
                results += self.died(died, now, out)
        return results

    def _ended(
        self, child: Child, lease: Lease, event: ChildDied, now: float, out: list[AgentEffect]
    ) -> list[Result]:
        """A death takes one job with it; what was unanswered around that job goes back."""
        stop = lease.first + lease.count
        if child.position >= stop:
            return []
        culprit = event.current if child.position <= event.current < stop else child.position
        results = [self._blame(child, lease, culprit, event, now, out)]
        self.worked = True
        if culprit > child.position:
            count = culprit - child.position
            results.insert(0, bare(child.position, count, lease.attempt, Outcome.RETURNED))
        if culprit + 1 < stop:
            count = stop - culprit - 1
            results.append(bare(culprit + 1, count, lease.attempt, Outcome.RETURNED))
        return results

    def _blame(
        self,
        child: Child,
        lease: Lease,
        culprit: int,
        event: ChildDied,
        now: float,
        out: list[AgentEffect],
    ) -> Result:
        """Finds out what the job that a child died in is to be told, and keeps what is known."""
        killed = child.state is ChildState.ENDING and event.outcome == child.reason.outcome
        ran_s = max(0.0, (child.since if killed else now) - child.position_at)
        # with arguments that take long to arrive it never has all of the time
        first = child.first and culprit == lease.first
        first = first and (child.early or lease.attempt >= UNCHARGED_TRIES)
        reason = child.reason if killed else Reason(Outcome(event.outcome))
        text = reason.text
        if not killed and reason.outcome is Outcome.DIED:
            reason = self._want_of_memory(child, event, now, out) or reason
            text = reason.text
        elif reason.only_first:
            text = f"ended after {ran_s:.1f} s, {reason.text}"
            if not first or lease.attempt < reason.tries:
                reason = Reason(Outcome.CANCELED)
        elif reason.job >= 0 and reason.job != culprit:
            reason = Reason(Outcome.CANCELED)  # the one that it was killed for has ended meanwhile
        blamed = bare(culprit, 1, lease.attempt, reason.outcome)._replace(seconds=ran_s)
        if reason.outcome in (Outcome.RETURNED, Outcome.CANCELED):
            return blamed
        blamed = blamed._replace(frames=1)
        mark = reason.mark or memory.Mark("", 0, 0)
        out.append(
            KeepDeath(
                blamed,
                child.number,
                event.exit_status,
                event.signal,
                text,
                max(child.use.rss_bytes, mark.used_bytes if mark.limit == memory.MAX_RSS else 0),
                child.use.cpu_fraction,
                mark.limit_bytes,
                mark.limit,
            )
        )
        return blamed

    def _want_of_memory(
        self, child: Child, event: ChildDied, now: float, out: list[AgentEffect]
    ) -> Reason | None:
        """Returns the reason of a death that nobody else caused, if it was want of memory."""
        known = {mark.limit: mark for mark in (*event.limits, *child.use.marks)}
        risen = event.peak_rss_bytes if event.peak_rss_bytes > child.peak_rss_bytes else 0
        mark = memory.cause_of_death(
            known.values(), event.exit_status, event.signal, risen, event.killed
        )
        if mark is None:
            return None
        text = memory.describe(mark, event.exit_status, event.signal, self._count)
        if mark.limit == memory.CGROUP:
            if self._other_pays(mark, max(child.use.rss_bytes, risen), event.others, now, out):
                return Reason(Outcome.CANCELED)
            mark = mark._replace(limit_bytes=mark.limit_bytes // self._count)
        return Reason(Outcome.MEMORY, text, mark)

    def _other_pays(
        self,
        group: memory.Mark,
        victim_bytes: int,
        usage: Mapping[int, Usage],
        now: float,
        out: list[AgentEffect],
    ) -> bool:
        """Ends the job that took the memory of the one that died for want of it, if one did."""
        busy = {c.number: c for c in self._of.values() if c.state is ChildState.BUSY}
        used = {number: usage.get(number, c.use).rss_bytes for number, c in busy.items()}
        number = memory.culprit(group, victim_bytes, used, self._count)
        if number is None:
            return False
        child = busy[number]
        child.use = usage.get(number, child.use)
        text = memory.describe_share(child.use.rss_bytes, group, self._count)
        part = group._replace(limit_bytes=group.limit_bytes // self._count)
        self._kill(child, Reason(Outcome.MEMORY, text, part, child.use.current), now, out)
        return True

    # --- time -------------------------------------------------------------------------------------

    def next_deadline(self) -> float:
        """Returns when `lose_patience` has something to do."""
        return min((child.patience() for child in self._of.values()), default=math.inf)

    def lose_patience(self, now: float, out: list[AgentEffect]) -> list[Result]:
        """A child that hangs in its start is killed; one that cannot be killed is given up."""
        results = []
        for child in [c for c in self._of.values() if now >= c.patience()]:
            if child.state is ChildState.STARTING:
                self._kill(child, Reason(Outcome.CANCELED), now, out)
                self._start_failures += 1
            else:
                outcome = int(child.reason.outcome)
                died = ChildDied(child.number, child.position, outcome=outcome)
                results += self.died(died, now, out)
        return results

    def stood_still(self, seconds: float) -> None:
        """The whole machine, or all of this worker, was stopped for so long."""
        for child in self._of.values():
            child.since += seconds
            child.early = False  # it has not had all of the worker's time


def bare(first: int, count: int, attempt: int, outcome: Outcome) -> Result:
    """Returns the result of jobs that the agent itself decides on."""
    return Result(first, count, attempt, int(outcome), 0.0, 0, 0)
