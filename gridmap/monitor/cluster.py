"""Workers of a cluster: a scheduler starts them, ZeroMQ reaches them."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gridmap.backends.base import Backend, SubmitRequest
from gridmap.core.messages import Blob, Hello, ToAgent
from gridmap.core.records import ENDED, WorkerRecord
from gridmap.data import Frame
from gridmap.errors import WireError
from gridmap.monitor.submitter import Submitter
from gridmap.monitor.transport import Post, Received
from gridmap.wire.codec import Payload
from gridmap.wire.link import MonitorLink, share

log = logging.getLogger(__name__)

LINGER_MS = 200
_POLLIN = 1

MakeRequest = Callable[[int, int], SubmitRequest]


class ClusterTransport:
    """A scheduler and a socket.

    :param request: makes the submission of so many workers of a pool: (pool, count)
    """

    def __init__(self, run: str, backend: Backend, link: MonitorLink, request: MakeRequest) -> None:
        self._run = run
        self._backend = backend
        self._link = link
        self._request = request
        self._submitter: Submitter | None = None
        self._peer_of: dict[str, bytes] = {}
        self._worker_of: dict[bytes, tuple[str, str]] = {}
        self._known: frozenset[str] = frozenset()
        self._shared: dict[str, list[Payload]] = {}

    def begin(self, post: Post) -> None:
        self._submitter = Submitter(self._run, self._backend, post)

    # --- workers ----------------------------------------------------------------------------------

    def receive(self) -> list[Received]:
        received = []
        for peer, message, frames in self._link.receive():
            if isinstance(message, Hello):
                self._introduce(peer, message)
            name = self._worker_of.get(peer)
            if name is not None:
                received.append(Received(*name, message, frames))
        return received

    def _introduce(self, peer: bytes, hello: Hello) -> None:
        """From now on this peer speaks for the worker that it says it is, and for no other."""
        if self._worker_of.setdefault(peer, (hello.native_id, hello.incarnation))[0] == (
            hello.native_id
        ):
            before = self._peer_of.get(hello.native_id)
            if before is not None and before != peer:
                self._worker_of.pop(before, None)
            self._worker_of[peer] = (hello.native_id, hello.incarnation)
            self._peer_of[hello.native_id] = peer

    def send(self, worker: str, message: ToAgent, frames: list[Frame], now: float) -> None:
        peer = self._peer_of.get(worker)
        if peer is None:
            return
        payload: Sequence[Payload] = frames
        if isinstance(message, Blob):  # many ask for the same: their queues share one copy
            payload = self._shared.setdefault(message.digest, [])
            if not payload:
                payload.extend(map(share, frames))
        try:
            if not self._link.send(peer, message, payload):
                log.debug("worker %s cannot be reached", worker)
        except WireError as error:
            log.error("a message to worker %s was not sent: %s", worker, error)

    def fds(self) -> Mapping[Any, int]:
        return dict.fromkeys(self._link.sockets(), _POLLIN)

    def ready(self, source: Any, events: int, now: float) -> None:
        """`receive` reads all sockets."""

    def next_deadline(self) -> float:
        return math.inf

    def tick(self, now: float) -> None:
        """Nothing is ever due here."""

    # --- the scheduler ----------------------------------------------------------------------------

    @property
    def _scheduler(self) -> Submitter:
        assert self._submitter is not None, "begin() comes first"
        return self._submitter

    def submit(self, request: int, pool: int, count: int) -> None:
        self._scheduler.submit(request, self._request(pool, count))

    def cancel(self, workers: tuple[str, ...]) -> None:
        self._scheduler.cancel(workers)

    def poll(self, workers: tuple[str, ...]) -> None:
        self._scheduler.poll(workers)

    def diagnose(self, worker: str) -> None:
        self._scheduler.diagnose(worker)

    def left_behind(self, workers: Mapping[str, WorkerRecord]) -> tuple[str, ...]:
        self._known = frozenset(workers)
        return tuple(w.id for w in workers.values() if w.state not in ENDED and not w.canceled)

    def close(self, deadline_s: float) -> None:
        self._link.close(LINGER_MS)
        if self._submitter is None:
            self._backend.close()
        elif not self._submitter.close(deadline_s, self._known):
            log.warning("run %s: the scheduler does not answer; workers may be left", self._run)
