"""The `gridmap` command as a process of its own, beside programs that it looks at."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gridmap.watching.observer import Observer
from tests.doors.clients import Client, until
from tests.watching.conftest import only, runs, waiting

__all__ = ["runs", "waiting"]

COMMAND = [sys.executable, "-W", "error", "-m", "gridmap"]


class Done:
    """What a command said."""

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        self.status, self.out, self.err = done.returncode, done.stdout, done.stderr

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def rows(self) -> list[dict[str, str]]:
        """The lines of a table, by its headings."""
        headings, *lines = (line.split("\t") for line in self.out.splitlines())
        return [dict(zip(headings, line, strict=True)) for line in lines]

    @property
    def facts(self) -> dict[str, str]:
        """Names and values; of those with one name, the last."""
        pairs = (line.partition("\t") for line in self.out.splitlines())
        return {name: value for name, _, value in pairs}


def gridmap(*words: str, cwd: Path | None = None, stdin: str = "", **environment: str) -> Done:
    """Runs the command to its end."""
    done = subprocess.run(
        [*COMMAND, *words], input=stdin, capture_output=True, text=True, timeout=100, cwd=cwd,
        env={**os.environ, **environment},
    )  # fmt: skip
    assert "Traceback (most recent call last)" not in done.stderr, done.stderr
    return Done(done)


@pytest.fixture
def settled(waiting: Client, runs: Path) -> Client:
    """The program, whose ledger has the eight values and two failures by now."""
    with Observer(only(runs)) as one:
        until(lambda: one.run().completed == 8, "the ledger has eight values", 30)
    return waiting
