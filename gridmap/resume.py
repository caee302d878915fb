"""What an earlier process left of a run, read from its ledger: the start of the next monitor."""

from __future__ import annotations

import contextlib
import re
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from gridmap.core.events import KnownLease, KnownWorker, RunResumed
from gridmap.core.messages import Outcome, Result
from gridmap.core.spec import Resources, Span
from gridmap.core.states import JobState
from gridmap.data import Frame, Packet
from gridmap.errors import Cause
from gridmap.failures import words_of_failure
from gridmap.launch import LOCAL
from gridmap.ledger import spool
from gridmap.ledger.book import Book
from gridmap.ledger.directory import RunDirectory
from gridmap.ledger.facts import LeaseFact, ValuesFact
from gridmap.monitor.loop import Earlier
from gridmap.monitor.recorder import fact_of_failure
from gridmap.monitor.sink import Delivery, End, Failure, Place, Values

if TYPE_CHECKING:
    from gridmap.backends.base import Backend

_J = JobState


class Resumption:
    """A run whose monitor is dead; whoever makes this holds its ledger.

    :param again: jobs that ended without a value are to run again
    :raises LedgerInUse: its monitor lives
    :raises LedgerError: there is no ledger that can be read
    """

    def __init__(self, path: Path, again: bool = False) -> None:
        self.book = Book(path)
        try:
            self._facts = self.book.read()
            self._take_in(path, again)
        except BaseException:
            self.book.close()
            raise

    def _take_in(self, path: Path, again: bool) -> None:
        facts = self._facts
        self.header = facts.header
        self.run = facts.header.run
        self.input_ended = facts.input_ended
        log_dir = facts.header.options.get("log_dir")
        self.directory = RunDirectory(path, str(log_dir) if log_dir else None)
        self.total = sum(part.span.count for part in facts.parts)
        self._states = _states(facts.values, facts.failures, facts.ends, self.total)
        self._take_spooled(path)
        held = [x for x in facts.leases if any(_stretches(self._states, x.span))]
        if again:
            self.book.run_again()
            facts.charged = {j: x._replace(attempts=0) for j, x in facts.charged.items()}
            facts.failures, facts.ends = [], []
            self._states = _states(facts.values, [], [], self.total)
        self.over = _J.QUEUED not in self._states
        self.complete = self._states.count(_J.COMPLETED) == self.total
        self.deliveries = list(self._ended_before())
        first_attempt = max((lease.attempt for lease in facts.leases), default=-1) + 1
        self.parts = [
            Earlier(part.spec, Packet(part.span.count, part.frames), {}, first_attempt)
            for part in facts.parts
        ]
        if self.parts:
            self.parts[0] = self.parts[0]._replace(blobs=facts.blobs)
        self.event = self._event(held)

    def _take_spooled(self, path: Path) -> None:
        """Takes in what workers left that nobody had taken over before they had to go."""
        for file, left in spool.read(path):
            frames: list[Frame] = list(left.frames)
            for item in left.items:
                own, frames = frames[: item.frames], frames[item.frames :]
                self._take_result(item, own, left)
            facts = self._facts
            self._states = _states(facts.values, facts.failures, facts.ends, self.total)
            self.book.flush(lambda file=file: self._spool_is_in(file))  # type: ignore[misc]

    def _spool_is_in(self, file: Path) -> None:
        if not self.book.error:  # else it is still the only copy
            with contextlib.suppress(OSError):  # then it is read again, and its values are known
                file.unlink()

    def _take_result(self, item: Result, frames: list[Frame], left: spool.Spooled) -> None:
        span = Span(item.first, item.count)
        if not _inside(span, Span(0, self.total)):
            return  # its lease may be unknown: the client died before it had written that
        if item.outcome == Outcome.EXCEPTION and self._open(item.first):
            told = Failure(
                item.first, Cause.EXCEPTION, Outcome.EXCEPTION, frames, 1, "",
                Place(left.worker, left.host), seconds=item.seconds,
                peak_rss_bytes=item.peak_rss_bytes, ended_s=time.time(),
            )  # fmt: skip
            failure = fact_of_failure(told, *words_of_failure(told, "", Resources()))
            self.book.failed(failure)
            self._facts.failures.append(failure)
        elif item.outcome == Outcome.VALUE:
            for open_span in _stretches(self._states, span):
                values = ValuesFact(
                    open_span, open_span.first - item.first, 1, left.worker, left.host,
                    item.seconds * open_span.count / item.count, item.peak_rss_bytes, time.time(),
                    frames,
                )  # fmt: skip
                self.book.values(values)
                self._facts.values.append(values)

    def _event(self, held: list[LeaseFact]) -> RunResumed:
        facts, alone = self._facts, self.header.backend == LOCAL
        return RunResumed(
            ended=tuple(_spans(self._states)),
            charged=tuple(x for x in facts.charged.values() if self._open(x.job)),
            workers=() if alone else tuple(KnownWorker(*fact) for fact in facts.workers),
            leases=() if alone else tuple(KnownLease(*fact) for fact in held),
            next_request=facts.next_request,
        )

    def meet(self, backend: Backend) -> None:
        """Asks the scheduler for workers of whose start the ledger does not know.

        :raises BackendError: it does not answer
        """
        known = {fact.native_id for fact in self._facts.workers}
        arrays: defaultdict[int, list[str]] = defaultdict(list)
        for native_id in backend.find(self.run):
            if native_id not in known:
                arrays[_job_number(native_id)].append(native_id)
        requests = sorted(self._facts.open_requests)
        # one request may have become several jobs, which the last one did that was not answered
        of_jobs = [*requests, *requests[-1:] * len(arrays)]
        new = [
            KnownWorker(native_id, pool, request)
            for (request, pool, _), job in zip(of_jobs, sorted(arrays), strict=False)
            for native_id in arrays[job]
        ]
        for request, pool, _ in self._facts.open_requests:
            self.book.answered(request, pool, [w.id for w in new if w.request == request])
        leased = {lease.worker for lease in self._facts.leases}
        backend.adopt([*(known | leased), *(worker.id for worker in new)])
        self.event = replace(self.event, workers=(*self.event.workers, *new))

    def count(self, state: JobState) -> int:
        """Returns how many jobs had ended so."""
        return self._states.count(state)

    def _open(self, job: int) -> bool:
        return 0 <= job < self.total and self._states[job] == _J.QUEUED

    def _ended_before(self) -> Iterator[Delivery]:
        for fact in self._facts.values:
            yield Values(
                fact.span, fact.frames, fact.skip, fact.attempts, Place(fact.worker, fact.host),
                fact.seconds, fact.peak_rss_bytes, fact.ended_s,
            )  # fmt: skip
        for one in self._facts.failures:
            if self._states[one.job] == _J.FAILED:
                outcome = Outcome(one.outcome) if one.outcome >= 0 else None
                where = Place(one.worker, one.host, one.log_stdout, one.log_stderr)
                yield Failure(
                    one.job, one.cause, outcome, one.frames, one.attempts, one.text, where,
                    one.pool, one.last, one.seconds, one.peak_rss_bytes, one.ended_s,
                )  # fmt: skip
        for end in self._facts.ends:
            for span, state in _spans(self._states[end.span.first : end.span.stop]):
                if state is end.state:
                    moved = Span(span.first + end.span.first, span.count)
                    yield End(moved, state, end.cause, end.text, end.refused, end.ended_s)


