"""Mails: what they say, how many there are, and that they hold nothing up."""

from __future__ import annotations

import dataclasses
import io
import logging
import os
import subprocess
import sys
import time
from email.message import EmailMessage
from types import SimpleNamespace
from typing import Any

import pytest

from gridmap.conf import Settings
from gridmap.errors import Cause, JobDied, JobOutOfMemory
from gridmap.report import mail, plots
from gridmap.report.endings import Endings
from gridmap.report.failed_job import FailedJob, failure_of
from gridmap.report.messages import completion_message, error_message
from gridmap.report.story import Usage
from tests.report.mailbox import SOON_S, Post, scripted, settings_for, text_of

FAILURE = FailedJob(
    name="fit_3", cause="died", number=3, host="node7", error="JobDied: SIGSEGV (11)"
)


def test_a_completion_arrives_although_error_mails_are_off(post: Post) -> None:
    inbox, settings = post.serve()
    mail.Mailer().completion("fit", settings._replace(send_error_mail=False))
    assert inbox.mails.get(timeout=SOON_S)["Subject"] == "gridmap: fit is done"


def test_several_recipients(post: Post) -> None:
    inbox, settings = post.serve()
    both = "ada@example.org, bob@example.org"
    mail.Mailer().completion("fit", settings._replace(error_mail_recipient=both))
    inbox.mails.get(timeout=SOON_S)
    assert inbox.envelopes[0].rcpt_tos == ["ada@example.org", "bob@example.org"]


def test_send_error_mail_off_sends_nothing(post: Post) -> None:
    inbox, settings = post.serve()
    mailer = mail.Mailer()
    mailer.error(FAILURE, settings._replace(send_error_mail=False))
    mailer.completion("the one that comes", settings)
    assert "the one that comes" in inbox.mails.get(timeout=SOON_S)["Subject"]
    assert mailer.flush(SOON_S)
    assert inbox.mails.empty()


PROGRAM = """
import dataclasses, sys
from gridmap.conf import Settings
from gridmap.report import mail
from gridmap.report.failed_job import FailedJob
settings = Settings(smtp_server=sys.argv[1], error_mail_recipient="ada@example.org")
failure = FailedJob(name="fit", cause="died", ending="died")
for number in range(3):
    mail.send_error_mail(dataclasses.replace(failure, number=number), settings)
mail.send_completion_mail("fit", settings)
"""


def test_the_end_of_the_program_waits_for_its_mails(post: Post) -> None:
    inbox, settings = post.serve()
    subprocess.run([sys.executable, "-c", PROGRAM, settings.smtp_server], check=True, timeout=60)
    assert {inbox.mails.get(timeout=SOON_S)["Subject"] for _ in range(3)} == {
        "gridmap: fit died",
        "gridmap: 2 more jobs died (fit, ...)",
        "gridmap: fit is done",
    }


def test_but_not_for_a_server_that_hangs() -> None:
    with scripted(lambda connection: None) as port:
        began = time.monotonic()
        subprocess.run([sys.executable, "-c", PROGRAM, f"127.0.0.1:{port}"], check=True, timeout=60)
    assert time.monotonic() - began < mail.EXIT_WAIT_S + 10


def test_a_fork_does_not_send_what_its_parent_will(post: Post) -> None:
    inbox, settings = post.serve()
    mailer = mail.Mailer()
    os.register_at_fork(after_in_child=mailer.forget)  # as that of the module
    mailer.error(FAILURE, settings)
    mailer.error(FAILURE, settings)
    assert mailer.flush(SOON_S)
    child = os.fork()
    if not child:
        mailer.end()
        mailer.flush(SOON_S)
        os._exit(0)
    os.waitpid(child, 0)
    assert inbox.mails.qsize() == 1
    mailer.end()
    assert mailer.flush(SOON_S) and inbox.mails.qsize() == 2


# --- what a mail says -----------------------------------------------------------------------------

