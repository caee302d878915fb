"""Probe: this machine, as far as runs depend on it. Standard library alone until it is known what
is installed."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import os
import re
import resource
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import gridmap
from gridmap import conf
from gridmap.doctor.exam import Exam
from gridmap.doctor.findings import Finding, failed, ok, warning

OLDEST = (3, 10)

DEPENDENCIES = {
    "argcomplete": "argcomplete",
    "cloudpickle": "cloudpickle",
    "drmaa": "drmaa",
    "msgspec": "msgspec",
    "psutil": "psutil",
    "pyzmq": "zmq",
    "rich": "rich",
    "threadpoolctl": "threadpoolctl",
    **({} if sys.version_info >= (3, 11) else {"tomli": "tomli"}),
}
"""The modules of the packages that GridMap needs, by the packages' names."""

NOT_IMPORTED = frozenset({"drmaa"})
"""Its import loads the scheduler's library, which is looked for elsewhere."""

SPARE_DESCRIPTORS = 128
LEAST_DESCRIPTORS = 64
LEAST_TEMP_BYTES = 64 << 20
LEAST_PROCESSES = 64
UNLIMITED = resource.RLIM_INFINITY


def examine(exam: Exam) -> Iterator[Finding]:
    """Looks at Python, at what is installed, and at the limits of this process."""
    yield python_finding()
    where = os.path.dirname(gridmap.__file__)
    yield ok("gridmap", f"gridmap {gridmap.__version__} in {where}", version=gridmap.__version__)
    yield from dependency_findings()
    yield descriptor_finding(*resource.getrlimit(resource.RLIMIT_NOFILE), most_workers())
    yield from temp_findings()
    yield process_finding(*process_room())


def python_finding() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    facts = {"version": version, "executable": sys.executable}
    if sys.version_info < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        return failed(
            "python",
            f"{sys.executable} is Python {version}",
            f"use Python {oldest} or newer",
            **facts,
        )
    return ok("python", f"Python {version}, {sys.executable}", **facts)


# --- what is installed ----------------------------------------------------------------------------


