"""Measures each system with each workload, in a fresh process each time."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

PACKAGE = Path(__file__).resolve().parents[1]
TIMEOUT_S = 120.0
PR_SET_CHILD_SUBREAPER = 36
UNCOMPILED = "PYTHONDONTWRITEBYTECODE"  # would have all of them compile everything each time


@dataclass(frozen=True)
class Measurement:
    """What came of one process.

    :param seconds: from before the system's import until the results were there and its end
        over; None where it came to no results
    """

    seconds: float | None = None
    import_s: float | None = None
    note: str = ""


def measure(system: str, workload: str, size: str = "full") -> Measurement:
    """Measures once.

    The interpreter's own installed packages count, not this folder's: only `benchmarks` is put
    on the path.
    """
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as folder:
        path = Path(folder, "path")
        path.mkdir()
        (path / "benchmarks").symlink_to(PACKAGE)
        command = [sys.executable, "-m", "benchmarks.local.child", system, workload, size]
        with open(Path(folder, "log"), "w") as log, _all_end():
            child = subprocess.Popen(
                command,
                cwd=folder,
                env=_environment(path, folder),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_no_core,
            )
            try:
                status = child.wait(TIMEOUT_S)
            except subprocess.TimeoutExpired:
                return Measurement(note=f"not done after {TIMEOUT_S:.0f} s")
        return _read(Path(folder), status)


def _environment(path: Path, folder: str) -> dict[str, str]:
    paths = [str(path), *filter(None, [os.environ.get("PYTHONPATH")])]
    programs = [os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)]
    kept = {name: value for name, value in os.environ.items() if name != UNCOMPILED}
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join(paths),
        "PATH": os.pathsep.join(programs),  # Parsl and Ray look for theirs there
        "RAY_TMPDIR": folder,
    }


def _read(folder: Path, status: int) -> Measurement:
    answer = folder / "answer.json"
    if not answer.exists():
        reason = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        print((folder / "log").read_text()[-2000:], file=sys.stderr)
        return Measurement(note=f"dies: {reason}")
    said = json.loads(answer.read_text())
    if "text" in said:
        print(f"{said['note']}: {said['text'][:1000]}", file=sys.stderr)
    return Measurement(said.get("seconds"), said.get("import_s"), said["note"])


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
