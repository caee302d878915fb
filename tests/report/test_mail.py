"""Mails to real servers: one that takes them, one that refuses, one that hangs, none at all."""

from __future__ import annotations

import dataclasses
import email
import email.policy
import logging
import queue
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from email.message import EmailMessage
from types import SimpleNamespace
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from msgspec.structs import replace

from gridmap.conf import Settings
from gridmap.errors import Cause, JobDied
from gridmap.report import mail, plots

SOON_S = 20.0


class Inbox:
    """Takes mails, or refuses their recipients."""

    def __init__(self, refuses: bool = False) -> None:
        self.refuses = refuses
        self.mails: queue.Queue[EmailMessage] = queue.Queue()
        self.envelopes: list[Any] = []

    async def handle_RCPT(
        self, server: Any, session: Any, envelope: Any, address: str, options: list[str]
    ) -> str:
        if self.refuses:
            return "550 nobody of that name"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        self.envelopes.append(envelope)
        parsed = email.message_from_bytes(envelope.content, policy=email.policy.default)
        assert isinstance(parsed, EmailMessage)
        self.mails.put(parsed)
        return "250 OK"


Serve = Callable[..., tuple[Inbox, Settings]]


@pytest.fixture
def serve() -> Iterator[Serve]:
    controllers: list[Controller] = []

    def start(refuses: bool = False) -> tuple[Inbox, Settings]:
        inbox = Inbox(refuses)
        controller = Controller(inbox, hostname="127.0.0.1", port=free_port())
        controller.start()
        controllers.append(controller)
        return inbox, settings_for(controller.port)

    yield start
    for controller in controllers:
        controller.stop()


