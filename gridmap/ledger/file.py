"""The file of a run's ledger: its tables, how it is made, and its lock."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from gridmap.errors import LedgerError, LedgerInUse
from gridmap.ledger.directory import LEDGER_NAME
from gridmap.ledger.facts import Header

DATA_NAME = "ledger.data"
FORMAT = 5

_TABLES = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value BLOB NOT NULL);
CREATE TABLE blobs (digest TEXT PRIMARY KEY, at INTEGER, sizes BLOB);
CREATE TABLE parts (first INTEGER PRIMARY KEY, count INTEGER, spec BLOB, at INTEGER, sizes BLOB);
CREATE TABLE requests (id INTEGER PRIMARY KEY, pool INTEGER, count INTEGER);
CREATE TABLE answers (request INTEGER PRIMARY KEY);
CREATE TABLE workers (native_id TEXT PRIMARY KEY, pool INTEGER, request INTEGER);
CREATE TABLE leases (worker TEXT, incarnation TEXT, first INTEGER, count INTEGER, attempt INTEGER);
CREATE TABLE vals (first INTEGER, count INTEGER, skip INTEGER, attempts INTEGER, worker TEXT,
    host TEXT, seconds REAL, peak_rss INTEGER, ended_s REAL, at INTEGER, sizes BLOB);
CREATE TABLE failures (job INTEGER PRIMARY KEY, cause TEXT, outcome INTEGER, attempts INTEGER,
    text TEXT, worker TEXT, host TEXT, log_stdout TEXT, log_stderr TEXT, pool INTEGER, seconds REAL,
    peak_rss INTEGER, ended_s REAL, error TEXT, details TEXT, last BLOB, at INTEGER, sizes BLOB);
CREATE TABLE ends (first INTEGER, count INTEGER, state INTEGER, cause TEXT, text TEXT,
    refused INTEGER, ended_s REAL);
CREATE TABLE charges (job INTEGER PRIMARY KEY, attempts INTEGER, attempt INTEGER, spec BLOB);
CREATE TABLE tries (job INTEGER, attempt INTEGER, cause TEXT, worker TEXT, text TEXT, at_s REAL,
    seconds REAL);
CREATE TABLE lives (worker TEXT PRIMARY KEY, host TEXT, children INTEGER, up_s REAL, heard_s REAL,
    state TEXT, log_stdout TEXT, log_stderr TEXT);
CREATE TABLE samples (job INTEGER, worker TEXT, at_s REAL, rss INTEGER, cpu REAL);
CREATE TABLE notes (at_s REAL, level TEXT, text TEXT);
"""

_LOCK_S = 0.2
"""Others hold the lock for a moment when they look whether somebody holds it."""


def make(folder: Path, header: Header) -> None:
    """Makes an empty ledger; nobody sees it before it is one.

    :raises LedgerError: it cannot be made, or there is one
    """
    path, scratch = folder / LEDGER_NAME, folder / f".{LEDGER_NAME}.new"
    try:
        if path.exists():
            raise FileExistsError("there is one")
        os.close(os.open(scratch, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600))
        with contextlib.closing(sqlite3.connect(scratch)) as connection:
            connection.execute("PRAGMA journal_mode = OFF")  # what is cut short is not the ledger
            connection.executescript(_TABLES)
            connection.execute(f"PRAGMA user_version = {FORMAT}")
            row = "INSERT INTO facts VALUES ('header', ?)"
            connection.execute(row, (_packed(header),))
            connection.commit()
        os.rename(scratch, path)
    except (sqlite3.Error, OSError) as error:
        raise LedgerError(f"cannot open the ledger {path}: {error}") from error


def _packed(header: Header) -> bytes:
    try:
        return msgspec.msgpack.encode(header)
    except UnicodeEncodeError:  # jobs may be called as files are, and these as anything
        names = [writable(name) for name in header.names]
        options = {name: writable(value) for name, value in header.options.items()}
        return msgspec.msgpack.encode(
            replace(header, name=writable(header.name), names=names, options=options)
        )


def writable(value: Any) -> Any:
    """Returns a text without the halves of characters that cannot be written in UTF-8."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def lock(folder: str | os.PathLike[str]) -> contextlib.closing[sqlite3.Connection]:
    """Takes the ledger of a run, and holds it until what this returns is closed.

    :raises LedgerInUse: its monitor lives
    :raises LedgerError: it cannot be said whether it does
    """
    return contextlib.closing(connect(Path(folder)))


def connect(folder: Path, wait_s: float = _LOCK_S) -> sqlite3.Connection:
    """Takes the lock of a ledger, which others may have for a moment."""
    deadline = time.monotonic() + wait_s
    while True:
        try:
            return _try_to_connect(folder, wait_s)
        except LedgerInUse:  # at once, where two want it at the same time
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.01)


def _try_to_connect(folder: Path, wait_s: float) -> sqlite3.Connection:
    path = folder / LEDGER_NAME
    if not path.is_file():
        raise LedgerError(f"there is no ledger in {folder}")
    try:
        connection = sqlite3.connect(path, timeout=wait_s, check_same_thread=False)
    except sqlite3.Error as error:
        raise LedgerError(f"cannot open the ledger {path}: {error}") from error
    try:
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("BEGIN EXCLUSIVE")  # taken now
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")  # and kept until the end
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        connection.commit()
    except sqlite3.Error as error:
        connection.close()
        if "locked" in str(error):
            raise LedgerInUse(f"the run in {folder} is under way: its client lives") from error
        raise LedgerError(f"cannot open the ledger {path}: {error}") from error
    if version != FORMAT:
        connection.close()
        raise LedgerError(f"the ledger {path} has format {version}; this gridmap reads {FORMAT}")
    return connection
