"""Who gets in: the token, the session that it opens, and what browsers are told."""

from __future__ import annotations

import hmac
import ipaddress
import secrets
import socket
from collections import OrderedDict
from http.cookies import CookieError, SimpleCookie
from typing import NamedTuple
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MOST_SESSIONS = 1000
MOST_BODY_BYTES = 64 << 10

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # not no-referrer: with that, browsers send no Origin with a form of this very page
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
REFUSED = (
    "gridmap_web printed an address when it was started. Open that one: it holds the token that "
    "this page needs.\nIf you have just come from there, load this page again.\n"
)
FORGED = "This did not come from a page of gridmap_web. Go back, load the page again, and retry.\n"
NO_SUCH_HOST = (
    "gridmap_web is not known by this name. Open it as 127.0.0.1 or localhost, or start it with "
    "--host and the name of this machine.\n"
)


class Session(NamedTuple):
    """Somebody who knew the token.

    :param form_token: what each form of theirs holds
    """

    id: str
    form_token: str


class Lock:
    """Knows the token, the sessions that it opened, and the names of this machine.

    :param host: where it listens
    """

    def __init__(self, host: str, port: int) -> None:
        self.token = secrets.token_urlsafe(32)
        self.cookie = f"gridmap_web_{port}"  # those of other ports of this host are sent here, too
        self._names = names_of(host)
        self._loopback = is_loopback(host)
        self._sessions: OrderedDict[str, Session] = OrderedDict()

    def opens(self, given: str) -> bool:
        """Returns whether this is the token."""
        return hmac.compare_digest(given.encode("utf-8", "replace"), self.token.encode())

    def new_session(self) -> Session:
        session = Session(secrets.token_urlsafe(32), secrets.token_urlsafe(32))
        self._sessions[session.id] = session
        while len(self._sessions) > MOST_SESSIONS:
            self._sessions.popitem(last=False)
        return session

    def session(self, cookies: str) -> Session | None:
        """Returns the session of somebody who sent these cookies."""
        try:
            found = SimpleCookie(cookies).get(self.cookie)
        except CookieError:
            return None
        # 256 random bits: how long the look-up takes tells nothing that helps to guess them
        return None if found is None else self._sessions.get(found.value)

    def is_here(self, host: str) -> bool:
        """Returns whether this machine is meant: a page elsewhere could reach it by a name of its
        own, which is never one of these."""
        name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
        if name in self._names:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return address.is_loopback or not self._loopback


def names_of(host: str) -> frozenset[str]:
    """Returns by which names a server that listens there may be called."""
    names = {"localhost", host.lower()}
    if not is_loopback(host):
        names |= {socket.gethostname().lower(), socket.getfqdn().lower()}
    return frozenset(names)


def is_loopback(host: str) -> bool:
    """Returns whether only this machine can reach it."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class Gate:
    """Stands before all pages: lets in who has the token, and says to browsers what is allowed."""

    def __init__(self, app: ASGIApp, lock: Lock) -> None:
        self._app = app
        self._lock = lock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return

        async def send_on(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        answer = self._refuse(scope)
        await (answer or self._app)(scope, receive, send_on)

    def _refuse(self, scope: Scope) -> Response | None:
        """Returns what to answer instead of a page; None lets in."""
        headers = Headers(scope=scope)
        try:
            here = self._lock.is_here(headers.get("host", ""))
        except ValueError:  # no host at all
            here = False
        if not here:
            return PlainTextResponse(NO_SUCH_HOST, 403)
        request = Request(scope)
        given = request.query_params.get("token")
        if given is not None and scope["method"] in ("GET", "HEAD"):
            if not self._lock.opens(given):
                return PlainTextResponse(REFUSED, 403)
            return self._welcome(request)
        session = self._lock.session(headers.get("cookie", ""))
        if session is None:
            return PlainTextResponse(REFUSED, 403)
        if scope["method"] not in ("GET", "HEAD") and not is_own(headers):
            return PlainTextResponse(FORGED, 403)
        scope["session_of_gridmap"] = session
        return None

    def _welcome(self, request: Request) -> Response:
        """Returns the way to the same address without the token, and a cookie."""
        rest = [one for one in parse_qsl(request.url.query) if one[0] != "token"]
        path = "/" + request.url.path.lstrip("/")  # //elsewhere is another host
        response = RedirectResponse(path + (f"?{urlencode(rest)}" if rest else ""), 303)
        session = self._lock.new_session()
        response.set_cookie(
            self._lock.cookie, session.id, path="/", httponly=True, samesite="strict"
        )
        return response


def is_own(headers: Headers) -> bool:
    """Returns whether a form came from a page of this very server, as the browser tells."""
    if headers.get("sec-fetch-site", "same-origin") != "same-origin":
        return False
    source = headers.get("origin") or headers.get("referer")
    if not source:
        return False
    try:
        parts = urlsplit(source)
    except ValueError:  # no browser sends it
        return False
    return parts.scheme == "http" and parts.netloc == headers.get("host")


def session_of(request: Request) -> Session:
    """Returns the session that the Gate has found."""
    session: Session = request.scope["session_of_gridmap"]
    return session


async def read_form(request: Request) -> dict[str, str] | None:
    """Returns what a form holds; None where it is none of this session's."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > MOST_BODY_BYTES:
            return None
    try:
        fields = dict(parse_qsl(body.decode("utf-8", "strict"), keep_blank_values=True))
    except ValueError:
        return None
    known = session_of(request).form_token.encode()
    given = fields.pop("form_token", "").encode()
    return fields if hmac.compare_digest(given, known) else None
