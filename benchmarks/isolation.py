"""Runs a command so that nothing of it is left: what each measurement of a system is made by."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil

PACKAGE = Path(__file__).resolve().parent
PR_SET_CHILD_SUBREAPER = 36
UNCOMPILED = "PYTHONDONTWRITEBYTECODE"  # would have all of them compile everything each time


def run_alone(folder: Path, timeout_s: float, *module: str, **variables: str) -> int | None:
    """Runs a module of this package, in a folder, with its output in the file `log` there.

    The interpreter's own installed packages count, not those beside this one: only `benchmarks` is
    put on the path.

    :returns: its exit status, or None where it was ended after `timeout_s`
    """
    path = folder / "path"
    path.mkdir()
    (path / "benchmarks").symlink_to(PACKAGE)
    with open(folder / "log", "w") as log, _all_end():
        child = subprocess.Popen(
            [sys.executable, "-m", *module],
            cwd=folder,
            env={**_environment(path), **variables},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=_no_core,
        )
        try:
            return child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None


def _environment(path: Path) -> dict[str, str]:
    paths = [str(path), *filter(None, [os.environ.get("PYTHONPATH")])]
    programs = [os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)]
    kept = {name: value for name, value in os.environ.items() if name != UNCOMPILED}
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join(paths),
        "PATH": os.pathsep.join(programs),  # Parsl and Ray look for theirs there
    }


def _no_core() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


@contextlib.contextmanager
def _all_end() -> Iterator[None]:
    """Ends whatever was started within and is left, even what its parents have left behind."""
    here = psutil.Process()
    before = set(here.children(recursive=True))
    _adopt(True)
    try:
        yield
    finally:
        while left := set(here.children(recursive=True)) - before:
            for process in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(left, timeout=5)
        _adopt(False)


def _adopt(orphans: bool) -> None:
    """Makes the descendants whose parents end this process's children, or leaves them to init."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, int(orphans), 0, 0, 0)
