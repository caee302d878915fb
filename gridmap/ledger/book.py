"""The ledger of a run on disk: what must outlive its client.

    ledger.sqlite   facts, in rows that are only added; locked by its one writer while that lives
    ledger.data     payloads, one after the other; a row says where its own lie

A payload is on disk before the row that speaks of it, so whatever the writer dies of, what can be
read was true. SQLite works in exclusive mode: it needs no shared memory, which network file systems
do not have.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from gridmap.core.spec import JobSpec, Span
from gridmap.errors import LedgerError
from gridmap.forks import Work
from gridmap.ledger.facts import (
    EndFact,
    Facts,
    FailureFact,
    Header,
    LeaseFact,
    LifeFact,
    SampleFact,
    TryFact,
    ValuesFact,
)
from gridmap.ledger.file import DATA_NAME, connect, make, writable
from gridmap.ledger.reading import facts_of
from gridmap.pickling import Frame

log = logging.getLogger(__name__)

_MOST_VIEWS = 1024
"""Of one call. Source: IOV_MAX of Linux"""

PIECE_BYTES = 8 << 20

T = TypeVar("T")

_CLOSE_DEADLINE_S = 10.0
_TAKE_S = 2.0
"""Who wants to write waits so long for those who only look."""


class _Row:
    """One row to be added, and the payload that goes with it."""

    __slots__ = ("frames", "statement", "values")

    def __init__(
        self, statement: str, values: tuple[Any, ...], frames: Sequence[Frame] | None = None
    ) -> None:
        self.statement = statement
        self.values = values
        self.frames = frames


class Book:
    """Adds facts to a ledger, in a thread of its own; it alone writes.

    Facts are collected, and written when `flush` is called, together with all that has been
    collected by the time the disk is ready for more.

    :param folder: the run directory
    :param broken: called in the writer's thread, once, with the reason why nothing can be added any
        more; from then on facts are forgotten and count as written
    :raises LedgerInUse: somebody else writes it
    :raises LedgerError: it cannot be made or read
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        header: Header | None = None,
        broken: Callable[[str], None] = lambda reason: None,
    ) -> None:
        self._folder = Path(folder)
        self.broken = broken
        self._rows: list[_Row] = []
        self._queue: queue.SimpleQueue[tuple[list[_Row], Callable[[], None]] | None] = (
            queue.SimpleQueue()
        )
        self._asked: deque[Callable[[], None]] = deque()
        self.error = ""
        self._size = 0
        self._data = -1
        if header is not None:
            make(self._folder, header)
        self._connection = connect(self._folder, _TAKE_S)
        try:
            self._open()
        except BaseException:
            self._release()
            raise
        self._thread = threading.Thread(
            target=self._main, name=f"gridmap-ledger-{self._folder.name}", daemon=True
        )
        self._thread.start()

    def _open(self) -> None:
        path = self._folder / DATA_NAME
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self._data = os.open(path, flags, 0o600)
            self._size = os.lseek(self._data, 0, os.SEEK_END)
        except OSError as error:
            raise LedgerError(
                f"cannot write the run's ledger in {self._folder}: {error}"
            ) from error

    # --- facts ------------------------------------------------------------------------------------

    def part(self, span: Span, spec: JobSpec, frames: Sequence[Frame]) -> None:
        """Jobs were added."""
        packed = msgspec.msgpack.encode(spec)
        self._add("INSERT INTO parts VALUES (?, ?, ?, ?, ?)", (*span, packed), frames)

    def blob(self, digest: str, frames: Sequence[Frame]) -> None:
        """A blob that jobs need."""
        self._add("INSERT OR IGNORE INTO blobs VALUES (?, ?, ?)", (digest,), frames)

    def input_ended(self) -> None:
        """No more jobs will be added."""
        self._add("INSERT OR IGNORE INTO facts VALUES ('input_ended', x'')", ())

    def requested(self, request: int, pool: int, count: int) -> None:
        """The scheduler is about to be asked for workers."""
        self._add("INSERT OR REPLACE INTO requests VALUES (?, ?, ?)", (request, pool, count))

    def answered(self, request: int, pool: int, workers: Iterable[str]) -> None:
        """The scheduler answered a request with these workers, or refused it with none."""
        self._add("INSERT OR REPLACE INTO answers VALUES (?)", (request,))
        for native_id in workers:
            self._add("INSERT OR IGNORE INTO workers VALUES (?, ?, ?)", (native_id, pool, request))

    def leased(self, fact: LeaseFact) -> None:
        """A worker was given jobs."""
        worker, incarnation, span, attempt = fact
        values = (worker, incarnation, *span, attempt)
        self._add("INSERT INTO leases VALUES (?, ?, ?, ?, ?)", values)

    def values(self, fact: ValuesFact) -> None:
        """Jobs have their values."""
        *plain, frames = fact
        _, *rest = plain
        self._add(f"INSERT INTO vals VALUES ({'?, ' * 10}?)", (*fact.span, *rest), frames)

    def failed(self, fact: FailureFact) -> None:
        """A job failed for good."""
        job, cause, *rest, last, frames = fact
        values = (job, str(cause), *rest, msgspec.msgpack.encode(last))
        self._add(f"INSERT OR REPLACE INTO failures VALUES ({'?, ' * 17}?)", values, frames)

    def ended(self, fact: EndFact) -> None:
        """Jobs ended together."""
        values = (*fact.span, int(fact.state), str(fact.cause), fact.text, int(fact.refused))
        self._add("INSERT INTO ends VALUES (?, ?, ?, ?, ?, ?, ?)", (*values, fact.ended_s))

    def charged(self, job: int, attempts: int, attempt: int, spec: JobSpec | None = None) -> None:
        """A job failed in its try of this number, and will run again, with what `spec` gives it."""
        self._add(
            "INSERT INTO charges VALUES (?, ?, ?, ?) ON CONFLICT (job) DO UPDATE SET attempts = "
            "excluded.attempts, attempt = excluded.attempt, spec = coalesce(excluded.spec, spec)",
            (job, attempts, attempt, None if spec is None else msgspec.msgpack.encode(spec)),
        )

    def tried(self, fact: TryFact) -> None:
        """A try of a job failed, and was not its last."""
        values = fact._replace(cause=str(fact.cause))  # type: ignore[arg-type]
        self._add("INSERT INTO tries VALUES (?, ?, ?, ?, ?, ?, ?)", values)

    def lived(self, fact: LifeFact) -> None:
        """A worker said Hello, or something else that matters to how long it was there."""
        self._add("INSERT OR REPLACE INTO lives VALUES (?, ?, ?, ?, ?, ?, ?, ?)", fact)

    def sampled(self, fact: SampleFact) -> None:
        """A job used so much."""
        self._add("INSERT INTO samples VALUES (?, ?, ?, ?, ?)", fact)

    def noted(self, at_s: float, level: str, text: str) -> None:
        """A person was told something."""
        self._add("INSERT INTO notes VALUES (?, ?, ?)", (at_s, level, text))

    def run_again(self) -> None:
        """What ended without a value is to run anew, as if it never had."""
        for statement in (
            "DELETE FROM facts WHERE name = 'ended'",
            "DELETE FROM failures",
            "DELETE FROM ends",
            "DELETE FROM charges",
        ):
            self._add(statement, ())

    def run_ended(self) -> None:
        """Every job has ended."""
        self._add("INSERT OR IGNORE INTO facts VALUES ('ended', x'')", ())

    def _add(
        self, statement: str, values: tuple[Any, ...], frames: Sequence[Frame] | None = None
    ) -> None:
        if not self.error:
            self._rows.append(_Row(statement, values, frames))

    def read(self) -> Facts:
        """Returns all that the ledger told when it was opened; to be called before all else.

        :raises LedgerError: it is damaged
        """
        return facts_of(self._connection, self._folder)

    # --- writing ----------------------------------------------------------------------------------

    @property
    def pending(self) -> bool:
        """True when there are facts that have not been flushed."""
        return bool(self._rows)

    def flush(self, written: Callable[[], None] = lambda: None) -> None:
        """Has everything written that was collected; returns at once.

        :param written: called in the writer's thread when it is on disk, or is never to be
        """
        rows, self._rows = self._rows, []
        self._queue.put((rows, written))

    def ask(self, question: Callable[[sqlite3.Connection], T], timeout_s: float = 10.0) -> T:
        """Returns what `question` returns of the ledger; the writer's thread puts it.

        :raises LedgerError: there was no answer in time, or the ledger is closed
        """
        answers: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()

        def put() -> None:
            try:
                answers.put((question(self._connection), None))
            except Exception as error:
                answers.put((None, error))

        self._asked.append(put)
        self._queue.put(([], lambda: None))
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and self._thread.is_alive():
            with contextlib.suppress(queue.Empty):
                answer, error = answers.get(timeout=0.1)
                if error is not None:
                    raise error
                return answer  # type: ignore[return-value]
        raise LedgerError(f"the ledger in {self._folder} is closed, or does not answer")

    def close(self, deadline_s: float = _CLOSE_DEADLINE_S) -> bool:
        """Writes what is left and lets go of the ledger; returns whether that was in time."""
        self.flush()
        self._queue.put(None)
        self._thread.join(deadline_s)
        return not self._thread.is_alive()

    def _main(self) -> None:
        with Work() as work:
            self._write_all(work)

    def _write_all(self, work: Work) -> None:
        try:
            going_on = True
            while going_on:
                with work.rest():
                    batch = [self._queue.get()]
                # what came meanwhile, not what still comes: others wait for this
                batch += [self._queue.get() for _ in range(self._queue.qsize())]
                going_on = None not in batch
                rows = [row for item in batch if item is not None for row in item[0]]
                if rows and not self.error:
                    self._write(rows)
                for item in batch:
                    if item is not None:
                        self._say_written(item[1])
                while self._asked:
                    self._asked.popleft()()
        finally:
            self._release()

    def _say_written(self, written: Callable[[], None]) -> None:
        try:
            written()
        except Exception:  # others wait for this thread, too
            log.exception("%s: what waited for the ledger failed", self._folder)

    def _write(self, rows: list[_Row]) -> None:
        size = self._size
        try:
            payload: deque[memoryview] = deque()
            ready = [(row.statement, self._place(row, payload)) for row in rows]
            if self._size > size:
                _write_at(self._data, size, payload)
            for statement, values in ready:
                self._execute(statement, values)
            self._connection.commit()
        except Exception as error:  # whatever it is: acknowledgements wait for this thread
            with contextlib.suppress(sqlite3.Error):
                self._connection.rollback()
            with contextlib.suppress(OSError):
                os.ftruncate(self._data, size)
            self._size = size
            self.error = str(error) or type(error).__name__
            self.broken(f"{self._folder}: {self.error}")

    def _execute(self, statement: str, values: tuple[Any, ...]) -> None:
        try:
            self._connection.execute(statement, values)
        except UnicodeEncodeError:  # a text with a piece of a file name that is no UTF-8
            self._connection.execute(statement, tuple(map(writable, values)))

    def _place(self, row: _Row, payload: deque[memoryview]) -> tuple[Any, ...]:
        """Puts a row's payload behind all other; returns its values and where that will lie."""
        if row.frames is None:
            return row.values
        at, views = self._size, [memoryview(frame).cast("B") for frame in row.frames]
        payload += views
        sizes = [len(view) for view in views]
        self._size += sum(sizes)
        return (*row.values, at, msgspec.msgpack.encode(sizes))

    def _release(self) -> None:
        self._connection.close()
        if self._data >= 0:
            os.close(self._data)
            self._data = -1


def _write_at(file: int, at: int, views: deque[memoryview]) -> None:
    """Brings all of it to the disk, a piece at a time, for which the system needs no new pages.

    Few calls: after each, this thread has to wait for the interpreter.
    """
    while views:
        piece: list[memoryview] = []
        nbytes = 0
        while views and nbytes < PIECE_BYTES and len(piece) < _MOST_VIEWS:
            view = views.popleft()
            if len(view) > PIECE_BYTES - nbytes:
                views.appendleft(view[PIECE_BYTES - nbytes :])
                view = view[: PIECE_BYTES - nbytes]
            piece.append(view)
            nbytes += len(view)
        done = os.pwritev(file, piece, at)
        while done < nbytes:  # seldom
            rest = b"".join(piece)[done:]
            done += os.pwrite(file, rest, at + done)
        os.fsync(file)
        os.posix_fadvise(file, at, nbytes, os.POSIX_FADV_DONTNEED)
        at += nbytes
