"""The `gridmap` command, here and as a process of its own, beside programs that it looks at."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from gridmap import cli
from gridmap.watching.observer import Observer
from tests.doors.clients import Client, until
from tests.watching.conftest import only, runs, waiting

__all__ = ["runs", "waiting"]

COMMAND = [sys.executable, "-W", "error", "-m", "gridmap"]


HERE = {"runs", "status", "jobs", "show", "logs", "cancel", "top", "report", "clean"}
"""Commands that run no code of jobs: in this process they say the same, for a tenth of the cost."""


class Done:
    """What a command said."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err

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


def gridmap(*words: str, cwd: Path | None = None) -> Done:
    """Runs a command to its end: in this process where that is the same."""
    return _called(*words, cwd=cwd) if words[0] in HERE else apart(*words, cwd=cwd)


def apart(*words: str, cwd: Path | None = None) -> Done:
    """Runs a command to its end, in a process of its own."""
    done = subprocess.run(
        [*COMMAND, *words], input="", capture_output=True, text=True, timeout=100, cwd=cwd
    )
    return _well(Done(done.returncode, done.stdout, done.stderr))


def _called(*words: str, cwd: Path | None) -> Done:
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8") for _ in range(2))
    before = Path.cwd()
    os.chdir(before if cwd is None else cwd)
    try:
        with (
            warnings.catch_warnings(),
            mock.patch.object(sys, "stdin", io.StringIO()),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            warnings.simplefilter("error")
            try:
                status = cli.main(words)
            except SystemExit as ended:  # wrong usage
                status = int(ended.code or 0)
    finally:
        os.chdir(before)
    said = []
    for stream in (out, err):
        stream.flush()
        said.append(stream.buffer.getvalue().decode())  # type: ignore[attr-defined]
    return _well(Done(status, *said))


def _well(done: Done) -> Done:
    assert "Traceback (most recent call last)" not in done.err, done.err
    return done


@pytest.fixture
def settled(waiting: Client, runs: Path) -> Client:
    """The program, whose ledger has the eight values and two failures by now."""
    with Observer(only(runs)) as one:
        until(lambda: one.run().completed == 8, "the ledger has eight values", 30)
    return waiting
