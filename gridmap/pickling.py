"""Pickles one object: protocol 5, large buffers out of band, by value where it must be."""

from __future__ import annotations

import io
import pickle
import sys
from collections import ChainMap
from collections.abc import Callable, Iterable
from functools import lru_cache
from types import CodeType
from typing import Any, NamedTuple

from gridmap import errors
from gridmap.culprit import find_culprit

Frame = bytes | bytearray | memoryview

OUT_OF_BAND_BYTES = 65536
"""A buffer of at least this size gets a frame of its own."""

_SPAWNED_MAIN = "__mp_main__"
"""What multiprocessing calls the user's script in the processes that it spawns."""

_NO_FILE = "<dynamic-code>"
"""What cloudpickle calls the file of code that it takes apart."""

ONE = 0
"""Form of a pickle that is just one object; other forms are the caller's."""


class Pickled(NamedTuple):
    """One object, pickled on its own."""

    form: int
    data: bytes
    buffers: list[memoryview]

    @property
    def nbytes(self) -> int:
        return len(self.data) + sum(buffer.nbytes for buffer in self.buffers)


def pickle_one(obj: object, form: int = ONE, *, out_of_band: bool = True) -> Pickled:
    """Pickles by reference where that can be read elsewhere, else by value.

    Plain pickle is several times faster than cloudpickle, but what the user's script defines it
    calls ``__main__.name``, and on the node ``__main__`` is another module.
    """
    buffers: list[memoryview] = []

    def in_band(buffer: pickle.PickleBuffer) -> bool:
        view = buffer.raw()
        if view.nbytes < OUT_OF_BAND_BYTES:
            return True
        buffers.append(view)
        return False

    callback = in_band if out_of_band else None
    if not _registered_by_value():
        try:
            data = pickle.dumps(obj, protocol=5, buffer_callback=callback)
        except Exception:
            pass  # cloudpickle may know better
        else:
            if b"__main__" not in data and _SPAWNED_MAIN.encode() not in data:
                return Pickled(form, data, buffers)
        buffers.clear()
    import cloudpickle

    if _SPAWNED_MAIN in sys.modules:
        cloudpickle.register_pickle_by_value(sys.modules[_SPAWNED_MAIN])
    file = io.BytesIO()
    _by_value()(file, protocol=5, buffer_callback=callback).dump(obj)
    return Pickled(form, file.getvalue(), buffers)


@lru_cache(maxsize=1)
def _by_value() -> Callable[..., pickle.Pickler]:
    """Returns cloudpickle's class, which says of code in which file it stands.

    From 3.1.3 on it leaves that out, and tracebacks of remote functions have no source lines.
    """
    import cloudpickle

    reduce_code = cloudpickle.CloudPickler.dispatch_table[CodeType]

    def reduce(code: CodeType) -> tuple[Any, ...]:
        make, values = reduce_code(code)
        return make, tuple(code.co_filename if x == _NO_FILE else x for x in values)

    class ByValue(cloudpickle.CloudPickler):
        dispatch_table = ChainMap({CodeType: reduce}, cloudpickle.CloudPickler.dispatch_table)

    return ByValue


def _registered_by_value() -> bool:
    """True when the user asked cloudpickle to send some module by value."""
    cloudpickle = sys.modules.get("cloudpickle")
    # another thread may be importing it just now
    registry = getattr(cloudpickle, "list_registry_pickle_by_value", None)
    return registry is not None and bool(registry() - {_SPAWNED_MAIN})


def unpickle(data: Frame, buffers: Iterable[Frame] = ()) -> Any:
    return pickle.loads(data, buffers=[_writable(buffer) for buffer in buffers])


def _writable(buffer: Frame) -> Frame:
    """Arrays made on a read-only buffer would be read-only themselves."""
    return bytearray(buffer) if memoryview(buffer).readonly else buffer


def refusal(error: BaseException) -> str:
    return f"{error}" if str(error) else type(error).__name__


def unpicklable(what: str, obj: object, error: BaseException) -> errors.PicklingError:
    """Makes the error that says where in `obj` the part is that cannot be pickled."""
    path, text = find_culprit(obj, error, lambda part: pickle_one(part))
    place = f"{what}: {path}" if path else what
    return errors.PicklingError(f"{place}: {text}")
