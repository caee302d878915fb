"""`gridmap jobs`: the jobs of a run, a line each."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

import msgspec
from rich.text import Text

from gridmap.commands.common import OK, observed
from gridmap.commands.printing import (
    STYLES,
    console,
    duration,
    in_short,
    memory,
    moment,
    put_json,
    put_line,
    put_table,
    text,
)
from gridmap.views import JobPage, JobRow, JobsAsked
from gridmap.watching.observer import Observer
from gridmap.watching.pages import MOST_ROWS

HEADINGS = ("JOB", "STATE", "TRIES", "TOOK", "MEMORY", "ENDED", "HOST", "NAME", "ERROR")
NUMBERS = ("JOB", "TRIES", "TOOK", "MEMORY")
LESS = ("ENDED", "TRIES", "MEMORY", "HOST", "TOOK")


def main(options: argparse.Namespace) -> int:
    """Prints a page of the table of jobs, or all of it."""
    asked = JobsAsked(
        options.state or "", options.search, options.sort, options.descending, options.after
    )
    out = console()
    with observed(options) as observer:
        if options.json:
            pages = list(_pages(observer, asked, options.limit))
            rows = [row for page in pages for row in page.rows]
            put_json({"rows": rows, "next": pages[-1].next})
            return OK
        rows, page = [], JobPage([])
        headings: Sequence[str] = HEADINGS
        for page in _pages(observer, asked, options.limit):
            rows += page.rows
            if not out.is_terminal:  # nobody measures columns there
                put_table(out, headings, [_cells(row) for row in page.rows])
                rows, headings = [], ()
    if out.is_terminal:
        put_table(out, HEADINGS, [_cells(row) for row in rows], NUMBERS, LESS)
        if page.next:
            put_line(out, f"... the first {len(rows)}; --limit 0 shows all")
    return OK


def _pages(observer: Observer, asked: JobsAsked, limit: int) -> Iterator[JobPage]:
    """Yields pages until there have been so many jobs; 0: all of them."""
    left = limit
    while True:
        most = min(MOST_ROWS, left) if limit else MOST_ROWS
        page = observer.jobs(msgspec.structs.replace(asked, most=most))
        yield page
        left -= len(page.rows)
        if not page.next or (limit and left <= 0):
            return
        asked = msgspec.structs.replace(asked, after=page.next)


def _cells(row: JobRow) -> Sequence[Text | str]:
    ran = row.state != "queued"
    return (
        str(row.job),
        text(row.state, STYLES.get(row.state, "")),
        str(row.attempts) if ran else "-",
        duration(row.seconds) if ran and row.seconds else "-",
        memory(row.peak_rss_bytes),
        moment(row.ended_s),
        row.host or "-",
        row.name,
        in_short(row.cause, row.error),
    )
