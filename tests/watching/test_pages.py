"""Pages of a table of jobs, out of random ledgers, against a plain list of all jobs."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gridmap.core.spec import JobSpec, PoolSpec, Resources, Span
from gridmap.core.states import JobState
from gridmap.errors import Cause, GridMapError
from gridmap.ledger.book import Book
from gridmap.ledger.facts import EndFact, FailureFact, Header, ValuesFact
from gridmap.ledger.file import lock
from gridmap.views import JOB_STATES, SORTS, JobRow, JobsAsked
from gridmap.watching.pages import UnknownJob, page_of
from gridmap.watching.questions import Questions

SPEC = JobSpec("f" * 64, "c" * 64)
HOSTS = ("node1", "node2", "Node_3", "x%y")
TEXTS = ("ValueError: no", "killed by SIGKILL (9)\nand more", "100%_sure", "back\\slash", "")
SEARCHES = ("0", "3", "17", "999", "node", "NODE1", "e_3", "%", "\\", "valueerror", "w2", "job",
            "job4", "alpha", "died", "nobody", "a\nb")  # fmt: skip
NAMES = ("alpha", "beta", "alphabet", "17", "a\nb", "")
SORT_KEYS = {"seconds": "seconds", "memory": "peak_rss_bytes", "ended": "ended_s"}

few = st.sampled_from([0.0, 0.5, 1.0, 1 / 3, 2.5])
ended_s = st.sampled_from([10.0, 10.5, 11.25])
rss = st.sampled_from([0, 4096, 8192])
count = st.integers(1, 5)


@dataclass
class Told:
    """A random ledger: stretches of jobs, and what became of each."""

    stretches: list[dict[str, Any]] = field(default_factory=list)
    names: list[str] | None = None

    @property
    def total(self) -> int:
        return sum(one["count"] for one in self.stretches)

    def name(self, job: int) -> str:
        return f"job{job}" if self.names is None else self.names[job]


stretch = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(["values", "failure", "failed", "canceled", "skipped", "open"]),
        "count": count,
        "seconds": few,
        "rss": rss,
        "ended_s": ended_s,
        "worker": st.sampled_from(["w1", "w2"]),
        "host": st.sampled_from(HOSTS),
        "cause": st.sampled_from([Cause.DIED, Cause.EXCEPTION]),
        "text": st.sampled_from(TEXTS),
    }
)


@st.composite
def ledgers(draw: st.DrawFn) -> Told:
    told = Told(draw(st.lists(stretch, min_size=1, max_size=12)))
    for one in told.stretches:
        if one["kind"] == "failure":
            one["count"] = 1
    if draw(st.booleans()):
        told.names = [draw(st.sampled_from(NAMES)) for _ in range(told.total)]
    return told


questions = st.builds(
    JobsAsked,
    state=st.sampled_from(["", "completed", "failed", "canceled", "queued"]),
    search=st.sampled_from(["", "", "", *SEARCHES]),
    sort=st.sampled_from(SORTS),
    descending=st.booleans(),
    most=st.integers(1, 9),
)


@contextmanager
def written(told: Told, parts: int = 1) -> Iterator[Questions]:
    """Writes the ledger, and opens it."""
    header = Header("r1", "n", 5.0, "1", "3.11", "drmaa", [PoolSpec(Resources())],
                    {}, ["job"] if told.names is None else told.names,
                    told.names is not None)  # fmt: skip
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # no disk is waited for
    with tempfile.TemporaryDirectory(dir=memory) as name:
        folder = Path(name)
        ledger = Book(folder, header)
        for part in range(parts):  # as even as they can be
            first, stop = (told.total * k // parts for k in (part, part + 1))
            if stop > first:
                ledger.part(Span(first, stop - first), SPEC, [])
        first = 0
        for one in told.stretches:
            _write(ledger, one, Span(first, one["count"]))
            first += one["count"]
        assert ledger.close()
        with lock(folder) as connection:
            yield Questions(connection)


def _write(ledger: Book, one: dict[str, Any], span: Span) -> None:
    at, where = one["ended_s"], (one["worker"], one["host"])
    if one["kind"] == "values":
        seconds = one["seconds"] * span.count
        ledger.values(ValuesFact(span, 0, 1, *where, seconds, one["rss"], at, []))
    elif one["kind"] == "failure":
        ledger.failed(
            FailureFact(span.first, one["cause"], 2, 3, "", *where, "/o", "/e", 0, one["seconds"],
                        one["rss"], at, one["text"], "details", None, [])
        )  # fmt: skip
    elif one["kind"] != "open":
        state = JobState[one["kind"].upper()]
        ledger.ended(EndFact(span, state, Cause.CANCELED, one["text"], False, at))


def rows_of(told: Told) -> list[JobRow]:
    """Returns a row for each job."""
    rows: list[JobRow] = []
    for one in told.stretches:
        kind = one["kind"]
        for _ in range(one["count"]):
            job, name = len(rows), told.name(len(rows))
            line = (one["text"].strip().splitlines() or [""])[0]
            where = {"worker": one["worker"], "host": one["host"], "ended_s": one["ended_s"]}
            used = {"seconds": one["seconds"] * one["count"] / one["count"],
                    "peak_rss_bytes": one["rss"]}  # fmt: skip
            if kind == "open":
                row = JobRow(job, name, "queued")
            elif kind == "values":
                row = JobRow(job, name, "completed", 1, **where, **used)
            elif kind == "failure":
                row = JobRow(job, name, "failed", 3, str(one["cause"]), line, **where, **used)
            else:
                state = "failed" if kind == "failed" else "canceled"
                row = JobRow(job, name, state, 0, "canceled", line, ended_s=one["ended_s"])
            rows.append(row)
    return rows


def expected(told: Told, asked: JobsAsked) -> list[JobRow]:
    """Returns all the rows that somebody asks for, in order."""
    rows = rows_of(told)
    whole = [one["text"] for one in told.stretches for _ in range(one["count"])]

    def named(row: JobRow) -> bool:
        if asked.search.isdecimal() and row.job == int(asked.search):
            return True
        return row.name == asked.search if told.names is None else asked.search in row.name

    def has(row: JobRow) -> bool:
        if row.state == "queued":
            return False
        text = "" if row.state == "completed" else whole[row.job]
        wanted = asked.search.lower()
        return any(wanted in x.lower() for x in (row.worker, row.host, row.cause, text))

    everybody = told.names is None and asked.search in "job"
    if asked.search and not everybody:
        rows = [row for row in rows if named(row)] or [row for row in rows if has(row)]
    rows = [row for row in rows if asked.state in ("", row.state)]
    sign = -1 if asked.descending else 1
    if asked.sort == "job" or asked.state == "queued":
        return sorted(rows, key=lambda row: sign * row.job)

    def place(row: JobRow) -> tuple[bool, float, int]:
        value = getattr(row, SORT_KEYS[asked.sort]) or 0
        return row.state == "queued", 0 if row.state == "queued" else sign * value, row.job

    return sorted(rows, key=place)


def walk(told: Questions, asked: JobsAsked) -> list[JobRow]:
    """Turns all pages."""
    found: list[JobRow] = []
    for _ in range(1000):
        page = told.jobs(asked)
        assert len(page.rows) == asked.most or (len(page.rows) < asked.most and not page.next)
        found += page.rows
        if not page.next:
            return found
        asked = msgspec.structs.replace(asked, after=page.next)
    raise AssertionError("it has no end")


@settings(max_examples=150, deadline=None)
@given(told=ledgers(), asked=st.lists(questions, min_size=1, max_size=12), parts=st.integers(1, 4))
def test_pages_show_each_job_once_and_in_order(
    told: Told, asked: list[JobsAsked], parts: int
) -> None:
    with written(told, parts) as found:
        assert found.total == told.total
        for one in asked:
            assert walk(found, one) == expected(told, one), one
        for row in rows_of(told):
            assert found.row(row.job) == row
            assert found.job(row.job).row == row


@settings(max_examples=60, deadline=None)
@given(
    told=ledgers(), sort=st.sampled_from(SORTS), descending=st.booleans(), most=st.integers(1, 9)
)
def test_pages_of_a_list_are_in_the_same_order(
    told: Told, sort: str, descending: bool, most: int
) -> None:
    asked = JobsAsked(sort=sort, descending=descending, most=most)
    found: list[JobRow] = []
    page = page_of(rows_of(told), asked)
    while page.next:
        found += page.rows
        page = page_of(rows_of(told), msgspec.structs.replace(asked, after=page.next))
    assert [*found, *page.rows] == expected(told, asked)


@settings(max_examples=60, deadline=None)
@given(told=ledgers())
def test_the_numbers_at_a_glance_are_those_of_the_rows(told: Told) -> None:
    rows = rows_of(told)
    with written(told) as found:
        view = found.run()
        groups = found.failures()
    for state in ("completed", "failed", "canceled", "queued"):
        assert getattr(view, state) == sum(row.state == state for row in rows), state
    assert view.total == len(rows) and view.state == "interrupted" and view.ended_s is None
    assert view.peak_rss_bytes == max([row.peak_rss_bytes for row in rows])
    assert view.busy_s == pytest.approx(
        sum(row.seconds for row in rows if row.state == "completed")
    )
    assert sum(group.count for group in groups) == view.failed
    failed = {row.job for row in rows if row.state == "failed"}
    assert {job for group in groups for job in group.first} <= failed


@given(after=st.text() | st.just("[1]") | st.just('["a", 1]') | st.just("[NaN, 1]"))
@example(after="[" * 1000)
@settings(max_examples=30, deadline=None)
def test_nonsense_is_no_place_to_begin(after: str) -> None:
    with written(Told([])) as found:
        try:
            found.jobs(JobsAsked(after=after))
        except GridMapError as error:
            assert "is not where a page begins" in str(error)


@pytest.mark.parametrize(("name", "value"), [("sort", "size"), ("state", "gone")])
def test_what_cannot_be_understood_is_an_error(name: str, value: str) -> None:
    with written(Told([])) as found, pytest.raises(GridMapError, match="jobs can be sorted by"):
        found.jobs(JobsAsked(**{name: value}))


def test_a_job_that_is_not_there() -> None:
    with written(Told([])) as found, pytest.raises(UnknownJob, match="has no job 0: it has none"):
        found.job(0)
    told = Told([{"kind": "open", "count": 3, **dict.fromkeys(("ended_s", "worker", "host"))}])
    with written(told) as found:
        for job in (-1, 3, 10**18):
            with pytest.raises(UnknownJob, match=f"has no job {job}: its jobs are 0 to 2"):
                found.job(job)
        assert JOB_STATES[-1] == found.job(2).row.state


def test_where_there_is_no_room_for_an_index_all_rows_are_read() -> None:
    alike = {"seconds": 1.0, "rss": 1, "ended_s": 10.0, "worker": "w1", "host": "node1",
             "cause": Cause.DIED, "text": "no"}  # fmt: skip
    kinds = (("values", 500), ("failure", 1), ("open", 20))
    told = Told([{"kind": kind, "count": many, **alike} for kind, many in kinds])
    with written(told) as asked:
        (pages,) = asked._connection.execute("PRAGMA page_count").fetchone()
        asked._connection.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(sqlite3.Error, match="full"):
            asked._connection.execute("CREATE INDEX some ON vals (first, host)")
        assert asked.jobs(JobsAsked(most=1000)).rows == rows_of(told)
        assert [row.job for row in asked.jobs(JobsAsked(state="failed")).rows] == [500]
        assert asked.failures()[0].count == 1
        assert asked.job(500).row.state == "failed"
        assert asked.run().completed == 500
