"""Reads all that the ledger of a run tells."""

from __future__ import annotations

import mmap
import os
import sqlite3
from pathlib import Path
from typing import Any

import msgspec

from gridmap.core.events import KnownCharge
from gridmap.core.messages import Held
from gridmap.core.spec import JobSpec, Span
from gridmap.core.states import JobState
from gridmap.errors import Cause, LedgerError
from gridmap.ledger.facts import (
    EndFact,
    Facts,
    FailureFact,
    Header,
    LeaseFact,
    PartFact,
    ValuesFact,
    WorkerFact,
)
from gridmap.ledger.file import DATA_NAME, connect
from gridmap.pickling import Frame


def read(folder: str | os.PathLike[str]) -> Facts:
    """Returns all that the ledger of a run tells.

    :raises LedgerInUse: its monitor lives
    :raises LedgerError: there is none, or it cannot be read
    """
    path = Path(folder)
    connection = connect(path)
    try:
        return facts_of(connection, path)
    finally:
        connection.close()


def facts_of(connection: sqlite3.Connection, path: Path) -> Facts:
    """Returns all that an open ledger tells.

    :param path: the run directory
    :raises LedgerError: it is damaged
    """
    try:
        return _read(connection, _payload(path / DATA_NAME))
    except Exception as error:  # SQLite has any value in any column
        raise LedgerError(f"the ledger in {path} is damaged: {error}") from error


def _payload(path: Path) -> memoryview:
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            return memoryview(b"")
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _read(connection: sqlite3.Connection, payload: memoryview) -> Facts:
    def rows(query: str) -> list[tuple[Any, ...]]:
        return connection.execute(query).fetchall()

    def frames(at: int, sizes: bytes) -> list[Frame]:
        found: list[Frame] = []
        for size in msgspec.msgpack.decode(sizes, type=list[int]):
            if at + size > len(payload):
                raise ValueError(f"{DATA_NAME} is too short")
            found.append(payload[at : at + size])
            at += size
        return found

    told = dict(rows("SELECT name, value FROM facts"))
    if "header" not in told:
        raise ValueError("it does not say which run it is of")
    facts = Facts(
        header=msgspec.msgpack.decode(told["header"], type=Header),
        input_ended="input_ended" in told,
        ended="ended" in told,
    )
    for digest, at, sizes in rows("SELECT * FROM blobs"):
        facts.blobs[digest] = frames(at, sizes)
    for first, count, spec, at, sizes in rows("SELECT * FROM parts ORDER BY first"):
        packed = msgspec.msgpack.decode(spec, type=JobSpec)
        facts.parts.append(PartFact(Span(first, count), packed, frames(at, sizes)))
    facts.open_requests = rows(
        "SELECT id, pool, count FROM requests WHERE id NOT IN (SELECT request FROM answers)"
    )
    facts.next_request = rows("SELECT coalesce(max(id) + 1, 0) FROM requests")[0][0]
    facts.workers = [WorkerFact(*row) for row in rows("SELECT * FROM workers ORDER BY rowid")]
    for worker, incarnation, first, count, attempt in rows("SELECT * FROM leases ORDER BY rowid"):
        facts.leases.append(LeaseFact(worker, incarnation, Span(first, count), attempt))
    for first, count, *rest, at, sizes in rows("SELECT * FROM vals ORDER BY rowid"):
        facts.values.append(ValuesFact(Span(first, count), *rest, frames(at, sizes)))  # type: ignore[call-arg]
    for job, cause, *rest, last, at, sizes in rows("SELECT * FROM failures"):
        held = msgspec.msgpack.decode(last, type=Held | None)
        facts.failures.append(FailureFact(job, Cause(cause), *rest, held, frames(at, sizes)))  # type: ignore[call-arg]
    for first, count, state, cause, text, refused, at in rows("SELECT * FROM ends ORDER BY rowid"):
        span = Span(first, count)
        facts.ends.append(EndFact(span, JobState(state), Cause(cause), text, bool(refused), at))
    for job, attempts, attempt, packed in rows("SELECT * FROM charges"):
        spec = None if packed is None else msgspec.msgpack.decode(packed, type=JobSpec)
        facts.charged[job] = KnownCharge(job, attempts, attempt, spec)
    return facts
