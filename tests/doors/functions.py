"""What the runs of these tests call. It imports little, since each process that calls it has to."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import resource
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any


def identity(x: Any) -> Any:
    return x


def double(x: int) -> int:
    return 2 * x


def inverse(x: int) -> float:
    return 1 / x


def add(*numbers: Any, **more: Any) -> Any:
    return sum(numbers) + sum(more.values())


def waits(gate: Path, x: int) -> int:
    end = time.monotonic() + 30
    while not gate.exists() and time.monotonic() < end:
        time.sleep(0.005)
    return x


class Scaler:
    def __init__(self, factor: int) -> None:
        self.factor = factor

    def scale(self, x: int) -> int:
        return self.factor * x

    def __call__(self, x: int) -> int:
        return self.factor * x

    @staticmethod
    def triple(x: int) -> int:
        return 3 * x


@functools.lru_cache
def cached(x: int) -> int:
    return 3 * x


# --- failures -------------------------------------------------------------------------------------


class Picky(Exception):
    """Its arguments are not those of its __init__: pickle's own way fails."""

    def __init__(self, code: int, *, where: str) -> None:
        super().__init__(f"{code} at {where}")
        self.code, self.where = code, where


class Careful(Exception):
    def __init__(self, code: int, where: str) -> None:
        super().__init__(code, where)
        self.code = code


def fails() -> None:
    raise ValueError("not dead")


def odd_ones_fail(x: int) -> int:
    if x % 2:
        raise ValueError(x)
    return x


def fails_at_first(x: int) -> int:
    if x == 3 and not os.path.exists(os.path.join(os.environ["HERE"], "mended")):
        os._exit(7)
    return x


def fails_until_mended(x: int) -> int:
    if not os.path.exists(os.path.join(os.environ["HERE"], "mended")):
        raise ZeroDivisionError(x)
    return x


def refuse() -> None:
    raise LookupError("not here")


# --- deaths ---------------------------------------------------------------------------------------


def segfaults() -> None:
    ctypes.string_at(0)


def exits() -> None:
    os._exit(3)


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def leaves() -> None:
    sys.exit(4)


def leaves_with_text() -> None:
    sys.exit("I am off")


def aborts() -> None:
    os.abort()


def overflows() -> None:
    threading.stack_size(1 << 16)
    sys.setrecursionlimit(1 << 30)

    class Deep:
        def __repr__(self) -> str:
            return repr(self)

    thread = threading.Thread(target=lambda: repr(Deep()))
    thread.start()
    thread.join()
    os.kill(os.getpid(), signal.SIGSEGV)  # a Python that guards its stack raises instead


# --- what spoils a process ------------------------------------------------------------------------


def leak() -> str:
    """Takes every descriptor that its process may have."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    sys.kept = []  # type: ignore[attr-defined]
    with contextlib.suppress(OSError):
        while True:
            sys.kept.append(os.open(os.devnull, os.O_RDONLY))  # type: ignore[attr-defined]
    return "leaked"


def forget_cloudpickle() -> str:
    sys.modules["cloudpickle"] = None  # type: ignore[assignment]
    return "forgotten"
