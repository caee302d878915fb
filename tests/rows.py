"""The fault matrix: a row is declared where the test is that injects its fault.

tools/fault_table reads these declarations, so the table and the tests cannot differ.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from typing import Any, TypeVar

import pytest

Test = TypeVar("Test", bound=Callable[..., Any])
MARGIN_S = 90
"""What a test may take besides: before the fault, and afterwards to see that nothing is left."""


def row(
    *, fault: str, where: str, expected: str, bound_s: float, speed: str = "fast", red: str = ""
) -> Callable[[Test], Test]:
    """Declares that a test proves a row of the matrix. Every argument must be written out.

    :param where: "child", "agent", "node", "scheduler", "client", "network" or "anywhere"
    :param expected: how the jobs end, in words
    :param bound_s: the most that may pass between the fault and that end
    :param speed: "fast" rows run in every CI
    :param red: why the row does not hold; the test is then expected to fail
    """
    marks = [
        pytest.mark.fault(fault=fault, where=where, bound_s=bound_s),
        pytest.mark.timeout(bound_s + MARGIN_S),
    ]
    if speed != "fast":
        marks.append(pytest.mark.slow)
    if red:
        marks.append(pytest.mark.xfail(reason=red, strict=True))

    def declare(test: Test) -> Test:
        for mark in marks:
            test = mark(test)
        return test

    return declare


class Stopwatch:
    """Measures from a fault to its end; a test without one is measured as a whole."""

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._seconds: float | None = None

    def start(self) -> None:
        """The fault is being injected."""
        self._begun = time.monotonic()

    def stop(self) -> None:
        """What was expected has come."""
        self._seconds = time.monotonic() - self._begun

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._begun if self._seconds is None else self._seconds


def record(item: pytest.Item, seconds: float, error: BaseException | None) -> None:
    """Adds what a row's test measured to the file FAULTS_RECORD, if there is one."""
    place = os.environ.get("FAULTS_RECORD")
    if not place:
        return
    outcome = "red" if error else "green"
    if isinstance(error, pytest.skip.Exception):
        outcome = "skipped"
    line = {
        "test": item.nodeid.partition("[")[0],
        "scheduler": os.environ["FAULTS_SCHEDULER"],
        "seconds": round(seconds, 1),
        "outcome": outcome,
    }
    with open(place, "a") as file:
        file.write(json.dumps(line) + "\n")
