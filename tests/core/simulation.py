"""A cluster in one thread and no time: random histories around the real dispatcher and agents.

Everything that happens is an entry in one heap; the network loses messages, processes and nodes
die, the scheduler is slow, forgets and refuses.  The same seed gives the same history.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from gridmap.core import effects as do
from gridmap.core import events as ev
from gridmap.core import messages as m
from gridmap.core.agent import AgentCore
from gridmap.core.dispatcher import Dispatcher
from gridmap.core.policy import Limits, Policy
from gridmap.core.spec import JobSpec, RetryRule, Span
from gridmap.core.states import JobState, WorkerState
from gridmap.errors import Cause

LIMIT_S = 50_000.0
MOST_EVENTS = 200_000
FLUSH_S = 0.05
FATES = (
    *("raise", "poison", "die_once", "stall", "unpicklable", "flaky", "long"),
    *("hungry", "greedy"),  # need one level of memory more than there is at first, or two
)
ALIVE = (ev.NativeState.PENDING, ev.NativeState.RUNNING, ev.NativeState.SUSPENDED)


@dataclass
class Plan:
    """What will go wrong, drawn from the seed."""

    jobs: int
    workers: int
    children: int
    slots: int
    loss: float
    node_death: float
    agent_freeze: float
    start_failure: float
    submit_failure: float
    poll_failure: float
    deletion: float
    disk_full: float
    reuse: bool
    stop_on_failure: bool
    cancel_at: float | None
    fates: dict[int, str]
    no_rerun: bool
    pools: int = 1
    mess: float = 0.0  # messages that arrive twice, or late
    lies: float = 0.0  # of a worker that talks nonsense
    restart: float = 0.0  # of an agent, under the same native id
    wrong_version: float = 0.0
    terminated: float = 0.0
    lazily: bool = False
    walltime_s: float = 0.0
    suspension: float = 0.0
    max_workers: int = 0  # of all pools together
    client_deaths: int = 0  # how often the client is killed; another takes the run over
    retry: RetryRule = RetryRule()
    hosts: int = 1
    memory_levels: int = 1  # pools of which each has more memory than the one before
    time_levels: int = 1
    preemption: float = 0.0  # a worker goes back to the queue, and starts anew under its old id
    clocks: float = 0.0  # they run too fast or too slow, and leap
    slow_from: int = -1  # jobs before this one take next to no time, and the others 5 s each

    @classmethod
    def draw(cls, rng: random.Random) -> Plan:
        jobs = rng.choice([0, 1, 2, 3, 5, 8, 13, 30])
        calm = rng.random() < 0.3

        def some(chance: float, most: float) -> float:
            return 0.0 if calm or rng.random() > chance else rng.uniform(0, most)

        fates = {}
        for job in range(jobs):
            if rng.random() < 0.06:
                fates[job] = rng.choice(FATES)
        return cls(
            jobs=jobs,
            workers=rng.randint(1, 5),
            children=rng.randint(1, 3),
            slots=rng.randint(1, 5),
            loss=some(0.5, 0.05),
            node_death=some(0.3, 0.1),
            agent_freeze=some(0.2, 0.1),
            start_failure=some(0.2, 0.4),
            submit_failure=some(0.2, 0.7),
            poll_failure=1.0 if rng.random() < 0.03 else some(0.5, 0.9),
            deletion=some(0.1, 0.1),
            disk_full=some(0.1, 0.3),
            reuse=rng.random() < 0.8,
            stop_on_failure=rng.random() < 0.2,
            cancel_at=rng.uniform(0, 30) if rng.random() < 0.05 else None,
            fates=fates,
            no_rerun=rng.random() < 0.15,
            pools=rng.choice([1, 1, 1, 2, 3]),
            mess=some(0.4, 0.2),
            lies=some(0.3, 0.5),
            restart=some(0.2, 0.2),
            wrong_version=some(0.1, 0.5),
            terminated=some(0.2, 0.2),
            lazily=rng.random() < 0.3,
            walltime_s=rng.uniform(45, 300) if some(0.2, 1.0) else 0.0,
            suspension=some(0.2, 0.5),
            client_deaths=rng.choice([0, 0, 0, 1, 1, 2]),
            max_workers=rng.choice([0, 0, 1, 2, 4]),
            retry=RetryRule(
                times=rng.choice([-1, -1, -1, 0, 1, 5]),
                causes=rng.choice([(), (), (), ("died", "silent"), ("memory",)]),
                backoff_s=rng.choice([-1.0, 0.0, 20.0]),
                other_host=rng.random() < 0.8,
                no_memory=rng.random() < 0.3,
                memory=rng.choice([1.0, 1.0, 2.0]),
            ),
            hosts=rng.choice([1, 1, 2, 3]),
            memory_levels=rng.choice([1, 1, 2, 3]),
            time_levels=rng.choice([1, 1, 2]),
            preemption=some(0.2, 0.3),
            clocks=some(0.2, 0.2),
            slow_from=rng.choice([-1, -1, -1, 3, 10]),
        )


@dataclass
class Node:
    """One worker: a real AgentCore, and children that only pretend."""

    worker: str
    pool: int = 0
    liar: bool = False
    request: int = -1
    host: str = "host"
    fast: float = 1.0  # its clock runs so fast
    ahead_s: float = 0.0
    state: ev.NativeState = ev.NativeState.PENDING
    why: Cause | None = None  # the scheduler's word on its end
    incarnation: str = ""
    core: AgentCore | None = None
    frozen_until: float = 0.0
    ticking_at: float = float("inf")
    running: dict[int, tuple[m.Lease, int, float]] = field(default_factory=dict)
    generation: Counter[int] = field(default_factory=Counter)
    known: set[m.Key] = field(default_factory=set)
    ends_early: set[tuple[int, m.Key]] = field(default_factory=set)

    def clock(self, now: float) -> float:
        """Returns what its clock shows."""
        return self.fast * now + self.ahead_s


@dataclass
class Ledger:
    """What outlives a client."""

    parts: list[ev.JobsAdded] = field(default_factory=list)
    ends: dict[int, tuple[JobState, str, Cause | None, int]] = field(default_factory=dict)
    charged: dict[int, ev.KnownCharge] = field(default_factory=dict)
    requests: dict[int, tuple[int, int]] = field(default_factory=dict)  # array, pool
    workers: list[ev.KnownWorker] = field(default_factory=list)
    leases: list[ev.KnownLease] = field(default_factory=list)
    over: bool = False


class Simulation:
    """One history; `run` raises AssertionError where a promise is broken."""

    def __init__(self, seed: int, plan: Plan | None = None) -> None:
        self.rng = random.Random(seed)
        self.plan = plan or Plan.draw(self.rng)
        self.now = 0.0
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = 0
        policy = Policy(
            heartbeat_s=10.0,
            silent_after_s=90.0,
            max_workers=self.plan.max_workers,
            stop_on_failure=self.plan.stop_on_failure,
            submit_deadline_s=600.0,
            outage_deadline_s=600.0,
            gridmap="1",
        )
        self.policy = policy
        self.limits = [self.limit(number) for number in range(self.pools)]
        self.dispatcher = Dispatcher(policy, self.limits)
        self.client = 0  # number of the one that is alive, or was last
        self.dead = False
        self.ledger = Ledger()
        self.write_s = self.rng.uniform(0, 0.3) if self.plan.client_deaths else 0.0
        self.nodes: dict[str, Node] = {}
        self.ends: dict[int, str] = {}
        self.causes: dict[int, Cause] = {}
        self.attempts: dict[int, int] = {}
        self.starts: Counter[int] = Counter()
        self.last_end_s = 0.0
        self.ended = False
        self.log: list[str] = []
        self._ticking_at = float("inf")
        self._array = 0
        self._request = -1
        self.leapt_s = 0.0  # so far the client's clock is ahead

    # --- pools ------------------------------------------------------------------------------------

    @property
    def pools(self) -> int:
        return self.plan.pools * self.plan.memory_levels * self.plan.time_levels

    def levels(self, pool: int) -> tuple[int, int]:
        """Returns how many steps of memory and of time a pool has more than the first ones."""
        memory, time = divmod(pool // self.plan.pools, self.plan.time_levels)
        return memory, time

    def walltime(self, pool: int) -> float:
        return self.plan.walltime_s * 5.0 ** self.levels(pool)[1]

    def limit(self, pool: int) -> Limits:
        plan = self.plan
        memory, time = self.levels(pool)
        return Limits(
            plan.workers,
            plan.children,
            walltime_s=self.walltime(pool),
            more_memory=pool + plan.pools * plan.time_levels
            if memory + 1 < plan.memory_levels
            else -1,
            more_time=pool + plan.pools if time + 1 < plan.time_levels else -1,
        )

    # --- the heap ---------------------------------------------------------------------------------

    def after(self, delay: float, call: Callable[[], None]) -> None:
        self._order += 1
        heapq.heappush(self._heap, (self.now + delay, self._order, call))

    def run(self) -> None:
        self.add(self.plan.jobs)
        if self.plan.cancel_at is not None:
            self.tell_later(self.plan.cancel_at, ev.CancelRequested())
        if self.plan.client_deaths:
            self.after(
                self.rng.expovariate(1 / 15), lambda: self.kill_client(self.plan.client_deaths)
            )
        events = 0
        while self._heap:
            self.now, _, call = heapq.heappop(self._heap)
            if self.now > LIMIT_S:
                break
            call()
            events += 1
            assert events < MOST_EVENTS, f"{self.now:.2f}: nothing but events"
        self.check()

    def add(self, left: int) -> None:
        """The input: all at once, or as it comes."""
        if self.dead or self.client:
            return  # who read the input is no more
        if not left:
            self.tell(ev.InputEnded())
            return
        count = min(left, self.rng.randint(1, 10))
        pool = self.rng.randrange(self.plan.pools)
        rerunnable = not self.plan.no_rerun
        spec = JobSpec(
            "f", "c", pool, rerunnable=rerunnable, reuse=self.plan.reuse, retry=self.plan.retry
        )
        added = ev.JobsAdded(count, spec)
        self.ledger.parts.append(added)
        self.tell(added)
        if self.plan.lazily:
            self.after(self.rng.uniform(0, 30), lambda: self.add(left - count))
        else:
            self.add(left - count)

    def tell(self, event: ev.DispatcherEvent) -> None:
        if self.dead:
            return
        held = []
        writes: list[Callable[[], None]] = []
        if self.rng.random() < self.plan.clocks / 100:
            self.leapt_s += self.rng.choice([5.0, 100.0, 1000.0])
        for effect in self.dispatcher.handle(event, self.clock):
            worker = self.dispatcher.workers.get(getattr(effect, "worker", ""))
            incarnation = worker.incarnation if worker is not None else ""
            writes.append(lambda e=effect, i=incarnation: self.write(e, i))  # type: ignore[misc]
            waits = isinstance(effect, do.SubmitWorkers)
            if waits:
                self.check_max_workers()
            waits = waits or (isinstance(effect, do.Assign) and not effect.spec.rerunnable)
            if isinstance(effect, do.SendMessage) and isinstance(effect.message, m.Ack):
                waits = True
            if waits and self.plan.client_deaths:
                held.append(effect)
            else:
                self.perform(event, effect)
        if isinstance(event, ev.WorkersSubmitted | ev.SubmissionFailed):
            writes.append(lambda: self.write_answer(event))
        if writes and self.plan.client_deaths:
            self.after(self.write_s, lambda client=self.client: self.written(client, writes, held))  # type: ignore[misc]
        self.check_nobody_idles()
        self.check_late_leases_are_shared()
        at = self.dispatcher.next_deadline()
        if at < self._ticking_at:
            self._ticking_at = at
            self.after(max(0.0, at - self.clock), self._tick)

    @property
    def clock(self) -> float:
        """What the client's clock shows."""
        return self.now + self.leapt_s

    def tell_later(self, delay: float, event: ev.DispatcherEvent) -> None:
        """What is on its way to a client is lost when that dies."""
        client = self.client
        self.after(delay, lambda: self.tell(event) if client == self.client else None)

    def _tick(self) -> None:
        self._ticking_at = float("inf")
        self.tell(ev.Tick())

    # --- the client -------------------------------------------------------------------------------

    def written(
        self, client: int, writes: list[Callable[[], None]], held: list[do.DispatcherEffect]
    ) -> None:
        """The ledger has it, unless its writer died before."""
        if self.dead or client != self.client:
            return
        for write in writes:
            write()
        for effect in held:
            if isinstance(effect, do.Assign):
                worker = self.dispatcher.workers[effect.worker]
                if (effect.span.first, effect.attempt) not in worker.leases:
                    continue
            elif isinstance(effect, do.SubmitWorkers) and self.dispatcher.ended:
                continue
            self.perform(ev.Tick(), effect)

    def write(self, effect: do.DispatcherEffect, incarnation: str) -> None:
        ledger = self.ledger
        if isinstance(effect, do.Assign):
            lease = ev.KnownLease(effect.worker, incarnation, effect.span, effect.attempt)
            ledger.leases.append(lease)
        elif isinstance(effect, do.Charged):
            before = ledger.charged.get(effect.job)
            spec = effect.spec or (before.spec if before is not None else None)
            ledger.charged[effect.job] = ev.KnownCharge(
                effect.job, effect.attempts, effect.attempt, spec
            )
        elif isinstance(effect, do.SubmitWorkers):
            ledger.requests[effect.request] = (-1, effect.pool)
        elif isinstance(effect, do.Deliver):
            for job in range(effect.span.first, effect.span.stop):
                ledger.ends[job] = (JobState.COMPLETED, "value", None, 0)
        elif isinstance(effect, do.DeliverFailure):
            ledger.ends[effect.job] = (JobState.FAILED, "failed", effect.cause, effect.attempts)
        elif isinstance(effect, do.DeliverEnd):
            how = "refused" if effect.refused else effect.state.name.lower()
            for job in range(effect.span.first, effect.span.stop):
                ledger.ends[job] = (effect.state, how, effect.cause, 0)
        elif isinstance(effect, do.RunEnded):
            ledger.over = True

    def write_answer(self, event: ev.WorkersSubmitted | ev.SubmissionFailed) -> None:
        _, pool = self.ledger.requests.pop(event.request)
        if isinstance(event, ev.WorkersSubmitted):
            known = [ev.KnownWorker(worker, pool, event.request) for worker in event.workers]
            self.ledger.workers += known

    def kill_client(self, left: int) -> None:
        if self.ended or self.dead:
            return
        self.dead = True
        self.log.append(f"{self.now:.2f} the client is killed")
        self.after(self.rng.choice([1.0, 30.0, 400.0]), lambda: self.take_over(left - 1))

    def take_over(self, left: int) -> None:
        """Another client goes on from the ledger."""
        self.client += 1
        self.dead = False
        ledger = self.ledger
        self.log.append(f"{self.now:.2f} another client takes over")
        self.plan.jobs = sum(part.count for part in ledger.parts)
        self.ends = {job: how for job, (_, how, _, _) in ledger.ends.items()}
        self.causes = {job: cause for job, (_, _, cause, _) in ledger.ends.items() if cause}
        self.attempts = {job: n for job, (_, _, _, n) in ledger.ends.items() if n}
        self.dispatcher = Dispatcher(self.policy, self.limits)
        self._ticking_at = float("inf")
        attempt = max((lease.attempt for lease in ledger.leases), default=-1) + 1
        for part in ledger.parts:
            self.tell(ev.JobsAdded(part.count, part.spec, attempt))
        listed = [n for n in self.nodes.values() if n.state in ALIVE]
        known = {worker.id for worker in ledger.workers}
        new = [
            ev.KnownWorker(node.worker, node.pool, node.request)
            for node in listed
            if node.worker not in known
        ]
        ledger.workers += new
        ledger.requests.clear()
        self.tell(
            ev.RunResumed(
                tuple((Span(job, 1), state) for job, (state, _, _, _) in ledger.ends.items()),
                tuple(x for x in ledger.charged.values() if x.job not in ledger.ends),
                tuple(ledger.workers),
                tuple(ledger.leases),
                self._request + 1,
            )
        )
        self.tell(ev.InputEnded())
        for node in listed:
            self.after(
                self.rng.uniform(0, 4), lambda node=node: self.agent(node, ev.MonitorChanged())
            )  # type: ignore[misc]
        if left:
            self.after(self.rng.expovariate(1 / 15), lambda: self.kill_client(left))

    # --- the monitor's hands ----------------------------------------------------------------------

    def perform(self, event: ev.DispatcherEvent, effect: do.DispatcherEffect) -> None:
        if isinstance(effect, do.SendMessage):
            self.to_agent(effect.worker, effect.message)
        elif isinstance(effect, do.Assign):
            packets = [(0, effect.span.count, 1)]
            spec = effect.spec
            names = (spec.function, spec.context, spec.reuse)
            lease = m.Lease(*effect.span, effect.attempt, *names, packets)
            self.to_agent(effect.worker, m.Work([lease]))
        elif isinstance(effect, do.Deliver):
            for job in range(effect.span.first, effect.span.stop):
                self.end(job, "value")
        elif isinstance(effect, do.DeliverFailure):
            self.causes[effect.job] = effect.cause
            self.attempts[effect.job] = effect.attempts
            self.end(effect.job, "failed")
        elif isinstance(effect, do.DeliverEnd):
            for job in range(effect.span.first, effect.span.stop):
                self.causes[job] = effect.cause
                self.end(job, "refused" if effect.refused else effect.state.name.lower())
        elif isinstance(effect, do.SubmitWorkers):
            self.submit(effect)
        elif isinstance(effect, do.CancelWorkers):
            workers = effect.workers
            self.after(self.rng.uniform(0, 1), lambda: [self.vanish(w) for w in workers])
        elif isinstance(effect, do.PollWorkers):
            self.poll(effect.workers)
        elif isinstance(effect, do.DiagnoseWorker):
            worker = effect.worker
            self.tell_later(0.5, ev.WorkerDiagnosed(worker, "it broke"))
        elif isinstance(effect, do.RunEnded):
            assert not self.ended, "ended twice"
            self.ended = True
        elif isinstance(effect, do.Note):
            self.log.append(f"{self.now:.2f} {effect.text}")

    def end(self, job: int, how: str) -> None:
        assert job not in self.ends, f"job {job} ended as {self.ends[job]}, then as {how}"
        self.ends[job] = how
        self.last_end_s = self.now

    def submit(self, effect: do.SubmitWorkers) -> None:
        self._request = effect.request
        if self.rng.random() < self.plan.submit_failure:
            failed = ev.SubmissionFailed(effect.request, "busy", transient=True)
            self.tell_later(0.1, failed)
            return
        self._array += 1
        ids = tuple(f"{self._array}.{i + 1}" for i in range(effect.count))
        for worker in ids:
            liar = self.rng.random() < self.plan.lies
            wrong = self.rng.random() < self.plan.clocks
            self.nodes[worker] = Node(
                worker,
                effect.pool,
                liar,
                request=effect.request,
                host=f"host{self.rng.randrange(self.plan.hosts)}",
                fast=self.rng.choice([0.9, 1.1]) if wrong else 1.0,
                ahead_s=self.rng.choice([0.0, 1e6]) if wrong else 0.0,
            )
            self.after(self.rng.uniform(0.01, 1), lambda w=worker: self.start(w))
        submitted = ev.WorkersSubmitted(effect.request, ids)
        self.tell_later(self.rng.uniform(0, 0.2), submitted)

    def poll(self, workers: tuple[str, ...]) -> None:
        if self.rng.random() < self.plan.poll_failure:
            if self.rng.random() < 0.5:  # else it does not even say that it cannot
                failed = ev.PollFailed("no qmaster", transient=True)
                self.tell_later(self.rng.uniform(0, 2), failed)
            return
        told = [w for w in workers if self.rng.random() < 0.8]
        status = {w: ev.NativeStatus(self.nodes[w].state, cause=self.nodes[w].why) for w in told}
        self.tell_later(self.rng.uniform(0, 2), ev.WorkersPolled(status))

    # --- the scheduler ----------------------------------------------------------------------------

    def start(self, worker: str) -> None:
        node = self.nodes[worker]
        if node.state is not ev.NativeState.PENDING:
            return
        if self.rng.random() < self.plan.deletion:
            node.state = ev.NativeState.DELETED
            return
        busy = sum(n.state is ev.NativeState.RUNNING for n in self.nodes.values())
        if busy >= self.plan.slots:
            self.after(self.rng.uniform(0.5, 3), lambda: self.start(worker))
            return
        node.state = ev.NativeState.RUNNING
        fate = self.rng.random()
        if fate < self.plan.start_failure / 2:
            self.after(0.1, lambda: self.vanish(worker, ev.NativeState.FAILED))
            return
        if fate < self.plan.start_failure:
            return  # hangs before its first word
        self.boot(node)
        if self.plan.walltime_s:
            core = node.core
            self.after(self.walltime(node.pool), lambda: self.time_over(node, core))
        if self.rng.random() < self.plan.preemption:
            self.after(self.rng.expovariate(1 / 20), lambda: self.preempt(node))
        if self.rng.random() < self.plan.restart:
            self.after(self.rng.expovariate(1 / 20), lambda: self.restart(node))
        if self.rng.random() < self.plan.terminated:
            warned = ev.TerminationWarned(self.rng.choice([15, 10]))
            self.after(self.rng.expovariate(1 / 20), lambda: self.agent(node, warned))
        if node.liar:
            self.after(1.0, lambda: self.lie(node, 20))
        if self.rng.random() < self.plan.node_death:
            self.after(self.rng.expovariate(1 / 20), lambda: self.die(worker))
        if self.rng.random() < self.plan.agent_freeze:
            self.after(self.rng.expovariate(1 / 20), lambda: self.freeze(worker))
        if self.rng.random() < self.plan.suspension:
            self.after(self.rng.expovariate(1 / 20), lambda: self.suspend(worker))

    def time_over(self, node: Node, core: AgentCore | None) -> None:
        """The scheduler ends a worker; it may say why."""
        if node.core is core is not None:
            node.why = self.rng.choice([None, Cause.WALLTIME])
            self.vanish(node.worker, ev.NativeState.FAILED)

    def preempt(self, node: Node) -> None:
        """A worker makes way for another's, and waits for its next turn."""
        if node.core is not None and node.state is ev.NativeState.RUNNING:
            self.vanish(node.worker, ev.NativeState.PENDING)
            node.generation.update(range(1000))
            self.after(self.rng.choice([0.0, 5.0, 200.0]), lambda: self.start(node.worker))

    def boot(self, node: Node) -> None:
        """An agent starts."""
        node.incarnation = f"i{self._order}"
        node.ticking_at = float("inf")
        version = "0" if self.rng.random() < self.plan.wrong_version else "1"
        children = self.plan.children
        hello = m.Hello(
            version, "3", m.PROTOCOL, node.worker, node.incarnation, node.pool, node.host, 1,
            children, 2 * children,
        )  # fmt: skip
        node.core = AgentCore(children, hello)
        self.agent(node, ev.Tick())

    def restart(self, node: Node) -> None:
        """The scheduler runs a worker again under its old id."""
        if node.core is not None and node.state is ev.NativeState.RUNNING:
            node.running.clear()
            node.generation.update(range(1000))
            self.boot(node)

    def lie(self, node: Node, left: int) -> None:
        """A confused agent says what makes no sense; none of it may harm another's jobs."""
        if node.core is None or not left:
            return
        n = self.rng.choice
        first, count = n([-(10**9), -1, 0, 1, 5, 10**9]), n([-5, 0, 1, 3, 10**9])
        attempt = n([-1, 7, 10**9])
        outcome = n([-1, 0, 1, 2, 5, 7, 9, 99])
        seconds = n([-1.0, float("nan"), float("inf"), 0.0])
        message = n(
            [
                m.Results([m.Result(first, count, attempt, outcome, seconds, -1, -1)]),
                m.Heartbeat(
                    n([-1, 0, 3]),
                    [m.Held(first, count, attempt, n([0, 1, 9]), first, -1, seconds, False)],
                    [m.Key(first, count, attempt)],
                ),
                m.Credit(n([-(10**9), 10**9])),
                m.NeedBlob("nonsense"),
            ]
        )
        self.to_monitor(node, message)
        self.after(self.rng.expovariate(1 / 3), lambda: self.lie(node, left - 1))

    def die(self, worker: str) -> None:
        """A node loses power; the scheduler may or may not notice."""
        if self.nodes[worker].core is None:
            return
        self.vanish(worker)
        if self.rng.random() < 0.3:
            self.nodes[worker].state = ev.NativeState.RUNNING

    def freeze(self, worker: str, most_s: float = 400) -> None:
        node = self.nodes[worker]
        node.frozen_until = max(node.frozen_until, self.now + self.rng.uniform(most_s / 40, most_s))

    def suspend(self, worker: str) -> None:
        """An administrator suspends a worker, and later lets it go on."""
        node = self.nodes[worker]
        if node.state is not ev.NativeState.RUNNING:
            return
        node.state = ev.NativeState.SUSPENDED
        self.freeze(worker, self.rng.choice([5, 100, 4000]))
        self.after(node.frozen_until - self.now, lambda: self.resume(node))

    def resume(self, node: Node) -> None:
        if node.state is ev.NativeState.SUSPENDED:
            node.state = ev.NativeState.RUNNING

    def vanish(self, worker: str, state: ev.NativeState = ev.NativeState.DONE) -> None:
        node = self.nodes[worker]
        node.core = None
        node.running.clear()
        if node.state in ALIVE:
            node.state = state

    # --- the network ------------------------------------------------------------------------------

    def to_agent(self, worker: str, message: m.ToAgent) -> None:
        if self.rng.random() < self.plan.loss:
            return
        self.after(self.rng.uniform(0.0001, 0.01), lambda: self.arrives(worker, message))
        if self.rng.random() < self.plan.mess:
            self.after(self.rng.uniform(0, 5), lambda: self.arrives(worker, message))

    def arrives(self, worker: str, message: m.ToAgent) -> None:
        node = self.nodes.get(worker)
        if node is None or node.core is None:
            return
        if isinstance(message, m.Blob) and self.rng.random() < self.plan.disk_full:
            self.agent(node, ev.MonitorSaid(m.Blob(message.digest, found=False)))
        elif isinstance(message, m.Blob):
            self.agent(node, ev.BlobStored(message.digest))
        else:
            self.agent(node, ev.MonitorSaid(message))

    def to_monitor(self, node: Node, message: m.FromAgent) -> None:
        if self.rng.random() < self.plan.loss:
            return
        delay = self.rng.uniform(0.0001, 0.01)
        if isinstance(message, m.NeedBlob):
            if not self.dead:
                self.after(delay, lambda: self.to_agent(node.worker, m.Blob(message.digest)))
            return
        event = ev.MessageReceived(node.worker, node.incarnation, message)
        if self.rng.random() < self.plan.mess:
            self.tell_later(self.rng.uniform(0, 30), event)
            if self.rng.random() < 0.3:
                delay = self.rng.uniform(0, 2)
        self.tell_later(delay, event)

    # --- nodes ------------------------------------------------------------------------------------

    def agent(self, node: Node, event: ev.AgentEvent) -> None:
        core = node.core
        if core is None:
            return
        if node.frozen_until > self.now:
            delay = node.frozen_until - self.now + 0.001
            self.after(delay, lambda: self.agent(node, event) if node.core is core else None)
            return
        if self.rng.random() < self.plan.clocks / 100:
            node.ahead_s += self.rng.choice([5.0, 100.0, 1000.0])
        for effect in core.handle(event, node.clock(self.now)):
            self.act(node, core, effect)
        at = core.next_deadline()
        if at < node.ticking_at:
            node.ticking_at = at
            delay = max(0.0, at - node.clock(self.now)) / node.fast
            self.after(delay, lambda: self._agent_tick(node, core))

    def _agent_tick(self, node: Node, core: AgentCore) -> None:
        if node.core is core:
            node.ticking_at = float("inf")
            self.agent(node, ev.Tick())

    def act(self, node: Node, core: AgentCore, effect: do.AgentEffect) -> None:
        if isinstance(effect, do.Say):
            self.to_monitor(node, effect.message)
        elif isinstance(effect, do.StartChild):
            ready = ev.ChildReady(effect.child)
            self.after(0.02, lambda: self.agent(node, ready))
        elif isinstance(effect, do.GiveLease):
            self.step(node, effect.child, effect.lease, effect.lease.first, [])
        elif isinstance(effect, do.KillChild):
            self.child_dies(node, effect.child, effect.outcome)
        elif isinstance(effect, do.EndEarly):
            lease = node.running.get(effect.child, (None,))[0]
            assert lease is None or lease.key == effect.key, "told of another lease"
            node.ends_early.add((effect.child, effect.key))
        elif isinstance(effect, do.ReadUsage):
            usage = {
                child: ev.Usage(1, 0.0 if self.fate(at) == "stall" else 1.0, False, at)
                for child, (_, at, _) in node.running.items()
            }
            self.agent(node, ev.UsageRead(usage))
        elif isinstance(effect, do.Leave):
            self.after(0.01, lambda: self.vanish(node.worker))

    def needs(self, job: int) -> int:
        """Returns how many steps of memory more than at first a job needs."""
        return {"hungry": 1, "greedy": 2}.get(self.fate(job), 0)

    def fate(self, job: int) -> str:
        return self.plan.fates.get(job, "")

    def step(self, node: Node, child: int, lease: m.Lease, job: int, ready: list[m.Result]) -> None:
        """A child starts one job of its lease."""
        self.starts[job] += 1
        node.running[child] = (lease, job, self.now)
        fate = self.fate(job)
        if fate == "stall":
            return
        token = node.generation[child]
        seconds = self.rng.choice([0.001, 0.01, 0.5, 5.0, 40.0])
        if self.plan.slow_from >= 0:
            seconds = 1e-5 if job < self.plan.slow_from else 5.0
        if fate == "long" and self.plan.walltime_s:
            seconds = 2 * self.plan.walltime_s
        self.after(seconds, lambda: self.done(node, child, token, lease, job, ready, seconds))

    def done(
        self, node: Node, child: int, token: int, lease: m.Lease, job: int,
        ready: list[m.Result], seconds: float,
    ) -> None:  # fmt: skip
        if node.core is None or node.generation[child] != token:
            return
        fate = self.fate(job)
        if fate == "poison" or (fate == "die_once" and self.starts[job] == 1):
            self.child_dies(node, child, int(m.Outcome.DIED))
            return
        outcome = {"raise": m.Outcome.EXCEPTION, "unpicklable": m.Outcome.UNPICKLABLE}.get(
            fate, m.Outcome.VALUE
        )
        if fate == "flaky" and self.starts[job] <= 2:
            outcome = m.Outcome.RETRIABLE
        if self.needs(job) > self.levels(node.pool)[0]:
            end = self.rng.choice(["killed", "raises", "worker"])
            if end == "killed":
                self.child_dies(node, child, int(m.Outcome.MEMORY))
                return
            if end == "worker":
                node.why = Cause.MEMORY
                self.vanish(node.worker, ev.NativeState.FAILED)
                return
            outcome = m.Outcome.NO_MEMORY
        ready.append(m.Result(job, 1, lease.attempt, int(outcome), seconds, 1, 1))
        last = job + 1 == lease.first + lease.count
        flushes = last or seconds > FLUSH_S
        last = last or (flushes and (child, lease.key) in node.ends_early)
        if flushes:
            answered = ev.ChildAnswered(child, list(ready))
            ready.clear()
            self.agent(node, answered)
        if last:
            node.running.pop(child, None)
            self.agent(node, ev.ChildFinished(child))
        else:
            self.step(node, child, lease, job + 1, ready)

    def child_dies(self, node: Node, child: int, outcome: int) -> None:
        current = node.running.pop(child, (None, -1, 0.0))[1]
        node.generation[child] += 1
        died = ev.ChildDied(child, current, -1, 11, outcome)
        self.after(0.01, lambda: self.agent(node, died))

    # --- promises ---------------------------------------------------------------------------------

    def check(self) -> None:
        plan = self.plan
        assert self.ended, "the run never ended"
        assert set(self.ends) == set(range(plan.jobs)), "a job did not end"
        assert self.dispatcher.jobs.unfinished == 0
        for pool in self.dispatcher.pools:
            assert pool.unfinished == 0
        stopped = plan.cancel_at is not None or plan.stop_on_failure
        given_up = "failed" in [h for j, h in self.ends.items() if j not in self.attempts]
        for job, how in self.ends.items():
            if how in ("canceled", "skipped"):
                assert stopped or given_up, f"job {job} was {how} for no reason"
            elif how == "value":
                assert self.fate(job) not in ("raise", "poison", "stall", "unpicklable")
                assert self.needs(job) < self.plan.memory_levels
                assert self.dispatcher.jobs[job] is JobState.COMPLETED
            elif job in self.attempts:
                self.check_failure(job)
        if plan.no_rerun and not plan.lies:  # who denies that it has a job makes it run again
            over = [job for job, n in self.starts.items() if n > 1]
            assert not over, f"jobs {over} are not rerunnable, and were started twice"
        alive = [n.worker for n in self.nodes.values() if n.core is not None]
        assert not alive, f"workers {alive} stayed behind"

    def check_nobody_idles(self) -> None:
        """No worker stands idle while a job waits that it could run."""
        for pool in self.dispatcher.pools:
            first = pool.queue.first()
            if first is None or self.ended:
                continue
            if pool.awaited and self.clock < pool.awaited_until:
                continue
            up = [w for w in pool.workers.values() if w.state is WorkerState.UP]
            kept_from = first.avoid if self.clock < first.avoid_until else None
            idle = [w.id for w in up if w.capacity and not w.leases and w.host != kept_from]
            assert not idle, f"{self.now:.2f}: workers {idle} idle, {first} waits"

    def check_late_leases_are_shared(self) -> None:
        """Where somebody has nothing to do, no lease runs much longer than planned unasked."""
        for pool in self.dispatcher.pools:
            if not pool.starving or pool.queue.first() is not None or self.ended:
                continue
            before = self.clock - self.policy.late_after_s
            late = [
                (w.id, lease.key)
                for w in pool.workers.values()
                for lease in w.leases.values()
                if lease.since <= before and lease.left > 1 and not lease.recalled
            ]  # fmt: skip
            at = self.dispatcher.next_deadline()
            assert not late or at <= self.clock + self.policy.chunk_target_s, f"late: {late}"

    def check_max_workers(self) -> None:
        there = sum(len(pool.workers) + pool.requested for pool in self.dispatcher.pools)
        assert not self.plan.max_workers or there <= self.plan.max_workers, f"{there} workers"

    def check_failure(self, job: int) -> None:
        cause, attempts, plan = self.causes[job], self.attempts[job], self.plan
        fate, rule = self.fate(job), plan.retry
        hungry = {"hungry", "greedy"} & set(plan.fates.values())  # they take their neighbours along
        resubmits = self.policy.num_resubmits if rule.times < 0 else rule.times
        most = 1 if plan.no_rerun else resubmits + 1
        assert attempts <= most, f"job {job} failed after {attempts} attempts"
        if cause is Cause.EXCEPTION:
            # who lies may hit upon the number of an attempt of its own
            assert fate == "raise" or (fate == "flaky" and attempts == most) or plan.lies
        elif cause is Cause.UNPICKLABLE:
            assert fate == "unpicklable"
        elif cause is Cause.STALLED:
            assert fate == "stall" or plan.agent_freeze
        elif cause is Cause.MEMORY:
            assert hungry
        elif cause is Cause.WALLTIME:
            assert plan.walltime_s
        else:
            assert cause in (Cause.DIED, Cause.SILENT, Cause.CANCELED, Cause.PREEMPTED)
            shaky = plan.node_death or plan.agent_freeze or plan.loss or plan.clocks
            shaky = shaky or plan.deletion or plan.disk_full or plan.mess or plan.preemption
            shaky = shaky or plan.restart or plan.lies or plan.terminated
            shaky = shaky or plan.walltime_s or plan.client_deaths or hungry
            shaky = shaky or (plan.suspension and plan.poll_failure)
            assert fate in ("poison", "die_once", "stall") or shaky, f"job {job}: {cause}"
            if not rule.causes:
                assert attempts == most, f"job {job} failed after {attempts} attempts"
