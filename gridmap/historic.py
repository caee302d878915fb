"""Names of older versions, for programs that did by hand what `process_jobs` does."""

from __future__ import annotations

from collections.abc import Iterable

from gridmap.conf import settings
from gridmap.job import Job, process_jobs, submit
from gridmap.run import Run


def send_error_mail(job: Job) -> None:
    """Sends a mail that tells how a job failed; returns at once, and never raises."""
    from gridmap.report import mail
    from gridmap.report.failed_job import failure_of

    mail.send_error_mail(failure_of(job), settings())


def send_completion_mail(name: str) -> None:
    """Sends a mail that says that all is done; returns at once, and never raises."""
    from gridmap.report import mail

    mail.send_completion_mail(name, settings())


def handle_resubmit(session_id: str, job: Job, temp_dir: str | None = None) -> None:
    """Runs a job again, alone; what happens to it is noted in the job.

    GridMap resubmits by itself; this is for programs that did it by hand.
    """
    before = job.num_resubmits
    process_jobs([job], temp_dir=temp_dir, on_error="return")
    job.num_resubmits = before + 1


class JobMonitor:
    """Watches jobs, for programs that drove the monitor by hand; `process_jobs` does it all.

    :param temp_dir: folder for the workers' stdout and stderr
    """

    def __init__(self, temp_dir: str | None = None) -> None:
        self._temp_dir = temp_dir
        self._run: Run | None = None
        self.jobs: list[Job] = []
        self.home_address = ""

    def __enter__(self) -> JobMonitor:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._run is not None:
            self._run.close()

    def check(self, session_id: str, jobs: Iterable[Job]) -> None:
        """Runs the jobs and returns when every one of them has ended.

        :raises BaseException: the first failure
        """
        self.jobs = list(jobs)
        self._run = submit(self.jobs, temp_dir=self._temp_dir)
        self.home_address = self._run.id
        self._run.results()

    def check_if_alive(self) -> None:
        """Does nothing: the monitor looks after its workers all the time."""

    def all_jobs_done(self) -> bool:
        """Returns whether every job has ended."""
        return self._run is None or self._run.wait(0)
