"""The benchmarks on a cluster, with small sizes: they run, and their results are right."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.only_on("drmaa")
def test_the_benchmarks_run(root: Path, tmp_path: Path) -> None:
    file = tmp_path / "performance.json"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "cluster", "--smoke", "--record", str(file)],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    tables = json.loads(file.read_text())["parts"]["cluster"]["tables"]
    assert sorted(tables) == ["arrays", "broadcast", "calls", "first result"]
    assert all(row["values"] and not row["note"] for rows in tables.values() for row in rows)
