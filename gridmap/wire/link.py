"""The two ends of the wire: sockets, encryption, who may come in.

::

    AgentLink (DEALER) --- TCP, CurveZMQ ---> MonitorLink (ROUTER)
        |  events: connected, lost                |  ZAP: is this key allowed?
        |                                         |  events: handshakes that failed

Nothing here waits: `receive` takes what is there, `send` hands over or says no.  Each end is used
by one thread only.  Lost messages are not sent again here; the inventory in an agent's heartbeats
is what finds them.
"""

from __future__ import annotations

import contextlib
import errno
import hmac
import logging
import secrets
from collections.abc import Sequence
from types import TracebackType

import zmq
from zmq.utils import z85
from zmq.utils.monitor import parse_monitor_message

from gridmap.core.messages import FromAgent, Hello, ToAgent
from gridmap.errors import GridMapError, WireError
from gridmap.wire import address as addressing
from gridmap.wire.codec import LIMITS, Buffer, Limits, Payload, decode, encode
from gridmap.wire.keys import Connection, RunKeys
from gridmap.wire.messages import Direction
from gridmap.wire.sockets import (
    PING_TIMEOUT_MS,
    configure,
    ports,
    put,
    readable,
    share,
    take,
    watch,
)

__all__ = ["AgentLink", "MonitorLink", "share"]

logger = logging.getLogger(__name__)

_ZAP_DOMAIN = b"gridmap"
_ROUTING_ID_BYTES = 16
_MAX_COMPLAINTS = 1000  # peers that are named in the log; later ones are only counted


class MonitorLink:
    """The monitor's end: listens, lets the run's workers in and nobody else.

    :param interface: name or address of the only interface to listen on; None: all of them
    :param port: a port, or the first and last of a range; None: any free one
    :raises AddressError: the interface does not exist, or no port of the range is free

    `strangers` counts attempts to connect that ended without a key of this run (all that ZeroMQ
    tells of), `malformed` the messages of workers that were dropped.
    """

    def __init__(
        self,
        keys: RunKeys,
        interface: str | None = None,
        port: int | tuple[int, int] | None = None,
        limits: Limits = LIMITS,
        ping_timeout_ms: int = PING_TIMEOUT_MS,
    ) -> None:
        self.strangers = 0
        self.malformed = 0
        self.limits = limits
        self._allowed = (z85.decode(keys.workers.public),)
        self._complaints: set[bytes] = set()
        self._closed = False
        self._context = zmq.Context()
        try:
            # Before the first peer can knock: without a handler every key would be let in.
            self._zap: zmq.Socket[bytes] = self._context.socket(zmq.REP)
            self._zap.linger = 0
            self._zap.bind("inproc://zeromq.zap.01")
            self._router: zmq.Socket[bytes] = self._context.socket(zmq.ROUTER)
            configure(self._router, limits, ping_timeout_ms)
            self._router.setsockopt(zmq.ROUTER_MANDATORY, 1)
            self._router.setsockopt(zmq.ROUTER_HANDOVER, 0)
            self._router.setsockopt(zmq.BACKLOG, 1024)
            self._router.curve_server = True
            self._router.curve_secretkey = keys.server.secret
            self._router.zap_domain = _ZAP_DOMAIN
            self._router.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
            # Which of the two it is for a peer without CurveZMQ is a race inside ZeroMQ.
            failed = zmq.Event.HANDSHAKE_FAILED_PROTOCOL | zmq.Event.HANDSHAKE_FAILED_NO_DETAIL
            self._events = watch(self._context, self._router, int(failed))
            self.addresses = self._bind(interface, port)
        except BaseException:
            self._context.destroy(linger=0)
            raise

    def sockets(self) -> list[zmq.Socket[bytes]]:
        """Returns the sockets to poll for reading; call `receive` when any of them is readable."""
        return [self._router, self._zap, self._events]

    def receive(self, limit: int = 1000) -> list[tuple[bytes, FromAgent, list[Buffer]]]:
        """Returns what agents have sent: (peer, message, payload frames); never waits or raises.

        Also answers strangers, so it must be called when any of `sockets` is readable.

        :param limit: number of messages, malformed ones included, to take off the queue
        """
        received: list[tuple[bytes, FromAgent, list[Buffer]]] = []
        if self._closed:
            return received
        self._answer_strangers()
        for _ in range(limit):
            parts = take(self._router, self.limits.frames + 2)
            if parts is None:
                break
            peer = bytes(parts[0])
            try:
                message, payload = decode(parts[1:], Direction.TO_MONITOR, self.limits)
            except WireError as error:
                self._complain(peer, error)
            else:
                received.append((peer, message, payload))
        return received

    def send(self, peer: bytes, message: ToAgent, frames: Sequence[Payload] = ()) -> bool:
        """Hands a message over for a peer; False when the peer is gone or its queue is full.

        :raises WireError: the message breaks a rule or a limit
        """
        parts = encode(message, frames, self.limits)
        return not self._closed and put(self._router, [peer, *parts])

    def close(self, linger_ms: int = 0) -> None:
        """Stops listening; waits at most this long for what was handed over to leave."""
        if not self._closed:
            self._closed = True
            self._router.disable_monitor()
            self._events.close(0)
            self._zap.close(0)
            self._router.close(linger_ms)
            self._context.term()

    def __enter__(self) -> MonitorLink:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<MonitorLink {' '.join(self.addresses)}>"

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
        raise addressing.AddressError(f"no free port for {host} in {port}; choose another range")

    # --- strangers --------------------------------------------------------------------------------

    def _answer_strangers(self) -> None:
        while readable(self._events):
            self._events.recv_multipart()
            self._stranger("a connection that ended before it had shown a key of this run")
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

    def _stranger(self, who: str) -> None:
        self.strangers += 1
        if self.strangers & (self.strangers - 1) == 0:  # 1, 2, 4, 8, ...: no flood of the log
            logger.warning("refused %s (number %d)", who, self.strangers)

    def _complain(self, peer: bytes, error: WireError) -> None:
        self.malformed += 1
        if peer not in self._complaints and len(self._complaints) < _MAX_COMPLAINTS:
            self._complaints.add(peer)
            logger.warning("dropped a malformed message of %s: %s", peer.hex(), error)


