"""Real mail servers on this machine: with and without TLS and login, and some that are broken."""

from __future__ import annotations

import contextlib
import email
import email.policy
import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import trustme
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword

from gridmap.conf import Settings

SOON_S = 20.0
USER, PASSWORD = "ada", "correct horse"


class Inbox:
    """Takes mails, or refuses their recipients."""

    def __init__(self, refuses: bool = False) -> None:
        self.refuses = refuses
        self.mails: queue.Queue[EmailMessage] = queue.Queue()
        self.envelopes: list[Any] = []
        self.encrypted: list[bool] = []
        self.logins: list[tuple[bytes, bytes]] = []

    async def handle_RCPT(
        self, server: Any, session: Any, envelope: Any, address: str, options: list[str]
    ) -> str:
        if self.refuses:
            return "550 nobody of that name"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        self.envelopes.append(envelope)
        self.encrypted.append(server.transport.get_extra_info("ssl_object") is not None)
        parsed = email.message_from_bytes(envelope.content, policy=email.policy.default)
        assert isinstance(parsed, EmailMessage)
        self.mails.put(parsed)
        return "250 OK"

    def login(
        self, server: Any, session: Any, envelope: Any, mechanism: str, data: LoginPassword
    ) -> AuthResult:
        self.logins.append((data.login, data.password))
        good = (data.login, data.password) == (USER.encode(), PASSWORD.encode())
        return AuthResult(success=good, handled=False)


class Post:
    """Starts servers, and ends them.

    :param folder: for certificates and passwords
    """

    def __init__(self, folder: Path) -> None:
        self._controllers: list[Controller] = []
        authority = trustme.CA()
        self.ca_file = folder / "authority.pem"
        authority.cert_pem.write_to_path(str(self.ca_file))
        self._certificate = authority.issue_cert("127.0.0.1", "localhost")
        self._of_another = authority.issue_cert("mail.example.org")
        self.password_file = folder / "password"
        self.password_file.touch(0o600)
        self.password_file.write_text(f"{PASSWORD}\n")

    def context(self, of_another: bool = False) -> ssl.SSLContext:
        """Returns what a server encrypts with.

        :param of_another: its certificate names another host
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        (self._of_another if of_another else self._certificate).configure_cert(context)
        return context

    def serve(
        self,
        refuses: bool = False,
        starttls: bool = False,
        tls: bool = False,
        login: bool = False,
        of_another: bool = False,
    ) -> tuple[Inbox, Settings]:
        """Returns the box of a new server, and the settings to reach it."""
        inbox = Inbox(refuses)
        how: dict[str, Any] = {}
        if starttls:
            how["tls_context"] = self.context(of_another)
        if tls:
            how["ssl_context"] = self.context(of_another)
        if login:
            how |= {"authenticator": inbox.login, "auth_required": True}
            how["auth_require_tls"] = not tls  # it does not know that it speaks TLS then
        else:
            how["auth_exclude_mechanism"] = ["LOGIN", "PLAIN"]
        controller = Controller(inbox, hostname="127.0.0.1", port=free_port(), **how)
        controller.start()
        self._controllers.append(controller)
        return inbox, settings_for(controller.port, smtp_ssl=tls)

    def secure(self, settings: Settings, login: bool = False) -> Settings:
        """Returns settings that trust the servers' certificates, and log in."""
        settings = settings._replace(smtp_ca_file=str(self.ca_file))
        if not login:
            return settings
        return settings._replace(smtp_user=USER, smtp_password_file=str(self.password_file))

    def close(self) -> None:
        for controller in self._controllers:
            controller.stop()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def settings_for(port: int, **others: Any) -> Settings:
    settings = Settings(
        smtp_server=f"127.0.0.1:{port}",
        error_mail_sender="gridmap@example.org",
        error_mail_recipient="ada@example.org",
    )
    return settings._replace(**others)


@contextlib.contextmanager
def scripted(talk: Callable[[socket.socket], None]) -> Iterator[int]:
    """Yields the port of a server that does with each connection what `talk` does."""
    over = threading.Event()

    def one(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError, ssl.SSLError):
            talk(connection)
            while not over.is_set() and connection.recv(1000):
                pass  # it stays there and says nothing

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                connections.append(connection)
                threading.Thread(target=one, args=(connection,), daemon=True).start()

    connections: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield int(listener.getsockname()[1])
        over.set()
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)


def says(*answers: bytes) -> Callable[[socket.socket], None]:
    """Returns a talk that greets with the first answer and gives one more for each line."""

    def talk(connection: socket.socket) -> None:
        connection.sendall(answers[0])
        with connection.makefile("rb") as lines:
            for answer in answers[1:]:
                if not lines.readline():
                    return
                connection.sendall(answer)
            while lines.readline():
                pass

    return talk


def trickles(connection: socket.socket) -> None:
    """Never a whole line, and never a pause as long as the timeout of one step."""
    while True:
        connection.sendall(b"2")
        time.sleep(0.02)


def text_of(message: EmailMessage, kind: str = "plain") -> str:
    part = message.get_body((kind,))
    assert part is not None
    return str(part.get_content()).replace("\r\n", "\n")
