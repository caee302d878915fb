"""A shell completes commands, options and ids of runs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gridmap.ledger.directory import HISTORY, LEDGER_NAME

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]  # a process for each command

RUNS = ("20260101-000000-aa", "20260102-000000-bb")
BASH = """
eval "$(gridmap completion bash)"
COMP_LINE={line!r} COMP_POINT={point} COMP_TYPE=9 COMP_WORDBREAKS=$' \\t\\n"\\'><=;|&(:'
COMP_WORDS=({line})
COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - {more} ))
set -- $(complete -p gridmap)
while [ "$1" != -F ]; do shift; done
compopt() {{ :; }}
"$2" gridmap
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of runs, and a `gridmap` on PATH."""
    for folder in (RUNS[0], f"{HISTORY}/{RUNS[1]}"):
        path = tmp_path / "runs" / folder
        path.mkdir(parents=True)
        (path / LEDGER_NAME).touch()
    command = tmp_path / "bin" / "gridmap"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m gridmap "$@"\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("GRIDMAP_RUN_DIR", str(tmp_path / "runs"))
    return tmp_path


def shell(*command: str) -> list[str]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return [line.rstrip() for line in done.stdout.splitlines()]


def completed(line: str) -> list[str]:
    more = 0 if line.endswith(" ") else 1
    script = BASH.format(line=line, point=len(line), more=more)
    return shell("bash", "--norc", "-c", script)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("gridmap sta", ["status"]),
        ("gridmap status ", ["last", *RUNS]),
        ("gridmap status 20260102", [RUNS[1]]),
        ("gridmap jobs last --st", ["--state"]),
        ("gridmap jobs last --state f", ["failed"]),
        ("gridmap clean --older", ["--older-than"]),
        ("gridmap doctor --no-s", ["--no-submit"]),
        ("gridmap completion ", ["bash", "fish", "zsh"]),
    ],
)
def test_in_bash(here: Path, line: str, expected: list[str]) -> None:
    found = [word for word in completed(line) if not word.startswith("-") or "-" in expected[0]]
    assert sorted(found) == sorted(expected)


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not here")
def test_in_fish(here: Path) -> None:
    script = "gridmap completion fish | source; complete -C 'gridmap status 20260102'"
    assert [line.split("\t")[0] for line in shell("fish", "--no-config", "-c", script)] == [RUNS[1]]


ZSH = """
zmodload zsh/zpty
zpty shell zsh -f -i
zpty -w shell 'PS1=; autoload -U compinit; compinit -u -D; eval "$(gridmap completion zsh)"'
zpty -w shell 'print READ''Y'
while zpty -r shell line; do [[ $line == *READY* ]] && break; done
zpty -w -n shell $'gridmap status 20260102\\t'
zpty -w shell ' DO''NE'
while zpty -r shell line; do print -r -- $line; [[ $line == *DO*NE* ]] && break; done
zpty -d shell
"""


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not here")
def test_in_zsh(here: Path) -> None:
    assert RUNS[1] in "".join(shell("zsh", "-f", "-c", ZSH))


def test_it_is_quick_and_loads_nothing_heavy(here: Path) -> None:
    program = (
        "import os, sys, time\n"
        "from gridmap import cli\n"
        "leave = os._exit\n"
        "def end(status):\n"
        "    heavy = {'zmq', 'rich', 'sqlite3', 'gridmap.watching', 'drmaa', 'numpy', 'psutil'}\n"
        "    print(sorted(heavy & set(sys.modules)), flush=True)\n"
        "    leave(status)\n"
        "os._exit = end\n"
        "cli.main([])\n"
    )
    line = "gridmap status 20260102"
    told = {
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_IFS": "\n",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(here / "words"),
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
    }

    def timed(*command: str) -> float:
        took = []
        for _ in range(5):
            begun = time.perf_counter()
            done = subprocess.run(
                command, env={**os.environ, **told}, capture_output=True, text=True, timeout=60
            )
            took.append(time.perf_counter() - begun)
            assert done.returncode == 0, done.stderr
        return min(took)

    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **told}, capture_output=True, text=True,
        timeout=60,
    )  # fmt: skip
    assert done.stdout == "[]\n", done.stderr
    assert (here / "words").read_text().strip() == RUNS[1]
    bare = timed(sys.executable, "-c", "pass")
    assert timed(sys.executable, "-m", "gridmap") - bare < max(0.15, 4 * bare)
