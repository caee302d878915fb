"""The README, the pages of the documentation and the examples, run as written, on this machine.

A comment before a code block of a page says what else is to be done with it:

.. not run: REASON                  it is only shown
.. run on a cluster: TEST           that test runs it, on a real scheduler
.. saved as: NAME                   it is a file, in the folder above that of the page's program
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Before a page's own code: its calls use local processes, cluster or not.
LOCALLY = """
import functools, gridmap
for _name in ("grid_map", "grid_imap", "grid_imap_unordered", "process_jobs", "submit"):
    _call = functools.partial(getattr(gridmap, _name), backend="local", max_processes=2)
    setattr(gridmap, _name, _call)
del functools, gridmap
"""

MARKS = ("not run", "run on a cluster", "saved as")
BLOCK = re.compile(
    rf"^(?:\.\. ({'|'.join(MARKS)}): (.+)\n\n)?"
    r"\.\. code-block:: (\w+)\n(?:    ?:.*\n)*\n((?:    .*\n|\n)+)",
    re.MULTILINE,
)


class Block(NamedTuple):
    """A code block of a page.

    :param mark: one of MARKS, or empty; `told` is what it says
    """

    mark: str
    told: str
    language: str
    text: str


def code_blocks(page: str) -> list[Block]:
    """Returns the code blocks of a reStructuredText."""
    return [
        Block(mark, told, language, re.sub("^    ", "", text, flags=re.MULTILINE))
        for mark, told, language, text in BLOCK.findall(page)
    ]


def python_blocks(page: str, *marks: str) -> list[str]:
    """Returns the Python of a page that is to be run.

    :param marks: that of blocks so marked, too
    """
    return [
        block.text
        for block in code_blocks(page)
        if block.language == "python" and block.mark in ("", *marks)
    ]


def commands(page: str) -> list[str]:
    """Returns what a page has people tell the command `gridmap`."""
    lines = [b.text for b in code_blocks(page) if (b.mark, b.language) == ("", "console")]
    return re.findall(r"^\$ gridmap (.*?)(?: +#.*)?$", "\n".join(lines), re.MULTILINE)


PAGES = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in [ROOT / "README.rst", *sorted((ROOT / "docs").glob("*.rst"))]
}


def program_of(document: Path, folder: Path, *before: str) -> tuple[Path, list[str]]:
    """Returns a program of a document's blocks, and the lines that it should print."""
    page = document.read_text()
    program = python_blocks(page)
    for block in code_blocks(page):
        if block.mark == "saved as":
            path = folder.parent / block.told
            path.write_text(block.text)
            path.chmod(0o644)  # configuration files that others could write are not read
    script = folder / "document.py"
    script.write_text("\n".join([*before, *program]))
    return script, re.findall(r"print\(.*\)  # (.*)$", "\n".join(program), re.MULTILINE)


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


def at_home(folder: Path) -> dict[str, str]:
    """Returns the environment of somebody whose home folder is empty but for what a page says."""
    return {
        "GRIDMAP_CONFIG": "",
        "GRIDMAP_SITE_CONFIG": os.devnull,
        "XDG_CONFIG_HOME": "",
        "HOME": str(folder),
        "USER": "ada",
    }


@pytest.fixture
def below(tmp_path: Path) -> Path:
    """Returns the folder in which a page's code runs."""
    folder = tmp_path / "scripts"
    folder.mkdir()
    return folder


def test_blocks_are_found() -> None:
    shown = ".. not run: theirs\n\n.. code-block:: python\n\n    import theirs\n\nc\n"
    text = "a\n\n.. code-block:: python\n\n    x = 1\n\n    if x:\n        y = 2\n\nb\n\n" + shown
    assert python_blocks(text) == ["x = 1\n\nif x:\n    y = 2\n\n"]
    assert python_blocks(text, "not run") == [*python_blocks(text), "import theirs\n\n"]
    console = "\n.. code-block:: console\n\n    $ gridmap config --path   # where\n    $ make\n\n"
    assert commands(console) == ["config --path"]
    assert commands(console.replace("\n..", "\n.. not run: no\n\n..", 1)) == []


@pytest.mark.parametrize("document", PAGES)
def test_no_block_is_overlooked(document: str, root: Path) -> None:
    page, blocks = PAGES[document], code_blocks(PAGES[document])
    assert len(blocks) == len(re.findall(r"\.\. code-block::", page))
    assert sum(bool(block.mark) for block in blocks) == sum(
        len(re.findall(rf"^ *\.\. {mark}\b", page, re.MULTILINE)) for mark in MARKS
    )
    for block in blocks:
        if block.mark == "run on a cluster":
            assert (root / block.told).is_file()


@pytest.mark.parametrize("document", [name for name, page in PAGES.items() if python_blocks(page)])
def test_code_of_a_document_runs_as_written(document: str, root: Path, below: Path) -> None:
    """The blocks run one after the other in one program, as a reader would type them."""
    script, expected = program_of(root / document, below, LOCALLY)
    printed = run([str(script)], below, **at_home(below.parent))
    assert expected and printed.splitlines() == expected


@pytest.mark.parametrize("document", [name for name, page in PAGES.items() if commands(page)])
def test_commands_of_a_document_run_as_written(document: str, root: Path, below: Path) -> None:
    program_of(root / document, below)
    for command in commands(PAGES[document]):
        printed = run(["-m", "gridmap", *command.split()], below, **at_home(below.parent))
        assert printed
        if document == "docs/configuration.rst":
            assert str(below.parent / "gridmap.toml") in printed


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
