"""The way to the mail server: encryption, login, and servers that are broken in each way."""

from __future__ import annotations

import logging
import os
import smtplib
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gridmap.conf import Settings
from gridmap.report import mail, server
from gridmap.report.failed_job import FailedJob
from gridmap.report.messages import completion_message
from gridmap.report.server import MailServerError, address, conversation
from tests.report.mailbox import (
    PASSWORD,
    SOON_S,
    USER,
    Post,
    free_port,
    says,
    scripted,
    settings_for,
    trickles,
)


def send(settings: Settings) -> None:
    server.deliver(completion_message("fit", settings), settings)


# --- encryption -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "offered", "encrypted"),
    [("auto", True, True), ("auto", False, False), ("on", True, True), ("off", True, False)],
)
def test_starttls(post: Post, how: str, offered: bool, encrypted: bool) -> None:
    inbox, settings = post.serve(starttls=offered)
    send(post.secure(settings)._replace(smtp_starttls=how))
    assert inbox.encrypted == [encrypted]


def test_tls_from_the_first_byte(post: Post) -> None:
    inbox, settings = post.serve(tls=True)
    with conversation(post.secure(settings)) as talk:
        assert talk.encryption.endswith("certificate verified")
    send(post.secure(settings))
    assert inbox.encrypted == [True]


def test_starttls_that_is_not_offered_is_not_done_without(post: Post) -> None:
    inbox, settings = post.serve()
    with pytest.raises(MailServerError, match="offers no STARTTLS") as caught:
        send(settings._replace(smtp_starttls="on"))
    assert "587" in caught.value.change and inbox.mails.empty()


@pytest.mark.parametrize("of_another", [False, True])
@pytest.mark.parametrize(
    "how",
    [
        {"smtp_starttls": "on"},
        {"smtp_ca_file": "given"},
        {"smtp_user": USER, "smtp_password_file": "given"},
        {"smtp_ssl": True},
    ],
)
def test_a_certificate_that_is_not_to_be_trusted(
    post: Post, how: dict[str, str], of_another: bool, tmp_path: Path
) -> None:
    """It is unknown to the system, or names another host."""
    tls = "smtp_ssl" in how
    inbox, settings = post.serve(starttls=not tls, tls=tls, of_another=of_another)
    wanted = settings._replace(**how)  # type: ignore[arg-type]
    if "smtp_user" in how:
        wanted = post.secure(settings, login=True)._replace(smtp_ca_file="none")
    if "smtp_ca_file" in how or of_another:
        wanted = wanted._replace(smtp_ca_file=str(post.ca_file))
    if "smtp_ca_file" in how and not of_another:
        other = tmp_path / "other"
        other.mkdir()
        wanted = wanted._replace(smtp_ca_file=str(Post(other).ca_file))
    with pytest.raises(MailServerError, match=r"certificate of 127\.0\.0\.1") as caught:
        send(wanted)
    assert "SMTP_CA_FILE" in caught.value.change
    assert inbox.mails.empty() and not inbox.logins


def test_without_a_login_any_certificate_is_better_than_none(post: Post) -> None:
    inbox, settings = post.serve(starttls=True, of_another=True)
    with conversation(settings) as talk:
        assert talk.encryption.endswith("certificate not verified")
    send(settings)
    assert inbox.encrypted == [True]


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_ca_file_of_no_use(post: Post, tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    _, settings = post.serve(starttls=True)
    with pytest.raises(MailServerError, match="SMTP_CA_FILE"):
        send(settings._replace(smtp_ca_file=str(path)))


def test_tls_where_there_is_none(post: Post) -> None:
    _, settings = post.serve()
    with pytest.raises(MailServerError, match="no TLS with") as caught:
        send(settings._replace(smtp_ssl=True))
    assert "SMTP_STARTTLS" in caught.value.change


# --- login ----------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")
@pytest.mark.parametrize("tls", [False, True])
def test_login(post: Post, tls: bool) -> None:
    inbox, settings = post.serve(starttls=not tls, tls=tls, login=True)
    with conversation(post.secure(settings, login=True)) as talk:
        assert talk.user == USER
    send(post.secure(settings, login=True))
    assert inbox.encrypted == [True]
    assert set(inbox.logins) == {(USER.encode(), PASSWORD.encode())}


def test_a_password_does_not_go_unencrypted(post: Post) -> None:
    inbox, settings = post.serve(login=False)
    for how in ("auto", "off"):
        with pytest.raises(MailServerError, match="password does not go over an unencrypted"):
            send(post.secure(settings, login=True)._replace(smtp_starttls=how))
    assert not inbox.logins and inbox.mails.empty()


def test_a_wrong_password_is_not_told(post: Post) -> None:
    inbox, settings = post.serve(starttls=True, login=True)
    post.password_file.write_text("wrong secret")
    with pytest.raises(MailServerError, match="does not let ada in: 535") as caught:
        send(post.secure(settings, login=True))
    assert "wrong" not in f"{caught.value!r} {caught.value.change}"
    assert inbox.mails.empty()


def test_a_server_without_logins(post: Post) -> None:
    _, settings = post.serve(starttls=True)
    with pytest.raises(MailServerError, match="takes no login") as caught:
        send(post.secure(settings, login=True))
    assert "587" in caught.value.change


def test_a_login_that_is_half_set(post: Post) -> None:
    _, settings = post.serve(starttls=True, login=True)
    for half in ({"smtp_user": USER}, {"smtp_password_file": str(post.password_file)}):
        with pytest.raises(MailServerError, match=r"is set and SMTP_\w+ is not"):
            send(settings._replace(**half))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660])
