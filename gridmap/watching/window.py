"""A run's window: answers those who may watch it, in a thread of the client.

::

    watcher (DEALER) --- CurveZMQ ---> window (ROUTER)
      [number, question, arguments]      |-- the ledger, in its writer's thread
      [number, answer or error]          |-- the dispatcher, in the monitor's thread

It listens at an address of this host that needs no port, and, where the run has workers elsewhere,
at a port as well.  Its key stands in the run directory, and is neither the monitor's nor the
workers'.  Who asks much is answered slowly; the run is not.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import zmq

from gridmap._version import __version__
from gridmap.core.spec import Span
from gridmap.errors import GridMapError, LedgerError
from gridmap.forks import Work
from gridmap.views import JobPage, JobRow, JobsAsked, JobView, RunView, WorkerView
from gridmap.watching.alive import Alive, look, page_now, run_now, workers_now
from gridmap.watching.pages import UnknownJob
from gridmap.watching.questions import Questions
from gridmap.wire.address import AddressError
from gridmap.wire.codec import Limits
from gridmap.wire.door import Door
from gridmap.wire.keys import KeyPair, WindowKeys, write_window

if TYPE_CHECKING:
    from gridmap.ledger.book import Book
    from gridmap.monitor.loop import Monitor

log = logging.getLogger(__name__)

FEWEST_PORTS = 10
"""Where the user allows fewer, all of them are for workers to call."""

SAME_S = 0.5
"""So long an answer of the monitor is good for the next question."""

LIMITS = Limits(frames=4, frame_bytes=8 << 20, payload_bytes=8 << 20)
_CLOSE_S = 2.0


class Question(msgspec.Struct, frozen=True):
    """What a watcher asks.

    :param number: comes back with the answer
    """

    number: int
    name: str
    jobs: JobsAsked = JobsAsked()
    job: int = -1
    spans: list[tuple[int, int]] | None = None
    reason: str = ""


UNKNOWN, CLOSED = "unknown", "closed"
"""Kinds of errors: there is no such job; the ledger is closed, for the run is over."""


class Answer(msgspec.Struct, frozen=True):
    """What the window says; `error` where it has no answer."""

    number: int
    value: msgspec.Raw = msgspec.Raw(b"\xc0")
    error: str = ""
    kind: str = ""


class Room:
    """What can be seen through a window: the answers, without the socket."""

    def __init__(self, monitor: Monitor, book: Book) -> None:
        self._monitor = monitor
        self._book = book
        self._questions: Questions | None = None
        self._alive: Alive | None = None
        self._looked_at = 0.0

    def answer(self, question: Question) -> Any:
        """Returns the answer.

        :raises GridMapError: there is none
        """
        name = question.name
        if name in ("failures", "timeline", "notes", "usage"):
            return self._tell(lambda told: getattr(told, name)())
        if name == "jobs":
            return self.jobs(question.jobs)
        if name == "job":
            return self.job(question.job)
        if name == "cancel":
            spans = question.spans
            which = None if spans is None else [Span(*span) for span in spans]
            return self.cancel(which, question.reason)
        if name in ("run", "workers"):
            return getattr(self, name)()
        raise GridMapError(f"this gridmap ({__version__}) knows no question {name!r}")

    def run(self) -> RunView:
        """Returns the run at a glance."""
        view = self._tell(lambda told: told.run())
        return run_now(view, self._look(), socket.gethostname(), os.getpid())

    def workers(self) -> list[WorkerView]:
        """Returns the workers, and what each does."""
        return workers_now(self._tell(lambda told: told.workers()), self._look())

    def jobs(self, asked: JobsAsked) -> JobPage:
        """Returns a page of the jobs."""
        alive = self._look()

        def both(told: Questions) -> tuple[JobPage, dict[int, str]]:
            return told.jobs(asked, alive.running), {job: told.name(job) for job in alive.running}

        page, names = self._tell(both)
        return page_now(page, alive, asked, names)

    def job(self, number: int) -> JobView:
        """Returns all that is known of a job."""
        view = self._tell(lambda told: told.job(number))
        alive = self._look()  # once: a later look may know nothing of that worker
        now: JobRow | None = alive.running.get(number)
        if now is None or view.row.state != "queued":
            return view
        worker = alive.workers[now.worker]
        return msgspec.structs.replace(
            view,
            row=msgspec.structs.replace(now, name=view.row.name),
            log_stdout=worker.log_stdout,
            log_stderr=worker.log_stderr,
        )

    def cancel(self, spans: list[Span] | None, reason: str) -> None:
        """Cancels these jobs, or the run."""
        self._monitor.cancel(reason or "canceled by its owner", spans)

    def _tell(self, question: Callable[[Questions], Any]) -> Any:
        def ask(connection: Any) -> Any:
            if self._questions is None:
                self._questions = Questions(connection)
            return question(self._questions)

        return self._book.ask(ask)

    def _look(self) -> Alive:
        if self._alive is None or time.monotonic() - self._looked_at > SAME_S:
            self._alive = self._monitor.ask(
                lambda dispatcher: look(dispatcher, self._monitor.tally)
            )
            self._looked_at = time.monotonic()
        return self._alive


class Window:
    """Listens and answers, in a thread of its own, until it is closed.

    :param folder: the run directory, where its key is left
    :param interface: where to listen beside this host itself; None: on all interfaces
    :param ports: the ports that the user allows, None: any
    :param beyond: listens for other hosts, too
    """

    def __init__(
        self,
        run: str,
        room: Room,
        folder: Path,
        interface: str | None,
        ports: tuple[int, int] | None,
        beyond: bool,
    ) -> None:
        self._run = run
        self._room = room
        self._folder = folder
        self._interface, self._ports, self._beyond = interface, ports, beyond
        self._wake_read, self._wake_write = os.pipe()
        name = f"gridmap-window-{run}"
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)

    def start(self) -> None:
        """Starts the thread; what it needs to listen is made there, and holds up nobody."""
        try:
            self._thread.start()
        except RuntimeError as error:  # no more threads
            log.warning("run %s cannot be watched: %s", self._run, error)

    def close(self) -> None:
        """Ends the thread, and lets go of the addresses."""
        if self._thread.ident is not None:
            with contextlib.suppress(OSError):  # it could not listen, and has ended
                os.write(self._wake_write, b"!")
            self._thread.join(_CLOSE_S)
        if self._thread.ident is None or not self._thread.is_alive():
            os.close(self._wake_read)
            os.close(self._wake_write)

    def _main(self) -> None:
        with Work() as work, contextlib.ExitStack() as undo:
            try:
                doors = self._open(undo)
                self._watch(doors, work)
            except Exception as error:
                log.warning("run %s cannot be watched: %s", self._run, error)

    def _open(self, undo: contextlib.ExitStack) -> list[Door]:
        server, watcher = KeyPair.generate(), KeyPair.generate()

        def door(**where: Any) -> Door:
            opened = Door(server, watcher.public, limits=LIMITS, visitors=True, **where)
            undo.callback(opened.close)
            return opened

        doors = [door(local=f"ipc://@gridmap-{self._run}-{os.urandom(8).hex()}")]
        ports = self._ports
        if self._beyond and (ports is None or ports[1] - ports[0] + 1 >= FEWEST_PORTS):
            try:
                doors.append(door(interface=self._interface, port=ports))
            except AddressError as error:
                log.debug("run %s can be watched from its host only: %s", self._run, error)
        window = WindowKeys(
            self._run,
            [address for each in doors for address in each.addresses],
            server.public.decode(),
            watcher.public.decode(),
            watcher.secret.decode(),
            __version__,
            socket.gethostname(),
            os.getpid(),
        )
        write_window(self._folder, window)
        return doors

    def _watch(self, doors: list[Door], work: Work) -> None:
        poller = zmq.Poller()
        poller.register(self._wake_read, zmq.POLLIN)
        for door in doors:
            for sock in door.sockets():
                poller.register(sock, zmq.POLLIN)
        while True:
            with work.rest():
                ready = dict(poller.poll())
            if self._wake_read in ready:
                return
            for door in doors:
                self._serve(door)

    def _serve(self, door: Door) -> None:
        for peer, frames in door.take(LIMITS.frames):
            try:
                question = msgspec.msgpack.decode(frames[0], type=Question)
            except (msgspec.MsgspecError, IndexError, ValueError, RecursionError):
                continue  # whoever has the key may write nonsense
            door.put(peer, [msgspec.msgpack.encode(self._answer(question))])

    def _answer(self, question: Question) -> Answer:
        try:
            value = self._room.answer(question)
        except GridMapError as error:
            closed = CLOSED if isinstance(error, LedgerError) else ""
            kind = UNKNOWN if isinstance(error, UnknownJob) else closed
            return Answer(question.number, error=str(error), kind=kind)
        except Exception as error:
            log.debug("a question of a watcher failed", exc_info=True)
            return Answer(question.number, error=f"{type(error).__name__}: {error}")
        return Answer(question.number, msgspec.Raw(msgspec.msgpack.encode(value)))
