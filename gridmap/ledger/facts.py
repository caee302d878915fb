"""What a ledger keeps of a run: plain values, each a fact that was true when it was written."""

from __future__ import annotations

from typing import NamedTuple

from msgspec import Struct, field

from gridmap.core.events import KnownCharge
from gridmap.core.messages import Held
from gridmap.core.spec import JobSpec, PoolSpec, Span
from gridmap.core.states import JobState
from gridmap.errors import Cause
from gridmap.pickling import Frame


class Header(Struct, frozen=True):
    """What a run is; the first fact of its ledger.

    :param created_s: seconds since 1970
    :param options: how the run was asked to behave, as its caller named it
    :param names: the jobs' names; one with a map, before the number of each call
    :param one_by_one: the jobs were made by hand, each with a name of its own
    """

    run: str
    name: str
    created_s: float
    gridmap: str
    python: str
    backend: str
    pools: list[PoolSpec]
    options: dict[str, str | int | float | bool | None]
    names: list[str]
    one_by_one: bool = False


class PartFact(NamedTuple):
    """Consecutive jobs, and the packet of their arguments."""

    span: Span
    spec: JobSpec
    frames: list[Frame]


class WorkerFact(NamedTuple):
    """A worker that the scheduler took.

    :param request: number of the submission that it came from
    """

    native_id: str
    pool: int
    request: int


class LeaseFact(NamedTuple):
    """A try of consecutive jobs on a worker.

    :param incarnation: the process of that worker that got it
    """

    worker: str
    incarnation: str
    span: Span
    attempt: int


class ValuesFact(NamedTuple):
    """Values of consecutive jobs: those of a packet from `skip` on.

    :param seconds: time that they took together
    :param peak_rss_bytes: largest resident set of the process that they ran in
    :param ended_s: seconds since 1970
    """

    span: Span
    skip: int
    attempts: int
    worker: str
    host: str
    seconds: float
    peak_rss_bytes: int
    ended_s: float
    frames: list[Frame]


class FailureFact(NamedTuple):
    """A job that failed for good.

    :param outcome: how its last attempt ended, -1 when its worker was lost
    :param pool: the pool of workers that this was in
    :param seconds: time that its last attempt took, 0 where that is not known
    :param peak_rss_bytes: largest resident set of the process that it ran in
    :param ended_s: seconds since 1970
    :param error: what became of it, for people: one line, or a few
    :param details: the remote traceback, or the log's tail
    :param last: what its worker last said of it while it ran
    """

    job: int
    cause: Cause
    outcome: int
    attempts: int
    text: str
    worker: str
    host: str
    log_stdout: str
    log_stderr: str
    pool: int
    seconds: float
    peak_rss_bytes: int
    ended_s: float
    error: str
    details: str
    last: Held | None
    frames: list[Frame]


class EndFact(NamedTuple):
    """Jobs that ended together without an attempt that failed."""

    span: Span
    state: JobState
    cause: Cause
    text: str
    refused: bool
    ended_s: float


class TryFact(NamedTuple):
    """A try of a job that failed, and was not its last.

    :param attempt: its number, from 0
    :param at_s: when the monitor knew, seconds since 1970
    :param seconds: how long it took, 0 where that is not known
    """

    job: int
    attempt: int
    cause: Cause
    worker: str
    text: str
    at_s: float
    seconds: float = 0.0


class LifeFact(NamedTuple):
    """A worker that said Hello.

    :param children: jobs that it runs at once
    :param up_s: when it first spoke, seconds since 1970
    :param heard_s: when it last spoke, seconds since 1970
    :param state: the name of its WorkerState
    """

    worker: str
    host: str
    children: int
    up_s: float
    heard_s: float
    state: str
    log_stdout: str
    log_stderr: str


class SampleFact(NamedTuple):
    """What a running job used, as a heartbeat told.

    :param at_s: seconds since 1970
    :param cpu_fraction: processor time since the heartbeat before, in cores
    """

    job: int
    worker: str
    at_s: float
    rss_bytes: int
    cpu_fraction: float


class Facts(Struct):
    """All that a ledger tells of a run.

    :param open_requests: submissions whose answer it does not know: (request, pool, count)
    :param charged: for each job that failed and was to run again, what was charged
    :param ended: the run was over: every job of it had ended
    """

    header: Header
    parts: list[PartFact] = field(default_factory=list)
    blobs: dict[str, list[Frame]] = field(default_factory=dict)
    input_ended: bool = False
    workers: list[WorkerFact] = field(default_factory=list)
    open_requests: list[tuple[int, int, int]] = field(default_factory=list)
    next_request: int = 0
    leases: list[LeaseFact] = field(default_factory=list)
    values: list[ValuesFact] = field(default_factory=list)
    failures: list[FailureFact] = field(default_factory=list)
    ends: list[EndFact] = field(default_factory=list)
    charged: dict[int, KnownCharge] = field(default_factory=dict)
    ended: bool = False
