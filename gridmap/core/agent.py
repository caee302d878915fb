"""The node's own decisions: which child runs what, what to tell the monitor, when to leave.

An agent holds leases until a child is free, keeps every result until it is acknowledged, and says
in each heartbeat all that it holds.  It never runs user code.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Iterable

from gridmap.core.child import Reason
from gridmap.core.children import Children, bare
from gridmap.core.effects import (
    AgentEffect,
    DropLease,
    DropResult,
    KeepDeath,
    Leave,
    LookAtMemory,
    ReadUsage,
    Say,
)
from gridmap.core.events import (
    AgentEvent,
    BlobRefused,
    BlobStored,
    ChildAnswered,
    ChildDied,
    ChildFinished,
    ChildReady,
    MemoryRead,
    MonitorChanged,
    MonitorSaid,
    TerminationWarned,
    Usage,
    UsageRead,
)
from gridmap.core.memory import LOOK_S
from gridmap.core.messages import (
    Ack,
    Blob,
    Bye,
    Cancel,
    Credit,
    Departure,
    Drain,
    Heartbeat,
    Held,
    Hello,
    Key,
    Lease,
    NeedBlob,
    Outcome,
    Phase,
    Pulse,
    Recall,
    Refuse,
    Result,
    ToAgent,
    Welcome,
    Work,
)
from gridmap.core.outbox import Outbox
from gridmap.core.policy import UNCHARGED_TRIES
from gridmap.core.timelimit import TimeLimit
from gridmap.errors import signal_name

HELLO_INTERVAL_S = 1.0
"""Time between two Hellos while nobody has answered."""

DRAIN_DEADLINE_S = 10.0
"""How long an agent that has nothing left to run waits for its last results to be acknowledged."""

MOST_TOLD = 10_000
"""Results without an acknowledgement that a heartbeat names; more would not fit into a message."""

LEASES_REMEMBERED = 10_000
"""Leases known to have been here, so that one that arrives twice is not run twice."""

WARNED_DRAIN_S = 1.5
"""The same, when the scheduler is about to end the agent: then they go to the run's directory."""

WARNED_END_S = 1.0
"""How long a killed child may take to die while the scheduler is about to end the agent."""

ENDS_SOON = frozenset({12, 15})
"""SIGUSR2, which Grid Engine sends before SIGKILL, and SIGTERM. Other warnings (SIGUSR1 of s_rt or
before SIGSTOP, SIGXCPU) leave time to finish, though nobody knows how much.
Source: queue_conf(5) "notify", "s_rt, s_cpu"; scancel(1)
"""


