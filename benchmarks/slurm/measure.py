"""Measures each system with so many calls, in a fresh process and on an idle cluster each time."""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.cluster.schedulers import Slurm
from benchmarks.isolation import run_alone
from benchmarks.slurm.systems import PER_NODE

TIMEOUT_S = 150.0


@dataclass(frozen=True)
class Measurement:
    """What came of one process.

    :param first_s: from before the system's import until the first result was there, or None
    :param all_s: until the last one was there; None where not all came, and `note` says why
    """

    first_s: float | None = None
    all_s: float | None = None
    import_s: float | None = None
    note: str = ""


def measure(system: str, count: int) -> Measurement:
    """Measures once."""
    slurm = Slurm()
    slurm.wait_until_idle()
    # The nodes see the home folder, as they do on a real cluster.
    with tempfile.TemporaryDirectory(
        prefix="bench-", dir=Path.home(), ignore_cleanup_errors=True
    ) as name:
        folder = Path(name)
        try:
            module = ("benchmarks.slurm.child", system, str(count))
            told_of = {PER_NODE: str(slurm.processors())}
            status = run_alone(folder, TIMEOUT_S, *module, **told_of)
        finally:
            slurm.delete_all()
        answer = folder / "answer.json"
        told: dict[str, Any] = {"note": "", "count": 0}
        if answer.exists():
            told = json.loads(answer.read_text())
        if told["note"] or told["count"] < count:
            print((folder / "log").read_text()[-2000:], file=sys.stderr)
    first_s, import_s, note = told.get("first_s"), told.get("import_s"), told["note"]
    if not note and told["count"] == count:
        return Measurement(first_s, told["last_s"], import_s)
    if not note and status is None:
        note = f"not done after {TIMEOUT_S:.0f} s: {told['count']:,} results had come"
    return Measurement(first_s, None, import_s, note or f"ends with status {status}")
