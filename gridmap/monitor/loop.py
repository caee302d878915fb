"""The loop of a run: one thread that owns the dispatcher and everything that talks to workers.

user's thread                 this thread                          workers
submit, cancel  --commands-->  dispatcher.handle(event, now)  <--  messages
results         <---sink-----  performer.perform(effects)     -->  messages
                                      |      ^
                                      v      |  events
                                   the scheduler (a thread of the transport)
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import queue
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from gridmap.core.dispatcher import Dispatcher
from gridmap.core.effects import DispatcherEffect
from gridmap.core.events import (
    CancelRequested,
    DispatcherEvent,
    InputEnded,
    JobsAdded,
    MessageReceived,
    RunResumed,
    Tick,
)
from gridmap.core.messages import Blob, NeedBlob
from gridmap.core.spec import JobSpec, Span
from gridmap.data import Frame, Packet
from gridmap.errors import GridMapError
from gridmap.forks import Work
from gridmap.monitor.perform import Performer
from gridmap.monitor.sink import Sink, get
from gridmap.monitor.tally import Tally
from gridmap.monitor.transport import Transport

if TYPE_CHECKING:
    from gridmap.monitor.recorder import Recorder

log = logging.getLogger(__name__)

DISMISSAL_S = 1.0
"""How long workers have to leave by themselves when the run is over."""

CANCEL_DISMISSAL_S = 0.3
"""The same when the run was canceled."""

CLOSE_DEADLINE_S = 10.0
"""How long the end of a run may take, a scheduler that does not answer included."""

LONGEST_SLEEP_S = 60.0


Jobs = tuple[JobSpec, Packet, Mapping[str, list[Frame]]]
"""Consecutive jobs, with the blobs that they need and none before them needed."""


class Earlier(NamedTuple):
    """Jobs that the ledger has.

    :param attempt: number of the next try of any of them
    """

    spec: JobSpec
    packet: Packet
    blobs: Mapping[str, list[Frame]]
    attempt: int


class Monitor:
    """Runs the loop in a thread of its own, from `start` until the run and its workers are over.

    :param run: the run's id
    :param dispatcher: decides
    :param transport: reaches workers
    :param sink: takes what has ended
    :param recorder: keeps the run's ledger; None where there is none
    """

    def __init__(
        self,
        run: str,
        dispatcher: Dispatcher,
        transport: Transport,
        sink: Sink,
        recorder: Recorder | None = None,
    ) -> None:
        self._dispatcher = dispatcher
        self._recorder = recorder
        self._transport = transport
        self._sink = sink
        self.tally = Tally()
        self._performer = Performer(run, dispatcher, transport, sink, self.tally, recorder)
        self._blobs: dict[str, list[Frame]] = {}
        self._commands: deque[Callable[[], None]] = deque()
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        # between closing the pipe and writing to it; a garbage collection there may cancel a run
        self._lock = threading.RLock()
        self._woken = False  # since the loop last looked for commands
        self._closed = False
        self._canceled = False
        self.at_end: Callable[[], None] = lambda: None
        self.reminder: Callable[[], None] = lambda: None
        """Called in the monitor's thread at that time, if the run lasts so long; must be quick."""
        self.remind_at = math.inf
        self._pid = os.getpid()
        # Thread.join marks a thread that still runs as ended when a signal interrupts it (3.11)
        self._over: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._is_over = False
        self._serving = True  # until the loop has turned for the last time
        self._work = Work()
        self._thread = threading.Thread(
            target=self._main, name=f"gridmap-monitor-{run}", daemon=True
        )

    # --- from any thread --------------------------------------------------------------------------

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    @property
    def started(self) -> bool:
        """True once there is a thread."""
        return self._thread.ident is not None

    def abandon(self) -> None:
        """Ends a monitor that never had a thread."""
        self._transport.close(CLOSE_DEADLINE_S)
        if self._recorder is not None:
            self._recorder.close(CLOSE_DEADLINE_S)
        self.release()
        self.at_end()

    def release(self) -> None:
        """Lets go of what wakes the loop, which is over or never began."""
        with self._lock:
            self._closed = True
            os.close(self._wake_read)
            os.close(self._wake_write)

    def add(self, parts: Iterable[Jobs]) -> None:
        """Adds jobs behind all others."""

        def call() -> None:
            for spec, packet, blobs in parts:
                if self._recorder is not None:
                    self._recorder.added(spec, packet, blobs)
                self._add(JobsAdded(packet.count, spec, nbytes=packet.nbytes), packet, blobs)

        self._post(call)

    def resume(self, parts: Sequence[Earlier], event: RunResumed) -> None:
        """Goes on with jobs that the ledger has, and with what it knows of them."""

        def call() -> None:
            now = time.monotonic()  # of all that follows: nothing falls due before it is complete
            for part in parts:
                added = JobsAdded(part.packet.count, part.spec, part.attempt, part.packet.nbytes)
                self._add(added, part.packet, part.blobs, now)
            self._handle(event, now=now)
            for span, _ in event.ended:
                self._performer.payloads.ended(span)

        self._post(call)

    def end_input(self) -> None:
        """Says that no more jobs will come."""

        def call() -> None:
            if self._recorder is not None:
                self._recorder.input_ended()
            self._handle(InputEnded())

        self._post(call)

    def cancel(self, reason: str, spans: Sequence[Span] | None = None) -> None:
        """Ends every job that has not ended.

        :param spans: only these jobs
        """

        def call() -> None:
            self._canceled = self._canceled or spans is None
            self._handle(CancelRequested(None if spans is None else tuple(spans), reason))

        self._post(call)

    def ask(self, question: Callable[[Dispatcher], Any], timeout_s: float = 5.0) -> Any:
        """Returns what `question` returns of the dispatcher, or raises what it raises.

        It is put in the monitor's thread; when the loop is over, in the caller's.
        """
        answers: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()

        def put() -> None:
            try:
                answers.put((question(self._dispatcher), None))
            except Exception as error:  # of whoever asks, and not of the run
                answers.put((None, error))

        self._post(put)
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                answer, error = answers.get(timeout=0.05)
            except queue.Empty:
                if not self._serving:  # nothing changes the dispatcher any more
                    return question(self._dispatcher)
                if time.monotonic() > deadline:
                    raise GridMapError("the monitor of the run does not answer") from None
                continue
            if error is not None:
                raise error
            return answer

    def answer(self, question: Callable[[Dispatcher], Any], take: Callable[[Any], None]) -> None:
        """Has `take` called with what `question` returns, as soon as the monitor has time for it.

        Nobody waits for that, and it may never come if the run is about to end.
        """
        if not self._serving:
            take(question(self._dispatcher))
            return

        def put() -> None:
            try:
                take(question(self._dispatcher))
            except Exception:  # of whoever asks, and not of the run
                log.debug("a question to the monitor failed", exc_info=True)

        self._post(put)

    def join(self, timeout_s: float) -> bool:
        """Waits until the run's workers are gone; returns whether they are."""
        if os.getpid() != self._pid or threading.current_thread() is self._thread:
            return True
        if self.started and not self._is_over:
            with contextlib.suppress(queue.Empty):
                get(self._over, timeout_s)
                self._over.put(None)  # others may wait
        if self._is_over:
            self._thread.join(timeout_s)  # it has nothing left to do
        return self._is_over or not self.started

    def _post(self, call: Callable[[], None]) -> None:
        self._commands.append(call)
        if os.getpid() != self._pid:
            return  # a forked child has no loop
        with self._lock, contextlib.suppress(BlockingIOError):
            if not (self._closed or self._woken):
                self._woken = True
                os.write(self._wake_write, b"!")

    def _post_event(self, event: DispatcherEvent) -> None:
        self._post(lambda: self._handle(event))

    # --- the loop's own thread --------------------------------------------------------------------

    def _main(self) -> None:
        with self._work:
            self._run()

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            self._transport.begin(self._post_event)
            self._serve()
            self._dismiss()
        except BaseException as caught:
            log.exception("the monitor failed; the run cannot go on")
            error = caught
        finally:
            self._serving = False  # what follows takes time, and nobody looks for commands
            try:
                self._transport.cancel(self._transport.left_behind(self._dispatcher.workers))
                self._transport.close(CLOSE_DEADLINE_S)
            except Exception:
                log.exception("could not end the run's workers")
            if self._recorder is not None and not self._recorder.close(CLOSE_DEADLINE_S):
                log.warning("the run's ledger could not be finished in time")
            self.release()
            self._sink.end(error)
            try:
                self.at_end()
            finally:
                self._is_over = True
                self._over.put(None)

    def _serve(self) -> None:
        poller = _Poller(self._wake_read)
        while not self._dispatcher.ended:
            self._turn(poller, math.inf)

    def _dismiss(self) -> None:
        """Lets workers leave by themselves, for a while."""
        poller = _Poller(self._wake_read)
        wait_s = CANCEL_DISMISSAL_S if self._canceled else DISMISSAL_S
        until = time.monotonic() + wait_s
        while time.monotonic() < until:
            if self._all_left():
                return
            self._turn(poller, until)

    def _all_left(self) -> bool:
        return not self._transport.left_behind(self._dispatcher.workers)

    def _turn(self, poller: _Poller, until: float) -> None:
        """Takes in what there is, then waits for more or for the next deadline."""
        self._woken = False
        while self._commands:
            self._commands.popleft()()
        for received in self._transport.receive():
            self._take(received.worker, received.incarnation, received.message, received.frames)
        now = time.monotonic()
        if now >= self._transport.next_deadline():
            self._transport.tick(now)
        if now >= self._dispatcher.next_deadline():
            self._handle(Tick())
        if now >= self.remind_at:
            self.remind_at = math.inf
            self.reminder()
        if self._recorder is not None:
            self._recorder.flush(self._written)
        if self._commands or (self._dispatcher.ended and (until == math.inf or self._all_left())):
            return
        deadlines = self._transport.next_deadline(), self._dispatcher.next_deadline()
        deadline = min(*deadlines, self.remind_at, until)
        wait_s = min(max(0.0, deadline - time.monotonic()), LONGEST_SLEEP_S)
        fds = self._transport.fds()
        with self._work.rest():
            ready = poller.poll(fds, wait_s)
        for source, events in ready:
            self._transport.ready(source, events, time.monotonic())

    def _take(self, worker: str, incarnation: str, message: Any, frames: list[Frame]) -> None:
        if isinstance(message, NeedBlob):
            blob = self._blobs.get(message.digest)
            payload = [] if blob is None else blob
            answer = Blob(message.digest, blob is not None)
            self._transport.send(worker, answer, payload, time.monotonic())
        else:
            self._handle(MessageReceived(worker, incarnation, message), frames)

    def _handle(
        self,
        event: DispatcherEvent,
        frames: list[Frame] | None = None,
        now: float | None = None,
    ) -> None:
        now = time.monotonic() if now is None else now
        effects = self._dispatcher.handle(event, now)
        if self._recorder is not None:
            self._recorder.heard(event)
        if effects:
            self._performer.perform(event, frames or [], effects, now)

    def _add(
        self,
        event: JobsAdded,
        packet: Packet,
        blobs: Mapping[str, list[Frame]],
        now: float | None = None,
    ) -> None:
        self._blobs.update(blobs)
        self._performer.payloads.add(packet)
        self._handle(event, now=now)

    def _written(self, effects: list[DispatcherEffect]) -> None:
        """The ledger has it: what waited for that is done by the loop."""
        if effects:
            self._post(lambda: self._performer.perform_held(effects, time.monotonic()))


