"""Rows of the fault matrix that need one host: what jobs do to their process, queues, mails."""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

import gridmap
from gridmap import Job, process_jobs
from gridmap.errors import JobException
from tests.cluster.client import SLOTS, eventually, make_gate, processes, queued
from tests.cluster.scheduler import SCHEDULER
from tests.rows import Stopwatch, row

GOOD = 20


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns the folder of the run directories."""
    folder = tmp_path / "runs"
    monkeypatch.setenv("GRIDMAP_RUN_DIR", str(folder))
    monkeypatch.setenv("GRIDMAP_MAX_WORKERS", str(SLOTS))
    monkeypatch.setenv("NUM_RESUBMITS", "0")
    return folder


@pytest.fixture(autouse=True)
def no_process_left(cluster: None) -> Any:
    known = set(processes())
    yield
    eventually(lambda: not set(processes()) - known, 10, "no process is left")


def among_good_ones(bad: Callable[[], Any], **needs: Any) -> Any:
    """Runs a job among others, whose values must come; returns its value or its exception."""
    jobs = [Job(lambda n: n, [n], **needs) for n in range(GOOD)]
    jobs.insert(GOOD // 2, Job(bad, [], name="bad", **needs))
    results = process_jobs(jobs, max_workers=2, on_error="return")
    result = results.pop(GOOD // 2)
    assert results == list(range(GOOD))
    return result


# --- what a job does to its process ---------------------------------------------------------------


@row(fault="stack overflow in C", where="child", expected="cause died: SIGSEGV", bound_s=10)
def test_stack_overflow() -> None:
    def overflow() -> None:
        import sys
        import threading

        class Deep:
            def __repr__(self) -> str:
                return repr(self)

        sys.setrecursionlimit(1 << 30)
        threading.stack_size(1 << 16)  # Grid Engine's jobs have as much stack as there is memory
        thread = threading.Thread(target=lambda: repr(Deep()))
        thread.start()
        thread.join()
        os.kill(os.getpid(), signal.SIGSEGV)  # a Python that guards its stack raises instead

    error = among_good_ones(overflow)
    assert isinstance(error, JobException) and error.cause == "died"
    assert error.signal == signal.SIGSEGV


@row(
    fault="grows beyond h_vmem, bit by bit",
    where="child",
    expected="its MemoryError, or, where it was killed, cause memory",
    bound_s=30,
    speed="slow",
)
def test_out_of_memory() -> None:
    def swell() -> int:
        kept = []
        while True:
            kept.append(bytearray(50_000_000))

    error = among_good_ones(swell, h_vmem="2G")
    killed = getattr(error, "cause", None) == "memory"  # Python may not get as far as to say it
    assert killed or isinstance(error, MemoryError), repr(error)


@row(
    fault="endless loop in C that holds the GIL, until h_rt (4 s)",
    where="child",
    expected="cause walltime; the others' values",
    bound_s=30,
    speed="slow",
)
def test_endless_loop_in_c() -> None:
    def search() -> None:
        import re

        re.match(r"(a+)+$", "a" * 60 + "b")

    error = among_good_ones(search, h_rt=4)
    assert getattr(error, "cause", None) == "walltime", repr(error)


@row(
    fault="endless loop in C that holds the GIL, until the run is canceled",
    where="child",
    expected="cause canceled",
    bound_s=3,
)
def test_endless_loop_is_canceled(tmp_path: Path, stopwatch: Stopwatch) -> None:
    begun = str(tmp_path / "begun")

    def search() -> None:
        import re

        Path(begun).touch()
        re.match(r"(a+)+$", "a" * 60 + "b")

    with gridmap.submit([Job(search, [])], on_error="return") as run:
        eventually(lambda: Path(begun).exists(), what="the job begins")
        stopwatch.start()
        run.cancel()
        (error,) = run.results()
        eventually(lambda: not queued(), what="the worker leaves")
        stopwatch.stop()
    assert error.cause == "canceled"


@row(
    fault="fork bomb: 100 processes in sessions of their own",
    where="child",
    expected="its value; no process is left",
    bound_s=15,
)
def test_fork_bomb(tmp_path: Path) -> None:
    place = str(tmp_path)

    def bomb() -> int:
        for _ in range(100):
            if os.fork() == 0:
                os.setsid()
                Path(place, f"forked.{os.getpid()}").touch()
                time.sleep(1000)
                os._exit(0)
        return 100

    assert among_good_ones(bomb) == 100
    forked = [int(path.suffix[1:]) for path in tmp_path.glob("forked.*")]
    eventually(lambda: not set(forked) & set(processes()), 10, "the forked end")


@row(
    fault="closes all file descriptors",
    where="child",
    expected="cause died; the others' values",
    bound_s=10,
)
def test_closes_all_descriptors() -> None:
    error = among_good_ones(lambda: os.closerange(0, 4096))
    assert isinstance(error, JobException) and error.cause == "died", repr(error)


@row(
    fault="writes to its output without end, until the run is canceled",
    where="child",
    expected="cause canceled; no output is left, and the client's memory does not grow",
    bound_s=5,
)
def test_endless_output(tmp_path: Path, runs: Path, stopwatch: Stopwatch) -> None:
    def chatter() -> None:
        while True:
            os.write(1, b"x" * 65_536)
            time.sleep(0.0005)  # the disk is not ours alone

    def written() -> int:
        return sum(path.stat().st_size for path in runs.rglob("logs/*"))

    before = psutil.Process().memory_info().rss
    with gridmap.submit([Job(chatter, [])], on_error="return") as run:
        eventually(lambda: written() > 50_000_000, what="50 MB of output")
        stopwatch.start()
        run.cancel()
        (error,) = run.results()
        eventually(lambda: not queued(), what="the worker leaves")
        stopwatch.stop()
    assert error.cause == "canceled"
    assert psutil.Process().memory_info().rss - before < 50_000_000
    eventually(lambda: written() == 0, what="the output is removed")


@row(
    fault="a result that cannot be pickled",
    where="child",
    expected="cause unpicklable",
    bound_s=10,
)
def test_unpicklable_result() -> None:
    error = among_good_ones(lambda: (n for n in range(3)))
    assert isinstance(error, JobException) and error.cause == "unpicklable"
    assert "generator" in str(error)


@row(
    fault="an exception that cannot be pickled",
    where="child",
    expected="cause exception, with its text",
    bound_s=10,
)
def test_unpicklable_exception() -> None:
    def fail() -> None:
        error = ValueError("cannot travel")
        error.baggage = (n for n in range(3))  # type: ignore[attr-defined]
        raise error

    error = among_good_ones(fail)
    assert getattr(error, "cause", None) == "exception", repr(error)
    assert "cannot travel" in str(error)


@pytest.mark.only_on("drmaa")  # the other's test nodes have less memory than this takes
@row(
    fault="a result of nearly 2 GiB",
    where="child",
    expected="its value",
    bound_s=120,
    speed="slow",
)
def test_result_of_nearly_2_gib() -> None:
    size = 2 * 1024**3 - 1024**2
    value = among_good_ones(make_large(size))
    assert isinstance(value, bytes), repr(value)
    assert len(value) == size and value[-1:] == b"z"


@pytest.mark.only_on("drmaa")
@row(
    fault="a result of more than 2 GiB",
    where="child",
    expected="cause unpicklable, with the limit",
    bound_s=120,
    speed="slow",
)
def test_result_of_more_than_2_gib() -> None:
    error = among_good_ones(make_large(2 * 1024**3 + 1024**2))
    assert isinstance(error, JobException) and error.cause == "unpicklable", repr(error)[:200]
    assert "2147483648 are allowed" in str(error)


def make_large(size: int) -> Callable[[], bytes]:
    if psutil.virtual_memory().available < 16 * 1024**3:
        pytest.skip("needs 16 GiB of memory")
    return lambda: b"z" * size


# --- the scheduler --------------------------------------------------------------------------------


@row(
    fault="the waiting workers are held, and released",
    where="scheduler",
    expected="it is waited; every value",
    bound_s=15,
    speed="slow",
)
def test_held(tmp_path: Path, caplog: pytest.LogCaptureFixture, stopwatch: Stopwatch) -> None:
    caplog.set_level(logging.INFO, "gridmap")
    wait, begun, gate = make_gate(tmp_path)
    with gridmap.submit([Job(wait, [n]) for n in range(SLOTS)], max_workers=SLOTS) as first:
        eventually(lambda: len(begun()) == SLOTS)
        with gridmap.submit([Job(wait, [n]) for n in (10, 11)], max_workers=2) as second:
            eventually(lambda: any(task.waits for task in queued()), what="the second waits")
            ids = {task.array for task in queued() if task.waits}
            assert len(ids) == 1
            stopwatch.start()
            SCHEDULER.hold(*ids)
            gate.touch()
            assert first.results() == [n * n for n in range(SLOTS)]
            eventually(lambda: "0 workers up, 2 pending" in caplog.text, what="it is said")
            assert not second.wait(3)
            SCHEDULER.release(*ids)
            assert second.results() == [100, 121]
            stopwatch.stop()


@pytest.mark.only_on("drmaa")
@row(
    fault="s_rt (3 s) is exceeded, again and again",
    where="scheduler",
    expected="each worker ends its call and takes no other; every value, no call is charged",
    bound_s=30,
    speed="slow",
)
def test_soft_time_limit(tmp_path: Path) -> None:
    place = str(tmp_path)

    def spin(number: int) -> int:
        with open(os.path.join(place, "calls"), "a") as file:
            file.write(f"{number}\n")
        end = time.monotonic() + 1
        while time.monotonic() < end:
            pass
        return number

    jobs = [Job(spin, [n], resources=["s_rt=3"]) for n in range(8)]
    assert process_jobs(jobs, max_workers=1, on_error="return") == list(range(8))
    assert len({job.id for job in jobs}) > 1, "one worker did it all"
    assert {job.num_resubmits for job in jobs} == {0}
    assert len((tmp_path / "calls").read_text().split()) == 8


# --- mails ----------------------------------------------------------------------------------------


def one_failure_mailed(port: int, monkeypatch: pytest.MonkeyPatch, watch: Stopwatch) -> None:
    monkeypatch.setenv("SEND_ERROR_MAIL", "1")
    monkeypatch.setenv("SMTP_SERVER", f"127.0.0.1:{port}")
    monkeypatch.setenv("ERROR_MAIL_RECIPIENT", "nobody@localhost")
    watch.start()
    error = among_good_ones(lambda: os._exit(3))
    watch.stop()
    assert isinstance(error, JobException) and error.cause == "died"


@row(
    fault="the mail server refuses",
    where="network",
    expected="a line in the log; cause and values as ever",
    bound_s=10,
)
def test_mail_server_refuses(monkeypatch, caplog, stopwatch: Stopwatch) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # and nobody listens
        one_failure_mailed(bound.getsockname()[1], monkeypatch, stopwatch)
    assert "mail" in caplog.text


@row(
    fault="the mail server accepts and says nothing",
    where="network",
    expected="cause and values as ever",
    bound_s=15,
)
def test_mail_server_hangs(monkeypatch, stopwatch: Stopwatch) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        one_failure_mailed(silent.getsockname()[1], monkeypatch, stopwatch)
