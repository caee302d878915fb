"""Keeps the ledger of a run: writes what the dispatcher decides, and has others wait for it.

Facts are collected while the loop turns, and written together. What must not be known to others
before it is on disk is held until then: an acknowledgement makes a worker forget its result, and a
job that must not run twice must be known to have been given away.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence

from gridmap.core import effects as do
from gridmap.core.events import (
    DispatcherEvent,
    MessageReceived,
    SubmissionFailed,
    WorkersSubmitted,
)
from gridmap.core.messages import Ack, Bye, Hello
from gridmap.core.records import LIVE, WorkerRecord
from gridmap.core.spec import JobSpec, Span
from gridmap.data import Frame, Packet
from gridmap.ledger.book import Book
from gridmap.ledger.facts import (
    EndFact,
    FailureFact,
    LeaseFact,
    LifeFact,
    SampleFact,
    TryFact,
    ValuesFact,
)
from gridmap.monitor.sink import End, Failure, Values

SAMPLES = 500
"""Of the age of a run, such a part lies between two samples of a worker, or a heartbeat."""

Describe = Callable[[Failure], tuple[str, str]]
"""Returns what a person may read of a failure: what happened, and the traceback or log's tail."""


class Recorder:
    """Writes the ledger of one run; belongs to the monitor's thread.

    :param workers: the dispatcher's, by native id
    :param known: number of jobs that the ledger has already
    """

    def __init__(
        self,
        book: Book,
        workers: Mapping[str, WorkerRecord],
        describe: Describe,
        known: int = 0,
    ) -> None:
        self.book = self._book = book
        self._workers = workers
        self._describe = describe
        self._next = known
        self._up_s: dict[str, float] = {}
        self._pool_of: dict[int, int] = {}
        self._held: list[do.DispatcherEffect] = []
        self._begun = time.monotonic()
        self._events = 0  # heard so far
        self._sampled: dict[str, tuple[int, float]] = {}  # of each worker, at which event and when

    # --- what happens -----------------------------------------------------------------------------

    def added(self, spec: JobSpec, packet: Packet, blobs: Mapping[str, Sequence[Frame]]) -> None:
        """Jobs were added."""
        for digest, frames in blobs.items():
            self._book.blob(digest, frames)
        self._book.part(Span(self._next, packet.count), spec, packet.frames)
        self._next += packet.count

    def input_ended(self) -> None:
        """No more jobs will be added."""
        self._book.input_ended()

    def heard(self, event: DispatcherEvent) -> None:
        """Something happened."""
        self._events += 1
        if isinstance(event, WorkersSubmitted):
            self._book.answered(event.request, self._pool_of.get(event.request, 0), event.workers)
        elif isinstance(event, SubmissionFailed):
            self._book.answered(event.request, self._pool_of.get(event.request, 0), ())
        elif isinstance(event, MessageReceived) and isinstance(event.message, Hello | Bye):
            self._lived(event.worker, time.time())

    def noted(self, level: str, text: str) -> None:
        """A person was told something."""
        if level != "debug":
            self._book.noted(time.time(), level, text)

    def _lived(self, worker_id: str, heard_s: float) -> None:
        worker = self._workers.get(worker_id)
        if worker is None or not worker.host:
            return
        up_s = self._up_s.setdefault(worker_id, heard_s)
        state = worker.state.name
        fact = LifeFact(
            worker_id, worker.host, worker.children, up_s, heard_s, state, worker.log_stdout,
            worker.log_stderr,
        )  # fmt: skip
        self._book.lived(fact)

    def holds(self, effect: do.DispatcherEffect) -> bool:
        """Takes note of what is about to be done; True when it has to wait until it is written."""
        if isinstance(effect, do.Assign):
            incarnation = self._workers[effect.worker].incarnation
            self._book.leased(LeaseFact(effect.worker, incarnation, effect.span, effect.attempt))
            waits = not effect.spec.rerunnable
        elif isinstance(effect, do.SubmitWorkers):
            self._pool_of[effect.request] = effect.pool
            self._book.requested(effect.request, effect.pool, effect.count)
            waits = True
        else:
            waits = isinstance(effect, do.SendMessage) and isinstance(effect.message, Ack)
        if waits:
            self._held.append(effect)
        elif isinstance(effect, do.Charged):
            self._book.charged(effect.job, effect.attempts, effect.attempt, effect.spec)
        elif isinstance(effect, do.Sampled) and self._is_wanted(effect.worker):
            sample = SampleFact(
                effect.job, effect.worker, time.time(), effect.rss_bytes, effect.cpu_fraction
            )
            self._book.sampled(sample)
        elif isinstance(effect, do.RunEnded):
            self._book.run_ended()
        return waits

    def _is_wanted(self, worker: str) -> bool:
        """Returns whether the ledger gets what this heartbeat says of the jobs of its worker.

        The older the run, the fewer: else hearts that beat for weeks would fill the disk.
        """
        now = time.monotonic()
        event, at = self._sampled.get(worker, (-1, -math.inf))
        if event != self._events and now - at < (now - self._begun) / SAMPLES:
            return False
        self._sampled[worker] = self._events, now
        return True

    def values(self, item: Values) -> None:
        """Jobs have their values."""
        place = item.place
        fact = ValuesFact(
            item.span,
            item.skip,
            item.attempts,
            place.worker,
            place.host,
            item.seconds,
            item.peak_rss_bytes,
            item.ended_s,
            item.frames,
        )
        self._book.values(fact)

    def failure(self, item: Failure) -> None:
        """A job failed for good."""
        self._book.failed(fact_of_failure(item, *self._describe(item)))

    def tried(self, effect: do.Charged, item: Failure) -> None:
        """A try of a job failed; it will run again."""
        error, _ = self._describe(item)
        at_s, seconds = item.ended_s, item.seconds or effect.seconds
        fact = TryFact(
            effect.job, effect.attempt, effect.cause, effect.worker, error, at_s, seconds
        )
        self._book.tried(fact)

    def end(self, item: End) -> None:
        """Jobs ended together."""
        self._book.ended(
            EndFact(item.span, item.state, item.cause, item.text, item.refused, item.ended_s)
        )

    # --- writing ----------------------------------------------------------------------------------

    def flush(self, done: Callable[[list[do.DispatcherEffect]], None]) -> None:
        """Has all of it written.

        :param done: called from another thread with what may be done now
        """
        if self._book.pending or self._held:
            held, self._held = self._held, []
            self._book.flush(lambda: done(held))

    def close(self, deadline_s: float) -> bool:
        """Writes what is left; returns whether that was in time."""
        now, now_s = time.monotonic(), time.time()
        for worker in self._workers.values():
            if worker.id in self._up_s and worker.state in LIVE:
                self._lived(worker.id, now_s - max(0.0, now - worker.heard_at))
        return self._book.close(deadline_s)


def fact_of_failure(item: Failure, error: str, details: str) -> FailureFact:
    """Returns what the ledger keeps of a failure.

    :param error: what happened, for people
    :param details: the traceback, or the log's tail
    """
    place = item.place
    return FailureFact(
        item.job,
        item.cause,
        -1 if item.outcome is None else int(item.outcome),
        item.attempts,
        item.text,
        place.worker,
        place.host,
        place.log_stdout,
        place.log_stderr,
        item.pool,
        item.seconds,
        item.peak_rss_bytes,
        item.ended_s,
        error,
        details,
        item.last,
        item.frames,
    )
