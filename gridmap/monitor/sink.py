"""Where the monitor puts what has ended, and the user's thread takes it."""

from __future__ import annotations

import contextlib
import enum
import math
import queue
import time
from typing import TypeVar

from msgspec import Struct

from gridmap.core.messages import Held, Outcome
from gridmap.core.spec import Span
from gridmap.core.states import JobState
from gridmap.data import Frame
from gridmap.errors import Cause


class Place(Struct, frozen=True):
    """Where a job ran: the worker's native id, its host and its log files."""

    worker: str = ""
    host: str = ""
    log_stdout: str = ""
    log_stderr: str = ""


class Values(Struct, frozen=True):
    """Values of consecutive jobs: those of a packet from `skip` on.

    :param attempts: tries that each took
    :param seconds: time that they took together
    :param peak_rss_bytes: largest resident set of the process that they ran in, so far
    :param ended_s: when the monitor heard of it, seconds since 1970
    """

    span: Span
    frames: list[Frame]
    skip: int
    attempts: int
    place: Place
    seconds: float = 0.0
    peak_rss_bytes: int = 0
    ended_s: float = 0.0


class Failure(Struct, frozen=True):
    """A job that failed in an attempt of its own.

    :param frames: the payload of the result that says so; empty when its worker was lost
    :param pool: the pool of workers that it ran in
    :param last: what its worker last said of it while it ran
    :param seconds: time that its last attempt took, 0 where nobody lived to say so
    :param peak_rss_bytes: largest resident set of the process that it ran in, so far
    :param ended_s: when the monitor heard of it, seconds since 1970
    """

    job: int
    cause: Cause
    outcome: Outcome | None
    frames: list[Frame]
    attempts: int
    text: str
    place: Place
    pool: int = 0
    last: Held | None = None
    seconds: float = 0.0
    peak_rss_bytes: int = 0
    ended_s: float = 0.0


class End(Struct, frozen=True):
    """Jobs that ended together without an attempt that failed.

    :param ended_s: seconds since 1970
    """

    span: Span
    state: JobState
    cause: Cause
    text: str
    refused: bool
    ended_s: float = 0.0


class Sample(Struct, frozen=True):
    """What a running job used."""

    job: int
    rss_bytes: int
    cpu_fraction: float
    running: bool
    place: Place


Delivery = Values | Failure | End | Sample


SIGNALS_LATEST_S = 0.5
"""A signal that comes just before a thread begins to wait does not wake it; it looks so often."""

T = TypeVar("T")


def get(source: queue.SimpleQueue[T], timeout_s: float | None) -> T:
    """Returns the next item, and lets signal handlers run while it waits.

    :param timeout_s: None waits as long as it takes
    :raises queue.Empty: there was none in time
    """
    deadline = math.inf if timeout_s is None else time.monotonic() + max(0.0, timeout_s)
    while True:
        left_s = deadline - time.monotonic()
        try:
            return source.get(timeout=max(0.0, min(left_s, SIGNALS_LATEST_S)))
        except queue.Empty:
            if left_s <= SIGNALS_LATEST_S:
                raise


class _Mark(enum.Enum):
    """What is in the queue beside deliveries."""

    SAMPLED = 0  # there are samples
    END = 1  # stands behind the last delivery


class Sink:
    """A queue of deliveries that says when there will be no more.

    Of each job only the latest sample is kept until somebody reads.

    A signal's handler may raise in a thread that waits here, at any point; the queue has no lock
    that such a thread could keep and that would then hold up the monitor.

    :param samples: somebody looks at them; where nobody does, they wake nobody
    """

    def __init__(self, samples: bool = True) -> None:
        self._wanted = samples
        self._queue: queue.SimpleQueue[Delivery | _Mark] = queue.SimpleQueue()
        self._samples: dict[int, Sample] = {}
        self._marked = False  # a reader will look for samples
        self.values = 0
        self.value_bytes = 0
        self.latest_s = 0.0
        """When the latest delivery came."""
        self.ended = False
        self.drained = False
        """Everything has been taken, and nothing more comes."""
        self.error: BaseException | None = None

    def put(self, item: Delivery) -> None:
        """Adds one delivery; wakes whoever waits."""
        if isinstance(item, Values):
            self.values += item.span.count
            self.value_bytes += sum(memoryview(frame).nbytes for frame in item.frames)
        if not isinstance(item, Sample):
            self.latest_s = time.monotonic()
            self._queue.put(item)
            return
        if not self._wanted:
            return
        self._samples[item.job] = item
        if not self._marked:
            self._marked = True
            self._queue.put(_Mark.SAMPLED)

    def end(self, error: BaseException | None = None) -> None:
        """Says that nothing more comes.

        :param error: the monitor itself failed, and why
        """
        self.error = self.error or error
        self.ended = True
        self._queue.put(_Mark.END)

    def take(self, timeout_s: float | None = None) -> list[Delivery]:
        """Returns all deliveries, waiting for the first; none at the end or after the time.

        Samples come first.  Signal handlers of the waiting thread run in the meantime.
        """
        deadline = math.inf if timeout_s is None else time.monotonic() + max(0.0, timeout_s)
        while True:
            try:
                items = self._take_queued(deadline - time.monotonic())
            except queue.Empty:
                return []
            taken = [*self._take_samples(), *items]
            if taken or self.drained:
                return taken

    def _take_queued(self, timeout_s: float) -> list[Delivery]:
        """Waits for something in the queue; returns what is in it, marks left out."""
        items: list[Delivery] = []
        item = get(self._queue, timeout_s)
        with contextlib.suppress(queue.Empty):
            while item is not _Mark.END:
                if not isinstance(item, _Mark):
                    items.append(item)
                item = self._queue.get_nowait()
            self._queue.put(item)  # others may wait, or ask again
            self.drained = True
        return items

    def _take_samples(self) -> list[Sample]:
        self._marked = False  # first: a sample that comes from now on is marked anew
        samples = []
        with contextlib.suppress(KeyError):
            while True:
                samples.append(self._samples.popitem()[1])
        return samples
