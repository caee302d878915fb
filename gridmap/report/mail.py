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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from email.message import EmailMessage
from typing import TYPE_CHECKING, Any

from gridmap._numbers import duration
from gridmap.core.memory import human
from gridmap.errors import JobException, signal_name
from gridmap.report import plots
from gridmap.report.addresses import guess_server
from gridmap.report.digest import FEW, Digest, Ration
from gridmap.report.endings import Endings, ending, words
from gridmap.report.letter import Letter, Section, line, message_of
from gridmap.report.logs import end_of
from gridmap.report.server import MailServerError, deliver
from gridmap.report.story import Usage

if TYPE_CHECKING:
    from gridmap.conf import Settings

log = logging.getLogger(__name__)

INTERVAL_S = 60.0
"""At most one mail for each run and cause in this time."""
EXIT_WAIT_S = 3.0
"""How long the end of the program waits for mails that are under way."""
MOST_WAITING = 20
"""More mails than these are not kept."""


@dataclass(frozen=True)
class Failure:
    """What a mail says of a job that failed.

    :param cause: the cause of death; mails are rationed by it and the run
    :param ending: what became of it, as the end of a sentence: "ran out of memory"
    :param asked: what memory it had been asked for, in the user's words
    :param limit_bytes: the limit on its memory, 0 where none is known
    :param samples: what it used while it ran
    :param ended_s: when it ended, seconds since 1970
    :param durable: its run has a ledger, which others can read
    """

    name: str
    cause: str
    number: int | None = None
    run: str = ""
    host: str = ""
    worker: str = ""
    ending: str = "failed"
    error: str = ""
    suggestion: str = ""
    traceback: str = ""
    log_tail: str = ""
    attempts: int = 0
    exit_status: int | None = None
    signal: int | None = None
    asked: str = ""
    limit_bytes: int = 0
    rss_bytes: int = 0
    peak_rss_bytes: int = 0
    cpu_fraction: float | None = None
    seconds: float | None = None
    ended_s: float | None = None
    log_files: tuple[str, ...] = ()
    samples: tuple[Usage, ...] = ()
    durable: bool = False


def failure_of(
    job: Any,
    samples: Sequence[Usage] | None = None,
    asked: str = "",
    limit_bytes: int = 0,
    durable: bool = False,
) -> Failure:
    """Returns what is to be said of a public Job, of which any attribute may be missing.

    :param samples: what it used; what the job has noted when not given
    """
    ret = getattr(job, "ret", None)
    error = ret if isinstance(ret, BaseException) else None
    cause = str(getattr(job, "cause_of_death", "") or "exception")
    number = str(getattr(job, "uniq_id", ""))
    logs = (getattr(job, "log_stdout_fn", ""), getattr(job, "log_stderr_fn", ""))
    trace = str(getattr(job, "traceback", "") or "")
    told = error if isinstance(error, JobException) else JobException()
    if isinstance(error, JobException) and "Traceback" not in trace:
        trace = ""  # its one line is what the exception says
    return Failure(
        name=str(getattr(job, "name", "") or "job"),
        cause=cause,
        number=int(number) if number.isdecimal() else None,
        run=str(getattr(job, "home_address", "") or ""),
        host=str(getattr(job, "host_name", "") or ""),
        worker=str(getattr(job, "id", "") or ""),
        ending=ending(error, cause),
        error=words(error),
        suggestion=str(told.suggestion),
        traceback=trace,
        log_tail=str(told.log_tail),
        attempts=int(getattr(job, "attempts", 0) or getattr(job, "num_resubmits", 0) + 1),
        exit_status=told.exit_status,
        signal=told.signal,
        asked=asked,
        limit_bytes=told.limit_bytes or limit_bytes,
        rss_bytes=told.rss_bytes or 0,
        peak_rss_bytes=told.peak_rss_bytes or getattr(job, "peak_rss_bytes", 0) or 0,
        cpu_fraction=told.cpu_fraction,
        seconds=getattr(job, "seconds", None),
        ended_s=getattr(job, "ended_s", None),
        log_files=tuple(dict.fromkeys(str(name) for name in logs if name)),
        samples=tuple(_samples_of(job) if samples is None else samples),
        durable=durable,
    )


