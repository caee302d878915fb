"""Where the monitor puts what has ended, and the user's thread takes it."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass, field

from gridmap.core.messages import Outcome
from gridmap.core.spec import Span
from gridmap.core.states import JobState
from gridmap.data import Frame
from gridmap.errors import Cause


@dataclass(frozen=True)
class Place:
    """Where a job ran: the worker's native id, its host and its log files."""

    worker: str = ""
    host: str = ""
    log_stdout: str = ""
    log_stderr: str = ""


@dataclass(frozen=True)
class Values:
    """Values of consecutive jobs: those of a packet from `skip` on."""

    span: Span
    frames: list[Frame]
    skip: int
    place: Place


@dataclass(frozen=True)
class Failure:
    """A job that failed in an attempt of its own.

    :param frames: the payload of the result that says so; empty when its worker was lost
    """

    job: int
    cause: Cause
    outcome: Outcome | None
    frames: list[Frame]
    attempts: int
    text: str
    place: Place


@dataclass(frozen=True)
class End:
    """Jobs that ended together without an attempt that failed."""

    span: Span
    state: JobState
    cause: Cause
    text: str
    refused: bool


@dataclass(frozen=True)
class Sample:
    """What a running job used."""

    job: int
    rss_bytes: int
    cpu_fraction: float
    running: bool
    place: Place


Delivery = Values | Failure | End | Sample


@dataclass
class Sink:
    """A queue of deliveries that says when there will be no more."""

    _items: deque[Delivery] = field(default_factory=deque)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    ended: bool = False
    error: BaseException | None = None

    def put(self, item: Delivery) -> None:
        """Adds one delivery; wakes whoever waits."""
        with self._changed:
            self._items.append(item)
            self._changed.notify_all()

    def end(self, error: BaseException | None = None) -> None:
        """Says that nothing more comes.

        :param error: the monitor itself failed, and why
        """
        with self._changed:
            self.ended = True
            self.error = self.error or error
            self._changed.notify_all()

    def nudge(self) -> None:
        """Wakes whoever waits, since something else than a delivery has changed."""
        with self._changed:
            self._changed.notify_all()

    def wait_for_end(self, timeout_s: float | None) -> bool:
        """Waits until nothing more comes; returns whether that is so."""
        with self._changed:
            return self._changed.wait_for(lambda: self.ended, timeout_s)

    def take(self, timeout_s: float | None = None) -> list[Delivery]:
        """Returns all deliveries, waiting for the first; none at the end or after the time.

        Signal handlers of the waiting thread run in the meantime.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        with self._changed:
            while not self._items and not self.ended:
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    break
                if not self._changed.wait(left) and deadline is not None:
                    break
            items = list(self._items)
            self._items.clear()
            return items
