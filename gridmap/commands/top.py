"""`gridmap top`: all runs that are under way, live."""

from __future__ import annotations

import argparse
import contextlib
import math
import queue
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from msgspec.structs import replace
from rich.console import Console, Group
from rich.text import Text

from gridmap._numbers import counted, rate, time_left
from gridmap.commands.common import AT_ONCE, OK, run_dir
from gridmap.commands.live import View
from gridmap.commands.printing import (
    bar,
    console,
    duration,
    memory,
    put_json,
    put_table,
    state_of,
    table,
    text,
)
from gridmap.commands.runs import took
from gridmap.errors import LedgerError
from gridmap.ledger.directory import HISTORY
from gridmap.views import DAMAGED, UNDER_WAY, RunView
from gridmap.watching.observer import Observer, folders

HEADINGS = ("RUN", "STATE", "ENDED", "JOBS", "FAILED", "RUNNING", "WORKERS", "JOBS/S", "LEFT",
            "MEMORY", "FOR", "NAME")  # fmt: skip
NUMBERS = ("JOBS", "FAILED", "RUNNING", "WORKERS", "JOBS/S", "LEFT", "MEMORY", "FOR")
LESS = ("MEMORY", "FOR", "JOBS/S", "RUNNING", "WORKERS", "LEFT")
FIRST_S = 10.0
"""How long the first answers are waited for."""
SHOWN_S = 10.0
"""How long a run stays on the screen that is over."""
REST_S = 30.0
"""How long a run that is over is left alone: somebody may go on with it."""


class Watchers:
    """Asks many runs, each in a thread of its own; whoever does not answer is shown as it was.

    :param parent: where runs are kept
    """

    def __init__(self, parent: Path) -> None:
        self._parent = parent
        self._turn = threading.Semaphore(AT_ONCE)
        self._answers: queue.SimpleQueue[tuple[Path, RunView]] = queue.SimpleQueue()
        self._asked: set[Path] = set()
        self._observers: dict[Path, Observer] = {}
        self._seen: dict[Path, tuple[RunView, float]] = {}
        self._over: dict[Path, float] = {}

    def ask(self) -> None:
        """Asks every run that is not being asked; those that are over now and then."""
        now = time.monotonic()
        for path in folders(self._parent):
            rests = now < self._over.get(path, -math.inf)
            if path.parent.name == HISTORY or rests or path in self._asked:
                continue
            self._asked.add(path)
            # not waited for when the command ends
            threading.Thread(target=self._look, args=(path,), daemon=True).start()

    def wait(self, wait_s: float) -> None:
        """Takes in answers, until all have come or so long at most."""
        until = time.monotonic() + wait_s
        while self._asked and (left_s := until - time.monotonic()) > 0:
            with contextlib.suppress(queue.Empty):
                path, view = self._answers.get(timeout=left_s)
                self._asked.discard(path)
                self._take(path, view)

    def views(self) -> list[RunView]:
        """Returns the runs that are under way, and those that ended just now, the oldest first."""
        now = time.monotonic()
        for path, (view, at) in list(self._seen.items()):
            if view.state != UNDER_WAY and now - at > SHOWN_S:
                del self._seen[path]
        return [view for _, (view, _) in sorted(self._seen.items())]

    def _take(self, path: Path, view: RunView) -> None:
        now = time.monotonic()
        if view.state == UNDER_WAY:
            before = self._seen.get(path)
            if view.error and before is not None:
                view = replace(before[0], error=view.error)  # as it was last known
            self._seen[path] = view, now
            return
        self._over[path] = now + REST_S
        if path in self._seen:
            self._seen[path] = view, now

    def _look(self, path: Path) -> None:
        with self._turn:
            try:
                if path not in self._observers:
                    self._observers[path] = Observer(path)
                view = self._observers[path].run()
            except LedgerError as error:  # not ours alone, or gone by now
                view = RunView(path.name, state=DAMAGED, error=str(error))
        if view.state != UNDER_WAY and (observer := self._observers.pop(path, None)) is not None:
            observer.close()
        self._answers.put((path, view))

    def close(self) -> None:
        """Hangs up on those that are not being asked."""
        for path, observer in self._observers.items():
            if path not in self._asked:
                observer.close()


def main(options: argparse.Namespace) -> int:
    """Shows the runs until it is interrupted; in a pipe, and as JSON, once."""
    watchers = Watchers(run_dir(options))
    out = console()
    try:
        watchers.ask()
        watchers.wait(FIRST_S)
        if options.json:
            put_json({"runs": watchers.views()})
        elif not out.is_terminal:
            put_table(out, HEADINGS, [_cells(view) for view in watchers.views()], NUMBERS, LESS)
        else:
            _live(watchers, options.interval, out)
    except KeyboardInterrupt:  # that is how one leaves
        pass
    finally:
        watchers.close()
    return OK


def _live(watchers: Watchers, interval_s: float, out: Console) -> None:
    with View(out, screen=True) as view:
        while True:
            view.draw(_screen(watchers.views(), out.width, out.height))
            time.sleep(interval_s)
            watchers.ask()
            watchers.wait(0.2)


def _screen(views: Sequence[RunView], width: int, height: int) -> Group:
    room = max(1, height - 4)
    running, jobs = sum(v.running for v in views), sum(v.total for v in views)
    told = f"{counted(len(views), 'run')}, {counted(jobs, 'job')}, {running:,} running"
    headline = f"{told}   {time.strftime('%H:%M:%S')}"
    more = len(views) - room
    last = f"... and {more} more; " if more > 0 else ""
    return Group(
        Text(headline, "bold"),
        table(HEADINGS, [_cells(view) for view in views[-room:]], width, NUMBERS, LESS),
        Text(f"{last}Ctrl-C leaves", "dim"),
    )


def _cells(view: RunView) -> Sequence[Text | str]:
    ended = view.completed + view.failed + view.canceled
    if not view.total:
        return (view.id, state_of(view), *["-"] * 9, text(view.error or view.name))
    return (
        view.id,
        state_of(view),
        bar(ended, view.total, 10),
        f"{view.total}" if view.input_ended else f"{view.total}+",
        text(str(view.failed), "bold red" if view.failed else ""),
        str(view.running),
        f"{view.workers_up}+{view.workers_pending}"
        if view.workers_pending
        else str(view.workers_up),
        rate(view.calls_per_s),
        "-" if view.left_s is None else time_left(view.left_s),
        memory(view.peak_rss_bytes),
        duration(took(view)),
        view.name,
    )
