"""What the tests of whole runs share: the queue, the user's processes, programs of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.cluster.scheduler import SCHEDULER, Task

SLOTS = 4
END_S = 20.0
COMMANDS = [[command] for command in SCHEDULER.commands]


def queued() -> list[Task]:
    """Returns the user's tasks, without those that are being deleted."""
    return SCHEDULER.queued()


def eventually(condition: Callable[[], Any], within_s: float = END_S, what: str = "") -> Any:
    """Returns the condition's first true value; fails when it has none in time."""
    deadline = time.monotonic() + within_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            pytest.fail(f"not within {within_s:.0f} s: {what or condition}")
        time.sleep(0.05)


def processes() -> dict[int, list[str]]:
    """Returns the command lines of the user's processes, by pid, without dead ones and this one."""
    found = {}
    for process in psutil.process_iter():
        try:
            if process.uids().real == os.getuid() and process.status() != psutil.STATUS_ZOMBIE:
                found[process.pid] = process.cmdline()
        except psutil.Error:
            continue
    found.pop(os.getpid(), None)
    return {pid: line for pid, line in found.items() if line[:1] not in COMMANDS}


def workers_of(run: str) -> dict[int, str]:
    """Returns the native ids of a run's agents on this machine, by pid."""
    agents = {}
    for pid, line in processes().items():
        try:
            process = psutil.Process(pid)
            parent = process.parent()
            of_run = any(run in word for word in line)
            if of_run and (parent is None or SCHEDULER.shepherd in parent.name()):
                agents[pid] = SCHEDULER.native_id(process.environ())
        except (psutil.Error, KeyError):
            continue
    return agents


def make_gate(folder: Path) -> tuple[Callable[[int], int], Callable[[], list[int]], Path]:
    """Returns a function for jobs that wait, who has begun so far, and the file that lets them go.

    The waiting has a deadline, and uses the processor a little, so that it does not look stalled.
    """
    place, gate = str(folder), folder / "open"

    def wait(number: int) -> int:
        Path(place, f"begun.{number}").touch()
        deadline = time.monotonic() + 60
        while not Path(place, "open").exists():
            if time.monotonic() > deadline:
                raise TimeoutError("nobody opened the gate")
            time.sleep(0.02)
        return number * number

    def begun() -> list[int]:
        return sorted(int(path.suffix[1:]) for path in folder.glob("begun.*"))

    return wait, begun, gate


class Program:
    """A Python program in a process of its own, as a user would start it."""

    def __init__(self, folder: Path, text: str, *args: str, **environment: str) -> None:
        self.script = folder / "program.py"
        self.script.write_text(text)
        self.output = folder / "program.output"
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, str(self.script), *args],
                cwd=folder,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def printed(self) -> str:
        return self.output.read_text()

    def finish(self, within_s: float = 60.0) -> str:
        """Returns what it printed, when it ended well."""
        status = self.wait(within_s)
        assert status == 0, self.printed()
        return self.printed()

    def wait(self, within_s: float) -> int:
        try:
            return self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)
            pytest.fail(f"still running after {within_s:.0f} s; it printed {self.printed()}")

    def until_printed(self, words: str, within_s: float = END_S) -> None:
        eventually(
            lambda: words in self.printed() or self.process.poll() is not None, within_s, words
        )
        assert words in self.printed(), self.printed()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)
