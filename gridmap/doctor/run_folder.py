"""Probe: the folder of runs, and a folder in it such as a run has."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from gridmap.doctor.exam import Exam, run_parent
from gridmap.doctor.findings import Finding, failed, ok, skipped, warning
from gridmap.doctor.machine import human

PREFIX = "doctor-"
LOCK_NAME = "lock"
OLD_S = 86_400.0
"""A doctor's folder that is so old was left by one that was killed."""

SAMPLE_BYTES = 1 << 20
LEAST_BYTES = 1 << 30
LEAST_FILES = 1000

IN_MEMORY = frozenset({"tmpfs", "ramfs", "overlay", "squashfs"})
"""File systems that no other host sees."""

SHARED = (
    "9p", "afs", "beegfs", "ceph", "cifs", "fuse.ceph", "fuse.glusterfs", "fuse.sshfs", "gfs2",
    "glusterfs", "gpfs", "lustre", "nfs", "ocfs2", "orangefs", "panfs", "pvfs2", "smb3", "virtiofs",
    "wekafs",
)  # fmt: skip
"""File systems that hosts share; each stands for the names that begin so."""

OF_ONE_HOST = ("/tmp", "/var/tmp", "/dev/shm", "/run")

_TRY_LOCK = """
import fcntl, sys
with open(sys.argv[1], "r+b") as file:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        print(error.errno)
    else:
        print(0)
"""


def examine(exam: Exam) -> Iterator[Finding]:
    """Makes a folder as a run would, and looks at what it is worth."""
    if exam.settings is None:
        yield skipped("folder", "the settings have to be valid first")
        return
    from gridmap.ledger.directory import RunDirectory
    from gridmap.plan import new_run_id

    parent = run_parent(exam.settings)
    sweep(parent)
    existed = parent.is_dir()
    exam.undo.callback(
        remove_empty, [path for path in (parent, *parent.parents) if not path.exists()]
    )
    try:
        directory = RunDirectory.make(str(parent), PREFIX + new_run_id())
    except OSError as error:
        yield failed(
            "folder",
            f"{error.filename or parent}: {error.strerror}",
            "set GRIDMAP_RUN_DIR to a folder that you may write and that the nodes share",
            path=str(parent),
        )
        return
    exam.undo.callback(remove, directory.path)
    told = f"{parent}: {'is there' if existed else 'was made'}, and can be written"
    yield ok("folder", told, path=str(parent))
    yield private_finding(directory.path, parent)
    yield file_system_finding(parent, Path("/proc/self/mountinfo").read_text(), exam.is_local)
    yield space_finding(directory.path)
    lock = lock_finding(exam, directory.path)
    yield lock
    exam.directory = directory


def sweep(parent: Path) -> None:
    """Removes what doctors left who were killed long ago."""
    with contextlib.suppress(OSError):
        for path in parent.glob(PREFIX + "*"):
            status = path.lstat()
            old = status.st_mtime < time.time() - OLD_S
            if old and stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid():
                shutil.rmtree(path, ignore_errors=True)


def remove(folder: Path) -> None:
    """Removes the doctor's folder; tasks that end at this moment may still write in it."""
    for _ in range(20):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.1)


def remove_empty(folders: list[Path]) -> None:
    """Removes folders that were made for the doctor's, innermost first."""
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()


def private_finding(folder: Path, parent: Path) -> Finding:
    """Returns whether only this user can read a run's folder, and exchange it."""
    from gridmap.wire.keys import ConnectionFileError, check_private

    try:
        check_private(folder.lstat(), folder, folder=True)
    except ConnectionFileError as error:
        return failed(
            "private",
            f"{error}: this file system does not keep modes or owners as they are set",
            "set GRIDMAP_RUN_DIR to a folder on another file system",
        )
    mode = parent.stat().st_mode
    if mode & (stat.S_IWGRP | stat.S_IWOTH) and not mode & stat.S_ISVTX:
        return warning(
            "private",
            f"others may write {parent} (mode {stat.S_IMODE(mode):o}), and so remove your runs",
            f"chmod go-w {parent}",
        )
    return ok("private", "runs' folders are open to you alone")


