"""A run at a glance."""

from __future__ import annotations

from msgspec import Struct

from gridmap import _html


class RunStatus(Struct, frozen=True):
    """A run at a glance: numbers of jobs by how they are, and of workers.

    :param total: jobs, as far as the input has been read
    :param running: jobs that workers hold, also where they have yet to begin
    :param queued: jobs that no worker has
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
