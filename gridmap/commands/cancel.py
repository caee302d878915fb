"""`gridmap cancel`: ends jobs, or a run, whoever drives it."""

from __future__ import annotations

import argparse

from gridmap._numbers import counted
from gridmap.commands.common import OK, agreed, number_of, observed
from gridmap.commands.printing import console, put_json, put_line
from gridmap.errors import GridMapError, LedgerError, LedgerInUse
from gridmap.views import ENDED, INTERRUPTED, UNDER_WAY, RunView
from gridmap.watching.observer import NotAlive, Observer

END_S = 30.0
"""How long the end of a run may take that has to be taken over for it."""


def main(options: argparse.Namespace) -> int:
    """Has jobs canceled."""
    with observed(options) as observer:
        view = observer.run()
        if view.state == UNDER_WAY and view.error:  # asked once more, it would be as silent
            raise LedgerInUse(view.error)
        jobs = [number_of(word, observer) for word in options.jobs] or None
        for job in jobs or ():
            observer.job(job)  # it is there
        if view.state == ENDED:
            return _say(options, view, jobs, "has ended: there is nothing to cancel")
        left = view.queued + view.running
        question = f"Cancel run {view.id}, with {counted(left, 'job')} that have not ended?"
        if jobs is None and not agreed(question, options.yes):
            raise GridMapError("nothing was canceled")
        try:
            observer.cancel(jobs, options.reason)
        except NotAlive:
            return _cancel_left(options, observer, jobs)
    what = "is canceled" if jobs is None else f"{counted(len(jobs), 'job')} canceled"
    return _say(options, view, jobs, what)


def _cancel_left(options: argparse.Namespace, observer: Observer, jobs: list[int] | None) -> int:
    """Ends a run whose client is dead: takes it over, so that its workers are deleted.

    :raises LedgerError: only some of its jobs are to be canceled
    """
    view = observer.run()
    if view.state != INTERRUPTED:  # it ended just now
        return _say(options, view, jobs, "has ended: there is nothing to cancel")
    if jobs is not None:
        raise LedgerError(
            f"the client of run {view.id} is dead, and nobody runs its other jobs: cancel all of "
            f"it, or go on with it first (gridmap attach {view.id})"
        )
    from gridmap.earlier import attach

    observer.close()
    parent = observer.path.parent
    run = attach(view.id, run_dir=parent, on_error="return", profile=options.profile)
    run.cancel()
    ended = run.wait(END_S)
    run.close()
    if not ended:
        raise GridMapError(f"run {view.id} did not end within {END_S:.0f} s; look at it again")
    return _say(options, view, jobs, "is canceled; its client was dead")


def _say(options: argparse.Namespace, view: RunView, jobs: list[int] | None, what: str) -> int:
    if options.json:
        put_json({"run": view.id, "jobs": jobs, "said": what})
    else:
        put_line(console(), f"run {view.id}: {what}" if jobs else f"run {view.id} {what}")
    return OK
