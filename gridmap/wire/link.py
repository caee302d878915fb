"""The monitor's end of the wire: sockets, encryption, who may come in.

::

    AgentLink (DEALER) --- TCP, CurveZMQ ---> MonitorLink (ROUTER)
        |  events: connected, lost                |  ZAP: is this key allowed?
        |  (caller.py)                            |  events: handshakes that failed

Nothing here waits: `receive` takes what is there, `send` hands over or says no.  Each end is used
by one thread only.  Lost messages are not sent again here; the inventory in an agent's heartbeats
is what finds them.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import zmq

from gridmap.core.messages import FromAgent, Pulse, ToAgent
from gridmap.errors import WireError
from gridmap.wire.codec import LIMITS, Buffer, Limits, Payload, decode, encode
from gridmap.wire.door import Door
from gridmap.wire.keys import RunKeys
from gridmap.wire.messages import Direction
from gridmap.wire.sockets import PING_TIMEOUT_MS, put, share, take

__all__ = ["MonitorLink", "share"]

logger = logging.getLogger(__name__)

_MAX_COMPLAINTS = 1000  # peers that are named in the log; later ones are only counted


class MonitorLink(Door):
    """The monitor's end: listens, lets the run's workers in and nobody else.

    :param interface: name or address of the only interface to listen on; None: all of them
    :param port: a port, or the first and last of a range; None: any free one
    :raises AddressError: the interface does not exist, or no port of the range is free

    `malformed` counts the messages of workers that were dropped.
    """

    def __init__(
        self,
        keys: RunKeys,
        interface: str | None = None,
        port: int | tuple[int, int] | None = None,
        limits: Limits = LIMITS,
        ping_timeout_ms: int = PING_TIMEOUT_MS,
    ) -> None:
        super().__init__(keys.server, keys.workers.public, interface, port, limits, ping_timeout_ms)
        self.malformed = 0
        self._complaints: set[bytes] = set()

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
            parts = take(self._router, self.limits.parts + 1)
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

    def reaches(self, peer: bytes) -> bool:
        """Returns whether there is still a connection by this name."""
        try:
            self._router.send(peer, zmq.NOBLOCK | zmq.SNDMORE)
            self._router.send(encode(Pulse(0))[0], zmq.NOBLOCK)
        except zmq.ZMQError as error:
            return bool(error.errno == zmq.EAGAIN)  # its queue is full
        return True

    def send(self, peer: bytes, message: ToAgent, frames: Sequence[Payload] = ()) -> bool:
        """Hands a message over for a peer; False when the peer is gone or its queue is full.

        :raises WireError: the message breaks a rule or a limit
        """
        parts = encode(message, frames, self.limits)
        return not self._closed and put(self._router, [peer, *parts])

    def _complain(self, peer: bytes, error: WireError) -> None:
        self.malformed += 1
        if peer not in self._complaints and len(self._complaints) < _MAX_COMPLAINTS:
            self._complaints.add(peer)
            logger.warning("dropped a malformed message of %s: %s", peer.hex(), error)
