"""What the benchmarks have the cluster call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy


def nothing(number: int) -> int:
    """Returns what it was given, so that the results can be checked."""
    return number


def back(array: numpy.ndarray[Any, Any]) -> numpy.ndarray[Any, Any]:
    """Returns an array that is as large, with its last element changed."""
    array[-1] = array[0] + 1
    return array


def broadcast(array: numpy.ndarray[Any, Any], number: int) -> tuple[str, float, float]:
    """Returns which worker this is, when it had the array, and an element of it.

    It lasts so long that every worker takes part.
    """
    import os
    import time

    had_it_at = time.time()
    time.sleep(0.2)
    worker = os.environ.get("SGE_TASK_ID") or os.environ.get("SLURM_ARRAY_TASK_ID", "")
    return worker, had_it_at, float(array[number])
