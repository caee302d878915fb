"""Turns messages into frames and back; what is malformed raises WireError and nothing else.

Frame 0 is MessagePack: [protocol, kind, [the message's fields in order]].  The other frames are
payload and are not looked at.  The same limits and checks hold for both directions, so that a
message which the other end would drop is refused where it is made.

A payload frame of more than PART_BYTES travels in parts.  Frame 0 is then [protocol, -kind,
[[sizes of the payload frames], [the message's fields]]].  So no frame on the wire is large, and
who has not shown a key yet can make the other end take no more than one of them.
"""

from __future__ import annotations

import functools
import typing
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, TypeAlias, overload

import msgspec
from msgspec import Struct

from gridmap.core.messages import PROTOCOL, FromAgent, Message, ToAgent
from gridmap.errors import WireError
from gridmap.wire.messages import (
    CHECKS,
    KINDS,
    MAX_INT,
    MAX_NAME_CHARS,
    MAX_PROSE_CHARS,
    PROSE_FIELDS,
    Direction,
)

if TYPE_CHECKING:
    import zmq

Buffer: TypeAlias = "bytes | bytearray | memoryview"
"""A payload frame as it arrives."""

Payload: TypeAlias = "bytes | bytearray | memoryview | zmq.Frame | Shared"
"""A payload frame as it may be sent."""

Part: TypeAlias = "bytes | bytearray | memoryview | zmq.Frame"
"""A frame on the wire."""

PART_BYTES = 512 * 1024
"""Size of the largest frame on the wire."""


class Shared:
    """A payload frame that goes to many peers without being copied for each.

    :param parts: of PART_BYTES each; the last may be smaller
    """

    __slots__ = ("nbytes", "parts")

    def __init__(self, parts: Sequence[zmq.Frame]) -> None:
        self.parts = parts
        self.nbytes = sum(map(len, parts))


class Limits(Struct, frozen=True):
    """What one message may take; both ends of a link must agree.

    :param head_bytes: size of frame 0
    :param frames: number of payload frames
    :param frame_bytes: size of one payload frame
    :param payload_bytes: size of all payload frames of one message together
    """

    head_bytes: int = PART_BYTES
    frames: int = 65_536
    frame_bytes: int = 2 * 1024**3
    payload_bytes: int = 8 * 1024**3

    @property
    def parts(self) -> int:
        """The most frames that one message can fill on the wire."""
        return 1 + self.frames + self.payload_bytes // PART_BYTES

    @property
    def wire_frame_bytes(self) -> int:
        """The size of the largest frame on the wire."""
        return max(self.head_bytes, min(self.frame_bytes, PART_BYTES))


LIMITS = Limits()


class _Shape(NamedTuple):
    kind: int
    values: Callable[[Any], tuple[Any, ...]]
    check: Callable[[Any, int], None]


class _Reader(NamedTuple):
    make: Callable[..., Any]
    body: msgspec.msgpack.Decoder[Any]
    check: Callable[[Any, int], None]


def _values(cls: type[Any]) -> Callable[[Any], tuple[Any, ...]]:
    """Returns what turns a message into the tuple of its fields."""
    names = cls.__struct_fields__
    if not names:
        return lambda message: ()
    get = attrgetter(*names)
    if len(names) == 1:
        return lambda message: (get(message),)
    return get


def _limited(name: str, hint: Any) -> Any:
    """Returns the type of a field with its bounds."""
    if hint is str:
        longest = MAX_PROSE_CHARS if name in PROSE_FIELDS else MAX_NAME_CHARS
        return Annotated[str, msgspec.Meta(max_length=longest)]
    if hint is int:
        return Annotated[int, msgspec.Meta(le=MAX_INT)]
    return hint


def _body_type(cls: type[Any]) -> Any:
    hints = typing.get_type_hints(cls)
    limited = tuple(_limited(name, hints[name]) for name in cls.__struct_fields__)
    return tuple[limited] if limited else tuple[()]  # type: ignore[valid-type]


_ENCODER = msgspec.msgpack.Encoder()
_HEAD = msgspec.msgpack.Decoder(tuple[int, int, msgspec.Raw])
_SIZES = msgspec.msgpack.Decoder(tuple[list[int], msgspec.Raw])
_SHAPES: dict[type[Any], _Shape] = {
    cls: _Shape(kind, _values(cls), CHECKS[cls])
    for table in KINDS.values()
    for kind, cls in table.items()
}


@functools.cache  # made when it is first needed: each end reads one direction only
def _readers(direction: Direction) -> dict[int, _Reader]:
    return {
        kind: _Reader(cls, msgspec.msgpack.Decoder(_body_type(cls)), CHECKS[cls])
        for kind, cls in KINDS[direction].items()
    }


def size_of(frame: Payload) -> int:
    """Returns the size of a payload frame in bytes."""
    return frame.nbytes if isinstance(frame, (memoryview, Shared)) else len(frame)