class _Poller:
    """Polls what the transport names, and the pipe that wakes the loop.

    Where there are sockets of ZeroMQ among them, its own poll is used.
    """

    def __init__(self, wake: int) -> None:
        self._wake = wake
        self._known: dict[Any, int] = {}
        self._poll: Any = None

    def poll(self, fds: Mapping[Any, int], timeout_s: float) -> list[tuple[Any, int]]:
        """Returns what is ready; waits at most so long."""
        self._register(fds)
        found = self._poll.poll(math.ceil(timeout_s * 1000))
        ready = []
        for source, events in found:
            if source == self._wake:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake, 65536)
            else:
                ready.append((source, events))
        return ready

    def _register(self, fds: Mapping[Any, int]) -> None:
        if self._poll is None:
            self._poll = _make_poll(fds)
            self._poll.register(self._wake, select.POLLIN)
        if fds == self._known:
            return
        for source in self._known.keys() - fds.keys():
            self._poll.unregister(source)
        for source, events in fds.items():
            if self._known.get(source) != events:
                self._poll.register(source, events)
        self._known = dict(fds)


def _make_poll(fds: Mapping[Any, int]) -> Any:
    if all(isinstance(source, int) for source in fds):
        return select.poll()
    import zmq

    return zmq.Poller()
