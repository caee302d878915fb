"""What is left of a run on disk when it is over, and for how long."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from gridmap.core.states import JobState
from gridmap.errors import LedgerError
from gridmap.kinds import NO_PROFILE
from gridmap.plan import is_run_id

if TYPE_CHECKING:
    from gridmap.core.dispatcher import Dispatcher
    from gridmap.ledger.directory import RunDirectory
    from gridmap.options import Options

log = logging.getLogger(__name__)


def clear_up(
    directory: RunDirectory,
    dispatcher: Dispatcher,
    options: Options,
    read_out: list[RunDirectory],
) -> None:
    """Clears up after a run: nothing is left of one that succeeded, when its values have been read;
    of another its logs and its ledger, by which what has no value can run again."""
    counts = dispatcher.jobs.counts()
    total, completed = sum(counts.values()), counts[JobState.COMPLETED]
    workers = dispatcher.workers.values()
    logs = [name for w in workers for name in (w.log_stdout, w.log_stderr)]
    keep_logs = options.keep_logs or counts[JobState.FAILED] > 0
    if options.durable and completed == total and not keep_logs:
        read_out.append(directory)
        directory.end(logs, keep_logs=False, keep_ledger=True)
        return
    # a scheduler that refused it would do so again, and who canceled it wants it no more
    failed = counts[JobState.FAILED] > 0 and bool(dispatcher.workers)
    keep_ledger = options.durable and completed < total and (completed > 0 or failed)
    directory.end(logs, keep_logs or keep_ledger, keep_ledger)
    if keep_ledger:
        run, profile = directory.path.name, options.profile
        asked_by = repr(run) if profile == NO_PROFILE else f"{run!r}, {profile=}"
        if completed:
            log.warning(
                "run %s: %d of %d values are kept; gridmap.attach(%s) gives them", run,
                completed, total, asked_by,
            )  # fmt: skip
        else:
            log.warning(
                "run %s: none of %d jobs has a value; gridmap.attach(%s, again=True) runs "
                "them anew", run, total, asked_by,
            )  # fmt: skip


def sweep(parent: Path, days: float) -> list[str]:
    """Removes the folders of runs that ended, or whose client died, so many days ago.

    :returns: the ids of the runs removed
    """
    from gridmap.ledger.directory import HISTORY, LEDGER_NAME
    from gridmap.ledger.removal import remove, remove_rest
    from gridmap.wire.keys import CONNECTION_NAME

    removed = []
    before = time.time() - days * 86_400
    folders = [folder for folder in (parent, parent / HISTORY) if folder.is_dir()]
    for folder in folders:
        with contextlib.suppress(OSError):
            remove_rest(folder)
    for path in (entry for folder in folders for entry in folder.iterdir()):
        if not is_run_id(path.name):
            continue
        try:
            if path.stat().st_mtime >= before:
                continue  # young, whatever is in it
            newest = max(entry.stat().st_mtime for entry in (path, *path.rglob("*")))
            if newest >= before or not path.is_dir() or path.stat().st_uid != os.geteuid():
                continue
            if not (path / LEDGER_NAME).is_file() and (path / CONNECTION_NAME).is_file():
                continue  # a stream, perhaps of a client that lives elsewhere
            remove(path)
            removed.append(path.name)
        except (OSError, LedgerError):
            continue  # somebody else removes it, or we may not
    return removed
