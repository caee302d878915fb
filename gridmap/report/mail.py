"""Sends mails about runs, and never breaks one nor holds one up.

A mail is made and delivered in a thread of its own, which ends when nothing is left to send.  Of
the failures of one run with one cause at most one a minute is mailed; the others are counted, and
told together when the minute is over or the run ends.  A server that refuses, hangs or does not
exist costs one line in the log.
"""

from __future__ import annotations

import atexit
import logging
import os
import smtplib
import threading
import time
from collections import deque
from collections.abc import Callable
from email.message import EmailMessage
from typing import TYPE_CHECKING

from gridmap.report.addresses import guess_server
from gridmap.report.digest import Digest, Ration
from gridmap.report.endings import Endings
from gridmap.report.failed_job import FailedJob
from gridmap.report.letter import line
from gridmap.report.messages import completion_message, digest_message, error_message
from gridmap.report.server import MailServerError, deliver

if TYPE_CHECKING:
    from gridmap.conf import Settings

log = logging.getLogger(__name__)

INTERVAL_S = 60.0
"""At most one mail for each run and cause in this time."""
EXIT_WAIT_S = 3.0
"""How long the end of the program waits for mails that are under way."""
MOST_WAITING = 20
"""More mails than these are not kept."""


class Mailer:
    """Rations mails and delivers them in a thread, one after the other. Nothing here raises.

    :param clock: monotonic seconds
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._warned: set[str] = set()
        self.forget()

    def forget(self) -> None:
        """Starts anew: what is waiting is the business of another process."""
        self._changed = threading.Condition()
        self._waiting: deque[Callable[[], None]] = deque()
        self._sending = False
        self._left_out = False  # some mail, and its user knows
        self._thread: threading.Thread | None = None
        self._ration = Ration(INTERVAL_S)

    def error(self, failure: FailedJob, settings: Settings) -> None:
        """Mails a failure; counts it when one of its run and cause was mailed in the last minute.

        Those that were counted are told together when the minute is over, or by `end`.
        """
        if not settings.send_error_mail:
            return
        with self._changed:
            if self._ration.take(failure, settings, self._clock()):
                self._add(lambda: error_message(failure, settings), settings)
            self._wake()

    def completion(self, name: str, settings: Settings, endings: Endings | None = None) -> None:
        """Mails that a run is over."""
        with self._changed:
            self._add(lambda: completion_message(name, settings, endings), settings, always=True)
            self._wake()

    def end(self, run: str | None = None) -> None:
        """Mails what was counted of a run that is over; None: of all runs."""
        with self._changed:
            if self._add_digests(self._ration.end(run)):
                self._wake()

    def flush(self, timeout_s: float) -> bool:
        """Waits for the mails under way; returns whether none is left."""
        with self._changed:
            return self._changed.wait_for(self._is_idle, timeout_s)

    def _is_idle(self) -> bool:
        nobody = self._thread is None or not self._thread.is_alive()
        return nobody or not (self._waiting or self._sending)

    def _add(
        self, make: Callable[[], EmailMessage], settings: Settings, always: bool = False
    ) -> None:
        """Has a mail sent when its turn comes.

        :param always: however many wait: of these there is one a run
        """
        if len(self._waiting) >= MOST_WAITING and not always:
            level = logging.DEBUG if self._left_out else logging.WARNING
            self._left_out = True
            log.log(level, "%d mails wait to be sent; others about failures are left out",
                    MOST_WAITING)  # fmt: skip
        else:
            self._waiting.append(lambda: self._send(make, settings))

    def _add_digests(self, digests: list[Digest]) -> bool:
        now = self._clock()
        for digest in digests:
            settings = digest.settings
            self._add(lambda d=digest, s=settings: digest_message(d, s, now), settings)  # type: ignore[misc]
        return bool(digests)

    def _wake(self) -> None:
        self._changed.notify_all()
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name="gridmap-mail", daemon=True)
            try:
                self._thread.start()
            except RuntimeError:  # no more threads, or the interpreter is ending
                self._thread = None
                self._waiting.clear()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._sending = False
                self._add_digests(self._ration.due(self._clock()))
                if not self._waiting:
                    self._changed.notify_all()
                    next_s = self._ration.next_s()
                    if next_s is None:
                        self._thread = None
                        return
                    self._changed.wait(max(0.0, next_s - self._clock()))
                    continue
                send = self._waiting.popleft()
                self._sending = True
            send()

    def _send(self, make: Callable[[], EmailMessage], settings: Settings) -> None:
        server, change = settings.smtp_server, "set SMTP_SERVER, or SEND_ERROR_MAIL=0"
        try:
            server = server or guess_server()
            deliver(make(), settings)
        except Exception as error:
            if isinstance(error, MailServerError):
                change = error.change
            level = logging.DEBUG if server in self._warned else logging.WARNING
            self._warned.add(server)
            log.log(
                level,
                "a mail was not sent through %s: %s (%s)",
                server or "a mail server",
                line(_reason(error)),
                change,
            )


def _reason(error: Exception) -> str:
    if isinstance(error, MailServerError):
        return str(error)
    if isinstance(error, smtplib.SMTPServerDisconnected):
        return "it does not answer: timed out" if "timed out" in str(error) else "it hung up"
    return f"{type(error).__name__}: {error}"


_mailer = Mailer()


def send_error_mail(failure: FailedJob, settings: Settings) -> None:
    """Mails a failure, if the settings want it; returns at once and never raises."""
    _mailer.error(failure, settings)


def send_completion_mail(name: str, settings: Settings, endings: Endings | None = None) -> None:
    """Mails that a run is over; returns at once and never raises."""
    _mailer.completion(name, settings, endings)


def end_run(run: str) -> None:
    """Mails what was counted of a run that is over; returns at once and never raises."""
    _mailer.end(run)


def flush(timeout_s: float) -> bool:
    """Waits for the mails under way; returns whether all are delivered or given up."""
    return _mailer.flush(timeout_s)


def _at_exit() -> None:
    _mailer.end()
    _mailer.flush(EXIT_WAIT_S)


atexit.register(_at_exit)
os.register_at_fork(after_in_child=_mailer.forget)
