"""Real workers, as processes of this machine: what they use while they wait, and a slow one."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

import gridmap
from tests.wire.scheduler import ProcessBackend, cluster, until

STEP_S = 0.005
LOCAL = "import gridmap, time; gridmap.grid_map(time.sleep, [{0}] * 2, local=True, max_processes=2)"


class PendingBackend(ProcessBackend):
    """A scheduler that is busy: no worker starts."""

    def submit(self, request: Any) -> list[str]:
        self.phantoms = request.count
        return super().submit(request)


def tree(process: psutil.Process) -> list[psutil.Process]:
    return [process, *process.children(recursive=True)]


def cpu_s(process: psutil.Process) -> float:
    """Returns the processor time that a process and its descendants have used."""
    total = 0.0
    for one in tree(process):
        times = one.cpu_times()
        total += times.user + times.system
    return total


def steps(seconds: float) -> tuple[float, float]:
    """Works so long, in small steps; whoever stops it makes that longer. Returns from when to when.

    Steps are waits: there are more workers here than processors.
    """
    began = time.monotonic()
    for _ in range(round(seconds / STEP_S)):
        time.sleep(STEP_S)
    return began, time.monotonic()


def falls_once(mark: str) -> None:
    """Kills its process the first time."""
    if not Path(mark).exists():
        Path(mark).touch()
        os.kill(os.getpid(), signal.SIGKILL)


# --- who waits ------------------------------------------------------------------------------------


def pending(window_s: float) -> dict[str, float]:
    """A client whose workers have not been started by the scheduler."""
    with cluster(PendingBackend()):
        run = gridmap.submit([gridmap.Job(time.sleep, [0.0]) for _ in range(4)])
        used = _while(window_s, {"client": _own_cpu_s})
        run.close()
    return used


def busy(window_s: float) -> dict[str, float]:
    """A client and a worker, with one long call under way."""
    return _with_worker(gridmap.Job(time.sleep, [2 * window_s + 3.0]), window_s, "busy")


def workless(window_s: float) -> dict[str, float]:
    """A client and a worker, with one call that is to be tried again later."""
    with tempfile.TemporaryDirectory() as folder:
        retry = gridmap.Retry(backoff_s=window_s + 6.0, backoff_most_s=window_s + 6.0)
        job = gridmap.Job(falls_once, [f"{folder}/mark"], retry=retry)
        return _with_worker(job, window_s, "workless")


def _with_worker(job: gridmap.Job, window_s: float, state: str) -> dict[str, float]:
    with cluster(ProcessBackend()) as backend:
        run = gridmap.submit([job])
        until(lambda: run.status().workers_up, "a worker")
        agent = psutil.Process(next(iter(backend.workers.values())).pid)
        used = _while(window_s, {"client": _own_cpu_s, "agent": lambda: cpu_s(agent)})
        status = run.status()
        assert (status.running > 0) == (state == "busy"), status
        run.results()
    return used


def _own_cpu_s() -> float:
    times = psutil.Process().cpu_times()
    return float(times.user + times.system)


def _while(window_s: float, of: dict[str, Callable[[], float]]) -> dict[str, float]:
    """Returns what each uses of a core, from 2 s on for so long."""
    time.sleep(2.0)
    began, before = time.monotonic(), {name: read() for name, read in of.items()}
    time.sleep(window_s)
    seconds = time.monotonic() - began
    return {name: (read() - before[name]) / seconds for name, read in of.items()}


# --- memory ---------------------------------------------------------------------------------------


def local_memory() -> dict[str, float]:
    """A process for jobs of a local run, beside a bare interpreter, in bytes."""
    bare = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    client = subprocess.Popen([sys.executable, "-c", LOCAL.format(4.0)])
    time.sleep(2.5)
    try:
        empty = psutil.Process(bare.pid).memory_full_info()
        forkserver = psutil.Process(client.pid).children()
        children = [child for server in forkserver for child in server.children()]
        of_children = [child.memory_full_info() for child in children]
        assert len(of_children) == 2, forkserver
    finally:
        bare.communicate(b"\n")
        assert client.wait() == 0
    return {
        "rss": max(one.rss for one in of_children) - empty.rss,
        "pss": max(one.pss for one in of_children) - empty.pss,
        "uss": max(one.uss for one in of_children),
    }


# --- a slow one -----------------------------------------------------------------------------------


def tail(jobs: int, seconds: float) -> dict[str, float]:
    """Four workers, one of which is stopped half of the time: the time, and the least possible."""
    over = threading.Event()

    def slow_down(worker: subprocess.Popen[bytes]) -> None:
        agent = psutil.Process(worker.pid)
        while not over.is_set() and agent.is_running():
            stopped = []
            with contextlib.suppress(psutil.NoSuchProcess):  # it leaves, its work is done
                stopped = tree(agent)
            for act in (psutil.Process.suspend, psutil.Process.resume):
                for one in stopped:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        act(one)
                over.wait(0.5)

    with cluster(ProcessBackend()) as backend:
        run = gridmap.submit(
            [gridmap.Job(steps, [seconds], name="steps") for _ in range(jobs)], max_workers=4
        )
        until(lambda: run.status().workers_up == 4, "all workers")
        slow = threading.Thread(target=slow_down, args=[next(iter(backend.workers.values()))])
        slow.start()
        try:
            times = run.results()
        finally:
            over.set()
            slow.join()
    began, ended = min(t for t, _ in times), max(t for _, t in times)
    each = sorted(t - s for s, t in times)[: jobs // 2]
    return {"seconds": ended - began, "ideal": jobs * (sum(each) / len(each)) / 3.5}
