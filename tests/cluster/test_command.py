"""The `gridmap` command beside a client of a real scheduler, which is killed."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.client import SLOTS, Program, eventually, queued, workers_of

PROGRAM = """
import os, sys, time
import gridmap

place = sys.argv[1]

def f(x):
    open(os.path.join(place, f"begun.{x}"), "w").close()
    print("job", x, "speaks", flush=True)
    if x == 5:
        raise ValueError("five is wrong")
    deadline = time.monotonic() + 60
    while x >= 8 and not os.path.exists(os.path.join(place, "open")):
        if time.monotonic() > deadline:
            raise TimeoutError("nobody opened the gate")
        sum(range(10_000))
        time.sleep(0.01)
    time.sleep(0.2)
    return x * x

gridmap.grid_map(f, range(40), max_workers=int(sys.argv[2]), on_error="return")
"""
ENVIRONMENT = {"HEARTBEAT_FREQUENCY": "1", "MAX_TIME_BETWEEN_HEARTBEATS": "10"}


@pytest.fixture(autouse=True)
def _settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRIDMAP_RUN_DIR", str(tmp_path / "runs"))
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


def ask(folder: Path, *words: str) -> tuple[int, str]:
    """Runs the command to its end; returns its exit status and what it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "gridmap", *words],
        cwd=folder, env=dict(os.environ), capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert "Traceback (most recent call last)" not in done.stderr, done.stderr
    return done.returncode, done.stdout


def ask_json(folder: Path, *words: str) -> Any:
    return json.loads(ask(folder, *words, "--json")[1])


def under_way(folder: Path) -> tuple[Program, str]:
    """Starts the program; returns when seven jobs have values and all slots hold one that waits."""
    program = Program(folder, PROGRAM, str(folder), str(SLOTS))
    eventually(lambda: len(list(folder.glob("begun.*"))) >= 8 + SLOTS, what="jobs wait")
    run = ask_json(folder, "status", "last")["run"]
    eventually(lambda: ask_json(folder, "status", run["id"])["run"]["completed"] == 7)
    return program, run["id"]


def test_a_run_is_looked_at_killed_and_finished(tmp_path: Path) -> None:
    program, run = under_way(tmp_path)

    status, _ = ask(tmp_path, "status", run)
    view = ask_json(tmp_path, "status", run)["run"]
    assert status == 4 and view["pid"] == program.process.pid
    assert (view["workers_up"], view["failed"], view["total"]) == (SLOTS, 1, 40)
    rows = ask_json(tmp_path, "jobs", run, "--failed")["rows"]
    assert [(row["job"], row["cause"]) for row in rows] == [(5, "exception")]
    running = eventually(
        lambda: (
            len(rows := ask_json(tmp_path, "jobs", run, "--state", "running")["rows"]) == SLOTS
            and rows
        )
    )
    assert {row["worker"] for row in running} == set(workers_of(run).values())
    shown = ask(tmp_path, "show", run, "5")[1]
    assert "ValueError: five is wrong" in shown and "traceback on the node" in shown
    assert "speaks" in ask(tmp_path, "logs", run, str(running[0]["job"]))[1]

    assert ask(tmp_path, "cancel", run, "38", "39")[0] == 0
    eventually(lambda: ask_json(tmp_path, "status", run)["run"]["canceled"] == 2)

    program.signal(signal.SIGKILL)
    program.wait(5)
    status, printed = ask(tmp_path, "status", run)
    assert status == 1 and "interrupted" in printed and f"gridmap attach {run}" in printed
    view = ask_json(tmp_path, "status", run)["run"]
    assert (view["completed"], view["failed"], view["canceled"]) == (7, 1, 2)
    assert len(ask_json(tmp_path, "jobs", run, "--state", "queued")["rows"]) == 30

    (tmp_path / "open").touch()
    status, printed = ask(tmp_path, "attach", run, "-o", "values.pkl")
    assert status == 1 and "37 values of 40 jobs" in printed
    values = pickle.loads((tmp_path / "values.pkl").read_bytes())
    assert [v for v in values if isinstance(v, int)] == [
        x * x for x in range(40) if x not in (5, 38, 39)
    ]
    assert ask(tmp_path, "status", run)[0] == 1
    eventually(lambda: not queued(), 5.0)

    status, _ = ask(tmp_path, "retry", run, "-o", "again.json")
    told = json.loads((tmp_path / "again.json").read_text())
    assert status == 1 and list(told["errors"]) == ["5"] and told["values"][39] == 39 * 39
    report = ask_json(tmp_path, "report", run)
    assert report["run"]["completed"] == 39 and report["advice"]
    eventually(lambda: not queued() and not workers_of(run), 10.0)


def test_workers_of_a_dead_client_are_deleted(tmp_path: Path) -> None:
    program, run = under_way(tmp_path)
    program.signal(signal.SIGKILL)
    program.wait(5)
    assert queued() and workers_of(run)
    status, printed = ask(tmp_path, "cancel", run)
    assert status == 0 and "its client was dead" in printed
    eventually(lambda: not queued() and not workers_of(run), 10.0)
    view = ask_json(tmp_path, "status", run)["run"]
    assert (view["state"], view["completed"], view["canceled"]) == ("ended", 7, 32)
    status, printed = ask(tmp_path, "results", run)
    assert status == 1 and printed.startswith("0\t0\n1\t1\n2\t4\n")
