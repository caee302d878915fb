"""Runs can be canceled, and gone on with."""

from __future__ import annotations

import os
import pickle
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import gridmap
from gridmap.errors import GridMapError
from gridmap.web.actions import FOLDER, KEEP_S, Retries
from tests.web.conftest import DEADLINE_S, Client, Dashboard, client_of, dashboard_of
from tests.web.ledgers import make
from tests.web.test_pages import words


def wait(until: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not until():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def wait_for_run(one: Dashboard, client: Client) -> str:
    page = f"/runs/{client.run}"
    wait(lambda: re.search("[1-9][0-9]* completed", words(one.ask(page).text)) is not None)
    return page


def test_a_run_can_be_canceled(tmp_path: Path) -> None:
    with client_of(tmp_path, 5000, 0.02) as client, dashboard_of(tmp_path) as one:
        page = wait_for_run(one, client)
        reply = one.post(f"{page}/cancel", one.ask(page).form_token)
        assert (reply.status, reply.headers["Location"]) == (303, f"{page}?done=cancel")
        assert "was told to cancel" in one.ask(f"{page}?done=cancel").text
        assert client.process.wait(DEADLINE_S) == 0
        wait(lambda: re.search("[1-9][0-9,]* canceled", words(one.ask(page).text)) is not None)
        assert "under way" not in words(one.ask(page).text)


def test_one_job_can_be_canceled(tmp_path: Path) -> None:
    with client_of(tmp_path, 2000, 0.05) as client, dashboard_of(tmp_path) as one:
        page = wait_for_run(one, client)
        reply = one.post(f"{page}/jobs/1999/cancel", one.ask(page).form_token)
        assert reply.headers["Location"] == f"{page}/jobs/1999?done=cancel-job"
        job = f"{page}/jobs/1999"
        wait(lambda: "Job 1999 piece1999 ⊘ canceled" in words(one.ask(job).text))
        assert "canceled in the dashboard" in words(one.ask(job).text)
        wait(lambda: "⊘ 1 canceled" in words(one.ask(page).text))
        assert "▶ under way" in words(one.ask(page).text)


def test_going_on_with_a_run_is_a_process_whose_output_is_shown(tmp_path: Path) -> None:
    make(tmp_path, "run-1", 20, failed_of=2)
    with dashboard_of(tmp_path) as one:
        page = one.ask("/runs/run-1")
        assert "Run again what failed" in page.text and "Cancel this run" not in page.text
        reply = one.post("/runs/run-1/retry", page.form_token)
        assert (reply.status, reply.headers["Location"]) == (303, "/runs/run-1?done=retry")
        # the ledger was made for its pages, and has no functions: nothing can be run
        wait(lambda: "ended with status" in words(one.ask("/runs/run-1").text))
        (log,) = (tmp_path / FOLDER).iterdir()
        assert log.name.startswith("run-1.retry.")
        assert stat.S_IMODE(log.stat().st_mode) == 0o600
        assert stat.S_IMODE(log.parent.stat().st_mode) == 0o700
        assert log.read_text().split()[0] in one.ask("/runs/run-1").text
    with dashboard_of(tmp_path) as other:
        assert "was started by another dashboard" in words(other.ask("/runs/run-1").text)


def test_a_run_whose_client_died_can_be_gone_on_with(tmp_path: Path) -> None:
    with client_of(tmp_path, 5000, 0.02) as client, dashboard_of(tmp_path) as one:
        page = wait_for_run(one, client)
        os.kill(client.process.pid, signal.SIGKILL)
        wait(lambda: "interrupted" in words(one.ask(page).text))
        text = one.ask(page).text
        assert "Go on with this run" in text and f'action="{page}/attach"' in text


def test_what_failed_runs_again_and_its_values_are_written(tmp_path: Path) -> None:
    runs, here = tmp_path / "runs", tmp_path / "here"
    here.mkdir()
    marker = tmp_path / "now it works"
    program = PROGRAM_THAT_FAILS.format(marker=str(marker))
    environ = {**os.environ, "GRIDMAP_RUN_DIR": str(runs), "GRIDMAP_LEDGER": "always",
               "PYTHONPATH": str(Path(gridmap.__file__).parents[1])}  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", program], env=environ, capture_output=True, text=True, timeout=120
    )
    run = done.stdout.split()[0]
    marker.touch()
    with dashboard_of(runs, cwd=here) as one:
        page = one.ask(f"/runs/{run}")
        assert "ended, 2 failed" in words(page.text)
        assert f"gridmap-{run}.pkl in {here}" in words(page.text)
        assert one.post(f"/runs/{run}/retry", page.form_token).status == 303
        wait(lambda: "gridmap retry ✓ done" in words(one.ask(f"/runs/{run}").text))
        page = one.ask(f"/runs/{run}")
        assert "6 values of 6 jobs" in words(page.text)
    assert pickle.loads((here / f"gridmap-{run}.pkl").read_bytes()) == list(range(6))


PROGRAM_THAT_FAILS = """
import os
import gridmap

def work(number):
    if number % 3 == 1 and not os.path.exists({marker!r}):
        raise ValueError("not yet")
    return number

run = gridmap.submit([gridmap.Job(work, [n]) for n in range(6)], local=True, max_processes=2,
                     on_error="finish")
print(run.id, flush=True)
run.wait()
"""


def test_nothing_can_be_run_again_of_a_run_in_the_history(tmp_path: Path) -> None:
    make(tmp_path / "history", "run-2", 20, failed_of=2)
    with dashboard_of(tmp_path) as one:
        page = one.ask("/runs/run-2").text
        assert "ended, 10 failed" in words(page) and "form_token" not in page


def test_what_was_printed_long_ago_is_removed(tmp_path: Path) -> None:
    run = make(tmp_path, "run-3", 2)
    retries = Retries(tmp_path, None)
    first = retries.begin(run, "retry")
    assert first.process is not None
    with pytest.raises(GridMapError, match="works already"):
        retries.begin(run, "retry")
    first.process.wait(DEADLINE_S)
    os.utime(first.log, (time.time() - KEEP_S - 60,) * 2)
    second = retries.begin(run, "attach")
    assert second.process is not None
    second.process.wait(DEADLINE_S)
    assert not first.log.exists() and second.log.exists()
    assert [one.log for one in Retries(tmp_path, None).of(run)] == [second.log]
