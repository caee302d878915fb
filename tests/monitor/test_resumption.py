"""From a ledger to the first events of the next monitor."""

from __future__ import annotations

import itertools
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from gridmap import data
from gridmap.core.dispatcher import Dispatcher
from gridmap.core.events import KnownLease, KnownWorker, RunResumed
from gridmap.core.policy import Limits, Policy
from gridmap.core.spec import JobSpec, PoolSpec, Span
from gridmap.core.states import JobState
from gridmap.errors import Cause
from gridmap.ledger.book import Book
from gridmap.ledger.facts import FailureFact, Header, LeaseFact, ValuesFact
from gridmap.monitor import loop
from gridmap.monitor.loop import Earlier, Monitor
from gridmap.monitor.sink import Sink
from gridmap.resume import Resumption

HEADER = Header("r1", "job", 1.5, "1", "3", "drmaa", [PoolSpec()], {}, ["job"])
SPEC = JobSpec("f", "c")


def left(folder: Path, write: Callable[[Book], None], jobs: int = 4) -> Path:
    """Makes the ledger of a run whose monitor died."""
    ledger = Book(folder, HEADER)
    (packet,) = data.pack_arguments(range(jobs))
    ledger.part(Span(0, jobs), SPEC, packet.frames)
    ledger.input_ended()
    write(ledger)
    assert ledger.close()
    return folder


def failed(job: int) -> FailureFact:
    return FailureFact(
        job, Cause.DIED, 2, 1, "", "7.1", "host", "", "", 0, 0.0, 0, 0.0, "", "", None, [b"x"]
    )


class Found:
    """A scheduler that knows some workers of the run."""

    def __init__(self, *workers: str) -> None:
        self.workers = list(workers)
        self.adopted: set[str] = set()

    def find(self, run_tag: str) -> list[str]:
        return self.workers

    def adopt(self, ids: Sequence[str]) -> None:
        self.adopted.update(ids)


def test_what_runs_again_is_not_waited_for_where_it_failed(tmp_path: Path) -> None:
    def write(ledger: Book) -> None:
        ledger.requested(0, 0, 1)
        ledger.answered(0, 0, ["7.1"])
        ledger.leased(LeaseFact("7.1", "i", Span(0, 2), 0))
        ledger.leased(LeaseFact("7.1", "i", Span(2, 1), 1))
        ledger.leased(LeaseFact("7.1", "i", Span(3, 1), 2))
        ledger.values(ValuesFact(Span(0, 1), 0, 1, "7.1", "host", 0.0, 0, 0.0, [b"v"]))
        ledger.failed(failed(2))

    earlier = Resumption(left(tmp_path, write), again=True)
    assert earlier.event == RunResumed(
        ended=((Span(0, 1), JobState.COMPLETED),),
        workers=(KnownWorker("7.1", 0, 0),),
        leases=(KnownLease("7.1", "i", Span(0, 2), 0), KnownLease("7.1", "i", Span(3, 1), 2)),
        next_request=1,
    )
    assert earlier.parts[0].attempt == 3
    earlier.book.close()


def test_the_scheduler_is_asked_for_workers_that_it_had_not_told_of(tmp_path: Path) -> None:
    def write(ledger: Book) -> None:
        ledger.requested(0, 0, 1)
        ledger.answered(0, 0, ["7.1"])
        ledger.requested(1, 0, 2)
        ledger.leased(LeaseFact("9.1", "i", Span(0, 1), 0))  # gone by now

    earlier = Resumption(left(tmp_path, write))
    backend = Found("7.1", "8.1", "8.2")
    earlier.meet(backend)  # type: ignore[arg-type]
    assert earlier.event.workers == tuple(
        KnownWorker(name, 0, request) for name, request in (("7.1", 0), ("8.1", 1), ("8.2", 1))
    )
    assert backend.adopted == {"7.1", "8.1", "8.2", "9.1"}
    earlier.book.close()


def test_one_request_may_have_become_several_jobs(tmp_path: Path) -> None:
    def write(ledger: Book) -> None:
        ledger.requested(0, 0, 1)
        ledger.requested(1, 0, 3)

    earlier = Resumption(left(tmp_path, write))
    backend = Found("11", "12", "9", "10")
    earlier.meet(backend)  # type: ignore[arg-type]
    assert earlier.event.workers == tuple(
        KnownWorker(name, 0, request)
        for name, request in (("9", 0), ("10", 1), ("11", 1), ("12", 1))
    )
    earlier.book.close()


class Silent:
    """A transport to a scheduler that has nothing to say."""

    def __init__(self) -> None:
        self.submitted = 0

    def submit(self, request: int, pool: int, count: int) -> None:
        self.submitted += count

    def poll(self, workers: tuple[str, ...]) -> None:
        pass

    def close(self, deadline_s: float) -> None:
        pass


def test_no_worker_is_asked_for_before_it_is_known_which_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ticks = itertools.count()
    monkeypatch.setattr(loop, "time", types.SimpleNamespace(monotonic=lambda: float(next(ticks))))
    transport: Any = Silent()
    monitor = Monitor("r1", Dispatcher(Policy(), [Limits(9, 1)], "r1"), transport, Sink())
    packets = [packet for _ in range(5) for packet in data.pack_arguments([1])]
    parts = [Earlier(SPEC, packet, {}, 1) for packet in packets]
    leases = tuple(KnownLease("7.1", "i", Span(job, 1), 0) for job in range(5))
    monitor.resume(parts, RunResumed(workers=(KnownWorker("7.1", 0, 0),), leases=leases))
    while monitor._commands:
        monitor._commands.popleft()()
    assert transport.submitted == 0
    monitor.abandon()