DEAD = FailedJob(
    name="fit_3",
    cause="memory",
    number=3,
    run="20260102-030405-abcd",
    host="node7",
    worker="4711.2",
    ending="ran out of memory",
    error="JobOutOfMemory: job 3 (fit_3) ran out of memory on node7",
    suggestion="ask for more memory",
    log_tail="reading\nabout to die: äöü",
    attempts=2,
    signal=9,
    asked="memory=2G",
    limit_bytes=2 << 30,
    rss_bytes=2040 << 20,
    peak_rss_bytes=2045 << 20,
    cpu_fraction=0.97,
    seconds=7500,
    ended_s=1.7e9,
    durable=True,
)
TOLD = (
    "fit_3 (job 3 of run 20260102-030405-abcd) ran out of memory on node7.",
    "JobOutOfMemory: job 3",
    "ask for more memory",
    "node7 (worker 4711.2)",
    "after 2 h 05 min",
    "SIGKILL (9)",
    "last seen with 2.0 GB",
    "asked for memory=2G",
    "limit 2.0 GB",
    "1.0 busy",
    "about to die: äöü",
    "gridmap show 20260102-030405-abcd 3",
)


def test_a_tired_person_learns_all_of_it(post: Post) -> None:
    inbox, settings = post.serve()
    mailer = mail.Mailer()
    mailer.error(DEAD, settings)
    message = inbox.mails.get(timeout=SOON_S)
    assert message["To"] == "ada@example.org"
    assert message["From"] == "gridmap@example.org"
    assert message["Subject"] == "gridmap: fit_3 ran out of memory on node7"
    for kind in ("plain", "html"):
        assert [words for words in TOLD if words not in text_of(message, kind)] == []
    attach = "gridmap.attach('20260102-030405-abcd', again=True)"
    assert attach in text_of(message)
    assert mailer.flush(SOON_S)


def test_what_is_not_known_is_not_said() -> None:
    message = error_message(FailedJob(name="fit", cause="died"), settings_for(1))
    text = text_of(message)
    assert "None" not in text and "Memory" not in text and "attach" not in text


def test_an_exception_of_the_function_has_its_traceback_and_the_log_of_its_worker(tmp_path) -> None:
    log = tmp_path / "worker.err"
    log.write_text("early\n" * 2000 + "last words\n")
    failure = FailedJob(
        "fit", "exception", traceback="Traceback: in f\nKeyError: 1", log_files=(str(log),)
    )
    text = text_of(error_message(failure, settings_for(1)))
    assert "last words" in text and "in f" in text and len(text) < 6000


HOSTILE = "fit\r\nBcc: eve@example.com\r\n\r\n<script>alert(1)</script>\x1b[2J\x00\u202e\udcff"


def test_hostile_names_and_logs(post: Post) -> None:
    inbox, settings = post.serve()
    evil = dataclasses.replace(
        DEAD, name=HOSTILE, run=HOSTILE, host=HOSTILE, error=HOSTILE, suggestion=HOSTILE,
        log_tail=HOSTILE + "x" * 100_000 + "\n10%\r50%\r100%\n.\nFrom ada", ending=HOSTILE,
        traceback=HOSTILE, asked=HOSTILE, worker=HOSTILE, log_files=(HOSTILE,),
    )  # fmt: skip
    mailer = mail.Mailer()
    for _ in range(3):
        mailer.error(evil, settings)
    mailer.end()
    tally = Endings()
    tally.fail(HOSTILE, ValueError(HOSTILE), Cause.EXCEPTION, HOSTILE)
    mailer.completion(HOSTILE, settings, tally)
    assert mailer.flush(SOON_S)
    messages = [inbox.mails.get_nowait() for _ in range(3)]
    assert all(envelope.rcpt_tos == ["ada@example.org"] for envelope in inbox.envelopes)
    for message in messages:
        assert message["Bcc"] is None and "Bcc: eve" in message["Subject"]
        plain, html = text_of(message), text_of(message, "html")
        assert "<script>" not in html and "&lt;script&gt;" in html
        for text in (plain, html):
            assert all(sign.isprintable() or sign == "\n" for sign in text)
        assert len(plain) < 60_000
    assert "\n  100%\n  .\n  From ada" in text_of(messages[0])


# --- plots ----------------------------------------------------------------------------------------


def used(count: int, at_s: float = 1.7e9) -> tuple[Usage, ...]:
    return tuple(Usage(at_s + 10 * n, (n + 1) * 1e8, n % 3) for n in range(count))


