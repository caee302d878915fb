"""The README and the examples, run as written, on this machine."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

# Before the README's own code: its calls use local processes, cluster or not.
LOCALLY = """
import functools, gridmap
for _name in ("grid_map", "grid_imap", "grid_imap_unordered", "process_jobs", "submit"):
    _call = functools.partial(getattr(gridmap, _name), backend="local", max_processes=2)
    setattr(gridmap, _name, _call)
del functools, gridmap
"""


def python_blocks(text: str) -> list[str]:
    """Returns the contents of the `.. code-block:: python` of a reStructuredText."""
    pattern = r"^\.\. code-block:: python\n\n((?:    .*\n|\n)+)"
    return [
        re.sub("^    ", "", block, flags=re.MULTILINE)
        for block in re.findall(pattern, text, re.MULTILINE)
    ]


def run(command: list[str], cwd: Path) -> str:
    environment = {**os.environ, "MPLBACKEND": "Agg"}
    done = subprocess.run(
        [sys.executable, *command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return done.stdout


def test_blocks_are_found() -> None:
    text = "a\n\n.. code-block:: python\n\n    x = 1\n\n    if x:\n        y = 2\n\nb\n"
    assert python_blocks(text) == ["x = 1\n\nif x:\n    y = 2\n\n"]


@pytest.mark.parametrize(
    "document",
    [
        "README.rst",
        *(f"docs/{page}.rst" for page in ("first_steps", "fast", "slurm", "failures", "resources")),
    ],
)
def test_code_of_a_document_runs_as_written(document: str, root: Path, tmp_path: Path) -> None:
    """The blocks run one after the other in one program, as a reader would type them."""
    blocks = python_blocks((root / document).read_text())
    script = tmp_path / "document.py"
    script.write_text("\n".join([LOCALLY, *blocks]))
    printed = run([str(script)], cwd=tmp_path)
    expected = re.findall(r"print\(.*\)  # (.*)$", "\n".join(blocks), re.MULTILINE)
    assert expected and printed.splitlines() == expected


def test_map_reduce(root: Path, tmp_path: Path) -> None:
    printed = run([str(root / "examples/map_reduce.py"), "--local"], tmp_path).splitlines()
    assert len(printed) == 11
    assert {"self", "if", "the", "return"} <= {line.split()[-1] for line in printed[1:]}


def test_manual(root: Path, tmp_path: Path) -> None:
    printed = run([str(root / "examples/manual.py"), "--local"], tmp_path)
    results = dict(line.split() for line in printed.splitlines())
    assert float(results["fine"]) == pytest.approx(1 / 3, abs=1e-8)
    assert float(results["coarse"]) == pytest.approx(1 / 3, abs=1e-6)
    assert float(results["pi"]) == pytest.approx(3.14159265, abs=1e-6)


def test_grid_search(root: Path, tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    lines = run([str(root / "examples/grid_search.py"), "--local"], tmp_path).splitlines()
    accuracies = [float(line.split()[1]) for line in lines]
    assert len(accuracies) == 9
    assert accuracies == sorted(accuracies, reverse=True)
    assert accuracies[0] > 0.95