class AgentCore:
    """Turns what happens on a node into what the agent does.

    :param children: number of processes that run jobs at the same time
    :param hello: how the agent introduces itself
    :param age_s: how long its worker had been running when it was born
    """

    def __init__(self, children: int, hello: Hello, age_s: float = 0.0) -> None:
        self._hello = hello
        self._children = Children(children)
        self._time = TimeLimit(age_s)
        self._waiting: deque[Lease] = deque()
        self._taken: OrderedDict[Key, float] = OrderedDict()  # when
        self._blobs: set[str] = set()
        self._asked: dict[str, float] = {}
        self._outbox = Outbox()
        self._welcome: Welcome | None = None
        self._greeted = False  # the present monitor has answered
        self._heard_at = -math.inf
        self._hello_at = -math.inf
        self._heartbeat_at = math.inf
        self._seq = 0
        self._heard = -1
        self._draining_since: float | None = None
        self._bye = Bye("drained", int(Departure.DRAINED))
        self._look_at = math.inf
        self._looked: tuple[float, dict[int, Usage]] = (-math.inf, {})
        self._warnings: set[int] = set()
        self._hurried = False  # the scheduler is about to end this worker
        self.left = False

    # --- the two calls ----------------------------------------------------------------------------

    def handle(self, event: AgentEvent, now: float) -> list[AgentEffect]:
        """Takes one event; returns what to do, in order."""
        if self.left:
            return []
        out: list[AgentEffect] = []
        self._time.born(now)
        self._notice_a_stop(now)
        if isinstance(event, MonitorSaid):
            self._monitor_said(event.message, now, out)
        elif isinstance(event, MonitorChanged):
            self._greeted, self._hello_at, self._heard = False, -math.inf, -1
        elif isinstance(event, ChildAnswered):
            self._report(self._children.answered(event, now), now, out)
        elif isinstance(event, ChildFinished):
            self._report(self._children.finished(event.child, now, out), now, out)
        elif isinstance(event, ChildReady):
            self._children.ready(event.child)
        elif isinstance(event, ChildDied):
            self._child_died(event, now, out)
        elif isinstance(event, BlobRefused):
            self._lacks(event.digest, f"cannot be kept on this node: {event.reason}", now, out)
        elif isinstance(event, BlobStored):
            self._blobs.add(event.digest)
            self._asked.pop(event.digest, None)
        elif isinstance(event, UsageRead):
            self._beat(event, out)
        elif isinstance(event, MemoryRead):
            self._looked_at_memory(event, now, out)
        elif isinstance(event, TerminationWarned):
            self._warned(event.signal, now, out)
        self._keep_time(now, out)
        self._schedule(now, out)
        self._leave_if_done(now, out)
        return out

    def next_deadline(self) -> float:
        """Returns when `handle` wants a Tick at the latest."""
        if self.left:
            return math.inf
        if self._welcome is None:
            return self._hello_at + HELLO_INTERVAL_S
        deadline = min(self._heartbeat_at, self._heard_at + self._welcome.grace_s)
        if not self._greeted:
            deadline = min(deadline, self._hello_at + HELLO_INTERVAL_S)
        if self._draining_since is not None:
            deadline = min(deadline, self._draining_since + self._drain_s)
        ends_at = self._time.last_words_at if self._hurried else self._time.cut_at
        return min(deadline, ends_at, self._look_at, self._children.next_deadline())

    def unacknowledged(self) -> list[Result]:
        """Returns the results that nobody has taken in yet."""
        return self._outbox.results()

    # --- the monitor ------------------------------------------------------------------------------

    def _monitor_said(self, message: ToAgent, now: float, out: list[AgentEffect]) -> None:
        self._heard_at = now
        if isinstance(message, Work):
            self._take(message.leases, now, out)
        elif isinstance(message, Ack):
            for key in message.keys:
                if self._outbox.acknowledged(Key(*key)):
                    out.append(DropResult(Key(*key)))
        elif isinstance(message, Welcome):
            self._welcomed(message, now, out)
        elif isinstance(message, Blob) and not message.found:
            self._lacks(message.digest, "cannot be had from the monitor", now, out)
        elif isinstance(message, Recall):
            keys = {Key(*key) for key in message.keys}
            self._give_back([x for x in self._waiting if x.key in keys], now, out)
            for key in keys:
                self._children.end_early(key, out)
        elif isinstance(message, Cancel):
            self._cancel(message, now, out)
        elif isinstance(message, Drain):
            self._drain(Bye("drained", int(Departure.DRAINED)), now, out)
        elif isinstance(message, Refuse):
            self._leave(Bye(f"refused: {message.reason}"), out)
        elif isinstance(message, Pulse) and message.seq > 0:  # 0 only asks whether there is anybody
            self._heard = max(self._heard, message.seq)

    def _welcomed(self, message: Welcome, now: float, out: list[AgentEffect]) -> None:
        if self._welcome is None:
            self._heartbeat_at = now + message.heartbeat_s
        elif not self._greeted:  # a new monitor: it hears at once of all that is here
            self._heartbeat_at = now
            self._asked = dict.fromkeys(self._asked, -math.inf)
            self._outbox.repeat(now, now, out)
            if self._draining_since is not None:
                out.append(Say(Credit(0)))
        self._welcome, self._greeted = message, True
        self._time.told(message.walltime_s, now)

    def _take(self, leases: Iterable[Lease], now: float, out: list[AgentEffect]) -> None:
        for lease in leases:
            if lease.key in self._taken:
                continue
            self._taken[lease.key] = now
            if len(self._taken) > LEASES_REMEMBERED:
                self._taken.popitem(last=False)
            self._waiting.append(lease)
            if self._draining_since is not None:
                self._give_back([lease], now, out)
                continue
            for digest in (lease.function, lease.context):
                self._need(digest, now, out)

    def _need(self, digest: str, now: float, out: list[AgentEffect]) -> None:
        if digest and digest not in self._blobs and digest not in self._asked:
            self._asked[digest] = now
            out.append(Say(NeedBlob(digest)))

    def _lacks(self, digest: str, how: str, now: float, out: list[AgentEffect]) -> None:
        """A blob cannot be had here: one job of each lease that needs it is charged for that."""
        self._asked.pop(digest, None)
        text = f"its function {how}"
        for lease in [x for x in self._waiting if digest in (x.function, x.context)]:
            self._waiting.remove(lease)
            out.append(DropLease(lease.key))
            first = bare(lease.first, 1, lease.attempt, Outcome.DIED)._replace(frames=1)
            out.append(KeepDeath(first, -1, -1, 0, text))
            results = [first]
            if lease.count > 1:
                rest = bare(lease.first + 1, lease.count - 1, lease.attempt, Outcome.RETURNED)
                results.append(rest)
            self._report(results, now, out)

    def _cancel(self, message: Cancel, now: float, out: list[AgentEffect]) -> None:
        outcome = Outcome(message.outcome)
        for key in (Key(*key) for key in message.keys):
            self._children.stop(key, outcome, now, out)
            dropped = [x for x in self._waiting if x.key == key]
            self._give_back(dropped, now, out, Outcome.CANCELED)

    def _give_back(
        self,
        leases: list[Lease],
        now: float,
        out: list[AgentEffect],
        outcome: Outcome = Outcome.RETURNED,
    ) -> None:
        """Answers for leases that no child has seen."""
        results = []
        for lease in leases:
            self._waiting.remove(lease)
            out.append(DropLease(lease.key))
            results.append(bare(lease.first, lease.count, lease.attempt, outcome))
        self._report(results, now, out)

    # --- results ----------------------------------------------------------------------------------

    def _child_died(self, event: ChildDied, now: float, out: list[AgentEffect]) -> None:
        self._report(self._children.died(event, now, out), now, out)
        self._leave_if_broken(now, out)

    def _leave_if_broken(self, now: float, out: list[AgentEffect]) -> None:
        if self._children.broken and not self.left:
            bye = Bye("processes for jobs die while they start")
            self._drain(bye, now, out)
            self._leave(bye, out)

    def _report(self, results: list[Result], now: float, out: list[AgentEffect]) -> None:
        self._outbox.send(results, now, out)

    # --- what runs next ---------------------------------------------------------------------------

    def _schedule(self, now: float, out: list[AgentEffect]) -> None:
        """Gives waiting leases to idle children, oldest first, and keeps the children's number."""
        if self.left:
            return
        if self._draining_since is None:
            self._children.complete(now, out)
        if not self._waiting:
            return
        if not self._time.has_time(now, self._children.longest_s):
            self._drain(self._out_of_time(), now, out)
            return
        for child in self._children.idle():
            lease = next((x for x in self._waiting if self._has_blobs(x)), None)
            if lease is None:
                return
            early = self._time.gives_all(self._taken.get(lease.key, now), now)
            if self._children.give(child, lease, now, out, early):
                self._waiting.remove(lease)
                self._look_at = min(self._look_at, now + LOOK_S)

    def _has_blobs(self, lease: Lease) -> bool:
        return all(not d or d in self._blobs for d in (lease.function, lease.context))

    # --- time -------------------------------------------------------------------------------------

    def _keep_time(self, now: float, out: list[AgentEffect]) -> None:
        if self.left:
            return
        if not self._greeted and now >= self._hello_at + HELLO_INTERVAL_S:
            self._hello_at = now
            out.append(Say(self._hello))
        if self._welcome is None:
            return
        if now >= self._heard_at + self._welcome.grace_s:
            self._leave(Bye("no word from the monitor"), out)
            return
        self._keep_the_time_limit(now, out)
        if self.left:
            return
        self._report(self._children.lose_patience(now, out), now, out)
        self._leave_if_broken(now, out)
        if self.left:
            return
        if now >= self._look_at:
            busy = self._children.busy()
            self._look_at = now + LOOK_S if busy else math.inf
            if busy:
                out.append(LookAtMemory(busy, self._children.exact_above_bytes()))
        if now >= self._heartbeat_at:
            self._heartbeat_at = now + self._welcome.heartbeat_s
            out.append(ReadUsage(self._children.busy()))
            self._repeat(now, out)

    def _notice_a_stop(self, now: float) -> None:
        """Time in which this process itself was stopped counts against nobody."""
        late_s = now - self.next_deadline()
        if self._welcome is None or late_s < self._welcome.heartbeat_s:
            return
        self._heard_at = now
        self._children.stood_still(late_s)
        if self._draining_since is not None:
            self._draining_since += late_s

    def _repeat(self, now: float, out: list[AgentEffect]) -> None:
        """Says again what got no answer for two heartbeats."""
        assert self._welcome is not None
        before = now - 2 * self._welcome.heartbeat_s
        for digest, asked_at in self._asked.items():
            if asked_at <= before:
                self._asked[digest] = now
                out.append(Say(NeedBlob(digest)))
        self._outbox.repeat(before, now, out)

    def _beat(self, event: UsageRead, out: list[AgentEffect]) -> None:
        self._seq += 1
        held = [
            Held(x.first, x.count, x.attempt, int(Phase.WAITING), -1, 0, 0.0, False)
            for x in self._waiting
        ]
        held += self._children.held(event.usage)
        unacknowledged = self._outbox.keys()[-MOST_TOLD:]
        out.append(Say(Heartbeat(self._seq, held, unacknowledged, self._heard)))

    def _looked_at_memory(self, event: MemoryRead, now: float, out: list[AgentEffect]) -> None:
        """Whoever comes near a limit may be gone at the next heartbeat: it is due at once."""
        looked_at, before = self._looked
        if self._children.look(event.usage, now, out):
            self._heartbeat_at = min(self._heartbeat_at, now)
        self._looked = (now, dict(event.usage))
        wait_s = self._children.look_after_s(before, min(now - looked_at, LOOK_S))
        self._look_at = min(self._look_at, now + wait_s)

    # --- leaving ----------------------------------------------------------------------------------

    def _out_of_time(self) -> Bye:
        if self._waiting and not self._children.worked and not self._children.busy():
            limit = f"its time limit of {self._time.walltime_s:g} s"
            return Bye(f"{limit} is nearly over before a job could start")
        return Bye("out of time", int(Departure.OUT_OF_TIME))

    def _keep_the_time_limit(self, now: float, out: list[AgentEffect]) -> None:
        """Ends what runs while there is time to say so, and leaves before the scheduler comes."""
        if now >= self._time.cut_at and not self._hurried:
            text = (
                f"shortly before the end of its worker's time limit of {self._time.walltime_s:g} s"
            )
            self._hurry(self._out_of_time(), Outcome.WALLTIME, text, now, out)
        if now >= self._time.last_words_at:
            self._report(self._children.give_up(now, out), now, out)
            self._leave(self._bye, out)

    def _warned(self, signal: int, now: float, out: list[AgentEffect]) -> None:
        """Some signals say that the end is near; after a softer one what runs may finish.

        Whether it is the end of the worker's time they do not say.
        """
        bye = Bye(f"warned by signal {signal}", int(Departure.WARNED))
        soft, self._warnings = set(self._warnings), self._warnings | {signal}
        if signal not in ENDS_SOON:
            self._drain(bye, now, out)
        elif not self._hurried:
            text = f"by {signal_name(signal)} from the scheduler"
            text += f" {self._time.age_s(now):.0f} s after the start of its worker"
            if self._time.nearly_up(now) or soft - ENDS_SOON:
                self._hurry(bye, Outcome.WALLTIME, text, now, out)
            else:  # preempted, deleted, or a limit that nobody told of
                self._hurry(bye, Outcome.DIED, text, now, out, UNCHARGED_TRIES)

    def _hurry(
        self,
        bye: Bye,
        outcome: Outcome,
        text: str,
        now: float,
        out: list[AgentEffect],
        tries: int = 0,
    ) -> None:
        """Ends what runs, and answers for it."""
        self._hurried = True
        self._drain(bye, now, out)
        reason = Reason(outcome, text, only_first=True, tries=tries, patience_s=WARNED_END_S)
        self._children.stop_all(reason, now, out)

    def _drain(self, bye: Bye, now: float, out: list[AgentEffect]) -> None:
        if self._draining_since is None:
            self._draining_since = math.inf  # counts from when nothing runs any more
            self._bye = bye
            out.append(Say(Credit(0)))
        self._give_back(list(self._waiting), now, out)

    def _leave_if_done(self, now: float, out: list[AgentEffect]) -> None:
        if self.left or self._draining_since is None:
            return
        if self._children.busy():
            return
        self._draining_since = min(self._draining_since, now)
        if not self._outbox.keys() or now >= self._draining_since + self._drain_s:
            self._leave(self._bye, out)

    @property
    def _drain_s(self) -> float:
        """How long to wait for the last results to be acknowledged: time to say them again."""
        if self._hurried:
            return WARNED_DRAIN_S
        beat = self._welcome.heartbeat_s if self._welcome is not None else 0.0
        return max(DRAIN_DEADLINE_S, 3 * beat)

    def _leave(self, bye: Bye, out: list[AgentEffect]) -> None:
        self.left = True
        out.append(Say(bye))
        out.append(Leave(bye.reason))
