"""A socket that listens: encrypted, for one key and nobody else.

Nothing here waits.  It is used by one thread only.
"""

from __future__ import annotations

import contextlib
import errno
import hmac
import logging
import socket
import time
from collections.abc import Sequence
from types import TracebackType
from typing import TypeVar

import zmq
from zmq.utils import z85

from gridmap.wire import address as addressing
from gridmap.wire.codec import LIMITS, Buffer, Limits, Part
from gridmap.wire.gate import Gate
from gridmap.wire.keys import KeyPair
from gridmap.wire.sockets import (
    FOR_EVER_MS,
    LEAST_LINGER_MS,
    PING_TIMEOUT_MS,
    configure,
    end,
    happened,
    ports,
    put,
    readable,
    take,
    watch,
)

logger = logging.getLogger(__name__)

_Self = TypeVar("_Self", bound="Door")

_FAILED = zmq.Event.HANDSHAKE_FAILED_PROTOCOL | zmq.Event.HANDSHAKE_FAILED_NO_DETAIL
_OF_GATE = (
    zmq.Event.LISTENING
    | zmq.Event.ACCEPTED
    | zmq.Event.DISCONNECTED
    | zmq.Event.HANDSHAKE_SUCCEEDED
)
_ZAP_DOMAIN = b"gridmap"
PING_PATIENCE = 3
"""Of the silence after which a connection is dropped, this part comes after a ping.

Each message that follows a ping ends a timer, and libzmq seeks that among those of all peers, in
the order in which they fall due: with 10,000 peers that took half a processor where pings were
frequent and patient.  Agents send pings of their own, and heartbeats, so few pings do.
"""


