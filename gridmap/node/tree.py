"""Which processes belong to a job, as the kernel shows them.

A job's tree is its child's descendants, and those that lost their parent: the forkserver inherits
them (PR_SET_CHILD_SUBREAPER), and they are told by having been seen in the tree before, by the
process group or session that they share with it, or by there being no other job.  Where there is no
/proc, psutil tells of descendants alone.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Iterator
from typing import NamedTuple

CLOCK_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
RUNNING = frozenset("RD")
"""States of a thread that works, or waits for a disk: proc(5), "state"."""


class Process(NamedTuple):
    """One look at a process.

    :param own_s: processor time of its threads
    :param waited_s: processor time of its children that it has waited for, and of theirs
    :param started: when it began, since the machine did; tells it from another one of the same pid
    """

    pid: int
    name: str
    parent: int
    group: int
    session: int
    state: str
    own_s: float
    waited_s: float
    threads: int
    started: float
    address_bytes: int
    rss_bytes: int


def read_process(pid: int) -> Process | None:
    """Returns a process as it is now; None when there is none.

    Source: proc(5), /proc/[pid]/stat
    """
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            text = file.read(4096)
    except OSError:
        return None
    end = text.rindex(b")")  # the name before it may hold anything
    f = text[end + 2 :].split()
    return Process(
        pid,
        name=text[text.index(b"(") + 1 : end].decode(errors="replace"),
        parent=int(f[1]),
        group=int(f[2]),
        session=int(f[3]),
        state=f[0].decode(),
        own_s=(int(f[11]) + int(f[12])) / CLOCK_TICKS_PER_S,
        waited_s=(int(f[13]) + int(f[14])) / CLOCK_TICKS_PER_S,
        threads=int(f[17]),
        started=int(f[19]) / CLOCK_TICKS_PER_S,
        address_bytes=int(f[20]),
        rss_bytes=int(f[21]) * PAGE_BYTES,
    )


def _threads(pid: int) -> list[str]:
    try:
        return os.listdir(f"/proc/{pid}/task")
    except OSError:
        return []


def children_of(pid: int, threads: int = 0) -> list[int]:
    """Returns the pids of a process's children, those of its other threads too."""
    found: list[int] = []
    for thread in [str(pid)] if threads == 1 else _threads(pid):
        with (
            contextlib.suppress(OSError),
            open(f"/proc/{pid}/task/{thread}/children", "rb", buffering=0) as file,
        ):
            while part := file.read(65536):
                found += map(int, part.split())
    return found


def runs(process: Process) -> bool:
    """Returns whether one of its threads works or waits for a disk."""
    if process.state in RUNNING or process.threads <= 1:
        return process.state in RUNNING
    for thread in _threads(process.pid):
        with (
            contextlib.suppress(OSError, ValueError),
            open(f"/proc/{process.pid}/task/{thread}/stat", "rb", buffering=0) as file,
        ):
            text = file.read(4096)
            if chr(text[text.rindex(b")") + 2]) in RUNNING:
                return True
    return False


def age_s(process: Process) -> float:
    """Returns for how long a process has been there."""
    clock = time.CLOCK_BOOTTIME if _proc() else time.CLOCK_REALTIME
    return max(0.0, time.clock_gettime(clock) - process.started)


def shared_once_bytes(pid: int) -> int:
    """Returns the resident memory of a process, of pages that it shares its part; -1: unknown.

    Source: proc(5), /proc/[pid]/smaps_rollup, "Pss"
    """
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            for line in file:
                if line.startswith(b"Pss:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return -1


class Trees:
    """Finds the processes of jobs, and remembers them."""

    def __init__(self) -> None:
        self._seen: dict[int, set[tuple[int, float]]] = {}  # by the pid of the child
        self._kin: dict[int, set[int]] = {}  # its groups and sessions
        self._since: dict[int, float] = {}  # when it began what it does now

    def begin(self, root: int) -> None:
        """From now on a child does something else: what it left on purpose is not its any more."""
        self.forget(root)
        if _proc():
            self._since[root] = time.clock_gettime(time.CLOCK_BOOTTIME) - 1 / CLOCK_TICKS_PER_S

    def of(self, root: int, reaper: int = 0, others: frozenset[int] = frozenset()) -> list[Process]:
        """Returns a child and all that it started; [] when it is gone.

        :param reaper: the process that inherits orphans
        :param others: the other children of that process
        """
        first = read_process(root) if _proc() else None
        if first is None:
            return list(_by_psutil(root)) if not _proc() else []
        found = {root: first}
        self._descend(first, found)
        since = self._since.get(root, first.started)
        seen = self._seen.setdefault(root, set())
        kin = self._kin.setdefault(root, {root})
        if reaper:
            for pid in children_of(reaper, 1):
                if pid != root and pid not in others and pid not in found:
                    orphan = read_process(pid)
                    if orphan is not None and (
                        (orphan.pid, orphan.started) in seen
                        or orphan.group in kin
                        or orphan.session in kin
                        or (not others and orphan.started >= since)
                    ):
                        found[pid] = orphan
                        self._descend(orphan, found)
        seen.clear()
        seen.update((process.pid, process.started) for process in found.values())
        kin.update(group for p in found.values() for group in (p.group, p.session))
        kin.discard(first.session)  # of the forkserver, which all its children share
        return list(found.values())

    def forget(self, root: int) -> None:
        """Drops what is remembered of a child that ended."""
        self._seen.pop(root, None)
        self._kin.pop(root, None)
        self._since.pop(root, None)

    @staticmethod
    def _descend(process: Process, found: dict[int, Process]) -> None:
        waiting = [process]
        while waiting:
            parent = waiting.pop()
            for pid in children_of(parent.pid, parent.threads):
                if pid not in found and (child := read_process(pid)) is not None:
                    found[pid] = child
                    waiting.append(child)


@functools.cache
def _proc() -> bool:
    """Returns whether the kernel tells what is needed (CONFIG_PROC_CHILDREN)."""
    return os.path.exists(f"/proc/self/task/{os.getpid()}/children")


def _by_psutil(root: int) -> Iterator[Process]:
    import psutil

    states = {psutil.STATUS_RUNNING: "R", psutil.STATUS_DISK_SLEEP: "D"}
    try:
        processes = [psutil.Process(root), *psutil.Process(root).children(recursive=True)]
    except psutil.Error:
        return
    for process in processes:
        with contextlib.suppress(psutil.Error, OSError), process.oneshot():
            times, memory = process.cpu_times(), process.memory_info()
            waited_s = getattr(times, "children_user", 0.0) + getattr(times, "children_system", 0.0)
            yield Process(
                process.pid,
                process.name(),
                process.ppid(),
                -1,
                -1,
                states.get(process.status(), "S"),
                times.user + times.system,
                waited_s,
                1,
                process.create_time(),
                memory.vms,
                memory.rss,
            )
