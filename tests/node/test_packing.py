"""A real worker with several children: what they share, and what each has for itself."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gridmap import data
from gridmap.core import messages as m
from gridmap.core.memory import CGROUP
from gridmap.core.messages import Outcome
from gridmap.node import threads
from gridmap.node.memory import Group
from tests.node.driver import Driver, alive, wait_for
from tests.node.test_memory import MB, fill
from tests.node.test_memory import group as group  # a fixture
from tests.node.test_serve import RUNNER, Monitor, start

CHILDREN = 4


@pytest.fixture
def monitor(tmp_path: Path) -> Iterator[Monitor]:
    made = Monitor(tmp_path / "run")
    yield made
    made.link.close()


@pytest.fixture
def worker(monitor: Monitor, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts a worker of several children, after these commands of a shell."""
    started = []

    def begin(*before: str, children: int = CHILDREN) -> subprocess.Popen[bytes]:
        shell = "; ".join([*before, f'exec "$0" "$@" {children}'])
        command = ("sh", "-c", shell, sys.executable, str(RUNNER))
        started.append(start(tmp_path / "run", tmp_path / "log", *command))
        monitor.until(lambda: monitor.peer)
        return started[0]

    yield begin
    for process in started:
        process.kill()
        process.wait()


def lease(
    monitor: Monitor,
    function: Callable[..., Any],
    jobs: Any,
    context: data.Context | None = None,
    attempt: int = 1,
) -> None:
    """Hands over one lease for each job, whose argument is its number."""
    blobs = [data.pack_function(function), [context.encode()] if context is not None else []]
    names = [data.digest(frames) if frames else "" for frames in blobs]
    monitor.blobs.update(zip(names, blobs, strict=True))
    for job in jobs:
        (packet,) = data.pack_arguments([job])
        shape = [(0, 1, len(packet.frames))]
        one = m.Lease(job, 1, attempt, *names, True, shape)
        monitor.link.send(monitor.peer, m.Work([one]), packet.frames)


def begun(folder: Path) -> dict[int, int]:
    """Returns the pids of the jobs that have begun and wait."""
    found = {}
    for path in folder.glob("job.*"):
        with contextlib.suppress(ValueError):
            found[int(path.suffix[1:])] = int(path.read_text())
    return found


def waits_in(folder: Path) -> Callable[[int], dict[str, Any]]:
    """Returns a job that waits until all go, and tells what it saw in its very first line."""

    def job(number: int) -> dict[str, Any]:
        seen: dict[str, Any] = dict(os.environ)
        seen["limit"] = resource.getrlimit(resource.RLIMIT_AS)[0]
        seen["parent"] = os.getppid()
        part = folder / f"part.{number}"
        part.write_text(str(os.getpid()))
        part.rename(folder / f"job.{number}")
        deadline = time.monotonic() + 30
        while not (folder / "go").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return seen

    return job


def values(monitor: Monitor, count: int) -> list[Any]:
    monitor.until(lambda: len(monitor.outcomes.of) == count)
    assert {outcome for outcome, _ in monitor.outcomes.of.values()} == {Outcome.VALUE}
    return [monitor.outcomes.of[job][1] for job in range(count)]


