"""How many threads the numerical libraries of a process may start that are loaded already.

Libraries read OMP_NUM_THREADS and its like when they are loaded. A process that was forked from a
program with NumPy in it has them from there, and has to be told by their own functions, which
threadpoolctl knows.
"""

from __future__ import annotations

import sys
from typing import Any

_USERS = frozenset({"numpy", "torch"})
"""Modules of Python without which nobody will have loaded such a library."""


def limit_loaded(count: int) -> None:
    """Lets the libraries that this process has loaded start at most so many threads."""
    for library in _loaded():
        if library.num_threads > count:
            library.set_num_threads(count)


def counts() -> dict[str, int]:
    """Returns how many threads the libraries that are loaded may start, by their files."""
    return {library.filepath: library.num_threads for library in _loaded()}


def _loaded() -> list[Any]:
    if _USERS.isdisjoint(sys.modules):
        return []
    from threadpoolctl import ThreadpoolController  # only where there may be something to limit

    return list(ThreadpoolController().lib_controllers)
