"""A run at a glance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

from gridmap import _html
from gridmap.core.states import JobState

if TYPE_CHECKING:
    from gridmap.core.dispatcher import Dispatcher
    from gridmap.monitor.tally import Tally


class RunStatus(Struct, frozen=True):
    """A run at a glance: numbers of jobs by how they are, and of workers.

    :param total: jobs, as far as the input has been read
    :param running: jobs that run: no more than the workers that are up can run at once
    :param queued: jobs that have yet to begin, also where a worker holds them
    :param workers_up: workers that have said hello
    :param workers_pending: workers that the scheduler has not started yet
    :param ended: whether every job has ended
    :param children_up: jobs that the workers that are up can run at once
    :param resubmitted: attempts that failed and were followed by another
    :param died: of the jobs that failed, those that did not end by an exception of their own
    :param busy_s: seconds that the jobs that ended took, all of them together
    :param calls_per_s: jobs that ended lately, per second
    :param left_s: seconds until all jobs have ended, by the seconds that jobs took lately and the
        processes that there are; None while nothing is known
    :param peak_rss_bytes: largest resident memory of a process for jobs
    :param queues: workers that wait in the scheduler's queues, by queue; "" is the one that the
        scheduler chooses
    :param input_ended: no more jobs will be read
    """

    total: int
    completed: int
    failed: int
    canceled: int
    running: int
    queued: int
    workers_up: int
    workers_pending: int
    ended: bool
    children_up: int = 0
    resubmitted: int = 0
    died: int = 0
    busy_s: float = 0.0
    calls_per_s: float = 0.0
    left_s: float | None = None
    peak_rss_bytes: int = 0
    queues: dict[str, int] = {}
    input_ended: bool = True

    def html(self, title: str) -> str:
        """Returns a small table."""
        workers = f"{self.workers_up} up, {self.workers_pending} pending"
        rows = [
            ("state", "ended" if self.ended else "under way"),
            ("jobs", f"{self.total:,}"),
            *(
                (name, f"{count:,}")
                for name in ("completed", "failed", "canceled", "running", "queued")
                if (count := getattr(self, name))
            ),
            ("workers", "" if self.ended else workers),
        ]
        return _html.table(title, [row for row in rows if row[1]])

    def _repr_html_(self) -> str:
        return self.html("Status of a run")


def status_of(
    dispatcher: Dispatcher,
    tally: Tally,
    now: float,
    ended: bool = False,
    queues: Sequence[str] = (),
) -> RunStatus:
    """Returns how a run is; the monitor's thread alone may ask, while it serves.

    :param now: on the monotonic clock; of a run that has ended, when it did
    :param ended: every job has ended
    :param queues: the queue that the workers of each pool wait in
    """
    summary = dispatcher.summary()
    jobs, total = summary.jobs, sum(summary.jobs.values())
    input_ended = ended or dispatcher.input_ended
    unread = 0 if input_ended else max(0, (tally.expected or 0) - total)
    left_s = None
    if input_ended or tally.expected is not None:
        unfinished = summary.running + summary.queued + unread
        left_s = tally.left_s(unfinished, summary.children, now)
    return RunStatus(
        total=total,
        completed=jobs[JobState.COMPLETED],
        failed=jobs[JobState.FAILED],
        canceled=jobs[JobState.CANCELED] + jobs[JobState.SKIPPED],
        running=summary.running,
        queued=summary.queued,
        workers_up=summary.up,
        workers_pending=summary.pending,
        ended=ended,
        children_up=summary.children,
        resubmitted=tally.resubmitted,
        died=tally.died,
        busy_s=tally.busy_s,
        calls_per_s=tally.calls_per_s(now),
        left_s=left_s,
        peak_rss_bytes=tally.peak_rss_bytes,
        queues=waiting(queues, summary.coming),
        input_ended=input_ended,
    )


def waiting(queues: Sequence[str], coming: list[int]) -> dict[str, int]:
    """Returns how many workers wait in each queue.

    :param coming: how many of each pool have yet to come
    """
    found: dict[str, int] = {}
    for queue, count in zip(queues, coming, strict=False):
        if count:
            found[queue] = found.get(queue, 0) + count
    return found
