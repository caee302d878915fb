"""submit and what it returns."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import gridmap
from gridmap import Job, JobCanceled, grid_map, submit
from tests.doors.clients import until
from tests.doors.functions import identity, waits

THERE = {"local": True, "max_processes": 2}
BOTH = [{"local": True, "max_processes": 1}, THERE]


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterator[None]:
    yield
    gc.collect()
    until(lambda: not [t for t in threading.enumerate() if "gridmap" in t.name], "threads gone")
    until(lambda: not psutil.Process().children(recursive=True), "no process is left")


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    return tmp_path / "gate"


@pytest.mark.parametrize("how", BOTH)
def test_it_returns_at_once_and_tells_how_it_goes(how: dict[str, Any], gate: Path) -> None:
    jobs = [Job(waits, [gate, i]) for i in range(7)]
    with submit(jobs, **how) as run:
        assert run.jobs == jobs and len(run) == 7 and run.id
        assert all(job.home_address == run.id for job in jobs)
        assert not run.wait(0) and not run.wait(0.01)
        status = until(lambda: (s := run.status()).running and s, "some run")
        assert status.total == 7 and not status.ended
        assert (status.completed, status.failed, status.canceled) == (0, 0, 0)
        assert status.running + status.queued == 7
        assert status.workers_up == 1
        gate.touch()
        assert run.wait(10)
        assert [job.ret for job in jobs] == list(range(7))
        assert run.results() == list(range(7))
        assert run.results() == list(range(7))
        status = run.status()
        assert (status.total, status.completed, status.ended) == (7, 7, True)
    assert run.results() == list(range(7))
    assert run.wait()


def test_results_may_be_changed_by_their_receiver() -> None:
    run = submit([Job(identity, [1])], **THERE)
    run.results().clear()
    assert run.results() == [1]


def test_what_happened_to_a_job_is_noted_while_somebody_waits() -> None:
    job = Job(identity, [1])
    with submit([job], **THERE) as run:
        until(lambda: run.status().completed, "it is done")
        assert job.ret is None
        assert run.wait(10)
        assert job.ret == 1


def test_when_wait_says_so_every_job_knows_what_happened_to_it() -> None:
    jobs = [Job(identity, [i]) for i in range(200)]
    run = submit(jobs, **THERE)
    while not run.wait(0):
        pass
    assert [job.ret for job in jobs] == list(range(200))


def test_status_counts_failures() -> None:
    run = submit([Job(int, [x]) for x in ("1", "x", "y")], on_error="return", **THERE)
    assert run.wait(10)
    status = run.status()
    assert (status.completed, status.failed, status.canceled, status.ended) == (1, 2, 0, True)
    assert [type(x) for x in run.results()] == [int, ValueError, ValueError]


def test_the_same_failure_each_time() -> None:
    run = submit([Job(int, ["x"])], **THERE)
    assert run.wait(10)
    for _ in range(2):
        with pytest.raises(ValueError):
            run.results()


@pytest.mark.parametrize("on_error", ["raise", "finish", "return"])
def test_cancel(gate: Path, on_error: str) -> None:
    jobs = [Job(waits, [gate, i]) for i in range(5)]
    run = submit(jobs, on_error=on_error, **THERE)
    until(lambda: run.status().running, "some run")
    begun = time.monotonic()
    run.cancel()
    run.cancel()
    assert run.wait(5)
    if on_error == "return":
        assert [type(x) for x in run.results()] == [JobCanceled] * 5
    else:
        with pytest.raises(JobCanceled, match="canceled"):
            run.results()
    assert time.monotonic() - begun < 2
    status = run.status()
    assert (status.canceled, status.running, status.queued, status.ended) == (5, 0, 0, True)
    assert [job.cause_of_death for job in jobs] == ["canceled"] * 5
    run.cancel()


def test_cancel_keeps_what_was_done(gate: Path) -> None:
    run = submit([Job(identity, [1]), Job(waits, [gate, 2])], on_error="return", **THERE)
    until(lambda: run.status().completed == 1, "one is done")
    run.cancel()
    values = run.results()
    assert values[0] == 1 and isinstance(values[1], JobCanceled)


def test_an_error_in_the_block_ends_the_run(gate: Path) -> None:
    with pytest.raises(LookupError), submit([Job(waits, [gate, 1])], **THERE) as run:
        until(lambda: run.status().running, "it runs")
        raise LookupError
    assert run.status().ended
    with pytest.raises(JobCanceled):
        run.results()


def test_other_threads_may_have_the_results(gate: Path) -> None:
    run = submit([Job(waits, [gate, i]) for i in range(20)], **THERE)
    got: list[Any] = []
    threads = [threading.Thread(target=lambda: got.append(run.results())) for _ in range(4)]
    threads += [threading.Thread(target=lambda: got.append(run.wait(20))) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert not run.wait(0.05)
    gate.touch()
    for thread in threads:
        thread.join(20)
    assert sorted(got, key=str) == [True, True, *[list(range(20))] * 4] or (
        got.count(True) == 2 and got.count(list(range(20))) == 4
    )


def test_a_run_that_nobody_has_any_more_ends(gate: Path) -> None:
    runs = [submit([Job(waits, [gate, 1])], **THERE)]
    until(lambda: runs[0].status().running, "it runs")
    runs.clear()
    gc.collect()
    until(lambda: not psutil.Process().children(), "no child is left", 3)


def test_a_large_input_that_breaks_halfway_leaves_nothing() -> None:
    def broken() -> Iterator[bytes]:
        for _ in range(12):
            yield os.urandom(8 << 20)
        raise LookupError("the input broke")

    with pytest.raises(LookupError, match="the input broke"):
        grid_map(len, broken(), **THERE)
    assert not [t for t in threading.enumerate() if "gridmap" in t.name]


def test_twenty_runs_leave_no_descriptor_and_no_thread() -> None:
    def used() -> int:
        gc.collect()
        return len(os.listdir("/proc/self/fd"))

    grid_map(identity, range(10), **THERE)
    before, threads = used(), threading.active_count()
    for i in range(20):
        if i % 4 == 0:
            next(gridmap.grid_imap(identity, iter(range(100)), **THERE))
        elif i % 4 == 1:
            submit([Job(identity, [1])], **THERE).close()
        else:
            grid_map(identity, range(10), **THERE)
        assert threading.active_count() == threads
    assert used() <= before