def _samples_of(job: Any) -> list[Usage]:
    # A point of track_cpu is a number, or (number, running) as get_cpu_load gives it.
    memory, cpu = (getattr(job, name, None) or () for name in ("track_mem", "track_cpu"))
    percents = [point[0] if isinstance(point, Sequence) else point for point in cpu]
    times = getattr(job, "track_time", None) or range(len(memory))
    return [
        Usage(at, float(megabytes) * 1e6, float(percent) / 100)
        for at, megabytes, percent in zip(times, memory, percents, strict=False)
    ]


# --- the text -------------------------------------------------------------------------------------


def error_message(failure: Failure, settings: Settings) -> EmailMessage:
    """Returns the mail about a failed job."""
    where = f" on {failure.host}" if failure.host else ""
    subject = f"gridmap: {line(failure.name, 60)} {failure.ending}{where}"
    number = "" if failure.number is None else f"job {failure.number}"
    of_run = f"of run {failure.run}" if failure.run else ""
    which = " ".join(part for part in (number, of_run) if part)
    lead = f"{line(failure.name)}{f' ({which})' if which else ''} {failure.ending}{where}."
    letter = Letter(subject, lead, _facts(failure), list(_sections(failure)))
    mail = message_of(letter, settings)
    if settings.create_plots:
        _attach_plots(mail, failure)
    return mail


def _facts(failure: Failure) -> list[tuple[str, str]]:
    ended_s, seconds = failure.ended_s, failure.seconds
    ended = _clock_time(ended_s) if ended_s else ""
    if ended and seconds:
        ended += f", after {duration(seconds)}"
    worker = f" (worker {failure.worker})" if failure.host and failure.worker else failure.worker
    return [
        ("Error", failure.error),
        ("What to do", failure.suggestion),
        ("Job", failure.name if failure.number is None else f"{failure.number} ({failure.name})"),
        ("Run", failure.run),
        ("Host", f"{failure.host}{worker}"),
        ("Cause", failure.cause),
        ("Ended", ended),
        ("Attempts", str(failure.attempts) if failure.attempts else ""),
        ("Exit status", "" if failure.exit_status is None else str(failure.exit_status)),
        ("Signal", "" if failure.signal is None else signal_name(failure.signal)),
        ("Memory", _memory(failure)),
        ("Processors", "" if failure.cpu_fraction is None else f"{failure.cpu_fraction:.1f} busy"),
        ("Log files", "\n".join(failure.log_files)),
    ]


def _memory(failure: Failure) -> str:
    last_bytes = failure.rss_bytes
    if not last_bytes and failure.samples:
        last_bytes = int(failure.samples[-1].rss_bytes)
    parts = (
        f"last seen with {human(last_bytes)}" if last_bytes else "",
        f"at most {human(failure.peak_rss_bytes)}" if failure.peak_rss_bytes else "",
        f"asked for {failure.asked}" if failure.asked else "",
        f"limit {human(failure.limit_bytes)}" if failure.limit_bytes else "",
    )
    return ", ".join(part for part in parts if part)


def _sections(failure: Failure) -> list[Section]:
    tail = failure.log_tail
    if not tail:
        tails = (end_of(name) for name in failure.log_files)
        tail = "\n".join(filter(None, tails))
    found = [
        _next(failure.run, failure.number) if failure.durable else None,
        Section("The end of the worker's log", tail, verbatim=True) if tail else None,
        Section("Traceback", failure.traceback, verbatim=True) if failure.traceback else None,
    ]
    return [section for section in found if section is not None]


def _next(run: str, number: int | None = None) -> Section:
    """Returns what to type next about a run that has a ledger."""
    show = f"gridmap jobs {run} --failed" if number is None else f"gridmap show {run} {number}"
    again = f"gridmap.attach({run!r}, again=True).results()"
    text = f"{show}\n    tells what is known\n{again}\n"
    text += "    in Python, when the run is over: runs anew what failed"
    return Section("What to type next", text, verbatim=True)


