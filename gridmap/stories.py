"""What happened to each job, noted in it and told by mail."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from gridmap.conf import Settings
from gridmap.engine import Failed
from gridmap.errors import Cause
from gridmap.monitor.sink import Place, Sample
from gridmap.monitor.watcher import Watcher
from gridmap.work import Job


def as_jobs(job: Job, elements: Iterable[Any]) -> Iterator[Job]:
    """Yields a job for each call of a map, lazily."""
    for number, element in enumerate(elements):
        one = job.__class__.__new__(job.__class__)
        one.__dict__.update(job.__dict__)  # as copy.copy does, in an eighth of the time
        one.args = element if isinstance(element, list) else [element]
        one.name = f"{job.name}{number}"
        yield one


class MapWatcher(Watcher):
    """Knows the names of a map's calls; sends mail when one fails.

    :param mail_settings: what to send it with; None sends none
    """

    def __init__(self, job: Job, mail_settings: Settings | None) -> None:
        self._job = job
        self._mail_settings = mail_settings

    def name(self, job: int) -> str:
        return f"{self._job.name}{job}"

    def failed(
        self, job: int, error: BaseException, cause: Cause, attempts: int, place: Place
    ) -> None:
        if attempts and self._mail_settings is not None:
            one = next(as_jobs(self._job, [None]))
            one.name = self.name(job)
            _note(one, job, place, attempts)
            _note_error(one, error, cause)
            self._tell(one)

    def _tell(self, job: Job) -> None:
        if self._mail_settings is not None and not self.told_before:
            from gridmap.report import mail  # takes a while, and is seldom needed

            mail.send_error_mail(mail.failure_of(job), self._mail_settings)


class JobWatcher(MapWatcher):
    """Notes in each Job what happened to it."""

    wants_samples = True

    def __init__(self, jobs: list[Job], mail_settings: Settings | None) -> None:
        self._jobs = jobs
        self._mail_settings = mail_settings

    def name(self, job: int) -> str:
        return self._jobs[job].name

    def sampled(self, sample: Sample) -> None:
        job = self._jobs[sample.job]
        memory, percent = sample.rss_bytes / 1e6, sample.cpu_fraction * 100
        job.track_mem.append(memory)
        job.track_cpu.append((percent, sample.running))
        job.timestamp = time.time()
        job.host_name = sample.place.host
        job.heart_beat = {"memory": memory, "cpu_load": (percent, sample.running)}

    def ended(self, first: int, values: Sequence[Any], attempts: int, place: Place) -> None:
        for number, value in enumerate(values, first):
            if not isinstance(value, Failed):
                job = self._jobs[number]
                job.ret = value
                _note(job, number, place, attempts)

    def failed(
        self, job: int, error: BaseException, cause: Cause, attempts: int, place: Place
    ) -> None:
        one = self._jobs[job]
        _note(one, job, place, attempts)
        _note_error(one, error, cause)
        if attempts:
            self._tell(one)


def _note(job: Job, number: int, place: Place, attempts: int) -> None:
    job.uniq_id = str(number)
    job.id = place.worker
    job.host_name = place.host or job.host_name
    job.log_stdout_fn, job.log_stderr_fn = place.log_stdout, place.log_stderr
    job.num_resubmits = max(0, attempts - 1)


def _note_error(job: Job, error: BaseException, cause: Cause) -> None:
    job.note_failure(error)
    job.cause_of_death = str(cause)
