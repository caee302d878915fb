"""Looks at a run, whoever drives it: through its window while its client lives, else in its ledger.

Nothing is held between two questions, so whoever wants to go on with a run can do so meanwhile.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec
import zmq

from gridmap.errors import GridMapError, LedgerError, LedgerInUse
from gridmap.ledger.directory import HISTORY, LEDGER_NAME
from gridmap.ledger.file import lock
from gridmap.views import (
    DAMAGED,
    UNDER_WAY,
    FailureGroup,
    JobPage,
    JobsAsked,
    JobView,
    NoteView,
    RunView,
    Tick,
    UsageView,
    WorkerView,
)
from gridmap.watching.pages import UnknownJob
from gridmap.watching.questions import Questions
from gridmap.watching.window import CLOSED, UNKNOWN, Answer, Question
from gridmap.wire.keys import ConnectionFileError, check_private, read_window

ANSWER_S = 15.0
"""How long a window may take."""
CONNECT_S = 3.0
"""How long a client may live and have no window: it has just begun, or is about to end."""
LOOK_S = 0.5
"""After so long without an answer it is looked whether the client is still there."""

_ANSWERS: dict[str, Any] = {
    "run": RunView,
    "workers": list[WorkerView],
    "jobs": JobPage,
    "job": JobView,
    "failures": list[FailureGroup],
    "timeline": list[Tick],
    "notes": list[NoteView],
    "usage": list[UsageView],
    "cancel": None,
}


class NoAnswer(GridMapError):
    """The client of a run lives, and has no answer to a question."""


class NotAlive(GridMapError):
    """Only the client of a run could do this, and there is none."""


class UnknownRun(LedgerError):
    """There is no such run, or several begin so."""


class Observer:
    """Looks at one run.

    :param path: its directory, or what is left of it in the history
    :param answer_s: how long a client that lives may take to answer
    :raises LedgerError: there is no such run, or it is not ours
    """

    def __init__(self, path: str | os.PathLike[str], answer_s: float = ANSWER_S) -> None:
        self.path = Path(path)
        self._answer_s = answer_s
        try:
            check_private(os.lstat(self.path), self.path, folder=True)
        except FileNotFoundError:
            raise UnknownRun(f"there is no run in {self.path}") from None
        except ConnectionFileError as error:
            raise LedgerError(str(error)) from None
        self._window: _Caller | None = None

    # --- questions --------------------------------------------------------------------------------

    def run(self) -> RunView:
        """Returns the run at a glance; never raises LedgerError, the view says what is wrong."""
        wrong = ""
        try:
            view: RunView = self._ask(Question(0, "run"))
        except (LedgerInUse, NoAnswer) as error:  # alive, and it cannot say
            wrong, view = UNDER_WAY, RunView(self.path.name, error=str(error))
        except GridMapError as error:
            wrong, view = DAMAGED, RunView(self.path.name, error=str(error))
        if wrong:
            return msgspec.structs.replace(view, state=wrong, path=str(self.path))
        kept = self.path.parent.name != HISTORY
        return msgspec.structs.replace(view, path=str(self.path), kept=kept)

    def jobs(self, asked: JobsAsked) -> JobPage:
        """Returns a page of the table of its jobs."""
        page: JobPage = self._ask(Question(0, "jobs", jobs=asked))
        return page

    def job(self, number: int) -> JobView:
        """Returns all that is known of a job.

        :raises UnknownJob: there is none of this number
        """
        view: JobView = self._ask(Question(0, "job", job=number))
        return view

    def workers(self) -> list[WorkerView]:
        """Returns its workers, in the order in which they came."""
        found: list[WorkerView] = self._ask(Question(0, "workers"))
        return found

    def failures(self) -> list[FailureGroup]:
        """Returns its failures, those alike together."""
        found: list[FailureGroup] = self._ask(Question(0, "failures"))
        return found

    def timeline(self) -> list[Tick]:
        """Returns how many jobs ended when."""
        found: list[Tick] = self._ask(Question(0, "timeline"))
        return found

    def notes(self) -> list[NoteView]:
        """Returns what people were told of late."""
        found: list[NoteView] = self._ask(Question(0, "notes"))
        return found

    def usage(self) -> list[UsageView]:
        """Returns what its jobs used, as hearts beat; of many heartbeats some."""
        found: list[UsageView] = self._ask(Question(0, "usage"))
        return found

    def cancel(self, jobs: Iterable[int] | None = None, reason: str = "") -> None:
        """Cancels jobs of a run that is under way, or all that have not ended.

        :raises NotAlive: its client is dead, or done
        """
        spans = None if jobs is None else [(job, 1) for job in jobs]
        self._ask(Question(0, "cancel", spans=spans, reason=reason))

    # --- asking -----------------------------------------------------------------------------------

    def _ask(self, question: Question) -> Any:
        """Asks the client where it lives, else the ledger.

        A client may die or end while it is asked, or another take its place.

        :raises LedgerInUse: it lives, and does not answer
        :raises NoAnswer: it answers that it cannot say
        """
        began = time.monotonic()
        deadline, why, asked = began + self._answer_s, "", -1
        while True:
            if self._window is None or asked >= 0:
                with contextlib.suppress(LedgerInUse):
                    return self._read(question)
            if self._window is not None and self._window.is_old():
                self.close()
            if self._window is None:
                asked, why = -1, self._open_window()
            if self._window is None:
                if time.monotonic() - began > CONNECT_S:
                    break
                continue  # the look at the ledger took its time
            if asked < 0:
                asked = self._window.ask(question)
            left_s = deadline - time.monotonic()
            answer = self._window.answer(asked, min(LOOK_S, left_s))
            if answer is not None and answer.kind != CLOSED:
                return _value(question.name, answer)
            why = f"its client on {self._window.host} did not answer within {self._answer_s:.0f} s"
            why += ": it is stopped, or its host cannot be reached from here"
            if answer is not None:
                why = answer.error
                self.close()  # its run is over, or about to be
            if left_s <= 0:
                break
        self.close()
        raise LedgerInUse(f"run {self.path.name} is under way; {why}")

    def _read(self, question: Question) -> Any:
        self._follow()
        try:
            return self._look(question)
        except LedgerInUse:
            raise
        except LedgerError:
            if not self._follow():  # it went there just now
                raise
            return self._look(question)

    def _look(self, question: Question) -> Any:
        with _unchanged(self.path), lock(self.path) as connection:
            self.close()  # it can be had: nobody is behind the window any more
            if question.name == "cancel":
                raise NotAlive(f"run {self.path.name} has no client that lives")
            try:
                told = Questions(connection)
                value = _told(told, question)
                told.keep()
                return value
            except GridMapError:
                raise
            except Exception as error:  # SQLite has any value in any column
                text = f"the ledger in {self.path} is damaged: {error}"
                raise LedgerError(text) from error

    def _follow(self) -> bool:
        """Goes to the history after the run, when it is over; returns whether it did."""
        later = self.path.parent / HISTORY / self.path.name
        if not (self.path / LEDGER_NAME).exists() and (later / LEDGER_NAME).exists():
            self.path = later
            return True
        return False

    def _open_window(self) -> str:
        """Calls the client; returns why that is not possible."""
        try:
            self._window = _Caller(self.path)
        except ConnectionFileError as error:
            return f"it cannot be watched: {error}"
        return ""

    @property
    def live(self) -> bool:
        """True when the last answer came from a client that lives."""
        return self._window is not None

    def close(self) -> None:
        """Hangs up."""
        if self._window is not None:
            self._window.close()
            self._window = None

    def __enter__(self) -> Observer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class _Caller:
    """Asks a window, at each of its addresses until one of them has answered."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._keys = keys = read_window(folder)
        self.host = keys.host
        self._numbers = itertools.count(1)
        self._context = zmq.Context()
        self._sockets: list[zmq.Socket[bytes]] = []
        for address in keys.addresses:
            sock: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
            sock.linger = 0
            sock.ipv6 = True
            sock.curve_serverkey = keys.server_public.encode()
            sock.curve_publickey = keys.watcher_public.encode()
            sock.curve_secretkey = keys.watcher_secret.encode()
            sock.connect(address)
            self._sockets.append(sock)
        self._chosen = False

    def is_old(self) -> bool:
        """Returns whether another client drives the run by now."""
        try:
            return read_window(self._folder) != self._keys
        except ConnectionFileError:
            return False  # it ends, or the other one has just begun

    def ask(self, question: Question) -> int:
        """Asks; returns the number that the answer will have."""
        number = next(self._numbers)
        asked = msgspec.msgpack.encode(msgspec.structs.replace(question, number=number))
        for sock in self._sockets:
            with contextlib.suppress(zmq.Again):  # it has not taken the last thousand
                sock.send(asked, zmq.NOBLOCK)
        return number

    def answer(self, number: int, wait_s: float) -> Answer | None:
        """Returns the answer of this number, None where it does not come in time.

        :raises NoAnswer: what comes cannot be understood
        """
        poller = zmq.Poller()
        for sock in self._sockets:
            poller.register(sock, zmq.POLLIN)
        deadline = time.monotonic() + wait_s
        while (left_s := deadline - time.monotonic()) > 0:
            for sock, _ in poller.poll(math.ceil(left_s * 1000)):
                answer = self._decoded(sock.recv())
                if answer.number == number:
                    self._choose(sock)
                    return answer
        return None

    def _decoded(self, answer: bytes) -> Answer:
        try:
            return msgspec.msgpack.decode(answer, type=Answer)
        except msgspec.MsgspecError as error:
            raise NoAnswer(
                f"run {self._keys.run} is of gridmap {self._keys.gridmap}, whose answers this "
                f"one does not understand: {error}"
            ) from None

    def _choose(self, chosen: zmq.Socket[bytes]) -> None:
        self._chosen = True
        for sock in self._sockets:
            if sock is not chosen:
                sock.close(0)
        self._sockets = [chosen]

    def close(self) -> None:
        self._context.destroy(linger=0)


