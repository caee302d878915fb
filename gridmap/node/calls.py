"""Runs the calls of one lease, in order, and collects what became of them.

This is the only place that calls user code.  The loop for plain arguments is the tight one: per
call it writes the job's number to shared memory, calls, keeps the value and looks at the clock.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from gridmap import data, errors
from gridmap.core.messages import Death, Outcome
from gridmap.data import Frame

FLUSH_INTERVAL_S = 0.05

Item = tuple[int, int, int, int, float, int, int]
Send = Callable[[list[Item], list[Frame]], None]


def peak_rss_bytes() -> int:
    """Returns the largest resident set of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Runner:
    """Runs consecutive jobs of one attempt.

    :param slot: shared memory of one integer: the number of the job that runs
    :param send: takes results whenever some are due
    :param recalled: asked after that: True where those that have not begun are wanted back
    """

    def __init__(
        self,
        first: int,
        attempt: int,
        slot: memoryview,
        send: Send,
        recalled: Callable[[], bool] = lambda: False,
    ) -> None:
        self._next = first  # the first job that is neither kept nor sent
        self._attempt = attempt
        self._slot = slot
        self._send = send
        self._recalled = recalled
        self.ends_early = False  # those that have not begun are left
        self._values = data.ValuePacker()
        self._items: list[Item] = []
        self._frames: list[Frame] = []
        self.retry_on: tuple[type[BaseException], ...] = ()
        self._since = time.monotonic()
        self._due = self._since + FLUSH_INTERVAL_S

    @property
    def next_job(self) -> int:
        """The first job that has not been run."""
        return self._next + len(self._values.items)

    def run_packet(
        self, function: Callable[..., Any], frames: Sequence[Frame], skip: int, take: int
    ) -> None:
        """Runs the jobs of a packet's part."""
        start = self.next_job
        try:
            plain = data.plain_calls(frames, skip, take)
        except Exception as error:
            self.refuse(take, f"the arguments cannot be read: {type(error).__name__}: {error}")
            return
        if plain is not None:
            self._run_plain(start, function, plain)
        else:
            self._run_pickled(start, function, data.pickled_calls(frames, skip, take))

    def _run_plain(self, number: int, function: Callable[..., Any], calls: data.PlainCalls) -> None:
        slot, clock, small = self._slot, time.monotonic, data.SMALL_ATOMS
        keep = self._values.items.append
        call = (lambda args: function(*args)) if calls.many else function
        due = self._due
        now = clock()
        for job, argument in enumerate(calls.arguments, number):
            slot[0] = job
            try:
                value = call(argument)
            except BaseException as error:
                self._raised(error, now)
            else:
                if value is None or type(value) in small:
                    keep(value)
                else:
                    self._keep(value, now)
            now = clock()
            if now >= due:
                self.flush()
                if self.ends_early:
                    return
                due = self._due

    def _run_pickled(
        self, number: int, function: Callable[..., Any], calls: Iterator[Callable[[], data.Call]]
    ) -> None:
        due = self._due
        now = time.monotonic()
        for read in calls:
            self._slot[0] = number
            number += 1
            try:
                args, kwargs = read()
            except BaseException as error:
                text = f"the arguments cannot be read: {type(error).__name__}: {error}"
                self._single(Outcome.UNREADABLE, data.pack_text(text), now)
                continue
            try:
                value = function(*args, **kwargs)
            except BaseException as error:
                self._raised(error, now)
            else:
                self._keep(value, now)
                del value
            del args, kwargs
            now = time.monotonic()
            if now >= due:
                self.flush()
                if self.ends_early:
                    return
                due = self._due

    def refuse(self, count: int, text: str) -> None:
        """Answers for jobs that cannot be run at all."""
        for _ in range(count):
            self._single(Outcome.UNREADABLE, data.pack_text(text), time.monotonic())

    def fail(self, count: int, error: Exception) -> None:
        """Answers for jobs that this exception kept from being run."""
        for _ in range(count):
            self._raised(error, time.monotonic())

    # --- what became of a call --------------------------------------------------------------------
    # `began` is when it did: the time until then belongs to the values before it.

    def _keep(self, value: Any, began: float) -> None:
        try:
            if self._values.add(value) and len(self._values.items) > 1:
                count, frames = self._values.take_but_last()
                self._append(count, Outcome.VALUE, frames, began)
        except BaseException as error:
            text = str(error) if isinstance(error, errors.PicklingError) else repr(error)
            self._single(Outcome.UNPICKLABLE, data.pack_text(text), began)
        if self._values.full:
            self.flush()

    def _raised(self, error: BaseException, began: float) -> None:
        if isinstance(error, SystemExit):
            code = error.code
            status = code if isinstance(code, int) else 0 if code is None else 1
            text = f"called sys.exit({'' if code is None else code!r})"
            death = Death(exit_status=status, text=text, peak_rss_bytes=peak_rss_bytes())
            self._single(Outcome.DIED, data.pack_death(death), began)
        else:
            self._single(self._outcome_of(error), data.pack_exception(error), began)
        error.__traceback__ = None  # its frames may hold large objects

    def _outcome_of(self, error: BaseException) -> Outcome:
        if isinstance(error, MemoryError):
            return Outcome.NO_MEMORY
        return Outcome.RETRIABLE if isinstance(error, self.retry_on) else Outcome.EXCEPTION

    def _single(self, outcome: Outcome, frames: list[Frame], began: float) -> None:
        self._cut(began)
        self._append(1, outcome, frames, time.monotonic())

    def _cut(self, now: float) -> None:
        """Makes one result of the values kept, the last of which came then."""
        if self._values.items:
            count, frames = self._values.take()
            self._append(count, Outcome.VALUE, frames, now)

    def _append(self, count: int, outcome: Outcome, frames: list[Frame], now: float) -> None:
        self._items.append(
            (
                self._next,
                count,
                self._attempt,
                int(outcome),
                now - self._since,
                peak_rss_bytes(),
                len(frames),
            )
        )
        self._frames += frames
        self._next += count
        self._since = now

    def take(self) -> tuple[list[Item], list[Frame]]:
        """Returns the results that have not been sent."""
        self._cut(time.monotonic())
        items, frames = self._items, self._frames
        self._items, self._frames = [], []
        return items, frames

    def flush(self) -> None:
        """Sends what there is."""
        self._send(*self.take())
        self.ends_early = self.ends_early or self._recalled()
        self._due = time.monotonic() + FLUSH_INTERVAL_S
