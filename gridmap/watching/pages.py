"""Pages of a table of jobs, out of a ledger whose rows are ranges of jobs.

Ranges are taken apart here, and only those that a page shows.  A page is found by what stood last
on the one before it, through an index: a million jobs cost what a hundred do.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Callable, Container, Iterable, Iterator
from itertools import chain, islice
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import replace

from gridmap.core.states import JobState
from gridmap.errors import GridMapError
from gridmap.views import JOB_STATES, SORTS, JobPage, JobRow, JobsAsked
from gridmap.watching.gaps import waiting
from gridmap.watching.search import condition, like, places
from gridmap.watching.told import Told

MOST_ROWS = 1000
"""Of a page."""
MOST_FOUND = 10_000
"""Jobs whose names match what somebody looks for."""
FEW = 0.02
"""Values of a smaller part of all are found by their workers, others in the order of the page."""


class UnknownJob(GridMapError):
    """The run has no job of this number."""


class _Range(NamedTuple):
    """Jobs that ended alike."""

    first: int
    count: int  # type: ignore[assignment]
    state: str
    attempts: int
    cause: str
    error: str
    seconds: float
    memory: int
    ended: float
    worker: str
    host: str


class _Table(NamedTuple):
    """Where the ledger has ends of jobs.

    :param select: gives a _Range
    :param keys: for each of SORTS, the expression to sort by
    :param matched: where somebody looks for a text
    """

    select: str
    keys: dict[str, str]
    matched: tuple[str, ...]


_VALS = _Table(
    "SELECT first, count, 'completed', attempts, '', '', seconds / count, peak_rss, ended_s, "
    "worker, host FROM vals",
    {"job": "first", "seconds": "seconds / count", "memory": "peak_rss", "ended": "ended_s"},
    ("worker", "host"),
)
_FAILURES = _Table(
    "SELECT job, 1, 'failed', attempts, cause, error, seconds, peak_rss, ended_s, worker, host "
    "FROM failures",
    {"job": "job", "seconds": "seconds", "memory": "peak_rss", "ended": "ended_s"},
    ("worker", "host", "error", "cause"),
)
_ENDS = _Table(
    f"SELECT first, count, CASE state WHEN {int(JobState.FAILED)} THEN 'failed' ELSE 'canceled' "
    "END, 0, cause, text, 0.0, 0, ended_s, '', '' FROM ends",
    # a mere number would name a column
    {"job": "first", "seconds": "0.0 * first", "memory": "0 * first", "ended": "ended_s"},
    ("text", "cause"),
)
_TABLES_OF = {
    "": (_VALS, _FAILURES, _ENDS),
    "completed": (_VALS,),
    "failed": (_FAILURES, _ENDS),
    "canceled": (_ENDS,),
    "queued": (),  # what lies between all of these
    "running": (),
}

Cursor = tuple[float | None, int]
"""The last row of a page: the value by which it is sorted, None where it has none, and the job."""


class Pages(Told):
    """Answers from a ledger's connection, in the thread that owns it."""

    def jobs(self, asked: JobsAsked, running: Container[int] = ()) -> JobPage:
        """Returns a page of the jobs; those that run count as queued here.

        :param running: jobs that are left out where those are asked for that are queued
        :raises GridMapError: the question cannot be understood
        """
        if asked.sort not in SORTS or asked.state not in ("", *JOB_STATES):
            states = ", ".join(JOB_STATES)
            raise GridMapError(f"jobs can be sorted by {', '.join(SORTS)}, and are {states}")
        asked = self._plain(asked)
        self._prepare("job", asked.sort)
        cursor = _cursor(asked.after)
        numbers = self._named(asked.search) if asked.search else []
        if numbers:
            return page_of((self.row(number) for number in numbers), asked)
        if asked.state == "queued" and asked.search:
            return JobPage([])  # nothing is told of them but their names
        ended = self._ended(asked, cursor)
        if asked.search or asked.state not in ("", "queued"):
            return _page(ended, asked)
        if asked.state == "queued":
            found = (row for row in self._waiting_ones(asked, cursor) if row.job not in running)
            return _page(found, asked)
        if asked.sort == "job":
            return _page(self._with_gaps(ended, cursor, asked.descending), asked)
        rows = ended if cursor is None or cursor[0] is not None else iter(())
        return _page(chain(rows, self._without_value(asked, cursor)), asked)

    def _plain(self, asked: JobsAsked) -> JobsAsked:
        """Returns the question without what makes no difference."""
        names = self.header.names
        number = asked.search.isdecimal()
        if not (number or self.header.one_by_one) and asked.search in "".join(names[:1]):
            asked = replace(asked, search="")  # all are called so
        return replace(asked, sort="job") if asked.state == "queued" else asked

    def _without_value(self, asked: JobsAsked, cursor: Cursor | None) -> Iterator[JobRow]:
        """Yields the jobs that have not ended, which come after all others."""
        queued = replace(asked, sort="job", descending=False)
        begin = cursor if cursor is not None and cursor[0] is None else None
        return self._waiting_ones(queued, begin)

    def _waiting_ones(self, asked: JobsAsked, cursor: Cursor | None) -> Iterator[JobRow]:
        """Yields the jobs that have not ended, by their numbers."""
        begin, stop = 0, self.total
        if self._all_ended(stop):
            return
        if cursor is not None and asked.descending:
            stop = min(stop, cursor[1])
        elif cursor is not None:
            begin = cursor[1] + 1
        for jobs in waiting(self._rows, begin, stop, asked.descending):
            yield from map(self._waiting, jobs)

    def _all_ended(self, total: int) -> bool:
        failed = self._number("SELECT count(*) FROM failures")
        others = self._number("SELECT coalesce(sum(count), 0) FROM ends")
        return self.sums.completed + failed + others >= total

    def row(self, job: int) -> JobRow:
        """Returns the line of one job.

        :raises UnknownJob: there is none
        """
        one = self._range_of(job)
        return self._waiting(job) if one is None else self._row(one, job)

    # --- in order ---------------------------------------------------------------------------------

    def _ended(self, asked: JobsAsked, cursor: Cursor | None) -> Iterator[JobRow]:
        """Yields the jobs that have ended, in order."""
        ranges = self._ranges(asked, cursor)
        return (row for one in ranges for row in self._apart(one, asked, cursor))

    def _ranges(self, asked: JobsAsked, cursor: Cursor | None) -> Iterable[_Range]:
        """Returns ranges of jobs in order; the first may begin before the page does."""
        parts = []
        for table in _TABLES_OF[asked.state]:
            key = table.keys[asked.sort]
            conditions: list[str] = []
            values: list[Any] = []
            if table is _ENDS and asked.state in ("failed", "canceled"):
                is_failed = "=" if asked.state == "failed" else "!="
                conditions.append(f"state {is_failed} {int(JobState.FAILED)}")
            if cursor is not None:
                conditions.append(f"{key} {'<=' if asked.descending else '>='} ?")
                values.append(
                    self._begin(table, cursor[1], asked) if asked.sort == "job" else cursor[0]
                )
            if asked.search and table is _VALS:
                sums = self.sums
                where_from = places(asked.search, sums.places)
                if not where_from:
                    continue
                few = sum(count for *_, count in where_from) < sums.completed * FEW
                if few:
                    self._prepare("workers")
                conditions.append(condition(asked.search, where_from, few))
            elif asked.search:
                likes = (f"{column} LIKE ? ESCAPE '\\'" for column in table.matched)
                conditions.append(f"({' OR '.join(likes)})")
                values += [like(asked.search)] * len(table.matched)
            where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
            order = f"{key} {'DESC' if asked.descending else 'ASC'}"
            order += "" if asked.sort == "job" else f", {table.keys['job']}"
            found = self._connection.execute(f"{table.select} {where} ORDER BY {order}", values)
            parts.append(map(_Range._make, found))
        return heapq.merge(*parts, key=_in_order(asked))

    def _begin(self, table: _Table, job: int, asked: JobsAsked) -> int:
        """Returns the first job of the range in which a job is."""
        if asked.descending or table is _FAILURES:
            return job
        name = "vals" if table is _VALS else "ends"
        first = self._rows(f"SELECT max(first) FROM {name} WHERE first <= ?", job)[0][0]
        return job if first is None else int(first)

    def _apart(self, one: _Range, asked: JobsAsked, cursor: Cursor | None) -> Iterator[JobRow]:
        """Yields the jobs of a range that come after a row."""
        begin, stop = one.first, one.first + one.count
        if cursor is not None and asked.sort == "job":
            begin, stop = (
                (begin, min(stop, cursor[1]))
                if asked.descending
                else (max(begin, cursor[1] + 1), stop)
            )
        elif cursor is not None and getattr(one, asked.sort) == cursor[0]:
            begin = max(begin, cursor[1] + 1)
        jobs = range(begin, stop)
        backwards = asked.descending and asked.sort == "job"
        for job in reversed(jobs) if backwards else jobs:
            yield self._row(one, job)

    def _row(self, one: _Range, job: int) -> JobRow:
        lines = one.error.strip().splitlines()
        return JobRow(
            job, self.name(job), one.state, one.attempts, one.cause, lines[0] if lines else "",
            one.seconds, one.memory, one.ended, one.worker, one.host,
        )  # fmt: skip

    def _with_gaps(
        self, rows: Iterable[JobRow], cursor: Cursor | None, descending: bool
    ) -> Iterator[JobRow]:
        """Yields all jobs, those that have not ended in their places."""
        total = self.total
        step = -1 if descending else 1
        at = (total - 1 if descending else 0) if cursor is None else cursor[1] + step
        for row in rows:
            yield from map(self._waiting, range(at, row.job, step))
            yield row
            at = row.job + step
        yield from map(self._waiting, range(at, -1 if descending else total, step))

    def _waiting(self, job: int) -> JobRow:
        return JobRow(job, self.name(job), "queued")

    # --- by number and name -----------------------------------------------------------------------

    def _named(self, search: str) -> list[int]:
        """Returns the numbers of jobs that have this number, or this in their names."""
        total, names = self.total, self.header.names
        found = {int(search)} if search.isdecimal() and len(search) < 19 else set()
        if self.header.one_by_one:
            named = (number for number, name in enumerate(names) if search in name)
            found.update(islice(named, MOST_FOUND))
        elif names and search.startswith(names[0]) and search[len(names[0]) :].isdecimal():
            found.add(int(search[len(names[0]) :][:18]))
        return sorted(number for number in found if number < total)

    def _range_of(self, job: int) -> _Range | None:
        """Returns what became of a job, None where it has not ended.

        :raises UnknownJob: there is none
        """
        self._prepare("job")
        total = self.total
        if not 0 <= job < total:
            has = f"its jobs are 0 to {total - 1}" if total else "it has none"
            raise UnknownJob(f"run {self.header.run} has no job {job}: {has}")
        for table in _TABLES_OF[""]:
            first = table.keys["job"]
            rows = self._rows(
                f"{table.select} WHERE {first} <= ? ORDER BY {first} DESC LIMIT 1", job
            )
            if rows and job < rows[0][0] + rows[0][1]:
                return _Range._make(rows[0])
        return None


