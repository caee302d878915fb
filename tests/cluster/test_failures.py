"""Jobs, workers and schedulers that fail, on a real scheduler."""

from __future__ import annotations

import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import gridmap
from gridmap import Job, grid_map, process_jobs
from gridmap.errors import (
    BackendError,
    Cause,
    JobCanceled,
    JobDied,
    JobNeverStarted,
    JobRefused,
)
from tests.cluster.client import (
    SLOTS,
    Program,
    eventually,
    make_gate,
    processes,
    queued,
    workers_of,
)
from tests.cluster.scheduler import SCHEDULER
from tests.left import left_of_runs
from tests.rows import row


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns the folder of the run directories."""
    folder = tmp_path / "runs"
    monkeypatch.setenv("GRIDMAP_RUN_DIR", str(folder))
    monkeypatch.setenv("GRIDMAP_MAX_WORKERS", str(SLOTS))
    return folder


@pytest.fixture
def arrays(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """Returns what tells the array jobs that have been submitted."""
    caplog.set_level(logging.INFO, "gridmap")
    return lambda: re.findall(r"workers submitted as \['(\d+)'\]", caplog.text)


# --- jobs -----------------------------------------------------------------------------------------

SEGFAULT, EXIT, KILL, RAISE = 13, 37, 61, 88


def make_bad() -> Callable[[int], int]:
    def bad(number):
        if number == 13:
            import ctypes

            ctypes.string_at(0)
        if number == 37:
            os._exit(3)
        if number == 61:
            os.kill(os.getpid(), 9)
        if number == 88:
            raise LookupError("eighty-eight")
        return number

    return bad


@pytest.mark.endings
@row(
    fault="SIGKILL, SIGSEGV, os._exit and an exception, each in one of 100 calls",
    where="child",
    expected="cause died with signal or status, or the exception; the others' values",
    bound_s=20,
)
def test_four_bad_jobs_of_a_hundred() -> None:
    call = make_bad()
    jobs = [Job(call, [n]) for n in range(100)]
    results = process_jobs(jobs, on_error="return")
    bad = {SEGFAULT, EXIT, KILL, RAISE}
    assert [n for n in range(100) if n not in bad] == [r for r in results if isinstance(r, int)]

    segfault, exited, killed, raised = (results[n] for n in sorted(bad))
    assert isinstance(segfault, JobDied) and segfault.signal == signal.SIGSEGV
    assert "SIGSEGV" in str(segfault)
    assert isinstance(exited, JobDied) and exited.exit_status == 3
    assert isinstance(killed, JobDied) and killed.signal == signal.SIGKILL
    assert "SIGKILL" in str(killed)
    assert isinstance(raised, LookupError) and raised.args == ("eighty-eight",)
    assert "in bad" in jobs[RAISE].traceback
    for number, error in ((SEGFAULT, segfault), (EXIT, exited), (KILL, killed)):
        assert (error.cause, error.job, error.attempts) == (Cause.DIED, number, 4)
        assert error.host == os.uname().nodename
        assert jobs[number].num_resubmits == 3
    assert [job.cause_of_death for job in jobs if job.cause_of_death] == [
        "died", "died", "died", "exception",
    ]  # fmt: skip


def test_first_failure_is_raised_before_or_after_the_rest(tmp_path) -> None:
    folder = str(tmp_path)

    def mark(number):
        if number == 3:
            raise LookupError("three")
        Path(folder, f"done.{number}").touch()
        time.sleep(0.05)
        return number

    with pytest.raises(LookupError, match="three"):
        grid_map(mark, range(200), max_workers=2)
    assert len(list(tmp_path.glob("done.*"))) < 199
    with pytest.raises(LookupError, match="three"):
        grid_map(mark, range(30), max_workers=2, on_error="finish")
    assert all((tmp_path / f"done.{n}").exists() for n in range(30) if n != 3)


# --- workers --------------------------------------------------------------------------------------


@pytest.mark.endings
@row(
    fault="SIGKILL of two of them",
    where="agent",
    expected="both are replaced; every value",
    bound_s=30,
)
def test_workers_that_are_killed_are_replaced(tmp_path, arrays, caplog) -> None:
    wait, begun, gate = make_gate(tmp_path)
    count = SLOTS + 2
    jobs = [Job(wait, [n]) for n in range(count)]
    with gridmap.submit(jobs, max_workers=SLOTS) as run:
        eventually(lambda: len(begun()) == SLOTS)
        agents = eventually(lambda: len(found := workers_of(run.id)) == SLOTS and found)
        one, other = list(agents)[:2]
        os.kill(one, signal.SIGKILL)
        os.kill(other, signal.SIGKILL)
        # while one stays busy, the others come back
        eventually(lambda: len(set(workers_of(run.id)) - {one, other}) == SLOTS, what="new workers")
        gate.touch()
        assert run.results() == [n * n for n in range(count)]
    assert len(arrays()) in (2, 3)
    assert caplog.text.count("resubmission 1 of 3") == 2
    assert sum(job.num_resubmits for job in jobs) == 2


@pytest.mark.endings
@row(
    fault="a worker is deleted before it starts, another at work",
    where="scheduler",
    expected="they are not replaced; the others make every value",
    bound_s=20,
)
def test_workers_that_are_deleted_are_not_replaced(tmp_path, arrays, caplog) -> None:
    wait, begun, gate = make_gate(tmp_path)
    count = SLOTS + 1
    jobs = [Job(wait, [n]) for n in range(count)]
    with gridmap.submit(jobs, max_workers=count) as run:
        eventually(lambda: len(begun()) == SLOTS)
        agents = eventually(lambda: len(found := workers_of(run.id)) == SLOTS and found)
        [pending] = [task.native_id for task in queued() if task.waits]
        for deleted in (pending, next(iter(agents.values()))):
            SCHEDULER.delete(deleted)
            eventually(lambda deleted=deleted: f"worker {deleted} is not replaced" in caplog.text)
        gate.touch()
        assert run.results() == [n * n for n in range(count)]
    assert len(arrays()) == 1


@pytest.mark.endings
@row(
    fault="SIGSTOP for good",
    where="agent",
    expected="it is deleted, another comes; every value",
    bound_s=20,
)
def test_a_worker_that_falls_silent(tmp_path, monkeypatch, caplog) -> None:
    monkeypatch.setenv("HEARTBEAT_FREQUENCY", "0.25")
    monkeypatch.setenv("MAX_TIME_BETWEEN_HEARTBEATS", "1")
    monkeypatch.setenv("MAX_IDLE_HEARTBEATS", "1000")
    wait, begun, gate = make_gate(tmp_path)
    with gridmap.submit([Job(wait, [n]) for n in range(2)], max_workers=2) as run:
        eventually(lambda: len(begun()) == 2)
        stopped, native_id = next(iter(workers_of(run.id).items()))
        os.kill(stopped, signal.SIGSTOP)
        eventually(lambda: f"worker {native_id} on" in caplog.text, what="it is said")
        eventually(lambda: len(set(workers_of(run.id)) - {stopped}) == 2, what="another comes")
        gate.touch()
        assert run.results() == [0, 1]
    eventually(lambda: stopped not in processes(), what="the stopped worker is deleted")


@pytest.mark.endings
@row(
    fault="all workers are deleted",
    where="scheduler",
    expected="cause canceled; no others are asked for",
    bound_s=30,
)
def test_deleting_everything_ends_the_run(tmp_path, arrays) -> None:
    wait, begun, _ = make_gate(tmp_path)
    with gridmap.submit([Job(wait, [n]) for n in range(3)], max_workers=3) as run:
        eventually(begun)
        SCHEDULER.delete(arrays()[0])
        began = time.monotonic()
        with pytest.raises(JobCanceled, match="were deleted from the scheduler"):
            run.results()
    assert time.monotonic() - began < 20
    assert len(arrays()) == 1


# --- workers that never work ----------------------------------------------------------------------


def interpreter(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_an_interpreter_that_fails_on_the_node(tmp_path, monkeypatch, arrays) -> None:
    broken = interpreter(tmp_path / "python", "echo this is no Python >&2; exit 7")
    monkeypatch.setattr(sys, "executable", broken)
    began = time.monotonic()
    with pytest.raises(JobNeverStarted, match="this is no Python") as caught:
        grid_map(abs, [1, 2, 3])
    print(f"broken interpreter: {time.monotonic() - began:.1f} s")
    assert "exited with 7" in str(caught.value)
    assert time.monotonic() - began < 10
    assert len(arrays()) <= 3


@pytest.mark.endings
@row(
    fault="a worker cannot be started (an error state)",
    where="scheduler",
    expected="cause never_started, with the scheduler's reason",
    bound_s=15,
)
def test_an_interpreter_that_the_node_lacks(tmp_path, monkeypatch, arrays) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "nosuch" / "python"))
    began = time.monotonic()
    with pytest.raises(
        JobNeverStarted, match="could not start it|failed 27|exited with 127"
    ) as caught:
        grid_map(abs, [1])
    print(f"no interpreter: {time.monotonic() - began:.1f} s")
    assert "nosuch/python" in str(caught.value)
    assert time.monotonic() - began < 15
    assert len(arrays()) <= 4


@row(
    fault="a worker hangs before its first word (GRIDMAP_STARTUP_DEADLINE 2 s)",
    where="node",
    expected="cause never_started, with the end of its log",
    bound_s=15,
)
def test_a_worker_that_hangs_before_its_first_word(tmp_path, monkeypatch, arrays) -> None:
    monkeypatch.setenv("GRIDMAP_STARTUP_DEADLINE", "2")
    hanging = interpreter(tmp_path / "python", "echo waiting for a license; exec sleep 1000")
    monkeypatch.setattr(sys, "executable", hanging)
    began = time.monotonic()
    with pytest.raises(JobNeverStarted, match="waiting for a license"):
        grid_map(abs, [1, 2, 3])
    print(f"hanging interpreter: {time.monotonic() - began:.1f} s")
    assert time.monotonic() - began < 15
    assert len(arrays()) <= 3


def test_another_version_on_the_node(tmp_path, monkeypatch, arrays) -> None:
    package = tmp_path / "other" / "gridmap"
    shutil.copytree(Path(gridmap.__file__).parent, package, ignore=shutil.ignore_patterns("*.pyc"))
    (package / "_version.py").write_text('__version__ = "99.1"\n')
    other = interpreter(
        tmp_path / "python", f'shift; exec {sys.executable} {package}/runner.py "$@"'
    )
    monkeypatch.setattr(sys, "executable", other)
    with pytest.raises((JobNeverStarted, JobRefused)) as caught:
        grid_map(abs, [1, 2, 3])
    assert "99.1" in str(caught.value) and gridmap.__version__ in str(caught.value)
    assert len(arrays()) <= 3


# --- what is refused at once ----------------------------------------------------------------------


REFUSED = {
    "drmaa": [
        ({"queue": "nosuch.q"}, 'unknown queue "nosuch.q"'),
        ({"resources": ["nosuch=1"]}, 'unknown resource "nosuch"'),
        ({"num_slots": 2, "par_env": "nosuch"}, 'parallel environment "nosuch" does not exist'),
        ({"num_slots": 99}, "no suitable queues"),
        ({"white_list": ["nosuch"]}, 'can\'t resolve hostname "nosuch"'),
    ],
    "slurm": [
        ({"queue": "nosuch"}, "invalid partition specified: nosuch"),
        ({"resources": ["--nosuch=1"]}, "unrecognized option '--nosuch=1'"),
        ({"resources": ["nosuch=1"]}, "each is an option of sbatch"),
        ({"num_slots": 2, "par_env": "mpi"}, "Slurm cannot be asked for par_env='mpi'"),
        ({"h_vmem": "1T"}, "Memory specification can not be satisfied"),
        ({"gpu": 3}, "Requested node configuration is not available"),  # no node has so many
        ({"white_list": ["nosuch"]}, "hosts (white_list) has nosuch, which Slurm does not know"),
        ({"os_minor": "7"}, "Slurm cannot be asked for os_minor='7'"),
    ],
}


@pytest.mark.parametrize(("wrong", "words"), REFUSED[SCHEDULER.kind])
def test_the_schedulers_own_words(runs, wrong, words) -> None:
    began = time.monotonic()
    with pytest.raises((BackendError, ValueError)) as caught:  # ValueError: nobody was asked
        grid_map(abs, [1], **wrong)
    assert time.monotonic() - began < 2
    assert words in str(caught.value)
    assert not queued()
    assert not left_of_runs(runs)


@pytest.mark.parametrize("place", ["/proc/nosuch", "/nosuch/runs"])
def test_a_run_directory_that_cannot_be_made(monkeypatch, place, arrays) -> None:
    monkeypatch.setenv("GRIDMAP_RUN_DIR", place)
    with pytest.raises(OSError, match="GRIDMAP_RUN_DIR") as caught:
        grid_map(abs, [1])
    assert place in str(caught.value) or "/nosuch" in str(caught.value)
    assert not arrays()


def test_no_temp_dir(arrays) -> None:
    with pytest.raises(OSError, match="/nosuch"):
        grid_map(abs, [1], temp_dir="/nosuch")
    assert not arrays()


ONE_CALL = """
import logging, os, sys, time
import gridmap
logging.basicConfig()
options = {"require_cluster": True} if sys.argv[1:] else {}
began = time.monotonic()
try:
    print("value", gridmap.grid_map(lambda n: os.getpid(), [1], **options) == [os.getpid()])
