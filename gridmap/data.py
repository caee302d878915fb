"""Turns functions, arguments, values and exceptions into frames of bytes, and back.

Pickle protocol 5 with buffers out of band: a frame is either a pickle or one large buffer, so that
an array travels without being copied into a pickle.  Heavy imports happen when they are needed.
"""

from __future__ import annotations

import contextlib
import pickle
import struct
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from msgspec import Struct, field
from msgspec.structs import astuple

from gridmap import errors
from gridmap.packets import (
    ATOMS,
    SMALL_ATOMS,
    Arguments,
    Call,
    Packet,
    PlainCalls,
    ValuePacker,
    pack_arguments,
    pickled_calls,
    plain_calls,
    unpack_values,
)
from gridmap.pickling import (
    OUT_OF_BAND_BYTES,
    Frame,
    pickle_one,
    refusal,
    unpicklable,
    unpickle,
)

try:
    from _blake2 import blake2b  # hashlib would load OpenSSL as well, which takes milliseconds
except ImportError:
    from hashlib import blake2b

if TYPE_CHECKING:
    from gridmap.core.messages import Death

__all__ = [
    "ATOMS",
    "OUT_OF_BAND_BYTES",
    "SMALL_ATOMS",
    "Arguments",
    "Call",
    "Context",
    "Frame",
    "Packet",
    "ValuePacker",
    "digest",
    "join_frames",
    "pack_arguments",
    "pack_death",
    "pack_exception",
    "pack_exceptions",
    "pack_function",
    "pack_text",
    "pickled_calls",
    "PlainCalls",
    "plain_calls",
    "split_frames",
    "unpack_death",
    "unpack_exception",
    "unpack_exceptions",
    "unpack_function",
    "unpack_text",
    "unpack_values",
    "zdumps",
    "zloads",
]

TRACEBACK_CHARACTERS = 65536
"""Of a longer traceback the middle is left out."""

_ALIGNMENT = 64
_COUNT = struct.Struct("<I")
_SIZE = struct.Struct("<Q")


def zdumps(obj: object) -> bytes:
    """Returns a bz2-compressed pickle."""
    import bz2

    return bz2.compress(pickle_one(obj, out_of_band=False).data)


def zloads(data: bytes) -> Any:
    """Returns what `zdumps` packed; only for bytes from a source that you trust."""
    import bz2

    return pickle.loads(bz2.decompress(data))


# --- functions ------------------------------------------------------------------------------------


def pack_function(f: Callable[..., Any]) -> list[Frame]:
    """Packs a function: by value what lives in ``__main__`` or has no name, else by reference.

    :raises PicklingError: names the part of it that cannot be pickled
    """
    name = getattr(f, "__qualname__", None) or type(f).__qualname__
    try:
        packed = pickle_one(f)
    except Exception as error:
        raise unpicklable(f"function {name}", f, error) from error
    return [packed.data, *packed.buffers]


def unpack_function(frames: Sequence[Frame]) -> Callable[..., Any]:
    """Returns the function; raises whatever its unpickling raises."""
    function: Callable[..., Any] = unpickle(frames[0], frames[1:])
    return function


def pack_exceptions(classes: tuple[type[BaseException], ...]) -> bytes:
    """Packs classes of exceptions.

    :raises PicklingError: names the one that cannot be pickled
    """
    try:
        return bytes(pickle_one(classes).data)
    except Exception as error:
        names = ", ".join(each.__qualname__ for each in classes)
        raise unpicklable(f"retry_on ({names})", classes, error) from error


def unpack_exceptions(data: bytes) -> tuple[type[BaseException], ...]:
    """Returns the classes; raises whatever their unpickling raises."""
    classes: tuple[type[BaseException], ...] = unpickle(data, ())
    return classes


def pack_text(text: str) -> list[Frame]:
    """Packs the text of an UNPICKLABLE or UNREADABLE result."""
    return [text.encode("utf-8", "backslashreplace")]


def unpack_text(frames: Sequence[Frame]) -> str:
    """Returns the text."""
    return bytes(frames[0]).decode("utf-8", "replace")


# --- blobs ----------------------------------------------------------------------------------------


def digest(frames: Iterable[Frame]) -> str:
    """Returns the name of these frames: a BLAKE2b hash of their bytes and sizes."""
    state = blake2b(digest_size=32)
    for frame in frames:
        view = memoryview(frame).cast("B")
        state.update(_SIZE.pack(view.nbytes))
        state.update(view)
    return state.hexdigest()


def join_frames(frames: Sequence[Frame]) -> list[Frame]:
    """Makes one blob of frames: its parts, in order, none of them copied.

    Each frame starts at a multiple of 64 bytes, as arrays like it.
    """
    views = [memoryview(frame).cast("B") for frame in frames]
    parts: list[Frame] = [_COUNT.pack(len(views)), *(_SIZE.pack(v.nbytes) for v in views)]
    at = _COUNT.size + _SIZE.size * len(views)
    for view in views:
        gap = -at % _ALIGNMENT
        parts += [bytes(gap), view]
        at += gap + view.nbytes
    return parts


