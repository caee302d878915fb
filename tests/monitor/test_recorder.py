"""What the ledger of a run gets to know, and what waits until it does."""

from __future__ import annotations

import queue
import resource
import signal
import time
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gridmap import data
from gridmap.core import effects as do
from gridmap.core import events as ev
from gridmap.core import messages as m
from gridmap.core.dispatcher import Dispatcher
from gridmap.core.messages import Outcome
from gridmap.core.policy import Limits, Policy
from gridmap.core.spec import JobSpec, PoolSpec, Span
from gridmap.core.states import JobState
from gridmap.errors import Cause
from gridmap.ledger import reading
from gridmap.ledger.book import Book
from gridmap.ledger.facts import Facts, Header, LeaseFact, WorkerFact
from gridmap.monitor import recorder
from gridmap.monitor.perform import Performer
from gridmap.monitor.recorder import Recorder
from gridmap.monitor.sink import Failure, Sink

DEADLINE_S = 10.0
HEADER = Header("r1", "job", 1.5, "1", "3", "drmaa", [PoolSpec()], {}, ["job"])
TWICE = JobSpec("f", "c")
ONCE = JobSpec("f", "c", rerunnable=False)


opened: list[Book] = []


def words(failure: Failure) -> tuple[str, str]:
    return f"job {failure.job} failed", "why"


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    while opened:
        assert opened.pop().close(DEADLINE_S)


