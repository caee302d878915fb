"""Commands that look: at runs whose client lives, is stopped, was killed, has ended, is history."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gridmap.commands.printing import moment
from gridmap.watching.observer import ANSWER_S, folders
from tests.commands.conftest import apart, gridmap
from tests.doors.clients import Client, client, until
from tests.watching.conftest import ENDS, MAP, PROGRAM, only, opened

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]  # a process for each command

HOSTILE = "ValueError: [red]7[/] \\x1b[31mred\\x1b[0m"


def test_a_run_that_is_under_way(settled: Client, runs: Path) -> None:
    run = only(runs).name
    done = apart("runs")
    (row,) = done.rows
    assert (done.status, done.err) == (0, "")
    assert (row["RUN"], row["STATE"], row["JOBS"], row["DONE"]) == (run, "under way", "20", "8")
    assert (row["FAILED"], row["NAME"]) == ("2", "gridmap_job")
    assert gridmap("runs", "--live").rows[0]["RUN"] == run

    done = apart("status", "last")
    assert done.status == 4
    assert done.facts["jobs"].startswith("20: 8 completed, 2 failed, 0 canceled, ")
    assert f"process {settled.process.pid}" in done.facts["state"]
    assert done.facts["failed"].startswith(f"2 x {HOSTILE}")
    assert "\x1b" not in done.out
    told = gridmap("status", run[:10], "--json").json
    assert (told["run"]["completed"], told["run"]["pid"]) == (8, settled.process.pid)
    assert told["failures"][0]["count"] == 2

    jobs = apart("jobs", ".", "--failed").rows
    assert [(row["JOB"], row["STATE"]) for row in jobs] == [("7", "failed"), ("8", "failed")]
    assert jobs[0]["ERROR"] == HOSTILE
    states = [row["STATE"] for row in gridmap("jobs", run).rows]
    assert (len(states), states.count("running")) == (20, 2)
    page = gridmap("jobs", run, "-n", "3", "--json").json
    assert [row["job"] for row in page["rows"]] == [0, 1, 2]
    page = gridmap("jobs", run, "-n", "3", "--json", "--after", page["next"]).json
    assert [row["job"] for row in page["rows"]] == [3, 4, 5]

    done = apart("show", run, "gridmap_job7")
    assert (done.status, done.facts["cause"]) == (0, "exception")
    assert "traceback on the node" in done.out and 'client.py", line' in done.out
    assert "second line" in done.out and "\x1b" not in done.out
    running = next(row["JOB"] for row in gridmap("jobs", run, "--state", "running").rows)
    shown = until(lambda: "memory\t▁" in (o := gridmap("show", run, running).out)
                  or "memory\t█" in o and o, "it was measured", 40)  # fmt: skip
    assert shown
    assert gridmap("logs", run).status == 1 and "has no logs" in gridmap("logs", run).err
    assert apart("top").rows[0]["RUN"] == run
    assert gridmap("top", "--json").json["runs"][0]["total"] == 20
    done = gridmap("results", run)
    assert done.status == 4 and "is under way" in done.err
    assert gridmap("attach", run, cwd=runs).status == 4
    assert apart("report", run).facts["jobs"].startswith("8 jobs completed")


def test_a_client_that_is_stopped_does_not_hold_up_the_others(settled: Client, runs: Path) -> None:
    here = f"import os\nos.environ['GRIDMAP_RUN_DIR'] = {str(runs)!r}\n"
    two = Client(runs.parent / "two", here + PROGRAM + MAP)
    (first,) = folders(runs)
    try:
        second = until(lambda: [p for p in folders(runs) if p != first], "it has begun", 30)[0]
        settled.signal(signal.SIGSTOP)
        begun = time.monotonic()
        rows = {row["RUN"]: row for row in gridmap("runs").rows}
        assert time.monotonic() - begun < 25
        stopped = rows[first.name]
        assert stopped["STATE"] == "no answer" and "is stopped" in stopped["NAME"]
        assert rows[second.name]["STATE"] == "under way"
        done = gridmap("status", first.name)
        assert done.status == 4 and "is stopped" in done.facts["error"]
        begun = time.monotonic()
        done = gridmap("cancel", first.name, "12")
        assert done.status == 4 and "is stopped" in done.err
        assert time.monotonic() - begun < ANSWER_S + 10  # it is asked once
    finally:
        settled.signal(signal.SIGCONT)
        two.close()


def test_a_run_whose_client_was_killed(settled: Client, runs: Path, tmp_path: Path) -> None:
    settled.signal(signal.SIGKILL)
    settled.ended(10)
    run = only(runs).name
    done = gridmap("status", run)
    assert done.status == 1 and done.facts["state"].startswith("interrupted")
    assert f"gridmap attach {run}" in done.facts["go on"]
    assert gridmap("jobs", run, "--state", "queued", "--json").json["rows"][0]["state"] == "queued"
    assert gridmap("show", run, "7").facts["cause"] == "exception"
    assert gridmap("top").rows == []
    assert gridmap("runs", "--live").rows == []

    done = gridmap("results", run)
    assert done.status == 1
    lines = done.out.splitlines()
    assert lines[:2] == ["0\t0", "1\t1"] and lines[7] == "7\t-" and len(lines) == 20
    assert "8 values of 20 jobs" in done.err and "job 7 has none: exception: ValueError" in done.err
    assert "\x1b" not in done.err
    path = tmp_path / "values.json"
    assert gridmap("results", run, "-o", str(path)).status == 1
    told = json.loads(path.read_text())
    assert told["values"][:8] == [0, 1, 4, 9, 16, 25, 36, None]
    assert told["errors"]["19"] == "it has not ended"
    done = gridmap("results", run, "-o", str(path))
    assert done.status == 1 and "exists; --force replaces it" in done.err
    assert gridmap("results", run, "--json").json["values"][4] == "16"


def test_a_run_that_succeeded(tmp_path: Path, runs: Path) -> None:
    with client(tmp_path / "client", ENDS.replace("if x in (7, 8)", "if False")) as one:
        assert one.ended(40) == 0
    run = only(runs).name
    done = gridmap("status", "last")
    assert done.status == 0 and done.facts["state"].startswith("ended, began")
    assert done.facts["ended"].endswith("100 %")
    assert len(gridmap("jobs", run, "--state", "completed").rows) == 20
    for command in ("results", "attach", "retry"):
        done = gridmap(command, run, cwd=tmp_path)
        assert done.status == 1 and "only its history is left" in done.err
    done = gridmap("cancel", run)
    assert done.status == 0 and "nothing to cancel" in done.out
    assert gridmap("report", run).status == 0
    assert gridmap("status", ".", cwd=only(runs)).status == 0


def test_what_is_not_there(runs: Path, tmp_path: Path) -> None:
    for words in (["status", "last"], ["status", "2025"], ["jobs", "."], ["cancel", "x"],
                  ["attach", "x"], ["retry", "x"], ["results", "x"], ["report", "x"],
                  ["show", "x", "1"], ["logs", "x"], ["clean", "x"]):  # fmt: skip
        done = gridmap(*words)
        assert done.status == 3 and done.err.startswith(f"gridmap {words[0]}: there"), words
        assert not done.out
    done = gridmap("status", "nope\x1b[31m", "--json")
    assert json.loads(done.err)["status"] == 3 and not done.out
    assert "\x1b" not in gridmap("status", "nope\x1b[31m").err
    assert gridmap("runs").rows == [] and gridmap("runs", "--json").json == {"runs": []}
    assert gridmap("runs", "--run-dir", str(tmp_path / "none")).status == 0
    for words in (["status"], ["jobs", "x", "--limit", "-1"], ["jobs", "x", "--failed", "--state",
                  "queued"], ["status", "x", "--interval", "0"], ["clean", "--older-than", "x"],
                  ["completion", "tcsh"], ["doctor", "--memory", "lots"],
                  ["doctor", "--slots", "0"], ["doctor", "--walltime", "soon"]):  # fmt: skip
        done = gridmap(*words)
        assert done.status == 2 and "error: " in done.err and not done.out, words


def test_nobody_reads_and_nothing_is_there(tmp_path: Path, runs: Path) -> None:
    """Its output is closed, and its working directory is gone."""
    with client(tmp_path / "client", ENDS) as one:
        assert one.ended(60) == 0, one.err
    line = f"exec {sys.executable} -W error -m gridmap"
    gone = tmp_path / "gone"
    for words in ("runs", "status last", "status last --json"):
        done = subprocess.run(
            ["bash", "-c", f"{line} {words} >&-"], capture_output=True, text=True, timeout=60
        )
        assert done.returncode in (0, 1) and not done.stderr, done.stderr
        gone.mkdir()
        done = subprocess.run(
            ["bash", "-c", f"rmdir {gone}; {line} {words}"], capture_output=True, text=True,
            timeout=60, cwd=gone,
        )  # fmt: skip
        assert done.returncode in (0, 1) and only(runs).name in done.stdout, done.stderr
        assert not done.stderr


def test_a_name_that_is_no_text(tmp_path: Path, runs: Path) -> None:
    """A name made of a file's may have bytes in it that are no characters."""
    jobs = "[gridmap.Job(f, [x], name=os.fsdecode(b'fold\\xff') + str(x)) for x in range(4)]"
    program = PROGRAM + f"print(gridmap.process_jobs({jobs}, local=True, max_processes=2))\n"
    with client(tmp_path / "client", program.replace("return x * x", "raise LookupError")) as one:
        assert one.ended(60) == 1 and "LookupError" in one.err
    name = "fold\\udcff0"
    assert gridmap("runs").rows[0]["NAME"] == name
    assert gridmap("jobs", "last").rows[0]["NAME"] == name
    assert gridmap("show", "last", name).facts["job"] == f"0  {name}"


def test_a_time_that_is_none() -> None:
    assert [moment(at_s) for at_s in (None, 0.0, 1e300, float("nan"))] == ["-"] * 4


def test_a_reader_that_goes_away(settled: Client, runs: Path) -> None:
    line = f"{sys.executable} -W error -m gridmap jobs last | head -1"
    done = subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, timeout=60, env=dict(os.environ)
    )
    assert done.stdout.startswith("JOB\t") and done.stderr == ""
    opened(settled)
