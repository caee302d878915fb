"""The jobs of a run as ranges: one byte of state a job, and queues whose items are ranges."""

from __future__ import annotations

import functools
import heapq
import itertools
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterator

from msgspec import Struct
from msgspec.structs import replace

from gridmap.core.spec import JobSpec, Span
from gridmap.core.states import FINAL_JOB_STATES, JOB_TRANSITIONS, InvalidTransition, JobState

_STATES = tuple(JobState)
_LEGAL = {(before, after) for before, to in JOB_TRANSITIONS.items() for after in to}

UNFINISHED = frozenset(_STATES) - FINAL_JOB_STATES
IN_FLIGHT = frozenset({JobState.LEASED, JobState.RUNNING})
WAITING = frozenset({JobState.QUEUED, JobState.REQUEUED})


@functools.cache
def _mask(states: frozenset[JobState]) -> bytes:
    return bytes(1 if i < len(_STATES) and _STATES[i] in states else 0 for i in range(256))


class JobTable:
    """The state of every job of a run, and what its range has in common."""

    def __init__(self) -> None:
        self._state = bytearray()
        self._counts = [0] * len(_STATES)
        self._firsts: list[int] = []
        self._specs: list[JobSpec] = []
        self.unfinished = 0

    def __len__(self) -> int:
        return len(self._state)

    def __getitem__(self, job: int) -> JobState:
        return _STATES[self._state[job]]

    def add(self, count: int, spec: JobSpec) -> Span:
        """Appends `count` queued jobs; returns their numbers."""
        span = Span(len(self._state), count)
        self._state += bytes([JobState.QUEUED]) * count
        self._counts[JobState.QUEUED] += count
        if not self._specs or self._specs[-1] != spec:
            self._firsts.append(span.first)
            self._specs.append(spec)
        self.unfinished += count
        return span

    def spec(self, job: int) -> JobSpec:
        """Returns what the job has in common with its neighbours."""
        return self._specs[bisect_right(self._firsts, job) - 1]

    def set_spec(self, job: int, spec: JobSpec) -> None:
        """Has one job part from its neighbours."""
        before = self.spec(job)
        if spec == before:
            return
        for first, theirs in ((job, spec), (job + 1, before)):
            at = bisect_left(self._firsts, first)
            if at < len(self._firsts) and self._firsts[at] == first:
                if first == job:
                    self._specs[at] = theirs
            elif first < len(self._state):
                self._firsts.insert(at, first)
                self._specs.insert(at, theirs)

    def segments(self, span: Span) -> Iterator[Span]:
        """Cuts a span where the jobs' specs change."""
        first = span.first
        borders = self._firsts[
            bisect_right(self._firsts, first) : bisect_left(self._firsts, span.stop)
        ]
        for border in itertools.chain(borders, [span.stop]):
            stop = min(border, span.stop)
            if stop > first:
                yield Span(first, stop - first)
                first = stop

    def move(self, span: Span, to: JobState) -> None:
        """Takes consecutive jobs to a state.

        :raises InvalidTransition: a job of them may not go there; then none has moved
        """
        present = self._state[span.first : span.stop]
        found = set(present)
        for value in found:
            if (_STATES[value], to) not in _LEGAL:
                job = span.first + present.index(value)
                raise InvalidTransition(f"job {job}", _STATES[value], to)
        for value in found:
            self._counts[value] -= span.count if len(found) == 1 else present.count(value)
        self._counts[to] += span.count
        self._state[span.first : span.stop] = bytes([to]) * span.count
        if to in FINAL_JOB_STATES:
            self.unfinished -= span.count

    def spans(self, span: Span, states: frozenset[JobState]) -> list[Span]:
        """Returns the longest runs of jobs inside `span` that are in one of these states."""
        flags = self._state[span.first : span.stop].translate(_mask(states))
        if 0 not in flags:
            return [span] if flags else []
        found, at = [], flags.find(1)
        while at >= 0:
            end = flags.find(0, at)
            end = len(flags) if end < 0 else end
            found.append(Span(span.first + at, end - at))
            at = flags.find(1, end)
        return found

    def counts(self) -> dict[JobState, int]:
        """Returns how many jobs are in each state."""
        return dict(zip(_STATES, self._counts, strict=True))


class Range(Struct, frozen=True):
    """Consecutive jobs of one spec that wait for a worker.

    :param attempt: number of the try that comes next; counts leases, not failures
    :param alone: the first try of one of them killed a process: it gets no company again
    :param avoid: a host where it failed; until `avoid_until` others are preferred
    :param nbytes: size of the arguments, or more
    """

    span: Span
    spec: JobSpec
    attempt: int = 0
    alone: bool = False
    avoid: str = ""
    avoid_until: float = 0.0
    nbytes: int = 0


JOINED_BYTES = 1 << 20
"""Ranges that follow each other become one up to this size; a lease, one message, is of one."""


class RangeQueue:
    """Ranges in the order in which they are to run, and those that back off until a time.

    A job may end while its range waits here (a late value); whoever takes a range asks the table.
    """

    def __init__(self) -> None:
        self._ranges: deque[Range] = deque()
        self._later: list[tuple[float, int, Range]] = []
        self._order = 0
        self.count = 0  # jobs in the queue; those that ended meanwhile included

    def put(self, item: Range) -> None:
        """Adds a range behind all others, or makes the last one longer by it."""
        self.count += item.span.count
        if self._ranges and item.span.first == self._ranges[-1].span.stop:
            last = self._ranges[-1]
            nbytes = last.nbytes + item.nbytes
            alike = replace(last, span=item.span, nbytes=item.nbytes) == item
            if alike and nbytes <= JOINED_BYTES:
                span = Span(last.span.first, last.span.count + item.span.count)
                self._ranges[-1] = replace(last, span=span, nbytes=nbytes)
                return
        self._ranges.append(item)

    def put_back(self, item: Range) -> None:
        """Puts a range that had been taken before those that have not."""
        self._ranges.appendleft(item)
        self.count += item.span.count

    def put_later(self, item: Range, not_before: float) -> None:
        self._order += 1
        heapq.heappush(self._later, (not_before, self._order, item))

    def wake(self, now: float) -> list[Range]:
        """Queues, first of all, the ranges that have backed off long enough; returns them."""
        woken = []
        while self._later and self._later[0][0] <= now:
            item = heapq.heappop(self._later)[2]
            woken.append(item)
        for item in woken:
            self.put_back(item)
        return woken

    def next_wake(self) -> float | None:
        return self._later[0][0] if self._later else None

    @property
    def later(self) -> int:
        """How many ranges back off."""
        return len(self._later)

    def first(self) -> Range | None:
        return self._ranges[0] if self._ranges else None

    def take(self, most: int) -> Range:
        """Removes up to `most` jobs from the first range; the queue must not be empty."""
        item = self._ranges.popleft()
        count = min(most, item.span.count)
        self.count -= count
        if count < item.span.count:
            rest = Span(item.span.first + count, item.span.count - count)
            self._ranges.appendleft(replace(item, span=rest))
            item = replace(item, span=Span(item.span.first, count))
        return item

    def clear(self) -> None:
        self._ranges.clear()
        self._later.clear()
        self.count = 0
