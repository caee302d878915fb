"""Workers of a cluster: a scheduler starts them, ZeroMQ reaches them."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gridmap.backends.base import Backend, SubmitRequest
from gridmap.core.messages import Blob, Heartbeat, Hello, Refuse, Results, ToAgent, Work
from gridmap.core.records import ENDED, WorkerRecord
from gridmap.data import Frame
from gridmap.errors import WireError
from gridmap.monitor.submitter import Submitter
from gridmap.monitor.transport import Post, Received
from gridmap.wire.codec import Payload
from gridmap.wire.link import MonitorLink, share

log = logging.getLogger(__name__)

LINGER_MS = 200

MOST_NAMES = 50_000
"""Workers that may introduce themselves in one run."""

REDIAL_S = 3.0
"""A worker whose connection ended has this long to call again before its name is another's."""

MOST_UNREAD_BYTES = 256 << 20
"""Arguments on the way to a worker that has not said yet that it got any of them."""

_POLLIN = 1

MakeRequest = Callable[[int, int], SubmitRequest]


class ClusterTransport:
    """A scheduler and a socket.

    :param request: makes the submission of so many workers of a pool: (pool, count)
    :param lively_s: who has spoken within so long keeps its name, whoever else claims it
    """

    def __init__(
        self,
        run: str,
        backend: Backend,
        link: MonitorLink,
        request: MakeRequest,
        lively_s: float = 15.0,
    ) -> None:
        self._run = run
        self._backend = backend
        self._link = link
        self._request = request
        self._submitter: Submitter | None = None
        self._lively_s = lively_s
        self._heard_at: dict[bytes, float] = {}
        self._gone_at: dict[bytes, float] = {}
        self._claimed: set[str] = set()
        self._unread_bytes: dict[bytes, int] = {}
        self._peer_of: dict[str, bytes] = {}
        self._worker_of: dict[bytes, tuple[str, str]] = {}
        self._known: frozenset[str] = frozenset()
        self._shared: dict[str, list[Payload]] = {}

    def begin(self, post: Post) -> None:
        self._submitter = Submitter(self._run, self._backend, post)

    # --- workers ----------------------------------------------------------------------------------

    def receive(self) -> list[Received]:
        received = []
        now = time.monotonic()
        for peer, message, frames in self._link.receive():
            if isinstance(message, Hello) and not self._introduce(peer, message, now):
                continue
            name = self._worker_of.get(peer)
            if name is None:
                continue
            self._heard_at[peer] = now
            if isinstance(message, Results) or (isinstance(message, Heartbeat) and message.held):
                self._unread_bytes.pop(peer, None)
            received.append(Received(*name, message, frames))
        return received

    def _introduce(self, peer: bytes, hello: Hello, now: float) -> bool:
        """From now on this peer speaks for the worker that it says it is, and for no other.

        All workers of a run have one key, so a name belongs to who had it first, while it lives.
        The name of a process that is no more goes to the next one: the scheduler may start a worker
        anew.  Until then it is not answered, and says Hello again.
        """
        name = (hello.native_id, hello.incarnation)
        if self._worker_of.setdefault(peer, name) != name:
            return False
        before = self._peer_of.get(hello.native_id)
        if before is None:
            if len(self._peer_of) >= MOST_NAMES:
                for other in [p for p in self._peer_of.values() if not self._lives(p, now)]:
                    self._forget(other)
            if len(self._peer_of) >= MOST_NAMES:
                del self._worker_of[peer]
                log.warning("worker %s is one too many: %d are known", name[0], MOST_NAMES)
                return False
        elif before != peer:
            if self._worker_of[before][1] != hello.incarnation and self._lives(before, now):
                del self._worker_of[peer]
                level = logging.DEBUG if name[0] in self._claimed else logging.WARNING
                self._claimed.add(name[0])  # once is enough
                log.log(level, "somebody claims to be worker %s, which lives", name[0])
                return False
            self._forget(before)
        self._peer_of[hello.native_id] = peer
        return True

    def _lives(self, peer: bytes, now: float) -> bool:
        if now >= self._heard_at.get(peer, 0.0) + self._lively_s:
            return False
        if self._link.reaches(peer):
            return True
        return now < self._gone_at.setdefault(peer, now) + REDIAL_S

    def _forget(self, peer: bytes) -> None:
        name = self._worker_of.pop(peer, None)
        if name is not None and self._peer_of.get(name[0]) == peer:
            del self._peer_of[name[0]]
        self._heard_at.pop(peer, None)
        self._gone_at.pop(peer, None)
        self._unread_bytes.pop(peer, None)

    def send(self, worker: str, message: ToAgent, frames: list[Frame], now: float) -> None:
        peer = self._peer_of.get(worker)
        if peer is None:
            return
        payload: Sequence[Payload] = frames
        if isinstance(message, Blob) and message.found:
            # Many ask for the same: their queues share one copy.
            payload = self._shared.setdefault(message.digest, [])
            if not payload:
                payload.extend(map(share, frames))
        elif isinstance(message, Work):
            unread = self._unread_bytes.get(peer, 0)
            if unread > MOST_UNREAD_BYTES:  # its inventory will tell that it has not got them
                log.debug("worker %s does not read what it is sent", worker)
                return
            self._unread_bytes[peer] = unread + sum(memoryview(frame).nbytes for frame in frames)
        try:
            if not self._link.send(peer, message, payload):
                log.debug("worker %s cannot be reached", worker)
        except WireError as error:
            log.error("a message to worker %s was not sent: %s", worker, error)
        if isinstance(message, Refuse):
            self._forget(peer)

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
        return tuple(
            w.id
            for w in workers.values()
            if w.state not in ENDED and not w.canceled and w.is_of_scheduler
        )

    def close(self, deadline_s: float) -> None:
        self._link.close(LINGER_MS)
        if self._submitter is None:
            self._backend.close()
        elif not self._submitter.close(deadline_s, self._known):
            log.warning("run %s: the scheduler does not answer; workers may be left", self._run)
