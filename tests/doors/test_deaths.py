"""A process that dies takes its job with it, and nothing else."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import gridmap
from gridmap import Cause, Job, JobDied, JobUnpicklable, grid_map, process_jobs
from tests.doors.functions import (
    aborts,
    exits,
    fails,
    forget_cloudpickle,
    killed,
    leak,
    leaves,
    leaves_with_text,
    overflows,
    refuse,
    segfaults,
)

THERE = {"local": True, "max_processes": 3}


DEATHS = {
    segfaults: (signal.SIGSEGV, None, "SIGSEGV"),
    exits: (None, 3, "3"),
    killed: (signal.SIGKILL, None, "SIGKILL"),
    leaves: (None, 4, r"sys.exit\(4\)"),
    leaves_with_text: (None, 1, "I am off"),
    aborts: (signal.SIGABRT, None, "SIGABRT"),
    overflows: (signal.SIGSEGV, None, "SIGSEGV"),
}


@pytest.mark.parametrize("resubmits", [0, 2])
def test_each_is_named_and_the_others_live(resubmits: int, tmp_path: Path) -> None:
    gridmap.NUM_RESUBMITS = resubmits

    def counted(number: int, function: Any) -> None:
        with (tmp_path / str(number)).open("a") as file:
            file.write("x")
        function()

    jobs = []
    for number, function in enumerate(DEATHS):
        jobs.append(Job(counted, [number, function], name=f"bad {number}"))
        jobs += [Job(abs, [-i]) for i in range(5)]
    jobs.append(Job(fails, []))
    values = process_jobs(jobs, on_error="return", **THERE)
    for number, (signum, status, text) in enumerate(DEATHS.values()):
        error = values[6 * number]
        assert type(error) is JobDied and error.cause is Cause.DIED
        assert (error.signal, error.exit_status) == (signum, status)
        assert error.attempts == resubmits + 1
        assert (tmp_path / str(number)).read_text() == "x" * (resubmits + 1)
        assert (error.job, error.name) == (6 * number, f"bad_{number}")
        assert jobs[6 * number].num_resubmits == resubmits
        assert jobs[6 * number].cause_of_death == "died"
        assert error.host == jobs[6 * number].host_name
        with pytest.raises(JobDied, match=text):
            raise error
        assert values[6 * number + 1 : 6 * number + 6] == list(range(5))
    assert isinstance(values[-1], ValueError)


def test_one_death_in_a_long_map() -> None:
    gridmap.NUM_RESUBMITS = 1
    values = grid_map(
        lambda x: os._exit(7) if x == 7000 else x, range(20_000), on_error="return", **THERE
    )
    assert isinstance(values[7000], JobDied) and values[7000].job == 7000
    assert values[7000].attempts == 2
    assert values[:7000] == list(range(7000)) and values[7001:] == list(range(7001, 20_000))


def test_a_death_is_raised() -> None:
    with pytest.raises(JobDied, match=r"gridmap_job1.*exited with.* 3") as caught:
        grid_map(lambda x: os._exit(3) if x else x, range(3), on_error="finish", **THERE)
    assert caught.value.attempts == gridmap.NUM_RESUBMITS + 1


def test_a_process_for_each_job() -> None:
    pids = grid_map(lambda x: os.getpid(), range(20), reuse=False, **THERE)
    assert len(set(pids)) == 20 and os.getpid() not in pids
    one = {"local": True, "max_processes": 1, "reuse": False}
    assert os.getpid() not in grid_map(lambda x: os.getpid(), range(3), **one)


def test_an_unguarded_value_error_is_no_death() -> None:
    (error,) = process_jobs([Job(fails, [])], on_error="return", **THERE)
    assert isinstance(error, ValueError)
    assert isinstance(error.__cause__, gridmap.RemoteTraceback)


@pytest.mark.parametrize("spoil", [leak, forget_cloudpickle])
def test_a_process_that_a_job_spoiled_does_not_spoil_the_others(spoil: Callable[[], str]) -> None:
    def number(i: int) -> Callable[[], int]:
        return lambda: i

    jobs = [Job(spoil, []), *(Job(number(i), []) for i in range(30))]
    values = process_jobs(jobs, on_error="return", local=True, max_processes=2)
    assert values[1:] == list(range(30))


def test_a_function_that_no_process_can_load_fails_alone() -> None:
    class Unloadable:
        def __reduce__(self) -> tuple[Any, ...]:
            return refuse, ()

        def __call__(self) -> None:
            """Never called."""

    jobs = [Job(Unloadable() if i % 2 else int, []) for i in range(12)]
    values = process_jobs(jobs, on_error="return", local=True, max_processes=2)
    assert values[::2] == [0] * 6
    assert all(isinstance(value, JobUnpicklable) for value in values[1::2])


def test_a_value_that_exits_when_it_is_read_is_a_failure() -> None:
    class Exits:
        def __reduce__(self) -> tuple[Any, ...]:
            return sys.exit, (3,)

    jobs = [Job(Exits, []), Job(abs, [-3])]
    one, two = process_jobs(jobs, on_error="return", local=True, max_processes=2)
    assert isinstance(one, JobUnpicklable) and "SystemExit" in str(one) and two == 3
