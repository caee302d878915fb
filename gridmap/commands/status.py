"""`gridmap status`: one run at a glance, once or until it is over."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator

from rich.console import Console
from rich.text import Text

from gridmap._numbers import counted, rate, time_left
from gridmap.commands.common import observed, status_of
from gridmap.commands.live import View
from gridmap.commands.printing import (
    bar,
    console,
    duration,
    facts,
    in_short,
    lost,
    memory,
    moment,
    put_facts,
    put_json,
    put_line,
    safe,
    state_of,
    text,
)
from gridmap.commands.runs import took
from gridmap.errors import GridMapError
from gridmap.views import INTERRUPTED, UNDER_WAY, FailureGroup, NoteView, RunView
from gridmap.watching.observer import Observer

FEW = 5
"""Of the failures and of what people were told."""


def main(options: argparse.Namespace) -> int:
    """Prints how a run is; the exit status says it, too."""
    with observed(options) as observer:
        if options.watch and not options.json:
            return _watch(observer, options.interval)
        view = observer.run()
        while options.watch and view.state == UNDER_WAY:
            time.sleep(options.interval)
            view = observer.run()
        failures, notes = _more(observer, view)
        if options.json:
            put_json({"run": view, "failures": failures, "notes": notes})
        else:
            put_facts(console(), list(lines_of(view, failures, notes)))
        return status_of(view)


def _more(observer: Observer, view: RunView) -> tuple[list[FailureGroup], list[NoteView]]:
    if view.error:
        return [], []
    try:
        return observer.failures(), observer.notes()
    except GridMapError:  # it stopped just now
        return [], []


def _watch(observer: Observer, interval_s: float) -> int:
    out = console()
    if not out.is_terminal:
        return _watch_in_pipe(observer, interval_s, out)
    with View(out) as drawn:
        while True:
            view = observer.run()
            drawn.draw(facts(lines_of(view, *_more(observer, view))))
            if view.state != UNDER_WAY:
                return status_of(view)
            time.sleep(interval_s)


def _watch_in_pipe(observer: Observer, interval_s: float, out: Console) -> int:
    """Prints a line whenever something has changed."""
    before = ""
    while True:
        view = observer.run()
        line = f"{view.id}\t{state_of(view).plain}\t{safe(view.error) or _counts(view)}"
        if line != before:
            put_line(out, line)
            out.file.flush()
            before = line
        if view.state != UNDER_WAY:
            return status_of(view)
        time.sleep(interval_s)


def lines_of(
    view: RunView, failures: list[FailureGroup], notes: list[NoteView]
) -> Iterator[tuple[str, Text | str]]:
    """Yields what there is to say of a run."""
    yield "run", f"{view.id}  {safe(view.name)}".rstrip()
    yield "state", _state(view)
    if view.error:
        yield "error", view.error
        return
    yield "jobs", _counts(view)
    ended = view.completed + view.failed + view.canceled
    pace = f", {rate(view.calls_per_s, 'jobs')}" if view.calls_per_s else ""
    left = f", about {time_left(view.left_s)} left" if view.left_s and ended < view.total else ""
    yield "ended", f"{bar(ended, view.total)}{pace}{left}"
    if view.state == UNDER_WAY:
        at_once = f" ({counted(view.children_up, 'job')} at once)" if view.children_up else ""
        yield "workers", f"{view.workers_up} up{at_once}, {view.workers_pending} pending"
    yield "backend", view.backend
    asked = "; ".join(" ".join(f"{n}={v}" for n, v in pool.asked) for pool in view.pools)
    if asked.strip("; "):
        yield "asked for", asked
    yield "used", f"{duration(view.busy_s)} by jobs; memory of the largest: {_peak(view)}"
    if view.resubmitted:
        yield "tried again", lost(view)
    for group in failures[:FEW]:
        first = ", ".join(map(str, group.first[:3]))
        line = safe(in_short(group.cause, group.error))
        jobs = "job" if group.count == 1 else "jobs"
        more = ", ..." if group.count > len(group.first[:3]) else ""
        yield "failed", text(f"{group.count} x {line} ({jobs} {first}{more})")
    for note in notes[-FEW:]:
        yield note.level, f"{moment(note.at_s)} {note.text}"
    yield from _advice(view)


def _peak(view: RunView) -> str:
    return memory(view.peak_rss_bytes)


def _state(view: RunView) -> Text:
    told = state_of(view)
    if view.host:
        told.append(f" on {safe(view.host)}, process {view.pid}")
    if view.created_s:
        told.append(f", began {moment(view.created_s)}")
    if (seconds := took(view)) is not None and view.created_s:
        told.append(f", {'for' if view.state == UNDER_WAY else 'took'} {duration(seconds)}")
    return told


def _counts(view: RunView) -> str:
    more = "" if view.input_ended or view.state != UNDER_WAY else " so far"
    return (
        f"{view.total}{more}: {view.completed} completed, {view.failed} failed, "
        f"{view.canceled} canceled, {view.running} running, {view.queued} queued"
    )


def _advice(view: RunView) -> Iterator[tuple[str, str]]:
    if view.state == INTERRUPTED and view.kept:
        yield "go on", f"its client died; gridmap attach {view.id} finishes it"
    elif view.state != UNDER_WAY and view.kept and view.completed < view.total:
        yield "go on", f"gridmap retry {view.id} runs again what has no value"
