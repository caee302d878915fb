"""What only the monitor of a run knows: what runs, who works, and how fast it goes."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from msgspec.structs import replace

from gridmap.core.dispatcher import Dispatcher
from gridmap.core.messages import Held
from gridmap.core.records import ENDED, LeaseRecord, WorkerRecord
from gridmap.monitor.tally import Tally
from gridmap.run_status import RunStatus, status_of
from gridmap.views import UNDER_WAY, JobPage, JobRow, JobsAsked, RunView, WorkerView
from gridmap.watching.pages import page_of

_InWork = tuple[LeaseRecord, int, Held | None]
"""A lease that a process is in, its job that runs, and what the worker last said of that job."""


@dataclass(frozen=True)
class Alive:
    """What a dispatcher knew at one moment.

    :param workers: all that have not ended
    :param running: a row for each job that a worker is in, by number
    """

    status: RunStatus
    workers: dict[str, WorkerView] = field(default_factory=dict)
    running: dict[int, JobRow] = field(default_factory=dict)


def look(dispatcher: Dispatcher, tally: Tally) -> Alive:
    """Returns what there is to be seen; in the monitor's thread."""
    now, now_s = time.monotonic(), time.time()
    workers: dict[str, WorkerView] = {}
    running: dict[int, JobRow] = {}
    for worker in dispatcher.workers.values():
        if worker.state in ENDED:
            continue
        in_work = list(_in_work(worker))
        workers[worker.id] = _worker(worker, in_work, now, now_s)
        for lease, job, told in in_work:
            begun = min(lease.since, worker.up_since if lease.first else now)
            running[job] = JobRow(
                job, "", "running", lease.attempt + 1, seconds=max(0.0, now - begun),
                peak_rss_bytes=told.rss_bytes if told else 0, worker=worker.id, host=worker.host,
            )  # fmt: skip
    return Alive(status_of(dispatcher, tally, now), workers, running)


def _in_work(worker: WorkerRecord) -> Iterator[_InWork]:
    """Yields what a worker is in.

    A heartbeat tells of it, and how much memory it has. Between two of them most short jobs begin
    and end: then it is the first job without an answer of a lease that runs, for a process takes
    the jobs of a lease in order.
    """
    for lease in worker.leases.values():
        told = lease.last
        if told is not None and lease.holds(told.current):
            yield lease, told.current, told
        elif lease.since < math.inf and lease.open:
            yield lease, lease.open[0].first, None


def _worker(
    worker: WorkerRecord, in_work: Sequence[_InWork], now: float, now_s: float
) -> WorkerView:
    held = [told for _, _, told in in_work if told is not None]
    up_s = now_s - (now - worker.up_since) if worker.up_since <= now else None
    heard_s = now_s - (now - worker.heard_at) if worker.host else None
    return WorkerView(
        worker.id,
        worker.host,
        worker.state.name.lower(),
        worker.children,
        up_s,
        heard_s,
        0,
        [job for _, job, _ in in_work],
        sum(one.rss_bytes for one in held),
        sum(one.cpu_fraction for one in held),
        worker.log_stdout,
        worker.log_stderr,
    )


def run_now(told: RunView, alive: Alive, host: str, pid: int) -> RunView:
    """Returns the run as it is, of what the ledger tells and what the monitor knows."""
    status = alive.status
    return replace(
        told,
        state=UNDER_WAY,
        total=status.total,
        completed=status.completed,
        failed=status.failed,
        canceled=status.canceled,
        running=status.running,
        queued=status.queued,
        workers_up=status.workers_up,
        workers_pending=status.workers_pending,
        children_up=status.children_up,
        calls_per_s=status.calls_per_s,
        left_s=status.left_s,
        host=host,
        pid=pid,
    )


_THERE = {"up", "suspect", "draining"}


def workers_now(told: list[WorkerView], alive: Alive) -> list[WorkerView]:
    """Returns the workers that the ledger knows, and what each does now."""
    known = {worker.id: worker for worker in told}
    found = []
    for one in told:
        if one.id in alive.workers:
            found.append(replace(alive.workers[one.id], up_s=one.up_s, jobs=one.jobs))
        elif one.state in _THERE:  # it was killed, and said nothing of that
            found.append(replace(one, state="gone"))
        else:
            found.append(one)
    return found + [worker for name, worker in alive.workers.items() if name not in known]


def page_now(page: JobPage, alive: Alive, asked: JobsAsked, names: dict[int, str]) -> JobPage:
    """Returns a page with the jobs in it that run now.

    :param names: of the jobs that run
    """
    running = {n: replace(row, name=names.get(n, "")) for n, row in alive.running.items()}
    if asked.state == "running":
        return page_of((row for row in running.values() if _is_meant(row, asked.search)), asked)
    rows = [running.get(row.job, row) if row.state == "queued" else row for row in page.rows]
    if asked.state == "queued":
        rows = [row for row in rows if row.state == "queued"]
    return JobPage(rows, page.next)


def _is_meant(row: JobRow, search: str) -> bool:
    if search.isdecimal():
        return row.job == int(search[:18])
    wanted = search.lower()
    return any(wanted in text.lower() for text in (row.name, row.host, row.worker))
