"""Trying again on this machine: exceptions that were named, and no others."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

import gridmap
from gridmap import Job, Retry, grid_map, process_jobs

HERE = {"local": True, "max_processes": 1}
THERE = {"local": True, "max_processes": 2}
BOTH = [HERE, THERE]


class Flaky(Exception):
    """One of our own."""


def fails(folder: Path, x: int, times: int, error: BaseException) -> int:
    """Raises so many times, then returns; each try leaves a file."""
    tries = len(list(folder.glob(f"{x}-*")))
    (folder / f"{x}-{tries}").touch()
    if tries < times:
        raise error
    return x


def tries(folder: Path, x: int) -> int:
    return len(list(folder.glob(f"{x}-*")))


@pytest.mark.parametrize("how", BOTH)
def test_an_exception_that_was_named_is_tried_again(how: dict[str, Any], tmp_path: Path) -> None:
    calls = [[tmp_path, x, x % 3, ConnectionResetError("flaky disk")] for x in range(6)]
    found = grid_map(fails, calls, retry_on=OSError, retry=Retry(backoff_s=0.01), **how)
    assert found == list(range(6))
    assert [tries(tmp_path, x) for x in range(6)] == [1, 2, 3, 1, 2, 3]


@pytest.mark.parametrize("how", BOTH)
def test_ones_own_exceptions_can_be_named(how: dict[str, Any], tmp_path: Path) -> None:
    class Local(Flaky):
        pass

    jobs = [
        Job(fails, [tmp_path, 0, 1, Flaky("one")], retry_on=(EOFError, Flaky), retry=1),
        Job(fails, [tmp_path, 1, 1, Local("two")], retry_on=[Flaky], retry=1),
        Job(fails, [tmp_path, 2, 1, Local("three")], retry_on=(Local,), retry=1),
    ]
    assert process_jobs(jobs, **how) == [0, 1, 2]
    assert [job.num_resubmits for job in jobs] == [1, 1, 1]


@pytest.mark.parametrize("retry", [None, Retry(2, causes=["died"]), Retry(2, causes=[])])
@pytest.mark.parametrize("how", BOTH)
def test_others_are_final(how: dict[str, Any], retry: Retry | None, tmp_path: Path) -> None:
    calls = [[tmp_path, 0, 9, ValueError("no")]]
    with pytest.raises(ValueError, match="no"):
        grid_map(fails, calls, retry_on=(OSError,), retry=retry, **how)
    assert tries(tmp_path, 0) == 1


@pytest.mark.parametrize("how", BOTH)
def test_the_last_exception_comes_after_so_many_tries(how: dict[str, Any], tmp_path: Path) -> None:
    job = Job(
        fails, [tmp_path, 0, 9, OSError("still")], retry_on=OSError, retry=Retry(2, backoff_s=0.01)
    )
    with pytest.raises(OSError, match="still"):
        process_jobs([job], **how)
    assert tries(tmp_path, 0) == 3 and (job.num_resubmits, job.cause_of_death) == (2, "exception")


@pytest.mark.parametrize("retry", [0, Retry(2, causes=[])])
def test_no_retry_of_a_death_where_the_user_wants_none(retry: Any, tmp_path: Path) -> None:
    import os

    def dies(folder: Path) -> None:
        fails(folder, 0, 0, OSError())
        os._exit(3)

    with pytest.raises(gridmap.JobDied, match="after 1 attempt"):
        grid_map(dies, [tmp_path], retry=retry, **THERE)
    assert tries(tmp_path, 0) == 1


def test_pauses_double(tmp_path: Path) -> None:
    retry = Retry(3, backoff_s=0.1, backoff_most_s=0.2)
    began = time.monotonic()
    grid_map(fails, [[tmp_path, 0, 3, OSError()]], retry_on=OSError, retry=retry, **HERE)
    assert 0.5 <= time.monotonic() - began < 5


def test_a_memory_error_stays_what_it_is_and_says_what_to_do() -> None:
    def needs(n: int) -> bytes:
        return bytes(n)

    with pytest.raises(MemoryError) as caught:
        grid_map(needs, [1 << 60], **THERE)
    notes = getattr(caught.value, "__notes__", ["ask for more memory"])  # Python 3.10 has none
    assert "ask for more memory" in notes[-1]


def test_an_exception_that_cannot_travel_is_named_at_once() -> None:
    class Holder(Exception):
        lock = threading.Lock()

    with pytest.raises(gridmap.PicklingError, match=r"retry_on \(.*Holder\)"):
        grid_map(abs, [1], retry_on=Holder, **THERE)
