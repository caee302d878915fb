"""The thread in which calls to the scheduler block."""

from __future__ import annotations

import resource
import signal
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from gridmap.backends.base import SubmitRequest
from gridmap.core.events import (
    DispatcherEvent,
    NativeState,
    NativeStatus,
    PollFailed,
    SubmissionFailed,
    WorkerDiagnosed,
    WorkersPolled,
    WorkersSubmitted,
)
from gridmap.core.spec import Resources
from gridmap.errors import BackendError
from gridmap.monitor.submitter import Opening, Submitter, open_patiently

REQUEST = SubmitRequest("tag", "name", ("/bin/python", "a b"), 2, Resources(), "/logs", "/")
DEADLINE_S = 5.0


class SlowBackend:
    """Starts workers only when it is told to go on."""

    name = "slow"

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.go_on = threading.Event()
        self.submitted: list[str] = []
        self.canceled: list[str] = []
        self.closed = False
        self.refuses = 0
        self.polls: list[tuple[str, ...]] = []
        self.silent: list[Exception] = []

    def submit(self, request: SubmitRequest) -> list[str]:
        self.asked.set()
        assert self.go_on.wait(DEADLINE_S)
        ids = [f"{len(self.submitted) + n}" for n in range(request.count)]
        self.submitted += ids
        return ids

    def status(self, ids: Sequence[str]) -> dict[str, NativeStatus]:
        self.polls.append(tuple(ids))
        if self.silent:
            raise self.silent.pop(0)
        return {worker: NativeStatus(NativeState.RUNNING) for worker in ids}

    def cancel(self, ids: Sequence[str]) -> None:
        if self.refuses:
            self.refuses -= 1
            raise BackendError("busy", transient=True)
        self.canceled += ids

    def find(self, run_tag: str) -> list[str]:
        return []

    def diagnose(self, native_id: str) -> str:
        return "nothing"

    def close(self) -> None:
        self.closed = True


def started(backend: SlowBackend) -> tuple[Submitter, list[DispatcherEvent]]:
    events: list[DispatcherEvent] = []
    return Submitter("run", backend, events.append), events  # type: ignore[arg-type]


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_workers_that_start_while_the_run_ends_are_deleted() -> None:
    backend = SlowBackend()
    submitter, _ = started(backend)
    submitter.submit(1, REQUEST)
    submitter.submit(2, REQUEST)
    assert backend.asked.wait(DEADLINE_S)
    # the first call is under way, the second has not been made
    closing = threading.Thread(target=submitter.close, args=(DEADLINE_S,))
    closing.start()
    wait_for(lambda: submitter._closing)
    backend.go_on.set()
    closing.join(DEADLINE_S)
    assert backend.submitted == ["0", "1"]
    assert sorted(backend.canceled) == ["0", "1"]
    assert backend.closed


def test_workers_that_are_known_or_canceled_are_left_alone() -> None:
    backend = SlowBackend()
    backend.go_on.set()
    backend.refuses = 1
    submitter, events = started(backend)
    submitter.submit(1, REQUEST)
    submitter.submit(2, REQUEST)
    submitter.cancel(("1",))
    wait_for(lambda: bool(backend.canceled))
    assert events == [WorkersSubmitted(1, ("0", "1")), WorkersSubmitted(2, ("2", "3"))]
    assert submitter.close(DEADLINE_S, known=["0", "2"])
    assert backend.canceled == ["1", "3"]


def test_a_diagnosis_names_the_command() -> None:
    backend = SlowBackend()
    backend.go_on.set()
    submitter, events = started(backend)
    submitter.submit(1, REQUEST)
    submitter.diagnose("0")
    wait_for(lambda: len(events) == 2)
    assert events[1] == WorkerDiagnosed("0", "nothing\nits command: /bin/python 'a b'")
    assert submitter.close(DEADLINE_S, known=["0", "1"])
    assert backend.canceled == []


