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
    """Values of consecutive jobs: those of a packet from `skip` on."""

    span: Span
    skip: int
    attempts: int
    worker: str
    host: str
    frames: list[Frame]


class FailureFact(NamedTuple):
    """A job that failed for good.

    :param outcome: how its last attempt ended, -1 when its worker was lost
    :param pool: the pool of workers that this was in
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
    last: Held | None
    frames: list[Frame]


class EndFact(NamedTuple):
    """Jobs that ended together without an attempt that failed."""

    span: Span
    state: JobState
    cause: Cause
    text: str
    refused: bool


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
