"""Packets: the arguments, or the values, of consecutive jobs in a few frames.

Jobs are isolated: what a job sees never depends on which jobs shared its packet.  The first frame
has one of three forms:

- a pickled list, or range: one argument (one value) for each job, immutable atoms only;
- a pickled tuple of tuples: the positional arguments of each job, immutable atoms only;
- "E", a table, then one pickle for each job: anything else; large buffers follow as frames.

Values that are all None are a pickled None.
"""

from __future__ import annotations

import io
import itertools
import pickle
import struct
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from msgspec import Struct, field

from gridmap import errors
from gridmap.pickling import (
    ONE,
    OUT_OF_BAND_BYTES,
    Frame,
    Pickled,
    pickle_one,
    refusal,
    unpicklable,
    unpickle,
)

SMALL_ATOMS = frozenset({type(None), bool, int, float, complex})
"""Immutable types without parts that take little room."""

ATOMS = SMALL_ATOMS | {str, bytes}
"""Immutable types without parts: that two jobs share one cannot be noticed."""

_FULL_BYTES = 1 << 20
_PATIENCE_S = 0.01
_EACH = b"E"
_NONE = pickle.dumps(None, protocol=5)
_COUNT = struct.Struct("<I")
_ENTRY = struct.Struct("<BIQ")  # form of the call, number of buffers, bytes of the pickle
_POSITIONAL, _KEYWORDS = 1, 2


class Arguments(Struct):
    """Positional and keyword arguments of one job."""

    args: Sequence[Any] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)


class Packet(NamedTuple):
    """The arguments of `count` consecutive jobs."""

    count: int  # type: ignore[assignment]
    frames: list[Frame]

    @property
    def nbytes(self) -> int:
        return sum(memoryview(frame).nbytes for frame in self.frames)


def _all_atoms(chunk: Iterable[Any], types: set[type], depth: int = 3) -> bool:
    """True when these are atoms, or tuples of atoms."""
    if types <= ATOMS:
        return True
    if depth == 0 or not types <= ATOMS | {tuple}:
        return False
    parts = list(itertools.chain.from_iterable(x for x in chunk if type(x) is tuple))
    return _all_atoms(parts, set(map(type, parts)), depth - 1)


def _join_pickles(pickled: Sequence[Pickled]) -> list[Frame]:
    table = [_ENTRY.pack(p.form, len(p.buffers), len(p.data)) for p in pickled]
    first = b"".join([_EACH, _COUNT.pack(len(pickled)), *table, *(p.data for p in pickled)])
    return [first, *(buffer for p in pickled for buffer in p.buffers)]


class _Part(NamedTuple):
    """One pickle inside a packet that holds many."""

    form: int
    data: memoryview
    buffers: Sequence[Frame]


def _split_pickles(frames: Sequence[Frame], skip: int, take: int) -> Iterator[_Part]:
    whole = memoryview(frames[0]).cast("B")
    (count,) = _COUNT.unpack_from(whole, 1)
    start = 1 + _COUNT.size
    at, buffer_at = start + count * _ENTRY.size, 1
    for i, (form, buffers, size) in enumerate(_ENTRY.iter_unpack(whole[start:at])):
        if i >= skip + take:
            return
        if i >= skip:
            yield _Part(form, whole[at : at + size], frames[buffer_at : buffer_at + buffers])
        at += size
        buffer_at += buffers


def _is_each(frames: Sequence[Frame]) -> bool:
    return bytes(memoryview(frames[0])[:1]) == _EACH


def pack_arguments(
    elements: Iterable[Any],
    describe: Callable[[int], str] = "job {}".format,
    max_items: int | Callable[[], int] = 4096,
    max_bytes: int = 65536,
) -> Iterator[Packet]:
    """Packs the arguments of consecutive jobs, lazily.

    An element that is a list is the positional arguments, an `Arguments` those and the keyword
    arguments, anything else the one argument.  A packet closes at `max_items` or `max_bytes`; a
    larger element is a packet of its own.

    :param describe: says which job an index is, for errors
    :param max_items: a number, or a function that is asked for it before each packet
    :raises PicklingError: names the job, the argument and the part that cannot be pickled; the
        packets of the elements before it have been yielded
    """
    index = 0
    for chunk in _chunks(elements, max_items):
        packets: Iterable[Packet] | None = _pack_plain(chunk, max_bytes)
        if packets is None:
            packets = _pack_each(chunk, index, describe, max_bytes)
        yield from packets
        index += len(chunk)