class AgentLink:
    """An agent's end: one connection to the monitor, at one of its addresses.

    A lost connection is made again by itself, at the same address and under a new peer name, since
    the monitor may not have noticed the loss and would then not hear the old name.  So the last
    Hello is said again by itself too, first thing on every new connection.
    """

    def __init__(self, connection: Connection, ping_timeout_ms: int = PING_TIMEOUT_MS) -> None:
        self.malformed = 0
        self.address = ""
        self.limits = connection.limits
        self._connection = connection
        self._ping_timeout_ms = ping_timeout_ms
        self._tried = 0
        self._hello: Hello | None = None
        self._established = False
        self._socket: zmq.Socket[bytes] | None = None
        self._events: zmq.Socket[bytes] | None = None
        self._closed = False
        self._established = False
        self._context = zmq.Context()

    def connect(self, address: str) -> None:
        """Leaves the present address, if any, and goes to this one; `sockets` are new then.

        :raises GridMapError: the address is none, or the link is closed
        """
        if self._closed:
            raise GridMapError("the link is closed")
        self._leave()
        self.address = address
        self._socket = self._context.socket(zmq.DEALER)
        configure(self._socket, self.limits, self._ping_timeout_ms)
        self._socket.ipv6 = "[" in address
        self._socket.setsockopt(zmq.RECONNECT_IVL, 100)
        self._socket.setsockopt(zmq.RECONNECT_IVL_MAX, 5000)
        self._socket.setsockopt(zmq.CONNECT_TIMEOUT, 5000)
        self._socket.curve_serverkey = self._connection.server_public.encode()
        self._socket.curve_publickey = self._connection.worker_public.encode()
        self._socket.curve_secretkey = self._connection.worker_secret.encode()
        events = zmq.Event.HANDSHAKE_SUCCEEDED | zmq.Event.DISCONNECTED
        self._events = watch(self._context, self._socket, int(events))
        try:
            self._call()
        except zmq.ZMQError as error:
            raise GridMapError(f"cannot connect to {address!r}: {error}") from error

    @property
    def connected(self) -> bool:
        """True while there is a connection that was agreed on."""
        return self._socket is not None and self._established

    def follow(self, connection: Connection) -> None:
        """Takes another monitor's addresses, keys and limits, for the next `try_next`."""
        self._connection = connection
        self.limits = connection.limits
        self._tried = 0

    def try_next(self) -> str:
        """Goes to the next address of the connection file, round and round; returns it."""
        addresses = self._connection.addresses
        address = addresses[self._tried % len(addresses)]
        self._tried += 1
        self.connect(address)
        return address

    @property
    def socket(self) -> zmq.Socket[bytes]:
        """The socket to poll for reading; another one after `connect` and `try_next`."""
        if self._socket is None:
            raise GridMapError("the link is not connected")
        return self._socket

    def sockets(self) -> list[zmq.Socket[bytes]]:
        """Returns `socket`, and the one that tells at once that the connection is lost."""
        return [x for x in (self._socket, self._events) if x is not None]

    def receive(self, limit: int = 1000) -> list[tuple[ToAgent, list[Buffer]]]:
        """Returns what the monitor has sent: (message, payload frames); never waits or raises."""
        received: list[tuple[ToAgent, list[Buffer]]] = []
        if self._socket is None:
            return received
        for _ in range(limit):
            parts = take(self._socket, self.limits.frames + 1)
            if parts is None:
                break
            try:
                message, payload = decode(parts, Direction.TO_AGENT, self.limits)
            except WireError as error:
                self.malformed += 1
                if self.malformed == 1:
                    logger.warning("dropped a malformed message of the monitor: %s", error)
            else:
                received.append((message, payload))
        # Only now: a new call drops what the old connection has brought.
        self._notice_loss(complete=len(received) < limit)
        return received

    def send(self, message: FromAgent, frames: Sequence[Payload] = ()) -> bool:
        """Hands a message over; False when the queue is full or there is no connection to wait for.

        :raises WireError: the message breaks a rule or a limit
        """
        parts = encode(message, frames, self.limits)
        if self._socket is None:
            return False
        if isinstance(message, Hello):
            self._hello = message
        return put(self._socket, parts)

    def close(self, linger_ms: int = 0) -> None:
        """Hangs up; waits at most this long for what was handed over to leave."""
        if not self._closed:
            self._closed = True
            self._leave(linger_ms)
            self._context.term()

    def __enter__(self) -> AgentLink:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<AgentLink {self.address or 'not connected'}>"

    # --- one connection ---------------------------------------------------------------------------

    def _call(self) -> None:
        """Dials under a name that nobody has had, and says who this is if that was said before."""
        socket = self.socket
        # ROUTER keeps names that begin with a zero byte for itself.
        socket.routing_id = b"\x01" + secrets.token_bytes(_ROUTING_ID_BYTES - 1)
        self._established = False
        socket.connect(self.address)
        if self._hello is not None:
            put(socket, encode(self._hello, (), self.limits))

    def _notice_loss(self, complete: bool) -> None:
        if self._events is None or not complete:
            return
        lost = False
        while readable(self._events):
            event = parse_monitor_message(self._events.recv_multipart())["event"]
            if event == zmq.Event.HANDSHAKE_SUCCEEDED:
                self._established = True
            elif self._established:
                lost = True
        if lost:
            logger.info("lost the connection to the monitor at %s; calling again", self.address)
            with contextlib.suppress(zmq.ZMQError):
                self.socket.disconnect(self.address)
            self._call()

    def _leave(self, linger_ms: int = 0) -> None:
        if self._socket is not None and self._events is not None:
            self._socket.disable_monitor()
            self._events.close(0)
            self._socket.close(linger_ms)
            self._socket = self._events = None