def test_four_jobs_run_at_once_and_each_has_its_own_device(
    monitor: Monitor, worker: Any, tmp_path: Path
) -> None:
    worker("export CUDA_VISIBLE_DEVICES=4,5,6,7 NSLOTS=8", "ulimit -v 8000000")
    hello = monitor.said[0]
    assert isinstance(hello, m.Hello) and hello.children == CHILDREN
    client = {"PATH": "/bin", "CUDA_VISIBLE_DEVICES": "0", "MKL_NUM_THREADS": "5"}
    context = data.Context(client, "/", sys.path, threads=2, gpus=1)
    lease(monitor, waits_in(tmp_path), range(CHILDREN), context)
    monitor.until(lambda: len(begun(tmp_path)) == CHILDREN)
    (tmp_path / "go").touch()
    seen = values(monitor, CHILDREN)
    assert sorted(one["CUDA_VISIBLE_DEVICES"] for one in seen) == ["4", "5", "6", "7"]
    assert {one["NSLOTS"] for one in seen} == {"2"}
    assert {one["OMP_NUM_THREADS"] + one["MKL_NUM_THREADS"] for one in seen} == {"25"}
    # on Grid Engine, as which this worker was started, they share the address space
    assert {one["limit"] for one in seen} == {8_000_000 * 1024 // CHILDREN}
    assert len({one["parent"] for one in seen}) == 1, "they are not of one worker"
    # the function and the context came once for all of them
    asked = [said.digest for said in monitor.said if isinstance(said, m.NeedBlob)]
    assert len(asked) == len(set(asked)) == 2


def test_a_child_that_dies_takes_only_its_job_and_another_has_its_device(
    monitor: Monitor, worker: Any, tmp_path: Path
) -> None:
    worker("export CUDA_VISIBLE_DEVICES=GPU-a,GPU-b,GPU-c,GPU-d")
    context = data.Context(None, "/", sys.path, gpus=1)
    job = waits_in(tmp_path)
    lease(monitor, job, range(CHILDREN), context)
    monitor.until(lambda: len(begun(tmp_path)) == CHILDREN)
    before = begun(tmp_path)
    os.kill(before[1], signal.SIGKILL)
    monitor.until(lambda: 1 in monitor.outcomes.of)
    assert monitor.outcomes.of.pop(1)[0] is Outcome.DIED and not monitor.outcomes.of
    (tmp_path / "job.1").unlink()
    lease(monitor, job, [1], context, attempt=2)
    monitor.until(lambda: len(begun(tmp_path)) == CHILDREN)
    after = begun(tmp_path)
    assert {n: after[n] == before[n] for n in after} == {0: True, 1: False, 2: True, 3: True}
    (tmp_path / "go").touch()
    seen = [one["CUDA_VISIBLE_DEVICES"] for one in values(monitor, CHILDREN)]
    assert sorted(seen) == ["GPU-a", "GPU-b", "GPU-c", "GPU-d"]


def test_a_worker_that_is_killed_leaves_no_child(
    monitor: Monitor, worker: Any, tmp_path: Path
) -> None:
    process = worker()
    lease(monitor, waits_in(tmp_path), range(CHILDREN))
    monitor.until(lambda: len(begun(tmp_path)) == CHILDREN)
    process.kill()
    wait_for(lambda: not any(alive(pid) for pid in begun(tmp_path).values()))


def test_devices_of_the_client_do_not_count_where_the_node_has_given_some(
    monitor: Monitor, worker: Any
) -> None:
    worker("unset CUDA_VISIBLE_DEVICES", children=1)
    client = {"CUDA_VISIBLE_DEVICES": "7"}

    def visible(_: int) -> str | None:
        return os.environ.get("CUDA_VISIBLE_DEVICES")

    lease(monitor, visible, [0], data.Context(client, "/", sys.path))
    lease(monitor, visible, [1], data.Context(client, "/", sys.path, gpus=1))
    added = {"CUDA_VISIBLE_DEVICES": "3"}
    lease(monitor, visible, [2], data.Context(client, "/", sys.path, added, gpus=1))
    # nobody asked the scheduler for one: the user knows best
    assert values(monitor, 3) == ["7", None, "3"]


def test_what_a_job_starts_on_its_own_has_all_that_the_job_has(
    monitor: Monitor, worker: Any
) -> None:
    worker("export CUDA_VISIBLE_DEVICES=4,5,6,7", children=2)

    def maps(_: int) -> list[str | None]:
        from gridmap import grid_map

        def visible(_: int) -> str | None:
            return os.environ.get("CUDA_VISIBLE_DEVICES")

        return grid_map(visible, range(4), local=True, max_processes=2)

    lease(monitor, maps, range(2), data.Context(None, "/", sys.path))
    assert sorted(values(monitor, 2)) == [["4,5"] * 4, ["6,7"] * 4]


def test_without_reuse_each_job_has_a_process_of_its_own_and_a_blob_comes_once() -> None:
    big = bytes(3 * MB)

    def pid(_: int) -> tuple[int, int]:
        return os.getpid(), len(big)

    with Driver(children=3) as node:
        for job in range(9):
            node.lease(pid, [job], first=job, reuse=False)
        node.until(lambda: len(node.outcomes.of) == 9)
        assert {outcome for outcome, _ in node.outcomes.of.values()} == {Outcome.VALUE}
        assert len({value[0] for _, value in node.outcomes.of.values()}) == 9
        assert len([said for said in node.said if isinstance(said, m.NeedBlob)]) == 1


# --- threads of numerical libraries ---------------------------------------------------------------


def loaded_threads(_: int) -> dict[str, int]:
    import numpy

    from gridmap.node import threads

    numpy.ones((2, 2)) @ numpy.ones((2, 2))
    return threads.counts()


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="any library starts one thread here")
@pytest.mark.parametrize("count", [1, 2])
def test_numpy_starts_as_many_threads_as_a_job_has_slots(
    monitor: Monitor, worker: Any, count: int
) -> None:
    pytest.importorskip("numpy")
    worker(children=2)
    lease(monitor, loaded_threads, range(2), data.Context({}, "/", sys.path, threads=count))
    for found in values(monitor, 2):
        assert found and set(found.values()) == {count}


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="any library starts one thread here")
def test_a_fork_of_a_program_with_numpy_in_it_is_told_so_too() -> None:
    pytest.importorskip("numpy")
    before = threads.counts()
    assert max(before.values()) > 1
    with Driver() as node:
        context = data.Context(dict(os.environ), "/", sys.path, threads=1)
        ((outcome, found),) = node.run(loaded_threads, [0], context=context)
    assert outcome is Outcome.VALUE and set(found.values()) == {1}
    assert threads.counts() == before, "the program itself keeps its own"


