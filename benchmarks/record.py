"""Keeps what was measured in docs/performance.json.

{"parts": {part: {"date", "machine", "command", "versions": {system: version},
                  "tables": {table: [row, ...]}}}}
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
from pathlib import Path
from statistics import median
from typing import Any, TypedDict

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "docs" / "performance.json"


class Goal(TypedDict, total=False):
    """What a figure is to be; one of the two."""

    at_most: float
    at_least: float


class Row(TypedDict):
    """One thing that was measured, with one system.

    values has every single measurement; the figure shown is their median.  Where something went
    wrong note says what, and values may be empty.
    """

    what: str
    system: str
    unit: str
    values: list[float]
    goal: Goal | None
    goal_text: str
    note: str


def row(
    what: str,
    unit: str,
    values: list[float],
    system: str = "GridMap",
    goal: Goal | None = None,
    goal_text: str = "",
    note: str = "",
) -> Row:
    return Row(
        what=what,
        system=system,
        unit=unit,
        values=values,
        goal=goal,
        goal_text=goal_text,
        note=note,
    )


def figure(entry: Row) -> float | None:
    """Returns the median, or None where nothing was measured."""
    return median(entry["values"]) if entry["values"] else None


def met(entry: Row) -> bool | None:
    """Returns whether the goal is met, or None where there is none."""
    goal, value = entry["goal"], figure(entry)
    if not goal:
        return None
    if value is None or entry["note"]:
        return False
    return value <= goal.get("at_most", value) and value >= goal.get("at_least", value)


def read(file: Path = FILE) -> dict[str, Any]:
    """Returns all parts, by name."""
    parts: dict[str, Any] = json.loads(file.read_text())["parts"] if file.exists() else {}
    return parts


def record(
    part: str,
    table: str,
    rows: list[Row],
    command: str,
    versions: dict[str, str] | None = None,
    file: Path = FILE,
) -> None:
    """Puts a table in the place of the one of that name; the others stay as they are."""
    parts = read(file)
    kept = parts.setdefault(part, {"tables": {}, "versions": {}})
    kept["date"] = datetime.date.today().isoformat()
    kept["machine"] = machine()
    kept["command"] = command
    kept["versions"] |= versions or {}
    kept["tables"][table] = rows
    new = file.with_suffix(f".{os.getpid()}.new")
    new.write_text(json.dumps({"parts": parts}, indent=1, sort_keys=True) + "\n")
    new.replace(file)


def add_option(parser: argparse.ArgumentParser) -> None:
    """Adds --record, which every part has: where to note what was measured, None for nowhere."""
    parser.add_argument(
        "--record",
        type=Path,
        nargs="?",
        const=FILE,
        metavar="FILE",
        help=f"note it in FILE (where none is named: {FILE.relative_to(ROOT)})",
    )


def machine() -> dict[str, Any]:
    """Returns what a figure depends on."""
    return {
        "cpu": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
