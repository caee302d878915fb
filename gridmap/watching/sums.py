"""What the rows of a ledger come to, counted once: a question adds what is new.

The sums of a run that is over are kept in its ledger, beside its facts; those of one under way in
its window.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
from msgspec import Struct, field

FORMAT = 1
_NAME = "sums"
MOST_STRETCHES = 512
FIRST_STRETCH_S = 1 / 64
RECENT_S = 60
"""So far back it is known how many jobs ended in each second."""
_AT_ONCE = 20_000

_VALS = (
    "SELECT rowid, first, count, worker, host, seconds, peak_rss, ended_s FROM vals WHERE rowid > ?"
)
_SAMPLES = "SELECT rowid, job, worker, at_s, rss, cpu FROM samples WHERE rowid > ?"


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
    :param seconds: how many ended in each of the last seconds
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
    seconds: dict[int, int] = field(default_factory=dict)
    widest: int = 1

    def since(self, at_s: float) -> int:
        """Returns how many jobs got their values since then, at most RECENT_S ago."""
        return sum(jobs for second, jobs in self.seconds.items() if second >= int(at_s))

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

    def sums(self, pool_of: Callable[[], Callable[[int], int]]) -> Sums:
        """Returns the sums over all that the ledger has now.

        :param pool_of: called where there is something new, gives what tells the pool of a job
        """
        sums = self._load() if self._sums is None else self._sums
        self._sums = sums
        ends = [self._last(table) for table in ("vals", "samples", "leases")]
        if ends != [sums.val, sums.sample, sums.lease]:
            self._changed = True
            tell = pool_of()
            self._add_values(sums, tell)
            self._add_samples(sums, tell)
            widest, last = self._row(
                "SELECT max(count), max(rowid) FROM leases WHERE rowid > ?", sums.lease
            )
            if last is not None:
                sums.widest, sums.lease = max(sums.widest, widest), last
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

    def _rows(self, statement: str, after: int) -> Iterable[tuple[Any, ...]]:
        """Yields all rows; nothing is left open where they are not taken to the end."""
        while rows := self._connection.execute(f"{statement} ORDER BY rowid LIMIT {_AT_ONCE}",
                                               (after,)).fetchall():  # fmt: skip
            yield from rows
            after = rows[-1][0]

    def _add_values(self, sums: Sums, pool_of: Callable[[int], int]) -> None:
        places = {(worker, host): count for worker, host, count in sums.places}
        stretches, latest = sums.stretches, sums.ended_s or 0.0
        seconds: dict[int, int] = sums.seconds
        for row, first, count, worker, host, took_s, peak, ended_s in self._rows(_VALS, sums.val):
            sums.val = row
            sums.completed += count
            sums.busy_s += took_s
            pool = pool_of(first)
            used = sums.pools.get(pool)
            if used is None:
                used = sums.pools[pool] = Used()
            used.jobs += count
            if peak > used.peak_rss_bytes:
                used.peak_rss_bytes = peak
            if took_s > used.longest_s * count:
                used.longest_s = took_s / count
            place = (worker, host)
            places[place] = places.get(place, 0) + count
            stretch = max(0, int((ended_s - self._begun_s) / sums.stretch_s))
            while stretch >= MOST_STRETCHES:
                stretches = _halved(stretches)
                sums.stretch_s *= 2
                stretch = int((ended_s - self._begun_s) / sums.stretch_s)
            stretches[stretch] = stretches.get(stretch, 0) + count
            second = int(ended_s)
            if ended_s > latest:
                latest = ended_s
            if second > latest - RECENT_S:
                seconds[second] = seconds.get(second, 0) + count
            sums.ended_s = latest
        sums.stretches = stretches
        sums.seconds = {at: jobs for at, jobs in seconds.items() if at > latest - RECENT_S}
        sums.places = [(*place, count) for place, count in places.items()]

    def _add_samples(self, sums: Sums, pool_of: Callable[[int], int]) -> None:
        for row, job, worker, at_s, rss, cpu in self._rows(_SAMPLES, sums.sample):
            sums.sample = row
            used = sums.pools.setdefault(pool_of(job), Used())
            used.peak_rss_bytes = max(used.peak_rss_bytes, rss)
            used.cpu += cpu
            used.samples += 1
            sums.lately[worker] = (at_s, rss, cpu)


def _halved(stretches: dict[int, int]) -> dict[int, int]:
    """Returns the counts of stretches that are twice as long."""
    found: dict[int, int] = {}
    for stretch, jobs in stretches.items():
        found[stretch // 2] = found.get(stretch // 2, 0) + jobs
    return found
