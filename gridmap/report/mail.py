"""Sends mails about runs, and never breaks one nor holds one up.

A mail is made and delivered in a thread of its own, which ends when nothing is left to send.  Of
failures with one cause at most one a minute is mailed; the others are counted, and the next mail
says how many they were.  A server that refuses, hangs or does not exist costs one line in the log.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import smtplib
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from email.message import EmailMessage
from typing import TYPE_CHECKING, Any

from gridmap.report import plots
from gridmap.report.addresses import guess_recipient, guess_server

if TYPE_CHECKING:
    from gridmap.conf import Settings

log = logging.getLogger(__name__)

INTERVAL_S = 60.0
"""At most one mail for each cause in this time."""
STEP_TIMEOUT_S = 10.0
"""How long the server may take for one step."""
DEADLINE_S = 30.0
"""How long it may take for a whole mail."""
EXIT_WAIT_S = 3.0
"""How long the end of the program waits for mails that are under way."""
MOST_WAITING = 20
"""More mails than these are not kept."""
MOST_TEXT = 20_000
"""Characters of a traceback that a mail holds: its end."""


@dataclass(frozen=True)
class Failure:
    """What a mail says of a job that failed.

    :param cause: the cause of death; mails are rationed by it
    :param memory_mb: memory at each heartbeat, oldest first [MB]
    :param cpu_percent: processor time at each heartbeat; 100 is one processor [%]
    """

    name: str
    cause: str
    number: int | None = None
    host: str = ""
    error: str = ""
    traceback: str = ""
    resubmits: int = 0
    log_files: tuple[str, ...] = ()
    memory_mb: tuple[float, ...] = ()
    cpu_percent: tuple[float, ...] = ()


def failure_of(job: Any) -> Failure:
    """Returns what is to be said of a public Job, of which any attribute may be missing."""
    ret = getattr(job, "ret", None)
    number = str(getattr(job, "uniq_id", ""))
    logs = (getattr(job, "log_stdout_fn", ""), getattr(job, "log_stderr_fn", ""))
    return Failure(
        name=str(getattr(job, "name", "") or "job"),
        cause=str(getattr(job, "cause_of_death", "") or "exception"),
        number=int(number) if number.isdecimal() else None,
        host=str(getattr(job, "host_name", "") or ""),
        error=f"{type(ret).__name__}: {ret}" if isinstance(ret, BaseException) else "",
        traceback=str(getattr(job, "traceback", "") or ""),
        resubmits=int(getattr(job, "num_resubmits", 0) or 0),
        log_files=tuple(str(name) for name in logs if name),
        memory_mb=_series(getattr(job, "track_mem", None)),
        cpu_percent=_series(getattr(job, "track_cpu", None)),
    )


def _series(values: Any) -> tuple[float, ...]:
    # A point is a number, or (number, running) as get_cpu_load gives it.
    points = [value[0] if isinstance(value, Sequence) else value for value in values or ()]
    return tuple(float(point) for point in points)


# --- the text -------------------------------------------------------------------------------------


def _line(text: str, most: int = 200) -> str:
    """Returns text fit for a header: one line, no control characters, not long."""
    flat = "".join(sign if sign.isprintable() else " " for sign in text)
    return " ".join(flat.split())[:most]


def _body(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")


def _message(settings: Settings, subject: str, text: str) -> EmailMessage:
    mail = EmailMessage()
    mail["From"] = _line(settings.error_mail_sender)
    mail["To"] = _line(settings.error_mail_recipient or guess_recipient(), most=1000)
    mail["Subject"] = _line(subject)
    mail.set_content(_body(text))
    return mail


def error_message(failure: Failure, settings: Settings, others: int = 0) -> EmailMessage:
    """Returns the mail about a failed job.

    :param others: failures with the same cause that no mail told of
    """
    facts = {
        "job": failure.name if failure.number is None else f"{failure.name} ({failure.number})",
        "cause": failure.cause,
        "host": failure.host,
        "error": failure.error,
        "resubmitted": str(failure.resubmits) if failure.resubmits else "",
        "output": "\n  ".join(failure.log_files),
    }
    text = "".join(f"{name}: {value}\n" for name, value in facts.items() if value)
    if others:
        text += f"\n{others} more failed like this since the last mail.\n"
    if failure.traceback:
        text += f"\n{failure.traceback[-MOST_TEXT:]}\n"
    mail = _message(settings, f"gridmap: {failure.name} failed ({failure.cause})", text)
    if settings.create_plots:
        _attach_plots(mail, failure, settings.heartbeat_frequency_s)
    return mail


def completion_message(name: str, settings: Settings) -> EmailMessage:
    """Returns the mail about a run that is done."""
    return _message(settings, f"gridmap: {name} is done", f"All jobs of {name} are done.\n")


def _attach_plots(mail: EmailMessage, failure: Failure, period_s: float) -> None:
    if not plots.available():
        return
    for name, values, draw in (
        ("memory", failure.memory_mb, plots.memory_png),
        ("cpu", failure.cpu_percent, plots.cpu_png),
    ):
        if len(values) < 2:
            continue
        try:
            png = draw(values, period_s)
        except Exception:  # a broken matplotlib must not cost the mail
            log.debug("no %s plot", name, exc_info=True)
            continue
        mail.add_attachment(png, maintype="image", subtype="png", filename=f"{name}.png")


# --- delivery -------------------------------------------------------------------------------------


@contextlib.contextmanager
def conversation(server: str) -> Iterator[smtplib.SMTP]:
    """Connects to a mail server, and hangs up after DEADLINE_S at the latest.

    :param server: host, or host:port
    :raises OSError: the server is not there, or too slow
    """
    with smtplib.SMTP(timeout=STEP_TIMEOUT_S) as smtp:
        # A server that sends a byte now and then never runs into the timeout of one step.
        watchdog = threading.Timer(DEADLINE_S, _hang_up, (smtp,))
        watchdog.daemon = True
        with contextlib.suppress(RuntimeError):  # the program ends, and waits EXIT_WAIT_S at most
            watchdog.start()
        try:
            smtp.connect(server)
            yield smtp
        finally:
            watchdog.cancel()


def deliver(mail: EmailMessage, server: str) -> None:
    """Hands a mail to a server within DEADLINE_S.

    :param server: host, or host:port
    :raises OSError: the server is not there, or too slow
    :raises smtplib.SMTPException: it does not want the mail
    """
    with conversation(server) as smtp:
        smtp.send_message(mail)


def _hang_up(smtp: smtplib.SMTP) -> None:
    sock = getattr(smtp, "sock", None)
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)


class Mailer:
    """Rations mails and delivers them in a thread, one after the other. Nothing here raises.

    :param clock: monotonic seconds
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._waiting: deque[Callable[[], None]] = deque()
        self._thread: threading.Thread | None = None
        self._last: dict[str, float] = {}
        self._untold: dict[str, int] = {}
        self._warned: set[str] = set()

    def error(self, failure: Failure, settings: Settings) -> None:
        """Mails a failure, or counts it when a mail with its cause went out in the last minute."""
        if not settings.send_error_mail:
            return
        with self._lock:
            last = self._last.get(failure.cause)
            if last is not None and self._clock() - last < INTERVAL_S:
                self._untold[failure.cause] = self._untold.get(failure.cause, 0) + 1
                return
            self._last[failure.cause] = self._clock()
            others = self._untold.pop(failure.cause, 0)
        self._post(lambda: error_message(failure, settings, others), settings)

    def completion(self, name: str, settings: Settings) -> None:
        """Mails that a run is done."""
        self._post(lambda: completion_message(name, settings), settings)

    def flush(self, timeout_s: float) -> bool:
        """Waits for the mails under way; returns whether all are."""
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join(timeout_s)
        return thread is None or not thread.is_alive()

    def _post(self, make: Callable[[], EmailMessage], settings: Settings) -> None:
        with self._lock:
            if len(self._waiting) >= MOST_WAITING:
                log.debug("too many mails are waiting; one is left out")
                return
            self._waiting.append(lambda: self._send(make, settings))
            if self._thread is None or not self._thread.is_alive():  # not alive: after a fork
                self._thread = threading.Thread(target=self._run, name="gridmap-mail", daemon=True)
                try:
                    self._thread.start()
                except RuntimeError:  # no more threads, or the interpreter is ending
                    self._thread = None
                    self._waiting.clear()

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._thread = None
                    return
                send = self._waiting.popleft()
            send()

    def _send(self, make: Callable[[], EmailMessage], settings: Settings) -> None:
        server = settings.smtp_server
        try:
            server = server or guess_server()
            deliver(make(), server)
        except Exception as error:
            level = logging.DEBUG if server in self._warned else logging.WARNING
            self._warned.add(server)
            log.log(
                level,
                "a mail was not sent through %s: %s (set SMTP_SERVER, or SEND_ERROR_MAIL=0)",
                server or "a mail server",
                _line(f"{type(error).__name__}: {error}"),
            )


_mailer = Mailer()


def send_error_mail(failure: Failure, settings: Settings) -> None:
    """Mails a failure, if the settings want it; returns at once and never raises."""
    _mailer.error(failure, settings)


def send_completion_mail(name: str, settings: Settings) -> None:
    """Mails that a run is done; returns at once and never raises."""
    _mailer.completion(name, settings)


def flush(timeout_s: float) -> bool:
    """Waits for the mails under way; returns whether all are delivered or given up."""
    return _mailer.flush(timeout_s)


atexit.register(flush, EXIT_WAIT_S)
