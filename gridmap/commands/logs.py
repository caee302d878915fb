"""`gridmap logs`: what workers wrote."""

from __future__ import annotations

import argparse
import sys
import time

from gridmap.commands.places import FAILED, OK, number_of, observed
from gridmap.commands.printing import console, put_json, put_line, safe
from gridmap.views import UNDER_WAY
from gridmap.watching.logs import read, tail
from gridmap.watching.observer import Observer
from gridmap.watching.pages import UnknownJob

LOOK_S = 0.5
STATE_S = 2.0
"""Time between two looks whether the run is still under way."""

Logs = dict[str, str]
"""For each log file, whose it is."""


def main(options: argparse.Namespace) -> int:
    """Prints the ends of logs."""
    with observed(options) as observer:
        logs = _wanted(options, observer)
        if not logs:
            said = "its jobs run in processes of its client, and write where that does"
            print(f"gridmap logs: run {observer.path.name} has no logs: {said}", file=sys.stderr)
            return FAILED
        if options.json:
            told = [
                {"path": path, "worker": worker, "text": tail(path, options.bytes)}
                for path, worker in logs.items()
            ]
            put_json({"logs": told})
            return OK
        _print(options, observer, logs)
    return OK


def _wanted(options: argparse.Namespace, observer: Observer) -> Logs:
    """Returns the logs that are asked for.

    :raises UnknownJob: there is no such job or worker
    """
    if options.job is not None:
        view = observer.job(number_of(options.job, observer))
        return {p: view.row.worker for p in (view.log_stdout, view.log_stderr) if p}
    workers = observer.workers()
    if options.worker is not None:
        workers = [worker for worker in workers if worker.id == options.worker]
        if not workers:
            raise UnknownJob(f"run {observer.path.name} has no worker {options.worker!r}")
    return {p: w.id for w in workers for p in (w.log_stdout, w.log_stderr) if p}


def _print(options: argparse.Namespace, observer: Observer, logs: Logs) -> None:
    ends = dict.fromkeys(logs, 0)
    shown = ""
    looked_at, going_on = time.monotonic(), True
    first = True
    while True:
        for path, worker in logs.items():
            piece = read(path, -options.bytes if first else ends[path], options.bytes)
            if piece is None or (not piece.text and not first):
                continue
            if len(logs) > 1 and path != shown:
                put_line(console(), f"==> {safe(path)} (worker {safe(worker)}) <==")
            shown, ends[path] = path, piece.end
            sys.stdout.write(piece.text)
        sys.stdout.flush()
        first = False
        if not options.follow or not going_on:
            return
        time.sleep(LOOK_S)
        if time.monotonic() - looked_at > STATE_S:
            going_on = observer.run().state == UNDER_WAY  # what it wrote last is still printed
            if options.job is None and options.worker is None and going_on:
                found = _wanted(options, observer)
                ends = {path: ends.get(path, 0) for path in {**logs, **found}}
                logs = {**logs, **found}
            looked_at = time.monotonic()
