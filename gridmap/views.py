"""What can be seen of a run from outside: plain values, the same whether its client lives or not.

The command, the dashboard and notebooks show these; `gridmap.watch` finds them.  Times are seconds
since 1970, amounts of memory are bytes, durations are seconds.
"""

from __future__ import annotations

from msgspec import Struct, field

JOB_STATES = ("completed", "failed", "canceled", "running", "queued")
SORTS = ("job", "seconds", "memory", "ended")

UNDER_WAY, INTERRUPTED, ENDED, DAMAGED = "under way", "interrupted", "ended", "damaged"
"""States of a run: its client works on it, died, is done with it; or its ledger cannot be read."""


class PoolView(Struct, frozen=True):
    """What the workers of one kind were asked for, and what their jobs used.

    :param asked: what was asked for, as (name, value) pairs of text
    :param memory_bytes: what of it limits a job's memory, None where nothing does
    :param walltime_s: what of it limits a worker's time, None where nothing does
    :param slots: slots of each worker
    :param jobs: those that ended with a value or failed
    :param peak_rss_bytes: the most that a job's process had, 0 where nobody has looked
    :param longest_s: the longest that a job took
    :param cpu_fraction: processor time of its jobs when hearts beat, in cores, on average
    :param samples: number of those measurements
    """

    pool: int
    asked: list[tuple[str, str]]
    memory_bytes: int | None = None
    walltime_s: float | None = None
    slots: int = 1
    children: int = 1
    jobs: int = 0
    peak_rss_bytes: int = 0
    longest_s: float = 0.0
    cpu_fraction: float = 0.0
    samples: int = 0

    @property
    def slots_of_job(self) -> int:
        """The slots that were asked for each job: workers may have several at once."""
        return max(1, self.slots // max(1, self.children))


class RunView(Struct, frozen=True):
    """A run at a glance.

    :param state: "under way", "interrupted" (its client died), "ended" or "damaged"
    :param kept: its values can still be had: `gridmap.attach` gives them
    :param ended_s: when the last job ended; None while some have not
    :param total: number of jobs so far; more may come where `input_ended` is False
    :param busy_s: time that finished jobs took, together
    :param calls_per_s: jobs that ended a second, lately
    :param left_s: time until the last job ends, as it looks now; None where that is not known
    :param resubmitted: attempts that failed and were followed by another
    :param lost_s: time that these took, as far as it is known
    :param host: where its client runs, "" where none does
    """

    id: str
    name: str = ""
    backend: str = ""
    state: str = ENDED
    kept: bool = True
    created_s: float = 0.0
    ended_s: float | None = None
    input_ended: bool = True
    total: int = 0
    completed: int = 0
    failed: int = 0
    canceled: int = 0
    running: int = 0
    queued: int = 0
    workers_up: int = 0
    workers_pending: int = 0
    children_up: int = 0
    busy_s: float = 0.0
    calls_per_s: float = 0.0
    left_s: float | None = None
    peak_rss_bytes: int = 0
    resubmitted: int = 0
    lost_s: float = 0.0
    pools: list[PoolView] = field(default_factory=list)
    python: str = ""
    gridmap: str = ""
    host: str = ""
    pid: int = 0
    path: str = ""
    error: str = ""


class JobRow(Struct, frozen=True):
    """A job, as a line of a table.

    :param state: "completed", "failed", "canceled", "running" or "queued"
    :param cause: why it ended without a value: a Cause, "" else
    :param error: what happened, its first line
    :param seconds: how long it took (those of one packet share their time), or runs by now
    """

    job: int
    name: str
    state: str
    attempts: int = 0
    cause: str = ""
    error: str = ""
    seconds: float = 0.0
    peak_rss_bytes: int = 0
    ended_s: float | None = None
    worker: str = ""
    host: str = ""


class JobsAsked(Struct, frozen=True):
    """Which jobs somebody wants to see.

    :param state: only these: one of JOB_STATES
    :param search: only that of this number, or those whose name is this (of jobs with names of
        their own: has it), or, where there are none, those whose host, worker, error or cause has
        it
    :param sort: one of SORTS; jobs that have not ended come last in all but the order of numbers
    :param after: `JobPage.next` of the page before
    :param most: number of rows
    """

    state: str = ""
    search: str = ""
    sort: str = "job"
    descending: bool = False
    after: str = ""
    most: int = 50


class JobPage(Struct, frozen=True):
    """Some rows of a table of jobs.

    :param next: says where the next page begins; "" where there is none
    """

    rows: list[JobRow]
    next: str = ""


class TryView(Struct, frozen=True):
    """An attempt at a job.

    :param attempt: its number, the first is 0
    :param cause: what it died of, "" where it is the last or went well
    :param seconds: how long it took, 0 where that is not known
    """

    attempt: int
    worker: str = ""
    host: str = ""
    cause: str = ""
    text: str = ""
    ended_s: float | None = None
    seconds: float = 0.0


class SampleView(Struct, frozen=True):
    """What a job used when its worker's heart beat.

    :param cpu_fraction: processor time since the heartbeat before, in cores
    """

    at_s: float
    rss_bytes: int
    cpu_fraction: float


class UsageView(Struct, frozen=True):
    """What one of a run's jobs used when its worker's heart beat."""

    job: int
    at_s: float
    rss_bytes: int
    cpu_fraction: float


class JobView(Struct, frozen=True):
    """All that is known of a job.

    :param error: what happened, whole
    :param details: the remote traceback, or the tail of the log at its death
    :param tries: its attempts, the first one first
    :param pool: what its workers were asked for
    """

    row: JobRow
    error: str = ""
    details: str = ""
    tries: list[TryView] = field(default_factory=list)
    samples: list[SampleView] = field(default_factory=list)
    log_stdout: str = ""
    log_stderr: str = ""
    pool: PoolView | None = None


class WorkerView(Struct, frozen=True):
    """A worker.

    :param state: of WorkerState, lower case
    :param heard_s: when it last spoke
    :param jobs: how many jobs have ended there
    :param current: jobs that it is in now
    """

    id: str
    host: str = ""
    state: str = ""
    children: int = 1
    up_s: float | None = None
    heard_s: float | None = None
    jobs: int = 0
    current: list[int] = field(default_factory=list)
    rss_bytes: int = 0
    cpu_fraction: float = 0.0
    log_stdout: str = ""
    log_stderr: str = ""


class FailureGroup(Struct, frozen=True):
    """Jobs that failed alike.

    :param kind: the exception's type, or the cause of death
    :param error: what became of the first of them
    :param first: numbers of some of them
    """

    cause: str
    kind: str
    error: str
    count: int
    first: list[int]


class Tick(Struct, frozen=True):
    """How many jobs ended in a stretch of time that begins at `at_s`."""

    at_s: float
    completed: int = 0
    failed: int = 0


class NoteView(Struct, frozen=True):
    """Something that a person was told."""

    at_s: float
    level: str
    text: str
