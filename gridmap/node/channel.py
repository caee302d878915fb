"""Messages between an agent and a child, over a pair of stream sockets.

A message is 4 bytes (size of the header), the header (msgpack), and the frames, whose sizes the
header tells.  A negative size is that of a large frame, whose memory is handed over beside the
first byte of the message.  The agent's end never blocks: what does not fit into the socket waits in
a queue, so that both ends can send at the same time whatever the amount.  The child's end blocks.
"""

from __future__ import annotations

import array
import contextlib
import itertools
import os
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from gridmap.data import Frame
from gridmap.node import handover

BUFFER_BYTES = 1 << 18
OWN_BUFFER_BYTES = 1 << 14
"""A frame of at least this size gets memory of its own, which is aligned for arrays."""

MAX_PARTS = 256
MAX_HANDED_OVER = 200
"""Large frames of one message that travel by descriptor. Source: SCM_MAX_FD is 253 in Linux."""

MAX_HEADER_BYTES = 1 << 28
_RIGHTS_BYTES = socket.CMSG_SPACE(MAX_HANDED_OVER * array.array("i").itemsize)
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
    sizes: Sequence[int] = ()


class Answer(NamedTuple):
    """Child to agent: what became of jobs; `items` are fields of Result."""

    state: int
    items: list[tuple[int, int, int, int, float, int, int]]
    sizes: Sequence[int] = ()


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
        self._queue: deque[tuple[memoryview, list[int]]] = deque()
        self._fds: deque[int] = deque()  # that have come, and wait for their header
        self._spare = memoryview(b"")
        self._messages = self._parse()
        self.closed = False

    def fileno(self) -> int:
        """Returns the descriptor to poll."""
        return self._sock.fileno()

    def close(self) -> None:
        """Closes this end; twice does no harm."""
        self.closed = True
        self._forget()
        while self._fds:
            os.close(self._fds.popleft())
        self._sock.close()

    def _forget(self) -> None:
        """Lets go of what waits to be sent."""
        while self._queue:
            for fd in self._queue.popleft()[1]:
                os.close(fd)

    # --- sending ----------------------------------------------------------------------------------

    @property
    def wants_to_send(self) -> bool:
        """True when `flush` should be called once the socket can take more."""
        return bool(self._queue)

    def send(self, header: Any, frames: Sequence[Frame]) -> None:
        """Sends a message, or as much of it as the socket takes now.

        :param header: its `sizes` are filled in here
        :raises OSError: on a blocking end only, when the other end is gone
        """
        sizes: list[int] = []
        fds: list[int] = []
        views = []
        for frame in frames:
            view = memoryview(frame).cast("B")
            fd = None
            if view.nbytes >= handover.LEAST_BYTES and len(fds) < MAX_HANDED_OVER:
                fd = handover.lay_out(view)
            if fd is not None:
                fds.append(fd)
                sizes.append(-view.nbytes)
            else:
                views.append(view)
                sizes.append(view.nbytes)
        data = self._encode(header._replace(sizes=sizes))
        self._queue.append((memoryview(_PREFIX.pack(len(data)) + data), fds))
        self._queue.extend((view, []) for view in views if view.nbytes)
        self.flush()

    def flush(self) -> None:
        """Sends what waits in the queue, as far as the socket takes it."""
        queue = self._queue
        try:
            while queue:
                view, fds = queue[0]
                parts = [view]
                for following, others in itertools.islice(queue, 1, MAX_PARTS):
                    if others:  # they go with the first byte of their own message
                        break
                    parts.append(following)
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
                sent = self._sock.sendmsg(parts, rights if fds else [])
                while fds:
                    os.close(fds.pop())
                while queue and sent >= queue[0][0].nbytes:
                    sent -= queue.popleft()[0].nbytes
                if sent:
                    queue[0] = queue[0][0][sent:], []
        except BlockingIOError:
            return
        except OSError:
            if self._blocking:
                raise
            self._forget()  # a dead child: its death is told elsewhere

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

    def _memory(self, sizes: Sequence[int]) -> Iterator[tuple[memoryview, list[Frame]]]:
        """Returns memory to read into, and the frames it holds; small neighbours share theirs."""
        for is_small, group in itertools.groupby(sizes, lambda size: 0 <= size < OWN_BUFFER_BYTES):
            if is_small:
                small = list(group)
                shared = memoryview(bytearray(sum(small)))
                ends = list(itertools.accumulate(small))
                yield shared, [shared[end - n : end] for n, end in zip(small, ends, strict=True)]
                continue
            for size in group:
                if size > 0:
                    own = bytearray(size)
                    yield memoryview(own), [own]
                elif not self._fds:
                    raise ValueError(f"a frame of {-size} bytes without its memory")
                else:
                    yield memoryview(b""), [handover.pick_up(self._fds.popleft(), -size)]

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
                    data, rights, _, _ = self._sock.recvmsg(BUFFER_BYTES, _RIGHTS_BYTES)
                    for _, _, fds in rights:
                        self._fds.extend(array.array("i", fds))
                    self._spare = memoryview(data)
                    n = self._spare.nbytes
            except BlockingIOError:
                yield None
                continue
            if n == 0:
                raise EOFError