def _in_order(asked: JobsAsked) -> Callable[[_Range], Any]:
    sign = -1 if asked.descending else 1
    if asked.sort == "job":
        return lambda one: sign * one.first
    return lambda one: (sign * getattr(one, asked.sort), one.first)


def page_of(rows: Iterable[JobRow], asked: JobsAsked) -> JobPage:
    """Returns a page of these jobs, which come in any order.

    :raises GridMapError: it cannot be said where it begins
    """
    sign = -1 if asked.descending else 1

    def place(row: JobRow) -> tuple[bool, float, int]:
        value = _value(row, asked.sort)
        return value is None, sign * (value or 0), row.job

    cursor = _cursor(asked.after)
    if cursor is not None:
        value, job = cursor
        begin = (value is None, sign * (value or 0), job)
    found = (row for row in rows if asked.state in ("", row.state))
    return _page((x for x in sorted(found, key=place) if cursor is None or place(x) > begin), asked)


def _page(rows: Iterable[JobRow], asked: JobsAsked) -> JobPage:
    """Returns the first of these jobs, which come in order."""
    most = max(1, min(asked.most, MOST_ROWS))
    found = list(islice(rows, most + 1))
    if len(found) <= most:
        return JobPage(found)
    last = found[most - 1]
    return JobPage(found[:most], json.dumps([_value(last, asked.sort), last.job]))


def _value(row: JobRow, sort: str) -> float | None:
    """Returns that by which a row is sorted; None where it has no such thing."""
    if sort == "job":
        return row.job
    if row.state == "queued":
        return None
    names = {"memory": "peak_rss_bytes", "ended": "ended_s"}
    return getattr(row, names.get(sort, sort)) or 0


def _cursor(after: str) -> Cursor | None:
    if not after:
        return None
    try:
        value, job = msgspec.json.decode(after, type=Cursor)
    except msgspec.MsgspecError:
        raise GridMapError(f"{after[:80]!r} is not where a page begins") from None
    return value, job
