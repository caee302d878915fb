"""Blobs from agents of the same run on the same node, so that one of them fetches each for all.

    first agent that needs it   listens at a name made of user, run and digest --> asks the monitor
    the others                  cannot have that name: they connect to it, and wait
    first agent, when it came   hands each of them the descriptor of the file that it lies in

A name in Linux's abstract socket namespace is in no folder, belongs to one process, and is gone
with it, whatever that dies of: then those who wait begin anew, and one of them is the next first.
Both ends have the kernel tell whose process the other one is; another user's is not talked to.
Nobody waits for long for a process that says nothing: who is in doubt fetches a copy of its own.
"""

from __future__ import annotations

import array
import contextlib
import errno
import logging
import math
import os
import select
import socket
import struct
import time
from collections.abc import Callable

from gridmap.node.blobs import BlobStore

logger = logging.getLogger(__name__)

BEAT_S = 1.0
"""How often those who wait are told that it is still on the way."""

SILENCE_S = 5.0
"""Who has not been told so for so long does not wait any more: the other process may be stopped."""

PATIENCE_S = 600.0
"""How long to wait in all: a blob of gigabytes through a slow network takes its time."""

MOST_ENDS = 8
"""So often others may leave before they gave a blob, until it is fetched for this agent alone."""

MOST_OFFERS = 64
"""Blobs that one agent offers, each at the cost of a descriptor."""

MOST_TRIES, TRY_S = 10, 0.002
"""How often to look again for a process that has the name and does not listen."""

_BEAT = b"+"
_PLACE = struct.Struct("<QQ")
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid
_BACKLOG = 1024


class _Offer:
    """A blob that this agent has, or has asked the monitor for."""

    def __init__(self, listener: socket.socket) -> None:
        self.listener = listener
        self.waiting: list[socket.socket] = []
        self.beat_at = math.inf


class _Wait:
    """A blob that another agent is asked for."""

    def __init__(self, sock: socket.socket, now: float) -> None:
        self.socket = sock
        self.until = now + PATIENCE_S
        self.heard_at = now

    @property
    def deadline(self) -> float:
        return min(self.until, self.heard_at + SILENCE_S)