def test_a_password_that_others_may_read(post: Post, mode: int) -> None:
    post.password_file.chmod(mode)
    with pytest.raises(MailServerError, match="chmod"):
        server.read_password(str(post.password_file))


def test_password_files_of_no_use(post: Post, tmp_path: Path) -> None:
    assert server.read_password(str(post.password_file)) == PASSWORD
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name in ("nosuch", "pipe", "."):
        with pytest.raises(MailServerError, match="SMTP_PASSWORD_FILE"):
            server.read_password(str(tmp_path / name))
    for text in ("", "\nsecond", "pässword"):
        post.password_file.write_text(text)
        with pytest.raises(MailServerError) as caught:
            server.read_password(str(post.password_file))
        assert "pässword" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("mail.example.org", ("mail.example.org", 25)),
        ("mail.example.org:587", ("mail.example.org", 587)),
        ("::1", ("::1", 25)),
        ("[::1]:2525", ("::1", 2525)),
        ("[::1]", ("::1", 25)),
    ],
)
def test_addresses(given: str, found: tuple[str, int]) -> None:
    assert address(given, 25) == found


@pytest.mark.parametrize("given", ["host:no", "host:0", "host:70000", ":25", ""])
def test_what_is_no_address(given: str) -> None:
    with pytest.raises(MailServerError, match="SMTP_SERVER"):
        address(given, 25)


# --- servers that are broken ----------------------------------------------------------------------

GREETING, HELLO = b"220 here\r\n", b"250-here\r\n250-STARTTLS\r\n250 8BITMIME\r\n"
PLAIN = b"250 here\r\n"
HANGS: dict[str, Callable[[socket.socket], None]] = {
    "no greeting": lambda connection: None,
    "no answer to EHLO": says(GREETING),
    "no answer to STARTTLS": says(GREETING, HELLO),
    "no handshake": says(GREETING, HELLO, b"220 go\r\n"),
    "no answer to MAIL": says(GREETING, PLAIN),
    "no answer to RCPT": says(GREETING, PLAIN, b"250 ok\r\n"),
    "no answer to DATA": says(GREETING, PLAIN, b"250 ok\r\n", b"250 ok\r\n"),
    "no word on the mail": says(GREETING, PLAIN, b"250 ok\r\n", b"250 ok\r\n", b"354 go\r\n"),
}
REFUSES = {
    "greeting": says(b"554 go away\r\n"),
    "EHLO": says(GREETING, b"550 no\r\n", b"550 no\r\n"),
    "STARTTLS": says(GREETING, HELLO, b"454 not now\r\n"),
    "MAIL": says(GREETING, PLAIN, b"553 not from there\r\n"),
    "RCPT": says(GREETING, PLAIN, b"250 ok\r\n", b"550 nobody\r\n"),
    "DATA": says(GREETING, PLAIN, b"250 ok\r\n", b"250 ok\r\n", b"554 no\r\n"),
    "nonsense": says(b"\xff\xfe\x00\r\n" * 3),
    "endless line": says(b"2" * 20_000),
}


def closes(connection: socket.socket) -> None:
    connection.sendall(GREETING)
    connection.recv(100)
    connection.shutdown(socket.SHUT_RDWR)


