"""An agent's end of the wire: calls the monitor at all of its addresses, and keeps who answers.

::

    begin() --> call 1 --0.25 s--> call 2 --0.25 s--> call 3 ...     each goes on calling
                                     | keys agreed on
                                     v
                          the connection; the other calls end
                                     | lost
                                     v
                          begin(), the address that worked first

That keys were agreed on proves that it is the monitor, so no answer is waited for.  An address that
swallows everything costs no more than the pause before the next one is called.
"""

from __future__ import annotations

import itertools
import logging
import math
import os
import time
from collections import deque
from collections.abc import Sequence
from types import TracebackType

import zmq
from msgspec import Struct, field

from gridmap.core.messages import FromAgent, Heartbeat, Hello, Key, Results, ToAgent
from gridmap.errors import GridMapError, WireError
from gridmap.wire.address import numeric
from gridmap.wire.codec import Buffer, Part, Payload, decode, encode
from gridmap.wire.keys import Connection
from gridmap.wire.messages import Direction
from gridmap.wire.sockets import (
    FOR_EVER_MS,
    LEAST_LINGER_MS,
    PING_TIMEOUT_MS,
    QUEUE_MESSAGES,
    configure,
    end,
    happened,
    put,
    readable,
    take,
    watch,
)

logger = logging.getLogger(__name__)

STAGGER_S = 0.25
"""How long one address may take before the next is called, too."""

NAMES_S = 2.0
"""When to ask again for addresses of names that nobody knew."""

RETURN_S = 2.0
"""How long only the address that worked is called when its connection is lost."""

_ROUTING_ID_BYTES = 16
_EVENTS = (
    zmq.Event.CONNECTED
    | zmq.Event.HANDSHAKE_SUCCEEDED
    | zmq.Event.HANDSHAKE_FAILED_NO_DETAIL
    | zmq.Event.HANDSHAKE_FAILED_PROTOCOL
    | zmq.Event.HANDSHAKE_FAILED_AUTH
    | zmq.Event.DISCONNECTED
)


class _Call(Struct):
    """A socket that calls one address, and what has happened to it so far."""

    address: str
    socket: zmq.Socket[bytes]
    events: zmq.Socket[bytes]
    seen: set[zmq.Event] = field(default_factory=set)

    def read(self) -> bool:
        """Takes in what has happened; returns whether keys were agreed on."""
        while readable(self.events):
            event = zmq.Event(happened(self.events)[0])
            self.seen.add(event)
            if event == zmq.Event.HANDSHAKE_SUCCEEDED:
                self.seen.discard(zmq.Event.DISCONNECTED)  # of an earlier try
        return zmq.Event.HANDSHAKE_SUCCEEDED in self.seen

    def lost(self) -> bool:
        """Returns whether the connection has ended since keys were agreed on."""
        self.read()
        return zmq.Event.DISCONNECTED in self.seen

    def close(self, linger_ms: int = 0) -> None:
        self.socket.disable_monitor()
        self.events.close(0)
        self.socket.close(linger_ms)