# --- the file system ------------------------------------------------------------------------------


class Mount(NamedTuple):
    """A mounted file system."""

    point: str
    kind: str
    source: str


def mount_of(path: str, mountinfo: str) -> Mount:
    """Returns the file system that an absolute path is on.

    :param mountinfo: the content of /proc/self/mountinfo
    Source: proc(5) "/proc/pid/mountinfo"
    """
    best = Mount("", "unknown", "")
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        fields, more = left.split(" "), right.split(" ")
        if len(fields) < 5 or len(more) < 2:
            continue
        point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), fields[4])
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best.point):  # the last of equal ones lies on top
            best = Mount(point, more[0], more[1])
    return best


def file_system_finding(parent: Path, mountinfo: str, is_local: bool) -> Finding:
    """Returns whether other hosts may see the folder."""
    path = os.path.realpath(parent)
    mount = mount_of(path, mountinfo)
    told = f"{mount.kind} at {mount.point} ({mount.source})"
    facts = {"kind": mount.kind, "mount_point": mount.point, "source": mount.source}
    if mount.kind.startswith(SHARED):
        return ok("file_system", f"{told}, which hosts share", **facts)
    if is_local:
        return ok("file_system", told, **facts)
    # what is mounted on /tmp may be shared, what is in /tmp of the root's file system is not
    inside = any(path == place or path.startswith(place + "/") for place in OF_ONE_HOST)
    if mount.kind in IN_MEMORY or inside:
        where = f"{told}: only this host sees it, as a rule" if not inside else f"{path}, on {told}"
        return warning(
            "file_system",
            f"{where}; nodes look for it in vain",
            "set GRIDMAP_RUN_DIR to a folder that the nodes share, as in your home folder",
            **facts,
        )
    return ok(
        "file_system", f"{told}: a disk of this host; nodes see it if it is exported", **facts
    )


def space_finding(folder: Path) -> Finding:
    """Writes a little, as far as a quota lets it, and looks how much more there is room for."""
    sample = folder / "sample"
    try:
        with open(sample, "wb") as file:
            file.write(bytes(SAMPLE_BYTES))
            file.flush()
            os.fsync(file.fileno())
        sample.unlink()
    except OSError as error:
        return failed(
            "space",
            f"{human(SAMPLE_BYTES)} cannot be written: {error.strerror}",
            "make room, or set GRIDMAP_RUN_DIR to a folder with room",
        )
    room = os.statvfs(folder)
    free = room.f_bavail * room.f_frsize
    facts = {"free_bytes": free, "free_files": room.f_favail}
    no_files = bool(room.f_files) and room.f_favail < LEAST_FILES
    if free < LEAST_BYTES or no_files:
        told = f"{human(free)} free" + (f", room for {room.f_favail} files" if no_files else "")
        return warning(
            "space", told, "make room, or set GRIDMAP_RUN_DIR to another folder", **facts
        )
    return ok("space", f"{human(free)} free", **facts)


def lock_finding(exam: Exam, folder: Path) -> Finding:
    """Takes a lock as the ledger does; another process must not get it.

    It is held until the end: tasks on nodes try it, too.
    """
    path = folder / LOCK_NAME
    advice = (
        "set GRIDMAP_RUN_DIR to a file system with locks (NFS: without nolock, with its lock "
        "daemon), or GRIDMAP_LEDGER=never, by which runs cannot be taken over"
    )
    try:
        file = exam.undo.enter_context(path.open("w+b"))
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return failed("locks", f"{path} cannot be locked: {error.strerror}", advice)
    try:
        done = subprocess.run(
            [sys.executable, "-S", "-c", _TRY_LOCK, str(path)],
            capture_output=True,
            text=True,
            timeout=30,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return warning(
            "locks", f"a lock was taken, and no other process could try: {error}", advice
        )
    if done.stdout.strip() == "0":
        return failed("locks", "a lock is given to two processes at once", advice)
    return ok("locks", "a lock that is held here is refused to another process")