class Door:
    """Listens, lets those in who have the key, and nobody else.

    :param server: the pair by which it is known
    :param guests: the key of all who may come in, Z85
    :param interface: name or address of the only interface to listen on; None: all of them
    :param port: a port, or the first and last of a range; None: any free one
    :param local: listens at this endpoint of the host itself, and at no port
    :param visitors: those who have the key come and go as they like, also before they have shown it
    :raises AddressError: the interface does not exist, or no port of the range is free

    `strangers` counts attempts to connect that ended without the key (all that ZeroMQ tells of).
    """

    def __init__(
        self,
        server: KeyPair,
        guests: bytes,
        interface: str | None = None,
        port: int | tuple[int, int] | None = None,
        limits: Limits = LIMITS,
        ping_timeout_ms: int = PING_TIMEOUT_MS,
        local: str = "",
        visitors: bool = False,
    ) -> None:
        self.strangers = 0
        self._visitors = visitors
        self.limits = limits
        self._allowed = (z85.decode(guests),)
        self._closed = False
        self._gate = Gate()
        self._context = zmq.Context()
        try:
            # Before the first peer can knock: without a handler every key would be let in.
            self._zap: zmq.Socket[bytes] = self._context.socket(zmq.REP)
            self._zap.linger = 0
            self._zap.bind("inproc://zeromq.zap.01")
            self._router: zmq.Socket[bytes] = self._context.socket(zmq.ROUTER)
            configure(self._router, limits, ping_timeout_ms)
            wait_ms = ping_timeout_ms // PING_PATIENCE
            self._router.setsockopt(zmq.HEARTBEAT_IVL, ping_timeout_ms - wait_ms)
            self._router.setsockopt(zmq.HEARTBEAT_TIMEOUT, wait_ms)
            self._router.setsockopt(zmq.ROUTER_MANDATORY, 1)
            self._router.setsockopt(zmq.ROUTER_HANDOVER, 0)
            self._router.setsockopt(zmq.BACKLOG, 1024)
            self._router.curve_server = True
            self._router.curve_secretkey = server.secret
            self._router.zap_domain = _ZAP_DOMAIN
            self._router.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
            # Which of the two it is for a peer without CurveZMQ is a race inside ZeroMQ.
            self._events = watch(self._context, self._router, int(_FAILED | _OF_GATE))
            if local:
                self._router.bind(local)
            self.addresses = [local] if local else self._bind(interface, port)
        except BaseException:
            self._context.destroy(linger=0)
            raise

    def sockets(self) -> list[zmq.Socket[bytes]]:
        """Returns the sockets to poll for reading; call `receive` when any of them is readable."""
        return [self._router, self._zap, self._events]

    def take(self, most: int, limit: int = 100) -> list[tuple[bytes, list[Buffer]]]:
        """Returns messages: (peer, frames); answers strangers, as `sockets` wants.

        :param most: frames of a message; one that has more is dropped
        """
        taken: list[tuple[bytes, list[Buffer]]] = []
        if self._closed:
            return taken
        self._answer_strangers()
        for _ in range(limit):
            parts = take(self._router, most + 1)
            if parts is None:
                break
            if len(parts) <= most + 1:
                taken.append((bytes(parts[0]), parts[1:]))
        return taken

    def put(self, peer: bytes, frames: Sequence[Part]) -> bool:
        """Hands frames over for a peer; False when it is gone or its queue is full."""
        return not self._closed and put(self._router, [peer, *frames])

    def close(self, linger_ms: int = 0) -> None:
        """Stops listening; waits at most this long for what was handed over to leave."""
        if not self._closed:
            self._closed = True
            self._router.disable_monitor()
            self._events.close(0)
            self._zap.close(0)
            self._router.close(FOR_EVER_MS)
            end(self._context, max(linger_ms, LEAST_LINGER_MS))

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {' '.join(self.addresses)}>"

    # --- listening --------------------------------------------------------------------------------

    def _bind(self, interface: str | None, port: int | tuple[int, int] | None) -> list[str]:
        offered = addressing.addresses(interface)
        if interface is None:
            try:
                bound = self._bind_port("*", port)
            except zmq.ZMQError:  # this kernel has no IPv6
                self._router.ipv6 = False
                bound = self._bind_port("*", port)
            return [addressing.endpoint(ip, bound) for ip in offered]
        return [
            addressing.endpoint(ip, self._bind_port(addressing.host(ip), port)) for ip in offered
        ]

    def _bind_port(self, host: str, port: int | tuple[int, int] | None) -> int:
        """Binds and returns the port; raises ZMQError where the host is the trouble."""
        for number in ports(port):
            try:
                self._router.bind(f"tcp://{host}:{number}")
            except zmq.ZMQError as error:
                if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                    raise
            else:
                return int(self._router.getsockopt_string(zmq.LAST_ENDPOINT).rpartition(":")[2])
        raise addressing.AddressError(_no_port(host, port))

    # --- strangers --------------------------------------------------------------------------------

    def _answer_strangers(self) -> None:
        now, seen = time.monotonic(), False
        while readable(self._events):
            event, value = happened(self._events)
            seen = True
            self._gate.saw(event, value, now)
            if event & _FAILED:
                ended = "a connection that ended before it had shown a key of this run"
                self._stranger(ended, logging.DEBUG if self._visitors else logging.WARNING)
        if seen or self._gate.shut:
            self._gate.look(now)
        while readable(self._zap):
            self._answer(self._zap.recv_multipart())

    def _answer(self, request: list[bytes]) -> None:
        """Answers one question of ZAP: may this key come in? Source: ZeroMQ RFC 27."""
        known = False
        if len(request) == 7 and request[0] == b"1.0" and request[5] == b"CURVE":
            known = any(hmac.compare_digest(request[6], key) for key in self._allowed)
        if not known:
            where = request[3].decode("ascii", "replace") if len(request) > 3 else "?"
            self._stranger(f"a key that this run does not know, from {where}")
        status = [b"200", b"OK", b"worker"] if known else [b"400", b"unknown key", b""]
        number = request[1] if len(request) > 1 else b""
        with contextlib.suppress(zmq.ZMQError):  # who asked has gone
            self._zap.send_multipart([b"1.0", number, *status, b""], zmq.NOBLOCK)

    def _stranger(self, who: str, level: int = logging.WARNING) -> None:
        self.strangers += 1
        if self.strangers & (self.strangers - 1) == 0:  # 1, 2, 4, 8, ...: no flood of the log
            logger.log(level, "refused %s (number %d)", who, self.strangers)


def _no_port(host: str, port: int | tuple[int, int] | None) -> str:
    first, last = port if isinstance(port, tuple) else (port, port)
    which = f"TCP port {first} is" if first == last else f"all TCP ports {first}-{last} are"
    where = "" if host == "*" else f" at {host}"
    return (
        f"{which} taken or forbidden on host {socket.gethostname()}{where}: "
        "set GRIDMAP_PORTS to a range with a free one"
    )
