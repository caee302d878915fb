"""What the tests of watching share: a program whose jobs wait until somebody opens a gate."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from gridmap.ledger.directory import HISTORY
from gridmap.watching.observer import folders
from tests.doors.clients import Client, client, until

PROGRAM = """
import os, time
import gridmap
from gridmap import Job
HERE = os.environ["HERE"]

def f(x):
    with open(os.path.join(HERE, "calls"), "a") as file:
        file.write(f"{x}\\n")
    time.sleep(0.2)  # longer than chunks take: each job is one
    deadline = time.monotonic() + 60
    while x >= 10 and not os.path.exists(os.path.join(HERE, "go")):
        if time.monotonic() > deadline:
            raise TimeoutError("nobody opened the gate")
        time.sleep(0.01)
    if x in (7, 8):
        raise ValueError(f"[red]{x}[/] \\x1b[31mred\\x1b[0m\\nsecond line")
    return x * x
"""
MAP = 'gridmap.grid_map(f, range(20), local=True, max_processes=2, on_error="return")\n'
ENDS = PROGRAM + "open(os.path.join(HERE, 'go'), 'w').close()\n" + MAP


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns the folder of the runs of the programs of a test."""
    folder = tmp_path / "client" / "runs"
    monkeypatch.setenv("GRIDMAP_RUN_DIR", str(folder))
    monkeypatch.setenv("GRIDMAP_LEDGER", "always")
    monkeypatch.setenv("HEARTBEAT_FREQUENCY", "1")
    monkeypatch.setenv("MAX_IDLE_HEARTBEATS", "1000")
    return folder


@pytest.fixture
def waiting(tmp_path: Path, runs: Path) -> Iterator[Client]:
    """A program eight of whose twenty jobs have values, two have failed, and two wait."""
    with client(tmp_path / "client", PROGRAM + MAP) as one:
        until(lambda: len([x for x in calls(one) if x >= 10]) == 2, "two jobs wait", 30)
        yield one


def calls(one: Client) -> list[int]:
    path = one.folder / "calls"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def opened(one: Client) -> None:
    """Opens the gate."""
    (one.folder / "go").touch()


def only(runs: Path) -> Path:
    """Returns the directory of the only run there is, also in the history."""
    (path,) = until(lambda: folders(runs), "there is a run")
    return path


def in_history(path: Path) -> bool:
    return path.parent.name == HISTORY
