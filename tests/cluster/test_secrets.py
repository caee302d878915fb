"""What the scheduler and other users see of a run: nothing that lets them in."""

from __future__ import annotations

import json
from pathlib import Path

import psutil
import pytest

import gridmap
from tests.cluster.client import eventually, make_gate, workers_of
from tests.cluster.scheduler import SCHEDULER


def test_the_scheduler_s_records_and_the_processes_hold_no_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRIDMAP_RUN_DIR", str(tmp_path / "runs"))
    wait, begun, gate = make_gate(tmp_path)
    with gridmap.submit([gridmap.Job(wait, [1])], max_workers=1) as run:
        eventually(begun, what="a job that runs")
        folder = tmp_path / "runs" / run.id
        told = json.loads((folder / "connection.json").read_text())
        agents = eventually(lambda: workers_of(run.id), what="an agent")
        (native_id,) = set(agents.values())
        record = SCHEDULER.record(SCHEDULER.array(native_id))
        assert run.id in record  # it is the right one, with its arguments
        seen = [record]
        for pid in agents:
            for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
                seen += [" ".join(process.cmdline()), str(process.environ())]
        seen += [path.read_text(errors="replace") for path in (folder / "logs").iterdir()]
        for secret in (told["worker_secret"], told["worker_public"], told["server_public"]):
            assert not any(secret in text for text in seen)
        gate.touch()
        assert run.results() == [1]