# --- memory that they share -----------------------------------------------------------------------


def test_the_job_that_took_the_memory_pays_for_the_one_that_was_ended(
    monitor: Monitor, worker: Any, group: Group
) -> None:
    """The kernel ends the largest process; the job that takes most has many small ones."""
    monitor.heartbeat_s = 60.0
    worker(f"echo $$ > {group.folder}/cgroup.procs", children=2)

    def used() -> int:
        mark = group.mark()
        assert mark is not None
        return mark.used_bytes

    def greedy() -> None:
        while used() < 180 * MB:
            if os.fork() == 0:
                kept = fill(10)
                time.sleep(60)
                os._exit(len(kept) > 0)
            time.sleep(0.2)
        time.sleep(60)

    def job(number: int) -> None:
        if number == 0:
            greedy()
        wait_for(lambda: used() >= 180 * MB)
        time.sleep(1.0)
        kept = fill(45)
        time.sleep(60)
        raise AssertionError(len(kept))

    lease(monitor, job, range(2))
    monitor.until(lambda: len(monitor.outcomes.of) == 2)
    assert monitor.outcomes.of[1][0] is Outcome.CANCELED, "it is to be tried again, uncharged"
    outcome, death = monitor.outcomes.of[0]
    assert outcome is Outcome.MEMORY
    assert (death.limit, death.limit_bytes) == (CGROUP, 100 * MB)
    assert "where 2 jobs share the 200.0 MB of their control group" in death.text


def test_the_job_that_took_the_memory_and_was_ended_pays_itself(
    monitor: Monitor, worker: Any, group: Group
) -> None:
    worker(f"echo $$ > {group.folder}/cgroup.procs", children=2)

    def job(number: int) -> int:
        if number == 0:
            fill(400)
        time.sleep(3)
        return number

    lease(monitor, job, range(2))
    monitor.until(lambda: len(monitor.outcomes.of) == 2)
    assert monitor.outcomes.of[1] == (Outcome.VALUE, 1)
    outcome, death = monitor.outcomes.of[0]
    assert outcome is Outcome.MEMORY
    assert death.text.endswith("its control group may have 200.0 MB for 2 jobs at once")


def test_a_job_that_needs_more_address_space_than_its_part_fails_alone(
    monitor: Monitor, worker: Any
) -> None:
    worker("ulimit -v 4000000", children=2)

    def job(number: int) -> int:
        if number == 0:
            bytearray(3000 * MB)
        return number

    lease(monitor, job, range(2))
    monitor.until(lambda: len(monitor.outcomes.of) == 2)
    assert monitor.outcomes.of[0][0] is Outcome.NO_MEMORY
    assert monitor.outcomes.of[1] == (Outcome.VALUE, 1)
