"""Workers that run several jobs at once, on a real scheduler."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

import gridmap
from gridmap import Job, Retry, grid_map
from tests.cluster.client import Program, eventually, queued, workers_of
from tests.cluster.scheduler import SCHEDULER


def of_each_node() -> tuple[int, int]:
    """Returns how many processors and devices a node has."""
    if SCHEDULER.kind != "slurm":
        return 4, 4
    told = subprocess.run(
        ["sinfo", "-h", "-o", "%c %G"], capture_output=True, text=True, timeout=20, check=True
    ).stdout.split()
    return int(told[0]), int(told[1].rpartition(":")[2].partition("(")[0])


CHILDREN = min(4, *of_each_node()) if SCHEDULER.present else 4
SLOTS_OF = {"drmaa": "NSLOTS", "slurm": "SLURM_CPUS_PER_TASK"}[SCHEDULER.kind]


@pytest.fixture(autouse=True)
def _runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRIDMAP_RUN_DIR", str(tmp_path / "runs"))
    monkeypatch.setenv("SEND_ERROR_MAIL", "0")


@pytest.fixture
def devices(tmp_path: Path) -> dict[str, Any]:
    """Returns the options by which each job has a device of its own.

    Grid Engine has none here: the shell that starts the worker says what a prolog would.
    """
    if SCHEDULER.kind == "slurm":
        return {"gpu": 1}
    shell = tmp_path / "shell"
    names = ",".join(map(str, range(CHILDREN)))
    shell.write_text(f'#!/bin/sh\nexport CUDA_VISIBLE_DEVICES={names}\nexec /bin/sh "$@"\n')
    shell.chmod(0o755)
    return {"interpreting_shell": str(shell)}


class Gate:
    """Jobs that wait until all may go, and tell what they saw at first."""

    def __init__(self, folder: Path) -> None:
        self.folder, place, slots = folder, str(folder), SLOTS_OF

        def job(number: int) -> tuple[Any, ...]:
            names = ("CUDA_VISIBLE_DEVICES", slots, "OMP_NUM_THREADS")
            seen = [os.environ.get(name) for name in names]
            part = Path(place, f"part.{number}")
            part.write_text(f"{os.getpid()} {os.getppid()} {seen[0]}")
            part.rename(Path(place, f"begun.{number}"))
            deadline = time.monotonic() + 60
            while not Path(place, "open").exists():
                if time.monotonic() > deadline:
                    raise TimeoutError("nobody opened the gate")
                sum(range(10_000))
                time.sleep(0.02)
            return number, *seen

        self.job = job

    def begun(self) -> dict[int, list[str]]:
        """Returns (pid, pid of its parent, device) of those that have begun, by number."""
        return {int(p.suffix[1:]): p.read_text().split() for p in self.folder.glob("begun.*")}

    def open(self) -> None:
        (self.folder / "open").touch()


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path)


def test_jobs_of_one_worker_run_at_once_each_with_its_own_device(gate, devices) -> None:
    jobs = [Job(gate.job, [n], **devices) for n in range(2 * CHILDREN)]
    with gridmap.submit(jobs, children=CHILDREN, max_workers=1) as run:
        eventually(lambda: len(gate.begun()) == CHILDREN, what="all children have a job")
        assert len(queued()) == len(workers_of(run.id)) == 1
        assert len({parent for _, parent, _ in gate.begun().values()}) == 1
        status = run.status()
        assert (status.workers_up, status.children_up) == (1, CHILDREN)
        assert status.running >= CHILDREN
        gate.open()
        values = run.results()
    assert [value[0] for value in values] == list(range(2 * CHILDREN))
    first = {device for _, _, device in map(gate.begun().get, range(CHILDREN))}
    assert first == set(map(str, range(CHILDREN))), "some had the same device"
    assert {value[2:] for value in values} == {("1", "1")}


def test_a_child_that_is_killed_takes_only_its_job(gate, devices) -> None:
    jobs = [Job(gate.job, [n], **devices) for n in range(CHILDREN)]
    with gridmap.submit(jobs, children=CHILDREN, max_workers=1) as run:
        eventually(lambda: len(gate.begun()) == CHILDREN)
        before = gate.begun()
        (gate.folder / "begun.1").unlink()
        os.kill(int(before[1][0]), signal.SIGKILL)
        eventually(lambda: 1 in gate.begun(), what="the job has begun anew")
        after = gate.begun()
        gate.open()
        values = run.results()
    assert [value[0] for value in values] == list(range(CHILDREN))
    assert [job.num_resubmits for job in jobs] == [int(n == 1) for n in range(CHILDREN)]
    assert after.pop(1)[1:] == before.pop(1)[1:], "of another worker, or with another device"
    assert after == before


def test_a_worker_that_is_killed_is_replaced_with_all_its_jobs(gate, devices) -> None:
    jobs = [Job(gate.job, [n], **devices) for n in range(2 * CHILDREN)]
    with gridmap.submit(jobs, children=CHILDREN, max_workers=1) as run:
        eventually(lambda: len(gate.begun()) == CHILDREN)
        (agent,) = workers_of(run.id)
        children = [int(pid) for pid, _, _ in gate.begun().values()]
        for path in gate.folder.glob("begun.*"):
            path.unlink()
        os.kill(agent, signal.SIGKILL)
        eventually(lambda: len(gate.begun()) == CHILDREN, 40, "another worker has its jobs")
        assert not any(Path(f"/proc/{pid}").exists() for pid in children)
        gate.open()
        values = run.results()
    assert [value[0] for value in values] == list(range(2 * CHILDREN))
    assert sum(job.num_resubmits for job in jobs) == CHILDREN


def test_many_calls_over_few_workers() -> None:
    def f(x: int) -> tuple[int, int, int]:
        return x * x, os.getpid(), os.getppid()

    values = grid_map(f, range(2000), children=CHILDREN, max_workers=1)
    assert [value for value, _, _ in values] == [x * x for x in range(2000)]
    assert len({pid for _, pid, _ in values}) <= CHILDREN
    assert len({parent for _, _, parent in values}) == 1


def test_without_reuse_each_call_has_its_own_process() -> None:
    values = grid_map(
        lambda x: (x, os.getpid()), range(20), children=CHILDREN, max_workers=1, reuse=False
    )
    assert [x for x, _ in values] == list(range(20))
    assert len({pid for _, pid in values}) == 20


PROGRAM = """
import os, sys, time
import gridmap

