"""A fork of this process waits for a moment in which no thread of ours is at work.

A lock that such a thread holds then, one of the standard library's or of SQLite's for example,
would stay locked in the child for ever.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Iterator

PATIENCE_S = 1.0
"""How long a fork waits for each of them at most."""

_all: weakref.WeakSet[Work] = weakref.WeakSet()
_adding = threading.Lock()
_held: dict[int, list[threading.Lock]] = {}
"""By thread that forks: what it has to release afterwards, in the parent and in the child."""


class Work:
    """What one thread does: `with work:` around all of it, `with work.rest():` where it waits."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.thread = 0
        with _adding:
            _all.add(self)

    def __enter__(self) -> Work:
        self.thread = threading.get_ident()
        self.lock.acquire()
        return self

    def __exit__(self, *exception: object) -> None:
        self.lock.release()

    @contextlib.contextmanager
    def rest(self) -> Iterator[None]:
        """Lets others fork."""
        self.lock.release()
        try:
            yield
        finally:
            self.lock.acquire()


def _before() -> None:
    here = threading.get_ident()
    held = _held[here] = []
    with _adding:
        known = list(_all)
    for work in known:
        if work.thread != here and work.lock.acquire(timeout=PATIENCE_S):
            held.append(work.lock)


def _after() -> None:
    for lock in _held.pop(threading.get_ident(), ()):
        lock.release()


def _after_in_child() -> None:
    global _adding
    _adding = threading.Lock()  # another thread may have had it
    _after()
    _all.clear()  # those threads are not here


os.register_at_fork(before=_before, after_in_parent=_after, after_in_child=_after_in_child)
