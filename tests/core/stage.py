"""A dispatcher and a clock that only moves when told, for tests of single rules."""

from __future__ import annotations

from typing import Any, TypeVar

from gridmap.core import effects as do
from gridmap.core import events as ev
from gridmap.core import messages as m
from gridmap.core.dispatcher import Dispatcher
from gridmap.core.policy import Limits, Policy
from gridmap.core.spec import JobSpec, Span
from gridmap.core.states import JobState

T = TypeVar("T")
SPEC = JobSpec("f", "c")


class Stage:
    """Drives one dispatcher; keeps every effect."""

    def __init__(
        self, *limits: Limits, policy: Policy | None = None, jobs: int = 0, spec: JobSpec = SPEC
    ) -> None:
        self.now = 0.0
        self.all: list[Any] = []
        self.new: list[Any] = []
        self.seq = 0
        self.d = Dispatcher(policy or Policy(), limits or [Limits(1, 1)], "run")
        if jobs:
            self.tell(ev.JobsAdded(jobs, spec))

    def tell(self, event: ev.DispatcherEvent) -> list[Any]:
        self.new = list(self.d.handle(event, self.now))
        self.all += self.new
        return self.new

    def said(self, worker: str, message: m.FromAgent, incarnation: str = "i") -> list[Any]:
        return self.tell(ev.MessageReceived(worker, incarnation, message))

    def wait(self, seconds: float) -> list[Any]:
        """Lets time pass, with a Tick at every deadline; returns what was done meanwhile."""
        until, before = self.now + seconds, len(self.all)
        while self.d.next_deadline() <= until:
            self.now = max(self.now, self.d.next_deadline())
            self.tell(ev.Tick())
        self.now = until
        self.tell(ev.Tick())
        return self.all[before:]

    def submit(self, *workers: str) -> None:
        """Lets the scheduler take the newest request."""
        self.wait(1)
        request = of(do.SubmitWorkers, self.all)[-1]
        self.tell(ev.WorkersSubmitted(request.request, workers))

    def hello(self, worker: str, incarnation: str = "i", **changes: Any) -> list[Any]:
        values: dict[str, Any] = {
            "gridmap": "1", "python": "3", "protocol": m.PROTOCOL, "native_id": worker,
            "incarnation": incarnation, "pool": 0, "host": "node7", "pid": 1, "children": 1,
            "capacity": 2,
        } | changes  # fmt: skip
        return self.said(worker, m.Hello(**values), incarnation)

    def start(self, *workers: str, **changes: Any) -> None:
        self.submit(*workers)
        for worker in workers:
            self.hello(worker, **changes)

    def result(self, worker: str, job: int, outcome: int = 0, **more: Any) -> list[Any]:
        values = {"count": 1, "attempt": 0, "seconds": 0.001, "incarnation": "i"} | more
        item = m.Result(
            job, values["count"], values["attempt"], outcome, values["seconds"], 1, 1
        )  # fmt: skip
        return self.said(worker, m.Results([item]), values["incarnation"])

    def beat(
        self,
        worker: str,
        *held: m.Held,
        kept: list[m.Key] | None = None,
        heard: int | None = None,
    ) -> list[Any]:
        """A heartbeat; `heard` stands for the Pulse that answered the one before it."""
        self.seq += 1
        known = self.seq - 1 if heard is None else heard
        return self.said(worker, m.Heartbeat(self.seq, list(held), kept or [], known))

    def polled(self, **states: ev.NativeState) -> list[Any]:
        return self.tell(ev.WorkersPolled({w: ev.NativeStatus(s) for w, s in states.items()}))

    def sent_requests(self) -> list[int]:
        """Returns the numbers of the requests for workers so far."""
        return [effect.request for effect in of(do.SubmitWorkers, self.all)]

    def state(self, job: int) -> JobState:
        return self.d.jobs[job]

    def assigned(self) -> list[tuple[str, Span, int]]:
        return [(e.worker, e.span, e.attempt) for e in of(do.Assign, self.new)]

    def assigned_to(self, worker: str) -> int:
        """First job of the newest lease that a worker got."""
        return [e.span.first for e in of(do.Assign, self.all) if e.worker == worker][-1]

    def sent(self, kind: type[T]) -> list[T]:
        """Messages of this kind among the newest effects."""
        return [e.message for e in of(do.SendMessage, self.new) if isinstance(e.message, kind)]


def of(kind: type[T], effects: list[Any]) -> list[T]:
    return [e for e in effects if isinstance(e, kind)]


def held(job: int, attempt: int = 0, cpu: float = 1.0, phase: int = 1, count: int = 1) -> m.Held:
    return m.Held(job, count, attempt, phase, job if phase else -1, 1, cpu, False)
