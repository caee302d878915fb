"""What the rows of a ledger come to, counted once: a question adds what is new.

The sums of a run that is over are kept in its ledger, beside its facts; those of one under way in
its window.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Struct, field

FORMAT = 1
_NAME = "sums"
MOST_STRETCHES = 512
FIRST_STRETCH_S = 1 / 64


class Used(Struct):
    """What the jobs of a pool used.

    :param cpu: sum of processor times in cores, of so many samples
    """

    jobs: int = 0
    peak_rss_bytes: int = 0
    longest_s: float = 0.0
    cpu: float = 0.0
    samples: int = 0


class Sums(Struct):
    """Sums over all rows up to some.

    :param val: the last row of the table of values that is in here, `sample` of that of samples,
        `lease` of that of leases
    :param places: for each worker and host, how many values came from there
    :param lately: for each worker, when it last told what its job used, and how much
    :param stretch_s: jobs that ended are counted by stretches of this length
    :param widest: the longest range of jobs that was leased
    """

    format: int = FORMAT
    val: int = 0
    sample: int = 0
    lease: int = 0
    completed: int = 0
    busy_s: float = 0.0
    ended_s: float | None = None
    pools: dict[int, Used] = field(default_factory=dict)
    places: list[tuple[str, str, int]] = field(default_factory=list)
    lately: dict[str, tuple[float, int, float]] = field(default_factory=dict)
    stretch_s: float = FIRST_STRETCH_S
    stretches: dict[int, int] = field(default_factory=dict)
    widest: int = 1

    def jobs_of_workers(self) -> dict[str, int]:
        """Returns how many values came from each worker."""
        jobs: dict[str, int] = {}
        for worker, _, count in self.places:
            jobs[worker] = jobs.get(worker, 0) + count
        return jobs


class Counting:
    """Counts what was added to a ledger.

    :param begun_s: when the run began
    """

    def __init__(self, connection: sqlite3.Connection, begun_s: float) -> None:
        self._connection = connection
        self._begun_s = begun_s
        self._sums: Sums | None = None
        self._changed = False

    def sums(self, pool_of: Callable[[], Callable[[int], int]] | None) -> Sums:
        """Returns the sums over all that the ledger has now.

        :param pool_of: called where there is something new, gives what tells the pool of a job;
            None where there is one pool
        """
        sums = self._load() if self._sums is None else self._sums
        self._sums = sums
        last = [self._last(table) for table in ("vals", "samples", "leases")]
        if last == [sums.val, sums.sample, sums.lease]:
            return sums
        self._changed = True
        pool = "0"
        if pool_of is not None:
            self._connection.create_function("pool_of", 1, pool_of())
            pool = "pool_of({})"
        if last[0] > sums.val:
            self._add_values(sums, last[0], pool)
        if last[1] > sums.sample:
            self._add_samples(sums, last[1], pool)
        if last[2] > sums.lease:
            new = "FROM leases WHERE rowid > ? AND rowid <= ?"
            widest = self._row(f"SELECT max(count) {new}", sums.lease, last[2])[0]
            sums.widest, sums.lease = max(sums.widest, widest), last[2]
        return sums

    def keep(self) -> None:
        """Keeps the sums in the ledger, where they save the next one the counting."""
        if self._changed:
            packed = msgspec.msgpack.encode(self._sums)
            row = "INSERT OR REPLACE INTO facts VALUES (?, ?)"
            with contextlib.suppress(sqlite3.Error):  # no room: the next one counts, too
                self._connection.execute(row, (_NAME, packed))
                self._connection.commit()
                self._changed = False

    def _load(self) -> Sums:
        found = self._row("SELECT max(value) FROM facts WHERE name = ?", _NAME)[0]
        if found is not None:
            try:
                sums = msgspec.msgpack.decode(found, type=Sums)
            except msgspec.MsgspecError:  # another version of GridMap wrote it
                return Sums()
            if sums.format == FORMAT:
                return sums
        return Sums()

    def _row(self, statement: str, *values: Any) -> tuple[Any, ...]:
        row: tuple[Any, ...] = self._connection.execute(statement, values).fetchone()
        return row

    def _last(self, table: str) -> int:
        return int(self._row(f"SELECT coalesce(max(rowid), 0) FROM {table}")[0])

    def _rows(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        return self._connection.execute(statement, values).fetchall()

    def _add_values(self, sums: Sums, last: int, pool: str) -> None:
        """Adds values; the database groups them, and keeps no other thread from working."""
        new = "FROM vals WHERE rowid > ? AND rowid <= ?"
        span = sums.val, last
        places = {(worker, host): count for worker, host, count in sums.places}
        for worker, host, number, count, took_s, peak, longest_s, ended_s in self._rows(
            f"SELECT worker, host, {pool.format('first')} AS pool, sum(count), sum(seconds), "
            f"max(peak_rss), max(seconds / count), max(ended_s) {new} GROUP BY worker, host, pool",
            *span,
        ):
            sums.completed += count
            sums.busy_s += took_s
            sums.ended_s = max(sums.ended_s or 0.0, ended_s)
            places[worker, host] = places.get((worker, host), 0) + count
            used = sums.pools.setdefault(number, Used())
            used.jobs += count
            used.peak_rss_bytes = max(used.peak_rss_bytes, peak)
            used.longest_s = max(used.longest_s, longest_s)
        sums.places = [(*place, count) for place, count in places.items()]
        latest = sums.ended_s or 0.0
        while (latest - self._begun_s) / sums.stretch_s >= MOST_STRETCHES:
            sums.stretches = _halved(sums.stretches)
            sums.stretch_s *= 2
        for stretch, count in self._rows(
            f"SELECT cast((ended_s - {self._begun_s!r}) / {sums.stretch_s!r} AS INTEGER) AS s, "
            f"sum(count) {new} GROUP BY s",
            *span,
        ):
            sums.stretches[stretch] = sums.stretches.get(stretch, 0) + count
        sums.val = last

    def _add_samples(self, sums: Sums, last: int, pool: str) -> None:
        new = "FROM samples WHERE rowid > ? AND rowid <= ?"
        span = sums.sample, last
        for number, peak, cpu, count in self._rows(
            f"SELECT {pool.format('job')} AS pool, max(rss), sum(cpu), count(*) {new} "
            "GROUP BY pool", *span,
        ):  # fmt: skip
            used = sums.pools.setdefault(number, Used())
            used.peak_rss_bytes = max(used.peak_rss_bytes, peak)
            used.cpu += cpu
            used.samples += count
        for worker, _, *told in self._rows(
            f"SELECT worker, max(rowid), at_s, rss, cpu {new} GROUP BY worker", *span
        ):
            sums.lately[worker] = (told[0], told[1], told[2])
        sums.sample = last


def _halved(stretches: dict[int, int]) -> dict[int, int]:
    """Returns the counts of stretches that are twice as long."""
    found: dict[int, int] = {}
    for stretch, jobs in stretches.items():
        found[stretch // 2] = found.get(stretch // 2, 0) + jobs
    return found
