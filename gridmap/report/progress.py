"""Tells of a run while it lasts: begin and end in the log, and how far it is to whoever waits."""

from __future__ import annotations

import atexit
import contextlib
import logging
import math
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from gridmap.forks import Work
from gridmap.report import display

if TYPE_CHECKING:
    from gridmap.monitor.tally import Note
    from gridmap.run_status import RunStatus

log = logging.getLogger(__name__)

LONG_RUN_S = 2.0
"""A run that ends sooner is not shown."""

CALL_EVERY_S = 1.0
"""How often a function of the user's is called."""

ANSWER_S = 1.0
"""Whoever does not answer for so long may be gone."""

UNATTENDED_S = 1.0
"""So long after somebody last waited for a run it is still shown."""

END_S = 0.25
CALL_END_S = 5.0
"""So long the end of a run waits for what shows it, and for a function of the user's."""

Shown = bool | Callable[[Any], object] | None
"""What `progress` may be: yes, no, a function that takes a RunStatus, or whatever fits (None)."""

Seen = tuple["RunStatus", "Sequence[Note]"]


class Source(Protocol):
    """A run that is asked how it is."""

    id: str

    def look(self, take: Callable[[RunStatus, Sequence[Note]], None]) -> None:
        """Has `take` called, now or soon, in any thread; never, if the run is about to end."""

    def remind(self, after_s: float, call: Callable[[], None]) -> None:
        """Has something called so long after the start, if the run lasts so long."""


