"""Commands that do not answer."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from gridmap.backends import commands
from gridmap.backends.commands import LATE, run


def test_a_late_command_ends_with_all_that_it_started(tmp_path: Path) -> None:
    """Sites wrap their scheduler's commands in scripts of a shell."""
    note = tmp_path / "pid"
    script = f"sleep 60 & echo $! > {note}; wait"
    began = time.monotonic()
    code, output = run("sh", "-c", script, deadline_s=0.5)
    assert (code, output) == (LATE, "no answer within 0.5 s")
    assert time.monotonic() < began + 10
    pid = int(note.read_text())
    end = time.monotonic() + 5
    while _lives(pid):
        assert time.monotonic() < end, "the command's own process lives on"
        time.sleep(0.01)


def _lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_a_command_that_leaves_something_running_has_answered() -> None:
    """As ssh with ControlPersist does."""
    script = "echo JOB 1; setsid sleep 2 & exit 3"
    assert run("sh", "-c", script, deadline_s=0.5) == (3, "JOB 1\n")


def test_what_a_command_reads_and_prints() -> None:
    assert run("cat", deadline_s=10, text="here\n") == (0, "here\n")
    assert run("sh", "-c", "echo out; echo err >&2; exit 3", deadline_s=10) == (3, "out\nerr\n")
    code, output = run("/nosuch/command", deadline_s=10)
    assert code == 127 and "No such file" in output


def test_a_command_that_prints_without_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "MOST_OUTPUT_BYTES", 1 << 20)
    began = time.monotonic()
    code, output = run("sh", "-c", "exec yes", deadline_s=60)
    assert (code, output) == (
        commands.LONG, "sh printed more than 1 MiB, and was ended: is it in a loop?",
    )  # fmt: skip
    assert time.monotonic() < began + 30
    assert run("head", "-c", str(1 << 20), "/dev/zero", deadline_s=30)[0] == 0


def test_a_long_text_and_a_command_that_does_not_read_it() -> None:
    text = "x" * (1 << 20)
    assert run("cat", deadline_s=30, text=text) == (0, text)
    assert run("true", deadline_s=30, text=text) == (0, "")
    assert run("sh", "-c", "exec >&- 2>&-; exit 4", deadline_s=30, text=text) == (4, "")
    assert run("sh", "-c", "exec >&- 2>&-; sleep 60", deadline_s=0.3)[0] == LATE


def test_a_command_sees_the_environment_that_it_is_given() -> None:
    assert run("sh", "-c", "echo $A-$HOME", deadline_s=10, environment={"A": "1"}) == (0, "1-\n")
    assert run("sh", "-c", "echo $HOME", deadline_s=10) == (0, f"{os.environ['HOME']}\n")
