"""What happened: the only input of the two machines in this room."""

from __future__ import annotations

import enum
from typing import NamedTuple

from msgspec import Struct, field

from gridmap.core.memory import Killed, Mark
from gridmap.core.messages import FromAgent, Outcome, Result, ToAgent
from gridmap.core.spec import JobSpec, Span
from gridmap.core.states import JobState
from gridmap.errors import Cause


class Tick(Struct, frozen=True):
    """Nothing but time has passed."""


# --- for the dispatcher ---------------------------------------------------------------------------


class JobsAdded(Struct, frozen=True):
    """Consecutive jobs, numbered where the last ones ended.

    :param attempt: number of their first try; above those that an earlier monitor gave
    :param nbytes: size of their arguments
    """

    count: int
    spec: JobSpec
    attempt: int = 0
    nbytes: int = 0


class KnownWorker(NamedTuple):
    """A worker that an earlier monitor of the run had asked for."""

    id: str
    pool: int
    request: int


class KnownLease(NamedTuple):
    """A lease that an earlier monitor of the run had given.

    :param incarnation: the process of that worker that got it
    """

    worker: str
    incarnation: str
    span: Span
    attempt: int


class KnownCharge(NamedTuple):
    """Attempts that an earlier monitor of the run charged against a job that has not ended.

    :param attempt: number of the last try that failed
    :param spec: what the job was given for its next try, where that is not what it began with
    """

    job: int
    attempts: int
    attempt: int = -1
    spec: JobSpec | None = None


class RunResumed(Struct, frozen=True):
    """What an earlier monitor of this run left; comes after the JobsAdded of all that it had.

    :param ended: jobs that have ended, by span
    :param leases: in the order in which they were given; of those for one job the last counts
    :param next_request: number of the next submission
    """

    ended: tuple[tuple[Span, JobState], ...] = ()
    charged: tuple[KnownCharge, ...] = ()
    workers: tuple[KnownWorker, ...] = ()
    leases: tuple[KnownLease, ...] = ()
    next_request: int = 0


class InputEnded(Struct, frozen=True):
    """No more jobs will be added."""


class MessageReceived(Struct, frozen=True):
    """A worker's agent said something; the link has checked who it is.

    :param worker: the worker's native id
    :param incarnation: which process of that worker speaks
    """

    worker: str
    incarnation: str
    message: FromAgent


class WorkersSubmitted(Struct, frozen=True):
    """The scheduler took a request; one native id for each worker."""

    request: int
    workers: tuple[str, ...]


class SubmissionFailed(Struct, frozen=True):
    request: int
    reason: str
    transient: bool


class NativeState(str, enum.Enum):
    """What the scheduler says of a worker. A worker it does not speak of is unknown, never done."""

    PENDING = "pending"
    HELD = "held"
    RUNNING = "running"
    SUSPENDED = "suspended"
    DONE = "done"
    FAILED = "failed"
    DELETED = "deleted"
    UNKNOWN = "unknown"


class NativeStatus(NamedTuple):
    """The scheduler's word on one worker, and its reasons in its own words.

    `exit_status` and `signal` are -1 and 0, `cause` is None where the scheduler does not say.
    """

    state: NativeState
    text: str = ""
    exit_status: int = -1
    signal: int = 0
    cause: Cause | None = None


class WorkersPolled(Struct, frozen=True):
    """An answer of the scheduler; may be partial."""

    status: dict[str, NativeStatus]


class PollFailed(Struct, frozen=True):
    """The scheduler did not say how the workers are; `reason` has its own words."""

    reason: str
    transient: bool


class WorkerDiagnosed(Struct, frozen=True):
    """All that could be found out about a worker that does not work: accounting, log tail."""

    worker: str
    text: str


class CancelRequested(Struct, frozen=True):
    """Somebody wants the whole run, or these jobs of it, to stop."""

    spans: tuple[Span, ...] | None = None
    reason: str = "canceled"


# --- for the agent --------------------------------------------------------------------------------


class MonitorSaid(Struct, frozen=True):
    message: ToAgent


class MonitorChanged(Struct, frozen=True):
    """Another monitor has taken over the run; it is called from now on."""


class BlobStored(Struct, frozen=True):
    """A blob lies ready on this node, so leases that need it may start."""

    digest: str


class BlobRefused(Struct, frozen=True):
    """A blob has come and cannot be kept on this node; `reason` says why."""

    digest: str
    reason: str


class ChildReady(Struct, frozen=True):
    child: int


class ChildAnswered(Struct, frozen=True):
    """A child sent results; each names jobs of the lease that it was given."""

    child: int
    items: list[Result]


class ChildFinished(Struct, frozen=True):
    """A child has answered every job of its lease and waits."""

    child: int


class Usage(NamedTuple):
    """What a child and its descendants use.

    :param cpu_fraction: processor time since the last measurement of this kind, in cores
    :param marks: what is used of each limit on memory, without the user's own
    """

    rss_bytes: int = 0
    cpu_fraction: float = 0.0
    running: bool = True
    current: int = -1
    marks: tuple[Mark, ...] = ()


class ChildDied(Struct, frozen=True):
    """A child is gone.

    :param current: number of the job that it was in, -1 when it was in none
    :param outcome: DIED, or what the agent had killed it for
    :param peak_rss_bytes: largest resident set of the child itself
    :param limits: those on its memory as they are known from outside
    :param killed: what the kernel says of ends for want of memory at that time
    :param others: what the other children have, where that may matter
    """

    child: int
    current: int
    exit_status: int = -1
    signal: int = 0
    outcome: int = int(Outcome.DIED)
    peak_rss_bytes: int = 0
    limits: tuple[Mark, ...] = ()
    killed: Killed = Killed()
    others: dict[int, Usage] = field(default_factory=dict)


class UsageRead(Struct, frozen=True):
    """Measured for a heartbeat that is due.

    :param usage: for each child that runs a job
    """

    usage: dict[int, Usage] = field(default_factory=dict)


class MemoryRead(Struct, frozen=True):
    """Measured between heartbeats.

    :param usage: for each child that runs a job
    """

    usage: dict[int, Usage] = field(default_factory=dict)


class TerminationWarned(Struct, frozen=True):
    """The scheduler is about to end this worker (a warning signal, SIGTERM)."""

    signal: int


DispatcherEvent = (
    Tick
    | JobsAdded
    | RunResumed
    | InputEnded
    | MessageReceived
    | WorkersSubmitted
    | SubmissionFailed
    | WorkersPolled
    | PollFailed
    | WorkerDiagnosed
    | CancelRequested
)
AgentEvent = (
    Tick
    | MonitorSaid
    | MonitorChanged
    | BlobStored
    | BlobRefused
    | ChildReady
    | ChildAnswered
    | ChildFinished
    | ChildDied
    | UsageRead
    | MemoryRead
    | TerminationWarned
)
