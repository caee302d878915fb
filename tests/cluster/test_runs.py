"""Whole runs on a real scheduler that end well."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import pytest

import gridmap
from gridmap import Job, grid_map, process_jobs
from gridmap.errors import GridMapError, JobCanceled
from tests.cluster.client import (
    SLOTS,
    Program,
    eventually,
    make_gate,
    queued,
    workers_of,
)
from tests.cluster.scheduler import SCHEDULER
from tests.left import left_of_runs

HOST = os.uname().nodename
SLOTS_OF = {"drmaa": "NSLOTS", "slurm": "SLURM_CPUS_PER_TASK"}[SCHEDULER.kind]
QUEUE_OF = {"drmaa": "QUEUE", "slurm": "SLURM_JOB_PARTITION"}[SCHEDULER.kind]
QUEUE = {"drmaa": "all.q", "slurm": "main"}[SCHEDULER.kind]


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns the folder of the run directories."""
    folder = tmp_path / "runs"
    monkeypatch.setenv("GRIDMAP_RUN_DIR", str(folder))
    monkeypatch.setenv("GRIDMAP_MAX_WORKERS", str(SLOTS))
    return folder


@pytest.mark.endings
def test_jobs_of_all_kinds(tmp_path, monkeypatch, runs) -> None:
    numpy = pytest.importorskip("numpy")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OF_THE_CLIENT", "a=b=c\nd")
    monkeypatch.setenv("BOTH", "client")
    long = "z=" * 10_000

    def array(size):
        import numpy

        return numpy.arange(size)

    def environment(*names):
        return [os.environ.get(name) for name in names]

    def power(base, exponent=2):
        return base**exponent

    names = ["OF_THE_CLIENT", "BOTH", "LONG"]
    jobs = [
        Job(array, [5]),
        Job(power, [3]),
        Job(power, [3], {"exponent": 3}),
        Job(power, [], {"base": 2, "exponent": 10}),
        Job(os.getcwd, []),
        Job(environment, names, add_env={"BOTH": "added", "LONG": long}),
        Job(environment, names, copy_env=False),
        Job(lambda: ValueError("a value"), []),
        Job(lambda: None, []),
    ]
    results = process_jobs(jobs)
    assert isinstance(results[0], numpy.ndarray) and results[0].tolist() == [0, 1, 2, 3, 4]
    assert results[1:5] == [9, 27, 1024, str(tmp_path)]
    assert results[5] == ["a=b=c\nd", "added", long]
    assert results[6] == [None, None, None]
    assert isinstance(results[7], ValueError) and results[7].args == ("a value",)
    assert results[8] is None
    assert [job.ret for job in jobs[1:]] == results[1:]
    assert {job.host_name for job in jobs} == {HOST}
    assert {job.num_resubmits for job in jobs} == {0}
    assert not left_of_runs(runs)


SCRIPT = """
import dataclasses, functools, json
import gridmap
import beside

@dataclasses.dataclass
class Point:
    x: int

    def double(self):
        return Point(2 * self.x)

OFFSET = 100

def shift(n):
    return n + OFFSET

def closure(k):
    def times(n):
        return k * shift(n)
    return times

if __name__ == "__main__":
    run = functools.partial(gridmap.grid_map, max_workers=2)
    with_closure = run(closure(3), range(5))
    points = run(Point.double, [Point(1), Point(2)])
    assert all(type(point) is Point for point in points), points
    mixed = gridmap.process_jobs([
        gridmap.Job(lambda *a: list(a), [1, 2]),
        gridmap.Job(beside.helper, ["x"]),
    ])
    as_list, as_tuple = run(lambda *a: len(a), [[1, 2, 3], (1, 2, 3)])
    print(json.dumps([with_closure, [p.x for p in points], mixed, as_list, as_tuple]))
"""


def test_functions_of_a_script_and_the_module_beside_it(tmp_path) -> None:
    (tmp_path / "beside.py").write_text("def helper(x):\n    return x + ' of a module'\n")
    printed = Program(tmp_path, SCRIPT).finish()
    assert json.loads(printed.splitlines()[-1]) == [
        [300, 303, 306, 309, 312], [2, 4], [[1, 2], "x of a module"], 3, 1,
    ]  # fmt: skip


