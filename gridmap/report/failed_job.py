"""A job that failed, as a mail tells of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gridmap.errors import JobException
from gridmap.report.endings import ending, words
from gridmap.report.story import Usage


@dataclass(frozen=True)
class FailedJob:
    """What a mail says of a job that failed.

    :param cause: the cause of death; mails are rationed by it and the run
    :param ending: what became of it, as the end of a sentence: "ran out of memory"
    :param asked: what memory it had been asked for, in the user's words
    :param limit_bytes: the limit on its memory, 0 where none is known
    :param samples: what it used while it ran
    :param ended_s: when it ended, seconds since 1970
    :param durable: its run has a ledger, which others can read
    """

    name: str
    cause: str
    number: int | None = None
    run: str = ""
    host: str = ""
    worker: str = ""
    ending: str = "failed"
    error: str = ""
    suggestion: str = ""
    traceback: str = ""
    log_tail: str = ""
    attempts: int = 0
    exit_status: int | None = None
    signal: int | None = None
    asked: str = ""
    limit_bytes: int = 0
    rss_bytes: int = 0
    peak_rss_bytes: int = 0
    cpu_fraction: float | None = None
    seconds: float | None = None
    ended_s: float | None = None
    log_files: tuple[str, ...] = ()
    samples: tuple[Usage, ...] = ()
    durable: bool = False


def failure_of(
    job: Any,
    samples: Sequence[Usage] | None = None,
    asked: str = "",
    limit_bytes: int = 0,
    durable: bool = False,
) -> FailedJob:
    """Returns what is to be said of a public Job, of which any attribute may be missing.

    :param samples: what it used; what the job has noted when not given
    """
    ret = getattr(job, "ret", None)
    error = ret if isinstance(ret, BaseException) else None
    cause = str(getattr(job, "cause_of_death", "") or "exception")
    number = str(getattr(job, "uniq_id", ""))
    logs = (getattr(job, "log_stdout_fn", ""), getattr(job, "log_stderr_fn", ""))
    trace = str(getattr(job, "traceback", "") or "")
    told = error if isinstance(error, JobException) else JobException()
    if isinstance(error, JobException) and "Traceback" not in trace:
        trace = ""  # its one line is what the exception says
    return FailedJob(
        name=str(getattr(job, "name", "") or "job"),
        cause=cause,
        number=int(number) if number.isdecimal() else None,
        run=str(getattr(job, "home_address", "") or ""),
        host=str(getattr(job, "host_name", "") or ""),
        worker=str(getattr(job, "id", "") or ""),
        ending=ending(error, cause),
        error=words(error),
        suggestion=str(told.suggestion),
        traceback=trace,
        log_tail=str(told.log_tail),
        attempts=int(getattr(job, "attempts", 0) or getattr(job, "num_resubmits", 0) + 1),
        exit_status=told.exit_status,
        signal=told.signal,
        asked=asked,
        limit_bytes=told.limit_bytes or limit_bytes,
        rss_bytes=told.rss_bytes or 0,
        peak_rss_bytes=told.peak_rss_bytes or getattr(job, "peak_rss_bytes", 0) or 0,
        cpu_fraction=told.cpu_fraction,
        seconds=getattr(job, "seconds", None),
        ended_s=getattr(job, "ended_s", None),
        log_files=tuple(dict.fromkeys(str(name) for name in logs if name)),
        samples=tuple(_samples_of(job) if samples is None else samples),
        durable=durable,
    )


def _samples_of(job: Any) -> list[Usage]:
    # A point of track_cpu is a number, or (number, running) as get_cpu_load gives it.
    memory, cpu = (getattr(job, name, None) or () for name in ("track_mem", "track_cpu"))
    percents = [point[0] if isinstance(point, Sequence) else point for point in cpu]
    times = getattr(job, "track_time", None) or range(len(memory))
    return [
        Usage(at, float(megabytes) * 1e6, float(percent) / 100)
        for at, megabytes, percent in zip(times, memory, percents, strict=False)
    ]
