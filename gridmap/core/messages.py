"""What an agent and the monitor say to each other, as plain values.

The wire gives each message a number and encodes it (`wire/messages.py`); the local agent hands the
same values over directly.  Payload frames (arguments, results, blobs) travel beside a message, in
the order in which its items announce them; they are opaque here.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

from msgspec import Struct, field

PROTOCOL = 2
"""Number of this vocabulary; both ends must agree on it."""


class Outcome(enum.IntEnum):
    """How an attempt at a range of jobs ended. All but VALUE and RETURNED speak of one job."""

    VALUE = 0  # payload: one packet of values
    EXCEPTION = 1  # payload: the pickled exception and its traceback
    DIED = 2  # the child ended; payload: Death, encoded
    UNPICKLABLE = 3  # the job's result or exception cannot be pickled; payload: text
    UNREADABLE = 4  # function or arguments cannot be unpickled on the node; payload: text
    RETURNED = 5  # given back unstarted, nothing was run; no payload
    STALLED = 6  # killed by the agent on the monitor's word; payload: Death
    CANCELED = 7  # killed or dropped by the agent on the monitor's word; no payload
    MEMORY = 8  # ended for want of memory; payload: Death
    WALLTIME = 9  # cut by the end of the worker's time; payload: Death
    RETRIABLE = 10  # an exception that the user wants tried again; payload as of EXCEPTION
    NO_MEMORY = 11  # the job raised MemoryError; payload as of EXCEPTION


class Phase(enum.IntEnum):
    """Where a lease is inside its agent."""

    WAITING = 0
    RUNNING = 1


class Departure(enum.IntEnum):
    """Why an agent leaves, as far as a rule depends on it."""

    DRAINED = 0  # asked to; what it had has ended
    WARNED = 1  # the scheduler is about to end it; nothing runs any more
    OUT_OF_TIME = 2  # before the scheduler ends it; nothing runs any more
    FAILED = 3  # it cannot go on; what it had may be lost


class Key(NamedTuple):
    """Names a lease, a part of one, or the result of one."""

    first: int
    count: int  # type: ignore[assignment]
    attempt: int


class Lease(NamedTuple):
    """One try of consecutive jobs.

    `packets` says how the payload frames make up the arguments: for each packet of consecutive
    arguments (skip, take, frames): of the packet's items leave out `skip`, use `take`; it fills
    `frames` frames.  The takes add up to `count`.

    :param max_rss_bytes: a job that uses more memory is ended; 0: any
    """

    first: int
    count: int  # type: ignore[assignment]
    attempt: int
    function: str
    context: str
    reuse: bool
    packets: list[tuple[int, int, int]]
    max_rss_bytes: int = 0

    @property
    def key(self) -> Key:
        return Key(self.first, self.count, self.attempt)


class Result(NamedTuple):
    """What became of consecutive jobs of one lease.

    :param seconds: time that the jobs took together, on the child's monotonic clock
    :param peak_rss_bytes: largest resident set of the child so far
    :param frames: number of payload frames that belong to it
    """

    first: int
    count: int  # type: ignore[assignment]
    attempt: int
    outcome: int
    seconds: float
    peak_rss_bytes: int
    frames: int

    @property
    def key(self) -> Key:
        return Key(self.first, self.count, self.attempt)


class Held(NamedTuple):
    """A lease that an agent holds, as told in a heartbeat.

    :param current: number of the job that is running now, -1 when none is
    :param cpu_fraction: processor time used since the last heartbeat by the child and its
        descendants, in cores
    :param running: a process of the tree is runnable or waits for a disk (states R, D)
    :param limit_bytes: the least of the limits on its memory, 0 where none is known
    """

    first: int
    count: int  # type: ignore[assignment]
    attempt: int
    phase: int
    current: int
    rss_bytes: int
    cpu_fraction: float
    running: bool
    limit_bytes: int = 0


class Death(Struct, frozen=True):
    """What is known of a child's end: the payload of DIED, STALLED, MEMORY and WALLTIME.

    :param rss_bytes: resident memory of the child and its descendants when last measured
    :param cpu_fraction: processor time that they used shortly before that, in cores
    :param limit: which limit on memory it was near or over: "h_vmem", "cgroup", "max_rss" or ""
    """

    exit_status: int = -1  # -1: it did not exit
    signal: int = 0  # 0: no signal
    log_tail: str = ""
    peak_rss_bytes: int = 0
    text: str = ""
    rss_bytes: int = 0
    cpu_fraction: float = 0.0
    limit_bytes: int = 0
    limit: str = ""


# --- agent -> monitor -----------------------------------------------------------------------------


class Hello(Struct, frozen=True):
    """The first word of an agent; said again until it is answered."""

    gridmap: str
    python: str  # "3.11"
    protocol: int
    native_id: str
    incarnation: str  # random, new for each agent process
    pool: int
    host: str
    pid: int
    children: int
    capacity: int  # leases it takes at once
    log_stdout: str = ""
    log_stderr: str = ""


class Credit(Struct, frozen=True):
    """The agent takes `capacity` leases at once from now on; 0 when it is about to leave."""

    capacity: int


class NeedBlob(Struct, frozen=True):
    digest: str


class Heartbeat(Struct, frozen=True):
    """The inventory of an agent: what it holds, and which results nobody acknowledged yet.

    :param heard: the last Pulse that it had heard when it wrote this; -1: none of this monitor's.
        What the monitor sent before that Pulse has arrived, or was lost
    """

    seq: int
    held: list[Held] = field(default_factory=list)
    unacknowledged: list[Key] = field(default_factory=list)
    heard: int = -1


class Results(Struct, frozen=True):
    items: list[Result]


class Bye(Struct, frozen=True):
    """The agent leaves; all its results have been sent.

    :param reason: for people
    :param departure: a Departure, for rules; any other number counts as FAILED
    """

    reason: str
    departure: int = int(Departure.FAILED)


# --- monitor -> agent -----------------------------------------------------------------------------


class Welcome(Struct, frozen=True):
    run: str
    heartbeat_s: float
    grace_s: float  # how long to go on without a word from the monitor
    walltime_s: float = 0.0  # the scheduler ends the worker after so long; 0: never


class Refuse(Struct, frozen=True):
    reason: str


class Work(Struct, frozen=True):
    leases: list[Lease]


class Blob(Struct, frozen=True):
    digest: str
    found: bool = True


class Pulse(Struct, frozen=True):
    """The answer to a heartbeat: the monitor is alive."""

    seq: int


class Ack(Struct, frozen=True):
    keys: list[Key]


class Recall(Struct, frozen=True):
    """Give back what of these has not begun.

    A lease that runs ends early, after the call that it is in.
    """

    keys: list[Key]


class Cancel(Struct, frozen=True):
    """Stop these, started or not.

    :param outcome: the Outcome to answer with (CANCELED, STALLED)
    """

    keys: list[Key]
    outcome: int = int(Outcome.CANCELED)


class Drain(Struct, frozen=True):
    """Finish what runs, give back the rest, and leave."""


FromAgent = Hello | Credit | NeedBlob | Heartbeat | Results | Bye
ToAgent = Welcome | Refuse | Work | Blob | Pulse | Ack | Recall | Cancel | Drain
Message = FromAgent | ToAgent