def _chunks(elements: Iterable[Any], max_items: int | Callable[[], int]) -> Iterator[Sequence[Any]]:
    """Cuts the input; takes few elements at a time from a source that is slow or has just begun."""
    if type(elements) is range and isinstance(max_items, int):
        if elements:
            yield elements  # however long, it takes a few bytes
        return
    if isinstance(elements, (list, tuple)) and isinstance(max_items, int):
        for at in range(0, len(elements), max_items):
            yield list(elements[at : at + max_items])
        return
    iterator = iter(elements)
    size = 1
    while True:
        size = min(size, max_items if isinstance(max_items, int) else max_items())
        begun = time.monotonic()
        chunk = _read(itertools.islice(iterator, size), begun + _PATIENCE_S)
        slow = time.monotonic() - begun > _PATIENCE_S
        if not chunk:
            return
        large = any(getattr(x, "nbytes", 0) >= OUT_OF_BAND_BYTES for x in chunk)
        yield chunk
        size = max(1, size // 2) if slow or large else 2 * size


def _read(elements: Iterable[Any], until: float) -> list[Any]:
    """Reads elements that somebody makes; what can change is pickled before the next one is made.

    A generator may fill the same array again, or add to the same list.

    :param until: reads no further after this time, so an element that took long travels at once
    """
    chunk: list[Any] = []
    clock = time.monotonic
    for element in elements:
        kind = type(element)
        if kind in ATOMS or (kind is tuple and ATOMS.issuperset(map(type, element))):
            chunk.append(element)
        elif kind is list and ATOMS.issuperset(map(type, element)):
            chunk.append(element.copy())
        else:
            try:
                packed = _pickle_call(element)
            except Exception:  # whoever packs it says what is wrong
                chunk.append(element)
                break
            if packed.buffers:
                packed = packed._replace(buffers=[memoryview(bytearray(b)) for b in packed.buffers])
            chunk.append(packed)
        if clock() > until:
            break
    return chunk


_NUMBERS = frozenset({bool, int, float})


class _NoNumber(Exception):
    """There is something else among them."""


class _NumberPickler(pickle.Pickler):
    def reducer_override(self, obj: object) -> Any:
        raise _NoNumber  # only basic types are pickled without it


def _pickle_numbers(chunk: Sequence[Any]) -> bytes | None:
    """Pickles a list of numbers; returns None when there is anything else in it.

    To look at every type first would take longer than to pickle them.
    """
    buffer = io.BytesIO()
    pickler = _NumberPickler(buffer, protocol=5)
    try:
        pickler.dump(chunk)
    except Exception:  # what it is, is told where each is pickled alone
        return None
    only_itself = len(pickler.memo.copy()) == 1  # which has no numbers
    return buffer.getvalue() if only_itself else None


def _pack_plain(chunk: Sequence[Any], max_bytes: int) -> list[Packet] | None:
    """Packs atoms as one pickle; returns None when there is anything else."""
    if type(chunk) is range:
        return [Packet(len(chunk), [pickle.dumps(chunk, protocol=5)])]
    if type(chunk[0]) in _NUMBERS and type(chunk[-1]) in _NUMBERS:
        numbers = _pickle_numbers(chunk)
        if numbers is not None and len(numbers) <= max_bytes:
            return [Packet(len(chunk), [numbers])]
    types = set(map(type, chunk))
    if types == {list}:
        parts = list(itertools.chain.from_iterable(chunk))
        if not _all_atoms(parts, set(map(type, parts))):
            return None
        return list(_cut(tuple(map(tuple, chunk)), max_bytes))
    return list(_cut(chunk, max_bytes)) if _all_atoms(chunk, types) else None


def _cut(chunk: Sequence[Any], max_bytes: int) -> Iterator[Packet]:
    """Packs a chunk in pieces whose size the first elements tell."""
    few = chunk[:4]
    each = len(pickle.dumps(few, protocol=5)) / len(few)
    step = max(1, int(max_bytes / each))
    for at in range(0, len(chunk), step):
        yield from _halve(chunk[at : at + step], max_bytes)


def _halve(chunk: Sequence[Any], max_bytes: int) -> Iterator[Packet]:
    data = pickle.dumps(chunk, protocol=5)
    if len(data) <= max_bytes or len(chunk) == 1:
        yield Packet(len(chunk), [data])
        return
    middle = len(chunk) // 2
    yield from _halve(chunk[:middle], max_bytes)
    yield from _halve(chunk[middle:], max_bytes)


def _pack_each(
    chunk: Sequence[Any], index: int, describe: Callable[[int], str], max_bytes: int
) -> Iterator[Packet]:
    held: list[Pickled] = []
    size = 0
    for i, element in enumerate(chunk):
        try:
            packed = element if type(element) is Pickled else _pickle_call(element)
        except Exception as error:
            if held:
                yield Packet(len(held), _join_pickles(held))
            raise _unpicklable_call(element, describe(index + i), error) from error
        if held and size + packed.nbytes > max_bytes:
            yield Packet(len(held), _join_pickles(held))
            held, size = [], 0
        held.append(packed)
        size += packed.nbytes
    yield Packet(len(held), _join_pickles(held))


def _pickle_call(element: Any) -> Pickled:
    if type(element) is Arguments:
        if not element.kwargs:
            return pickle_one(list(element.args), _POSITIONAL)
        return pickle_one((list(element.args), element.kwargs), _KEYWORDS)
    return pickle_one(element, _POSITIONAL if isinstance(element, list) else ONE)


def _unpicklable_call(element: Any, job: str, error: BaseException) -> errors.PicklingError:
    """Finds out which argument it is."""
    if type(element) is Arguments:
        parts = [*enumerate(element.args), *element.kwargs.items()]
    else:
        parts = list(enumerate(element if isinstance(element, list) else [element]))
    for name, part in parts:
        try:
            pickle_one(part)
        except Exception as of_part:
            return unpicklable(f"argument {name} of {job}", part, of_part)
    return errors.PicklingError(f"the arguments of {job}: {refusal(error)}")


Call = tuple[Sequence[Any], dict[str, Any]]


class PlainCalls(NamedTuple):
    """Arguments of consecutive jobs: one for each, or the positional ones of each as a tuple."""

    arguments: Sequence[Any]
    many: bool

    def positional(self) -> list[Sequence[Any]]:
        """Returns the positional arguments of each job."""
        return list(self.arguments) if self.many else [(one,) for one in self.arguments]


def plain_calls(frames: Sequence[Frame], skip: int, take: int) -> PlainCalls | None:
    """Returns the arguments of jobs, or None where those of each are a pickle of their own."""
    if _is_each(frames):
        return None
    items = pickle.loads(frames[0])[skip : skip + take]
    return PlainCalls(items, type(items) is tuple)


def pickled_calls(frames: Sequence[Frame], skip: int, take: int) -> Iterator[Callable[[], Call]]:
    """Returns, for each job, what unpickles its arguments (and may raise)."""
    for part in _split_pickles(frames, skip, take):
        yield lambda part=part: _read_call(part)  # type: ignore[misc]


def _read_call(part: _Part) -> Call:
    got = unpickle(part.data, part.buffers)
    if part.form == ONE:
        return (got,), {}
    if part.form == _POSITIONAL:
        return got, {}
    args, kwargs = got
    return args, kwargs


class ValuePacker:
    """Collects the values of consecutive jobs, each as it was when its call returned."""

    def __init__(self) -> None:
        self.items: list[Any] = []  # SMALL_ATOMS may be appended directly
        self.full = False  # send before the next call
        self._pickled = False
        self._bytes = 0

    def add(self, value: Any) -> bool:
        """Keeps one value; returns True for a large one, which should travel alone.

        :raises PicklingError: names the part that cannot be pickled; nothing was kept
        """
        kind = type(value)
        if kind in ATOMS or (kind is tuple and _all_atoms(value, set(map(type, value)))):
            self.items.append(value)
            size = sys.getsizeof(value)
        else:
            try:
                packed = pickle_one(value)
            except Exception as error:
                raise unpicklable(f"value of type {kind.__qualname__}", value, error) from error
            self.items.append(packed)
            self._pickled = True
            size = packed.nbytes
            # the next call may change an array that the buffers belong to
            self.full = self.full or bool(packed.buffers)
        self._bytes += size
        self.full = self.full or self._bytes > _FULL_BYTES
        return size >= OUT_OF_BAND_BYTES

    def take(self) -> tuple[int, list[Frame]]:
        """Returns the number of values kept and their packet, and forgets them."""
        count, frames = self._pack(self.items)
        self.items.clear()
        self.full = self._pickled = False
        self._bytes = 0
        return count, frames

    def take_but_last(self) -> tuple[int, list[Frame]]:
        """Does as `take`, and keeps the last value."""
        packed = self._pack(self.items[:-1])
        del self.items[:-1]
        return packed

    def _pack(self, items: list[Any]) -> tuple[int, list[Frame]]:
        count = len(items)
        if self._pickled:
            each = [x if type(x) is Pickled else pickle_one(x) for x in items]
            frames = _join_pickles(each)
        elif items.count(None) == count:
            frames = [_NONE]
        else:
            frames = [pickle.dumps(items, protocol=5)]
        return count, frames


def unpack_values(frames: Sequence[Frame], skip: int, take: int) -> list[Any]:
    """Returns the values of a packet's part."""
    if not _is_each(frames):
        values: list[Any] | None = pickle.loads(frames[0])
        return [None] * take if values is None else values[skip : skip + take]
    return [unpickle(part.data, part.buffers) for part in _split_pickles(frames, skip, take)]
