"""Turns messages into frames and back; what is malformed raises WireError and nothing else.

Frame 0 is MessagePack: [protocol, kind, [the message's fields in order]].  The other frames are
payload and are not looked at.  The same limits and checks hold for both directions, so that a
message which the other end would drop is refused where it is made.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, TypeAlias, overload

import msgspec

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

Payload: TypeAlias = "bytes | bytearray | memoryview | zmq.Frame"
"""A payload frame as it may be sent; a zmq.Frame goes to many peers without being copied."""


@dataclass(frozen=True)
class Limits:
    """What one message may take; both ends of a link must agree.

    :param head_bytes: size of frame 0
    :param frames: number of payload frames
    :param frame_bytes: size of one payload frame
    :param payload_bytes: size of all payload frames of one message together
    """

    head_bytes: int = 4 * 1024**2
    frames: int = 65_536
    frame_bytes: int = 2 * 1024**3
    payload_bytes: int = 8 * 1024**3


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
    names = [field.name for field in fields(cls)]
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
    limited = tuple(_limited(field.name, hints[field.name]) for field in fields(cls))
    return tuple[limited] if limited else tuple[()]  # type: ignore[valid-type]


_ENCODER = msgspec.msgpack.Encoder()
_HEAD = msgspec.msgpack.Decoder(tuple[int, int, msgspec.Raw])
_SHAPES: dict[type[Any], _Shape] = {
    cls: _Shape(kind, _values(cls), CHECKS[cls])
    for table in KINDS.values()
    for kind, cls in table.items()
}
_READERS: dict[Direction, dict[int, _Reader]] = {
    direction: {
        kind: _Reader(cls, msgspec.msgpack.Decoder(_body_type(cls)), CHECKS[cls])
        for kind, cls in table.items()
    }
    for direction, table in KINDS.items()
}


def size_of(frame: Payload) -> int:
    """Returns the size of a payload frame in bytes."""
    return frame.nbytes if isinstance(frame, memoryview) else len(frame)


def encode(
    message: Message, frames: Sequence[Payload] = (), limits: Limits = LIMITS
) -> list[Payload]:
    """Returns the frames to send: frame 0, then the payload frames untouched.

    :raises WireError: the message breaks a rule or a limit; the other end would drop it
    """
    shape = _SHAPES.get(type(message))
    if shape is None:
        raise WireError(f"{type(message).__name__} is no message of the wire")
    try:
        shape.check(message, len(frames))
        head = _ENCODER.encode((PROTOCOL, shape.kind, shape.values(message)))
    except WireError as error:
        raise WireError(f"{type(message).__name__}: {error}") from None
    except (TypeError, ValueError, OverflowError) as error:
        raise WireError(f"{type(message).__name__} cannot be encoded: {error}") from error
    _check_text(message)
    _check_sizes(len(head), frames, limits)
    return [head, *frames]


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
    _check_sizes(size_of(head), payload, limits)
    try:
        version, kind, body = _HEAD.decode(head)
        if version != PROTOCOL:
            raise WireError(f"protocol {version} is spoken there, {PROTOCOL} here")
        reader = _READERS[direction].get(kind)
        if reader is None:
            raise WireError(f"kind {kind} is no message {direction.value}")
        message: Message = reader.make(*reader.body.decode(body))
        reader.check(message, len(payload))
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError) as error:
        raise WireError(f"frame 0 is malformed: {error}") from error
    return message, payload


def _check_text(message: Message) -> None:
    """Refuses strings that the decoder of the other end would refuse."""
    for name in _TEXTS[type(message)]:
        longest = MAX_PROSE_CHARS if name in PROSE_FIELDS else MAX_NAME_CHARS
        if len(getattr(message, name)) > longest:
            raise WireError(f"{type(message).__name__}.{name} is longer than {longest} characters")


_TEXTS: dict[type[Any], tuple[str, ...]] = {
    cls: tuple(name for name, hint in typing.get_type_hints(cls).items() if hint is str)
    for cls in _SHAPES
}


def _check_sizes(head_bytes: int, payload: Sequence[Payload], limits: Limits) -> None:
    if head_bytes > limits.head_bytes:
        raise WireError(f"frame 0 has {head_bytes} bytes; {limits.head_bytes} are allowed")
    if len(payload) > limits.frames:
        raise WireError(f"{len(payload)} payload frames; {limits.frames} are allowed")
    total = 0
    for frame in payload:
        size = size_of(frame)
        if size > limits.frame_bytes:
            raise WireError(f"a payload frame of {size} bytes; {limits.frame_bytes} are allowed")
        total += size
    if total > limits.payload_bytes:
        raise WireError(f"a payload of {total} bytes; {limits.payload_bytes} are allowed")
