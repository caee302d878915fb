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
from collections.abc import Callable
from dataclasses import dataclass

import psutil
import pytest

from tests.faults.clients import SLOTS, Client, calls
from tests.faults.lab import NODES, Host, Lab
from tests.faults.test_network import spoil
from tests.faults.test_scheduler import qmaster_back
from tests.rows import Stopwatch, row

SEED = int(os.environ.get("CHAOS_SEED") or random.randrange(10_000))
DURATION_S = float(os.environ.get("CHAOS_S") or 60)
CALLS = int(os.environ.get("CHAOS_CALLS") or DURATION_S * 33)
SETTLE_S = 300.0
"""The most that the run may take when all faults are over."""

Mend = Callable[[], object]


@dataclass
class Active:
    """A fault that is there: what it is about, and how and when it goes."""

    name: str
    topics: set[str]
    mend: Mend
    until: float


class Chaos:
    """Breaks one thing after the other, and mends it.

    No two faults at a time share a topic: a daemon cannot be started while its host is cut off.
    """

    def __init__(self, lab: Lab, client: Client, seed: int) -> None:
        self.lab = lab
        self.client = client
        self.random = random.Random(seed)
        self.counts: collections.Counter[str] = collections.Counter()
        self.begun = time.monotonic()
        self._active: list[Active] = []
        self._faults: dict[str, tuple[str, Callable[[], Mend | None]]] = {
            "agent killed": ("process", self.agent_killed),
            "agent stopped": ("process", self.agent_stopped),
            "child killed": ("process", self.child_killed),
            "worker suspended": ("process", self.worker_suspended),
            "client stopped": ("client", self.client_stopped),
            "client killed": ("client", self.client_killed),
            "link of a node down": ("node", self.link_down),
            "link of the client down": ("node", self.client_cut_off),
            "packets lost": ("node", self.packets_lost),
            "power cut": ("node scheduler", self.power_cut),
            "folder of runs hidden": ("node", self.runs_hidden),
            "execd killed": ("node scheduler", self.execd_killed),
            "qmaster killed": ("node scheduler", self.qmaster_killed),
            "queue disabled": ("scheduler", self.queue_disabled),
        }
        lab.undo.callback(self.mend_all)

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
        agents = self.lab.agents()
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
        assert self.client.ended(10) == -signal.SIGKILL
        self.client = self.lab.attach(environment=PATIENT)

    # --- nodes and the network --------------------------------------------------------------------

    def _node(self) -> Host:
        return self.lab.hosts[self.random.choice(NODES)]

    def link_down(self) -> Mend:
        node = self._node()
        node.link(up=False)
        return lambda: node.link(up=True)

    def client_cut_off(self) -> Mend:
        self.lab.head.link(up=False)
        return lambda: self.lab.head.link(up=True)

    def packets_lost(self) -> Mend:
        return spoil(self.lab, self._node(), loss=0.05, delay_s=0.02)

    def power_cut(self) -> Mend:
        node = self._node()
        node.cut_power()

        def mend() -> None:
            node.boot()
            node.start_daemon("execd")

        return mend

    def runs_hidden(self) -> Mend:
        return self._node().put_over(self.lab.runs)

    # --- the scheduler ----------------------------------------------------------------------------

    def _a_worker(self, states: str) -> list[str]:
        with contextlib.suppress(AssertionError):  # the qmaster is cut off
            ids = [task.native_id for task in self.lab.queued() if task.state in states.split()]
            return [self.random.choice(ids)] if ids else []
        return []

    def worker_suspended(self) -> Mend | None:
        for worker in self._a_worker("r"):
            self.lab.sge("qmod", "-sj", worker, check=False)
            return lambda: self.lab.sge("qmod", "-usj", worker, check=False)
        return None

    def execd_killed(self) -> Mend | None:
        node = self._node()
        try:
            node.kill_daemon("execd")
        except (AssertionError, OSError):
            return None  # its host has no power
        return lambda: node.start_daemon("execd")

    def qmaster_killed(self) -> Mend:
        self.lab.head.kill_daemon("qmaster")
        return lambda: qmaster_back(self.lab)

    def queue_disabled(self) -> Mend:
        self.lab.sge("qmod", "-d", "all.q", check=False)
        return lambda: self.lab.sge("qmod", "-e", "all.q", check=False)


PATIENT = {"NUM_RESUBMITS": "1000"}  # one call may meet many faults here


@row(
    fault="any of 14 faults at random, two at a time, the client's SIGKILL and attach among them",
    where="anywhere",
    expected="every value, so long after the last fault",
    bound_s=300,
    speed="slow",
)
@pytest.mark.timeout(DURATION_S + SETTLE_S + 60)
def test_chaos(lab: Lab, stopwatch: Stopwatch) -> None:
    seconds = 0.4 * SLOTS * DURATION_S / CALLS
    print(f"\nchaos: seed {SEED}, {DURATION_S:.0f} s, {CALLS} calls of {seconds:.3f} s")
    client = lab.start(count=CALLS, seconds=seconds, environment=PATIENT)
    client.until_begun(SLOTS)
    chaos = Chaos(lab, client, SEED)
    chaos.go_on(DURATION_S)
    stopwatch.start()
    results = chaos.client.results(SETTLE_S)
    stopwatch.stop()
    wrong = {n: value for n, value in enumerate(results) if value != n * n}
    print(f"chaos: seed {SEED}: over after {time.monotonic() - chaos.begun:.0f} s; {CALLS} values,")
    print(f"  {len(wrong)} of them wrong; calls begun {len(calls(lab.folder))};")
    print(f"  faults {json.dumps(chaos.counts)}")
    assert len(results) == CALLS and not wrong, list(wrong.items())[:5]
    lab.nothing_left(within_s=60)
