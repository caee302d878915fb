"""What runs have left behind."""

from __future__ import annotations

from pathlib import Path

from gridmap.ledger.directory import HISTORY


def left_of_runs(folder: Path) -> list[str]:
    """Returns what lies where runs are kept, but for the history of those that are over."""
    found = (path.relative_to(folder) for path in folder.rglob("*"))
    return sorted(str(path) for path in found if path.parts[0] != HISTORY)
