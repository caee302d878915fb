"""A client of a real scheduler is killed: another process goes on, with the workers that live."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

import gridmap
from tests.cluster.client import Program, eventually, queued, workers_of
from tests.cluster.scheduler import SCHEDULER
from tests.rows import row

PROGRAM = """
import os, sys, time
import gridmap

place = sys.argv[1]

def f(x):
    with open(os.path.join(place, "calls"), "a") as file:
        file.write(f"{x}\\n")
    time.sleep(0.05)
    return x * x, os.getppid()

gridmap.grid_map(f, range(400), max_workers=4)
"""
ENVIRONMENT = {"HEARTBEAT_FREQUENCY": "1", "MAX_TIME_BETWEEN_HEARTBEATS": "10"}


@pytest.fixture(autouse=True)
def _settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRIDMAP_RUN_DIR", str(tmp_path / "runs"))
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


def calls(folder: Path) -> list[int]:
    path = folder / "calls"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def killed(folder: Path) -> gridmap.RunInfo:
    program = Program(folder, PROGRAM, str(folder))
    eventually(lambda: len(calls(folder)) > 40, what="40 calls have begun")
    program.signal(signal.SIGKILL)
    program.wait(5)
    (info,) = gridmap.runs()
    assert info.state == "interrupted" and info.total == 400
    return info


@row(
    fault="SIGKILL, then attach",
    where="client",
    expected="the same workers go on; every value, none computed twice",
    bound_s=40,
)
def test_live_workers_go_on_under_another_client(tmp_path: Path) -> None:
    info = killed(tmp_path)
    before = {task.native_id for task in queued()}

    run = gridmap.attach(info.id)
    values = run.results()

    assert [value for value, _ in values] == [x * x for x in range(400)]
    assert len({agent for _, agent in values}) <= 4, "other workers did the rest"
    assert len(calls(tmp_path)) == 400, "some jobs ran twice"
    eventually(lambda: not before & {task.native_id for task in queued()}, what="all have left")
    assert gridmap.runs() == []


@pytest.mark.endings
@row(
    fault="SIGKILL, its workers are deleted, then attach",
    where="client",
    expected="others come; every value",
    bound_s=60,
)
def test_workers_that_died_meanwhile_are_replaced(tmp_path: Path) -> None:
    info = killed(tmp_path)
    for array in {task.array for task in queued()}:
        SCHEDULER.delete(array)
    eventually(lambda: not queued() and not workers_of(info.id), what="the workers are deleted")

    begun = time.monotonic()
    values = gridmap.attach(info.id).results()

    assert [value for value, _ in values] == [x * x for x in range(400)]
    assert time.monotonic() - begun < 60


@row(
    fault="SIGKILL, attach after its workers' grace (3 s)",
    where="client",
    expected="they have left; every value, no finished call is made again",
    bound_s=60,
)
def test_workers_that_nobody_takes_over_leave(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("GRIDMAP_GRACE", "3")
    info = killed(tmp_path)
    eventually(lambda: not queued(), what="the workers have left")
    monkeypatch.delenv("GRIDMAP_GRACE")
    done = len(calls(tmp_path))

    values = gridmap.attach(info.id).results()

    assert [value for value, _ in values] == [x * x for x in range(400)]
    assert len(calls(tmp_path)) == 400, f"{done} calls had been made, and some were made again"


def test_an_attached_run_that_is_canceled_leaves_nothing(tmp_path: Path) -> None:
    info = killed(tmp_path)
    with gridmap.attach(info.id):
        pass
    eventually(lambda: not queued(), 10, what="the queue is empty")
    (left,) = gridmap.runs()
    assert left.state == "ended" and os.path.exists(left.path)
