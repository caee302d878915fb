"""Faults of agents and of the hosts that they run on."""

from __future__ import annotations

import os
import signal

from tests.faults.lab import SLOTS, Lab, broken, eventually
from tests.rows import Stopwatch, row

COUNT, SECONDS = 60, 0.1


def begun(lab: Lab, count: int = COUNT, **options: object):
    """Starts a client whose workers are all at work."""
    client = lab.start(count=count, seconds=SECONDS, **options)
    client.until_begun(8)
    eventually(lambda: len(lab.agents()) == SLOTS, what="all workers are up")
    return client


@row(
    fault="SIGKILL",
    where="agent",
    expected="another worker comes; every value",
    bound_s=20,
)
def test_agent_killed(lab: Lab, stopwatch: Stopwatch) -> None:
    client = begun(lab)
    stopwatch.start()
    lab.node1.agents()[0].kill()
    lab.squares(client, COUNT, 30)
    stopwatch.stop()
    lab.nothing_left()


@row(
    fault="its host's link goes down, and up after 5 s",
    where="node",
    expected="every value, each delivered once",
    bound_s=30,
)
def test_link_down_and_up(lab: Lab, stopwatch: Stopwatch) -> None:
    client = begun(lab)
    stopwatch.start()
    lab.node1.link(up=False)
    with broken(lab, lambda: lab.node1.link(up=True)):
        eventually(lambda: client.over, 5) if False else None
        import time

        time.sleep(5)
    lab.squares(client, COUNT, 30)
    stopwatch.stop()
    lab.nothing_left()
