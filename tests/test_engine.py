"""A run at a glance: what the scheduler's queues are called, and what is left to do."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from pathlib import Path

import pytest

import gridmap
from gridmap import engine
from gridmap.conf import Settings
from gridmap.core.spec import PoolSpec, Resources
from gridmap.engine import Engine
from gridmap.monitor.loop import Monitor
from gridmap.monitor.watcher import Watcher
from gridmap.options import Options
from gridmap.plan import Plan
from gridmap.run_status import RunStatus, waiting
from tests.doors.clients import until


def engine_of(backend: str, *queues: str) -> Engine:
    pools = [PoolSpec(Resources(queue=queue)) for queue in queues]
    plan = Plan([], "name", "job {}".format, True, ["name"], False, pools=pools)
    return Engine(plan, Options(settings=Settings(), backend=backend), Watcher())


@pytest.mark.parametrize(
    ("backend", "queues"),
    [
        ("drmaa", {"all.q": 5, "gpu.q": 4}),
        ("slurm", {"": 5, "gpu.q": 4}),  # where nobody is asked for all.q
    ],
)
def test_workers_wait_in_queues(
    backend: str, queues: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SGE_ROOT", "/somewhere")
    one = engine_of(backend, "all.q", "gpu.q", "all.q", "idle.q")
    assert waiting(one._queues_asked_for(), [2, 4, 3, 0]) == queues


def test_a_status_has_what_it_always_had_in_the_same_places() -> None:
    status = RunStatus(9, 1, 2, 3, 1, 2, 4, 5, False)
    assert (status.total, status.completed, status.failed, status.canceled) == (9, 1, 2, 3)
    assert (status.running, status.queued, status.workers_up, status.workers_pending) == (
        1,
        2,
        4,
        5,
    )
    assert (status.left_s, status.queues, status.resubmitted) == (None, {}, 0)
    assert RunStatus(9, 1, 2, 3, 1, 2, 4, 5, False).queues is not status.queues


def test_a_run_that_cannot_begin_lets_go_of_all_it_had(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GRIDMAP_RUN_DIR", str(tmp_path / "runs"))
    monkeypatch.setenv("GRIDMAP_LEDGER", "always")
    gridmap.grid_map(abs, [1, 2], local=True, max_processes=2)  # what is loaded once is
    shutil.rmtree(tmp_path / "runs")

    def refused(*arguments: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    before = threads(), len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(engine, "open_window", refused)
    with pytest.raises(OSError, match="Too many open files"):
        gridmap.grid_map(abs, [1, 2], local=True, max_processes=2)
    until(lambda: threads() == before[0], "no thread is left")
    until(lambda: len(os.listdir("/proc/self/fd")) <= before[1], "no descriptor is left")
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_run_without_a_thread_lets_go_of_its_ledger(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GRIDMAP_RUN_DIR", str(tmp_path / "runs"))
    monkeypatch.setenv("GRIDMAP_LEDGER", "always")

    def refused(monitor: Monitor) -> None:
        raise RuntimeError("can't start new thread")

    before = threads()
    monkeypatch.setattr(Monitor, "start", refused)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        gridmap.grid_map(abs, [1, 2], local=True, max_processes=2)
    until(lambda: threads() == before, "no thread is left")


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if "gridmap-" in thread.name}
