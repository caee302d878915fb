"""Runs are removed so that nobody takes one over meanwhile."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from gridmap.errors import LedgerInUse
from gridmap.ledger import removal
from gridmap.ledger.book import Book
from gridmap.ledger.directory import HISTORY, LEDGER_NAME, RunDirectory
from gridmap.ledger.facts import Header
from gridmap.ledger.file import DATA_NAME, lock
from gridmap.remains import sweep

RUN = "20260101-000000-0123abcd"
HEADER = Header("r1", "job", 1.5, "1", "3", "drmaa", [], {}, ["job"])
LONG_AGO_S = 1e9


@pytest.fixture
def run(tmp_path: Path) -> Path:
    path = tmp_path / RUN
    path.mkdir(mode=0o700)
    assert Book(path, HEADER).close()
    return aged(path)


def aged(path: Path) -> Path:
    for each in (*path.rglob("*"), path):
        os.utime(each, (LONG_AGO_S, LONG_AGO_S))
    return path


def test_nobody_can_take_over_what_is_being_removed(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Path] = []

    def rmtree(path: Path, **options: Any) -> None:
        assert not run.exists() and (path / LEDGER_NAME).exists()
        seen.append(path)

    monkeypatch.setattr(shutil, "rmtree", rmtree)
    assert sweep(run.parent, 1) == [RUN]
    assert seen


def test_what_lives_stays(run: Path) -> None:
    with lock(run):
        assert sweep(run.parent, 1) == []
        with pytest.raises(LedgerInUse):
            removal.remove(run)
    assert (run / LEDGER_NAME).exists()


@pytest.mark.parametrize("where", [".", HISTORY])
def test_what_could_not_be_removed_is_removed_later(tmp_path: Path, where: str) -> None:
    left, other = tmp_path / where / f".{RUN}.gone", tmp_path / where / ".mine.gone"
    for folder in (left, other):
        folder.mkdir(parents=True)
        (folder / "file").touch()
    sweep(tmp_path, 1e6)
    assert not left.exists() and (other / "file").exists()


def test_a_file_that_is_gone_already_keeps_nothing_else_from_going(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("connection.json", "other"):
        (run / name).touch()

    def unlink(path: Path, missing_ok: bool = False) -> None:
        (run / path.name).rename(run.parent / path.name)
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(Path, "unlink", unlink)
    RunDirectory(run).end((), keep_logs=True, keep_ledger=True)
    assert {path.name for path in run.iterdir()} == {LEDGER_NAME, DATA_NAME}
