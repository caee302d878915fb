"""Workers that a real scheduler suspends."""

from __future__ import annotations

import logging
import subprocess
import time
from pathlib import Path

import pytest

import gridmap
from gridmap import Job
from tests.cluster.client import eventually, make_gate, workers_of
from tests.rows import row

SILENT_S = 2.0

pytestmark = pytest.mark.only_on("drmaa")  # on Slurm only an administrator may


def qmod(option: str, native_id: str) -> None:
    subprocess.run(["qmod", option, native_id], check=True, capture_output=True, timeout=20)


@row(
    fault="a worker is suspended for four times as long as silence is tolerated",
    where="scheduler",
    expected="it is waited for; every value, no call is charged",
    bound_s=30,
)
def test_a_suspended_worker_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "gridmap")
    monkeypatch.setenv("GRIDMAP_RUN_DIR", str(tmp_path / "runs"))
    monkeypatch.setenv("HEARTBEAT_FREQUENCY", "0.25")
    monkeypatch.setenv("MAX_TIME_BETWEEN_HEARTBEATS", str(SILENT_S))
    monkeypatch.setenv("CHECK_FREQUENCY", "0.5")
    monkeypatch.setenv("MAX_IDLE_HEARTBEATS", "1000")
    wait, begun, gate = make_gate(tmp_path)
    jobs = [Job(wait, [n]) for n in range(2)]
    with gridmap.submit(jobs, max_workers=2) as run:
        eventually(lambda: len(begun()) == 2)
        agents = workers_of(run.id)
        suspended = next(iter(agents.values()))
        qmod("-sj", suspended)
        said = f"worker {suspended} is suspended by the scheduler; waiting"
        eventually(lambda: said in caplog.text, what=said)
        until = time.monotonic() + 4 * SILENT_S  # it would have been lost after half of it
        while time.monotonic() < until:
            assert workers_of(run.id) == agents and "silent" not in caplog.text
            time.sleep(0.1)
        gate.touch()
        qmod("-usj", suspended)
        assert run.results() == [0, 1]
    assert caplog.text.count(said) == 1
    assert {job.num_resubmits for job in jobs} == {0}
