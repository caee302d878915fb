"""Measures what the processes of jobs use: memory, processor time, and whether anything runs."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from gridmap.core.events import Usage
from gridmap.node.memory import address_mark
from gridmap.node.tree import Process, Trees, age_s, runs, shared_once_bytes

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
    """Remembers the last look at each child's processes, to tell what was used since then.

    :param trees: finds them; several meters may share one
    """

    def __init__(self, trees: Trees | None = None) -> None:
        self._trees = trees or Trees()
        self._last: dict[int, tuple[float, dict[int, Process]]] = {}

    def read(
        self,
        pid: int,
        current: int = -1,
        reaper: int = 0,
        others: frozenset[int] = frozenset(),
        exact_above_bytes: int = 0,
        states: bool = True,
    ) -> Usage:
        """Measures a child and all that it started.

        `cpu_fraction` is the processor time since the last look divided by the time gone, in
        cores; on the first look since the child began.

        :param current: number of the job that it is in
        :param reaper: the process that inherits orphans; `others` are its other children
        :param exact_above_bytes: see LookAtMemory
        :param states: look at each thread's, for `running`
        """
        now = time.monotonic()
        processes = self._trees.of(pid, reaper, others)
        if not processes or not processes[0].rss_bytes:  # gone, or about to go
            return Usage(0, 0.0, False, current)
        then, before = self._last.get(pid, (now - age_s(processes[0]), {}))
        self._last[pid] = (now, {p.pid: p for p in processes})
        rss = sum(p.rss_bytes for p in processes)
        if 0 < exact_above_bytes < rss and len(processes) > 1:
            parts = [shared_once_bytes(p.pid) for p in processes]
            rss = sum(
                p.rss_bytes if part < 0 else part for p, part in zip(processes, parts, strict=True)
            )
        gone = now - then
        return Usage(
            rss,
            used_since(processes, before) / gone if gone > 0 else 0.0,
            states and any(runs(p) for p in processes),
            current,
            address_mark(pid, max(p.address_bytes for p in processes)),
        )

    def forget(self, pid: int) -> None:
        """Drops what is remembered of a process that ended."""
        self._last.pop(pid, None)
        self._trees.forget(pid)


def used_since(processes: list[Process], before: dict[int, Process]) -> float:
    """Returns the processor time used since a look, by those too that ended since then.

    Whoever ended has left its time with the parent that waited for it: what it had used before
    must not be counted again.
    """
    own = waited = 0.0
    known = dict(before)
    for process in processes:
        old = known.pop(process.pid, None)
        if old is not None and old.started != process.started:
            known[process.pid], old = old, None
        own += process.own_s - (old.own_s if old else 0.0)
        waited += process.waited_s - (old.waited_s if old else 0.0)
    ended = sum(old.own_s + old.waited_s for old in known.values())
    return own + max(0.0, waited - ended)


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
