"""Faults of the client and of its host."""

from __future__ import annotations

import shutil
import signal
import time

from tests.faults.clients import SLOTS, USER, broken, calls, eventually
from tests.faults.lab import STATE, Lab
from tests.rows import Stopwatch, row

COUNT = 60


@row(
    fault="SIGKILL, then attach on another host",
    where="client",
    expected="the workers go on; every value, at most one call a worker is made twice",
    bound_s=30,
    speed="slow",
)
def test_client_killed(lab: Lab, stopwatch: Stopwatch) -> None:
    client = lab.at_work(2 * COUNT)
    stopwatch.start()
    client.signal(signal.SIGKILL)
    assert client.ended(5) == -signal.SIGKILL
    second = lab.attach("node2")
    lab.squares(second, 2 * COUNT, 40)
    stopwatch.stop()
    assert lab.calls_made_twice() <= SLOTS
    lab.nothing_left()
    assert not lab.runs_left()


@row(
    fault="SIGSTOP, SIGCONT after 4 s",
    where="client",
    expected="every value, none computed twice",
    bound_s=20,
    speed="slow",
)
def test_client_stopped(lab: Lab, stopwatch: Stopwatch) -> None:
    _stopped_for(4, lab, stopwatch)


@row(
    fault="SIGSTOP, SIGCONT after 2 minutes",
    where="client",
    expected="every value, none computed twice",
    bound_s=150,
    speed="slow",
)
def test_client_stopped_for_long(lab: Lab, stopwatch: Stopwatch) -> None:
    _stopped_for(120, lab, stopwatch)


def _stopped_for(seconds: float, lab: Lab, stopwatch: Stopwatch) -> None:
    client = lab.at_work(COUNT, environment={"GRIDMAP_GRACE": "300"})
    stopwatch.start()
    client.signal(signal.SIGSTOP)
    time.sleep(seconds)
    client.go_on()
    lab.squares(client, COUNT, 30)
    stopwatch.stop()
    assert lab.calls_made_twice() == 0
    lab.nothing_left()


@row(
    fault="its disk is full during the run",
    where="client",
    expected="a warning; every value, none computed twice",
    bound_s=20,
    speed="slow",
)
def test_disk_full(lab: Lab, stopwatch: Stopwatch) -> None:
    client, filler = _on_a_small_disk(lab)
    stopwatch.start()
    with broken(lab, filler):
        lab.squares(client, COUNT, 30)
        stopwatch.stop()
    assert "WARNING" in client.printed()
    assert lab.calls_made_twice() == 0
    lab.nothing_left()


@row(
    fault="its disk is full during the run, it is killed, the disk is freed; then attach",
    where="client",
    expected="every value",
    bound_s=40,
    speed="slow",
)
def test_disk_full_then_killed(lab: Lab, stopwatch: Stopwatch) -> None:
    client, freed = _on_a_small_disk(lab)
    with broken(lab, freed):
        stopwatch.start()
        done = len(calls(lab.folder))
        eventually(lambda: len(calls(lab.folder)) > done + 8, what="the run goes on")
        client.signal(signal.SIGKILL)
        client.ended(5)
    second = lab.attach()
    lab.squares(second, COUNT, 40)
    stopwatch.stop()
    lab.nothing_left()


def _on_a_small_disk(lab: Lab):
    """Starts a run in a folder that all hosts share, fills that; returns also what frees it."""
    disk = STATE / "small"
    lab.runs = disk / "runs"
    lab.runs.mkdir()
    shutil.chown(lab.runs, USER)
    lab.runs.chmod(0o700)
    lab.undo.callback(shutil.rmtree, lab.runs)
    client = lab.at_work(COUNT, carried_bytes=50_000)
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            pass
    return client, lambda: filler.unlink(missing_ok=True)


@row(
    fault="its host's power is cut, then attach on another host",
    where="client",
    expected="the workers go on; every value, at most one call a worker is made twice",
    bound_s=60,
    speed="slow",
)
def test_client_host_lost(lab: Lab, stopwatch: Stopwatch) -> None:
    def mend() -> None:
        lab.node2.boot()
        lab.node2.start_daemon("execd")

    count = 2 * COUNT
    lab.start("node2", count=count, seconds=0.1, white_list=["node1"], max_workers=2)
    eventually(lambda: len(calls(lab.folder)) > 10, what="calls begun")
    with broken(lab, mend):
        stopwatch.start()
        lab.node2.cut_power()
        second = lab.attach("head")
        lab.squares(second, count, 60)
        stopwatch.stop()
    assert lab.calls_made_twice() <= 2
    lab.nothing_left()


@row(
    fault="Ctrl-C, and again at once",
    where="client",
    expected="it ends; workers are deleted, nothing is left",
    bound_s=5,
    speed="slow",
)
def test_interrupted_twice(lab: Lab, stopwatch: Stopwatch) -> None:
    client = lab.at_work(COUNT, seconds=1)
    stopwatch.start()
    client.signal(signal.SIGINT)
    time.sleep(0.05)
    client.signal(signal.SIGINT)
    assert client.ended(5) != 0
    eventually(lambda: not lab.processes() and not lab.queued(), 10, "nothing is left")
    stopwatch.stop()
    lab.nothing_left()