place, children = sys.argv[1], int(sys.argv[2])

def f(x):
    with open(os.path.join(place, "calls"), "a") as file:
        file.write(f"{x}\\n")
    time.sleep(0.05)
    return x * x, os.getpid(), os.getppid()

gridmap.grid_map(f, range(200), children=children, max_workers=1)
"""


def test_another_client_takes_over_a_worker_with_all_its_children(tmp_path, monkeypatch) -> None:
    quick = {"HEARTBEAT_FREQUENCY": "1", "MAX_TIME_BETWEEN_HEARTBEATS": "10"}
    for name, value in quick.items():
        monkeypatch.setenv(name, value)
    calls = tmp_path / "calls"
    program = Program(tmp_path, PROGRAM, str(tmp_path), str(CHILDREN))
    eventually(lambda: calls.exists() and len(calls.read_text().split()) > 40, what="40 calls")
    program.signal(signal.SIGKILL)
    program.wait(5)
    (info,) = gridmap.runs()
    with gridmap.attach(info.id) as run:
        values = run.results()
    assert [value for value, _, _ in values] == [x * x for x in range(200)]
    assert len(calls.read_text().split()) == 200, "some jobs ran twice"
    assert len({parent for _, _, parent in values}) == 1, "another worker did the rest"
    assert 1 < len({pid for _, pid, _ in values}) <= CHILDREN


def test_memory_is_that_of_each_child_and_grows_for_the_one_that_needs_more() -> None:
    """A job that needs more than its part fails alone, and is tried again with more."""

    def needs(megabytes: int) -> tuple[int, str | None, int]:
        kept = b"x" * (megabytes << 20)
        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        return len(kept) >> 20, os.environ.get("SLURM_MEM_PER_NODE"), limit >> 20

    # Grid Engine limits the address space, of which NumPy and others take much that they never use
    asked, more = {"drmaa": (600, 900), "slurm": (200, 600)}[SCHEDULER.kind]
    told = grid_map(
        needs,
        [10, more, 20],
        h_vmem=f"{asked}M",
        children=2,
        max_workers=2,
        retry=Retry(memory=4),
        retry_on=(MemoryError,),
    )
    assert [megabytes for megabytes, _, _ in told] == [10, more, 20]
    if SCHEDULER.kind == "drmaa":
        assert [limit for _, _, limit in told] == [asked, 4 * asked, asked]
    else:
        assert [int(str(of_worker)) for _, of_worker, _ in told] == [400, 800, 400]