def encode(message: Message, frames: Sequence[Payload] = (), limits: Limits = LIMITS) -> list[Part]:
    """Returns the frames to send: frame 0, then the payload frames, the large ones in parts.

    :raises WireError: the message breaks a rule or a limit; the other end would drop it
    """
    shape = _SHAPES.get(type(message))
    if shape is None:
        raise WireError(f"{type(message).__name__} is no message of the wire")
    try:
        shape.check(message, len(frames))
        sizes = [size_of(frame) for frame in frames]
        whole = max(sizes, default=0) <= PART_BYTES
        body: Any = shape.values(message)
        kind = shape.kind if whole else -shape.kind
        head = _ENCODER.encode((PROTOCOL, kind, body if whole else (sizes, body)))
    except WireError as error:
        raise WireError(f"{type(message).__name__}: {error}") from None
    except (TypeError, ValueError, OverflowError) as error:
        raise WireError(f"{type(message).__name__} cannot be encoded: {error}") from error
    _check_text(message)
    _check_sizes(len(head), sizes, limits)
    return [head, *(part for frame in frames for part in _cut(frame))]


@overload
def decode(
    frames: Sequence[Buffer],
    direction: Literal[Direction.TO_MONITOR],
    limits: Limits = ...,
) -> tuple[FromAgent, list[Buffer]]: ...
@overload
def decode(
    frames: Sequence[Buffer],
    direction: Literal[Direction.TO_AGENT],
    limits: Limits = ...,
) -> tuple[ToAgent, list[Buffer]]: ...
@overload
def decode(
    frames: Sequence[Buffer], direction: Direction, limits: Limits = ...
) -> tuple[Message, list[Buffer]]: ...
def decode(
    frames: Sequence[Buffer], direction: Direction, limits: Limits = LIMITS
) -> tuple[Message, list[Buffer]]:
    """Returns the message in frame 0 and the payload frames that follow it.

    :raises WireError: the frames are no message that may travel in this direction
    """
    if not frames:
        raise WireError("no frames")
    head, payload = frames[0], list(frames[1:])
    _check_sizes(size_of(head), [], limits)
    try:
        version, kind, body = _HEAD.decode(head)
        if version != PROTOCOL:
            raise WireError(f"protocol {version} is spoken there, {PROTOCOL} here")
        sizes = [size_of(frame) for frame in payload]
        if kind < 0:
            told, body = _SIZES.decode(body)
            _check_sizes(0, told, limits)
            payload, kind = _join(told, payload), -kind
        else:
            _check_sizes(0, sizes, limits)
        reader = _readers(direction).get(kind)
        if reader is None:
            raise WireError(f"kind {kind} is no message {direction.value}")
        message: Message = reader.make(*reader.body.decode(body))
        reader.check(message, len(payload))
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError) as error:
        raise WireError(f"frame 0 is malformed: {error}") from error
    return message, payload


def _check_text(message: Message) -> None:
    """Refuses strings that the decoder of the other end would refuse."""
    for name in _texts(type(message)):
        longest = MAX_PROSE_CHARS if name in PROSE_FIELDS else MAX_NAME_CHARS
        if len(getattr(message, name)) > longest:
            raise WireError(f"{type(message).__name__}.{name} is longer than {longest} characters")


@functools.cache
def _texts(cls: type[Any]) -> tuple[str, ...]:
    """Returns which fields of a message are strings."""
    return tuple(name for name, hint in typing.get_type_hints(cls).items() if hint is str)


def _cut(frame: Payload) -> Sequence[Part]:
    """Returns a payload frame as it travels."""
    if isinstance(frame, Shared):
        return frame.parts
    if size_of(frame) <= PART_BYTES:
        return (frame,)
    view = memoryview(frame.buffer if hasattr(frame, "buffer") else frame).cast("B")
    return [view[at : at + PART_BYTES] for at in range(0, view.nbytes, PART_BYTES)]


def _join(sizes: Sequence[int], parts: list[Buffer]) -> list[Buffer]:
    """Returns the payload frames that were cut; lets go of each part when it has been copied."""
    if sum(max(1, -(-size // PART_BYTES)) for size in sizes) != len(parts):
        raise WireError(f"{len(parts)} frames are no parts of payload frames of {sizes[:5]} bytes")
    lengths = [n for size in sizes for n in _lengths(size)]
    if lengths != [size_of(part) for part in parts]:
        raise WireError("a part of a payload frame has another size than it should have")
    frames: list[Buffer] = []
    parts.reverse()
    for size in sizes:
        if size <= PART_BYTES:
            frames.append(parts.pop())
            continue
        frame = bytearray(size)
        for at in range(0, size, PART_BYTES):
            frame[at : at + PART_BYTES] = parts.pop()
        frames.append(frame)
    return frames


def _lengths(size: int) -> list[int]:
    whole, rest = divmod(size, PART_BYTES)
    return [PART_BYTES] * whole + ([rest] if rest or not whole else [])


def _check_sizes(head_bytes: int, sizes: Sequence[int], limits: Limits) -> None:
    if head_bytes > limits.head_bytes:
        raise WireError(f"frame 0 has {head_bytes} bytes; {limits.head_bytes} are allowed")
    if len(sizes) > limits.frames:
        raise WireError(f"{len(sizes)} payload frames; {limits.frames} are allowed")
    total = 0
    for size in sizes:
        if not 0 <= size <= limits.frame_bytes:
            raise WireError(f"a payload frame of {size} bytes; {limits.frame_bytes} are allowed")
        total += size
    if total > limits.payload_bytes:
        raise WireError(f"a payload of {total} bytes; {limits.payload_bytes} are allowed")
