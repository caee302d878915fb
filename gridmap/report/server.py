"""Talks with a mail server: encrypts, logs in, and hangs up in time.

A password goes over a connection that is encrypted and whose certificate was verified, or not at
all. Without a login, and as long as nobody asks for more, encryption is taken where it is offered,
whatever the certificate: who could forge one could as well take the offer away, and a mail is
worth more than none.
"""

from __future__ import annotations

import contextlib
import os
import smtplib
import socket
import ssl
import stat
import threading
import time
from collections.abc import Iterator
from email.message import EmailMessage
from typing import TYPE_CHECKING, NamedTuple

from gridmap.report.addresses import NONE, guess_server
from gridmap.trust import why_not

if TYPE_CHECKING:
    from gridmap.conf import Settings

STEP_TIMEOUT_S = 10.0
"""How long the server may take for one step."""
DEADLINE_S = 30.0
"""How long it may take for a whole mail."""
SMTP_PORT, SMTPS_PORT = 25, 465
MOST_PASSWORD_BYTES = 4096


class MailServerError(smtplib.SMTPException):
    """The server, or what the settings say of it, is of no use.

    :param change: what to do about it
    """

    def __init__(self, message: str, change: str) -> None:
        super().__init__(message)
        self.change = change


class Talk(NamedTuple):
    """A conversation that has come as far as the first mail.

    :param encryption: for people; "" where there is none
    :param user: who logged in; "" where nobody did
    """

    smtp: smtplib.SMTP
    server: str
    encryption: str
    user: str


def deliver(mail: EmailMessage, settings: Settings) -> None:
    """Hands a mail to the server within DEADLINE_S.

    :raises OSError: the server is not there, or too slow
    :raises smtplib.SMTPException: it does not want the mail, or cannot be used
    """
    with conversation(settings) as talk:
        talk.smtp.send_message(mail)


@contextlib.contextmanager
def conversation(settings: Settings) -> Iterator[Talk]:
    """Connects to the mail server, encrypts and logs in; hangs up after DEADLINE_S at the latest.

    :raises OSError: the server is not there, or too slow
    :raises smtplib.SMTPException: it does not want us
    :raises MailServerError: no encryption or login as the settings ask for
    """
    server = settings.smtp_server or guess_server()
    host, port = address(server, SMTPS_PORT if settings.smtp_ssl else SMTP_PORT)
    login = _login(settings)
    deadline = time.monotonic() + DEADLINE_S
    smtp = smtplib.SMTP(timeout=STEP_TIMEOUT_S)
    # A server that sends a byte now and then never runs into the timeout of one step.
    watchdog = threading.Timer(DEADLINE_S, _hang_up, (smtp,))
    watchdog.daemon = True
    with contextlib.suppress(RuntimeError):  # the program ends, and does not wait for long
        watchdog.start()
    try:
        smtp.sock = _connect(host, port, deadline)
        if time.monotonic() >= deadline:  # the watchdog may have come too early
            raise TimeoutError("timed out")
        encryption = _greet(smtp, host, settings, login is not None)
        if login is not None:
            _log_in(smtp, login)
        yield Talk(smtp, server, encryption, login.user if login else "")
        with contextlib.suppress(OSError, smtplib.SMTPException):  # what was sent is sent
            smtp.quit()
    finally:
        watchdog.cancel()
        smtp.close()


def address(server: str, port: int) -> tuple[str, int]:
    """Returns host and port of HOST, HOST:PORT, [IPV6]:PORT or IPV6.

    :param port: the one where none is named
    :raises MailServerError: it is none of these
    """
    host, colon, number = server.strip().rpartition(":")
    if not colon or (":" in host and not host.endswith("]")):
        host, number = server.strip(), str(port)
    host = host.strip("[]")
    if not host or not number.isdecimal() or not 0 < int(number) < 65536:
        raise MailServerError(f"SMTP_SERVER is {server!r}", "write HOST or HOST:PORT")
    return host, int(number)


def _connect(host: str, port: int, deadline: float) -> socket.socket:
    """Tries all addresses of a host, as long as there is time.

    :raises OSError: none of them answers
    """
    error: OSError = TimeoutError("timed out")
    for family, kind, protocol, _, where in socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM):
        left_s = min(STEP_TIMEOUT_S, deadline - time.monotonic())
        if left_s <= 0:
            break
        sock = None
        try:
            sock = socket.socket(family, kind, protocol)
            sock.settimeout(left_s)
            sock.connect(where)
            sock.settimeout(STEP_TIMEOUT_S)
            return sock
        except OSError as reason:
            error = reason
            if sock is not None:
                sock.close()
    raise error


def _hang_up(smtp: smtplib.SMTP) -> None:
    sock = smtp.sock
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)


# --- encryption -----------------------------------------------------------------------------------

_PLAIN = (
    "set SMTP_STARTTLS=on, or SMTP_SSL=1 with the port where the server speaks TLS from the first "
    "byte (465), or send mails without SMTP_USER"
)


def _greet(smtp: smtplib.SMTP, host: str, settings: Settings, with_login: bool) -> str:
    """Says hello, encrypted where it is to be; returns how, for people; "" for not at all."""
    how, ca_file = settings.smtp_starttls, _file(settings.smtp_ca_file)
    if settings.smtp_ssl:
        _encrypt(smtp, host, ca_file, verified=True)
    code, words = smtp.getreply()
    if code != 220:
        raise smtplib.SMTPConnectError(code, words)
    smtp.ehlo_or_helo_if_needed()
    if settings.smtp_ssl:
        return _encryption(smtp, verified=True)
    if how != "off" and smtp.has_extn("starttls"):
        verified = how == "on" or with_login or bool(ca_file)
        code, words = smtp.docmd("STARTTLS")
        if code != 220:
            raise MailServerError(
                f"it offers STARTTLS and then answers {code} {words.decode(errors='replace')}",
                "ask who runs it, or set SMTP_STARTTLS=off",
            )
        _encrypt(smtp, host, ca_file, verified)
        smtp.ehlo_or_helo_if_needed()
        return _encryption(smtp, verified)
    if how == "on":
        raise MailServerError(
            "it offers no STARTTLS, and SMTP_STARTTLS is on",
            "name a port that does (587), or set SMTP_SSL=1 and port 465, or SMTP_STARTTLS=auto",
        )
    if with_login:
        raise MailServerError(
            "it offers no STARTTLS, and a password does not go over an unencrypted connection",
            "name a port that does (587), or set SMTP_SSL=1 and port 465",
        )
    return ""