class Progress:
    """Tells of one run.

    :param backend: what runs the jobs
    :param quiet: log nothing
    :param children: jobs that each worker runs at once
    :param shown: True and None show the run, None where somebody can see it; False does not; a
        function is called with its status
    """

    def __init__(
        self, backend: str, quiet: bool = True, children: int = 1, shown: Shown = False
    ) -> None:
        self._backend = f"{backend}, {children} jobs a worker" if children > 1 else backend
        self._local = backend == "local"
        self._quiet = quiet
        self._run = ""
        self._begun_s = 0.0
        self.jobs: int | None = None
        """How many there are, where that is known."""
        self.running = False
        """The end is still to be told in the log."""
        self._shown = shown
        self._source: Source | None = None
        self._followed_s = 0.0
        self._thread: threading.Thread | None = None
        self._inbox: queue.SimpleQueue[Seen | None] = queue.SimpleQueue()
        self._stopped = False
        self._lock = threading.RLock()  # an interrupted thread may come again
        self._pid = os.getpid()
        self._waiting = 0
        self._left_s = 0.0

    # --- in the log -------------------------------------------------------------------------------

    def begin(self, run: str) -> None:
        """Logs the begin; once, later calls do nothing."""
        if self._quiet or self._run:
            return
        self._run, self._begun_s, self.running = run, time.monotonic(), True
        number = "jobs as they are read" if self.jobs is None else f"{self.jobs} jobs"
        log.info("run %s begins: %s, backend %s", run, number, self._backend)

    def end(self, completed: int, failed: int, canceled: int = 0) -> None:
        """Logs the end of a run that has begun; once, later calls do nothing."""
        if not self.running:
            return
        self.running = False
        duration_s = time.monotonic() - self._begun_s
        log.info(
            "run %s ended after %.1f s: %d jobs completed, %d failed, %d canceled",
            self._run,
            duration_s,
            completed,
            failed,
            canceled,
        )

    # --- while it lasts ---------------------------------------------------------------------------

    @property
    def calls(self) -> bool:
        """True where a function of the user's is called."""
        return callable(self._shown)

    def follow(self, source: Source) -> None:
        """Shows a run that is about to start, once it has lasted for a while."""
        if self._shown is False:
            return
        self._source, self._followed_s = source, time.monotonic()
        source.remind(0.0 if self.calls else LONG_RUN_S, self._start)

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Somebody waits for the run, and so would like to see it."""
        with self._lock:
            self._waiting += 1
        try:
            yield
        finally:
            self._left_s = time.monotonic()
            with self._lock:
                self._waiting -= 1

    def stop(self, begun: bool = True) -> None:
        """Ends what shows the run, in a moment; later calls do nothing.

        :param begun: there was a run
        """
        if self._source is None or os.getpid() != self._pid:  # in a fork the thread is not there
            return
        with self._lock:
            if self._stopped:
                return
            if self.calls and begun:
                self._start()  # no run is too short for it
            self._stopped = True
            thread = self._thread
        self._inbox.put(None)
        if thread is not None and thread is not threading.current_thread():
            thread.join(CALL_END_S if self.calls else END_S)
        self._source = None

    def _start(self) -> None:
        """Starts the thread, where there is something to do for it; any thread may call this."""
        try:
            kind = "" if self.calls else display.kind_of_view(self._shown is True)
            if not (self.calls or kind):
                return
            with self._lock:
                if self._stopped or self._thread is not None or self._source is None:
                    return
                thread = threading.Thread(
                    target=self._main,
                    args=(kind, self._source),
                    name=f"gridmap-progress-{self._source.id}",
                    daemon=True,
                )
                thread.start()
                self._thread = thread
        except Exception as error:  # there can be no more threads, for instance
            log.debug("a run is not shown: %s", error)

    # --- the thread -------------------------------------------------------------------------------

    def _main(self, kind: str, source: Source) -> None:
        work = Work()
        with work, contextlib.ExitStack() as at_end:
            atexit.register(self.stop)
            at_end.callback(atexit.unregister, self.stop)
            try:
                if callable(self._shown):
                    view: display.View = _Caller(self._shown, source.id)
                else:
                    view = display.open_view(kind, source.id, self._local, self.jobs)
                    at_end.enter_context(display.instead_of_log(source.id))
                self._show(view, source, work)
            except Exception:
                log.warning("run %s cannot be shown any more", source.id, exc_info=True)

    def _show(self, view: display.View, source: Source, work: Work) -> None:
        """Asks and shows, in turn, until the run has ended or `stop` is called."""
        latest: Seen | None = None
        asked_s, due_s, over = -math.inf, 0.0, False
        while not over:
            now = time.monotonic()
            attended = self.calls or self._waiting or now < self._left_s + UNATTENDED_S
            if not attended:
                view.hide()
            if now >= due_s:
                due_s = now + (view.every_s if attended else UNATTENDED_S)
                if now >= asked_s + ANSWER_S:
                    asked_s = now
                    source.look(lambda *seen: self._inbox.put(seen))
            with work.rest():
                over, seen = self._next(due_s - now)
            if seen is not None:
                asked_s, latest = -math.inf, seen
                over = over or seen[0].ended
                if attended and not over:
                    view.show(*seen, time.monotonic() - self._followed_s)
        with work.rest():
            latest = self._last(source) or latest
        if latest is not None:
            view.end(*latest, time.monotonic() - self._followed_s)

    def _next(self, timeout_s: float) -> tuple[bool, Seen | None]:
        """Waits for an answer; returns whether it is time to stop, and the answer."""
        try:
            seen = self._inbox.get(timeout=max(0.0, timeout_s))
        except queue.Empty:
            return False, None
        return seen is None, seen

    def _last(self, source: Source) -> Seen | None:
        """Returns how the run ended, if that can be known at once."""
        answers: queue.SimpleQueue[Seen] = queue.SimpleQueue()
        source.look(lambda *seen: answers.put(seen))
        with contextlib.suppress(queue.Empty):
            return answers.get(timeout=ANSWER_S if self.calls else END_S / 2)
        return None


class _Caller:
    """Calls a function of the user's, and once more when the run has ended."""

    every_s = CALL_EVERY_S

    def __init__(self, function: Callable[[Any], object], run: str) -> None:
        self._function = function
        self._run = run
        self._told = False

    def show(self, status: RunStatus, notes: Sequence[Note], now: float) -> None:
        try:
            self._function(status)
        except BaseException as error:  # in this thread none of them means more than that
            if not self._told:
                self._told = True
                log.warning(
                    "run %s: the function given as progress failed: %s: %s", self._run,
                    type(error).__name__, error, exc_info=True,
                )  # fmt: skip

    def hide(self) -> None:
        """There is nothing to hide."""

    def end(self, status: RunStatus, notes: Sequence[Note], elapsed_s: float) -> None:
        self.show(status, notes, elapsed_s)
