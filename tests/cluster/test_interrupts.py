"""Runs on a real scheduler whose client is interrupted, terminated, ended or killed."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from gridmap.ledger.directory import HISTORY
from tests.cluster.client import SLOTS, Program, eventually, processes, queued
from tests.rows import row

PROGRAM = """
import os, subprocess, sys, time
import gridmap

how, place, count = sys.argv[1], sys.argv[2], 3

def sleeper(number):
    import subprocess
    process = subprocess.Popen(["sleep", "1000"])
    open(os.path.join(place, f"sleeper.{process.pid}"), "w").close()
    process.wait()

def begun():
    deadline = time.monotonic() + 30
    while len([n for n in os.listdir(place) if n.startswith("sleeper.")]) < count:
        assert time.monotonic() < deadline
        time.sleep(0.02)

def say(*words):
    print(*words, time.monotonic(), flush=True)

def jobs():
    return [gridmap.Job(sleeper, [n]) for n in range(count)]

if how == "map":
    gridmap.grid_map(sleeper, range(count), max_workers=count)
elif how == "with":
    try:
        with gridmap.submit(jobs(), max_workers=count):
            begun()
            say("leaving")
            raise LookupError("in the block")
    except LookupError:
        say("left")
elif how == "exit":
    run = gridmap.submit(jobs(), max_workers=count)
    begun()
    say("leaving")
elif how == "imap":
    def first_fast(n):
        return n if n == 0 else sleeper(n)
    stream = gridmap.grid_imap(first_fast, range(count + 1), max_workers=count)
    assert next(stream) == 0
    begun()
    say("leaving")
    del stream
    say("left")
    time.sleep(60)
"""


def pending(pid: int) -> bool:
    """Returns whether a process has yet to notice a signal; one that has ended never will."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    masks = re.findall(r"^S[hi][dg]Pnd:\s*(\w+)", status, re.M)
    return "State:\tZ" not in status and any(int(mask, 16) for mask in masks)


@pytest.fixture
def before() -> Iterator[set[int]]:
    """Returns the user's processes so far; at the end there may be no others."""
    known = set(processes())
    yield known
    eventually(lambda: not set(processes()) - known, 5.0, "no process is left")


class Interrupted:
    """A program with three jobs on the cluster that start processes of their own."""

    def __init__(self, folder: Path, before: set[int], how: str, **environment: str) -> None:
        self.folder = folder
        self.before = before
        self.runs = folder / "runs"
        self.program = Program(
            folder, PROGRAM, how, str(folder), GRIDMAP_RUN_DIR=str(self.runs), **environment
        )

    def sleepers(self) -> list[int]:
        return [int(path.suffix[1:]) for path in self.folder.glob("sleeper.*")]

    def until_begun(self) -> None:
        eventually(lambda: len(self.sleepers()) == 3, what="the jobs begin")
        assert len(set(processes()).intersection(self.sleepers())) == 3

    def all_gone(self, since: float, within_s: float, client: bool = True) -> float:
        """Checks that nothing is left; returns how long that took."""
        eventually(lambda: not queued(), within_s, "the queue is empty")
        gone = time.monotonic() - since
        assert gone <= within_s

        def left() -> dict[int, list[str]]:
            return {
                pid: line
                for pid, line in processes().items()
                if pid not in self.before and (client or pid != self.program.process.pid)
            }

        eventually(lambda: not left(), 2.0, f"no process is left of {left()}")
        assert not set(processes()).intersection(self.sleepers())
        return gone

    def only_logs_left(self) -> bool:
        """Returns whether the run directory is gone, or holds logs and no key."""
        left = {
            path.name
            for run in self.runs.iterdir()
            if run.name != HISTORY
            for path in run.iterdir()
        }
        return left <= {"logs"}


@row(
    fault="Ctrl-C or SIGTERM, once and twice",
    where="client",
    expected="it ends; its workers are deleted",
    bound_s=15,
)
@pytest.mark.parametrize(
    ("signals", "statuses"),
    [
        ([signal.SIGINT], {-signal.SIGINT}),
        ([signal.SIGTERM], {128 + signal.SIGTERM}),
        # the second may come when the run is over, and SIGTERM is none of our business any more
        ([signal.SIGTERM, signal.SIGTERM], {128 + signal.SIGTERM, -signal.SIGTERM}),
        ([signal.SIGINT, signal.SIGINT], {-signal.SIGINT}),
    ],
)
def test_signals(tmp_path, before, signals, statuses) -> None:
    run = Interrupted(tmp_path, before, "map")
    run.until_begun()
    since = time.monotonic()
    for number in signals:
        run.program.signal(number)
        eventually(lambda: not pending(run.program.process.pid), 2.0)  # else two become one
    seconds = run.all_gone(since, 2.0)
    assert run.program.wait(5) in statuses, run.program.printed()
    print(f"{[s.name for s in signals]}: canceled after {seconds:.2f} s")
    assert "could not" not in run.program.printed()
    eventually(run.only_logs_left, 2.0)


@pytest.mark.parametrize("how", ["with", "exit"])
def test_ends_of_a_program(tmp_path, before, how) -> None:
    run = Interrupted(tmp_path, before, how)
    run.program.until_printed("leaving")
    seconds = run.all_gone(time.monotonic(), 2.0)
    print(f"{how}: canceled after {seconds:.2f} s")
    assert run.program.wait(5) == 0, run.program.printed()
    eventually(run.only_logs_left, 2.0)


def test_a_half_read_imap_that_is_dropped(tmp_path, before) -> None:
    run = Interrupted(tmp_path, before, "imap")
    run.program.until_printed("leaving")
    seconds = run.all_gone(time.monotonic(), 2.0, client=False)
    print(f"imap: canceled after {seconds:.2f} s")
    run.program.until_printed("left")
    assert not psutil.Process(run.program.process.pid).children()
    eventually(run.only_logs_left, 2.0)
    run.program.process.kill()
    run.program.process.wait(10)


@row(
    fault="SIGKILL, and nobody attaches (grace 2 s)",
    where="client",
    expected="its workers end and leave",
    bound_s=20,
)
def test_the_client_is_killed(tmp_path, before) -> None:
    """Nobody is left to delete the workers: they end what they run, and leave."""
    run = Interrupted(tmp_path, before, "map", GRIDMAP_GRACE="2", HEARTBEAT_FREQUENCY="0.5")
    run.until_begun()
    assert len(queued()) == 3 <= SLOTS
    since = time.monotonic()
    os.kill(run.program.process.pid, signal.SIGKILL)
    run.program.process.wait(10)
    seconds = run.all_gone(since, 10.0)
    print(f"kill -9 of the client, grace 2 s: the workers left after {seconds:.2f} s")
    assert seconds > 1
