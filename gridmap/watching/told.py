"""A ledger that is asked: its connection, what finds rows in it, and what they come to."""

from __future__ import annotations

import contextlib
import sqlite3
from bisect import bisect_right
from collections.abc import Callable
from typing import Any

import msgspec

from gridmap.core.spec import JobSpec
from gridmap.ledger.facts import Header
from gridmap.watching.sums import Counting, Sums

KIND = (
    "CASE cause WHEN 'exception' THEN substr(error, 1, instr(error || ':', ':') - 1) ELSE cause END"
)
"""What failures alike have in common, beside the cause."""

_INDEXES = {
    "job": ("vals (first, count)", "ends (first, count)"),
    "seconds": ("vals (seconds / count, first)", "failures (seconds, job)"),
    "memory": ("vals (peak_rss, first)", "failures (peak_rss, job)"),
    "ended": ("vals (ended_s, first)", "failures (ended_s, job)"),
    "workers": ("vals (worker)",),
    "failures": ("failures (ended_s, peak_rss, seconds, worker)",),
    "kinds": (f"failures (cause, {KIND}, job)",),
    "samples": ("samples (job)",),
    "leases": ("leases (first, count)",),
    "tries": ("tries (job)",),
}
"""What each kind of question finds its rows by."""


class Told:
    """What a ledger tells, in the thread that owns its connection."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._prepared: set[str] = set()
        told = self._rows("SELECT value FROM facts WHERE name = 'header'")
        if not told:
            raise KeyError("it does not say which run it is of")
        self.header = msgspec.msgpack.decode(told[0][0], type=Header)
        self._counting = Counting(connection, self.header.created_s)

    def _rows(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        return self._connection.execute(statement, values).fetchall()

    def _number(self, statement: str, *values: Any) -> int:
        return int(self._rows(statement, *values)[0][0])

    def _prepare(self, *kinds: str) -> None:
        """Makes indexes: nobody who does not ask such questions pays for them.

        Where there is no room for one, all rows are read.
        """
        wanted = [kind for kind in kinds if kind not in self._prepared]
        for kind in wanted:
            for number, where in enumerate(_INDEXES[kind]):
                name = f"by_{kind}_{number}"
                with contextlib.suppress(sqlite3.OperationalError):
                    self._connection.execute(f"CREATE INDEX IF NOT EXISTS {name} ON {where}")
        if wanted:
            with contextlib.suppress(sqlite3.OperationalError):
                self._connection.commit()
            self._prepared.update(wanted)

    @property
    def total(self) -> int:
        """How many jobs the ledger knows."""
        last = self._rows("SELECT first + count FROM parts ORDER BY first DESC LIMIT 1")
        return last[0][0] if last else 0

    @property
    def sums(self) -> Sums:
        """What all rows come to."""
        several = len(self.header.pools) > 1
        return self._counting.sums(self._pools_of_jobs if several else None)

    def keep(self) -> None:
        """Keeps in the ledger what was counted."""
        self._counting.keep()

    def _pools_of_jobs(self) -> Callable[[int], int]:
        """Returns what tells the pool of a job: that of its part, or what it was given later."""
        firsts, pools, moved = [], [], {}
        for first, spec in self._rows("SELECT first, spec FROM parts ORDER BY first"):
            firsts.append(first)
            pools.append(msgspec.msgpack.decode(spec, type=JobSpec).pool)
        for job, spec in self._rows("SELECT job, spec FROM charges WHERE spec IS NOT NULL"):
            moved[job] = msgspec.msgpack.decode(spec, type=JobSpec).pool

        def pool_of(job: int) -> int:
            at = bisect_right(firsts, job) - 1
            return moved.get(job, pools[at] if at >= 0 else 0)

        return pool_of

    def name(self, job: int) -> str:
        """Returns what a job is called."""
        names = self.header.names
        if self.header.one_by_one:
            return names[job] if job < len(names) else ""
        return f"{names[0] if names else ''}{job}"
