"""Results as they come, from an input that is read only so far ahead."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

from msgspec.structs import replace

from gridmap.engine import Engine
from gridmap.errors import PicklingError
from gridmap.failures import advice
from gridmap.launch import LOCAL
from gridmap.monitor.watcher import Watcher
from gridmap.options import Options
from gridmap.outcomes import Batch, Failed
from gridmap.plan import Plan
from gridmap.report.progress import Progress

FILL_S = 0.05
"""How long a stream reads its input before it looks for values again."""

BETWEEN_S = 0.005
"""The same where there are values already, and somebody waits for them."""

SLOW_S = 0.01
"""Values come before the input is read on when to read it took longer than this."""

WAIT_SHARE = 0.1
"""Of the time that reading takes, so much may be spent waiting for values before it is read on."""

WAIT_LEAST_S = 0.001
"""So much of it is used up by each element that comes at once."""

FIRST_JOBS = 64
"""At most so many jobs are under way before the first value has come."""

STREAM_BYTES = 256 << 20
"""About so many bytes of arguments and values may a stream have under way."""


def stream(
    plan: Plan, options: Options, watcher: Watcher, window: int, ordered: bool, progress: Progress
) -> Iterator[Any]:
    """Yields values as they come; takes from the input only so far ahead.

    :param window: most jobs between the input and what has been yielded
    """
    bounds = _Bounds(window)
    inputs = [_Input(segment.elements) for segment in plan.segments]
    for segment, source in zip(plan.segments, inputs, strict=True):
        if not isinstance(segment.elements, (list, tuple, range)):
            segment.elements = source
    options = replace(options, durable=False)  # it could not be bounded
    engine = bounds.engine = Engine(plan, options, watcher, bounds.most_items)
    patience = _Patience(engine)
    order = _Order(options.on_error, ordered)
    yielded = 0
    batches: list[Batch] = []
    unpicklable: PicklingError | None = None

    def fill(most_s: float = FILL_S) -> bool:
        nonlocal unpicklable
        try:
            return _fill(engine, progress, yielded, bounds, patience, most_s)
        except PicklingError as error:
            unpicklable = error
            engine.end_input()
            return False

    engine.expected = progress.jobs
    progress.follow(engine)
    try:
        with progress.waiting():  # also while the values are made use of: they are not the last
            while True:
                # there may be more values by now
                room = (patience.slow and bool(batches)) or fill()
                if not engine.total:
                    break
                _start(engine, progress)
                ended = patience.take(room)
                if ended is None:
                    break
                batches = ended
                if batches and not patience.slow:
                    fill(BETWEEN_S)  # nobody reads the input while the values are looked at
                for batch in batches:
                    for job, value in enumerate(batch.values, batch.first):
                        for ready in order.put(job, value):
                            yielded += 1
                            yield from ready
    finally:
        engine.close()
        progress.stop()
        if progress.running:
            status = engine.status()
            progress.end(status.completed, status.failed, status.canceled)
    for failure in (order.first, unpicklable, *(source.error for source in inputs)):
        if failure is not None:
            raise failure


class _Input:
    """An input that ends where reading it fails, and keeps the error for later."""

    def __init__(self, elements: Iterable[Any]) -> None:
        self._elements = elements
        self.error: Exception | None = None

    def __iter__(self) -> Iterator[Any]:
        try:
            yield from self._elements
        except Exception as error:
            self.error = error


def _start(engine: Engine, progress: Progress) -> None:
    """Starts the workers, once."""
    with advice():
        engine.start()
    progress.begin(engine.id)


def _fill(
    engine: Engine,
    progress: Progress,
    yielded: int,
    bounds: _Bounds,
    patience: _Patience,
    most_s: float,
) -> bool:
    """Reads from the input as far as it may, but not for long: there may be values to yield.

    :param most_s: stops after so long
    :returns: whether there is room for more
    """
    until = math.inf
    while not engine.exhausted and bounds.room(engine.total - yielded):
        job, begun = engine.total, time.monotonic()
        engine.feed(most_jobs=1)
        read_s = time.monotonic() - begun
        if engine.total:
            _start(engine, progress)  # takes a while, the first time
        patience.sent(job, read_s)
        if patience.slow:
            return True
        until = min(until, time.monotonic() + most_s)
        if time.monotonic() >= until:
            return True
    return False


class _Bounds:
    """How far a stream may read ahead.

    Until the first value has come nobody knows how large they are, so few jobs are under way.

    :param window: most jobs between the input and what has been yielded
    """

    def __init__(self, window: int) -> None:
        self._window = window
        self._most_items = max(1, window // 4)
        self.engine: Engine | None = None

    def most_items(self) -> int:
        """Returns how many jobs the next packet may have."""
        return max(1, min(self._most_items, self._jobs() // 4))

    def room(self, under_way: int) -> bool:
        """True when one more packet may be read from the input."""
        return not under_way or under_way + self.most_items() <= min(self._window, self._jobs())

    def _jobs(self) -> int:
        """Returns how many jobs may be under way by their size."""
        engine = self.engine
        assert engine is not None
        options, sink = engine.options, engine.sink
        few = 2 * (options.processes if options.backend == LOCAL else options.max_workers)
        if not sink.values:
            return max(4, min(few, FIRST_JOBS))
        bytes_each = sink.value_bytes / sink.values + engine.fed_bytes / engine.total
        return max(few, int(STREAM_BYTES / max(1.0, bytes_each)))


class _Patience:
    """Sees to it that values come before a slow input is read on, which takes long once more.

    It waits for a call as long as others have taken lately, should there be time for that; all its
    waiting is no more than a share of the time that reading took.  What is left of a slow element's
    share serves the ones after it: they may come at once only because their maker, who had been
    waiting in vain for values, has them now.
    """

    def __init__(self, engine: Engine) -> None:
        self.slow = False
        """To read the input took long, or may again: look for values before it is read on."""
        self._engine = engine
        self._left_s = 0.0
        self._until = 0.0
        self._taken = 0
        self._probe: tuple[int, float] | None = None  # a job under way, and when it was sent
        self._lately: deque[float] = deque(maxlen=4)  # from sending some jobs to their values

    def sent(self, job: int, read_s: float) -> None:
        """Takes in that to read the input took so long, and that a packet was sent.

        :param job: the first one of it
        """
        now = time.monotonic()
        if self._probe is None and self._engine.total > job:
            self._probe = job, now
        self._left_s = max(self._left_s - WAIT_LEAST_S, WAIT_SHARE * (read_s - SLOW_S))
        self.slow = self._left_s > 0
        wait_s = self._left_s
        if self._lately:
            in_time = min(self._lately) <= wait_s
            wait_s = min(wait_s, 1.5 * max(self._lately) + 0.005) if in_time else 0.0
        self._until = now + wait_s

    def take(self, room: bool) -> list[Batch] | None:
        """Returns what has ended; None when nothing more will.

        :param room: the input can be read on, so this does not wait for long
        """
        engine, begun = self._engine, time.monotonic()
        if not room:
            ended = engine.take(None)
        elif self.slow and self._taken < engine.total:
            ended = engine.take(max(0.0, self._until - begun))
            self._left_s -= time.monotonic() - begun
        else:
            ended = engine.take(0.0)
        if ended is None:
            return None
        came = engine.sink.latest_s
        batches = list(ended)
        for batch in batches:
            self._taken += len(batch.values)
            if self._probe and batch.first <= self._probe[0] < batch.first + len(batch.values):
                self._lately.append(came - self._probe[1])
                self._probe = None
        return batches


class _Order:
    """Says what a stream yields for each job, and when.

    :param ordered: in the order of the jobs, rather than as they end
    """

    def __init__(self, on_error: str, ordered: bool) -> None:
        self._failed: dict[int, BaseException] = {}
        self._on_error = on_error
        self._ordered = ordered
        self._waiting: dict[int, Any] = {}
        self._next = 0

    @property
    def first(self) -> BaseException | None:
        """The failure of the first job, in the order of the input, that has failed so far."""
        return self._failed[min(self._failed)] if self._failed else None

    def put(self, job: int, value: Any) -> Iterator[tuple[Any, ...]]:
        """Takes what became of a job; returns, for each job whose turn it is, nothing or a value.

        :raises BaseException: the first failure, with on_error="raise", when its turn has come
        """
        if isinstance(value, Failed) and not value.consequence and self._on_error != "return":
            self._failed[job] = value.error
        if not self._ordered:
            yield self._seen(value)
            return
        self._waiting[job] = value
        while self._next in self._waiting:
            if self._blocked(self._waiting[self._next]):
                return
            yield self._seen(self._waiting.pop(self._next))
            self._next += 1

    def _blocked(self, value: Any) -> bool:
        """True for a job that was stopped because of a failure that has not been heard of yet."""
        stopped = isinstance(value, Failed) and self._on_error == "raise"
        return stopped and not self._failed

    def _seen(self, value: Any) -> tuple[Any, ...]:
        if not isinstance(value, Failed):
            return (value,)
        if self._on_error == "return":
            return (value.error,)
        if self._on_error == "raise" and self.first is not None:
            raise self.first
        return ()