def installed_version(package: str) -> str:
    """Returns the version of an installed package, "" when there is none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def least_versions() -> dict[str, str]:
    """Returns the oldest version of each package that GridMap says it works with."""
    try:
        required = importlib.metadata.requires("gridmap") or []
    except importlib.metadata.PackageNotFoundError:  # run from a folder
        required = []
    found = (re.match(r"([A-Za-z0-9_.-]+)>=([0-9.]+)(?![^;]*extra)", text) for text in required)
    return {match[1].lower(): match[2] for match in found if match}


def is_older(version: str, least: str) -> bool:
    def numbers(text: str) -> list[int]:
        return [int(part) for part in re.findall(r"\d+", text)[:4]]

    return numbers(version) < numbers(least)


def dependency_findings() -> Iterator[Finding]:
    least = least_versions()
    good = {}
    for package, module in DEPENDENCIES.items():
        version = installed_version(package)
        trouble = trouble_of(package, module)
        wanted = least.get(package, "")
        if trouble:
            change = f"{sys.executable} -m pip install --force-reinstall {package}"
            yield failed("dependencies", f"{package} {version}: {trouble}", change, package=package)
        elif version and wanted and is_older(version, wanted):
            yield warning(
                "dependencies",
                f"{package} is {version}, and gridmap asks for {wanted} or newer",
                f"{sys.executable} -m pip install --upgrade {package}",
                package=package,
            )
        else:
            good[package] = version or "of unknown version"
    told = ", ".join(f"{package} {version}" for package, version in good.items())
    if good:
        yield ok("dependencies", told, **good)


def trouble_of(package: str, module: str) -> str:
    """Returns why a package cannot be used, "" when it can."""
    try:
        if package in NOT_IMPORTED:
            return "" if importlib.util.find_spec(module) else "it is not installed"
        loaded = importlib.import_module(module)
    except Exception as error:  # whatever a broken package may raise
        return f"it cannot be imported: {type(error).__name__}: {error}"
    if package == "pyzmq" and not loaded.has("curve"):
        return "its ZeroMQ was built without CurveZMQ, so it can encrypt nothing"
    return ""


# --- limits ---------------------------------------------------------------------------------------


def most_workers() -> int:
    """Returns GRIDMAP_MAX_WORKERS, or its default where it is no number."""
    try:
        return conf.GRIDMAP_MAX_WORKERS
    except ValueError:  # another probe tells
        return 500


def descriptor_finding(soft: int, hard: int, workers: int) -> Finding:
    """Returns whether a client may have a connection to each of its workers."""
    most = soft if hard == UNLIMITED or soft == UNLIMITED else max(soft, hard)
    if hard == UNLIMITED or most == UNLIMITED:
        return ok("open_files", "open files: no limit", soft=soft, hard=hard)
    room = max(0, most - SPARE_DESCRIPTORS)
    told = f"open files: {soft} now, {hard} at most"
    change = (
        f"raise the hard limit (ulimit -Hn; in /etc/security/limits.conf or by systemd) to "
        f"{workers + SPARE_DESCRIPTORS}, or set GRIDMAP_MAX_WORKERS={max(1, room)}"
    )
    facts = {"soft": soft, "hard": hard, "workers": workers}
    if most < LEAST_DESCRIPTORS:
        return failed("open_files", f"{told}: too few for any run", change, **facts)
    if room < workers:
        found = f"{told}: enough for {room} workers, and a run may have {workers}"
        return warning("open_files", found, change, **facts)
    return ok("open_files", f"{told}: enough for {workers} workers", **facts)


def temp_findings() -> Iterator[Finding]:
    """Looks at the two places in which large values of jobs are kept."""
    shared = "/dev/shm"
    if not os.access(shared, os.W_OK | os.X_OK):
        yield warning(
            "shared_memory",
            f"{shared} is not there, or you cannot write it: large values go to disk",
            f"mount a tmpfs at {shared} (in a container: --shm-size)",
        )
    else:
        yield _space("shared_memory", shared, "mount it larger (in a container: --shm-size)")
    try:
        folder = tempfile.gettempdir()
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(1 << 16))
    except OSError as error:
        yield failed(
            "temp_space",
            f"no temporary file can be written: {error}",
            "set TMPDIR to a folder that you can write and that has room",
        )
    else:
        yield _space("temp_space", folder, "remove something, or set TMPDIR to another folder")


def _space(name: str, folder: str, change: str) -> Finding:
    free = shutil.disk_usage(folder).free
    told = f"{folder}: {human(free)} free"
    if free < LEAST_TEMP_BYTES:
        return warning(name, told, change, folder=folder, free_bytes=free)
    return ok(name, told, folder=folder, free_bytes=free)


def human(nbytes: float) -> str:
    """Returns "12.3 GB"."""
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if nbytes < 1024 or unit == "TB":
            break
        nbytes /= 1024
    return f"{nbytes:.0f} {unit}" if unit == "bytes" or nbytes >= 100 else f"{nbytes:.1f} {unit}"


def process_room() -> tuple[int, int, str]:
    """Returns how many processes and threads this user has and may have, and who says so.

    -1 is no limit.  Where this user's own limit does not count, as root's, that of the control
    group may.
    """
    groups = list(_task_limits())
    soft = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    if soft != UNLIMITED and os.getuid() != 0:
        groups.append((_threads_of(os.getuid()), soft, "ulimit -u"))
    return min(groups, key=lambda group: group[1] - group[0], default=(0, -1, ""))


def _threads_of(uid: int) -> int:
    count = 0
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdecimal() and entry.stat().st_uid == uid:
                count += len(os.listdir(entry / "task"))
    return count


def _task_limits() -> Iterator[tuple[int, int, str]]:
    """Yields (now, at most, who says so) of the control groups that this process is in.

    Source: Linux, Documentation/admin-guide/cgroup-v2.rst "PID"
    """
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            top = "/sys/fs/cgroup" + ("/pids" if controllers == "pids" else "")
            if controllers not in ("", "pids"):
                continue
            for folder in (Path(top + path), Path(top)):
                with contextlib.suppress(OSError, ValueError):
                    most = int((folder / "pids.max").read_text())
                    yield int((folder / "pids.current").read_text()), most, f"{folder}/pids.max"
                    break


def process_finding(now: int, most: int, source: str) -> Finding:
    if most < 0:
        return ok("processes", "processes and threads: no limit")
    told = f"processes and threads: {now} now, {most} at most ({source})"
    facts = {"now": now, "most": most, "source": source}
    if most - now < LEAST_PROCESSES:
        change = f"end some, or have the limit raised ({source})"
        return warning("processes", told, change, **facts)
    return ok("processes", told, **facts)
