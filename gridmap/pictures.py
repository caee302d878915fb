"""The door to pictures of runs: `plot`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from gridmap.conf import settings
from gridmap.errors import LedgerError
from gridmap.report import plots, run_plot
from gridmap.report.story import JobStory, Story, Usage, WorkerStory
from gridmap.run import Run
from gridmap.stories import story_of
from gridmap.views import JobsAsked, WorkerView
from gridmap.watching.observer import Observer, find

ROWS = 1000
"""Jobs that are asked for at a time."""

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
        run = _story_of(find(run, parent))
    if not isinstance(run, Story):
        raise TypeError(f"plot takes a Run or the id of one, not {run!r:.100}")
    return run_plot.plot(run, width)


def _story_of(path: Path) -> Story:
    """Returns what can be seen of a run."""
    with Observer(path) as observer:
        run = observer.run()
        if run.error:
            raise LedgerError(run.error)
        rows, after = [], ""
        while True:
            page = observer.jobs(JobsAsked(after=after, most=ROWS))
            rows += page.rows
            after = page.next
            if not after:
                break
        samples: dict[int, list[Usage]] = {}
        for one in observer.usage():
            usage = Usage(one.at_s, one.rss_bytes, one.cpu_fraction)
            samples.setdefault(one.job, []).append(usage)
        workers = observer.workers()
    jobs = [
        JobStory(
            row.job,
            row.name,
            row.state,
            row.cause,
            row.host,
            row.worker,
            row.attempts,
            row.ended_s,
            row.seconds if row.ended_s is not None else None,
            row.peak_rss_bytes or None,
            samples.get(row.job, ()),
        )
        for row in rows
    ]
    return Story(run.id, run.name, jobs, [_worker(worker) for worker in workers])


def _worker(worker: WorkerView) -> WorkerStory:
    gone_s = worker.heard_s if worker.state in ("gone", "lost") else None
    return WorkerStory(worker.id, worker.host, worker.up_s, gone_s, worker.children)
