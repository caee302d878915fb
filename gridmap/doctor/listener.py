"""Listens as a run does, and answers the tasks that call."""

from __future__ import annotations

import time
from typing import NamedTuple

from gridmap.conf import Settings
from gridmap.core.messages import Hello, Refuse
from gridmap.wire.keys import Connection

ANSWER = "this is gridmap doctor: the connection works"


class Heard(NamedTuple):
    """A task that has called, with the keys of this run.

    :param at_s: what this host's clock said then (seconds since 1970)
    """

    hello: Hello
    at_s: float


class Listener:
    """A run's socket.

    :raises AddressError: the interface does not exist, or all ports are taken
    """

    def __init__(self, name: str, settings: Settings) -> None:
        from gridmap.launch import connection_of, listen

        keys, self._link = listen(settings)
        try:
            self.connection: Connection = connection_of(name, settings, keys, self._link)
        except BaseException:
            self._link.close()
            raise
        self.heard: dict[str, Heard] = {}
        """By the incarnation that a task has made up for itself."""

    def wait(self, timeout_s: float) -> None:
        """Answers who calls, for so long."""
        import zmq

        until = time.monotonic() + timeout_s
        while (left_s := until - time.monotonic()) > 0:
            poller = zmq.Poller()
            for socket in self._link.sockets():
                poller.register(socket, zmq.POLLIN)
            poller.poll(max(1, int(left_s * 1000)))
            for peer, message, _ in self._link.receive():
                if isinstance(message, Hello):
                    self.heard.setdefault(message.incarnation, Heard(message, time.time()))
                    self._link.send(peer, Refuse(ANSWER))

    def close(self) -> None:
        self._link.close(100)