def _told(told: Questions, question: Question) -> Any:
    if question.name == "jobs":
        return told.jobs(question.jobs)
    if question.name == "job":
        return told.job(question.job)
    return getattr(told, question.name)()


def _value(name: str, answer: Answer) -> Any:
    if answer.error:
        raise (UnknownJob if answer.kind == UNKNOWN else NoAnswer)(answer.error)
    try:
        return msgspec.msgpack.decode(answer.value, type=_ANSWERS[name])
    except msgspec.MsgspecError as error:
        raise NoAnswer(
            f"its client has another gridmap, whose answer cannot be read: {error}"
        ) from None


@contextlib.contextmanager
def _unchanged(folder: Path) -> Iterator[None]:
    """Keeps the age of a run that is only looked at: by that it is removed one day."""
    paths = (folder / LEDGER_NAME, folder)
    before = []
    with contextlib.suppress(OSError):
        before = [os.stat(path) for path in paths]
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            for path, then in zip(paths, before, strict=False):
                if os.stat(path).st_mtime_ns != then.st_mtime_ns:
                    os.utime(path, ns=(then.st_atime_ns, then.st_mtime_ns))


def folders(parent: str | os.PathLike[str]) -> Sequence[Path]:
    """Returns the directories of the runs that can be looked at, the oldest first.

    :param parent: where runs are kept
    """
    found: list[Path] = []
    for folder in (Path(parent), Path(parent, HISTORY)):
        with contextlib.suppress(OSError):  # there is none, or it is not ours
            found += [
                path
                for path in folder.iterdir()
                if os.path.isfile(path / LEDGER_NAME) and not path.name.startswith(".")
            ]
    return sorted(found, key=lambda path: path.name)  # which begins with the time


def find(run_id: str, parent: str | os.PathLike[str]) -> Path:
    """Returns the directory of a run, of which the beginning of its id is enough.

    :raises UnknownRun: there is none, or several
    """
    if not run_id or "/" in run_id or run_id.startswith("."):
        raise UnknownRun(f"{run_id!r} is no id of a run")
    for folder in (Path(parent), Path(parent, HISTORY)):
        if (folder / run_id / LEDGER_NAME).is_file():
            return folder / run_id
    paths = folders(parent)
    matched = [path for path in paths if path.name.startswith(run_id)]
    if len(matched) == 1:
        return matched[0]
    if matched:
        names = ", ".join(path.name for path in matched[-5:])
        raise UnknownRun(f"several runs begin with {run_id}: {names}")
    known = ", ".join(path.name for path in paths[-5:]) or "none"
    raise UnknownRun(f"there is no run {run_id} in {parent}; the last ones there are: {known}")
