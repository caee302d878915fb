"""Messages between an agent and a child, over a pair of stream sockets.

A message is 4 bytes (size of the header), the header (msgpack), and the frames, whose sizes the
header tells.  The agent's end never blocks: what does not fit into the socket waits in a queue, so
that both ends can send at the same time whatever the amount.  The child's end blocks.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from gridmap.data import Frame

BUFFER_BYTES = 1 << 18
OWN_BUFFER_BYTES = 1 << 14
"""A frame of at least this size gets memory of its own, which is aligned for arrays."""

MAX_PARTS = 256
MAX_HEADER_BYTES = 1 << 28
_PREFIX = struct.Struct("<I")


class Order(NamedTuple):
    """Agent to child: run this lease. The paths are those of blob files, "" for none."""

    first: int
    count: int  # type: ignore[assignment]
    attempt: int
    function: str
    function_place: str
    context: str
    context_place: str
    packets: list[tuple[int, int, int]]
    sizes: list[int]


class Answer(NamedTuple):
    """Child to agent: what became of jobs; `items` are fields of Result."""

    state: int
    items: list[tuple[int, int, int, int, float, int, int]]
    sizes: list[int]


READY, WORKING, FINISHED = 0, 1, 2


class Channel:
    """One end of the socket pair.

    :param kind: the type of the headers that arrive here
    """

    def __init__(self, sock: socket.socket, kind: type, blocking: bool) -> None:
        sock.setblocking(blocking)
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
        self._sock = sock
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode: Callable[[bytearray], Any] = msgspec.msgpack.Decoder(kind).decode
        self._blocking = blocking
        self._queue: deque[memoryview] = deque()
        self._spare = memoryview(b"")
        self._messages = self._parse()
        self.closed = False

    def fileno(self) -> int:
        """Returns the descriptor to poll."""
        return self._sock.fileno()

    def close(self) -> None:
        """Closes this end; twice does no harm."""
        self.closed = True
        self._queue.clear()
        self._sock.close()

    # --- sending ----------------------------------------------------------------------------------

    @property
    def wants_to_send(self) -> bool:
        """True when `flush` should be called once the socket can take more."""
        return bool(self._queue)

    def send(self, header: Any, frames: Sequence[Frame]) -> None:
        """Sends a message, or as much of it as the socket takes now.

        :raises OSError: on a blocking end only, when the other end is gone
        """
        data = self._encode(header)
        self._queue.append(memoryview(_PREFIX.pack(len(data)) + data))
        for frame in frames:
            view = memoryview(frame).cast("B")
            if view.nbytes:
                self._queue.append(view)
        self.flush()

    def flush(self) -> None:
        """Sends what waits in the queue, as far as the socket takes it."""
        queue = self._queue
        try:
            while queue:
                parts = [queue[i] for i in range(min(len(queue), MAX_PARTS))]
                sent = self._sock.sendmsg(parts)
                while queue and sent >= queue[0].nbytes:
                    sent -= queue.popleft().nbytes
                if sent:
                    queue[0] = queue[0][sent:]
        except BlockingIOError:
            return
        except OSError:
            if self._blocking:
                raise
            queue.clear()  # a dead child: its death is told elsewhere

    # --- receiving --------------------------------------------------------------------------------

    def receive(self) -> tuple[Any, list[Frame]] | None:
        """Returns the next message (header, frames); None when it is not all there yet.

        At the end of the stream `closed` becomes True.
        """
        return next(self._messages, None)

    def _parse(self) -> Iterator[tuple[Any, list[Frame]] | None]:
        try:
            while True:
                prefix = bytearray(_PREFIX.size)
                yield from self._fill(memoryview(prefix))
                size = _PREFIX.unpack(prefix)[0]
                if size > MAX_HEADER_BYTES:
                    raise ValueError(f"a header of {size} bytes")
                data = bytearray(size)
                yield from self._fill(memoryview(data))
                header = self._decode(data)
                frames = []
                for part in self._memory(header.sizes):
                    yield from self._fill(part[0])
                    frames += part[1]
                yield header, frames
        except (EOFError, OSError, ValueError, msgspec.MsgspecError):  # or no message of ours
            self.closed = True

    @staticmethod
    def _memory(sizes: Sequence[int]) -> Iterator[tuple[memoryview, list[Frame]]]:
        """Returns memory to read into, and the frames it holds; small neighbours share theirs."""
        small: list[int] = []
        for size in [*sizes, -1]:
            if 0 <= size < OWN_BUFFER_BYTES:
                small.append(size)
                continue
            if small:
                shared = memoryview(bytearray(sum(small)))
                frames: list[Frame] = []
                at = 0
                for n in small:
                    frames.append(shared[at : at + n])
                    at += n
                small = []
                yield shared, frames
            if size >= 0:
                own = bytearray(size)
                yield memoryview(own), [own]

    def _fill(self, view: memoryview) -> Iterator[None]:
        while view.nbytes:
            if self._spare.nbytes:
                n = min(self._spare.nbytes, view.nbytes)
                view[:n] = self._spare[:n]
                self._spare = self._spare[n:]
                view = view[n:]
                continue
            try:
                if view.nbytes >= BUFFER_BYTES:
                    n = self._sock.recv_into(view)
                    view = view[n:]
                else:
                    self._spare = memoryview(self._sock.recv(BUFFER_BYTES))
                    n = self._spare.nbytes
            except BlockingIOError:
                yield None
                continue
            if n == 0:
                raise EOFError
