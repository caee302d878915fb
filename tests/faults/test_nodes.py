"""Faults of agents and of the hosts that they run on."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from tests.faults.clients import broken, calls, eventually
from tests.faults.lab import STATE, Lab
from tests.rows import Stopwatch, row

COUNT = 60
JUMPING = """
import time

def by(seconds, real=time.time):
    return lambda: real() + seconds()

def jump():
    with open({clock!r}) as file:
        return float(file.read() or 0)

time.time = by(jump)
"""


@row(fault="SIGKILL", where="agent", expected="another worker comes; every value", bound_s=20)
def test_agent_killed(lab: Lab, stopwatch: Stopwatch) -> None:
    client = lab.at_work(COUNT)
    stopwatch.start()
    lab.node1.agents()[0].kill()
    lab.squares(client, COUNT, 30)
    stopwatch.stop()
    lab.nothing_left()


@row(
    fault="SIGSTOP, SIGCONT after 2 s",
    where="agent",
    expected="it goes on; every value, none computed twice",
    bound_s=20,
    speed="slow",
)
def test_agent_stopped_and_continued(lab: Lab, stopwatch: Stopwatch) -> None:
    client = lab.at_work(COUNT)
    agent = lab.node1.agents()[0]
    stopwatch.start()
    agent.suspend()
    time.sleep(2)
    agent.resume()
    lab.squares(client, COUNT, 30)
    stopwatch.stop()
    assert lab.calls_made_twice() == 0
    lab.nothing_left()


@row(
    fault="SIGSTOP of all agents of a host, SIGCONT when they are given up",
    where="agent",
    expected="others come or do their work; every value",
    bound_s=30,
    speed="slow",
)
def test_agents_stopped_for_long(lab: Lab, stopwatch: Stopwatch) -> None:
    client = lab.at_work(COUNT)
    agents = lab.node1.agents()
    stopwatch.start()
    for agent in agents:
        agent.suspend()
    client.until_printed("silent", 20)
    for agent in agents:
        if agent.is_running():
            agent.resume()
    lab.squares(client, COUNT, 40)
    stopwatch.stop()
    lab.nothing_left()


@row(
    fault="its host's link goes down for 2 s (silence counts after 10 s)",
    where="node",
    expected="every value, none computed twice",
    bound_s=20,
)
def test_link_down_and_up(lab: Lab, stopwatch: Stopwatch) -> None:
    client = lab.at_work(COUNT, environment={"MAX_TIME_BETWEEN_HEARTBEATS": "10"})
    stopwatch.start()
    with broken(lab, lambda: lab.node1.link(up=True)):
        lab.node1.link(up=False)
        time.sleep(2)
    lab.squares(client, COUNT, 30)
    stopwatch.stop()
    assert lab.calls_made_twice() == 0
    lab.nothing_left()


@row(
    fault="its host's link goes down for good",
    where="node",
    expected="its calls are made elsewhere; every value; its workers leave after their grace (5 s)",
    bound_s=40,
    speed="slow",
)
def test_link_down_for_good(lab: Lab, stopwatch: Stopwatch) -> None:
    client = lab.at_work(COUNT, environment={"GRIDMAP_GRACE": "5"})
    stopwatch.start()
    with broken(lab, lambda: lab.node1.link(up=True)):
        lab.node1.link(up=False)
        lab.squares(client, COUNT, 30)
        eventually(lambda: not lab.node1.processes(), 30, "the lost workers leave")
        stopwatch.stop()
    lab.nothing_left()


@row(
    fault="its host's power is cut",
    where="node",
    expected="its calls are made elsewhere; every value",
    bound_s=30,
    speed="slow",
)
def test_power_cut(lab: Lab, stopwatch: Stopwatch) -> None:
    def mend() -> None:
        lab.node1.boot()
        lab.node1.start_daemon("execd")

    client = lab.at_work(COUNT)
    with broken(lab, mend):
        stopwatch.start()
        lab.node1.cut_power()
        lab.squares(client, COUNT, 40)
        stopwatch.stop()
    lab.nothing_left()


@row(
    fault="the execd is killed",
    where="node",
    expected="its workers go on; every value, none computed twice",
    bound_s=20,
    speed="slow",
)
def test_execd_killed(lab: Lab, stopwatch: Stopwatch) -> None:
    client = lab.at_work(COUNT)
    with broken(lab, lambda: lab.node1.start_daemon("execd")):
        stopwatch.start()
        lab.node1.kill_daemon("execd")
        lab.squares(client, COUNT, 30)
        stopwatch.stop()
    assert lab.calls_made_twice() == 0
    lab.nothing_left()


@row(
    fault="the execd is killed, and its agents too: the scheduler does not know",
    where="node",
    expected="their silence is noticed; every value",
    bound_s=30,
    speed="slow",
)
def test_execd_and_agents_killed(lab: Lab, stopwatch: Stopwatch) -> None:
    client = lab.at_work(COUNT)
    with broken(lab, lambda: lab.node1.start_daemon("execd")):
        stopwatch.start()
        lab.node1.kill_daemon("execd")
        for agent in lab.node1.agents():
            agent.kill()
        lab.squares(client, COUNT, 40)
        stopwatch.stop()
    lab.nothing_left()


@row(
    fault="the clock jumps an hour ahead, then two hours back",
    where="node",
    expected="nothing is noticed; every value, none computed twice",
    bound_s=20,
    speed="slow",
)
def test_clock_jumps(lab: Lab, stopwatch: Stopwatch) -> None:
    # libfaketime would bend sleeps until a monotonic time, too; a time namespace has the same wall
    # clock as its parent. So it is Python's clock that jumps.
    clock = lab.public_file("clock", "0")
    site = lab.public_folder("site")
    (site / "sitecustomize.py").write_text(JUMPING.format(clock=str(clock)))
    python = lab.interpreter(f"export PYTHONPATH={site}")
    client = lab.at_work(COUNT, interpreter=python)
    stopwatch.start()
    for jump_s in (3600, -3600):
        clock.write_text(str(jump_s))
        time.sleep(0.5)
        jumped = [at - time.time() for *_, at in calls(lab.folder)[-4:]]
        assert all(abs(seconds - jump_s) < 60 for seconds in jumped), jumped
    lab.squares(client, COUNT, 30)
    stopwatch.stop()
    assert lab.calls_made_twice() == 0
    lab.nothing_left()


@row(
    fault="the folder for temporary files is full, before its workers start",
    where="node",
    expected="every value",
    bound_s=20,
)
def test_temporary_folder_full(lab: Lab, stopwatch: Stopwatch) -> None:
    _full(lab, STATE / "tmp", stopwatch)


@row(
    fault="/dev/shm is full, before its workers start",
    where="node",
    expected="every value",
    bound_s=20,
    speed="slow",
)
def test_shared_memory_full(lab: Lab, stopwatch: Stopwatch) -> None:
    _full(lab, Path("/dev/shm"), stopwatch)


def _full(lab: Lab, place: Path, stopwatch: Stopwatch) -> None:
    """Runs calls whose function and values are large where a folder has no room."""
    with broken(lab, lab.node1.put_over(place)):
        with contextlib.suppress(OSError), open(lab.node1.root(place) / "filler", "wb") as filler:
            while True:
                filler.write(bytes(4096))
                filler.flush()
        stopwatch.start()
        client = lab.start(count=8, seconds=0.05, carried_bytes=5_000_000, white_list=["node1"])
        lab.squares(client, 8, 30)
        stopwatch.stop()
    lab.nothing_left()


@row(
    fault="the folder of the logs is removed, and an agent killed",
    where="node",
    expected="the workers that are up do the rest; every value",
    bound_s=20,
    speed="slow",
)
def test_logs_gone(lab: Lab, stopwatch: Stopwatch) -> None:
    logs = lab.public_folder("logs")
    client = lab.at_work(COUNT, temp_dir=str(logs))
    stopwatch.start()
    logs.rename(logs.with_name("elsewhere"))
    lab.node1.agents()[0].kill()
    lab.squares(client, COUNT, 30)
    stopwatch.stop()
    lab.nothing_left()


@row(
    fault="the folder of runs is unmounted for 3 s, and an agent killed",
    where="node",
    expected="a worker that finds no run there leaves; every value",
    bound_s=30,
    speed="slow",
)
def test_home_unmounted(lab: Lab, stopwatch: Stopwatch) -> None:
    client = lab.at_work(COUNT)
    stopwatch.start()
    with broken(lab, lab.node1.put_over(lab.runs)):
        lab.node1.agents()[0].kill()
        time.sleep(3)
    lab.squares(client, COUNT, 30)
    stopwatch.stop()
    lab.nothing_left()
