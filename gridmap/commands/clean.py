"""`gridmap clean`: removes runs that nobody runs any more."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from pathlib import Path

from gridmap.commands.places import (
    FAILED,
    OK,
    USAGE,
    agreed,
    is_terminal,
    path_of,
    run_dir,
    views,
)
from gridmap.commands.printing import console, many, moment, put_json, put_line, put_table
from gridmap.errors import LedgerError
from gridmap.ledger import book
from gridmap.views import ENDED, INTERRUPTED, RunView
from gridmap.watching.observer import folders

DAY_S = 86_400


def main(options: argparse.Namespace) -> int:
    """Removes runs, after it has said which."""
    parent = run_dir(options)
    paths = [path_of(word, parent) for word in options.runs] or folders(parent)
    found = [view for view in views(paths) if _may_go(view, options)]
    if options.dry_run or not found:
        return _say(options, [], found)
    if not (options.yes or options.json or is_terminal()):
        print("gridmap clean: nobody can be asked here; say --yes", file=sys.stderr)
        return USAGE
    if not options.json:
        _list(found)
    if options.json and not options.yes:
        print("gridmap clean: --json asks nobody; say --yes", file=sys.stderr)
        return USAGE
    if not agreed(f"Remove {many(len(found), 'run')}, and the values that are kept?", options.yes):
        print("gridmap clean: nothing was removed", file=sys.stderr)
        return FAILED
    removed = [view for view in found if _remove(Path(view.path))]
    _say(options, removed, found)
    return OK if len(removed) == len(found) else FAILED


def _may_go(view: RunView, options: argparse.Namespace) -> bool:
    if view.state not in ((ENDED,) if options.ended else (ENDED, INTERRUPTED)):
        return False
    if options.older_than is None:
        return True
    return view.created_s < time.time() - options.older_than * DAY_S


def _remove(path: Path) -> bool:
    """Removes a run unless it lives by now; returns whether it is gone."""
    try:
        if os.lstat(path).st_uid != os.geteuid():
            return False
        with book.lock(path):
            scratch = path.with_name(f".{path.name}.gone")
            path.rename(scratch)  # from now on nobody takes it over
        shutil.rmtree(scratch)
    except (OSError, LedgerError) as error:
        print(f"gridmap clean: {path.name} stays: {error}", file=sys.stderr)
        return False
    return True


def _list(found: list[RunView]) -> None:
    rows = [
        (v.id, v.state, f"{v.completed if v.kept else 0}", moment(v.created_s), v.name)
        for v in found
    ]
    put_table(console(), ("RUN", "STATE", "VALUES", "BEGAN", "NAME"), rows, ("VALUES",))
    sys.stdout.flush()


def _say(options: argparse.Namespace, removed: list[RunView], found: list[RunView]) -> int:
    if options.json:
        told = {"removed": [v.id for v in removed], "found": [v.id for v in found]}
        put_json({**told, "dry_run": options.dry_run})
    elif options.dry_run:
        _list(found)
    else:
        put_line(console(), f"{many(len(removed), 'run')} removed")
    return OK
