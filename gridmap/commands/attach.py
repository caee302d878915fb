"""`gridmap attach` and `gridmap retry`: finish a run, and write its values."""

from __future__ import annotations

import argparse
import sys

from rich.console import Console
from rich.text import Text

from gridmap._numbers import counted
from gridmap.commands.common import FAILED, OK, path_of, run_dir
from gridmap.commands.live import View
from gridmap.commands.printing import bar, console, put_json, put_line, safe
from gridmap.commands.writing import Target
from gridmap.earlier import attach
from gridmap.errors import LedgerError
from gridmap.ledger.directory import HISTORY
from gridmap.run import Run

LOOK_S = 0.5


def main(options: argparse.Namespace, again: bool = False) -> int:
    """Takes a run over, runs what is missing and writes the values.

    :param again: runs anew what failed, was canceled or was skipped
    """
    path = path_of(options.run, run_dir(options))
    name = path.name
    if path.parent.name == HISTORY:
        raise LedgerError(f"run {name} is over, and only its history is left: no values, no jobs")
    target = Target(options, f"gridmap-{name}.pkl")
    run = attach(name, run_dir=path.parent, on_error="return", again=again, profile=options.profile)
    with run, run.kept():
        _watched(run, console(sys.stderr))
        values = run.results()
        errors = {job: _words(values[job]) for job in run.without_values()}
        target.write(name, values, errors)
    _tell(options, name, target, len(values), errors)
    return FAILED if errors else OK


def _watched(run: Run, out: Console) -> None:
    if not out.is_terminal:
        run.wait()
        return
    with View(out, leaves=False) as view:
        while not run.wait(LOOK_S):
            view.draw(Text(_progress(run)))


def _progress(run: Run) -> str:
    status = run.status()
    ended = status.completed + status.failed + status.canceled
    workers = f"{status.workers_up} workers up, {status.workers_pending} pending"
    return f"run {run.id} {bar(ended, status.total)} {ended} of {status.total}, {workers}"


def _words(error: BaseException) -> str:
    words = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


def _tell(
    options: argparse.Namespace, run: str, target: Target, total: int, errors: dict[int, str]
) -> None:
    if options.json:
        told = {str(job): error for job, error in errors.items()}
        put_json({
            "run": run, "path": str(target.path), "format": target.format, "total": total,
            "errors": told,
        })  # fmt: skip
        return
    out = console()
    put_line(out, f"run {run}: {counted(total - len(errors), 'value')} of {counted(total, 'job')}")
    for job, error in list(errors.items())[:5]:
        put_line(out, f"job {job} has none: {safe(error)}")
    if len(errors) > 5:
        put_line(out, f"... and {len(errors) - 5} more; gridmap jobs {run} --failed")
    put_line(out, f"written to {safe(target.path)} ({target.format})")
