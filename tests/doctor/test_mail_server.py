"""The probe of the mail server, with real ones: that take, refuse, hang, or are not there."""

from __future__ import annotations

import queue
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP

from gridmap.conf import Settings
from gridmap.doctor import mail_server
from gridmap.doctor.findings import Finding, Status
from gridmap.report import server
from tests.doctor.visits import exam
from tests.report.mailbox import USER, Post


class Inbox:
    """Takes mails, or refuses an address."""

    def __init__(self, refuses: str = "") -> None:
        self.refuses = refuses
        self.mails: queue.Queue[bytes] = queue.Queue()
        self.asked: list[str] = []

    async def handle_MAIL(
        self, server: SMTP, session: Any, envelope: Any, address: str, options: list[str]
    ) -> str:
        if address == self.refuses:
            return "553 not from here"
        envelope.mail_from = address
        return "250 OK"

    async def handle_RCPT(
        self, server: SMTP, session: Any, envelope: Any, address: str, options: list[str]
    ) -> str:
        self.asked.append(address)
        if address == self.refuses:
            return "550 nobody of that name"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Any, envelope: Any) -> str:
        self.mails.put(envelope.content)
        return "250 OK"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.fixture
def serve() -> Iterator[Callable[..., tuple[Inbox, int]]]:
    controllers: list[Controller] = []

    def start(refuses: str = "") -> tuple[Inbox, int]:
        inbox = Inbox(refuses)
        controller = Controller(inbox, hostname="127.0.0.1", port=free_port())
        controller.start()
        controllers.append(controller)
        return inbox, controller.port

    yield start
    for controller in controllers:
        controller.stop()


def looked(port: int, *words: str, **settings: Any) -> Finding:
    visit = exam("--backend", "slurm", *words)
    assert visit.settings is not None
    visit.settings = Settings(
        smtp_server=f"127.0.0.1:{port}",
        error_mail_sender="gridmap@example.org",
        error_mail_recipient="ada@example.org",
    )._replace(**settings)
    (found,) = mail_server.examine(visit)
    # a server that somebody has chosen may be back soon
    off = found.status is not Status.OK and not visit.settings.smtp_server and "--mail" not in words
    assert visit.needed == ({("settings", "SEND_ERROR_MAIL"): False} if off else {})
    return found


def test_a_server_that_would_take_it_gets_none(serve: Callable[..., tuple[Inbox, int]]) -> None:
    inbox, port = serve()
    told = looked(port)
    assert told.status is Status.OK and ", unencrypted; none was sent" in told.found
    assert inbox.asked == ["ada@example.org"] and inbox.mails.empty()


def test_a_mail_is_sent_on_demand(serve: Callable[..., tuple[Inbox, int]]) -> None:
    inbox, port = serve()
    told = looked(port, "--mail", send_error_mail=False)
    assert told.status is Status.OK and "ada@example.org" in told.found
    assert b"gridmap_doctor" in inbox.mails.get(timeout=10)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("ada@example.org", "the recipient ada@example.org: 550 nobody of that name"),
        ("gridmap@example.org", "the sender gridmap@example.org: 553 not from here"),
    ],
)
def test_a_refused_address(
    serve: Callable[..., tuple[Inbox, int]], address: str, words: str
) -> None:
    inbox, port = serve(refuses=address)
    told = looked(port)
    assert told.status is Status.FAILED and words in told.found
    assert "ERROR_MAIL_RECIPIENT" in told.change and inbox.mails.empty()
    told = looked(port, "--mail")
    assert told.status is Status.FAILED and address in told.found or "553" in told.found


def test_a_server_that_is_not_there() -> None:
    told = looked(free_port())
    assert told.status is Status.FAILED and "refused" in told.found
    assert "SMTP_SERVER" in told.change


def test_a_server_that_was_guessed_and_is_not_there_is_a_warning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    guessed = f"127.0.0.1:{free_port()}"
    monkeypatch.setattr("gridmap.report.addresses.guess_server", lambda: guessed)
    monkeypatch.setattr("gridmap.report.server.guess_server", lambda: guessed)
    told = looked(0, smtp_server="")
    assert told.status is Status.WARNING and "guessed" in told.found


def test_a_server_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "STEP_TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        told = looked(listener.getsockname()[1])
    assert told.status is Status.FAILED and "timed out" in told.found


def test_where_no_mail_would_be_sent_nothing_is_asked() -> None:
    assert looked(free_port(), send_error_mail=False).status is Status.SKIPPED
    visit = exam("--backend", "local")
    (told,) = mail_server.examine(visit)
    assert told.status is Status.SKIPPED


@pytest.fixture
def post(tmp_path: Path) -> Iterator[Post]:
    made = Post(tmp_path)
    yield made
    made.close()


def looked_securely(settings: Settings, **others: Any) -> Finding:
    port = int(settings.smtp_server.rpartition(":")[2])
    names = ("smtp_ssl", "smtp_ca_file", "smtp_user", "smtp_password_file")
    return looked(port, **{name: getattr(settings, name) for name in names}, **others)


def test_encryption_and_login_are_tried_and_nothing_is_sent(post: Post) -> None:
    inbox, settings = post.serve(starttls=True, login=True)
    told = looked_securely(post.secure(settings, login=True))
    assert told.status is Status.OK and inbox.mails.empty()
    assert "from ada, who could log in" in told.found and "certificate verified" in told.found


def test_a_login_that_fails(post: Post) -> None:
    _, settings = post.serve(starttls=True, login=True)
    post.password_file.write_text("wrong")
    told = looked_securely(post.secure(settings, login=True))
    assert told.status is Status.FAILED and f"does not let {USER} in" in told.found
    assert "SMTP_PASSWORD_FILE" in told.change
    post.password_file.chmod(0o644)
    told = looked_securely(post.secure(settings, login=True))
    assert "others may read it (mode 644)" in told.found and "chmod 600" in told.change


def test_starttls_that_fails(post: Post) -> None:
    _, settings = post.serve(starttls=True, of_another=True)
    told = looked_securely(post.secure(settings))
    assert told.status is Status.FAILED and "certificate of 127.0.0.1" in told.found
    assert "SMTP_CA_FILE" in told.change
    _, settings = post.serve()
    told = looked_securely(settings, smtp_starttls="on")
    assert told.status is Status.FAILED and "offers no STARTTLS" in told.found
