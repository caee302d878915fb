"""The benchmarks on a cluster, with small sizes: they run, and their results are right."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.scheduler import SCHEDULER

PART = {"drmaa": "cluster", "slurm": "cluster-slurm"}[SCHEDULER.kind]


def measured(part: str, root: Path, folder: Path) -> dict[str, Any]:
    """Returns what a part of the benchmarks records."""
    file = folder / "performance.json"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", part, "--smoke", "--record", str(file)],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    parts: dict[str, Any] = json.loads(file.read_text())["parts"]
    return parts


def test_the_benchmarks_run(root: Path, tmp_path: Path) -> None:
    tables = measured("cluster", root, tmp_path)[PART]["tables"]
    assert sorted(tables) == ["arrays", "broadcast", "calls", "first result"]
    assert all(row["values"] and not row["note"] for rows in tables.values() for row in rows)


@pytest.mark.only_on("slurm")
def test_the_benchmark_beside_peers_runs_without_them(root: Path, tmp_path: Path) -> None:
    tables = measured("slurm", root, tmp_path)["slurm"]["tables"]
    assert tables.keys() == {f"{n} calls: {kind}" for n in (8, 100) for kind in ("first", "all")}
    (gridmap,) = tables["100 calls: all"]
    assert gridmap["system"] == "GridMap" and not gridmap["note"]
    assert 0 < tables["100 calls: first"][0]["values"][0] <= gridmap["values"][0]
