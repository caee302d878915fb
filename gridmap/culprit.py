"""Finds the part of an object that cannot be pickled, so that an error can name it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

MAX_DEPTH = 12
MAX_PROBES = 2000


def find_culprit(
    obj: object, error: BaseException, probe: Callable[[object], object]
) -> tuple[str, str]:
    """Walks down to the smallest part that `probe` refuses.

    :param error: what pickling `obj` raised
    :param probe: raises when its argument cannot be pickled
    :returns: the path, such as "attribute .pool[3].lock" ("" for `obj` itself), and the reason
    """
    path = ""
    seen = {id(obj)}
    probes = 0
    for _ in range(MAX_DEPTH):
        for step, part in _parts(obj):
            probes += 1
            if id(part) in seen or probes > MAX_PROBES:
                continue
            seen.add(id(part))
            try:
                probe(part)
            except Exception as refused:
                path, obj, error = path + step, part, refused
                break
        else:
            break
    return _in_words(path), str(error) or type(error).__name__


def _in_words(path: str) -> str:
    kind = {".": "attribute ", "[": "item "}.get(path[:1], "")
    return kind + path.strip()


def _parts(obj: Any) -> Iterator[tuple[str, object]]:
    """Returns the parts that a pickler would look at, each with how to get there."""
    if isinstance(obj, Mapping):
        for key, value in _safe(lambda: list(obj.items())):
            yield f"[{key!r:.40}]", value
            yield f" key {key!r:.40}", key
    elif isinstance(obj, (list, tuple, set, frozenset)):
        for i, value in enumerate(obj):
            yield f"[{i}]", value
    if callable(obj) and hasattr(obj, "__code__"):
        yield from _parts_of_function(obj)
    if hasattr(obj, "__func__") and hasattr(obj, "__self__"):
        yield ".__self__", obj.__self__
    if type(obj).__name__ == "partial" and hasattr(obj, "func"):
        yield ".func", obj.func
        for i, value in enumerate(obj.args):
            yield f" argument {i} of the partial", value
        for name, value in obj.keywords.items():
            yield f" argument {name} of the partial", value
    if not isinstance(obj, type):
        for name, value in _safe(lambda: list(vars(obj).items())):
            yield f".{name}", value
        for name in _slots(type(obj)):
            if hasattr(obj, name):
                yield f".{name}", getattr(obj, name)


def _parts_of_function(function: Any) -> Iterator[tuple[str, object]]:
    names = function.__code__.co_freevars
    for name, cell in zip(names, function.__closure__ or (), strict=False):
        for value in _safe(lambda cell=cell: [cell.cell_contents]):  # type: ignore[misc]
            yield f" closure variable {name}", value
    for i, value in enumerate(function.__defaults__ or ()):
        yield f" default {i}", value
    for name in function.__code__.co_names:
        if name in function.__globals__:
            yield f" global {name}", function.__globals__[name]


def _slots(kind: type) -> Iterator[str]:
    for base in kind.__mro__:
        slots = base.__dict__.get("__slots__", ())
        yield from [slots] if isinstance(slots, str) else slots


def _safe(get: Callable[[], list[Any]]) -> list[Any]:
    try:
        return get()
    except Exception:
        return []
