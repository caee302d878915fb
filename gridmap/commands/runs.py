"""`gridmap runs`: the runs that there are, the latest last."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

from rich.text import Text

from gridmap.commands.common import OK, run_dir, views
from gridmap.commands.printing import (
    console,
    duration,
    moment,
    put_json,
    put_table,
    state_of,
    text,
)
from gridmap.ledger.directory import HISTORY
from gridmap.views import UNDER_WAY, RunView
from gridmap.watching.observer import folders

HEADINGS = ("RUN", "STATE", "JOBS", "DONE", "FAILED", "CANCELED", "BEGAN", "TOOK", "NAME")
NUMBERS = ("JOBS", "DONE", "FAILED", "CANCELED", "TOOK")
LESS = ("TOOK", "CANCELED", "BEGAN", "DONE")


def main(options: argparse.Namespace) -> int:
    """Prints a line for each run."""
    paths = folders(run_dir(options))
    if options.live:
        paths = [path for path in paths if path.parent.name != HISTORY]
    else:
        paths = paths[-options.limit :] if options.limit else paths
    found = views(paths)
    if options.live:
        found = [view for view in found if view.state == UNDER_WAY][-options.limit :]
    if options.json:
        put_json({"runs": found})
        return OK
    put_table(console(), HEADINGS, [row_of(view) for view in found], NUMBERS, LESS)
    return OK


def row_of(view: RunView) -> Sequence[Text | str]:
    """Returns the cells of a run."""
    if view.error:
        return view.id, state_of(view), *["-"] * 6, text(view.error)
    return (
        view.id,
        state_of(view),
        f"{view.total}" if view.input_ended or view.state != UNDER_WAY else f"{view.total}+",
        str(view.completed),
        text(str(view.failed), "bold red" if view.failed else ""),
        str(view.canceled),
        moment(view.created_s),
        duration(took(view)),
        view.name,
    )


def took(view: RunView) -> float | None:
    """Returns how long a run took, or has been under way; None where that is not known."""
    if view.ended_s is not None:
        return max(0.0, view.ended_s - view.created_s)
    return max(0.0, time.time() - view.created_s) if view.state == UNDER_WAY else None