def one_warning(port: int, caplog: pytest.LogCaptureFixture, **settings: object) -> str:
    """Sends two mails; returns the one warning about them when the thread is gone."""
    caplog.set_level(logging.DEBUG, "gridmap.report.mail")
    mailer = mail.Mailer()
    wanted = settings_for(port, **settings)
    began = time.monotonic()
    for cause in ("died", "stalled"):
        mailer.error(FailedJob(name="fit_3", cause=cause), wanted)
    assert time.monotonic() - began < 0.5  # what the run waits
    assert mailer.flush(SOON_S)
    deadline = time.monotonic() + SOON_S
    while mailer._thread is not None:
        assert time.monotonic() < deadline, "the thread has not ended"
        time.sleep(0.005)
    told = [r for r in caplog.records if f"was not sent through 127.0.0.1:{port}" in r.getMessage()]
    assert [r.levelname for r in told] == ["WARNING", "DEBUG"]
    warning = told[0].getMessage()
    assert "\n" not in warning
    return warning


@pytest.mark.parametrize("step", HANGS)
def test_a_server_that_hangs(
    step: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server, "STEP_TIMEOUT_S", 0.3)
    with scripted(HANGS[step]) as port:
        assert "timed out" in one_warning(port, caplog)


@pytest.mark.parametrize("step", REFUSES)
def test_a_server_that_refuses(
    step: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server, "STEP_TIMEOUT_S", 1.0)
    with scripted(REFUSES[step]) as port:
        one_warning(port, caplog)


def test_a_server_that_hangs_at_the_login(
    post: Post, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server, "STEP_TIMEOUT_S", 1.0)

    def talk(connection: socket.socket) -> None:
        with post.context().wrap_socket(connection, server_side=True) as encrypted:
            encrypted.sendall(GREETING)
            encrypted.recv(1000)
            encrypted.sendall(b"250-here\r\n250 AUTH PLAIN\r\n")
            while encrypted.recv(1000):
                pass

    with scripted(talk) as port:
        secure = post.secure(settings_for(port), login=True)
        fields = ("smtp_ca_file", "smtp_user", "smtp_password_file")
        others = {field: getattr(secure, field) for field in fields}
        assert "timed out" in one_warning(port, caplog, smtp_ssl=True, **others)


@pytest.mark.parametrize("tls", [False, True])
def test_a_byte_now_and_then(
    tls: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The deadline of the whole mail ends what no timeout of a step would."""
    monkeypatch.setattr(server, "DEADLINE_S", 0.7)
    with scripted(trickles) as port:
        began = time.monotonic()
        one_warning(port, caplog, smtp_ssl=tls)
        assert time.monotonic() - began < server.STEP_TIMEOUT_S


def test_one_that_closes_in_the_middle(caplog: pytest.LogCaptureFixture) -> None:
    with scripted(closes) as port:
        assert "hung up" in one_warning(port, caplog)


def test_one_that_is_not_there(caplog: pytest.LogCaptureFixture) -> None:
    assert "refused" in one_warning(free_port(), caplog)


def test_one_whose_address_nobody_answers(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Connections that are neither taken nor refused: the queue of a listener is full."""
    monkeypatch.setattr(server, "STEP_TIMEOUT_S", 0.3)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        waiting = []
        for _ in range(4):
            one = socket.socket()
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", port))
            waiting.append(one)
        try:
            assert "timed out" in one_warning(port, caplog)
        finally:
            for one in waiting:
                one.close()


def test_one_without_a_route(caplog: pytest.LogCaptureFixture) -> None:
    """No host has a way to broadcast by TCP; Linux says so at once."""
    caplog.set_level(logging.WARNING, "gridmap.report.mail")
    mailer = mail.Mailer()
    mailer.completion("fit", settings_for(25)._replace(smtp_server="255.255.255.255"))
    assert mailer.flush(SOON_S)
    assert "unreachable" in caplog.text or "denied" in caplog.text


def test_a_server_that_does_not_say_goodbye_has_the_mail(post: Post) -> None:
    answers = (GREETING, PLAIN, b"250 ok\r\n", b"250 ok\r\n", b"354 go\r\n")
    taken = threading.Event()

    def talk(connection: socket.socket) -> None:
        connection.sendall(answers[0])
        with connection.makefile("rb") as lines:
            for answer in answers[1:]:
                lines.readline()
                connection.sendall(answer)
            while lines.readline() != b".\r\n":
                pass
            connection.sendall(b"250 taken\r\n")
            taken.set()
            lines.readline()
            connection.shutdown(socket.SHUT_RDWR)

    with scripted(talk) as port:
        send(settings_for(port))
    assert taken.is_set()


def test_errors_of_smtplib_stay_what_they_are(post: Post) -> None:
    _, settings = post.serve(refuses=True)
    with pytest.raises(smtplib.SMTPRecipientsRefused):
        send(settings)
