"""`gridmap doctor` on a real scheduler: all is well, one fault at a time, and nothing is left."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gridmap.call import BACKENDS
from tests.cluster.client import eventually, queued
from tests.cluster.scheduler import SCHEDULER
from tests.left import left_of_runs

END_S = 60.0
ITS_BACKEND = () if SCHEDULER.backend in BACKENDS else ("--backend", SCHEDULER.backend)


class Visit:
    """The doctor, as a program of its own."""

    def __init__(self, folder: Path, *words: str, **environment: str) -> None:
        self.runs = folder / "runs"
        self.output = folder / "output"
        settings = {"GRIDMAP_RUN_DIR": str(self.runs), "SEND_ERROR_MAIL": "0",
                    "PYTHONUNBUFFERED": "1", "GRIDMAP_MAX_WORKERS": "50"}  # fmt: skip
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gridmap.doctor", *ITS_BACKEND, *words],
                cwd=folder,
                env={**os.environ, **settings, **environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def printed(self) -> str:
        return self.output.read_text()

    def ended(self, within_s: float = END_S) -> int:
        try:
            return self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)
            pytest.fail(f"still there after {within_s:.0f} s: {self.printed()}")

    def found(self, status: int) -> dict[str, dict[str, list[dict[str, Any]]]]:
        """Returns findings by probe and name, of a visit that ended with this status."""
        assert self.ended() == status, self.printed()
        by_probe: dict[str, dict[str, list[dict[str, Any]]]] = {}
        for probe in json.loads(self.printed())["probes"]:
            names = by_probe.setdefault(probe["name"], {})
            for finding in probe["findings"]:
                names.setdefault(finding["name"], []).append(finding)
        return by_probe

    def nothing_left(self) -> None:
        """Checks that there is neither a job nor a file of it."""
        eventually(lambda: not queued(), what=f"no job is left of {queued()}")
        assert not left_of_runs(self.runs)


@pytest.fixture
def visit(tmp_path: Path) -> Callable[..., Visit]:
    def begin(*words: str, **environment: str) -> Visit:
        return Visit(tmp_path, *words, **environment)

    return begin


def test_all_is_well(visit: Callable[..., Visit]) -> None:
    one = visit("--json", "--timeout", "60")
    found = one.found(0)
    failed = [f for names in found.values() for some in names.values() for f in some
              if f["status"] == "failed"]  # fmt: skip
    assert failed == []
    assert found["scheduler"]["choice"][0]["facts"]["backend"] == SCHEDULER.backend
    assert found["scheduler"]["answer"][0]["status"] == "ok"
    assert found["submit"]["start"][0]["status"] == "ok"
    assert found["node"]["python"][0]["status"] == "ok"
    assert found["node"]["clock"][0]["facts"]["exact"]
    assert found["connection"]["connect"][0]["status"] == "ok"
    assert "grid_map squared" in found["grid_map"]["grid_map"][0]["found"]
    assert {f["status"] for some in found["limits"].values() for f in some} <= {"ok", "skipped"}
    one.nothing_left()


@pytest.mark.only_on("drmaa")
def test_the_library_and_its_limits_are_told(visit: Callable[..., Visit]) -> None:
    found = visit("--json", "--no-submit").found(0)
    library = found["scheduler"]["library"][0]
    assert "libdrmaa" in library["found"]
    assert found["scheduler"]["cell"][0]["status"] == "ok"
    assert {"max_aj_tasks", "max_u_jobs", "max_aj_instances", "maxujobs"} <= set(found["limits"])


@pytest.mark.only_on("slurm")
def test_the_controller_and_its_limits_are_told(visit: Callable[..., Visit]) -> None:
    found = visit("--json", "--no-submit").found(0)
    assert "is UP" in found["scheduler"]["controllers"][0]["found"]
    assert found["limits"]["MaxArraySize"][0]["facts"]["limit"] > 1


def test_a_queue_that_does_not_exist(visit: Callable[..., Visit]) -> None:
    one = visit("--json", "--queue", "nosuch")
    found = one.found(1)
    assert found["scheduler"]["queue"][0]["status"] == "failed"
    refused = found["submit"]["submit"][0]
    assert refused["status"] == "failed" and "DEFAULT_QUEUE" in refused["change"]
    assert found["grid_map"]["grid_map"][0]["status"] == "skipped"
    one.nothing_left()


def test_tasks_that_wait_are_deleted_and_the_reason_is_told(
    visit: Callable[..., Visit], full: None
) -> None:
    one = visit("--timeout", "15")
    assert one.ended() == 0, one.printed()
    printed = one.printed()
    assert re.search(r"warning .*still waits after 15 s", printed), printed
    assert "waiting 10 s: " in printed and "pending" in printed
    eventually(lambda: all("doctor" not in task.name for task in queued()), what="deleted")


@pytest.fixture
def full(tmp_path: Path) -> Any:
    """Fills the cluster with jobs of somebody else's program."""
    from gridmap.backends.base import SubmitRequest
    from gridmap.backends.registry import open_backend
    from gridmap.core.events import NativeState
    from gridmap.core.spec import Resources

    backend = open_backend(SCHEDULER.backend)
    request = SubmitRequest("full", "full", ("/bin/sleep", "300"), 32, Resources(),
                            str(tmp_path), str(tmp_path))  # fmt: skip
    ids = backend.submit(request)
    states = (NativeState.RUNNING, NativeState.PENDING)

    def are_there() -> bool:
        seen = {status.state for status in backend.status(ids).values()}
        return seen.issuperset(states)

    try:
        eventually(are_there, what="some run and some wait")
        yield
    finally:
        backend.cancel(ids)
        backend.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_visit_leaves_neither_jobs_nor_files(
    visit: Callable[..., Visit], full: None, number: signal.Signals
) -> None:
    one = visit()
    eventually(lambda: "an array job of 2 tasks is taken" in one.printed(), what=one.printed())
    one.process.send_signal(number)
    assert one.ended() == 130, one.printed()
    eventually(lambda: all("doctor" not in task.name for task in queued()), what="deleted")
    assert not left_of_runs(one.runs)


def test_a_scheduler_that_is_not_there(visit: Callable[..., Visit], tmp_path: Path) -> None:
    if SCHEDULER.kind == "slurm":
        config = tmp_path / "slurm.conf"
        text = Path(os.environ["SLURM_CONF"]).read_text()
        config.write_text(re.sub(r"(?m)^SlurmctldPort=.*$", "SlurmctldPort=1", text))
        away = {"SLURM_CONF": str(config)}
    else:
        away = {"SGE_QMASTER_PORT": "1"}
    one = visit("--json", "--backend", SCHEDULER.backend, **away)
    found = one.found(1)
    assert found["scheduler"]["answer"][0]["status"] == "failed"
    assert found["submit"]["submit"][0]["status"] == "skipped"
    one.nothing_left()
