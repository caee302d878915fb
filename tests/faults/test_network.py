"""Faults of the network between the hosts."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable

from tests.faults import bad_link, offload
from tests.faults.clients import broken
from tests.faults.lab import CELL, Host, Lab, ip
from tests.rows import Stopwatch, row

COUNT = 60


def spoil(lab: Lab, host: Host, loss: float, delay_s: float) -> Callable[[], None]:
    """Puts a bad link between a host and the others; returns what takes it away."""
    switch, undo = f"{CELL}-switch", contextlib.ExitStack()
    lab.undo.push(undo)
    for one in lab.hosts.values():
        one.run(sys.executable, offload.__file__, "eth0", "0")
    ip("-n", switch, "link", "add", "near", "type", "veth", "peer", "name", "far")
    undo.callback(ip, "-n", switch, "link", "del", "near")
    for name in ("near", "far"):
        ip("-n", switch, "link", "set", name, "up")
    ip("-n", switch, "link", "set", f"to-{host.name}", "nomaster")
    undo.callback(ip, "-n", switch, "link", "set", f"to-{host.name}", "master", "br0")
    ip("-n", switch, "link", "set", "far", "master", "br0")
    arguments = [f"to-{host.name}", "near", str(loss), str(delay_s)]
    carrier = undo.enter_context(
        subprocess.Popen(
            ["ip", "netns", "exec", switch, sys.executable, bad_link.__file__, *arguments],
            stdout=subprocess.PIPE,
        )
    )
    undo.callback(carrier.kill)
    assert carrier.stdout is not None and carrier.stdout.readline() == b"carrying\n"
    return undo.close


@row(
    fault="5 % of a node's packets are lost, others 20 to 60 ms late (silence counts after 15 s)",
    where="network",
    expected="every value, none computed twice",
    bound_s=40,
    speed="slow",
)
def test_packets_lost_and_late(lab: Lab, stopwatch: Stopwatch) -> None:
    spoil(lab, lab.node1, loss=0.05, delay_s=0.04)
    stopwatch.start()
    client = lab.at_work(3 * COUNT, environment={"MAX_TIME_BETWEEN_HEARTBEATS": "15"})
    lab.squares(client, 3 * COUNT, 60)
    stopwatch.stop()
    assert lab.calls_made_twice() == 0
    lab.nothing_left()


@row(
    fault="the client is cut off from all nodes for a minute",
    where="network",
    expected="no value lost, none delivered twice; what had been given up may be computed twice",
    bound_s=130,
    speed="slow",
)
def test_partition(lab: Lab, stopwatch: Stopwatch) -> None:
    client = lab.at_work(COUNT, environment={"GRIDMAP_GRACE": "300"})
    stopwatch.start()
    with broken(lab, lambda: lab.head.link(up=True)):
        lab.head.link(up=False)
        time.sleep(60)
    lab.squares(client, COUNT, 60)
    stopwatch.stop()
    lab.nothing_left(within_s=60)  # Grid Engine's own connections come back slowly


@row(
    fault="the client is cut off from all nodes for a minute (silence counts after 90 s)",
    where="network",
    expected="no value lost, none computed twice",
    bound_s=130,
    speed="slow",
)
def test_partition_that_is_waited_for(lab: Lab, stopwatch: Stopwatch) -> None:
    patient = {"GRIDMAP_GRACE": "300", "MAX_TIME_BETWEEN_HEARTBEATS": "90"}
    client = lab.at_work(COUNT, environment=patient)
    stopwatch.start()
    with broken(lab, lambda: lab.head.link(up=True)):
        lab.head.link(up=False)
        time.sleep(60)
    lab.squares(client, COUNT, 60)
    stopwatch.stop()
    assert lab.calls_made_twice() == 0
    lab.nothing_left(within_s=60)
