"""Turns what is known of a job's end into the exception that its user sees."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from msgspec.structs import replace

from gridmap import data
from gridmap.backends.native import memory_text
from gridmap.core.memory import human
from gridmap.core.messages import Death, Outcome
from gridmap.core.spec import Resources
from gridmap.errors import (
    ENDINGS,
    EXCEPTION_FOR_CAUSE,
    BackendError,
    Cause,
    GridMapError,
    JobException,
    signal_name,
)
from gridmap.monitor.sink import End, Failure
from gridmap.report.logs import end_of

_ADVICE = {
    Cause.STALLED: "a job that waits for long needs a higher MAX_IDLE_HEARTBEATS",
    Cause.SILENT: "see whether the host is up, or raise MAX_TIME_BETWEEN_HEARTBEATS",
}
LOG_TAIL_BYTES = 4096
MOST_WORDS = 16_384
_LOG_ENDS = "\nThe worker's log ends:\n"


@contextlib.contextmanager
def advice() -> Iterator[None]:
    """Adds what to do to the error of a scheduler that cannot be reached."""
    try:
        yield
    except BackendError as error:
        raise BackendError(
            f"{error}; see whether the scheduler's own commands work here (qstat, sinfo), "
            "or pass local=True to run on this machine",
            error.transient,
        ) from error


def exception_of_failure(failure: Failure, name: str, asked: Resources) -> BaseException:
    """Returns the job's own exception, or a JobException that tells how it died.

    :param asked: what its worker had been asked for
    """
    if failure.outcome in (Outcome.EXCEPTION, Outcome.RETRIABLE):
        error = data.unpack_exception(failure.frames)
        if isinstance(error, JobException) and error.job is None:  # it stands for one of the user's
            error.job, error.name, error.attempts = failure.job, name, failure.attempts
            error.host = failure.place.host
        return error
    if failure.outcome is Outcome.NO_MEMORY:
        error = data.unpack_exception(failure.frames)
        _add_note(
            error, f"job {failure.job} ({name}): {_suggestion(failure.cause, Death(), asked)}"
        )
        return error
    death = Death()
    text = failure.text
    if failure.outcome in (Outcome.UNPICKLABLE, Outcome.UNREADABLE):
        text = data.unpack_text(failure.frames)
    elif failure.frames:
        death = data.unpack_death(failure.frames)
        text = death.text or _how(death)
    else:
        death = _of_lost_worker(failure)
        told = text.startswith("worker") or failure.cause is Cause.PREEMPTED
        if text and failure.place.worker and not told:
            text = f"its worker {failure.place.worker}: {text}"
    where = f" on {failure.place.host}" if failure.place.host else ""
    tries = "attempt" if failure.attempts == 1 else "attempts"
    suggestion = _suggestion(failure.cause, death, asked)
    message = f"job {failure.job} ({name}) {ENDINGS.get(failure.cause, 'failed')}{where}"
    message += f" after {failure.attempts} {tries}"
    message += f": {text}" if text else ""
    if death.rss_bytes:
        message += f"; last seen with {human(death.rss_bytes)} of memory"
        message += f" and {death.cpu_fraction:.1f} processors at work"
    message += f"; {suggestion}" if suggestion else ""
    if death.log_tail:
        message += f"{_LOG_ENDS}{death.log_tail}"
    return EXCEPTION_FOR_CAUSE.get(failure.cause, JobException)(
        message,
        cause=failure.cause,
        job=failure.job,
        name=name,
        attempts=failure.attempts,
        host=failure.place.host,
        exit_status=death.exit_status if death.exit_status >= 0 else None,
        signal=death.signal or None,
        log_tail=death.log_tail,
        rss_bytes=death.rss_bytes or None,
        peak_rss_bytes=death.peak_rss_bytes or None,
        cpu_fraction=death.cpu_fraction if death.rss_bytes else None,
        limit_bytes=death.limit_bytes or None,
        suggestion=suggestion,
    )


def words_of_failure(failure: Failure, name: str, asked: Resources) -> tuple[str, str]:
    """Returns what a person may read of a failure: what happened, and the traceback or log's tail.

    Nothing is unpickled, and no file is read.
    """
    try:
        if failure.outcome in (Outcome.EXCEPTION, Outcome.RETRIABLE, Outcome.NO_MEMORY):
            error, details = data.unpack_text(failure.frames), data.unpack_text(failure.frames[1:])
            return error[:MOST_WORDS], details[-MOST_WORDS:]
        nowhere = replace(failure.place, log_stdout="", log_stderr="")
        told = exception_of_failure(replace(failure, place=nowhere), name, asked)
        assert isinstance(told, JobException)
        return str(told).split(_LOG_ENDS)[0][:MOST_WORDS], told.log_tail[-MOST_WORDS:]
    except Exception as error:  # a worker may send anything
        return f"what became of it cannot be read: {type(error).__name__}: {error}", ""


def _of_lost_worker(failure: Failure) -> Death:
    """Returns what its last heartbeat and its log say of a job whose worker said no more."""
    place, last = failure.place, failure.last
    tails = (
        end_of(log, LOG_TAIL_BYTES) for log in dict.fromkeys((place.log_stdout, place.log_stderr))
    )
    death = Death(log_tail="\n".join(filter(None, tails))[-LOG_TAIL_BYTES:])
    if last is None:
        return death
    return replace(
        death,
        rss_bytes=last.rss_bytes,
        cpu_fraction=last.cpu_fraction,
        limit_bytes=last.limit_bytes,
    )


def _suggestion(cause: Cause, death: Death, asked: Resources) -> str:
    """Returns what to do about a death."""
    if cause not in (Cause.MEMORY, Cause.WALLTIME):
        return _ADVICE.get(cause, "")
    if cause is Cause.WALLTIME:
        walltime = f"walltime={asked.walltime_s:g} s" if asked.walltime_s else ""
        limit = f"h_rt={asked.h_rt}" if asked.h_rt else walltime
        now = f"asked for {limit}: " if limit else ""
        more = "ask for more time (walltime, h_rt)"
        return f"{now}{more}, or let it grow by retry=gridmap.Retry(time=2)"
    if death.limit == "max_rss":
        return "raise max_rss, or let it grow by retry=gridmap.Retry(memory=2)"
    amounts = {
        "memory": memory_text(asked.memory_bytes) if asked.memory_bytes else "",
        "h_vmem": asked.h_vmem,
        "mem_free": asked.mem_free,
    }
    wanted = ", ".join(f"{name}={value}" for name, value in amounts.items() if value)
    allowed = f"allowed {human(death.limit_bytes)}, " if death.limit_bytes else ""
    had = f"had {human(death.rss_bytes)}" if death.rss_bytes else "it was too little"
    if not wanted and not death.limit_bytes and not death.rss_bytes:
        return "ask for more memory (memory, h_vmem); on this machine, see whether it has more"
    return (
        f"{f'asked for {wanted}, ' if wanted else ''}{allowed}{had}: ask for more memory (memory, "
        "h_vmem), or let it grow by retry=gridmap.Retry(memory=2)"
    )


def _add_note(error: BaseException, note: str) -> None:
    if hasattr(error, "add_note"):  # Python 3.11
        error.add_note(note)


def exception_of_end(end: End, job: int, name: str) -> GridMapError:
    """Returns what to say of a job that ended together with others."""
    if end.refused:
        return BackendError(f"the scheduler refused the workers: {end.text}")
    message = f"job {job} ({name}) {ENDINGS.get(end.cause, 'ended')}: {end.text}"
    kind = EXCEPTION_FOR_CAUSE.get(end.cause, JobException)
    return kind(message, cause=end.cause, job=job, name=name)


def _how(death: Death) -> str:
    if death.signal:
        return f"killed by {signal_name(death.signal)}"
    return f"exited with {death.exit_status}" if death.exit_status >= 0 else ""
