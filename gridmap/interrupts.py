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
_handling = False


def register(run: Endable) -> None:
    """From now on this run ends with the program, also when that gets SIGTERM."""
    global _pid
    if os.getpid() != _pid:  # a fork: what the parent runs is the parent's
        _alive.clear()
        _pid = os.getpid()
    _alive[id(run)] = run
    _handle_sigterm()


def unregister(run: Endable) -> None:
    """This run has ended."""
    _alive.pop(id(run), None)
    if not _alive:
        _restore_sigterm()


def _handle_sigterm() -> None:
    """Takes SIGTERM over where nobody else has, so that it cannot leave cluster jobs behind."""
    global _handling
    if threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _terminated)
        _handling = True


def _restore_sigterm() -> None:
    global _handling
    if not _handling or threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(signal.SIGTERM) is _terminated:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _handling = False


def _terminated(number: int, frame: FrameType | None) -> None:
    """Unwinds the program, so that every `finally` and `with` is done; the run is canceled there or
    at exit."""
    if not _alive or os.getpid() != _pid:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        return
    raise SystemExit(128 + number)


@atexit.register
def _end_all() -> None:
    if os.getpid() != _pid:
        return
    runs = list(_alive.values())
    for run in runs:
        run.cancel("the program ended")
    deadline = time.monotonic() + EXIT_DEADLINE_S
    for run in runs:
        run.join(max(0.0, deadline - time.monotonic()))