def digest_message(digest: Digest, settings: Settings, now: float) -> EmailMessage:
    """Returns the mail about failures that no mail told of.

    :param now: on the clock of `since_s`
    """
    one = digest.first[0]
    jobs = "1 more job" if digest.count == 1 else f"{digest.count} more jobs"
    since_s = time.time() - (now - digest.since_s)
    since = f"since {_clock_time(since_s)}"
    of_run = f" of run {digest.run}" if digest.run else ""
    hosts = ", ".join(f"{host}: {count}" for host, count in digest.hosts.most_common(10))
    if len(digest.hosts) > 10:
        hosts += f", and {len(digest.hosts) - 10} others"
    named = "\n".join(
        f"{f.name if f.number is None else f'{f.number} ({f.name})'} {f.ending}"
        + (f" on {f.host}" if f.host else "")
        for f in digest.first
    )
    alike = len(digest.endings) == 1  # not all of them are named
    ways = ", ".join(f"{count} {what}" for what, count in digest.endings.most_common())
    facts = [
        ("Run", digest.run),
        ("Cause", digest.cause),
        ("What became of them", "" if alike else ways),
        ("Jobs on", hosts),
        ("The first" if digest.count > FEW else "Jobs", named),
        ("What to do", one.suggestion),
    ]
    sections = [Section(f"Of {line(one.name, 60)}", one.error, verbatim=True)] if one.error else []
    if one.durable:
        sections.append(_next(digest.run))
    what = one.ending if alike else "failed"
    subject = f"gridmap: {jobs} {what} ({line(one.name, 60)}, ...)"
    return message_of(Letter(subject, f"{jobs}{of_run} {what} {since}.", facts, sections), settings)


def completion_message(
    name: str, settings: Settings, endings: Endings | None = None
) -> EmailMessage:
    """Returns the mail about a run that is over.

    :param endings: how its jobs ended; None: all of them well, as far as is known
    """
    name = line(name, 100)
    if endings is None:
        return message_of(
            Letter(f"gridmap: {name} is done", f"All jobs of {name} are done.", [], []), settings
        )
    counts = f"{endings.completed} jobs completed" if endings.completed != 1 else "1 job completed"
    for count, what in ((endings.failed, "failed"), (endings.canceled, "canceled")):
        counts += f", {count} {what}" if count else ""
    facts = [
        ("Run", endings.run),
        ("Completed", str(endings.completed)),
        ("Failed", str(endings.failed) if endings.failed else ""),
        ("Canceled", str(endings.canceled) if endings.canceled else ""),
        ("Took", duration(endings.seconds)),
        ("Ended", _clock_time(time.time())),
    ]
    sections = []
    groups = sorted(endings.groups.values(), key=lambda group: -group.count)
    for group in groups[:20]:
        more = f", and {group.count - len(group.first)} more" * (group.count > len(group.first))
        text = f"{', '.join(group.first)}{more}\n{group.example}"
        sections.append(Section(f"{group.count} {group.what}", text))
    if not endings.failed and not endings.canceled:
        lead = f"All jobs of {name} are done: {counts}."
        return message_of(Letter(f"gridmap: {name} is done", lead, facts, sections), settings)
    if endings.durable:
        sections.append(_next(endings.run))
    subject = f"gridmap: {name} is over: {counts}"
    return message_of(Letter(subject, f"{name}: {counts}.", facts, sections), settings)


def _clock_time(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(seconds))


def _attach_plots(mail: EmailMessage, failure: Failure) -> None:
    samples = list(failure.samples)
    if failure.ended_s and failure.rss_bytes and failure.cpu_fraction is not None:
        samples.append(Usage(failure.ended_s, failure.rss_bytes, failure.cpu_fraction))
        samples.sort()  # clocks may have been set in between
    if not samples or not plots.available():
        return
    for name, draw in (
        ("memory", lambda: plots.memory_png(samples, failure.limit_bytes)),
        ("cpu", lambda: plots.cpu_png(samples)),
    ):
        try:
            png = draw()
        except Exception:  # a broken matplotlib must not cost the mail
            log.debug("no %s plot", name, exc_info=True)
            continue
        mail.add_attachment(png, maintype="image", subtype="png", filename=f"{name}.png")


# --- delivery -------------------------------------------------------------------------------------


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

    def error(self, failure: Failure, settings: Settings) -> None:
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


def send_error_mail(failure: Failure, settings: Settings) -> None:
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
