"""Measures each system with each workload, in a fresh process each time."""

from __future__ import annotations

import json
import signal
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.isolation import run_alone

TIMEOUT_S = 120.0


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
    """Measures once."""
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        words = ("benchmarks.local.child", system, workload, size)
        status = run_alone(folder, TIMEOUT_S, *words, RAY_TMPDIR=name)
        if status is None:
            return Measurement(note=f"not done after {TIMEOUT_S:.0f} s")
        return _read(folder, status)


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
