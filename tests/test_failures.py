"""What is said of a job that died, and what it is taken from."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gridmap.core.messages import Held
from gridmap.core.spec import Resources
from gridmap.errors import Cause, JobException, JobOutOfMemory
from gridmap.failures import exception_of_failure
from gridmap.monitor.sink import Failure, Place


def lost(cause: Cause, log: str = "", last: Held | None = None) -> Failure:
    place = Place("3.1", "node7", log, log)
    return Failure(4, cause, None, [], 2, "ended by SIGKILL", place, 0, last)


def test_all_that_is_known_of_a_lost_worker(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("x" * 9000 + "\nlast words\n")
    last = Held(4, 1, 0, 1, 4, 3 << 30, 1.5, True, 4 << 30)
    error = exception_of_failure(
        lost(Cause.MEMORY, str(log), last), "name", Resources(h_vmem="1G", mem_free="")
    )
    assert type(error) is JobOutOfMemory
    assert str(error).startswith(
        "job 4 (name) ran out of memory on node7 after 2 attempts: its worker 3.1: ended by "
        "SIGKILL; last seen "
        "with 3.0 GB of memory and 1.5 processors at work; asked for h_vmem=1G, allowed 4.0 GB, "
        "had 3.0 GB: ask for more memory (memory, h_vmem)"
    )
    assert (error.rss_bytes, error.cpu_fraction, error.attempts) == (3 << 30, 1.5, 2)
    assert error.log_tail.endswith("last words") and len(error.log_tail) <= 4096
    assert error.suggestion and error.suggestion in str(error)


@pytest.mark.parametrize("kind", ["missing", "folder", "fifo", "unreadable name"])
def test_a_log_that_is_none_stops_nobody(kind: str, tmp_path: Path) -> None:
    log = str(tmp_path / "log")
    if kind == "folder":
        os.mkdir(log)
    elif kind == "fifo":
        os.mkfifo(log)
    elif kind == "unreadable name":
        log = "a\0b"
    error = exception_of_failure(lost(Cause.DIED, log), "name", Resources())
    assert isinstance(error, JobException) and error.log_tail == ""
