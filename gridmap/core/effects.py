"""What to do about it: the only output of the two machines in this room."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from gridmap.core.messages import FromAgent, Held, Key, Lease, Outcome, Result, ToAgent
from gridmap.core.spec import JobSpec, Span
from gridmap.core.states import JobState
from gridmap.errors import Cause

# --- of the dispatcher ----------------------------------------------------------------------------


class SubmitWorkers(Struct, frozen=True):
    """Ask the scheduler for `count` workers in one array job."""

    request: int
    pool: int
    count: int


class CancelWorkers(Struct, frozen=True):
    """Ask the scheduler to delete these workers."""

    workers: tuple[str, ...]


class PollWorkers(Struct, frozen=True):
    """Ask the scheduler about these workers; answered with WorkersPolled or PollFailed."""

    workers: tuple[str, ...]


class DiagnoseWorker(Struct, frozen=True):
    """Find out why a worker does not work; answered with WorkerDiagnosed."""

    worker: str


class SendMessage(Struct, frozen=True):
    worker: str
    message: ToAgent


class Assign(Struct, frozen=True):
    """Lease these jobs to a worker; the payload is added where the message is made."""

    worker: str
    span: Span
    attempt: int
    spec: JobSpec


class Deliver(Struct, frozen=True):
    """Hand values over, once and for ever.

    :param item: index of the Result among those of the message being handled
    :param skip: leave out so many values of that Result's packet
    :param attempts: tries that it took, those that were not charged left out
    """

    span: Span
    item: int
    skip: int
    worker: str
    attempts: int = 1


class DeliverFailure(Struct, frozen=True):
    """A job ended without a value, for good.

    :param item: index of the Result that carries the details, or -1
    :param pool: the pool of workers that it ran in
    :param last: what its worker last said of it while it ran
    """

    job: int
    cause: Cause
    attempts: int
    item: int
    worker: str
    text: str
    pool: int = 0
    last: Held | None = None


class DeliverEnd(Struct, frozen=True):
    """These jobs ended together, without a value and without an attempt that failed.

    :param state: FAILED (no worker could be had), CANCELED (on request) or SKIPPED (the run stopped
        at the failure of another job)
    :param refused: the scheduler refused the workers; `text` has its own words
    """

    span: Span
    state: JobState
    cause: Cause
    text: str
    refused: bool = False


class Charged(Struct, frozen=True):
    """A job failed and is to run again; so many attempts count against it.

    :param attempt: number of the try that failed
    :param spec: what it is given for the next one, where that is not what it had
    :param cause: what the try died of, on this worker; `text` may say more
    :param seconds: how long it took, as far as can be known from here
    :param item: number of the result that says so in its message, -1 where none does
    :param pool: the pool of workers that this was in
    """

    job: int
    attempts: int
    attempt: int
    spec: JobSpec | None
    cause: Cause
    worker: str
    text: str
    seconds: float = 0.0
    item: int = -1
    pool: int = 0


class Sampled(Struct, frozen=True):
    """What a running job used when its worker's heart last beat.

    :param cpu_fraction: processor time since the heartbeat before, in cores
    """

    job: int
    worker: str
    rss_bytes: int
    cpu_fraction: float
    running: bool


class Note(Struct, frozen=True):
    """Something that a person would like to know.

    :param level: "debug", "info", "warning", "error"
    """

    level: str
    text: str


class RunEnded(Struct, frozen=True):
    """Every job has ended, and the input too."""


# --- of the agent ---------------------------------------------------------------------------------


class Say(Struct, frozen=True):
    """Send this to the monitor; Results take along the payloads kept for their keys."""

    message: FromAgent


class StartChild(Struct, frozen=True):
    """Start a process for jobs.

    :param place: which of the worker's `of` equal parts is its own: 0 .. of - 1; whoever takes the
        place of a child that died has the same
    """

    child: int
    place: int = 0
    of: int = 1


class GiveLease(Struct, frozen=True):
    """Let a waiting child run a lease whose blobs lie ready."""

    child: int
    lease: Lease


class EndEarly(Struct, frozen=True):
    """Let a child end this lease when it next sends values; of any other it takes no notice."""

    child: int
    key: Key


class KillChild(Struct, frozen=True):
    """End a child; what follows is ChildDied with this outcome."""

    child: int
    outcome: int = int(Outcome.CANCELED)


class DropLease(Struct, frozen=True):
    """The arguments of this lease are not needed any more."""

    key: Key


class DropResult(Struct, frozen=True):
    """The payload of this result has arrived, or nobody wants it."""

    key: Key


class KeepDeath(Struct, frozen=True):
    """Make the payload of a Result that the agent itself decided on.

    :param child: -1 where no child had the job
    :param text: what to say of it; "" says how the child ended
    :param rss_bytes: what its processes had when last measured
    :param cpu_fraction: what they used of the processors at that time
    :param limit: the limit on memory that it was near or over, of `limit_bytes`
    """

    result: Result
    child: int
    exit_status: int
    signal: int
    text: str = ""
    rss_bytes: int = 0
    cpu_fraction: float = 0.0
    limit_bytes: int = 0
    limit: str = ""


class ReadUsage(Struct, frozen=True):
    """A heartbeat is due: measure these children and answer with UsageRead."""

    children: tuple[int, ...]


class LookAtMemory(Struct, frozen=True):
    """Measure these children between heartbeats and answer with MemoryRead.

    :param exact_above_bytes: where more seems to be resident, pages that processes share are
        counted once; 0: nowhere
    """

    children: tuple[int, ...]
    exact_above_bytes: int = 0


class Leave(Struct, frozen=True):
    reason: str


DispatcherEffect = (
    SubmitWorkers
    | CancelWorkers
    | PollWorkers
    | DiagnoseWorker
    | SendMessage
    | Assign
    | Deliver
    | DeliverFailure
    | DeliverEnd
    | Charged
    | Sampled
    | Note
    | RunEnded
)
AgentEffect = (
    Say
    | StartChild
    | GiveLease
    | EndEarly
    | KillChild
    | DropLease
    | DropResult
    | KeepDeath
    | ReadUsage
    | LookAtMemory
    | Leave
)

Emit = Callable[[DispatcherEffect], None]
"""Takes one effect of the dispatcher."""