except Exception as error:
    print(type(error).__name__, error)
print("took", time.monotonic() - began)
"""


def took(printed: str) -> float:
    return float(printed.split()[-1])


@pytest.mark.only_on("drmaa")
@row(
    fault="no qmaster at the submission",
    where="scheduler",
    expected="an error with the scheduler's words",
    bound_s=5,
)
def test_no_qmaster(tmp_path, runs) -> None:
    printed = Program(tmp_path, ONE_CALL, SGE_QMASTER_PORT="1").finish()
    assert "BackendError" in printed and "port 1" in printed
    assert "value" not in printed
    assert took(printed) < 5
    assert not left_of_runs(runs)


@pytest.mark.only_on("drmaa")
def test_no_library(tmp_path) -> None:
    hidden = {"DRMAA_LIBRARY_PATH": "/nosuch/libdrmaa.so"}
    printed = Program(tmp_path, ONE_CALL, **hidden).finish()
    assert "value True" in printed
    assert printed.count("WARNING") == 1 and "/nosuch/libdrmaa.so" in printed
    printed = Program(tmp_path, ONE_CALL, "required", **hidden).finish()
    assert "DRMAANotPresentException" in printed and "value" not in printed


@row(
    fault="SIGKILL of a job that has started a process",
    where="child",
    expected="cause died; that process ends, too",
    bound_s=20,
)
def test_no_orphans_of_a_killed_job(tmp_path) -> None:
    """A grandchild of a job that died does not outlive the run."""
    place = str(tmp_path)

    def leave_a_sleeper():
        sleeper = subprocess.Popen(["sleep", "1000"])
        Path(place, f"sleeper.{sleeper.pid}").touch()
        os.kill(os.getpid(), 9)

    with pytest.raises(JobDied):
        process_jobs([Job(leave_a_sleeper, [])])
    sleepers = [int(path.suffix[1:]) for path in tmp_path.glob("sleeper.*")]
    assert len(sleepers) == 4
    eventually(lambda: not set(processes()).intersection(sleepers), 5.0, "sleepers end")
