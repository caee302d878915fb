"""Turns what is known of a job's end into the exception that its user sees."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from gridmap import data
from gridmap.core.messages import Death, Outcome
from gridmap.errors import (
    EXCEPTION_FOR_CAUSE,
    BackendError,
    Cause,
    GridMapError,
    JobException,
    signal_name,
)
from gridmap.monitor.sink import End, Failure

_WHAT = {
    Cause.DIED: "died",
    Cause.MEMORY: "ran out of memory",
    Cause.WALLTIME: "reached its worker's time limit",
    Cause.SILENT: "was lost: its worker fell silent",
    Cause.STALLED: "was stopped: it had done nothing for too long",
    Cause.CANCELED: "was canceled",
    Cause.PREEMPTED: "was preempted",
    Cause.UNPICKLABLE: "could not be carried over",
    Cause.NEVER_STARTED: "was never started",
    Cause.REFUSED: "was refused",
}

_ADVICE = {
    Cause.STALLED: "a job that waits for long needs a higher MAX_IDLE_HEARTBEATS",
    Cause.MEMORY: "ask for more memory (h_vmem, mem_free)",
    Cause.WALLTIME: "ask for more time (h_rt)",
    Cause.SILENT: "see whether the host is up, or raise MAX_TIME_BETWEEN_HEARTBEATS",
}


@contextlib.contextmanager
def advice() -> Iterator[None]:
    """Adds what to do to the error of a scheduler that cannot be reached."""
    try:
        yield
    except BackendError as error:
        raise BackendError(
            f"{error}; see whether the scheduler's own commands work here (Grid Engine: qstat), "
            "or pass local=True to run on this machine",
            error.transient,
        ) from error


def exception_of_failure(failure: Failure, name: str) -> BaseException:
    """Returns the job's own exception, or a JobException that tells how it died."""
    if failure.outcome is Outcome.EXCEPTION:
        return data.unpack_exception(failure.frames)
    death = Death()
    text = failure.text
    if failure.outcome in (Outcome.UNPICKLABLE, Outcome.UNREADABLE):
        text = data.unpack_text(failure.frames)
    elif failure.frames:
        death = data.unpack_death(failure.frames)
        text = death.text or _how(death)
    where = f" on {failure.place.host}" if failure.place.host else ""
    tries = "attempt" if failure.attempts == 1 else "attempts"
    message = f"job {failure.job} ({name}) {_WHAT.get(failure.cause, 'failed')}{where}"
    message += f" after {failure.attempts} {tries}"
    message += f": {text}" if text else ""
    if failure.cause in _ADVICE:
        message += f"; {_ADVICE[failure.cause]}"
    if death.log_tail:
        message += f"\nThe worker's log ends:\n{death.log_tail}"
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
    )


def exception_of_end(end: End, job: int, name: str) -> GridMapError:
    """Returns what to say of a job that ended together with others."""
    if end.refused:
        return BackendError(f"the scheduler refused the workers: {end.text}")
    message = f"job {job} ({name}) {_WHAT.get(end.cause, 'ended')}: {end.text}"
    kind = EXCEPTION_FOR_CAUSE.get(end.cause, JobException)
    return kind(message, cause=end.cause, job=job, name=name)


def _how(death: Death) -> str:
    if death.signal:
        return f"killed by {signal_name(death.signal)}"
    return f"exited with {death.exit_status}" if death.exit_status >= 0 else ""