class Told:
    """A transport that writes down what it is told, in place of workers and scheduler."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def send(self, worker: str, message: m.ToAgent, frames: list[Any], now: float) -> None:
        self.calls.append(message)

    def submit(self, request: int, pool: int, count: int) -> None:
        self.calls.append(("submit", request, pool, count))

    def cancel(self, workers: tuple[str, ...]) -> None:
        self.calls.append(("cancel", *workers))

    def poll(self, workers: tuple[str, ...]) -> None:
        self.calls.append(("poll", *workers))

    def diagnose(self, worker: str) -> None:
        self.calls.append(("diagnose", worker))


class Scene:
    """A run with a ledger and a clock that only moves when told; it is written when told."""

    def __init__(self, folder: Path, jobs: int, spec: JobSpec = TWICE, **policy: Any) -> None:
        self.folder = folder
        self.now = 0.0
        self.broken: list[str] = []
        self.there = Told()
        self.sink = Sink()
        self.dispatcher = Dispatcher(Policy(**policy), [Limits(1, 1)], "r1")
        self.book = Book(folder, HEADER, self.broken.append)
        opened.append(self.book)
        self.recorder = Recorder(self.book, self.dispatcher.workers, words)
        self.performer = Performer(
            "r1",
            self.dispatcher,
            self.there,  # type: ignore[arg-type]
            self.sink,
            recorder=self.recorder,
        )
        (packet,) = data.pack_arguments(range(jobs))
        self.recorder.added(spec, packet, {"f": [b"function"], "c": [b"context"]})
        self.performer.payloads.add(packet)
        self.tell(ev.JobsAdded(jobs, spec))
        self.recorder.input_ended()
        self.tell(ev.InputEnded())

    def tell(self, event: ev.DispatcherEvent, frames: list[Any] | None = None) -> list[Any]:
        """Lets something happen; returns what was done at once."""
        before = len(self.there.calls)
        effects = self.dispatcher.handle(event, self.now)
        self.recorder.heard(event)
        self.performer.perform(event, frames or [], effects, self.now)
        return self.there.calls[before:]

    def said(self, message: m.FromAgent, frames: list[Any] | None = None) -> list[Any]:
        return self.tell(ev.MessageReceived("7.1", "i", message), frames)

    def tick(self, seconds: float = 1.0) -> list[Any]:
        self.now += seconds
        return self.tell(ev.Tick())

    def hello(self) -> list[Any]:
        return self.said(m.Hello("1", "3", m.PROTOCOL, "7.1", "i", 0, "node7", 1, 1, 1))

    def result(
        self, job: int, outcome: Outcome = Outcome.VALUE, payload: bytes = b"v"
    ) -> list[Any]:
        attempt = next(iter(self.dispatcher.workers["7.1"].leases.values())).attempt
        item = m.Result(job, 1, attempt, int(outcome), 0.1, 1, 1)
        return self.said(m.Results([item]), [payload])

    def write(self) -> list[Any]:
        """Waits until all of it is written; returns what was done then."""
        before, written = len(self.there.calls), queue.SimpleQueue[list[do.DispatcherEffect]]()
        self.recorder.flush(written.put)
        self.performer.perform_held(written.get(timeout=DEADLINE_S), self.now)
        return self.there.calls[before:]

    def start(self) -> None:
        """Gets a worker and its first lease."""
        self.tick()
        self.write()
        self.tell(ev.WorkersSubmitted(0, ("7.1",)))
        self.hello()

    def facts(self) -> Facts:
        assert self.recorder.close(DEADLINE_S)
        return reading.read(self.folder)


def kinds(calls: list[Any]) -> list[str]:
    return [x[0] if isinstance(x, tuple) else type(x).__name__ for x in calls]


# --- what waits -----------------------------------------------------------------------------------


def test_the_scheduler_is_asked_when_it_is_written_that_it_was(tmp_path: Path) -> None:
    scene = Scene(tmp_path, 1)
    assert scene.tick() == []
    assert scene.write() == [("submit", 0, 0, 1)]
    assert scene.facts().open_requests == [(0, 0, 1)]


def test_a_result_is_acknowledged_when_it_is_written(tmp_path: Path) -> None:
    scene = Scene(tmp_path, 2)
    scene.start()
    done = scene.result(0)
    assert kinds(done) == ["Work"]  # the next job does not wait
    assert kinds(scene.write()) == ["Ack"]
    assert [fact.span for fact in scene.facts().values] == [Span(0, 1)]


def test_what_must_not_run_twice_is_leased_when_it_is_written(tmp_path: Path) -> None:
    scene = Scene(tmp_path, 2, ONCE)
    scene.tick()
    scene.write()
    scene.tell(ev.WorkersSubmitted(0, ("7.1",)))
    assert kinds(scene.hello()) == ["Welcome"]
    assert kinds(scene.write()) == ["Work"]
    assert scene.facts().leases == [LeaseFact("7.1", "i", Span(0, 1), 0)]


def test_what_may_run_twice_is_leased_at_once(tmp_path: Path) -> None:
    scene = Scene(tmp_path, 2)
    scene.tick()
    scene.write()
    scene.tell(ev.WorkersSubmitted(0, ("7.1",)))
    assert kinds(scene.hello()) == ["Welcome", "Work"]
    assert scene.write() == []
    assert scene.facts().leases == [LeaseFact("7.1", "i", Span(0, 1), 0)]


def test_all_else_is_done_at_once(tmp_path: Path) -> None:
    scene = Scene(tmp_path, 1)
    scene.start()
    assert kinds(scene.said(m.Heartbeat(1, [], []))) == ["Pulse"]
    assert kinds(scene.tick(2)) == ["poll"]
    assert kinds(scene.tell(ev.CancelRequested())) == ["Cancel", "Drain"]
    delivered = scene.sink.take(0)
    assert [x.span for x in delivered] == [Span(0, 1)]  # type: ignore[union-attr]


def test_what_waits_is_done_in_its_order_and_once(tmp_path: Path) -> None:
    scene = Scene(tmp_path, 3, ONCE)
    scene.start()
    assert kinds(scene.write()) == ["Work"]
    scene.result(0)
    assert kinds(scene.write()) == ["Ack", "Work"]
    again: list[Any] = []
    scene.recorder.flush(again.append)
    assert scene.recorder.close(DEADLINE_S) and again == []


def test_a_lease_that_is_void_by_the_time_it_is_written_is_not_given(tmp_path: Path) -> None:
    scene = Scene(tmp_path, 1, ONCE)
    scene.start()  # the lease waits
    scene.tell(ev.WorkersPolled({"7.1": ev.NativeStatus(ev.NativeState.FAILED)}))
    assert "Work" not in kinds(scene.write())


def test_workers_are_not_asked_for_when_the_run_has_ended_meanwhile(tmp_path: Path) -> None:
    scene = Scene(tmp_path, 1)
    scene.tick()
    scene.tell(ev.CancelRequested())
    assert scene.write() == []


# --- what the ledger knows ------------------------------------------------------------------------


def test_the_ledger_has_the_jobs_and_what_they_need(tmp_path: Path) -> None:
    facts = Scene(tmp_path, 3).facts()
    (part,) = facts.parts
    assert (part.span, part.spec) == (Span(0, 3), TWICE)
    calls = data.plain_calls(part.frames, 0, 3)
    assert calls is not None and calls.positional() == [(0,), (1,), (2,)]
    assert facts.blobs == {"f": [b"function"], "c": [b"context"]}
    assert facts.input_ended and not facts.ended


def test_jobs_are_numbered_on_after_those_that_it_has(tmp_path: Path) -> None:
    Scene(tmp_path, 3).facts()
    ledger = Book(tmp_path)
    (packet,) = data.pack_arguments([3, 4])
    recorder = Recorder(ledger, {}, words, known=3)
    recorder.added(TWICE, packet, {})
    recorder.added(TWICE, packet, {})
    assert recorder.close(DEADLINE_S)
    spans = [part.span for part in reading.read(tmp_path).parts]
    assert spans == [Span(0, 3), Span(3, 2), Span(5, 2)]


def test_the_ledger_has_the_workers(tmp_path: Path) -> None:
    scene = Scene(tmp_path, 2)
    scene.start()
    facts = scene.facts()
    assert facts.workers == [WorkerFact("7.1", 0, 0)]
    assert facts.open_requests == [] and facts.next_request == 1


def test_the_ledger_knows_of_which_pool_a_worker_is(tmp_path: Path) -> None:
    recorder = Recorder(Book(tmp_path, HEADER), {}, words)
    assert recorder.holds(do.SubmitWorkers(4, 1, 2))
    recorder.heard(ev.WorkersSubmitted(4, ("7.1", "7.2")))
    assert recorder.close(DEADLINE_S)
    workers = reading.read(tmp_path).workers
    assert workers == [WorkerFact("7.1", 1, 4), WorkerFact("7.2", 1, 4)]


def test_a_submission_that_was_refused_is_answered(tmp_path: Path) -> None:
    scene = Scene(tmp_path, 1)
    scene.tick()
    scene.write()
    scene.tell(ev.SubmissionFailed(0, "no", transient=True))
    facts = scene.facts()
    assert facts.open_requests == [] and facts.workers == []


def test_the_ledger_has_values_failures_ends_and_charges(tmp_path: Path) -> None:
    scene = Scene(tmp_path, 5, stop_on_failure=False)
    scene.start()
    scene.result(0, payload=b"value of 0")
    scene.result(1, Outcome.EXCEPTION, b"exception")
    scene.result(2, Outcome.DIED, b"death")
    scene.tell(ev.CancelRequested((Span(4, 1),), "enough"))

    facts = scene.facts()

    (values,) = facts.values
    assert values[:5] == (Span(0, 1), 0, 1, "7.1", "node7")
    assert values.frames == [b"value of 0"] and abs(time.time() - values.ended_s) < DEADLINE_S
    (failure,) = facts.failures
    assert (failure.job, failure.cause, failure.outcome) == (1, Cause.EXCEPTION, Outcome.EXCEPTION)
    assert (failure.attempts, failure.worker, failure.frames) == (1, "7.1", [b"exception"])
    assert (failure.error, failure.details) == ("job 1 failed", "why")
    assert facts.charged == {2: ev.KnownCharge(2, 1, 0)}
    (end,) = facts.ends
    assert (end.span, end.state, end.text) == (Span(4, 1), JobState.CANCELED, "enough")
    assert [x.span.first for x in facts.leases] == [0, 1, 2, 3]
    assert not facts.ended


def test_a_job_that_was_lost_with_its_worker_failed_without_an_outcome(tmp_path: Path) -> None:
    scene = Scene(tmp_path, 1, ONCE)
    scene.start()
    scene.write()
    scene.tell(ev.WorkersPolled({"7.1": ev.NativeStatus(ev.NativeState.FAILED, "gone")}))
    facts = scene.facts()
    (failure,) = facts.failures
    assert (failure.outcome, failure.cause, failure.text) == (-1, Cause.DIED, "gone")
    assert facts.ended


def test_the_ledger_knows_that_the_run_has_ended(tmp_path: Path) -> None:
    scene = Scene(tmp_path, 1)
    scene.start()
    scene.result(0)
    assert scene.dispatcher.ended and scene.facts().ended


# --- a disk that is full --------------------------------------------------------------------------


@contextmanager
def full_disk() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 10, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


@pytest.mark.parametrize("spec", [TWICE, ONCE])
def test_without_a_ledger_nothing_waits_for_ever_and_it_is_said_once(
    tmp_path: Path, spec: JobSpec
) -> None:
    scene = Scene(tmp_path, 3, spec)
    scene.start()
    scene.write()
    with full_disk():
        for job in range(3):
            scene.result(job, payload=b"x" * 2000)
            assert "Ack" in kinds(scene.write())
        assert scene.dispatcher.ended
        assert scene.recorder.close(DEADLINE_S)
    assert len(scene.broken) == 1 and str(tmp_path) in scene.broken[0]
    assert kinds(scene.there.calls).count("Work") == 3
    facts = reading.read(tmp_path)
    assert facts.values == [] and not facts.ended and len(facts.leases) == 1


def test_samples_of_a_run_that_lasts_become_rare(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    clock = types.SimpleNamespace(monotonic=lambda: now, time=lambda: now)
    monkeypatch.setattr(recorder, "time", clock)
    one = Recorder(Book(tmp_path, HEADER), {}, words)
    opened.append(one.book)
    for beat in range(8640):  # a day
        now = 10.0 * beat
        for worker in ("1.1", "1.2"):
            one.heard(ev.Tick())
            for job in (3, 4):  # of one worker, at once
                one.holds(do.Sampled(job, worker, beat, 0.5, True))
    one.flush(lambda held: None)
    count, each = one.book.ask(
        lambda connection: connection.execute(
            "SELECT count(*), count(DISTINCT job || worker) FROM samples"
        ).fetchone()
    )
    assert each == 4 and 4 * 1500 < count < 4 * 2100
    early = one.book.ask(
        lambda connection: connection.execute(
            "SELECT count(*) FROM samples WHERE at_s < 5000 AND job = 3 AND worker = '1.1'"
        ).fetchone()
    )
    assert early == (500,)  # all of them
