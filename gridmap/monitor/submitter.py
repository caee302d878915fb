"""The thread in which a run's calls to the scheduler block."""

from __future__ import annotations

import logging
import os
import queue
import shlex
import threading
import time
from collections.abc import Callable, Collection

from gridmap.backends.base import Backend, SubmitRequest
from gridmap.core.events import (
    DispatcherEvent,
    PollFailed,
    SubmissionFailed,
    WorkerDiagnosed,
    WorkersPolled,
    WorkersSubmitted,
)
from gridmap.errors import BackendError
from gridmap.monitor.sink import get

log = logging.getLogger(__name__)

CANCEL_DEADLINE_S = 30.0
CANCEL_INTERVAL_S = 0.5

OPEN_DEADLINE_S = 60.0
OPEN_INTERVAL_S = 1.0

Post = Callable[[DispatcherEvent], None]


class Opening:
    """A backend that is being connected, in a thread of its own, so that whoever waits for it can
    be interrupted, and can do something else before; one that comes too late is closed.
    """

    def __init__(self, opener: Callable[[], Backend]) -> None:
        self._opener = opener
        self._opened: queue.SimpleQueue[Backend | BaseException] = queue.SimpleQueue()
        self._decision = threading.Semaphore()  # for whoever is first: it is in time, or too late
        threading.Thread(target=self._main, name="gridmap-opener", daemon=True).start()

    def _main(self) -> None:
        try:
            backend = self._opener()
        except BaseException as error:
            self._opened.put(error)
            return
        if self._decision.acquire(blocking=False):
            self._opened.put(backend)
        else:
            backend.close()

    def wait(self, deadline_s: float = OPEN_DEADLINE_S) -> Backend:
        """Returns the backend.

        :raises BackendError: the scheduler did not answer in time, or it refuses
        """
        try:
            answer = get(self._opened, deadline_s)
        except BaseException as error:
            self.abandon()
            if isinstance(error, queue.Empty):
                text = f"the scheduler did not answer within {deadline_s:.0f} s"
                raise BackendError(text, transient=True) from None
            raise
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def again(self) -> Opening:
        """Returns another try."""
        return Opening(self._opener)

    def abandon(self) -> None:
        """Nobody is going to wait for it."""
        if not self._decision.acquire(blocking=False):  # it came at this very moment
            late = self._opened.get()
            if not isinstance(late, BaseException):
                late.close()


def open_patiently(opening: Opening, patience_s: float) -> Backend:
    """Returns the backend that is being connected; has it tried again, for so long, where the
    scheduler cannot be reached.

    :raises BackendError: it could not be reached in all that time, or it refuses
    """
    until = time.monotonic() + patience_s
    said = False
    while True:
        try:
            return opening.wait()
        except BackendError as error:
            if not error.transient or time.monotonic() >= until:
                raise
            if not said:
                said = True
                log.warning("%s; it is asked again, for %.0f s", error, patience_s)
        time.sleep(OPEN_INTERVAL_S)
        opening = opening.again()


def _no_descriptors() -> bool:
    """Returns whether this process can open nothing: then no refusal is the scheduler's own."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError:
        return True
    return False


class Submitter:
    """Makes one backend's calls, one after the other; answers come as events.

    :param backend: closed by this thread at the end
    :param post: takes each answer, in this thread
    """

    def __init__(self, run: str, backend: Backend, post: Post) -> None:
        self._backend = backend
        self._post = post
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._asked: dict[str, None] = {}  # to be polled next, in the order of asking
        self._closing = False
        self._started: dict[str, SubmitRequest] = {}
        self._canceled: set[str] = set()
        self._thread = threading.Thread(
            target=self._main, name=f"gridmap-submitter-{run}", daemon=True
        )
        self._thread.start()

    def submit(self, request: int, wanted: SubmitRequest) -> None:
        """Starts workers; answered by WorkersSubmitted or SubmissionFailed."""

        def call() -> None:
            if self._closing:
                return
            try:
                ids = tuple(self._backend.submit(wanted))
            except BackendError as error:
                transient = error.transient or _no_descriptors()
                self._post(SubmissionFailed(request, str(error), transient))
            except Exception as error:
                log.exception("the backend failed")
                self._post(SubmissionFailed(request, f"{type(error).__name__}: {error}", False))
            else:
                self._started.update(dict.fromkeys(ids, wanted))
                self._post(WorkersSubmitted(request, ids))

        self._calls.put(call)

    def poll(self, workers: tuple[str, ...]) -> None:
        """Asks how workers are, all that wait for an answer in one call.

        Answered by WorkersPolled or PollFailed; not at all while the scheduler blocks.
        """
        with self._lock:
            waiting = bool(self._asked)
            self._asked.update(dict.fromkeys(workers))
        if workers and not waiting:
            self._calls.put(self._poll)

    def _poll(self) -> None:
        with self._lock:
            workers, self._asked = tuple(self._asked), {}
        try:
            status = dict(self._backend.status(workers))
        except BackendError as error:
            self._post(PollFailed(str(error), error.transient))
        except Exception as error:
            log.debug("the backend failed", exc_info=True)
            self._post(PollFailed(f"{type(error).__name__}: {error}", False))
        else:
            self._post(WorkersPolled(status))

    def diagnose(self, worker: str) -> None:
        """Finds out about a worker; answered by WorkerDiagnosed."""

        def call() -> None:
            try:
                text = self._backend.diagnose(worker)
            except Exception as error:
                text = f"no diagnosis of worker {worker}: {error}"
            if worker in self._started:
                text += f"\nits command: {shlex.join(self._started[worker].command)}"
            self._post(WorkerDiagnosed(worker, text))

        self._calls.put(call)

    def cancel(self, workers: tuple[str, ...]) -> None:
        """Deletes workers, trying again while the scheduler does not answer."""
        if workers:
            self._calls.put(lambda: self._cancel(workers))

    def _cancel(self, workers: tuple[str, ...]) -> None:
        self._canceled.update(workers)
        deadline = time.monotonic() + CANCEL_DEADLINE_S
        while True:
            try:
                self._backend.cancel(workers)
                return
            except Exception as error:
                transient = isinstance(error, BackendError) and error.transient
                if not transient or time.monotonic() > deadline:
                    log.warning("could not delete workers %s: %s", ", ".join(workers[:5]), error)
                    return
            time.sleep(CANCEL_INTERVAL_S)

    def close(self, deadline_s: float, known: Collection[str] = ()) -> bool:
        """Lets what has been asked for be done, and ends; returns whether that was in time.

        No worker is started any more, and those of an answer that nobody heard are deleted.

        :param known: the workers whose start has been heard of
        """
        self._closing = True
        self._calls.put(lambda: self._cancel_strays(frozenset(known)))
        self._calls.put(None)
        self._thread.join(deadline_s)
        return not self._thread.is_alive()

    def _cancel_strays(self, known: frozenset[str]) -> None:
        strays = tuple(self._started.keys() - known - self._canceled)
        if strays:
            self._cancel(strays)

    def _main(self) -> None:
        while (call := self._calls.get()) is not None:
            call()
        try:
            self._backend.close()
        except Exception:
            log.exception("could not close the backend")
