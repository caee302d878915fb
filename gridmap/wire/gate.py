"""Keeps strangers from taking more than a few of the monitor's descriptors, and little memory.

Who has not shown a key costs a descriptor and up to one frame until it is hung up on.  When too
many are in that state, the kernel is told to drop what comes to the listening sockets: connections
that exist are not touched, and who wants to connect tries again by itself, as TCP does.
"""

from __future__ import annotations

import ctypes
import logging
import os
import resource
import socket
import struct
from collections import OrderedDict, deque

import zmq

from gridmap.wire.sockets import HANDSHAKE_MS

logger = logging.getLogger(__name__)

MOST_STRANGERS = 256
"""Connections without a key at a time."""

_YOUNG_S = HANDSHAKE_MS / 1000 + 1.0
"""Who is connected for longer has shown a key."""

# Linux: asm-generic/socket.h, linux/filter.h
_SO_ATTACH_FILTER, _SO_DETACH_FILTER = 26, 27
_RETURN_NOTHING = struct.pack("=HBBI", 0x06, 0, 0, 0)


class Gate:
    """Counts connections without a key, and shuts the door when they are too many.

    :param most: how many are let in; fewer where this process may have few descriptors
    """

    def __init__(self, most: int = MOST_STRANGERS) -> None:
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self.most = most if soft == resource.RLIM_INFINITY else min(most, max(16, soft // 4))
        self.shut = False
        self._listeners: list[int] = []
        self._young: OrderedDict[int, float] = OrderedDict()  # descriptor -> since when
        self._agreed: deque[float] = deque()
        self._useless = False

    def saw(self, event: int, descriptor: int, now: float) -> None:
        """Takes in what ZeroMQ tells of its connections."""
        if event == zmq.Event.LISTENING:
            self._listeners.append(descriptor)
        elif event == zmq.Event.ACCEPTED:
            self._young.pop(descriptor, None)
            self._young[descriptor] = now
        elif event == zmq.Event.DISCONNECTED:
            self._young.pop(descriptor, None)
        elif event == zmq.Event.HANDSHAKE_SUCCEEDED:
            self._agreed.append(now)

    @property
    def strangers(self) -> int:
        """How many are connected and have not shown a key; those who have may be counted late."""
        return len(self._young) - len(self._agreed)

    def look(self, now: float) -> None:
        """Shuts the door, or opens it again."""
        while self._young and next(iter(self._young.values())) < now - _YOUNG_S:
            self._young.popitem(last=False)
        while self._agreed and self._agreed[0] < now - _YOUNG_S:
            self._agreed.popleft()
        if not self.shut and self.strangers > self.most:
            self._turn(shut=True)
        elif self.shut and self.strangers <= self.most // 2:
            self._turn(shut=False)

    def _turn(self, shut: bool) -> None:
        if self._useless:
            return
        try:
            for descriptor in self._listeners:
                _filter(descriptor, shut)
        except OSError as error:
            # a kernel without filters; who could shut it can open it, if not now then later
            logger.debug("cannot hold strangers off: %s", error)
            self._useless = shut
            return
        if shut:
            logger.debug("%d connections without a key; others wait", self.strangers)
        self.shut = shut


def _filter(descriptor: int, drop: bool) -> None:
    """Has the kernel drop whatever comes to a listening socket, or stops that.

    :raises OSError: it cannot
    """
    with socket.socket(fileno=os.dup(descriptor)) as listener:
        if drop:
            code = ctypes.create_string_buffer(_RETURN_NOTHING)
            program = struct.pack("@HP", 1, ctypes.addressof(code))
            listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
        else:
            listener.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)
