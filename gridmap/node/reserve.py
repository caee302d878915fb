"""Descriptors that are kept for those that come beside messages.

The kernel drops a descriptor for which a process has no number free, and its sender never hears of
it.  So an agent, in whose process anybody may open files at any time, holds a few that it lets go
of just before it reads.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

_turn = threading.Lock()


class Reserve:
    """Holds so many descriptors, as far as they are to be had."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._null = -1
        self._fds: list[int] = []
        self.fill()

    @property
    def full(self) -> bool:
        """True while all of them are held."""
        return len(self._fds) == self._most

    def fill(self) -> None:
        """Takes what is missing."""
        with contextlib.suppress(OSError):
            if self._null < 0 and self._most:
                self._null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
            while len(self._fds) < self._most:
                self._fds.append(os.dup(self._null))

    @contextlib.contextmanager
    def lent(self) -> Iterator[None]:
        """Lets go of them meanwhile."""
        with _turn:  # another run of this process would take them for its own reserve
            self._let_go()
            try:
                yield
            finally:
                self.fill()

    def _let_go(self) -> None:
        while self._fds:
            os.close(self._fds.pop())

    def close(self) -> None:
        """Lets go of them for good; twice does no harm."""
        self._let_go()
        self._most = 0
        if self._null >= 0:
            os.close(self._null)
            self._null = -1


def are_free(count: int, fd: int) -> bool:
    """Returns whether this process could have so many descriptors more now.

    :param fd: one that it has
    """
    fds: list[int] = []
    try:
        for _ in range(count):
            fds.append(os.dup(fd))  # those taken have to be known when it fails
    except OSError:
        return False
    else:
        return True
    finally:
        for fd in fds:
            os.close(fd)
