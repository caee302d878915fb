"""Makes the mails: of a job that failed, of others like it, and of a run that is over."""

from __future__ import annotations

import logging
import time
from email.message import EmailMessage
from typing import TYPE_CHECKING

from gridmap._numbers import duration
from gridmap.core.memory import human
from gridmap.errors import signal_name
from gridmap.report import plots
from gridmap.report.digest import FEW, Digest
from gridmap.report.endings import Endings
from gridmap.report.failed_job import FailedJob
from gridmap.report.letter import Letter, Section, line, message_of
from gridmap.report.logs import end_of
from gridmap.report.story import Usage

if TYPE_CHECKING:
    from gridmap.conf import Settings

log = logging.getLogger(__name__)


def error_message(failure: FailedJob, settings: Settings) -> EmailMessage:
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


def _facts(failure: FailedJob) -> list[tuple[str, str]]:
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


def _memory(failure: FailedJob) -> str:
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


def _sections(failure: FailedJob) -> list[Section]:
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


def _attach_plots(mail: EmailMessage, failure: FailedJob) -> None:
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