def split_frames(buffer: Frame) -> list[memoryview]:
    """Returns the frames inside a blob, without copying."""
    whole = memoryview(buffer).cast("B")
    (count,) = _COUNT.unpack_from(whole)
    frames = []
    at = _COUNT.size + _SIZE.size * count
    for i in range(count):
        (size,) = _SIZE.unpack_from(whole, _COUNT.size + _SIZE.size * i)
        at += -at % _ALIGNMENT
        frames.append(whole[at : at + size])
        at += size
    return frames


# --- how a job ended otherwise --------------------------------------------------------------------


def pack_exception(exc: BaseException) -> list[Frame]:
    """Packs an exception with its traceback as text.

    One that would not come back whole is replaced by a JobException that names its type and text.
    """
    text = _format(exc)
    try:
        name = f"{type(exc).__module__}.{type(exc).__qualname__}: {exc}"
    except Exception:  # a __str__ of its own may fail
        name = f"{type(exc).__module__}.{type(exc).__qualname__}"
    name = name.removeprefix("builtins.").removesuffix(": ")
    packed = b""
    if isinstance(exc, Exception):
        packed = _pickle_exception(exc) or _pickle_exception(_ByParts(exc))
    return [*pack_text(name), *pack_text(text), packed]


def _pickle_exception(exc: object) -> bytes:
    """Returns a pickle that has been read again, b"" where that fails."""
    kind = type(exc.exc) if isinstance(exc, _ByParts) else type(exc)
    try:
        packed = pickle_one(exc, out_of_band=False).data
        return packed if type(pickle.loads(packed)).__qualname__ == kind.__qualname__ else b""
    except BaseException:  # whatever its class does when it is made again
        return b""


class _ByParts:
    """An exception that is pickled without its class's own idea of how to make it again, which
    fails for every class whose __init__ wants other arguments than it hands on."""

    def __init__(self, exc: Exception) -> None:
        self.exc = exc

    def __reduce__(self) -> tuple[Any, ...]:
        return _from_parts, (type(self.exc), self.exc.args, vars(self.exc))


def _from_parts(kind: type[Exception], args: tuple[Any, ...], state: dict[str, Any]) -> Exception:
    exc = kind.__new__(kind, *args)
    exc.args = args
    vars(exc).update(state)
    return exc


def _format(exc: BaseException) -> str:
    """Formats the traceback, without the frames of the loop that made the call."""
    import traceback

    trace = exc.__traceback__
    while trace is not None and trace.tb_frame.f_globals.get("__name__") in _OWN_MODULES:
        trace = trace.tb_next
    try:
        text = "".join(traceback.format_exception(type(exc), exc, trace))
    except Exception as error:
        text = f"{type(exc).__qualname__} (its traceback cannot be shown: {refusal(error)})\n"
    if len(text) > TRACEBACK_CHARACTERS:
        half = TRACEBACK_CHARACTERS // 2
        text = f"{text[:half]}\n... {len(text) - 2 * half} characters left out ...\n{text[-half:]}"
    return text


_OWN_MODULES = frozenset({"gridmap.node.child", "gridmap.node.calls"})


def unpack_exception(frames: Sequence[Frame]) -> BaseException:
    """Returns the exception, caused by a RemoteTraceback; a JobException where it cannot be read.

    Never raises what the exception's own code may raise here.
    """
    name, text = unpack_text(frames), unpack_text(frames[1:])
    exc: BaseException | None = None
    try:
        if memoryview(frames[2]).nbytes:
            exc = pickle.loads(frames[2])
    except Exception as error:
        name = f"{name} (it cannot be read here: {refusal(error)})"
    if not isinstance(exc, Exception):
        exc = errors.JobException(name, cause=errors.Cause.EXCEPTION)
    with contextlib.suppress(Exception):  # a class may forbid it; it is more than its traceback
        exc.__cause__ = errors.RemoteTraceback(text)
    return exc


def pack_death(death: Death) -> list[Frame]:
    """Packs what is known of a child's end."""
    import msgspec

    return [msgspec.msgpack.encode(death)]


def unpack_death(frames: Sequence[Frame]) -> Death:
    """Returns what is known of a child's end."""
    import msgspec

    from gridmap.core.messages import Death

    return msgspec.msgpack.decode(frames[0], type=Death)


class Context(Struct):
    """Where a job runs.

    :param environment: all of the environment variables; None leaves them as they are on the node
    :param working_dir: "" leaves it as it is
    :param sys_path: the client's; searched first
    :param added: variables on top of `environment`, or of those of the node
    :param retry_on: exceptions after which a job is tried again, packed
    :param threads: so many its libraries start, where nobody says otherwise; 0: as they like
    :param gpus: how many devices it asked for; 0: none, or it did not say
    """

    environment: dict[str, str] | None = None
    working_dir: str = ""
    sys_path: list[str] = field(default_factory=list)
    added: dict[str, str] = field(default_factory=dict)
    retry_on: bytes = b""
    threads: int = 0
    gpus: int = 0

    def encode(self) -> bytes:
        """Returns it as bytes; pickled, since file names need not be valid Unicode."""
        return pickle.dumps(astuple(self), protocol=5)

    @classmethod
    def decode(cls, data: Frame) -> Context:
        """Reads what `encode` returned."""
        return cls(*pickle.loads(data))
