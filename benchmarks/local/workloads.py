"""What is measured: functions, their arguments, and what has to come of them."""

from __future__ import annotations

import os
import signal
from functools import partial
from time import perf_counter, sleep

TYPE_CHECKING = False  # nothing is imported before the clock starts that does not have to be
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

MB = 2**20
SKEWED_S = 4.67


# --- the functions ----------------------------------------------------------------------------


def nothing(_argument: object) -> None:
    """Returns at once."""


def square(number: int) -> int:
    return number * number


def spin(duration_s: float) -> float:
    """Keeps a processor busy."""
    end = perf_counter() + duration_s
    while perf_counter() < end:
        pass
    return duration_s


def doze(duration_s: float) -> float:
    sleep(duration_s)
    return duration_s


def add_one(array: Any) -> Any:
    return array + 1


def pick(array: Any, index: int) -> float:
    return float(array[index])


def crash_once(marker: str, number: int) -> int:
    """Ends its process with SIGSEGV at number 25, unless that has happened before."""
    if number == 25 and not os.path.exists(marker):
        open(marker, "w").close()
        os.kill(os.getpid(), signal.SIGSEGV)
    return number * number


class Piece:
    """An argument of the mixed load."""

    def __init__(self, duration_s: float, payload: bytes, answer_bytes: int) -> None:
        self.duration_s = duration_s
        self.payload = payload
        self.answer_bytes = answer_bytes


def work(piece: Piece) -> Any:
    """Returns an array where one is wanted, and how much it got elsewhere."""
    spin(piece.duration_s)
    if not piece.answer_bytes:
        return len(piece.payload)
    import numpy

    return numpy.full(piece.answer_bytes, piece.payload[0], dtype=numpy.uint8)


# --- their arguments --------------------------------------------------------------------------


class Task:
    """One function and its arguments.

    :param check: says of the results whether they are right
    """

    def __init__(
        self,
        function: Callable[[Any], Any],
        arguments: list[Any],
        check: Callable[[list[Any]], bool],
        workers: int = 2,
    ) -> None:
        self.function = function
        self.arguments = arguments
        self.check = check
        self.workers = workers


def equal_to(expected: list[Any]) -> Callable[[list[Any]], bool]:
    return lambda results: results == expected


def noops(number: int, workers: int = 2) -> Task:
    return Task(nothing, list(range(number)), equal_to([None] * number), workers)


def spins(duration_s: float, number: int) -> Task:
    # No two are equal: a system may keep what came of an argument.
    durations = [duration_s + index * 1e-9 for index in range(number)]
    return Task(spin, durations, equal_to(durations))


def dozes(duration_s: float, number: int, workers: int) -> Task:
    durations = [duration_s + index * 1e-9 for index in range(number)]
    return Task(doze, durations, equal_to(durations), workers)


def skewed(number: int, total_s: float) -> Task:
    """Durations are the quantiles of a Pareto distribution (shape 2), so the longest come last."""
    durations = [(1 - (index + 0.5) / number) ** -0.5 for index in range(number)]
    scale = total_s / sum(durations)
    durations = [scale * duration for duration in durations]
    return Task(spin, durations, equal_to(durations))


