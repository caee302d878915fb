"""Ledgers of runs that never were, of any size, with names and errors of any kind."""

from __future__ import annotations

import contextlib
import random
import sqlite3
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from gridmap.core.spec import JobSpec, PoolSpec, Resources, Span
from gridmap.errors import Cause
from gridmap.ledger.book import Book
from gridmap.ledger.facts import (
    FailureFact,
    Header,
    LeaseFact,
    LifeFact,
    SampleFact,
    TryFact,
    ValuesFact,
)

SPEC = JobSpec("f" * 64, "c" * 64, 0, rerunnable=True)
WRITE_S = 120.0
GB = 1 << 30


def write(book: Book) -> None:
    done = threading.Event()
    book.flush(done.set)
    assert done.wait(WRITE_S)


def make(
    parent: Path,
    run: str,
    jobs: int,
    *,
    name: str = "job",
    names: Sequence[str] = (),
    errors: Sequence[str] = ("ValueError: no data", "KeyError: 'station'"),
    failed_of: int = 100,
    hosts: Sequence[str] = ("node01", "node02", "node03"),
    logs: Sequence[Path] = (),
    notes: Sequence[str] = (),
    details: str = "Traceback (most recent call last):\n  ...\n",
    seed: int = 1,
    begun_s: float | None = None,
    ended: bool = True,
    missing: int = 0,
    asked: Resources | None = None,
) -> Path:
    """Writes a ledger in which each job has a row of its own, and returns its directory.

    :param names: those of jobs that were made by hand
    :param failed_of: one of so many fails
    :param missing: so many have not ended
    """
    chance = random.Random(seed)
    begun_s = time.time() - 7200 if begun_s is None else begun_s
    parent.mkdir(mode=0o700, exist_ok=True)
    folder = parent / run
    folder.mkdir(mode=0o700)
    pools = [PoolSpec(asked or Resources(h_vmem="4G", num_slots=1))]
    header = Header(
        run, name, begun_s, "1.0.0", "3.11", "drmaa", pools, {"on_error": "finish"},
        list(names) or [name], bool(names),
    )  # fmt: skip
    book = Book(folder, header)
    try:
        _fill(book, jobs, missing, chance, begun_s, errors, failed_of, hosts, logs, details)
        for number, text in enumerate(notes):
            book.noted(begun_s + number, "warning", text)
        if ended:
            book.run_ended()
        write(book)
    finally:
        assert book.close(WRITE_S)
    return folder


def multiply(folder: Path, jobs: int, times: int) -> None:
    """Has a ledger of so many jobs hold so many times as many: each row again, of later jobs.

    A row costs a twentieth of one that is written as a fact.  The copies differ in how long they
    took, in memory, and in when they ended.
    """
    with contextlib.closing(sqlite3.connect(folder / "ledger.sqlite")) as connection, connection:
        connection.execute("CREATE TEMP TABLE copies (n INTEGER)")
        connection.executemany("INSERT INTO copies VALUES (?)", [(n,) for n in range(1, times)])
        later = {
            "first": f"first + {jobs} * n",
            "job": f"job + {jobs} * n",
            "seconds": "seconds * (1 + n / 1000.0)",
            "peak_rss": "peak_rss + 4096 * n",
            "ended_s": "ended_s + 3600.0 * n",
            "at_s": "at_s + 3600.0 * n",
        }
        for table in ("vals", "failures", "tries", "leases"):
            found = connection.execute(f"SELECT name FROM pragma_table_info('{table}')")
            names = [name for (name,) in found]
            values = ", ".join(later.get(name, name) for name in names)
            connection.execute(
                f"INSERT INTO {table} SELECT {values} FROM copies CROSS JOIN {table}"
            )
        connection.execute("UPDATE parts SET count = count * ?", (times,))


def _fill(
    book: Book,
    jobs: int,
    missing: int,
    chance: random.Random,
    begun_s: float,
    errors: Sequence[str],
    failed_of: int,
    hosts: Sequence[str],
    logs: Sequence[Path],
    details: str,
) -> None:
    out, err = ([str(path) for path in logs] + ["", ""])[:2]
    workers = [(f"{number}.1", hosts[number % len(hosts)]) for number in range(4 * len(hosts))]
    for worker, host in workers:
        book.lived(LifeFact(worker, host, 1, begun_s + 5, begun_s + 3600, "GONE", out, err))
    book.part(Span(0, jobs), SPEC, [b""])
    book.input_ended()
    order = list(range(jobs - missing))
    for at in range(0, len(order), 500):  # as they end: not quite in order
        piece = order[at : at + 500]
        chance.shuffle(piece)
        order[at : at + 500] = piece
    for place, job in enumerate(order):
        worker, host = chance.choice(workers)
        ended_s = begun_s + 10 + 3600 * place / jobs
        seconds, memory = chance.lognormvariate(0, 1), int(chance.uniform(0.2, 1.5) * GB)
        if failed_of and job % failed_of == failed_of // 2:
            error = errors[job // failed_of % len(errors)]
            tried = job % (4 * failed_of) < failed_of
            if tried:
                died = "it died: SIGSEGV (11)"
                book.tried(TryFact(job, 0, Cause.DIED, workers[0][0], died, ended_s - 9))
                book.leased(LeaseFact(worker, "i", Span(job, 1), 1))
            book.failed(
                FailureFact(
                    job,
                    Cause.EXCEPTION,
                    1,
                    1 + tried,
                    error,
                    worker,
                    host,
                    out,
                    err,
                    0,
                    seconds,
                    memory,
                    ended_s,
                    error,
                    details,
                    None,
                    [],
                )  # fmt: skip
            )
        else:
            book.values(
                ValuesFact(Span(job, 1), job, 1, worker, host, seconds, memory, ended_s, [])
            )
        if job < 200:
            for beat in range(30):
                share = beat / 30
                book.sampled(
                    SampleFact(
                        job,
                        worker,
                        ended_s - seconds * (1 - share),
                        int(memory * share**0.5),
                        chance.uniform(0.7, 1.0),
                    )  # fmt: skip
                )
        if place % 20000 == 19999:
            write(book)
