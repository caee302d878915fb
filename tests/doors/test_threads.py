"""Threads of numerical libraries in processes of this machine, by NumPy's own word."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from gridmap import Job, grid_map, process_jobs
from gridmap.node.devices import THREADS

CPUS = len(os.sched_getaffinity(0))

pytestmark = [
    pytest.mark.skipif(CPUS < 2, reason="any library starts one thread here"),
]


@pytest.fixture(autouse=True)
def _nobody_has_said_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in THREADS:
        monkeypatch.delenv(name, raising=False)


def found(_: int) -> tuple[set[int], str | None]:
    """Returns how many threads NumPy's library may start, and what the environment says."""
    import numpy

    from gridmap.node import threads

    numpy.ones((2, 2)) @ numpy.ones((2, 2))
    return set(threads.counts().values()), os.environ.get("OMP_NUM_THREADS")


@pytest.mark.parametrize("method", ["fork", "launch"])
def test_processes_share_the_processors(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    pytest.importorskip("numpy")  # with "fork" it is loaded there, too
    monkeypatch.setenv("GRIDMAP_START_METHOD", method)
    told = grid_map(found, range(8), local=True, max_processes=2 * CPUS)
    assert told == [({1}, "1")] * 8
    told = grid_map(found, range(8), local=True, max_processes=2)
    assert told == [({CPUS // 2}, str(CPUS // 2))] * 8


@pytest.mark.parametrize("method", ["fork", "launch"])
def test_what_the_user_says_counts(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    pytest.importorskip("numpy")
    monkeypatch.setenv("GRIDMAP_START_METHOD", method)
    jobs = [Job(found, [n], add_env={"OMP_NUM_THREADS": "3"}) for n in range(3)]
    told = process_jobs(jobs, local=True, max_processes=2)
    assert {environment for _, environment in told} == {"3"}
    if method == "launch":  # a library that the program had loaded has read its environment
        assert {count for counts, _ in told for count in counts} <= {min(3, CPUS), 3}


def test_one_process_has_all_processors() -> None:
    assert grid_map(found, [1], local=True)[0][1] is None
    assert grid_map(found, [1, 2], local=True, reuse=False)[0][1] is None
    # of so many processes only one is needed
    assert grid_map(found, [1], local=True, max_processes=8)[0][1] is None


def test_a_program_that_limits_its_threads_by_itself_keeps_its_limit() -> None:
    """A library that starts fewer already is not told to start more."""
    text = """
import os, sys
import numpy
import threadpoolctl
from gridmap import grid_map
from gridmap.node import threads

threadpoolctl.threadpool_limits(1)

def counts(_):
    return sorted(set(threads.counts().values()))

os.sched_getaffinity = lambda pid: set(range(64))
print(grid_map(counts, [1, 2], local=True, max_processes=2))
"""
    environment: dict[str, Any] = {k: v for k, v in os.environ.items() if k not in THREADS}
    done = subprocess.run(
        [sys.executable, "-c", text], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "[[1], [1]]\n", done.stderr
