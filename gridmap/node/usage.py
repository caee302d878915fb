"""Measures what the processes of jobs use: memory, processor time, and whether anything runs."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from gridmap.core.events import Usage

if TYPE_CHECKING:
    import psutil

_BUSY = frozenset({"running", "disk-sleep"})


def _tree(pid: int, without: int | None = None) -> Iterator[psutil.Process]:
    """Yields a process and its descendants, as far as they are still there."""
    import psutil

    try:
        root = psutil.Process(pid)
        processes = [root, *root.children(recursive=True)]
    except psutil.Error:
        return
    yield from (p for p in processes if p.pid != without)


def _ask(method: Callable[[], Any], otherwise: Any) -> Any:
    import psutil

    try:
        return method()
    except (psutil.Error, OSError):
        return otherwise


def _seconds(process: psutil.Process) -> float:
    times = _ask(process.cpu_times, None)
    return 0.0 if times is None else times.user + times.system


class UsageMeter:
    """Remembers the last look at each process tree, to tell what was used since then."""

    def __init__(self) -> None:
        self._last: dict[int, tuple[float, dict[int, float]]] = {}

    def read(self, pid: int, current: int = -1) -> Usage:
        """Measures a process and its descendants.

        `cpu_fraction` is the processor time since the last look divided by the time gone, in
        cores; on the first look since each process began.
        """
        now = time.monotonic()
        rss, running, cpu = 0, False, {}
        wall = time.time()
        born = wall
        for process in _tree(pid):
            with process.oneshot():
                memory = _ask(process.memory_info, None)
                rss += memory.rss if memory is not None else 0
                running = running or _ask(process.status, "") in _BUSY
                cpu[process.pid] = _seconds(process)
                if process.pid == pid:
                    born = _ask(process.create_time, wall)
        then, before = self._last.get(pid, (now - max(0.0, wall - born), {}))
        used = sum(max(0.0, seconds - before.get(p, 0.0)) for p, seconds in cpu.items())
        self._last[pid] = (now, cpu)
        gone = now - then
        return Usage(rss, used / gone if gone > 0 else 0.0, running, current)

    def forget(self, pid: int) -> None:
        """Drops what is remembered of a process that ended."""
        self._last.pop(pid, None)


# --- the historic functions of gridmap.runner -----------------------------------------------------


def get_memory_usage(pid: int, heart_pid: int) -> float:
    """Returns the resident memory [MB] of a process and its descendants, without `heart_pid`."""
    infos = (_ask(p.memory_info, None) for p in _tree(pid, heart_pid))
    return float(sum(info.rss for info in infos if info is not None)) / 1024.0**2


def get_cpu_load(pid: int, heart_pid: int) -> tuple[float, bool]:
    """Returns (percent, running) of a process and its descendants, without `heart_pid`.

    :returns: processor time since each process began by the time gone, summed [percent of a core];
        True when one of them is runnable or waits for a disk
    """
    percent, running = 0.0, False
    for process in _tree(pid, heart_pid):
        age = time.time() - _ask(process.create_time, time.time())
        percent += 100.0 * _seconds(process) / age if age > 0 else 0.0
        running = running or _ask(process.status, "") in _BUSY
    return percent, running


def get_job_status(parent_pid: int, heart_pid: int) -> dict[str, Any]:
    """Returns what is known of a job's processes: memory [MB], load, log file, host's name."""
    import socket

    return {
        "pid": parent_pid,
        "host": socket.gethostname(),
        "memory": get_memory_usage(parent_pid, heart_pid),
        "cpu_load": get_cpu_load(parent_pid, heart_pid),
        "log_file": os.environ.get("SGE_STDERR_PATH", ""),
    }
