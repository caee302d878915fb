"""Random faults, one after the other and two at a time, while thousands of calls are made.

CHAOS_SEED chooses the faults, CHAOS_S says how long they go on, CHAOS_CALLS how many calls are
made.
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import random
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import psutil
import pytest

from tests.faults.clients import SLOTS, Client, Workshop, calls
from tests.rows import Stopwatch

SEED = int(os.environ.get("CHAOS_SEED") or random.randrange(10_000))
DURATION_S = float(os.environ.get("CHAOS_S") or 60)
CALLS = int(os.environ.get("CHAOS_CALLS") or DURATION_S * 33)
SETTLE_S = 300.0
"""The most that the run may take when all faults are over."""

PATIENT = {"NUM_RESUBMITS": "1000"}  # one call may meet many faults here
TIMEOUT = pytest.mark.timeout(DURATION_S + SETTLE_S + 60)

Mend = Callable[[], object]
Fault = tuple[str, Callable[[], Mend | None]]
"""What it is about, topics in one string, and what makes it and returns what ends it."""


@dataclass
class Active:
    """A fault that is there: what it is about, and how and when it goes."""

    name: str
    topics: set[str]
    mend: Mend
    until: float


class Chaos(ABC):
    """Breaks one thing after the other, and mends it.

    No two faults at a time share a topic: a daemon cannot be started while its host is cut off.
    """

    def __init__(self, lab: Workshop, client: Client, seed: int) -> None:
        self.shop = lab
        self.client = client
        self.random = random.Random(seed)
        self.counts: collections.Counter[str] = collections.Counter()
        self.begun = time.monotonic()
        self._active: list[Active] = []
        self._faults: dict[str, Fault] = {
            "agent killed": ("process", self.agent_killed),
            "agent stopped": ("process", self.agent_stopped),
            "child killed": ("process", self.child_killed),
            "client stopped": ("client", self.client_stopped),
            "client killed": ("client", self.client_killed),
            **self.faults(),
        }
        lab.undo.callback(self.mend_all)

    @abstractmethod
    def faults(self) -> dict[str, Fault]:
        """Returns those of the scheduler and its hosts."""

    def go_on(self, seconds: float) -> None:
        """Breaks and mends for so long, or until the run is over."""
        end = self.begun + seconds
        while time.monotonic() < end and not self.client.over:
            if len(self._active) < 2:
                self.break_one()
            time.sleep(self.random.uniform(0.5, 4))
            for one in [one for one in self._active if one.until <= time.monotonic()]:
                self._mend(one)
        self.mend_all()

    def break_one(self) -> None:
        taken = {topic for one in self._active for topic in one.topics}
        free = [name for name, (topics, _) in self._faults.items() if not taken & {*topics.split()}]
        name = self.random.choice(free)
        lasts_s = self.random.uniform(0.5, 8)
        topics, fault = self._faults[name]
        self._say(f"{name}, {lasts_s:.1f} s")
        mend = fault()
        self.counts[name] += 1
        if mend is not None:
            until = time.monotonic() + lasts_s
            self._active.append(Active(name, set(topics.split()), mend, until))

    def mend_all(self) -> None:
        for one in list(self._active):
            self._mend(one)

    def _mend(self, one: Active) -> None:
        self._active.remove(one)
        one.mend()
        self._say(f"{one.name} is over")

    def _say(self, text: str) -> None:
        print(f"{time.monotonic() - self.begun:6.1f} s: {text}", flush=True)

    # --- processes --------------------------------------------------------------------------------

    def _agent(self) -> psutil.Process | None:
        agents = self.shop.agents()
        return self.random.choice(agents) if agents else None

    def agent_killed(self) -> None:
        if (agent := self._agent()) is not None:
            with contextlib.suppress(psutil.Error):
                agent.kill()

    def agent_stopped(self) -> Mend | None:
        agent = self._agent()
        if agent is None:
            return None
        with contextlib.suppress(psutil.Error):
            agent.suspend()

        def mend() -> None:
            with contextlib.suppress(psutil.Error):
                agent.resume()

        return mend

    def child_killed(self) -> None:
        if (agent := self._agent()) is not None:
            with contextlib.suppress(psutil.Error, IndexError):
                self.random.choice(agent.children(recursive=True)).kill()

    # --- the client -------------------------------------------------------------------------------

    def client_stopped(self) -> Mend:
        stopped = self.client
        stopped.signal(signal.SIGSTOP)
        return stopped.go_on

    def client_killed(self) -> None:
        self.client.signal(signal.SIGKILL)
        assert self.client.ended(10) != 0  # who had started it may not pass on that it was killed
        self.client = self.shop.attach(environment=PATIENT)


def survive(
    lab: Workshop, chaos_of: Callable[[Workshop, Client, int], Chaos], stopwatch: Stopwatch
) -> None:
    """Has all calls made while things break, and checks their values."""
    seconds = 0.4 * SLOTS * DURATION_S / CALLS
    print(f"\nchaos: seed {SEED}, {DURATION_S:.0f} s, {CALLS} calls of {seconds:.3f} s")
    client = lab.start(count=CALLS, seconds=seconds, environment=PATIENT)
    client.until_begun(SLOTS)
    chaos = chaos_of(lab, client, SEED)
    chaos.go_on(DURATION_S)
    stopwatch.start()
    results = chaos.client.results(SETTLE_S)
    stopwatch.stop()
    wrong = {n: value for n, value in enumerate(results) if value != n * n}
    print(f"chaos: seed {SEED}: over after {time.monotonic() - chaos.begun:.0f} s; {CALLS} values,")
    print(f"  {len(wrong)} of them wrong; calls begun {len(calls(lab.folder))};")
    print(f"  faults {json.dumps(chaos.counts)}")
    assert len(results) == CALLS and not wrong, list(wrong.items())[:5]