def pictures(message: EmailMessage) -> dict[str, Any]:
    image = pytest.importorskip("matplotlib.image")
    found = {}
    for part in message.iter_attachments():
        png = part.get_content()
        assert png.startswith(b"\x89PNG\r\n") and 2000 < len(png) < 200_000
        found[part.get_filename()] = image.imread(io.BytesIO(png))
    return found


def test_plots_are_attached(post: Post) -> None:
    pytest.importorskip("matplotlib")
    inbox, settings = post.serve()
    mail.Mailer().error(dataclasses.replace(DEAD, samples=used(30)), settings)
    found = pictures(inbox.mails.get(timeout=SOON_S))
    assert list(found) == ["memory.png", "cpu.png"]
    for image in found.values():
        height, width, _ = image.shape
        assert (height, width) == (308, 704)
        assert 0.01 < (image[..., :3].min(axis=2) < 0.9).mean() < 0.9  # there is something on it

    mail.Mailer().error(DEAD, settings._replace(create_plots=False))
    assert not list(inbox.mails.get(timeout=SOON_S).iter_attachments())


def test_what_was_seen_at_its_death_is_a_plot_too() -> None:
    assert set(pictures(error_message(DEAD, settings_for(1)))) == {"memory.png", "cpu.png"}


def test_a_broken_matplotlib_costs_the_plots_only(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object) -> bytes:
        raise RuntimeError("no backend")

    monkeypatch.setattr(plots, "available", lambda: True)
    monkeypatch.setattr(plots, "memory_png", broken)
    monkeypatch.setattr(plots, "cpu_png", broken)
    inbox, settings = post.serve()
    mail.Mailer().error(DEAD, settings)
    assert not list(inbox.mails.get(timeout=SOON_S).iter_attachments())


# --- what is told of a Job ------------------------------------------------------------------------


def test_failure_of_a_job() -> None:
    error = JobOutOfMemory(
        "no more\nThe worker's log ends:\nbye", job=3, exit_status=1, log_tail="bye",
        rss_bytes=7, suggestion="more", limit_bytes=8,
    )  # fmt: skip
    job = SimpleNamespace(
        name="fit_3",
        id="4711.1",
        uniq_id="3",
        home_address="run",
        ret=error,
        cause_of_death=Cause.MEMORY,
        traceback="JobOutOfMemory: no more",
        host_name="node7",
        attempts=3,
        log_stdout_fn="/logs/3.o",
        log_stderr_fn="/logs/3.o",
        track_mem=[10.0, 20.0],
        track_cpu=[(50.0, True), (0.0, False)],
        track_time=[1.0, 2.0],
    )
    failure = failure_of(job, asked="memory=1G", limit_bytes=9)
    assert failure == FailedJob(
        name="fit_3",
        cause="memory",
        number=3,
        run="run",
        host="node7",
        worker="4711.1",
        ending="ran out of memory",
        error="JobOutOfMemory: no more",
        suggestion="more",
        log_tail="bye",
        attempts=3,
        exit_status=1,
        asked="memory=1G",
        limit_bytes=8,
        rss_bytes=7,
        log_files=("/logs/3.o",),
        samples=(Usage(1.0, 1e7, 0.5), Usage(2.0, 2e7, 0.0)),
    )
    assert failure_of(object()).cause == "exception"
    job.ret = KeyError("x")
    assert failure_of(job).ending == "raised KeyError"
    assert failure_of(job).traceback


# --- digests and the end of a run -----------------------------------------------------------------


def test_digests_come_when_the_minute_is_over_though_nothing_else_fails(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mail, "INTERVAL_S", 0.4)
    inbox, settings = post.serve()
    mailer = mail.Mailer()
    for number in range(38):
        mailer.error(dataclasses.replace(DEAD, number=number, name=f"fit_{number}"), settings)
    first, digest = (inbox.mails.get(timeout=SOON_S) for _ in range(2))
    assert first["Subject"] == "gridmap: fit_0 ran out of memory on node7"
    assert digest["Subject"] == "gridmap: 37 more jobs ran out of memory (fit_1, ...)"
    text = text_of(digest)
    assert "37 more jobs of run 20260102-030405-abcd ran out of memory since " in text
    assert "node7: 37" in text and "5 (fit_5) ran" in text and "6 (fit_6)" not in text
    assert "gridmap jobs 20260102-030405-abcd --failed\n" in text
    deadline = time.monotonic() + SOON_S
    while mailer._thread is not None:
        assert time.monotonic() < deadline, "the thread does not end"
        time.sleep(0.01)
    assert inbox.mails.empty()