def test_a_thousand_calls_over_four_slots(record_property) -> None:
    def now(number):
        return number, time.time()

    began = time.time()
    results = grid_map(now, range(1000), max_workers=SLOTS)
    ended = time.time()
    assert [number for number, _ in results] == list(range(1000))
    first = min(at for _, at in results)
    last = max(at for _, at in results)
    print(
        f"1,000 calls, {SLOTS} slots: first call after {first - began:.2f} s, the last one "
        f"{last - first:.2f} s later, results {ended - first:.2f} s after the first call"
    )
    record_property("seconds", ended - first)
    assert ended - first < 10


def test_max_workers_and_one_process_a_call(tmp_path) -> None:
    def who(_):
        time.sleep(0.02)
        return os.getpid()

    jobs = [Job(who, [n]) for n in range(24)]
    process_jobs(jobs, max_workers=2)
    assert len({job.id for job in jobs}) == 2
    assert len({job.ret for job in jobs}) == 2

    pids = grid_map(who, range(24), max_workers=2, reuse=False)
    assert len(set(pids)) == 24


def test_jobs_with_different_needs_share_a_run() -> None:
    def needs():
        return os.environ.get(slots, "1"), os.environ.get(queue)

    slots, queue = SLOTS_OF, QUEUE_OF

    jobs = [
        Job(needs, [], h_rt="0:1:0", copy_env=False),
        Job(needs, [], num_slots=2, par_env="smp", queue=QUEUE, copy_env=False),
        Job(needs, [], interpreting_shell="/bin/bash", name="1 odd/name", copy_env=False),
        Job(needs, [], h_rt="0:1:0", copy_env=False),
    ]
    one = SCHEDULER.backend == "slurm_commands"  # it has no words for several
    results = process_jobs(jobs, white_list=SCHEDULER.hosts[: 1 if one else None])
    assert [result[0] for result in results] == ["1", "2", "1", "1"]
    assert {result[1] for result in results} == {QUEUE}
    arrays = [SCHEDULER.array(job.id) for job in jobs]
    assert len(set(arrays)) == 3 and arrays[0] == arrays[3]


def test_more_is_asked_than_there_are_slots(tmp_path, runs, caplog) -> None:
    """One run that is looked at from all sides, another that waits for it; both are canceled."""
    caplog.set_level(logging.INFO, "gridmap")
    wait, begun, _ = make_gate(tmp_path)
    jobs = [Job(wait, [n], name="a name") for n in range(SLOTS + 2)]
    with gridmap.submit(jobs, max_workers=SLOTS + 2) as run:
        eventually(lambda: len(begun()) == SLOTS)
        status = eventually(lambda: (s := run.status()).workers_up == SLOTS and s)
        assert (status.workers_pending, status.running, status.total) == (2, SLOTS, SLOTS + 2)
        assert not status.ended and not run.wait(0)
        assert {task.name for task in queued()} == {f"a_name-{run.id}"}
        _nothing_secret(runs / run.id)

        with gridmap.submit([Job(wait, [n]) for n in (100, 101)]) as second:
            eventually(lambda: "0 workers up, 2 pending" in caplog.text)
            status = second.status()
            assert (status.workers_up, status.workers_pending, status.queued) == (0, 2, 2)
        eventually(lambda: len(queued()) == SLOTS + 2, 2.0)

        began = time.monotonic()
        run.cancel()
        with pytest.raises(JobCanceled):
            run.results()
        eventually(lambda: not queued(), 2.0)
        assert time.monotonic() - began < 2
    assert run.status().canceled == SLOTS + 2
    assert not workers_of(run.id)
    assert not left_of_runs(runs)


def test_a_run_tells_how_far_it_is(tmp_path) -> None:
    wait, begun, gate = make_gate(tmp_path)
    heard = []

    def hear(status) -> None:
        heard.append(status)
        if status.workers_up == SLOTS and len(begun()) == SLOTS and status.workers_pending:
            gate.touch()

    workers = SLOTS + 2
    values = grid_map(wait, range(workers), queue=QUEUE, max_workers=workers, progress=hear)
    assert values == [n * n for n in range(workers)]
    during = next(s for s in heard if s.workers_up == SLOTS and s.workers_pending)
    assert during.queues == {QUEUE: 2} and during.workers_pending == 2
    assert during.running == SLOTS and during.left_s is None
    last = heard[-1]
    assert last.ended and last.completed == workers and last.resubmitted == last.died == 0
    assert last.busy_s > 0 and last.peak_rss_bytes > 1 << 20 and last.left_s == 0.0