@pytest.fixture
def silent_server() -> Iterator[Settings]:
    """A server that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield settings_for(listener.getsockname()[1])


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def settings_for(port: int) -> Settings:
    return Settings(
        smtp_server=f"127.0.0.1:{port}",
        error_mail_sender="gridmap@example.org",
        error_mail_recipient="ada@example.org",
        heartbeat_frequency_s=10,
    )


def text_of(message: EmailMessage) -> str:
    part = message.get_body()
    assert part is not None
    return str(part.get_content())


FAILURE = mail.Failure(
    name="fit_3", cause="died", number=3, host="node7", error="JobDied: SIGSEGV (11)"
)


def test_a_failure_arrives(serve: Serve) -> None:
    inbox, settings = serve()
    mailer = mail.Mailer()
    mailer.error(dataclasses.replace(FAILURE, traceback="Traceback: äöü"), settings)
    message = inbox.mails.get(timeout=SOON_S)
    assert message["To"] == "ada@example.org"
    assert message["From"] == "gridmap@example.org"
    assert message["Subject"] == "gridmap: fit_3 failed (died)"
    for fact in ("fit_3 (3)", "node7", "SIGSEGV (11)", "Traceback: äöü"):
        assert fact in text_of(message)
    assert mailer.flush(SOON_S)


def test_a_completion_arrives_although_error_mails_are_off(serve: Serve) -> None:
    inbox, settings = serve()
    mail.Mailer().completion("fit", replace(settings, send_error_mail=False))
    assert inbox.mails.get(timeout=SOON_S)["Subject"] == "gridmap: fit is done"


def test_several_recipients(serve: Serve) -> None:
    inbox, settings = serve()
    both = "ada@example.org, bob@example.org"
    mail.Mailer().completion("fit", replace(settings, error_mail_recipient=both))
    inbox.mails.get(timeout=SOON_S)
    assert inbox.envelopes[0].rcpt_tos == ["ada@example.org", "bob@example.org"]


def test_send_error_mail_off_sends_nothing(serve: Serve) -> None:
    inbox, settings = serve()
    mailer = mail.Mailer()
    mailer.error(FAILURE, replace(settings, send_error_mail=False))
    mailer.completion("the one that comes", settings)
    assert "the one that comes" in inbox.mails.get(timeout=SOON_S)["Subject"]
    assert mailer.flush(SOON_S)
    assert inbox.mails.empty()


def test_one_mail_a_minute_and_cause_and_the_next_counts(serve: Serve) -> None:
    inbox, settings = serve()
    now = 1000.0
    mailer = mail.Mailer(clock=lambda: now)
    for _ in range(8):
        mailer.error(FAILURE, settings)
    mailer.error(dataclasses.replace(FAILURE, cause="stalled"), settings)
    assert mailer.flush(SOON_S)
    now += mail.INTERVAL_S
    mailer.error(FAILURE, settings)
    assert mailer.flush(SOON_S)

    messages = [inbox.mails.get_nowait() for _ in range(inbox.mails.qsize())]
    assert [m["Subject"].rpartition(" ")[2] for m in messages] == ["(died)", "(stalled)", "(died)"]
    assert "7 more failed like this" in text_of(messages[2])
    assert "more failed" not in text_of(messages[0]) + text_of(messages[1])


@pytest.mark.parametrize("kind", ["refusing", "absent", "hanging", "nonsense"])
def test_a_bad_server_is_one_warning_and_no_delay(
    kind: str,
    serve: Serve,
    silent_server: Settings,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(mail, "STEP_TIMEOUT_S", 0.3)
    settings = {
        "refusing": lambda: serve(refuses=True)[1],
        "absent": lambda: settings_for(free_port()),
        "hanging": lambda: silent_server,
        "nonsense": lambda: Settings(smtp_server="127.0.0.1:no", error_mail_recipient="@@"),
    }[kind]()
    caplog.set_level(logging.DEBUG, logger="gridmap.report.mail")
    mailer = mail.Mailer()

    began = time.monotonic()
    for cause in ("died", "stalled", "silent"):
        mailer.error(dataclasses.replace(FAILURE, cause=cause), settings)
    mailer.completion("fit", settings)
    assert time.monotonic() - began < 0.25  # what the caller waits
    assert mailer.flush(SOON_S)

    warnings = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(warnings) == 1, caplog.text
    assert "SMTP_SERVER" in warnings[0].getMessage()
    assert "\n" not in warnings[0].getMessage()
    assert len([r for r in caplog.records if "not sent" in r.getMessage()]) == 4


def test_a_trickling_server_meets_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mail, "DEADLINE_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(SOON_S)
        mailer = mail.Mailer()
        mailer.completion("fit", settings_for(listener.getsockname()[1]))
        connection, _ = listener.accept()
        with connection:
            deadline = time.monotonic() + SOON_S
            # Never a whole line, and never a pause as long as the timeout of one step.
            while not mailer.flush(0.05) and time.monotonic() < deadline:
                try:
                    connection.send(b"2")
                except OSError:
                    break
        assert mailer.flush(SOON_S)
        assert time.monotonic() < deadline


def test_no_more_are_kept_than_can_be_sent(silent_server: Settings) -> None:
    mailer = mail.Mailer()
    for number in range(5 * mail.MOST_WAITING):
        mailer.completion(f"fit {number}", silent_server)
    assert len(mailer._waiting) <= mail.MOST_WAITING


def test_headers_cannot_be_injected(serve: Serve) -> None:
    inbox, settings = serve()
    evil = "fit\r\nBcc: eve@example.com\r\n\r\nHello"
    mail.Mailer().error(mail.Failure(name=evil, cause="died\nX-Evil: 1"), settings)
    message = inbox.mails.get(timeout=SOON_S)
    assert message["Bcc"] is None and message["X-Evil"] is None
    assert inbox.envelopes[0].rcpt_tos == ["ada@example.org"]
    assert message["Subject"].startswith("gridmap: fit Bcc: eve@example.com Hello failed")


def test_text_that_no_encoding_has(serve: Serve) -> None:
    inbox, settings = serve()
    odd = "file \udcff\x00 ünï" + "x" * 50_000
    mail.Mailer().error(mail.Failure(name=odd, cause="died", traceback=odd), settings)
    assert "file" in inbox.mails.get(timeout=SOON_S)["Subject"]


def test_plots_are_attached(serve: Serve) -> None:
    pytest.importorskip("matplotlib")
    inbox, settings = serve()
    used = dataclasses.replace(FAILURE, memory_mb=(1.0, 5.0, 3.0), cpu_percent=(0.0, 99.0))
    mail.Mailer().error(used, settings)
    pngs = list(inbox.mails.get(timeout=SOON_S).iter_attachments())
    assert [png.get_filename() for png in pngs] == ["memory.png", "cpu.png"]
    assert all(png.get_content().startswith(b"\x89PNG\r\n") for png in pngs)

    mail.Mailer().error(used, replace(settings, create_plots=False))
    assert not list(inbox.mails.get(timeout=SOON_S).iter_attachments())


def test_a_broken_matplotlib_costs_the_plots_only(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(values: object, period_s: float) -> bytes:
        raise RuntimeError("no backend")

    monkeypatch.setattr(plots, "available", lambda: True)
    monkeypatch.setattr(plots, "memory_png", broken)
    inbox, settings = serve()
    mail.Mailer().error(dataclasses.replace(FAILURE, memory_mb=(1.0, 2.0)), settings)
    assert not list(inbox.mails.get(timeout=SOON_S).iter_attachments())


def test_failure_of_a_job() -> None:
    job = SimpleNamespace(
        name="fit_3",
        id="4711.1",
        uniq_id="3",
        ret=JobDied("killed"),
        cause_of_death=Cause.MEMORY,
        traceback="Traceback ...",
        host_name="node7",
        num_resubmits=2,
        log_stdout_fn="/logs/3.o",
        log_stderr_fn="",
        track_mem=[10.0, 20.0],
        track_cpu=[(50.0, True), (0.0, False)],
    )
    failure = mail.failure_of(job)
    assert failure == mail.Failure(
        name="fit_3",
        cause="memory",
        number=3,
        host="node7",
        error="JobDied: killed",
        traceback="Traceback ...",
        resubmits=2,
        log_files=("/logs/3.o",),
        memory_mb=(10.0, 20.0),
        cpu_percent=(50.0, 0.0),
    )
    assert mail.failure_of(object()).cause == "exception"


PROGRAM = """
import sys
from gridmap.conf import Settings
from gridmap.report import mail
settings = Settings(smtp_server=sys.argv[1], error_mail_recipient="ada@example.org")
mail.send_error_mail(mail.Failure(name="fit", cause="died"), settings)
mail.send_completion_mail("fit", settings)
"""


def test_the_end_of_the_program_waits_for_its_mails(serve: Serve) -> None:
    inbox, settings = serve()
    subprocess.run([sys.executable, "-c", PROGRAM, settings.smtp_server], check=True, timeout=60)
    assert {inbox.mails.get(timeout=SOON_S)["Subject"] for _ in range(2)} == {
        "gridmap: fit failed (died)",
        "gridmap: fit is done",
    }


def test_but_not_for_a_server_that_hangs(silent_server: Settings) -> None:
    began = time.monotonic()
    subprocess.run(
        [sys.executable, "-c", PROGRAM, silent_server.smtp_server], check=True, timeout=60
    )
    assert time.monotonic() - began < mail.EXIT_WAIT_S + 5
