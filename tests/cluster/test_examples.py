"""The examples and the documents' code, unchanged, on a real scheduler."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.left import left_of_runs
from tests.test_examples import program_of

# Those whose code is made for any cluster; docs/migrating.rst asks for more than a small one has.
DOCUMENTS = [
    "README.rst",
    *("docs/first_steps.rst", "docs/map_and_jobs.rst", "docs/fast.rst", "docs/failures.rst"),
    *("docs/resources.rst", "docs/grid_engine.rst", "docs/slurm.rst"),
]


def run(script: Path, folder: Path) -> list[str]:
    """Returns the lines that it prints; where it fell back to local processes it fails."""
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=folder,
        env={**os.environ, "GRIDMAP_MAX_WORKERS": "3", "GRIDMAP_RUN_DIR": str(folder / "runs")},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    assert "running on this machine" not in done.stderr
    return done.stdout.splitlines()


def run_example(example: str, root: Path, folder: Path) -> list[str]:
    lines = run(root / "examples" / example, folder)
    assert (folder / "runs").is_dir() and not left_of_runs(folder / "runs")
    return lines


@pytest.mark.parametrize("document", DOCUMENTS)
def test_code_of_a_document_runs_as_written(document: str, root: Path, tmp_path: Path) -> None:
    script, expected = program_of(root / document, tmp_path)
    assert run(script, tmp_path) == expected


def test_map_reduce(root: Path, tmp_path: Path) -> None:
    lines = run_example("map_reduce.py", root, tmp_path)
    assert len(lines) == 11
    assert {"self", "if", "the", "return"} <= {line.split()[-1] for line in lines[1:]}


def test_manual(root: Path, tmp_path: Path) -> None:
    results = dict(line.split() for line in run_example("manual.py", root, tmp_path))
    assert float(results["fine"]) == pytest.approx(1 / 3, abs=1e-8)
    assert float(results["coarse"]) == pytest.approx(1 / 3, abs=1e-6)
    assert float(results["pi"]) == pytest.approx(3.14159265, abs=1e-6)


def test_grid_search(root: Path, tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    lines = run_example("grid_search.py", root, tmp_path)
    accuracies = [float(line.split()[1]) for line in lines]
    assert len(accuracies) == 9
    assert accuracies == sorted(accuracies, reverse=True)
    assert accuracies[0] > 0.95
