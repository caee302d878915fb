"""`gridmap logs`: what workers wrote."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator

from gridmap.commands.common import OK, number_of, observed
from gridmap.commands.printing import console, put_json, put_line, safe
from gridmap.errors import GridMapError
from gridmap.launch import LOCAL
from gridmap.views import UNDER_WAY
from gridmap.watching.logs import MOST_BYTES, Piece, read, size, tail
from gridmap.watching.observer import Observer
from gridmap.watching.pages import UnknownJob

LOOK_S = 0.5
STATE_S = 2.0
"""Time between two looks whether the run is still under way."""

PIECES = 64
"""Of one log, one after the other, before others have their turn."""

Logs = dict[str, str]
"""For each log file, whose it is."""


def main(options: argparse.Namespace) -> int:
    """Prints the ends of logs."""
    with observed(options) as observer:
        logs = _wanted(options, observer)
        if not logs:
            raise GridMapError(f"run {observer.path.name} has no logs{_why(options, observer)}")
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


def _why(options: argparse.Namespace, observer: Observer) -> str:
    """Returns why there are no logs, as the end of a sentence."""
    if observer.run().backend == LOCAL:
        return ": its jobs run in processes of its client, and write where that does"
    if options.job is None:
        return ": no worker has come yet"
    row = observer.job(number_of(options.job, observer)).row
    return f" of job {row.job}: it is {row.state}" + (
        "" if row.worker else ", and no worker had it"
    )


def _print(options: argparse.Namespace, observer: Observer, logs: Logs) -> None:
    ends: dict[str, int] = {}
    shown = ""
    looked_at, going_on = time.monotonic(), True
    while True:
        more = False
        for path, worker in logs.items():
            for number, piece in enumerate(_pieces(options, path, ends), 1):
                more = more or number == PIECES
                if len(logs) > 1 and path != shown:
                    put_line(console(), f"==> {safe(path)} (worker {safe(worker)}) <==")
                shown = path
                sys.stdout.write(piece.text)
        sys.stdout.flush()
        if not options.follow or not (going_on or more):
            return
        if not more:
            time.sleep(LOOK_S)
        if going_on and time.monotonic() - looked_at > STATE_S:
            going_on = observer.run().state == UNDER_WAY  # what it wrote last is still printed
            if options.job is None and options.worker is None and going_on:
                found = _wanted(options, observer)
                for path in found.keys() - logs.keys():
                    ends[path] = 0
                logs = {**logs, **found}
            looked_at = time.monotonic()


def _pieces(options: argparse.Namespace, path: str, ends: dict[str, int]) -> Iterator[Piece]:
    """Yields what is to be printed of a log now: at first its end, later what has come since.

    :param ends: where the last piece of each log ended
    """
    if path not in ends:
        if options.bytes == 0:
            ends[path] = size(path)
            return
        piece = read(path, -options.bytes, options.bytes)
        ends[path] = 0 if piece is None else piece.end
        if piece is not None:
            yield piece
        return
    for _ in range(PIECES):
        piece = read(path, ends[path], MOST_BYTES)
        if piece is None or piece.end == ends[path]:
            return
        ends[path] = piece.end
        yield piece
