"""Looks at a run, whoever drives it: through its window while its client lives, else in its ledger.

Nothing is held between two questions, so whoever wants to go on with a run can do so meanwhile.
"""

from __future__ import annotations

import itertools
import math
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec
import zmq

from gridmap.errors import GridMapError, LedgerError, LedgerInUse
from gridmap.ledger import book
from gridmap.ledger.directory import HISTORY, LEDGER_NAME
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
    WorkerView,
)
from gridmap.watching.questions import Questions
from gridmap.watching.window import Answer, Question
from gridmap.wire.keys import ConnectionFileError, check_private, read_window

ANSWER_S = 15.0
"""How long a window may take."""
CONNECT_S = 3.0
"""How long it may take to answer for the first time."""

_ANSWERS: dict[str, Any] = {
    "run": RunView,
    "workers": list[WorkerView],
    "jobs": JobPage,
    "job": JobView,
    "failures": list[FailureGroup],
    "timeline": list[Tick],
    "notes": list[NoteView],
    "cancel": None,
}


class NotAlive(GridMapError):
    """Only the client of a run could do this, and there is none."""


class Observer:
    """Looks at one run.

    :param path: its directory, or what is left of it in the history
    :raises LedgerError: there is no such run, or it is not ours
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        try:
            check_private(os.lstat(self.path), self.path, folder=True)
        except FileNotFoundError:
            raise LedgerError(f"there is no run in {self.path}") from None
        except ConnectionFileError as error:
            raise LedgerError(str(error)) from None
        self._window: _Caller | None = None

    # --- questions --------------------------------------------------------------------------------

    def run(self) -> RunView:
        """Returns the run at a glance; never raises LedgerError, the view says what is wrong."""
        try:
            view: RunView = self._ask(Question(0, "run"))
        except LedgerInUse as error:  # alive, and it does not answer
            return RunView(self.path.name, state=UNDER_WAY, error=str(error), path=str(self.path))
        except GridMapError as error:
            return RunView(self.path.name, state=DAMAGED, error=str(error), path=str(self.path))
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

    def cancel(self, jobs: Iterable[int] | None = None, reason: str = "") -> None:
        """Cancels jobs of a run that is under way, or all that have not ended.

        :raises NotAlive: its client is dead, or done
        """
        spans = None if jobs is None else [(job, 1) for job in jobs]
        self._ask(Question(0, "cancel", spans=spans, reason=reason))

    # --- asking -----------------------------------------------------------------------------------

    def _ask(self, question: Question) -> Any:
        """Asks the client where it lives, else the ledger.

        :raises LedgerInUse: it lives, and does not answer
        """
        if self._window is None:
            try:
                return self._read(question)
            except LedgerInUse:
                self._window = self._open_window()
        try:
            return self._window.ask(question)
        except TimeoutError as error:
            self.close()
            try:
                return self._read(question)  # it may have ended meanwhile
            except LedgerInUse:
                raise LedgerInUse(f"run {self.path.name} is under way; {error}") from None

    def _read(self, question: Question) -> Any:
        with book.lock(self.path) as connection:
            if question.name == "cancel":
                raise NotAlive(f"run {self.path.name} has no client that lives")
            try:
                told = Questions(connection)
                if question.name == "jobs":
                    return told.jobs(question.jobs)
                if question.name == "job":
                    return told.job(question.job)
                return getattr(told, question.name)()
            except (book.SqliteError, KeyError, msgspec.MsgspecError, ValueError) as error:
                text = f"the ledger in {self.path} is damaged: {error}"
                raise LedgerError(text) from error

    def _open_window(self) -> _Caller:
        try:
            return _Caller(self.path)
        except ConnectionFileError as error:
            raise LedgerInUse(
                f"run {self.path.name} is under way, and cannot be watched: {error}"
            ) from None

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
        keys = read_window(folder)
        self._host = keys.host
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

    def ask(self, question: Question) -> Any:
        """Returns the answer.

        :raises TimeoutError: there was none in time
        :raises GridMapError: the window says what is wrong
        """
        number = next(self._numbers)
        asked = msgspec.msgpack.encode(msgspec.structs.replace(question, number=number))
        poller = zmq.Poller()
        for sock in self._sockets:
            sock.send(asked)
            poller.register(sock, zmq.POLLIN)
        wait_s = ANSWER_S if self._chosen else CONNECT_S + ANSWER_S
        deadline = time.monotonic() + wait_s
        while (left_s := deadline - time.monotonic()) > 0:
            for sock, _ in poller.poll(math.ceil(left_s * 1000)):
                answer = msgspec.msgpack.decode(sock.recv(), type=Answer)
                if answer.number == number:
                    self._choose(sock)
                    return _value(question.name, answer)
        raise TimeoutError(
            f"its client on {self._host} did not answer within {wait_s:.0f} s: it is stopped, or "
            "its host cannot be reached from here"
        )

    def _choose(self, chosen: zmq.Socket[bytes]) -> None:
        self._chosen = True
        for sock in self._sockets:
            if sock is not chosen:
                sock.close(0)
        self._sockets = [chosen]

    def close(self) -> None:
        self._context.destroy(linger=0)


def _value(name: str, answer: Answer) -> Any:
    if answer.error:
        raise GridMapError(answer.error)
    return msgspec.msgpack.decode(answer.value, type=_ANSWERS[name])


def folders(parent: str | os.PathLike[str]) -> Sequence[Path]:
    """Returns the directories of the runs that can be looked at, the oldest first.

    :param parent: where runs are kept
    """
    found: list[tuple[float, Path]] = []
    for folder in (Path(parent), Path(parent, HISTORY)):
        for path in folder.iterdir() if folder.is_dir() else ():
            try:
                found.append((os.stat(path / LEDGER_NAME).st_mtime, path))
            except OSError:
                continue  # no run, gone by now, or not ours
    return [path for _, path in sorted(found)]


def find(run_id: str, parent: str | os.PathLike[str]) -> Path:
    """Returns the directory of a run, of which the beginning of its id is enough.

    :raises LedgerError: there is none, or several
    """
    if not run_id or "/" in run_id or run_id.startswith("."):
        raise LedgerError(f"{run_id!r} is no id of a run")
    for folder in (Path(parent), Path(parent, HISTORY)):
        if (folder / run_id / LEDGER_NAME).is_file():
            return folder / run_id
    paths = folders(parent)
    matched = [path for path in paths if path.name.startswith(run_id)]
    if len(matched) == 1:
        return matched[0]
    if matched:
        names = ", ".join(path.name for path in matched[-5:])
        raise LedgerError(f"several runs begin with {run_id}: {names}")
    known = ", ".join(path.name for path in paths[-5:]) or "none"
    raise LedgerError(f"there is no run {run_id} in {parent}; the last ones there are: {known}")
