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


DOCUMENTS = [
    "README.rst",
    *(
        f"docs/{page}.rst"
        for page in ("first_steps", "fast", "slurm", "failures", "resources", "plots")
    ),
]


def python_blocks(text: str, language: str = "python") -> list[str]:
    """Returns the contents of the `.. code-block:: python` of a reStructuredText."""
    pattern = rf"^\.\. code-block:: {language}\n\n((?:    .*\n|\n)+)"
    return [
        re.sub("^    ", "", block, flags=re.MULTILINE)
        for block in re.findall(pattern, text, re.MULTILINE)
    ]


def program_of(document: Path, folder: Path, *before: str) -> tuple[Path, list[str]]:
    """Returns a program of a document's blocks, and the lines that it should print."""
    blocks = python_blocks(document.read_text())
    script = folder / "document.py"
    script.write_text("\n".join([*before, *blocks]))
    return script, re.findall(r"print\(.*\)  # (.*)$", "\n".join(blocks), re.MULTILINE)


def run(command: list[str], cwd: Path, **variables: str) -> str:
    environment = {**os.environ, "MPLBACKEND": "Agg", **variables}
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


@pytest.mark.parametrize("document", DOCUMENTS)
def test_code_of_a_document_runs_as_written(document: str, root: Path, tmp_path: Path) -> None:
    """The blocks run one after the other in one program, as a reader would type them."""
    script, expected = program_of(root / document, tmp_path, LOCALLY)
    assert expected and run([str(script)], cwd=tmp_path).splitlines() == expected


def test_the_page_on_configuration_is_right(root: Path, tmp_path: Path) -> None:
    """Its file is the project's; its program and its commands run where that is found."""
    page = (root / "docs/configuration.rst").read_text()
    (example,) = python_blocks(page, "toml")
    (tmp_path / "gridmap.toml").write_text(example)
    (tmp_path / "gridmap.toml").chmod(0o644)
    below = tmp_path / "scripts"
    below.mkdir()
    script = below / "document.py"
    script.write_text("\n".join([LOCALLY, *python_blocks(page)]))
    variables = {"GRIDMAP_CONFIG": "", "GRIDMAP_SITE_CONFIG": os.devnull, "USER": "ada"}
    variables |= {"HOME": str(tmp_path), "XDG_CONFIG_HOME": ""}
    expected = re.findall(r"print\(.*\)  # (.*)$", page, re.MULTILINE)
    assert run([str(script)], below, **variables).splitlines() == expected
    (console,) = python_blocks(page, "console")
    commands = re.findall(r"^\$ gridmap (.*?)(?:  +#|$)", console, re.MULTILINE)
    assert len(commands) == 4
    for command in commands:
        printed = run(["-m", "gridmap", *command.split()], below, **variables)
        assert str(tmp_path / "gridmap.toml") in printed


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
