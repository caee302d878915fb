"""A monitor of a few lines around a real AgentRuntime, for tests."""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from gridmap import data
from gridmap.core import messages as m
from gridmap.core.agent import AgentCore
from gridmap.node.agent import AgentRuntime
from gridmap.node.forkserver import Forkserver
from gridmap.node.memory import Limits
from gridmap.node.tree import read_process

DEADLINE_S = 20.0


def alive(pid: int) -> bool:
    """True while a process runs; a zombie does not."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def wait_for(condition: Callable[[], Any], deadline_s: float = DEADLINE_S) -> Any:
    """Polls until the condition holds."""
    deadline = time.monotonic() + deadline_s
    while not (got := condition()):
        assert time.monotonic() < deadline, "deadline passed"
        time.sleep(0.002)
    return got


def own_rss_bytes() -> int:
    """Returns the memory of this process, which a forked child has too."""
    process = read_process(os.getpid())
    assert process is not None
    return process.rss_bytes


class Outcomes:
    """What became of each job, decoded."""

    def __init__(self) -> None:
        self.of: dict[int, tuple[m.Outcome, Any]] = {}
        self.items: list[m.Result] = []

    def add(self, item: m.Result, frames: list[data.Frame]) -> None:
        outcome = m.Outcome(item.outcome)
        self.items.append(item)
        if outcome is m.Outcome.VALUE:
            values = data.unpack_values(frames, 0, item.count)
            assert len(values) == item.count
        elif outcome in (m.Outcome.EXCEPTION, m.Outcome.NO_MEMORY):
            values = [data.unpack_exception(frames)]
        elif outcome in (m.Outcome.UNPICKLABLE, m.Outcome.UNREADABLE):
            values = [data.unpack_text(frames)]
        elif frames:
            values = [data.unpack_death(frames)]
        else:
            values = [None] * item.count
        for job, value in enumerate(values, item.first):
            self.of[job] = (outcome, value)


class Driver:
    """Gives leases to an agent and collects what becomes of them."""

    def __init__(
        self,
        children: int = 1,
        launch: bool = False,
        heartbeat_s: float = 5.0,
        limits: Limits | None = None,
        max_rss_bytes: int = 0,
        run: str = "",
        **welcome: Any,
    ) -> None:
        self.max_rss_bytes = max_rss_bytes
        # a link that a test before left behind may hang up for long, with threads of its own
        launch = launch or threading.active_count() > 1
        self.forkserver = Forkserver.launch() if launch else Forkserver.fork()
        self.outcomes = Outcomes()
        self.said: list[m.Message] = []
        self.blobs: dict[str, list[data.Frame]] = {}
        self.attempt = 1
        hello = m.Hello("1", "3", 1, "1", "i", 0, "host", os.getpid(), children, 2 * children)
        core = AgentCore(children, hello)
        self.runtime = AgentRuntime(core, self.forkserver, self._say, limits=limits, run=run)
        self._inbox: list[tuple[m.ToAgent, list[data.Frame]]] = []
        self._inbox.append((m.Welcome("run", heartbeat_s, 60.0, **welcome), []))

    def __enter__(self) -> Driver:
        return self

    def __exit__(self, *_: object) -> None:
        self.runtime.close()

    def _say(self, message: m.Message, frames: list[data.Frame]) -> None:
        self.said.append(message)
        if isinstance(message, m.NeedBlob):
            self._inbox.append((m.Blob(message.digest), self.blobs[message.digest]))
        elif isinstance(message, m.Results):
            at = 0
            for item in message.items:
                self.outcomes.add(item, frames[at : at + item.frames])
                at += item.frames
            assert at == len(frames)
            self._inbox.append((m.Ack([item.key for item in message.items]), []))

    def blob(self, frames: list[data.Frame]) -> str:
        digest = data.digest(frames)
        self.blobs[digest] = frames
        return digest

    def lease(
        self,
        function: Callable[..., Any],
        elements: Iterable[Any],
        first: int = 0,
        reuse: bool = True,
        context: data.Context | None = None,
    ) -> int:
        """Hands over one lease; returns the number after its last job."""
        packets = list(data.pack_arguments(elements))
        count = sum(p.count for p in packets)
        lease = m.Lease(
            first,
            count,
            self.attempt,
            self.blob(data.pack_function(function)),
            self.blob([context.encode()]) if context is not None else "",
            reuse,
            [(0, p.count, len(p.frames)) for p in packets],
            self.max_rss_bytes,
        )
        self._inbox.append((m.Work([lease]), [f for p in packets for f in p.frames]))
        return first + count

    def tell(self, message: m.ToAgent) -> None:
        """Says something to the agent."""
        self._inbox.append((message, []))

    def turn(self, timeout_s: float = 0.02) -> None:
        """One turn of the loop."""
        while self._inbox:
            self.runtime.receive(*self._inbox.pop(0), time.monotonic())
        poll = select.poll()
        for fd, events in self.runtime.fds().items():
            poll.register(fd, events)
        for fd, events in poll.poll(timeout_s * 1000):
            self.runtime.ready(fd, events, time.monotonic())
        self.runtime.tick(time.monotonic())

    def until(self, condition: Callable[[], Any], deadline_s: float = DEADLINE_S) -> None:
        deadline = time.monotonic() + deadline_s
        while not condition():
            assert time.monotonic() < deadline, f"deadline passed; outcomes {self.outcomes.of}"
            self.turn()

    def run(self, function: Callable[..., Any], elements: Iterable[Any], **kw: Any) -> list[Any]:
        """Runs one lease; returns (outcome, value) of each of its jobs."""
        self.outcomes = Outcomes()
        stop = self.lease(function, elements, **kw)
        self.until(lambda: len(self.outcomes.of) >= stop - kw.get("first", 0))
        return [self.outcomes.of[i] for i in range(kw.get("first", 0), stop)]

    def beats(self) -> list[m.Held]:
        """Returns what the heartbeats said of the first lease that runs."""
        beats = [x for x in self.said if isinstance(x, m.Heartbeat) and x.held]
        return [beat.held[0] for beat in beats if beat.held[0].phase == m.Phase.RUNNING]

    def pids(self) -> list[int]:
        return [child.pid for child in self.runtime._children.values() if child.pid]
