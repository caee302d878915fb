"""`gridmap clean`: removes runs that nobody runs any more."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from gridmap._numbers import counted
from gridmap.commands.common import (
    FAILED,
    OK,
    Misused,
    agreed,
    is_terminal,
    path_of,
    run_dir,
    views,
)
from gridmap.commands.printing import console, moment, put_json, put_line, put_table, safe
from gridmap.errors import GridMapError, LedgerError
from gridmap.ledger.removal import remove
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
        raise Misused("nobody can be asked here; say --yes")
    if not options.json:
        _list(found)
    if options.json and not options.yes:
        raise Misused("--json asks nobody; say --yes")
    if not agreed(
        f"Remove {counted(len(found), 'run')}, and the values that are kept?", options.yes
    ):
        raise GridMapError("nothing was removed")
    stays = {view.id: why for view in found if (why := _remove(Path(view.path)))}
    removed = [view for view in found if view.id not in stays]
    _say(options, removed, found, stays)
    return OK if len(removed) == len(found) else FAILED


def _may_go(view: RunView, options: argparse.Namespace) -> bool:
    if view.state not in ((ENDED,) if options.ended else (ENDED, INTERRUPTED)):
        return False
    if options.older_than is None:
        return True
    return view.created_s < time.time() - options.older_than * DAY_S


def _remove(path: Path) -> str:
    """Removes a run unless it lives by now; returns why it stays."""
    try:
        if os.lstat(path).st_uid != os.geteuid():
            return "it is not yours"
        remove(path)
    except (OSError, LedgerError) as error:
        return str(error)
    return ""


def _list(found: list[RunView]) -> None:
    rows = [
        (v.id, v.state, f"{v.completed if v.kept else 0}", moment(v.created_s), v.name)
        for v in found
    ]
    put_table(console(), ("RUN", "STATE", "VALUES", "BEGAN", "NAME"), rows, ("VALUES",))
    sys.stdout.flush()


def _say(
    options: argparse.Namespace,
    removed: list[RunView],
    found: list[RunView],
    stays: dict[str, str] | None = None,
) -> int:
    """Tells what was done.

    :param stays: runs that could not be removed, and why
    """
    if options.json:
        told = {"removed": [v.id for v in removed], "found": [v.id for v in found]}
        put_json({**told, "dry_run": options.dry_run, "stays": stays or {}})
    elif options.dry_run:
        _list(found)
    else:
        for run, why in (stays or {}).items():
            print(f"gridmap clean: {run} stays: {safe(why)}", file=sys.stderr)
        put_line(console(), f"{counted(len(removed), 'run')} removed")
    return OK
