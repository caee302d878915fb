"""The limits on a worker's memory that the kernel knows, and what it says of those who met one."""

from __future__ import annotations

import contextlib
import functools
import os
import resource
import time
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path

from gridmap.core.memory import CGROUP, H_VMEM, MACHINE, Killed, Mark

UNLIMITED_BYTES = 1 << 60
"""More than this is what control groups of version 1 call no limit."""

DEATH_KNOWN_S = 2.0
"""How long the death of a process may take to become known."""


class Group:
    """A memory control group of version 1 or 2, and those around it.

    :param folder: where its files are
    :param top: the folder of the outermost one
    :param version: of the files' names: 1 or 2
    """

    def __init__(self, folder: Path, top: Path, version: int) -> None:
        self.folder = folder
        self.version = version
        inside = [folder, *folder.parents]
        self._around = [p for p in inside if p == top or top in p.parents]
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.oom_control")
        if version == 2:
            names = ("memory.max", "memory.current", "memory.events")
        self._limit, self._usage, self._counts = names

    def mark(self) -> Mark | None:
        """Returns the limit that is nearest, and what is used of it; None where there is none."""
        marks = [mark for folder in self._around if (mark := self._mark(folder)) is not None]
        return max(marks, key=lambda mark: mark.fraction, default=None)

    def _mark(self, folder: Path) -> Mark | None:
        limit = _number(_read(folder / self._limit))
        if limit is None or limit >= UNLIMITED_BYTES:
            return None
        used = _number(_read(folder / self._usage)) or 0
        fields = _fields(_read(folder / "memory.stat"))
        total = "total_" if self.version == 1 else ""  # else without the groups inside it
        files = sum(fields.get(f"{total}{kind}_file", 0) for kind in ("active", "inactive"))
        return Mark(CGROUP, max(0, used - files), limit)  # files in memory make room when asked

    def ends(self) -> int | None:
        """Returns how many processes were ended for want of memory; None: it does not say."""
        return _fields(_read(self.folder / self._counts)).get("oom_kill")


def own_group(
    cgroup: str = "/proc/self/cgroup", mountinfo: str = "/proc/self/mountinfo"
) -> Group | None:
    """Returns the memory control group of this process; None where there is none.

    Source: cgroups(7), "/proc/[pid]/cgroup"; proc(5), "/proc/[pid]/mountinfo"
    """
    paths: dict[int, str] = {}
    for line in _read(Path(cgroup)).splitlines():
        number, controllers, path = (*line.split(":", 2), "", "")[:3]
        if "memory" in controllers.split(","):
            paths[1] = path
        elif number == "0" and not controllers:
            paths[2] = path
    for line in _read(Path(mountinfo)).splitlines():
        before, _, after = line.partition(" - ")
        mount, kind = before.split(), after.split()
        if len(mount) < 5 or len(kind) < 3:
            continue
        version = {"cgroup": 1, "cgroup2": 2}.get(kind[0], 0)
        if version == 1 and "memory" not in kind[2].split(","):
            continue
        if version in paths and not (version == 2 and 1 in paths):
            return _group(paths[version], root=mount[3], top=Path(mount[4]), version=version)
    return None


def _group(path: str, root: str, top: Path, version: int) -> Group | None:
    """Finds the folder of a path, where a part of all groups may be all that can be seen."""
    inside = os.path.relpath(path, root) if path.startswith(root.rstrip("/") + "/") else "."
    folder = top if inside == "." else top / inside
    return Group(folder, top, version) if folder.is_dir() else None


class Limits:
    """The limits that the kernel keeps for a worker.

    :param group: the worker's control group
    :param parts: of its address space, each of which a process for jobs has
    """

    def __init__(self, group: Group | None = None, parts: int = 1) -> None:
        self._group = group
        self._parts = parts
        self._ends: deque[tuple[float, int]] = deque([(time.monotonic(), self._count())])

    @classmethod
    def own(cls, parts: int = 1) -> Limits:
        """Returns those of this process."""
        return cls(own_group(), parts)

    def group_mark(self) -> tuple[Mark, ...]:
        """Returns what all processes of the worker use of what its control group may."""
        mark = self._group.mark() if self._group is not None else None
        return () if mark is None else (mark,)

    def begin(self) -> None:
        """A job begins; whoever was ended while none ran does not matter."""
        if time.monotonic() - self._ends[-1][0] > 2 * DEATH_KNOWN_S:
            self._ends.clear()
            self._ends.append((time.monotonic(), self._count()))

    def note(self) -> None:
        """Takes note of who was ended up to now; called at least every second while jobs run."""
        now = time.monotonic()
        self._ends.append((now, self._count()))
        while len(self._ends) > 1 and self._ends[1][0] <= now - DEATH_KNOWN_S:
            self._ends.popleft()

    def outside(self) -> tuple[Mark, ...]:
        """Returns the limits as they are known of a child that is gone."""
        whole = address_mark(0, 0)
        own = (mark._replace(limit_bytes=mark.limit_bytes // self._parts) for mark in whole)
        return (*own, *self.group_mark())

    def killed(self) -> Killed:
        """Returns whether a process was just ended for want of memory."""
        if self._count() <= self._ends[0][1]:
            return Killed()
        return Killed(CGROUP if self._counts_group else MACHINE)

    @functools.cached_property
    def _counts_group(self) -> bool:
        return self._group is not None and self._group.ends() is not None

    def _count(self) -> int:
        """Returns how many were ended: of the control group, else of the whole machine."""
        if self._counts_group and self._group is not None:
            return self._group.ends() or 0
        return _fields(_read(Path("/proc/vmstat"))).get("oom_kill", 0)


def address_mark(pid: int, used_bytes: int) -> tuple[Mark, ...]:
    """Returns what is used of the address space that a process may have (0: this one)."""
    limit = resource.RLIM_INFINITY
    with contextlib.suppress(OSError, AttributeError):  # it is gone; not on this system
        limit = resource.prlimit(pid, resource.RLIMIT_AS)[0]
    return () if limit == resource.RLIM_INFINITY else (Mark(H_VMEM, used_bytes, limit),)


def parts_of_address_space(children: int, environ: Mapping[str, str]) -> int:
    """Returns in how many parts a worker's limit on the address space is to be cut.

    Grid Engine ends a worker whose processes together have more than h_vmem, times its slots, and
    gives each process a limit of the same size. Where each child has a part as its limit, one that
    needs more fails alone, as it would in a worker of its own. Elsewhere such a limit is what each
    process may have.

    Source: queue_conf(5) "RESOURCE LIMITS"; setrlimit(2)
    """
    return children if "SGE_TASK_ID" in environ else 1


def limit_address_space(parts: int) -> None:
    """Lets this process have one of so many parts of the address space that it may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    if parts > 1 and soft != resource.RLIM_INFINITY:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_AS, (soft // parts, hard))


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _number(text: str) -> int | None:
    return int(text) if text.strip().isdigit() else None


def _fields(text: str) -> dict[str, int]:
    """Reads lines of a name and a number."""
    pairs: Iterable[list[str]] = (line.split() for line in text.splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}