def test_a_scheduler_that_does_not_answer_is_not_waited_for_for_ever() -> None:
    backend, go_on, closed = SlowBackend(), threading.Event(), threading.Event()
    backend.close = closed.set  # type: ignore[method-assign]

    def opener() -> SlowBackend:
        assert go_on.wait(DEADLINE_S)
        return backend

    with pytest.raises(BackendError, match="did not answer within 0 s") as raised:
        Opening(opener).wait(0.05)  # type: ignore[arg-type]

    assert raised.value.transient
    go_on.set()
    assert closed.wait(DEADLINE_S)  # it came after all, and nobody wants it


def test_whoever_waits_for_the_scheduler_can_be_interrupted() -> None:
    entered, go_on = threading.Event(), threading.Event()

    def opener() -> SlowBackend:
        entered.set()
        go_on.wait(DEADLINE_S)
        return SlowBackend()

    def interrupt() -> None:
        assert entered.wait(DEADLINE_S)
        signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    helper = threading.Thread(target=interrupt)
    helper.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            Opening(opener).wait(DEADLINE_S)  # type: ignore[arg-type]
    finally:
        signal.signal(signal.SIGINT, before)
        helper.join()
        go_on.set()


def test_what_connecting_raises_is_raised() -> None:
    def opener() -> SlowBackend:
        raise BackendError("no such cell")

    with pytest.raises(BackendError, match="no such cell"):
        Opening(opener).wait()  # type: ignore[arg-type]


def test_a_poll_that_fails_is_told_in_the_scheduler_s_words() -> None:
    backend = SlowBackend()
    backend.silent = [BackendError("qmaster is down", transient=True), ValueError("no such field")]
    submitter, events = started(backend)
    for count in (1, 2, 3):
        submitter.poll(("0",))
        wait_for(lambda n=count: len(events) == n)
    assert events == [
        PollFailed("qmaster is down", True),
        PollFailed("ValueError: no such field", False),
        WorkersPolled({"0": NativeStatus(NativeState.RUNNING)}),
    ]
    assert submitter.close(DEADLINE_S)


def test_polls_that_wait_for_the_scheduler_become_one() -> None:
    backend = SlowBackend()
    submitter, events = started(backend)
    submitter.submit(1, REQUEST)
    assert backend.asked.wait(DEADLINE_S)
    submitter.poll(("0", "1"))
    submitter.poll(("1", "2"))  # of another pool
    backend.go_on.set()
    wait_for(lambda: len(events) == 2)
    submitter.poll(("0",))
    wait_for(lambda: len(events) == 3)
    assert backend.polls == [("0", "1", "2"), ("0",)]
    assert submitter.close(DEADLINE_S, known=["0", "1"])


def test_a_refusal_without_descriptors_is_not_the_schedulers_last_word() -> None:
    class Refuses(SlowBackend):
        def submit(self, request: SubmitRequest) -> list[str]:
            self.asked.set()
            raise BackendError('invalid user name "me"')  # it could not read who that is

    for few, transient in ((True, True), (False, False)):
        backend = Refuses()
        submitter, events = started(backend)
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        if few:
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
        try:
            submitter.submit(0, REQUEST)
            assert backend.asked.wait(DEADLINE_S) and submitter.close(DEADLINE_S)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        (failed,) = events
        assert isinstance(failed, SubmissionFailed) and failed.transient is transient


def test_a_scheduler_that_cannot_be_reached_is_asked_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("gridmap.monitor.submitter.OPEN_INTERVAL_S", 0.01)
    answers: list[Any] = [BackendError("no qmaster", True), BackendError("no qmaster", True), 7]

    def opener() -> Any:
        if isinstance(answers[0], BackendError):
            raise answers.pop(0)
        return answers[0]

    assert open_patiently(Opening(opener), DEADLINE_S) == 7
    assert caplog.text.count("it is asked again") == 1
    answers[:] = [BackendError("no qmaster", True)] * 1000
    with pytest.raises(BackendError, match="no qmaster"):
        open_patiently(Opening(opener), 0.05)
    answers[:] = [BackendError("not you", False), 7]
    with pytest.raises(BackendError, match="not you"):
        open_patiently(Opening(opener), DEADLINE_S)
