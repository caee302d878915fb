"""Every exception GridMap raises on purpose; all of them survive pickling."""

from __future__ import annotations

import enum
import signal as _signal
from typing import Any


class Cause(str, enum.Enum):
    """Why a job ended without a value."""

    EXCEPTION = "exception"
    DIED = "died"
    MEMORY = "memory"
    WALLTIME = "walltime"
    SILENT = "silent"
    STALLED = "stalled"
    PREEMPTED = "preempted"
    CANCELED = "canceled"
    NEVER_STARTED = "never_started"
    UNPICKLABLE = "unpicklable"
    REFUSED = "refused"

    def __str__(self) -> str:
        return self.value


ENDINGS = {
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
"""What became of a job, by its cause of death: the end of a sentence."""


class GridMapError(Exception):
    """Anything that GridMap itself reports."""


class JobException(GridMapError):
    """A job ended without a value, and not by an exception of its own.

    :param message: what happened, to which job, where, and what to do
    :param cause: the cause of death
    :param job: the job's number in its run, or None when it concerns the whole run
    :param name: the job's name
    :param attempts: how often it was started
    :param host: where the last attempt ran
    :param exit_status: exit status of the process, when it exited
    :param signal: number of the signal that ended the process, when one did
    :param log_tail: the end of what the worker wrote
    :param rss_bytes: memory that the job's processes used when last measured
    :param peak_rss_bytes: the most that its process had, where that is known
    :param cpu_fraction: processor time that they used shortly before the last measurement, in cores
    :param suggestion: what to do about it
    :param limit_bytes: the limit on its memory that it was nearest to, where that is known
    """

    cause: Cause = Cause.DIED

    def __init__(
        self,
        message: str = "",
        *,
        cause: Cause | None = None,
        job: int | None = None,
        name: str = "",
        attempts: int = 0,
        host: str = "",
        exit_status: int | None = None,
        signal: int | None = None,
        log_tail: str = "",
        rss_bytes: int | None = None,
        peak_rss_bytes: int | None = None,
        cpu_fraction: float | None = None,
        suggestion: str = "",
        limit_bytes: int | None = None,
    ) -> None:
        super().__init__(message)
        if cause is not None:
            self.cause = Cause(cause)
        self.job = job
        self.name = name
        self.attempts = attempts
        self.host = host
        self.exit_status = exit_status
        self.signal = signal
        self.log_tail = log_tail
        self.rss_bytes = rss_bytes
        self.peak_rss_bytes = peak_rss_bytes
        self.cpu_fraction = cpu_fraction
        self.suggestion = suggestion
        self.limit_bytes = limit_bytes

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.args, self.__dict__.copy()))

    def _repr_html_(self) -> str:
        """Returns what a notebook shows."""
        from gridmap import _html

        message = str(self).partition("\nThe worker's log ends:\n")[0]
        rows: list[tuple[str, object]] = [
            ("what", message),
            ("cause", self.cause),
            ("job", self.name if self.job is None else f"{self.job} ({self.name})"),
            ("host", self.host),
            ("attempts", self.attempts or ""),
            ("exit status", self.exit_status),
            ("signal", None if self.signal is None else signal_name(self.signal)),
            ("log's end", "\n".join(self.log_tail.splitlines()[-5:])),
        ]
        told = [(name, value) for name, value in rows if value not in (None, "")]
        return _html.table(type(self).__name__, told)


def _rebuild(
    kind: type[JobException], args: tuple[Any, ...], state: dict[str, Any]
) -> JobException:
    error = kind.__new__(kind)
    Exception.__init__(error, *args)
    error.__dict__.update(state)
    return error


class JobDied(JobException):
    """The process that ran the job ended: by a signal, or by exiting."""

    cause = Cause.DIED


class JobOutOfMemory(JobDied):
    """The job, or the worker that ran it, was ended for want of memory."""

    cause = Cause.MEMORY


class JobOutOfTime(JobDied):
    """The job was still running when its worker's time was over."""

    cause = Cause.WALLTIME


class JobStalled(JobException):
    """The job used no processor time for MAX_IDLE_HEARTBEATS heartbeats."""

    cause = Cause.STALLED


class JobSilent(JobException):
    """The job's worker stopped talking and did not come back."""

    cause = Cause.SILENT


class JobCanceled(JobException):
    """The run was canceled, or its workers were deleted, before the job had a value."""

    cause = Cause.CANCELED


class JobNeverStarted(JobException):
    """No worker ever came up to run the job."""

    cause = Cause.NEVER_STARTED


class JobRefused(JobException):
    """The node's worker and this client cannot work together (versions, protocol)."""

    cause = Cause.REFUSED


class JobUnpicklable(JobException):
    """A function, an argument, a result or an exception cannot travel."""

    cause = Cause.UNPICKLABLE


EXCEPTION_FOR_CAUSE: dict[Cause, type[JobException]] = {
    Cause.DIED: JobDied,
    Cause.MEMORY: JobOutOfMemory,
    Cause.WALLTIME: JobOutOfTime,
    Cause.PREEMPTED: JobDied,
    Cause.SILENT: JobSilent,
    Cause.STALLED: JobStalled,
    Cause.CANCELED: JobCanceled,
    Cause.NEVER_STARTED: JobNeverStarted,
    Cause.REFUSED: JobRefused,
    Cause.UNPICKLABLE: JobUnpicklable,
}


class PicklingError(GridMapError, TypeError):
    """Something given to GridMap cannot be pickled; the message names it and the attribute.

    Up to 64 MB of arguments are pickled before anything is started, the rest while the first jobs
    run; these are then canceled.  A stream raises it after the values of what came before.
    """


class BackendError(GridMapError):
    """The scheduler refused or did not answer.

    :param transient: True when the same call may succeed later
    """

    def __init__(self, message: str = "", transient: bool = False) -> None:
        super().__init__(message)
        self.transient = transient

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (*self.args, self.transient))


class DRMAANotPresentException(ImportError):
    """No usable DRMAA library on this machine; the message says what to install or set."""


class ConfigError(GridMapError, ValueError):
    """A configuration file cannot be used; the message names it, what is wrong and what may be.

    :param file: its path
    :param line: the line in it, the first is 1; 0 where it is not known
    """

    def __init__(self, message: str = "", file: str = "", line: int = 0) -> None:
        super().__init__(message)
        self.file = file
        self.line = line

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (*self.args, self.file, self.line))


class LedgerError(GridMapError):
    """A ledger cannot be made or read; the message says which and why.

    One that cannot be written any more later, on a full disk, is a warning, and the run goes on.
    """


class LedgerInUse(LedgerError):
    """The run is under way: its monitor lives and holds the ledger."""


class WireError(GridMapError):
    """Bytes from the network that are no message of ours."""


class RemoteTraceback(Exception):
    """Carries the traceback that an exception had on the node, as text."""

    def __init__(self, text: str = "") -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return "\n" + self.text


def signal_name(number: int) -> str:
    """Returns "SIGSEGV (11)" for 11."""
    try:
        return f"{_signal.Signals(number).name} ({number})"
    except ValueError:
        return f"signal {number}"
