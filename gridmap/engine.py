"""What drives a run: pickles a plan, starts workers, reads what comes back."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from gridmap import interrupts
from gridmap.core.dispatcher import Dispatcher
from gridmap.core.policy import Limits
from gridmap.core.spec import Resources
from gridmap.core.states import JobState
from gridmap.errors import GridMapError
from gridmap.failures import words_of_failure
from gridmap.launch import (
    LOCAL,
    launch_local,
    launch_on_cluster,
    open_book,
    open_window,
)
from gridmap.monitor.loop import Monitor
from gridmap.monitor.sink import Delivery, Failure, Sink
from gridmap.monitor.tally import Note
from gridmap.monitor.transport import Transport
from gridmap.monitor.watcher import Watcher
from gridmap.options import KEPT_OPTIONS, Options, policy_of
from gridmap.outcomes import Batch, batch_of
from gridmap.plan import Part, Plan, new_run_id, parts
from gridmap.remains import clear_up, sweep
from gridmap.run_status import RunStatus, status_of

if TYPE_CHECKING:
    from gridmap.ledger.book import Book
    from gridmap.ledger.directory import RunDirectory
    from gridmap.resume import Resumption

log = logging.getLogger(__name__)

CLOSE_DEADLINE_S = 15.0


class MonitorFailed(GridMapError):
    """The loop that runs everything has a fault."""


class Engine:
    """Starts a plan and turns what comes back into values and exceptions.

    It belongs to one thread at a time; `cancel` may be called from any.

    :param max_items: most jobs whose arguments travel in one packet, or what says so each time
    :param earlier: the run began in another process; there is nothing new to be pickled
    :raises PicklingError: something cannot be pickled
    :raises BackendError: the scheduler does not answer; nothing was started
    """

    def __init__(
        self,
        plan: Plan,
        options: Options,
        watcher: Watcher,
        max_items: int | Callable[[], int] = 4096,
        earlier: Resumption | None = None,
    ) -> None:
        self.id = new_run_id() if earlier is None else earlier.run
        self.options = options
        self.watcher = watcher
        self.sink = Sink(watcher.wants_samples)
        self.total = 0 if earlier is None else earlier.total
        self.fed_bytes = 0
        self._source: Iterator[Part] = parts(plan, options.backend == LOCAL, max_items)
        self._earlier = earlier
        self._monitor: Monitor | None = None
        self._plan = plan
        self._pending: list[Part] = []
        self._exhausted = earlier is not None
        self._read_out: list[RunDirectory] = []  # to be removed when all values have been read
        self._old = 0  # deliveries to come that an earlier client may have had
        self.expected: int | None = None
        """How many jobs there will be, where the input says so before it has been read."""
        self._reminder: tuple[float, Callable[[], None]] | None = None
        self._queues: list[str] = []
        self._pid = os.getpid()
        self.keeps = False
        """Nothing is removed, though all values have been read."""
        watcher.begins(self.id, options.durable)

    # --- starting ---------------------------------------------------------------------------------

    def start(self) -> None:
        """Starts workers and the monitor, once; whatever has been pickled goes to it."""
        if self._monitor is not None:
            return
        if self._earlier is not None:
            for item in self._earlier.deliveries:
                self.sink.put(item)
            self._old = len(self._earlier.deliveries)
            if self._earlier.over:
                self._earlier.book.close()
                self.sink.end()
                return
        options, directory, book, recorder = self.options, None, None, None
        with contextlib.ExitStack() as undo:
            if self._earlier is not None:
                directory = self._earlier.directory
            elif options.backend != LOCAL or options.durable:
                from gridmap.ledger.directory import RunDirectory

                where = options.settings.run_dir
                sweep(Path(where), options.settings.keep_days)
                directory = RunDirectory.make(where, self.id, options.log_dir)
                undo.callback(directory.discard)
            if options.durable and directory is not None:
                book = self._open_book(directory)
                undo.callback(book.close)
            limits, transport = self._make_transport(directory)
            undo.callback(transport.close, CLOSE_DEADLINE_S)
            dispatcher = Dispatcher(policy_of(options), limits, self.id)
            if book is not None:
                from gridmap.monitor.recorder import Recorder

                known = self.total if self._earlier is not None else 0
                recorder = Recorder(book, dispatcher.workers, self._describe, known)
            monitor = Monitor(self.id, dispatcher, transport, self.sink, recorder)
            undo.callback(monitor.release)
            monitor.tally.expected = self.expected
            window = None
            if book is not None and directory is not None:
                backend = options.backend
                window = open_window(self.id, options.settings, backend, directory, monitor, book)
            undo.pop_all()
        self._monitor = monitor
        read_out = self._read_out

        def at_end() -> None:
            if window is not None:
                window.close()
            try:
                if directory is not None:
                    clear_up(directory, dispatcher, options, read_out)
            finally:
                interrupts.unregister(monitor)

        monitor.at_end = at_end
        if self._reminder is not None:
            after_s, monitor.reminder = self._reminder
            monitor.remind_at = time.monotonic() + after_s
        interrupts.register(monitor)
        try:
            monitor.start()
        except BaseException:  # no more threads, or interrupted
            if not monitor.started:
                self._monitor = None
                monitor.abandon()
            raise
        if self._earlier is not None:
            monitor.resume(self._earlier.parts, self._earlier.event)
        self._hand_over()
        if self._exhausted:
            monitor.end_input()

    def feed(
        self,
        most_jobs: float = math.inf,
        most_bytes: float = math.inf,
        most_s: float = math.inf,
    ) -> int:
        """Pickles more of the plan and hands it over; returns how many jobs that were.

        :param most_jobs: stops when it has been so many
        :param most_bytes: stops when it has been so much
        :param most_s: stops after so long
        """
        fed, size = 0, 0
        until = time.monotonic() + most_s
        while not self._exhausted and fed < most_jobs and size < most_bytes:
            part = next(self._source, None)
            if part is None:
                self.end_input()
                break
            fed += part.packet.count
            size += part.nbytes
            self.fed_bytes += part.nbytes
            self.total += part.packet.count
            self._pending.append(part)
            self._hand_over()  # now: the next one may take long to come
            if time.monotonic() >= until:
                break
        return fed

    def _hand_over(self) -> None:
        if self._monitor is not None and self._pending:
            parts, self._pending = self._pending, []
            self._monitor.add(parts)

    def end_input(self) -> None:
        """Says that no more jobs will come."""
        self._exhausted = True
        if self._monitor is not None:
            self._monitor.end_input()

    @property
    def attached(self) -> bool:
        """True when the run began in another process."""
        return self._earlier is not None

    @property
    def exhausted(self) -> bool:
        """True when every job has been handed over."""
        return self._exhausted

    def _make_transport(self, directory: RunDirectory | None) -> tuple[list[Limits], Transport]:
        options = self.options
        if options.backend == LOCAL:
            children = options.processes
            if self._exhausted:
                children = max(1, min(children, self.total))
            return launch_local(children, options.settings.start_method)
        assert directory is not None
        most, children = options.max_workers, options.children
        asked = self.id, self._plan, options.settings, options.backend, most, children, directory
        self._queues = self._queues_asked_for()
        if self._earlier is None:
            return launch_on_cluster(*asked)
        # there may be workers that need no scheduler, but a monitor, and wait for one so long
        patience_s = options.settings.grace_s
        return launch_on_cluster(*asked, self._earlier.meet, patience_s)

    def _queues_asked_for(self) -> list[str]:
        """Returns the queue that the workers of each pool wait in; "" is any."""
        from gridmap.backends.asked import HISTORIC_QUEUE
        from gridmap.backends.registry import words_for

        words = words_for(self.options.backend)
        # not the name of a queue elsewhere, and not asked for there
        unasked = HISTORIC_QUEUE if words is not None and not words.has_all_q else ""
        queues = [pool.resources.queue for pool in self._plan.pools]
        return ["" if queue == unasked else queue for queue in queues]

    def _open_book(self, directory: RunDirectory) -> Book:
        if self._earlier is not None:
            self._earlier.book.broken = self._broken
            return self._earlier.book
        kept = {name: getattr(self.options, name) for name in KEPT_OPTIONS}
        kept["use_mem_free"] = self.options.settings.use_mem_free
        return open_book(self.id, self._plan, self.options.backend, kept, directory, self._broken)

    def _broken(self, reason: str) -> None:
        """Says so at once, in the ledger's thread: the loop may be over."""
        log.warning(
            "run %s: the ledger cannot be written (%s); what ends from now on is lost if this "
            "program dies", self.id, reason,
        )  # fmt: skip

    # --- what comes back --------------------------------------------------------------------------

    def check_process(self) -> None:
        """Sees to it that nobody waits for a run that goes on in another process.

        :raises GridMapError: this process is a fork of that one
        """
        if os.getpid() != self._pid and not self.sink.ended:
            raise GridMapError(
                f"run {self.id} belongs to process {self._pid}, of which this one is a fork: only "
                "that one can ask how it is or take its values"
            )

    def take(self, timeout_s: float | None = None) -> Iterator[Batch] | None:
        """Returns what has ended since the last call; None when nothing more will.

        :param timeout_s: how long to wait for something; None: until there is something
        """
        self.check_process()
        items = self.sink.take(timeout_s)
        if not items and self.sink.drained:
            if self.sink.error is not None:
                raise MonitorFailed(
                    f"run {self.id}: the monitor failed, the run cannot go on"
                ) from self.sink.error
            self.watcher.over()
            self.tidy()
            return None
        return (batch for item in items if (batch := self._read(item)).values)

    def _read(self, item: Delivery) -> Batch:
        """Unpacks a delivery and tells the watcher."""
        self.watcher.told_before = self._old > 0
        self._old -= self.watcher.told_before
        return batch_of(item, self.watcher, self._asked)

    def _describe(self, failure: Failure) -> tuple[str, str]:
        name = self.watcher.name(failure.job)
        return words_of_failure(failure, name, self._asked(failure.pool))

    def _asked(self, pool: int) -> Resources:
        """Returns what the workers of a pool had been asked for."""
        pools = self._plan.pools
        if self.options.backend == LOCAL or pool >= len(pools):
            return Resources()
        asked = pools[pool].resources
        return asked if self.options.settings.use_mem_free else replace(asked, mem_free="")

    # --- the end ----------------------------------------------------------------------------------

    def status(self) -> RunStatus:
        """Returns the run at a glance."""
        self.check_process()
        if self._monitor is None and self._earlier is not None and self._earlier.over:
            completed, failed = map(self._earlier.count, (JobState.COMPLETED, JobState.FAILED))
            canceled = self.total - completed - failed
            return RunStatus(self.total, completed, failed, canceled, 0, 0, 0, 0, self.sink.ended)
        if self._monitor is None:
            return RunStatus(self.total, 0, 0, 0, 0, self.total, 0, 0, self.sink.ended)
        answer: RunStatus = self._monitor.ask(self._status)
        return answer

    def remind(self, after_s: float, call: Callable[[], None]) -> None:
        """Has something called in the monitor's thread so long after the start, if the run lasts
        so long."""
        self._reminder = after_s, call

    def look(self, take: Callable[[RunStatus, Sequence[Note]], None]) -> None:
        """Has `take` called, in another thread, with the status and the latest notes."""
        monitor = self._monitor
        if monitor is None:
            take(self.status(), ())
        else:
            monitor.answer(
                lambda dispatcher: (self._status(dispatcher), tuple(monitor.tally.notes)),
                lambda answer: take(*answer),
            )

    def _status(self, dispatcher: Dispatcher) -> RunStatus:
        ended = self.sink.ended
        now = self.sink.latest_s if ended else time.monotonic()
        return status_of(dispatcher, self.monitor.tally, now, ended, self._queues)

    def cancel(self, reason: str = "canceled") -> None:
        """Ends every job that has not ended; from any thread, twice does no harm."""
        if self._monitor is not None:
            self._monitor.cancel(reason)

    def close(self, timeout_s: float = CLOSE_DEADLINE_S, forget: bool = True) -> None:
        """Cancels what has not ended, and waits until the run's workers are gone.

        :param forget: nobody wants values that have not been read
        """
        self.watcher.over()
        if self._monitor is None:
            return
        if not self.sink.ended:
            self.cancel("the run was closed")
            self._source = iter(())
        if not self._monitor.join(timeout_s):
            log.warning("run %s did not end within %.0f s", self.id, timeout_s)
        interrupts.restore()
        if forget:
            self.tidy()

    def tidy(self) -> None:
        """Removes what could bring back values that have all been read, or are not wanted."""
        if self._monitor is not None:
            self._monitor.join(CLOSE_DEADLINE_S)  # it is about to end
        if self.keeps:
            return
        if self._monitor is None and self._earlier is not None and self._earlier.complete:
            self._read_out.append(self._earlier.directory)
        while self._read_out:
            self._read_out.pop().remove()

    @property
    def monitor(self) -> Monitor:
        assert self._monitor is not None
        return self._monitor
