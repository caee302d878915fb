"""Clients of simulated agents, which measure themselves; each runs in a fresh process."""

from __future__ import annotations

import threading
import time
import tracemalloc
from pathlib import Path
from typing import Any

import psutil

import gridmap
from benchmarks.scale.scheduler import SimulatedCluster, cluster

SETTLE_S = 12.0
"""From the last agent's arrival until a heartbeat of each has been heard."""


def identity(x: Any) -> Any:
    return x


def cpu_s() -> float:
    times = psutil.Process().cpu_times()
    return float(times.user + times.system)


def rss() -> int:
    return int(psutil.Process().memory_info().rss)


def held(agents: int, window_s: float, settle_s: float = SETTLE_S) -> dict[str, Any]:
    """Agents that hold a job each, and then have nothing to do: what the monitor uses."""
    found: dict[str, Any] = {"before": rss()}

    def window(name: str) -> None:
        time.sleep(settle_s)
        began, used = time.monotonic(), cpu_s()
        time.sleep(window_s)
        found[name] = (cpu_s() - used) / (time.monotonic() - began)

    def watch(backend: SimulatedCluster) -> None:
        began, used = backend.submitted(), cpu_s()
        found["arrival_s"] = backend.ready() - began
        found["arrival_cpu_s"] = cpu_s() - used
        window("held")
        found["rss"] = rss()
        found["descriptors"] = psutil.Process().num_fds()
        backend.tell("answer")
        window("idle")

    with cluster("hold") as backend:
        watcher = threading.Thread(target=watch, args=[backend])
        watcher.start()
        pause_s = settle_s + window_s + 5.0  # one job waits so long, and keeps idle workers
        values = gridmap.grid_map(
            identity, range(agents), max_workers=agents,
            retry=gridmap.Retry(backoff_s=pause_s, backoff_most_s=pause_s),
        )  # fmt: skip
        watcher.join()
        assert values == list(range(agents)), "wrong values"
    return found


def calls(agents: int, count: int, size: int = 0) -> dict[str, Any]:
    """Calls that return their argument at once.

    :param size: bytes of each argument; 0: a number
    """
    arguments: list[Any] = list(range(count))
    if size:
        arguments = [number.to_bytes(8, "little") * (size // 8) for number in range(count)]
    with cluster("answer", 2):
        used, began = cpu_s(), time.monotonic()
        values = gridmap.grid_map(identity, arguments, max_workers=agents)
        seconds, used = time.monotonic() - began, cpu_s() - used
        assert values == arguments, "wrong values"
    return {"seconds": seconds, "cpu_s": used}


def queued(count: int, traced: int) -> dict[str, Any]:
    """Jobs that wait while the only agent holds one: the memory that they take.

    :param traced: 1 finds out which modules took it, which slows it down
    """
    found: dict[str, Any] = {}

    def watch(backend: SimulatedCluster) -> None:
        backend.submitted()
        backend.ready()
        sizes = [0, rss()]
        while sizes[-1] != sizes[-2]:  # all has been fed
            time.sleep(1.0)
            sizes.append(rss())
        found["bytes"] = (sizes[-1] - before) / count
        if traced:
            ours = tracemalloc.Filter(True, str(Path(gridmap.__file__).parent / "*"))
            taken = tracemalloc.take_snapshot().filter_traces([ours]).statistics("filename")
            found["modules"] = {
                Path(one.traceback[0].filename).stem: one.size / count for one in taken[:4]
            }
        backend.tell("answer")

    gridmap.grid_map(identity, [], local=True)  # imports what there is to import
    with cluster("answer", 1):
        gridmap.grid_map(identity, range(10), max_workers=1)
    with cluster("hold", 1) as backend:
        watcher = threading.Thread(target=watch, args=[backend])
        watcher.start()
        if traced:
            tracemalloc.start()
        numbers = list(range(count))
        before = rss()
        values = gridmap.grid_map(identity, numbers, max_workers=1)
        watcher.join()
        assert values == numbers, "wrong values"
    return found