def _states(values: list, failures: list, ends: list, total: int) -> bytes:
    """Returns the state of each job; a value outweighs what was said before it came."""
    states = bytearray([_J.QUEUED]) * total
    for end in ends:
        states[end.span.first : end.span.stop] = bytes([end.state]) * end.span.count
    for failure in failures:
        states[failure.job] = _J.FAILED
    for fact in values:
        states[fact.span.first : fact.span.stop] = bytes([_J.COMPLETED]) * fact.span.count
    return bytes(states)


def _spans(states: bytes) -> Iterator[tuple[Span, JobState]]:
    """Yields each stretch of jobs that ended alike."""
    first = 0
    while first < len(states):
        stretch = len(states) - first - len(states[first:].lstrip(states[first : first + 1]))
        if states[first] != _J.QUEUED:
            yield Span(first, stretch), JobState(states[first])
        first += stretch


def _stretches(states: bytes, inside: Span) -> Iterator[Span]:
    """Yields each stretch of jobs that have not ended."""
    ended = bytes(state != _J.QUEUED for state in states[inside.first : inside.stop])
    at = ended.find(0)
    while at >= 0:
        stop = ended.find(1, at)
        stop = len(ended) if stop < 0 else stop
        yield Span(inside.first + at, stop - at)
        at = ended.find(0, stop)


def _inside(span: Span, of: Span) -> bool:
    return span.count > 0 and of.first <= span.first and span.stop <= of.stop


def _job_number(native_id: str) -> int:
    number = re.match(r"\d+", native_id)
    return int(number[0]) if number else 0
