"""What happened to each job, noted in it and told by mail."""

from __future__ import annotations

import os
import time
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from gridmap.backends.native import memory_bytes, memory_text
from gridmap.conf import Settings
from gridmap.errors import Cause
from gridmap.monitor.sink import Sample
from gridmap.monitor.watcher import Ended, Watcher
from gridmap.outcomes import Failed
from gridmap.report.endings import Endings
from gridmap.report.story import JobStory, Story, Usage
from gridmap.work import Job

if TYPE_CHECKING:
    from gridmap.run import Run

MOST_SAMPLES = 256
"""Of one call of a map, so many measurements are kept until it ends."""
MOST_SERIES = 20_000
"""Of so many calls of a map that run at once."""


def as_jobs(job: Job, elements: Iterable[Any]) -> Iterator[Job]:
    """Yields a job for each call of a map, lazily."""
    for number, element in enumerate(elements):
        one = job.__class__.__new__(job.__class__)
        one.__dict__.update(job.__dict__)  # as copy.copy does, in an eighth of the time
        one.args = element if isinstance(element, list) else [element]
        one.name = f"{job.name}{number}"
        yield one


class _Series:
    """What one job used: so many measurements at most, the latest ones closest together."""

    def __init__(self) -> None:
        self._numbers = array("d")  # time, memory, processors, time, ...

    def add(self, at_s: float, rss_bytes: float, cpu_fraction: float) -> None:
        numbers = self._numbers
        numbers.extend((at_s, rss_bytes, cpu_fraction))
        if len(numbers) > 3 * MOST_SAMPLES:  # of the older half every second one stays
            old, new = numbers[: len(numbers) // 6 * 3], numbers[len(numbers) // 6 * 3 :]
            kept = array("d")
            for at in range(0, len(old), 6):
                kept.extend(old[at : at + 3])
            self._numbers = kept + new

    def usage(self) -> list[Usage]:
        numbers = self._numbers
        return [Usage(*numbers[at : at + 3]) for at in range(0, len(numbers), 3)]


class MapWatcher(Watcher):
    """Knows the names of a map's calls, and counts them as they end; sends mail when one fails.

    :param mail_settings: what to send it with; None sends none
    """

    def __init__(self, job: Job, mail_settings: Settings | None) -> None:
        self._job = job
        self._series: dict[int, _Series] = {}
        self._begin(mail_settings)
        # nobody else asks for the measurements of a call
        self.wants_samples = mail_settings is not None and mail_settings.create_plots

    def _begin(self, mail_settings: Settings | None) -> None:
        self._mail_settings = mail_settings
        self._run, self._durable = "", False
        self.endings = Endings()

    def begins(self, run: str, durable: bool) -> None:
        self._run, self._durable = run, durable
        self.endings.run, self.endings.durable = run, durable

    def name(self, job: int) -> str:
        return f"{self._job.name}{job}"

    def sampled(self, sample: Sample) -> None:
        series = self._series.get(sample.job)
        if series is None:
            if len(self._series) >= MOST_SERIES:
                del self._series[next(iter(self._series))]
            series = self._series[sample.job] = _Series()
        series.add(time.time(), sample.rss_bytes, sample.cpu_fraction)

    def ended(self, first: int, values: Sequence[Any], how: Ended) -> None:
        self.endings.completed += len(values) - how.unread
        if self._series:
            stop = first + len(values)
            few = range(first, stop) if len(values) < len(self._series) else list(self._series)
            for job in few:
                if first <= job < stop:
                    self._series.pop(job, None)

    def failed(self, job: int, error: BaseException, cause: Cause, how: Ended) -> None:
        self.endings.fail(self.name(job), error, cause, how.place.host)
        series = self._series.pop(job, None)
        if how.attempts and self._mail_settings is not None:
            one = next(as_jobs(self._job, [None]))
            one.start_anew()
            one.name = self.name(job)
            _note(one, job, how)
            _note_error(one, error, cause)
            self._tell(one, series.usage() if series else [])

    def over(self) -> None:
        self.endings.end()
        if self._mail_settings is not None and self._run:
            from gridmap.report import mail

            mail.end_run(self._run)

    def _tell(self, job: Job, samples: list[Usage] | None = None) -> None:
        settings = self._mail_settings
        if settings is not None and not self.told_before:
            from gridmap.report import mail  # takes a while, and is seldom needed
            from gridmap.report.failed_job import failure_of

            job.home_address = self._run
            asked, limit_bytes = _memory_asked(job, settings.use_mem_free)
            failure = failure_of(job, samples, asked, limit_bytes, self._durable)
            mail.send_error_mail(failure, settings)


class JobWatcher(MapWatcher):
    """Notes in each Job what happened to it."""

    wants_samples = True

    def __init__(self, jobs: list[Job], mail_settings: Settings | None) -> None:
        self._jobs = jobs
        self._begin(mail_settings)

    def name(self, job: int) -> str:
        return self._jobs[job].name

    def sampled(self, sample: Sample) -> None:
        job = self._jobs[sample.job]
        memory, percent = sample.rss_bytes / 1e6, sample.cpu_fraction * 100
        job.timestamp = time.time()
        job.track_time.append(job.timestamp)
        job.track_mem.append(memory)
        job.track_cpu.append((percent, sample.running))
        job.host_name = sample.place.host
        job.heart_beat = {"memory": memory, "cpu_load": (percent, sample.running)}

    def ended(self, first: int, values: Sequence[Any], how: Ended) -> None:
        self.endings.completed += len(values) - how.unread
        each = replace(how, seconds=how.seconds / max(1, len(values)))
        for number, value in enumerate(values, first):
            if not isinstance(value, Failed):
                job = self._jobs[number]
                job.ret = value
                _note(job, number, each)

    def failed(self, job: int, error: BaseException, cause: Cause, how: Ended) -> None:
        one = self._jobs[job]
        self.endings.fail(one.name, error, cause, how.place.host)
        _note(one, job, how)
        _note_error(one, error, cause)
        if how.attempts:
            self._tell(one)


def _note(job: Job, number: int, how: Ended) -> None:
    place = how.place
    job.uniq_id = str(number)
    job.id = place.worker
    job.host_name = place.host or job.host_name
    job.log_stdout_fn, job.log_stderr_fn = place.log_stdout, place.log_stderr
    job.attempts, job.num_resubmits = how.attempts, max(0, how.attempts - 1)
    job.seconds = how.seconds or None
    job.peak_rss_bytes = how.peak_rss_bytes or None
    job.ended_s = how.ended_s or None


def _note_error(job: Job, error: BaseException, cause: Cause) -> None:
    job.note_failure(error)
    job.cause_of_death = str(cause)


def _memory_asked(job: Job, use_mem_free: bool) -> tuple[str, int]:
    """Returns what memory a job had been asked for, in its own words, and the limit that this is.

    :param use_mem_free: the scheduler was told of mem_free
    """
    amounts = {
        "max_rss": memory_text(job.max_rss_bytes) if job.max_rss_bytes else "",
        "memory": memory_text(job.memory_bytes) if job.memory_bytes else "",
        "h_vmem": job.h_vmem,
        "mem_free": job.mem_free if use_mem_free else "",
    }
    asked = ", ".join(f"{name}={amount}" for name, amount in amounts.items() if amount)
    of_slots = memory_bytes("h_vmem", job.h_vmem) * job.num_slots if job.h_vmem else 0
    limits = (job.max_rss_bytes, job.memory_bytes, of_slots)
    return asked, min((limit for limit in limits if limit), default=0)


def story_of(run: Run) -> Story:
    """Returns what the jobs of a run know of themselves.

    :raises ValueError: it is a map, whose calls have no jobs that could know
    """
    if len(run.jobs) != len(run):
        raise ValueError(
            f"run {run.id} is a map, of whose calls only its ledger knows: when it is over and has "
            f"one still, gridmap.plot({run.id!r}) reads it"
        )
    jobs = [
        JobStory(
            number,
            job.name,
            job.state,
            job.cause_of_death,
            job.host_name,
            job.id,
            job.attempts,
            job.ended_s,
            job.seconds,
            job.peak_rss_bytes,
            _usage(job),
        )
        for number, job in enumerate(run.jobs)
    ]
    return Story(run.id, _common_name([job.name for job in run.jobs]), jobs)


def _common_name(names: list[str]) -> str:
    """Returns what names begin with, or the first one where they have nothing in common."""
    common = os.path.commonprefix(names) if len(names) > 1 else ""
    return common.rstrip("_-.0123456789") or (names[0] if names else "gridmap")


def _usage(job: Job) -> list[Usage]:
    return [
        Usage(at, megabytes * 1e6, percent / 100)
        for at, megabytes, (percent, _) in zip(
            job.track_time, job.track_mem, job.track_cpu, strict=True
        )
    ]
