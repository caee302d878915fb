"""Messages between an agent and a child, over a pair of stream sockets.

A message is 4 bytes (size of the header), the header (msgpack), and the frames, whose sizes the
header tells.  A negative size is that of a large frame, whose memory is handed over beside the
first byte of the message.  The highest bit of the 4 bytes says that the sender is short of
descriptors: what the kernel cannot give it would be lost, so the other end copies large frames from
now on.  The agent's end never blocks: what does not fit into the socket waits in
a queue, so that both ends can send at the same time whatever the amount.  The child's end blocks.
"""

from __future__ import annotations

import array
import contextlib
import errno
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
from gridmap.node.reserve import Reserve, are_free

BUFFER_BYTES = 1 << 18
OWN_BUFFER_BYTES = 1 << 14
"""A frame of at least this size gets memory of its own, which is aligned for arrays."""

MAX_PARTS = 256
MAX_HANDED_OVER = 16
"""Large frames of one message that travel by descriptor: who receives them needs as many."""

MAX_TO_AGENT = 8
"""The same of a child's messages: the agent keeps as many descriptors in reserve."""

SPARE_DESCRIPTORS = 8
"""What a child has to have free beyond that, for itself."""

MAX_HEADER_BYTES = 1 << 28
_SHORT = 1 << 31
_RIGHTS_BYTES = socket.CMSG_SPACE(MAX_HANDED_OVER * array.array("i").itemsize)
_PREFIX = struct.Struct("<I")


class Order(NamedTuple):
    """Agent to child: run this lease. The paths are those of blob files, "" for none.

    :param count: 0: end this lease early, if it runs
    """

    first: int
    count: int  # type: ignore[assignment]
    attempt: int
    function: str
    function_place: str
    context: str
    context_place: str
    packets: list[tuple[int, int, int]]
    sizes: Sequence[int] = ()


def end_early(first: int, attempt: int) -> Order:
    """Returns the word to end a lease after the call that runs."""
    return Order(first, 0, attempt, "", "", "", "", [])


class Answer(NamedTuple):
    """Child to agent: what became of jobs; `items` are fields of Result."""

    state: int
    items: list[tuple[int, int, int, int, float, int, int]]
    sizes: Sequence[int] = ()


READY, WORKING, FINISHED = 0, 1, 2


class _Message(NamedTuple):
    """A message on its way.

    :param parts: what has not been sent
    :param fds: of the memory that goes with the first byte
    :param header, frames: what it was made of
    """

    parts: deque[memoryview]
    fds: list[int]
    header: Any
    frames: Sequence[Frame]

    def first(self) -> list[memoryview]:
        return list(itertools.islice(self.parts, MAX_PARTS))

    def rights(self) -> list[tuple[int, int, array.array[int]]]:
        if not self.fds:
            return []
        return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", self.fds))]

    def sent(self, nbytes: int) -> None:
        """So much of it has been sent."""
        self.close()
        while self.parts and nbytes >= self.parts[0].nbytes:
            nbytes -= self.parts.popleft().nbytes
        if nbytes:
            self.parts[0] = self.parts[0][nbytes:]

    def close(self) -> None:
        """Lets go of the memory: it is the other end's, or nobody's."""
        while self.fds:
            os.close(self.fds.pop())


class Channel:
    """One end of the socket pair: the agent's, which has a reserve and never blocks, or a child's.

    :param kind: the type of the headers that arrive here
    :param reserve: of MAX_TO_AGENT descriptors
    """

    def __init__(self, sock: socket.socket, kind: type, reserve: Reserve | None = None) -> None:
        blocking = reserve is None
        sock.setblocking(blocking)
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
        self._sock = sock
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode: Callable[[bytearray], Any] = msgspec.msgpack.Decoder(kind).decode
        self._blocking = blocking
        self._queue: deque[_Message] = deque()
        self._fds: deque[int] = deque()  # that have come, and wait for their header
        self._reserve = reserve
        self._has_room = True  # the other end, for descriptors
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
            self._queue.popleft().close()

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
        most = MAX_TO_AGENT if self._blocking else MAX_HANDED_OVER
        self._queue.append(self._message(header, frames, most if self._has_room else 0))
        self.flush()

    def _message(self, header: Any, frames: Sequence[Frame], most: int) -> _Message:
        sizes: list[int] = []
        fds: list[int] = []
        views = []
        for frame in frames:
            view = memoryview(frame).cast("B")
            fd = None
            if view.nbytes >= handover.LEAST_BYTES and len(fds) < most:
                fd = handover.lay_out(view)
            if fd is not None:
                fds.append(fd)
                sizes.append(-view.nbytes)
            else:
                sizes.append(view.nbytes)
                if view.nbytes:
                    views.append(view)
        data = self._encode(header._replace(sizes=sizes))
        size = len(data) | (_SHORT if self._is_short() else 0)
        parts = deque([memoryview(_PREFIX.pack(size) + data), *views])
        return _Message(parts, fds, header, frames)

    def _is_short(self) -> bool:
        if self._reserve is not None:
            return not self._reserve.full
        return not are_free(MAX_HANDED_OVER + SPARE_DESCRIPTORS, self.fileno())

    def flush(self) -> None:
        """Sends what waits in the queue, as far as the socket takes it."""
        queue = self._queue
        try:
            while queue:
                message = queue[0]
                try:
                    message.sent(self._sock.sendmsg(message.first(), message.rights()))
                except OSError as error:
                    if error.errno != errno.ETOOMANYREFS:
                        raise
                    # this user has too many descriptors on their way: none of it has been sent
                    message.close()
                    queue[0] = self._message(message.header, message.frames, 0)
                    continue
                if not message.parts:
                    queue.popleft()
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

    def waits(self) -> bool:
        """Returns whether `receive` would find something; never blocks."""
        if self._spare.nbytes:
            return True
        try:
            return bool(self._sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except OSError:  # nothing; or the other end is gone, which is told by sending
            return False

    def _parse(self) -> Iterator[tuple[Any, list[Frame]] | None]:
        try:
            while True:
                prefix = bytearray(_PREFIX.size)
                yield from self._fill(memoryview(prefix))
                size = _PREFIX.unpack(prefix)[0]
                self._has_room = not size & _SHORT
                size &= ~_SHORT
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
                    with self._reserve.lent() if self._reserve else contextlib.nullcontext():
                        data, rights, _, _ = self._sock.recvmsg(
                            BUFFER_BYTES, _RIGHTS_BYTES, socket.MSG_CMSG_CLOEXEC
                        )
                    for _, _, fds in rights:
                        self._fds.extend(array.array("i", fds))
                    self._spare = memoryview(data)
                    n = self._spare.nbytes
            except BlockingIOError:
                yield None
                continue
            if n == 0:
                raise EOFError