def test_a_digest_of_failures_of_several_kinds_says_how_many_of_each(post: Post) -> None:
    """Though the few that it names are of one kind."""
    inbox, settings = post.serve()
    mailer = mail.Mailer()
    one = dataclasses.replace(DEAD, cause="exception", ending="raised ValueError")
    for failure in [one] * 7 + [dataclasses.replace(one, ending="raised KeyError")] * 4:
        mailer.error(failure, settings)
    mailer.end(DEAD.run)
    assert mailer.flush(SOON_S)
    _, digest = (inbox.mails.get(timeout=SOON_S) for _ in range(2))
    assert digest["Subject"].startswith("gridmap: 10 more jobs failed (")
    assert "6 raised ValueError, 4 raised KeyError" in text_of(digest)


def test_digests_come_when_the_run_ends(post: Post) -> None:
    inbox, settings = post.serve()
    mailer = mail.Mailer()
    other = dataclasses.replace(DEAD, run="other")
    for failure in (DEAD, other, DEAD, other, dataclasses.replace(DEAD, cause="stalled")):
        mailer.error(failure, settings)
    assert mailer.flush(SOON_S) and inbox.mails.qsize() == 3
    mailer.end(DEAD.run)
    assert mailer.flush(SOON_S) and inbox.mails.qsize() == 4
    mailer.end(DEAD.run)
    assert mailer.flush(SOON_S) and inbox.mails.qsize() == 4


def test_the_end_of_a_run_in_numbers() -> None:
    tally = Endings()
    tally.completed = 7
    for number in range(8):
        tally.fail(f"fit_{number}", JobDied("by SIGSEGV"), Cause.DIED, "node1")
    tally.fail("fit_9", KeyError("nine"), Cause.EXCEPTION)
    tally.fail("fit_10", JobDied("canceled", cause=Cause.CANCELED), Cause.CANCELED)
    message = completion_message("fit", settings_for(1), tally)
    counts = "7 jobs completed, 9 failed, 1 canceled"
    assert message["Subject"] == f"gridmap: fit is over: {counts}"
    text = text_of(message)
    assert "8 died" in text and "fit_4 on node1, and 3 more" in text and "by SIGSEGV" in text
    assert "1 raised KeyError" in text and "KeyError: 'nine'" in text and "Took" in text
    assert "gridmap jobs" not in text, "there is no ledger to ask"
    tally.run, tally.durable = "20261127-164101-2ab63806", True
    text = text_of(completion_message("fit", settings_for(1), tally))
    assert f"gridmap jobs {tally.run} --failed\n" in text and f"attach('{tally.run}'" in text


def test_no_more_are_kept_than_can_be_sent(caplog: pytest.LogCaptureFixture) -> None:
    with scripted(lambda connection: None) as port:
        mailer = mail.Mailer()
        for number in range(5 * mail.MOST_WAITING):
            mailer.error(dataclasses.replace(FAILURE, run=f"r{number}"), settings_for(port))
        assert len(mailer._waiting) <= mail.MOST_WAITING
        (told,) = (record for record in caplog.records if "are left out" in record.message)
        assert told.levelno == logging.WARNING
    assert mailer.flush(SOON_S)


def test_the_end_of_a_run_is_mailed_however_many_mails_wait(post: Post) -> None:
    inbox, settings = post.serve()
    mailer = mail.Mailer()
    with mailer._changed:  # nothing is sent meanwhile
        for number in range(2 * mail.MOST_WAITING):
            mailer.error(dataclasses.replace(FAILURE, run=f"r{number}"), settings)
        mailer.completion("fit", settings)
    assert mailer.flush(SOON_S)
    subjects = [inbox.mails.get(timeout=SOON_S)["Subject"] for _ in range(mail.MOST_WAITING + 1)]
    assert subjects[-1] == "gridmap: fit is done"
    assert inbox.mails.empty()


def test_a_user_whose_text_cannot_be_had() -> None:
    class Odd(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no")

    assert failure_of(SimpleNamespace(ret=Odd())).error.startswith("Odd: (its text cannot")


def test_settings_have_no_password() -> None:
    assert not [field for field in Settings._fields if field.endswith("password")]
