"""Small helpers around ZeroMQ's sockets: nothing here waits."""

from __future__ import annotations

import os
import random
import struct
import threading
from collections.abc import Sequence

import zmq

from gridmap.wire.codec import PART_BYTES, Buffer, Limits, Part, Shared

QUEUE_MESSAGES = 1000
"""Messages that may wait for one peer, in each direction."""

BIG_BYTES = 64 * 1024
"""From this size on a received frame is not copied out of ZeroMQ's memory."""

CURVE_BYTES = 64
"""Room for what CurveZMQ adds to a frame: 33 bytes. Source: ZeroMQ RFC 26."""

HANDSHAKE_MS = 5_000
"""Who has not shown a key by then is hung up on: each costs a file descriptor."""

FOR_EVER_MS = -1
LEAST_LINGER_MS = 100

_EVENT = struct.Struct("=Hi")

PING_EVERY_MS = 15_000
PING_TIMEOUT_MS = 120_000
"""Silence after which a connection is dropped, at the latest; the monitor drops one whose ping was
not answered in a third of that.  A ping waits behind what the kernel has taken."""


def share(data: Buffer) -> Shared:
    """Returns a payload frame that is copied now, and not again however many peers it goes to."""
    view = memoryview(data).cast("B")
    starts = range(0, max(1, view.nbytes), PART_BYTES)
    return Shared([zmq.Frame(view[at : at + PART_BYTES], copy=True) for at in starts])


# --- frames ---------------------------------------------------------------------------------------


def put(socket: zmq.Socket[bytes], parts: Sequence[Part]) -> bool:
    """Hands over all parts or none, without waiting.

    Parts are copied once, here: encryption copies them anyway, and the copy-free way of pyzmq needs
    a thread of its own.  A zmq.Frame is not copied.
    """
    last = len(parts) - 1
    whole = True
    for number, part in enumerate(parts):
        flags = zmq.NOBLOCK | (zmq.SNDMORE if number < last else 0)
        try:
            socket.send(part, flags)
        except zmq.ZMQError as error:
            if error.errno not in (zmq.EAGAIN, zmq.EHOSTUNREACH):
                raise
            if number == 0:
                return False
            # The peer went away in between. ZeroMQ drops the parts up to the last one, so it must
            # be given them, or it would drop the next message.
            whole = False
    return whole


def take(socket: zmq.Socket[bytes], most: int) -> list[Buffer] | None:
    """Returns the parts of the next message, at most one more than `most`; None: there is none."""
    parts: list[Buffer] = []
    more = True
    while more:
        try:
            frame = socket.recv(zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return parts or None
        more = frame.more
        if len(parts) <= most:
            parts.append(frame.bytes if len(frame) < BIG_BYTES else frame.buffer)
    return parts


def end(context: zmq.Context[zmq.Socket[bytes]], linger_ms: int) -> None:
    """Ends a context whose sockets have been closed, lingering; waits at most so long for that.

    What is not over by then ends in a thread of its own, with the last connection: when the other
    end has read what was sent to it, or is gone.  To cut messages off instead, by a linger that
    ends, is dangerous: libzmq 4.3 aborts the process when a connection breaks in the moment in
    which a message of several frames that it is sending is taken from it.
    """
    thread = threading.Thread(target=context.term, name="gridmap-hangs-up", daemon=True)
    thread.start()
    thread.join(linger_ms / 1000)


def readable(socket: zmq.Socket[bytes]) -> bool:
    return bool(int(socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN)


# --- sockets --------------------------------------------------------------------------------------


def configure(socket: zmq.Socket[bytes], limits: Limits, ping_timeout_ms: int) -> None:
    socket.linger = 0
    socket.ipv6 = True
    for option, value in (
        (zmq.SNDHWM, QUEUE_MESSAGES),
        (zmq.RCVHWM, QUEUE_MESSAGES),
        (zmq.MAXMSGSIZE, limits.wire_frame_bytes + CURVE_BYTES),
        (zmq.HANDSHAKE_IVL, HANDSHAKE_MS),
        (zmq.HEARTBEAT_IVL, min(PING_EVERY_MS, ping_timeout_ms)),
        (zmq.HEARTBEAT_TIMEOUT, ping_timeout_ms),
    ):
        socket.setsockopt(option, value)


def watch(
    context: zmq.Context[zmq.Socket[bytes]], socket: zmq.Socket[bytes], events: int
) -> zmq.Socket[bytes]:
    """Returns a socket that tells of these events of another one."""
    name = f"inproc://events-{os.urandom(8).hex()}"
    socket.monitor(name, events)
    watcher: zmq.Socket[bytes] = context.socket(zmq.PAIR)
    watcher.linger = 0
    watcher.setsockopt(zmq.RCVHWM, 0)  # a full queue would stop ZeroMQ's own thread
    watcher.connect(name)
    return watcher


def happened(watcher: zmq.Socket[bytes]) -> tuple[int, int]:
    """Takes an event off a socket of `watch`; returns its number and its value.

    pyzmq's own reader of events imports asyncio, half of what a worker's import of ZeroMQ takes.
    Source: zmq_socket_monitor(3).
    """
    event, value = _EVENT.unpack(watcher.recv_multipart()[0])
    return event, value


def ports(port: int | tuple[int, int] | None) -> list[int | str]:
    """Returns what to try to bind, in this order."""
    if port is None:
        return ["*"]
    if isinstance(port, int):
        return [port]
    numbers: list[int | str] = list(range(port[0], port[1] + 1))
    random.shuffle(numbers)  # several monitors on one host do not try the same one first
    return numbers
