"""What jobs ended by, in few words."""

from __future__ import annotations

from typing import Any

import pytest

from gridmap.commands import runs, show
from gridmap.commands.printing import in_short, safe
from gridmap.views import JobRow, JobView, RunView


@pytest.mark.parametrize(
    ("cause", "error", "told"),
    [
        ("exception", "ValueError: two\nlines", "ValueError: two"),
        ("died", "job 5 (a b) died on n1 after 2 attempts: killed by SIGKILL (9)\nx",
         "died: killed by SIGKILL (9)"),
        ("stalled", "job 5 (f) was stopped: it had done nothing for too long on n1 after 1 attempt:"
         " ended after 30.0 s", "stalled: ended after 30.0 s"),
        ("died", "job 5 (f) died on n1 after 2 attempts", "died: job 5 (f) died on n1 after 2"
         " attempts"),
        ("canceled", "canceled by its owner", "canceled: canceled by its owner"),
        ("", "", ""),
    ],
)  # fmt: skip
def test_what_a_job_ended_by(cause: str, error: str, told: str) -> None:
    assert in_short(cause, error) == told


def test_jobs_that_were_canceled_have_not_failed() -> None:
    view = RunView("r", state="ended", total=500, completed=9, failed=1, canceled=490)
    cells = dict(zip(runs.HEADINGS, map(str, runs.row_of(view)), strict=True))
    assert (cells["DONE"], cells["FAILED"], cells["CANCELED"]) == ("9", "1", "490")
    damaged = RunView("r", error="it cannot be read")
    assert len(runs.row_of(damaged)) == len(runs.HEADINGS)


def advice(error: str, **more: Any) -> str:
    row = JobRow(5, "f", "failed", 2, cause="died", error=error)
    lines = dict(show._lines("r", JobView(row, error=error, **more)))
    return safe(lines["advice"])


def test_nobody_is_sent_to_a_log_that_there_is_not() -> None:
    assert advice("exit status 3", log_stderr="/runs/r/logs/1").endswith("the end of its log")
    assert "the end of its log" not in advice("exit status 3")
    assert "killed from outside" in advice("killed by SIGKILL (9)")
    assert "killed from outside" not in advice("killed by SIGSEGV (11)")
