"""Faults of the scheduler: its daemon, its queue, its files."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

from tests.faults.clients import SLOTS, broken, eventually
from tests.faults.lab import Lab
from tests.rows import Stopwatch, row

COUNT = 60


def qmaster_back(lab: Lab) -> None:
    """Starts the qmaster again, and has it know the truth."""
    lab.head.start_daemon("qmaster")
    # An execd withholds the ends of jobs for ten minutes after that; a new one tells at once.
    for node in (lab.node1, lab.node2):
        with contextlib.suppress(AssertionError, OSError):  # it may be without power
            node.kill_daemon("execd")
            node.start_daemon("execd")


@row(
    fault="the qmaster is killed during the run, and started again after 3 s",
    where="scheduler",
    expected="the workers go on; every value, none computed twice",
    bound_s=30,
    speed="slow",
)
def test_qmaster_restarted(lab: Lab, stopwatch: Stopwatch) -> None:
    client = lab.at_work(2 * COUNT)
    stopwatch.start()
    with broken(lab, lambda: qmaster_back(lab)):
        lab.head.kill_daemon("qmaster")
        time.sleep(3)
    lab.squares(client, 2 * COUNT, 40)
    stopwatch.stop()
    assert lab.calls_made_twice() == 0
    lab.nothing_left(queue=False)
    eventually(lambda: not lab.queued(), 60, "the queue is empty")


@row(
    fault="the qmaster is killed during the run, and stays away",
    where="scheduler",
    expected="every value, none computed twice; the workers leave",
    bound_s=40,
    speed="slow",
)
def test_qmaster_stays_away(lab: Lab, stopwatch: Stopwatch) -> None:
    client = lab.at_work(COUNT)
    with broken(lab, lambda: qmaster_back(lab)):
        stopwatch.start()
        lab.head.kill_daemon("qmaster")
        lab.squares(client, COUNT, 60)
        eventually(lambda: not lab.processes(), what="the workers leave")
        stopwatch.stop()
        assert lab.calls_made_twice() == 0
    lab.nothing_left()


@row(
    fault="the qmaster is killed before the submission",
    where="scheduler",
    expected="an error with the scheduler's words",
    bound_s=10,
    speed="slow",
)
def test_qmaster_away_at_submission(lab: Lab, stopwatch: Stopwatch) -> None:
    with broken(lab, lambda: qmaster_back(lab)):
        lab.head.kill_daemon("qmaster")
        stopwatch.start()
        client = lab.start(count=4, seconds=0.1)
        (error,) = client.results(20)
        stopwatch.stop()
    assert error["type"] == "BackendError" and "qmaster" in error["text"], error
    assert not lab.runs_left()
    lab.nothing_left()


@row(
    fault="the qmaster hangs (SIGSTOP) for 5 s, at the submission",
    where="scheduler",
    expected="it is waited; every value",
    bound_s=30,
    speed="slow",
)
def test_qmaster_hangs_at_submission(lab: Lab, stopwatch: Stopwatch) -> None:
    pid = lab.head.daemon("qmaster")
    with broken(lab, lambda: os.kill(pid, signal.SIGCONT)):
        os.kill(pid, signal.SIGSTOP)
        stopwatch.start()
        client = lab.start(count=4, seconds=0.1)
        time.sleep(5)
    lab.squares(client, 4, 30)
    stopwatch.stop()
    lab.nothing_left()


@row(
    fault="the qmaster hangs (SIGSTOP) during the run, for 10 s",
    where="scheduler",
    expected="the workers go on; every value, none computed twice",
    bound_s=30,
    speed="slow",
)
def test_qmaster_hangs(lab: Lab, stopwatch: Stopwatch) -> None:
    pid = lab.head.daemon("qmaster")
    client = lab.at_work(3 * COUNT)
    with broken(lab, lambda: os.kill(pid, signal.SIGCONT)):
        stopwatch.start()
        os.kill(pid, signal.SIGSTOP)
        time.sleep(10)
    lab.squares(client, 3 * COUNT, 40)
    stopwatch.stop()
    assert lab.calls_made_twice() == 0
    lab.nothing_left()


@row(
    fault="the queue is disabled before the submission, and enabled after 3 s",
    where="scheduler",
    expected="it is said and waited; every value",
    bound_s=20,
    speed="slow",
)
def test_queue_disabled(lab: Lab, stopwatch: Stopwatch) -> None:
    with broken(lab, lambda: lab.sge("qmod", "-e", "all.q")):
        lab.sge("qmod", "-d", "all.q")
        stopwatch.start()
        client = lab.start(count=20, seconds=0.05)
        client.until_printed("0 workers up, ")
        time.sleep(2)
    lab.squares(client, 20, 30)
    stopwatch.stop()
    lab.nothing_left()


@row(
    fault="the queue is disabled during the run, and all agents killed",
    where="scheduler",
    expected="new ones wait until it is enabled (3 s); every value",
    bound_s=30,
    speed="slow",
)
def test_queue_disabled_and_agents_killed(lab: Lab, stopwatch: Stopwatch) -> None:
    client = lab.at_work(COUNT)
    with broken(lab, lambda: lab.sge("qmod", "-e", "all.q")):
        lab.sge("qmod", "-d", "all.q")
        stopwatch.start()
        for agent in lab.agents():
            agent.kill()
        time.sleep(3)
    lab.squares(client, COUNT, 40)
    stopwatch.stop()
    lab.nothing_left()


@row(
    fault="array tasks that never start: twice as many workers as slots",
    where="scheduler",
    expected="every value; what waits is deleted",
    bound_s=20,
    speed="slow",
)
def test_tasks_that_never_start(lab: Lab, stopwatch: Stopwatch) -> None:
    stopwatch.start()
    client = lab.start(count=40, seconds=0.1, max_workers=2 * SLOTS)
    lab.squares(client, 40, 20)
    lab.nothing_left()
    stopwatch.stop()


@row(
    fault="the accounting file is missing, and agents are killed",
    where="scheduler",
    expected="others come; every value",
    bound_s=30,
    speed="slow",
)
def test_accounting_missing(lab: Lab, stopwatch: Stopwatch) -> None:
    common = Path(os.environ["SGE_ROOT"], os.environ["SGE_CELL"], "common")
    client = lab.at_work(COUNT)
    with broken(lab, lambda: (common / "gone").rename(common / "accounting")):
        (common / "accounting").rename(common / "gone")
        stopwatch.start()
        for agent in (lab.node1.agents()[0], lab.node2.agents()[0]):
            agent.kill()
        lab.squares(client, COUNT, 40)
        stopwatch.stop()
        lab.nothing_left()