def bulk(number: int, size_bytes: int) -> Task:
    import numpy

    arrays = [numpy.full(size_bytes // 8, float(index)) for index in range(number)]

    def check(results: list[Any]) -> bool:
        return len(results) == number and all(
            numpy.array_equal(result, array + 1)
            for array, result in zip(arrays, results, strict=True)
        )

    return Task(add_one, arrays, check)


def broadcast(number: int, size_bytes: int) -> Task:
    import numpy

    array = numpy.arange(size_bytes // 8, dtype=numpy.float64)
    expected = [float(index) for index in range(number)]
    return Task(partial(pick, array), list(range(number)), equal_to(expected))


def crash(number: int) -> Task:
    marker = os.path.join(os.getcwd(), "crashed")
    expected = [index * index for index in range(number)]
    return Task(partial(crash_once, marker), list(range(number)), equal_to(expected))


def sizes(size_bytes: int, number: int) -> Task:
    arguments = [index.to_bytes(4, "little") * (size_bytes // 4) for index in range(number)]
    return Task(len, arguments, equal_to([len(argument) for argument in arguments]))


def mixed(number: int, longest_s: float, largest_bytes: int) -> Task:
    """Durations are spread evenly, sizes by their logarithm; every fifth call returns an array."""
    import numpy

    random = numpy.random.default_rng(1)
    durations = random.uniform(0, longest_s, number)
    sent = numpy.exp(random.uniform(numpy.log(1024), numpy.log(largest_bytes), number))
    pieces = [
        Piece(float(durations[i]), bytes([i % 256]) * int(sent[i]), 0 if i % 5 else int(sent[-i]))
        for i in range(number)
    ]

    def check(results: list[Any]) -> bool:
        return len(results) == number and all(
            (result == len(piece.payload))
            if not piece.answer_bytes
            else len(result) == piece.answer_bytes and bool((result == piece.payload[0]).all())
            for piece, result in zip(pieces, results, strict=True)
        )

    return Task(work, pieces, check)


# --- the list ---------------------------------------------------------------------------------


class Workload:
    """What is measured under one name.

    :param make: makes the task
    :param small: makes one that takes no time, for `--smoke`
    :param at_most_s: the goal for GridMap
    :param others_s: what others took, by system, on the machine and in the hour in which the goal
        was set: by them the speed of another hour is known
    :param ideal_s: what it takes where nothing but the calls takes time
    :param only: the systems that it is measured with; all where none are named
    :param only_small: the same for the small task
    """

    def __init__(
        self,
        title: str,
        make: Callable[[], Task],
        small: Callable[[], Task],
        at_most_s: float | None = None,
        ideal_s: float | None = None,
        only: tuple[str, ...] = (),
        only_small: tuple[str, ...] = (),
        others_s: tuple[float | None, ...] = (),
    ) -> None:
        self.title = title
        self.make = make
        self.small = small
        self.at_most_s = at_most_s
        self.others_s = dict(zip(OTHERS, others_s, strict=False))
        self.ideal_s = ideal_s
        self.only = only
        self.only_small = only_small


def _squares() -> Task:
    return Task(square, [1, 2, 3, 4], equal_to([1, 4, 9, 16]))


def _spins(title: str, duration_s: float, number: int) -> Workload:
    ideal_s = duration_s * number / 2
    return Workload(
        title, lambda: spins(duration_s, number), lambda: spins(0.001, 20), ideal_s=ideal_s
    )


def _sizes(title: str, size_bytes: int, number: int) -> Workload:
    return Workload(
        title, lambda: sizes(size_bytes, number), lambda: sizes(size_bytes // 100, min(number, 20))
    )


FAST = ("GridMap", "Pool", "joblib", "mpire", "serial")
OTHERS = (
    "Pool", "ProcessPoolExecutor", "loky", "joblib", "mpire", "executorlib", "dask.distributed",
    "Ray", "Parsl",
)  # fmt: skip

WORKLOADS: dict[str, Workload] = {
    "first": Workload(
        "4 calls",
        _squares,
        _squares,
        0.08,
        others_s=(0.03, 0.03, 0.19, 0.48, 0.29, 0.35, 1.5, 6, 7),
    ),
    "noop20k": Workload(
        "20,000 empty calls",
        lambda: noops(20_000),
        lambda: noops(200),
        0.08,
        others_s=(0.03, 2.0, 2.7, 0.38, 0.28, 5.0, 37, 17, 30),
    ),
    "noop1m": Workload(
        "1,000,000 empty calls",
        lambda: noops(10**6),
        lambda: noops(2000),
        0.24,
        only=FAST,
        others_s=(0.24, None, None, 3.0, 4.6),
    ),
    "skewed": Workload(
        "600 calls of very different length, 4.67 s in all, the longest last",
        lambda: skewed(600, SKEWED_S),
        lambda: skewed(60, 0.1),
        2.50,
        SKEWED_S / 2,
        others_s=(3.4, 2.6, 2.7, 3.0, 2.9, 2.9, 4.2, 6.9),
    ),
    "bulk": Workload(
        "40 arrays of 16 MB there and back",
        lambda: bulk(40, 16 * MB),
        lambda: bulk(4, MB),
        0.6,
        others_s=(3.2, 1.6, 1.7, 2.2, None, 1.8, 5.9, 5.1, 42),
    ),
    "broadcast": Workload(
        "a function with an array of 128 MB, 100 calls",
        lambda: broadcast(100, 128 * MB),
        lambda: broadcast(100, MB),
        0.20,
        others_s=(3.1, 37, 28, 0.47, 0.20, 27),
    ),
    "crash": Workload(
        "50 calls, one of which dies of SIGSEGV when it is first made",
        lambda: crash(50),
        lambda: crash(50),
        0.4,
        only_small=("GridMap",),
        others_s=(None, None, None, None, None, 2.3, 6.4, 12),
    ),
    "1ms": _spins("2,000 calls of 1 ms", 0.001, 2000),
    "10ms": _spins("200 calls of 10 ms", 0.01, 200),
    "100ms": _spins("40 calls of 100 ms", 0.1, 40),
    "1KB": _sizes("2,000 arguments of 1 KB", 2**10, 2000),
    "100KB": _sizes("500 arguments of 100 KB", 100 * 2**10, 500),
    "1MB": _sizes("100 arguments of 1 MB", MB, 100),
    "10MB": _sizes("20 arguments of 10 MB", 10 * MB, 20),
    "100MB": _sizes("4 arguments of 100 MB", 100 * MB, 4),
    "noop20k-8": Workload(
        "20,000 empty calls, 8 workers", lambda: noops(20_000, 8), lambda: noops(200, 8)
    ),
    "sleep-8": Workload(
        "800 calls that sleep for 10 ms, 8 workers",
        lambda: dozes(0.01, 800, 8),
        lambda: dozes(0.01, 16, 8),
        ideal_s=1.0,
    ),
    "mixed": Workload(
        "400 calls of 0 to 50 ms with 1 KB to 4 MB",
        lambda: mixed(400, 0.05, 4 * MB),
        lambda: mixed(20, 0.002, MB // 8),
    ),
}
