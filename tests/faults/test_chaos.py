"""Random faults on three hosts with a Grid Engine."""

from __future__ import annotations

import contextlib

from tests.faults.chaos import TIMEOUT, Chaos, Fault, Mend, survive
from tests.faults.clients import Client
from tests.faults.lab import NODES, Host, Lab
from tests.faults.test_network import spoil
from tests.faults.test_scheduler import qmaster_back
from tests.rows import Stopwatch, row


class GridEngineChaos(Chaos):
    """Breaks hosts, their network and Grid Engine, too."""

    def __init__(self, lab: Lab, client: Client, seed: int) -> None:
        self.lab = lab
        super().__init__(lab, client, seed)

    def faults(self) -> dict[str, Fault]:
        return {
            "worker suspended": ("process", self.worker_suspended),
            "link of a node down": ("node", self.link_down),
            "link of the client down": ("node", self.client_cut_off),
            "packets lost": ("node", self.packets_lost),
            "power cut": ("node scheduler", self.power_cut),
            "folder of runs hidden": ("node", self.runs_hidden),
            "execd killed": ("node scheduler", self.execd_killed),
            "qmaster killed": ("node scheduler", self.qmaster_killed),
            "queue disabled": ("scheduler", self.queue_disabled),
        }

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


@row(
    fault="any of 14 faults at random, two at a time, the client's SIGKILL and attach among them",
    where="anywhere",
    expected="every value, so long after the last fault",
    bound_s=300,
    speed="slow",
)
@TIMEOUT
def test_chaos(lab: Lab, stopwatch: Stopwatch) -> None:
    survive(lab, GridEngineChaos, stopwatch)
    lab.nothing_left(within_s=60)