class Neighbors:
    """One agent's view of the others.

    :param run: what the agents of a run call it, and nobody else does; "": there are no others
    :param store: where blobs are kept
    :param fetch: asks the monitor for a blob
    :param came: takes the digest of a blob that another agent gave, once it is in the store
    """

    def __init__(
        self,
        run: str,
        store: BlobStore,
        fetch: Callable[[str], None],
        came: Callable[[str, float], None],
    ) -> None:
        self._run = run
        self._store = store
        self._fetch = fetch
        self._came = came
        self._offers: dict[str, _Offer] = {}
        self._waits: dict[str, _Wait] = {}
        self._alone: set[str] = set()  # fetched for this agent, whatever others do
        self._ends: dict[str, int] = {}  # how often waiting was in vain

    # --- what the agent asks for, and gets --------------------------------------------------------

    def need(self, digest: str, now: float) -> None:
        """Has a blob brought here; asks the monitor anew each time, where that is to bring it."""
        if digest in self._waits:
            return
        if self._run and digest not in self._offers and digest not in self._alone:
            try:
                sock = self._offer_or_connect(digest)
                if sock is not None:
                    self._waits[digest] = _Wait(sock, now)
                    return
            except OSError as error:
                logger.debug("blob %s is fetched for this worker alone: %s", digest, error)
                self._alone.add(digest)
        self._fetch(digest)

    def stored(self, digest: str) -> None:
        """The monitor brought it: those who wait for it get it."""
        if digest in self._waits:
            self._stop_waiting(digest)
        offer = self._offers.get(digest)
        if offer is not None:
            waiting, offer.waiting, offer.beat_at = offer.waiting, [], math.inf
            for sock in waiting:
                self._give(digest, sock)

    def lacks(self, digest: str) -> None:
        """It cannot be had or kept here: those who wait for it have to do without this agent."""
        self._alone.discard(digest)
        offer = self._offers.pop(digest, None)
        if offer is not None:
            _end(offer)

    # --- for whoever polls ------------------------------------------------------------------------

    def fds(self) -> dict[int, int]:
        """Returns the descriptors to poll, with the poll events wanted."""
        listeners = [offer.listener for offer in self._offers.values()]
        return dict.fromkeys(
            [sock.fileno() for sock in (*listeners, *(x.socket for x in self._waits.values()))],
            select.POLLIN,
        )

    def ready(self, fd: int, now: float) -> None:
        """Handles a descriptor that `poll` returned; one that is closed by now does no harm."""
        for digest, offer in self._offers.items():
            if offer.listener.fileno() == fd:
                self._accept(digest, offer, now)
                return
        for digest, wait in list(self._waits.items()):
            if wait.socket.fileno() == fd:
                self._hear(digest, wait, now)
                return

    def next_deadline(self) -> float:
        """Returns when `tick` is due."""
        return min(
            (
                *(x.beat_at for x in self._offers.values()),
                *(x.deadline for x in self._waits.values()),
            ),
            default=math.inf,
        )

    def tick(self, now: float) -> None:
        """Comforts those who wait, and stops waiting for those who say nothing."""
        for offer in self._offers.values():
            if now >= offer.beat_at:
                offer.waiting = [sock for sock in offer.waiting if _send(sock, _BEAT)]
                offer.beat_at = now + BEAT_S if offer.waiting else math.inf
        for digest, wait in list(self._waits.items()):
            if now >= wait.deadline:
                self._hear(digest, wait, now)  # it may be this process that was stopped
            if self._waits.get(digest) is wait and now >= wait.deadline:
                logger.info("blob %s does not come from another worker: it is fetched", digest)
                self._stop_waiting(digest)
                self._alone.add(digest)
                self._fetch(digest)

    def close(self) -> None:
        """Lets go of everything."""
        for digest in list(self._offers):
            self.lacks(digest)
        for digest in list(self._waits):
            self._stop_waiting(digest)

    # --- offering ---------------------------------------------------------------------------------

    def _offer_or_connect(self, digest: str) -> socket.socket | None:
        """Takes a blob's name, or returns a connection to the process that has it.

        :raises OSError: neither is possible
        """
        if len(self._offers) >= MOST_OFFERS:
            return self._connect(digest)
        tries = 0
        while not self._offer(digest):
            try:
                return self._connect(digest)
            except ConnectionRefusedError:  # that process is about to listen, or has just gone
                tries += 1
                if tries == MOST_TRIES:
                    raise
                time.sleep(TRY_S)
        return None

    def _offer(self, digest: str) -> bool:
        """Listens at a blob's name; False where another process does.

        :raises OSError: not possible here
        """
        listener = _socket()
        try:
            listener.bind(self._name(digest))
            listener.listen(_BACKLOG)
        except OSError as error:
            listener.close()
            if error.errno == errno.EADDRINUSE:
                return False
            raise
        self._offers[digest] = _Offer(listener)
        return True

    def _name(self, digest: str) -> bytes:
        import hashlib  # not where there are no others

        told = f"{os.geteuid()} {self._run} {digest}".encode()
        return b"\0gridmap-" + hashlib.blake2b(told, digest_size=16).hexdigest().encode()

    def _accept(self, digest: str, offer: _Offer, now: float) -> None:
        with contextlib.suppress(OSError):
            sock, _ = offer.listener.accept()
            sock.setblocking(False)
            if not _is_ours(sock):
                sock.close()
            elif self._store.place(digest):
                self._give(digest, sock)
            elif _send(sock, _BEAT):
                offer.waiting.append(sock)
                offer.beat_at = min(offer.beat_at, now + BEAT_S)

    def _give(self, digest: str, sock: socket.socket) -> None:
        fd, at, size = self._store.lend(digest)
        with sock, contextlib.suppress(OSError):
            rights = array.array("i", [fd])
            sock.sendmsg([_PLACE.pack(at, size)], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])

    # --- waiting ----------------------------------------------------------------------------------

    def _connect(self, digest: str) -> socket.socket:
        """:raises OSError: nobody listens any more, or who does is not to be talked to"""
        sock = _socket()
        try:
            sock.connect(self._name(digest))
            if not _is_ours(sock):
                raise PermissionError("the process that offers it is another user's")
        except OSError:
            sock.close()
            raise
        return sock

    def _hear(self, digest: str, wait: _Wait, now: float) -> None:
        try:
            while True:
                text, fds = _receive(wait.socket)
                if text != _BEAT:
                    break
                wait.heard_at = now
        except BlockingIOError:
            return
        except OSError:
            text, fds = b"", array.array("i")
        self._stop_waiting(digest)
        self._ends[digest] = self._ends.get(digest, 0) + 1
        if not fds and not text and self._ends[digest] < MOST_ENDS:
            self.need(digest, now)  # it died, or has not got it either
            return
        if not fds:
            logger.info("blob %s cannot be had from another worker: it is fetched", digest)
            self._alone.add(digest)
            self._fetch(digest)
            return
        try:
            self._store.adopt(digest, fds[0], *_PLACE.unpack(text))
        except (OSError, ValueError, struct.error) as error:
            logger.warning("blob %s from another worker cannot be used: %s", digest, error)
            self._alone.add(digest)
            self._fetch(digest)
        else:
            self._came(digest, now)

    def _stop_waiting(self, digest: str) -> None:
        self._waits.pop(digest).socket.close()


def _socket() -> socket.socket:
    return socket.socket(
        socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    )


def _receive(sock: socket.socket) -> tuple[bytes, array.array[int]]:
    """Returns what came, and the descriptors that came with it, which no other program inherits."""
    fds = array.array("i")
    text, rights, _, _ = sock.recvmsg(
        _PLACE.size, socket.CMSG_SPACE(fds.itemsize), socket.MSG_CMSG_CLOEXEC
    )
    for _, _, told in rights:
        fds.frombytes(told)
    return text, fds


def _is_ours(sock: socket.socket) -> bool:
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    uid: int = _CREDENTIALS.unpack(credentials)[1]
    return uid == os.geteuid()


def _send(sock: socket.socket, text: bytes) -> bool:
    """Returns whether there is still somebody at the other end."""
    try:
        sock.send(text)
    except BlockingIOError:
        return True  # it has not read what it was told before
    except OSError:
        sock.close()
        return False
    return True


def _end(offer: _Offer) -> None:
    for sock in (offer.listener, *offer.waiting):
        sock.close()