class AgentLink:
    """One connection to the monitor, at whichever of its addresses answers first.

    A lost connection is made again by itself, under a new peer name, since the monitor may not
    have noticed the loss and would then not hear the old name.  So the last Hello is said again by
    itself too, first thing on every new connection.

    Whoever drives it calls `keep_time` when `next_deadline` has come.
    """

    def __init__(self, connection: Connection, ping_timeout_ms: int = PING_TIMEOUT_MS) -> None:
        self.malformed = 0
        self.address = ""
        self.limits = connection.limits
        self._connection = connection
        self._ping_timeout_ms = ping_timeout_ms
        self._hello: Hello | None = None
        self._outbox: deque[list[Part]] = deque()
        self._kept: set[tuple[Key, ...]] = set()  # of the results in there
        self._seen: dict[str, set[zmq.Event]] = {}
        self._to_call: deque[str] = deque()
        self._call_at = math.inf
        self._calls: list[_Call] = []
        self._chosen: _Call | None = None
        self._closed = False
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()

    # --- calling ----------------------------------------------------------------------------------

    def begin(self, first: str = "") -> None:
        """Hangs up, and calls the addresses in their order.

        :param first: called before the others, and alone for a while
        :raises GridMapError: an address is none, or the link is closed
        """
        if self._closed:
            raise GridMapError("the link is closed")
        self._leave()
        others = [address for address in self._numeric() if address != first]
        self._to_call = deque([first, *others] if first else others)
        self._call_next()
        if not self._calls:  # the name service may know the names later
            self._call_at = time.monotonic() + NAMES_S
        elif first:
            self._call_at = time.monotonic() + RETURN_S

    def follow(self, connection: Connection) -> None:
        """Hangs up, and calls another monitor.

        :raises GridMapError: an address is none, or the link is closed
        """
        self._connection = connection
        self.limits = connection.limits
        self._outbox.clear()
        self._kept.clear()
        self._seen.clear()
        self.begin()

    def keep_time(self, now: float) -> None:
        """Calls the next address if it is due."""
        if now < self._call_at:
            return
        if not self._to_call and not self._calls:
            self._to_call = deque(self._numeric())
            self._call_at = now + NAMES_S
        if self._to_call:
            self._call_next()
        elif self._calls:
            self._call_at = math.inf

    def next_deadline(self) -> float:
        """Returns when `keep_time` has something to do."""
        return self._call_at

    @property
    def connected(self) -> bool:
        """True while there is a connection that was agreed on."""
        return self._chosen is not None

    def seen(self) -> dict[str, set[zmq.Event]]:
        """Returns what has happened at each address that was called."""
        for call in self._calls:
            call.read()
        return self._seen

    def _numeric(self) -> list[str]:
        try:
            each = [numeric(address) for address in self._connection.addresses]
        except ValueError as error:
            raise GridMapError(f"cannot connect: {error}") from None
        return list(dict.fromkeys(itertools.chain(*each)))

    def _call_next(self) -> None:
        if not self._to_call:
            self._call_at = math.inf
            return
        self._call(self._to_call.popleft())
        self._call_at = time.monotonic() + STAGGER_S if self._to_call else math.inf

    def _call(self, address: str) -> None:
        socket: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
        configure(socket, self.limits, self._ping_timeout_ms)
        socket.ipv6 = "[" in address
        socket.setsockopt(zmq.RECONNECT_IVL, 100)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 5000)
        socket.setsockopt(zmq.CONNECT_TIMEOUT, 5000)
        socket.curve_serverkey = self._connection.server_public.encode()
        socket.curve_publickey = self._connection.worker_public.encode()
        socket.curve_secretkey = self._connection.worker_secret.encode()
        # Nobody has had this name. ROUTER keeps those that begin with a zero byte for itself.
        socket.routing_id = b"\x01" + os.urandom(_ROUTING_ID_BYTES - 1)
        seen = self._seen.setdefault(address, set())
        seen -= {zmq.Event.HANDSHAKE_SUCCEEDED, zmq.Event.DISCONNECTED}
        call = _Call(address, socket, watch(self._context, socket, int(_EVENTS)), seen)
        self._calls.append(call)
        try:
            socket.connect(address)
        except zmq.ZMQError as error:
            raise GridMapError(f"cannot connect to {address!r}: {error}") from error

    def _look_at_calls(self) -> None:
        """Keeps the first call that was answered; begins anew when that one ends."""
        if self._chosen is None:
            self._chosen = next((call for call in self._calls if call.read()), None)
            if self._chosen is not None:
                self._choose(self._chosen)
        elif self._chosen.lost():
            logger.info("lost the connection to the monitor at %s; calling again", self.address)
            self.begin(first=self.address)

    def _choose(self, chosen: _Call) -> None:
        self.address = chosen.address
        self._to_call.clear()
        self._call_at = math.inf
        for call in self._calls:
            if call is not chosen:
                call.close()
        self._calls = [chosen]
        if self._hello is not None:
            put(chosen.socket, encode(self._hello, (), self.limits))
        self._flush(chosen)

    def _flush(self, chosen: _Call) -> bool:
        """Hands over what was kept; returns whether that was all."""
        while self._outbox and put(chosen.socket, self._outbox[0]):
            self._outbox.popleft()
        if not self._outbox:
            self._kept.clear()
        return not self._outbox

    def _leave(self, linger_ms: int = 0) -> None:
        for call in self._calls:
            talks = call is self._chosen and not call.lost()
            call.close(FOR_EVER_MS if talks else linger_ms)  # see sockets.end
        self._calls = []
        self._chosen = None

    # --- talking ----------------------------------------------------------------------------------

    def sockets(self) -> list[zmq.Socket[bytes]]:
        """Returns what to poll for reading; others after each call of `receive` or `keep_time`."""
        chosen = [] if self._chosen is None else [self._chosen.socket]
        return [*chosen, *(call.events for call in self._calls)]

    def receive(self, limit: int = 1000) -> list[tuple[ToAgent, list[Buffer]]]:
        """Returns what the monitor has sent: (message, payload frames); never waits or raises."""
        received: list[tuple[ToAgent, list[Buffer]]] = []
        if self._chosen is None:
            self._look_at_calls()
            return received
        for _ in range(limit):
            parts = take(self._chosen.socket, self.limits.parts)
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
        if len(received) < limit:  # only now: a new call drops what the old connection has brought
            self._look_at_calls()
        return received

    def send(self, message: FromAgent, frames: Sequence[Payload] = ()) -> bool:
        """Hands a message over, or keeps it for the next connection.

        False when that cannot be: the queue is full, or what it says is true at this time only.

        :raises WireError: the message breaks a rule or a limit
        """
        parts = encode(message, frames, self.limits)
        if isinstance(message, Hello):
            self._hello = message
        if self._chosen is not None and self._flush(self._chosen):
            return put(self._chosen.socket, parts)
        if self._closed:
            return False
        if isinstance(message, Hello):
            return True  # every connection begins with it
        if isinstance(message, Heartbeat) or len(self._outbox) >= QUEUE_MESSAGES:
            return False
        if isinstance(message, Results):
            keys = tuple(item.key for item in message.items)
            if keys in self._kept:
                return True  # said again, since nobody has answered
            self._kept.add(keys)
        self._outbox.append(parts)
        return True

    def close(self, linger_ms: int = 0) -> None:
        """Hangs up; waits at most this long for what was handed over to leave."""
        if not self._closed:
            self._closed = True
            self._call_at = math.inf
            linger_ms = max(linger_ms, LEAST_LINGER_MS)
            self._leave(linger_ms)
            self._outbox.clear()
            end(self._context, linger_ms)

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
