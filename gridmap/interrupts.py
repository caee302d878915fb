"""What ends with the program: runs that are alive when it is interrupted, terminated or over."""

from __future__ import annotations

import atexit
import os
import signal
import threading
import time
from types import FrameType
from typing import Protocol

EXIT_DEADLINE_S = 5.0
"""How long the end of the program waits for its runs to be gone, all of them together."""


class Endable(Protocol):
    """A run's monitor, as far as this module is concerned."""

    def cancel(self, reason: str) -> None: ...

    def join(self, timeout_s: float) -> bool: ...


_alive: dict[int, Endable] = {}
_pid = os.getpid()
_FATAL = (signal.SIGTERM, signal.SIGHUP)
"""What ends a program that does not care, and would leave cluster jobs behind."""

_handled: list[int] = []


def register(run: Endable) -> None:
    """From now on this run ends with the program, also when that is told to."""
    global _pid
    if os.getpid() != _pid:  # a fork: what the parent runs is the parent's
        _alive.clear()
        _pid = os.getpid()
    _alive[id(run)] = run
    atexit.unregister(_end_all)
    atexit.register(_end_all)  # the newest is called first, while the scheduler can be reached
    _take_over()


def unregister(run: Endable) -> None:
    """This run has ended."""
    _alive.pop(id(run), None)
    restore()


def _take_over() -> None:
    """Takes fatal signals over where nobody else has."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number in _FATAL:
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _terminated)
            _handled.append(number)


def restore() -> None:
    """Gives the signals back when no run is alive; only the main thread can, from others it
    waits."""
    if _alive or threading.current_thread() is not threading.main_thread():
        return
    while _handled:
        number = _handled.pop()
        if signal.getsignal(number) is _terminated:
            signal.signal(number, signal.SIG_DFL)


def _terminated(number: int, frame: FrameType | None) -> None:
    """Unwinds the program, so that every `finally` and `with` is done; the run is canceled there or
    at exit."""
    if not _alive or os.getpid() != _pid:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        return
    raise SystemExit(128 + number)


def _end_all() -> None:
    if os.getpid() != _pid:
        return
    deadline = time.monotonic() + EXIT_DEADLINE_S
    while _alive and time.monotonic() < deadline:
        try:
            runs = list(_alive.values())
            for run in runs:
                run.cancel("the program ended")
            for run in runs:
                run.join(max(0.0, deadline - time.monotonic()))
        except (KeyboardInterrupt, SystemExit):  # once more: it would take longer to start anew
            continue
