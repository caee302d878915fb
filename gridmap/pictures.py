"""The door to pictures of runs: `plot`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from gridmap.conf import settings
from gridmap.core.states import JobState
from gridmap.earlier import folder_of
from gridmap.ledger import book
from gridmap.ledger.facts import Facts
from gridmap.report import plots
from gridmap.report.story import CANCELED, COMPLETED, FAILED, JobStory, Story
from gridmap.run import Run
from gridmap.stories import story_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot(
    run: Run | str | Story,
    *,
    width: float = 9.0,
    run_dir: str | os.PathLike[str] | None = None,
    profile: str | None = None,
) -> Figure:
    """Returns a matplotlib figure of a run: its workers, what jobs used, how long they took.

    It is shown by a notebook, and saved by its `savefig("run.png")`.  pyplot knows nothing of it.

    :param run: as `submit` or `attach` returned it, its id, or a story of it
    :param width: inches
    :param run_dir: for an id: where runs are kept; GRIDMAP_RUN_DIR when not given
    :param profile: for an id: a profile of the configuration files, which may say where that is
    :raises ImportError: there is no matplotlib
    :raises LedgerError: no run with this id has a ledger that can be read
    """
    if not plots.available():
        raise ImportError(plots.MISSING)
    if isinstance(run, Run):
        run = story_of(run)
    elif isinstance(run, str):
        parent = Path(os.fspath(run_dir) if run_dir else settings(profile).run_dir)
        run = _story_of_ledger(book.read(folder_of(run, parent)))
    if not isinstance(run, Story):
        raise TypeError(f"plot takes a Run or the id of one, not {run!r:.100}")
    return plots.plot(run, width)


def _story_of_ledger(facts: Facts) -> Story:
    """Returns what a ledger tells of each job."""
    header = facts.header
    total = sum(part.span.count for part in facts.parts)
    jobs = [JobStory(number) for number in range(total)]
    for job in jobs:
        number = job.number
        job.name = header.names[number] if header.one_by_one else f"{header.name}{number}"
    for end in facts.ends:
        for job in jobs[end.span.first : end.span.stop]:
            job.state = FAILED if end.state is JobState.FAILED else CANCELED
            job.cause = str(end.cause)
    for failure in facts.failures:
        job = jobs[failure.job]
        job.state, job.cause, job.attempts = FAILED, str(failure.cause), failure.attempts
        job.worker, job.host = failure.worker, failure.host
    for fact in facts.values:
        for job in jobs[fact.span.first : fact.span.stop]:
            job.state, job.cause, job.attempts = COMPLETED, "", fact.attempts
            job.worker, job.host = fact.worker, fact.host
    return Story(header.run, header.name, jobs)