def _nothing_secret(directory: Path) -> None:
    connection = directory / "connection.json"
    assert directory.stat().st_mode & 0o777 == 0o700
    assert (directory / "logs").stat().st_mode & 0o777 == 0o700
    assert connection.stat().st_mode & 0o777 == 0o600
    content = json.loads(connection.read_text())
    secrets = [content["worker_secret"], content["server_public"], content["worker_public"]]
    told = {
        "record": SCHEDULER.record(queued()[0].array),
        "ps": subprocess.run(["ps", "axeww"], capture_output=True, text=True, timeout=20).stdout,
    }
    assert directory.name in told["record"] and directory.name in told["ps"]
    for log in (directory / "logs").iterdir():
        told[log.name] = log.read_text()
    assert len(told) == 2 + 2 * SLOTS
    for name, text in told.items():
        assert not [secret for secret in secrets if secret in text], name


def test_a_module_that_the_node_lacks(monkeypatch) -> None:
    module = types.ModuleType("only_here")
    exec("def f(x):\n    return x", module.__dict__)
    monkeypatch.setitem(sys.modules, "only_here", module)
    began = time.monotonic()
    with pytest.raises(Exception, match="only_here") as caught:
        grid_map(module.f, [1, 2, 3])
    assert time.monotonic() - began < 5
    assert isinstance(caught.value, (GridMapError, ImportError))
    eventually(lambda: not queued(), 2.0)


def test_four_runs_at_once_from_threads() -> None:
    results: dict[int, object] = {}

    def one(k: int) -> None:
        try:
            results[k] = grid_map(lambda n: k * n, range(50), max_workers=1)
        except Exception as error:
            results[k] = error

    threads = [threading.Thread(target=one, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert results == {k: [k * n for n in range(50)] for k in range(4)}


def test_a_local_map_inside_a_cluster_job() -> None:
    def inner(processes):
        import gridmap

        def square(n):
            return n * n

        return gridmap.grid_map(square, range(6), local=True, max_processes=processes)

    assert grid_map(inner, [1, 2], max_workers=2) == [[0, 1, 4, 9, 16, 25]] * 2


def test_a_cluster_map_inside_a_cluster_job() -> None:
    def outer(k):
        import gridmap

        return gridmap.grid_map(lambda n: k * n, range(4), max_workers=2, require_cluster=True)

    assert grid_map(outer, [2], max_workers=1) == [[0, 2, 4, 6]]


def test_imap(runs) -> None:
    taken = []

    def endless():
        number = 0
        while True:
            taken.append(number)
            yield number
            number += 1

    def negate(n):
        return -n

    stream = gridmap.grid_imap(negate, endless(), window=100, max_workers=2)
    assert [next(stream) for _ in range(300)] == [-n for n in range(300)]
    assert len(taken) <= 300 + 2 * 100
    began = time.monotonic()
    stream.close()
    assert time.monotonic() - began < 2
    eventually(lambda: not queued(), 2.0)
    assert not left_of_runs(runs)

    values = list(gridmap.grid_imap_unordered(negate, range(300), max_workers=2))
    assert sorted(values) == sorted(-n for n in range(300))


def test_where_the_logs_are(tmp_path, runs) -> None:
    """A folder of the user's: written during the run; kept where something failed or on wish."""
    logs = tmp_path / "logs"
    logs.mkdir()

    def speak(n):
        print("said", n, flush=True)
        if n < 0:
            raise ValueError(n)
        return "".join(path.read_text() for path in Path(logs).iterdir())

    seen = grid_map(speak, [1], temp_dir=str(logs))
    assert "said 1" in seen[0]
    assert not list(logs.iterdir()) and not left_of_runs(runs)

    job = Job(speak, [2], cleanup=False)
    process_jobs([job], temp_dir=str(logs))
    assert "said 2" in Path(job.log_stdout_fn).read_text()
    assert Path(job.log_stdout_fn).parent == logs
    assert not list(runs.glob("*/connection.json"))

    failed = Job(speak, [-3])
    with pytest.raises(ValueError, match="-3"):
        process_jobs([failed], temp_dir=str(logs))
    assert "said -3" in Path(failed.log_stdout_fn).read_text()
    assert Path(failed.log_stderr_fn).exists()