def _encrypt(smtp: smtplib.SMTP, host: str, ca_file: str, verified: bool) -> None:
    """Goes on encrypted; what was said in the clear is forgotten."""
    assert smtp.sock is not None
    # First the socket that the watchdog shuts, then the handshake that may hang.
    context = _context(ca_file, verified)
    smtp.sock = sock = context.wrap_socket(
        smtp.sock, server_hostname=host, do_handshake_on_connect=False
    )
    smtp.file = None
    smtp.helo_resp = smtp.ehlo_resp = None
    smtp.esmtp_features, smtp.does_esmtp = {}, False
    try:
        sock.do_handshake()
    except ssl.SSLCertVerificationError as error:
        raise MailServerError(
            f"the certificate of {host} is not to be trusted: {error.verify_message}",
            "set SMTP_SERVER to the name that is in the certificate, and SMTP_CA_FILE to the "
            "certificate of your site's authority (PEM)",
        ) from None
    except ssl.SSLError as error:
        words = error.reason or str(error)
        raise MailServerError(
            f"no TLS with {host}: {words}",
            "SMTP_SSL is for ports where the server speaks TLS from the first byte (465), "
            "SMTP_STARTTLS for the others (25, 587)",
        ) from None


def _context(ca_file: str, verified: bool) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca_file or None)
    except (OSError, ssl.SSLError) as error:
        raise MailServerError(
            f"SMTP_CA_FILE {ca_file}: {error.strerror or error}",
            "name a file with certificates (PEM)",
        ) from None
    if not verified:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _encryption(smtp: smtplib.SMTP, verified: bool) -> str:
    assert isinstance(smtp.sock, ssl.SSLSocket)
    return f"{smtp.sock.version()}, certificate {'' if verified else 'not '}verified"


# --- login ----------------------------------------------------------------------------------------


class _Login(NamedTuple):
    user: str
    password: str

    def __repr__(self) -> str:  # a traceback may show it
        return f"<login of {self.user}>"


def _file(setting: str) -> str:
    return "" if setting == NONE else setting


def _login(settings: Settings) -> _Login | None:
    """Returns who logs in; None: nobody.

    :raises MailServerError: somebody is to, and cannot
    """
    user, path = _file(settings.smtp_user), _file(settings.smtp_password_file)
    if not user and not path:
        return None
    if not user or not path:
        missing = "SMTP_PASSWORD_FILE" if user else "SMTP_USER"
        there = "SMTP_USER" if user else "SMTP_PASSWORD_FILE"
        raise MailServerError(
            f"{there} is set and {missing} is not",
            "set both, or none; a password is read from a file of mode 600 only, never from the "
            "environment or from gridmap.toml",
        )
    if not settings.smtp_ssl and settings.smtp_starttls == "off":
        raise MailServerError(
            "SMTP_STARTTLS is off, and a password does not go over an unencrypted connection",
            _PLAIN,
        )
    return _Login(user, read_password(path))


def read_password(path: str) -> str:
    """Returns the first line of a file that only its owner can read.

    :raises MailServerError: there is no such file, or others can read it
    """
    name = f"SMTP_PASSWORD_FILE {path}"
    try:
        number = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(number, "rb") as file:
            status = os.fstat(number)
            reason = why_not(path, status)
            if not reason and stat.S_IMODE(status.st_mode) & 0o077:
                mode = stat.S_IMODE(status.st_mode)
                reason = f"others may read it (mode {mode:o}); run: chmod 600 {path}"
            if reason:
                raise MailServerError(f"{name} is not used: {reason}", f"chmod 600 {path}")
            line = file.read(MOST_PASSWORD_BYTES).split(b"\n")[0].rstrip(b"\r")
    except MailServerError:  # an OSError, as all errors of smtplib
        raise
    except OSError as error:
        change = "write the password, one line, to a file of mode 600 and name it"
        raise MailServerError(f"{name}: {error.strerror}", change) from None
    if not line or not line.isascii():  # smtplib encodes it as ASCII
        what = "has characters other than ASCII" if line else "has an empty first line"
        raise MailServerError(f"{name} {what}", "write the password to its first line")
    return line.decode("ascii")


def _log_in(smtp: smtplib.SMTP, login: _Login) -> None:
    try:
        smtp.login(login.user, login.password)
    except smtplib.SMTPAuthenticationError as error:
        words = error.smtp_error
        said = words.decode(errors="replace") if isinstance(words, bytes) else words
        raise MailServerError(
            f"it does not let {login.user} in: {error.smtp_code} {said}",
            "see whether SMTP_USER and the password in SMTP_PASSWORD_FILE are right",
        ) from None
    except smtplib.SMTPException as error:
        if type(error) not in (smtplib.SMTPNotSupportedError, smtplib.SMTPException):
            raise  # the others say what happened, these that there is no way to log in
        raise MailServerError(
            "it takes no login here",
            "name the port for submission (587 or 465), or unset SMTP_USER and SMTP_PASSWORD_FILE",
        ) from None
