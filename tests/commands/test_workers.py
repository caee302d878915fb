"""Commands about runs on a cluster, whose workers have logs; here they are processes."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gridmap import Job, submit
from gridmap.run import Run
from gridmap.views import JobsAsked
from gridmap.watching.observer import Observer
from tests.commands.conftest import COMMAND, apart, gridmap
from tests.doors.clients import until
from tests.watching.conftest import only
from tests.wire.scheduler import ProcessBackend, cluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]  # a process for each command

RUNNING = JobsAsked(state="running")


@pytest.fixture
def run(runs: Path, tmp_path: Path) -> Iterator[Run]:
    """Three jobs on two workers: one dies once, one raises, one waits for a gate."""
    gate, died = str(tmp_path / "go"), str(tmp_path / "died")

    def work(x: int) -> int:
        print(f"said \x1b[31m{x}", flush=True)
        if x == 2 and not os.path.exists(died):
            open(died, "w").close()
            os._exit(3)
        if x == 3:
            raise KeyError("[bold]x[/bold]")
        deadline = time.monotonic() + 60
        while x == 0 and not os.path.exists(gate) and time.monotonic() < deadline:
            sum(range(20_000))
        return x

    jobs = [Job(work, [x], name=f"part {x}", h_vmem="16G") for x in (2, 3, 0)]
    with cluster(ProcessBackend()):
        one = submit(jobs, backend="drmaa", max_workers=2, on_error="return")
        try:
            yield one
        finally:
            one.cancel()
            one.close()


def begun(run: Run, runs: Path) -> None:
    """Waits until two have ended, and the third is known to run."""
    with Observer(only(runs)) as one:
        until(lambda: [row.job for row in one.jobs(RUNNING).rows] == [2], "only that runs", 60)
        until(lambda: one.job(2).samples, "it is measured", 60)
        until(lambda: one.run().completed == one.run().failed == 1, "the others have ended", 60)


def test_logs_and_what_jobs_used(run: Run, runs: Path, tmp_path: Path) -> None:
    begun(run, runs)
    told = gridmap("status", run.id)
    assert told.status == 4 and " up (" in told.facts["workers"]
    assert "h_vmem='16G'" in told.facts["asked for"]
    assert told.facts["tried again"].startswith("1 attempt that failed, which cost ")
    assert "job 0 (died)" in told.facts["warning"]

    shown = gridmap("show", run.id, "part_0")
    assert shown.facts["state"].startswith("running, attempt 1, for ")
    assert "16.0 GB asked for" in shown.facts["memory"] and "▁" in shown.facts["memory"]
    assert shown.facts["processors"][0] in "▁▂▃▄▅▆▇█"
    assert "end of stdout: " in shown.out or "end of stderr: " in shown.out
    assert "said \\x1b[31m0" in shown.out and "\x1b" not in shown.out

    shown = gridmap("show", run.id, "0")
    assert shown.facts["state"].startswith("completed, attempts: 2")
    row = next(line.split("\t") for line in shown.out.splitlines() if line.startswith("1\t"))
    assert row[5] == "died" and "exit" in row[6]
    assert gridmap("show", run.id, "1").facts["error"] == "KeyError: '[bold]x[/bold]'"

    logs = apart("logs", run.id)
    assert logs.status == 0 and logs.out.count("==> ") >= 2 and "\x1b" not in logs.out
    assert all(f"said \\x1b[31m{x}" in logs.out for x in (0, 2, 3))
    told = gridmap("jobs", run.id, "--json").json["rows"]
    worker = told[2]["worker"]
    assert "said \\x1b[31m0\n" in gridmap("logs", run.id, "2").out
    of_worker = gridmap("logs", run.id, "--worker", worker, "--json").json["logs"]
    assert {log["worker"] for log in of_worker} == {worker}
    assert gridmap("logs", run.id, "--worker", "9.9").status == 3
    assert [row["JOB"] for row in gridmap("jobs", run.id, "--search", "KeyError").rows] == ["1"]

    report = gridmap("report", run.id)
    assert report.facts["memory"].startswith("h_vmem=") and " would do: " in report.facts["memory"]
    assert "limit of address space here" in report.facts["memory"]
    assert "    h_vmem='" in report.out
    assert report.facts["tried again"].startswith("1 attempt that failed, which cost ")
    assert report.facts["failed"].startswith("1 job, exception: KeyError: '[bold]x[/bold]'")
    (tmp_path / "go").touch()
    run.wait(30)


def test_a_log_is_followed_to_its_end(run: Run, runs: Path, tmp_path: Path) -> None:
    begun(run, runs)
    process = subprocess.Popen(
        [*COMMAND, "logs", run.id, "--follow"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        while "said" not in (line := process.stdout.readline()):
            assert line, "it ended"
        worker = next(iter((runs / run.id / "logs").iterdir()))
        with worker.open("a") as file:
            file.write("written later\n")
        while "written later" not in (line := process.stdout.readline()):
            assert line, "it ended"
        (tmp_path / "go").touch()
        assert run.wait(30)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()


def test_the_worker_of_a_run_that_is_canceled_ends(run: Run, runs: Path) -> None:
    begun(run, runs)
    assert gridmap("cancel", run.id, "-y", "--reason", "enough").status == 0
    assert run.wait(30)
    errors = [str(value) for value in run.results()]
    assert "enough" in errors[2]
    assert gridmap("status", run.id).facts["jobs"].startswith("3: 1 completed, 1 failed, 1 cancel")
