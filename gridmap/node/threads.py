"""How many threads the numerical libraries of a process may start that are loaded already.

Libraries read OMP_NUM_THREADS and its like when they are loaded. A process that was forked from a
program with NumPy in it has them from there, and has to be told by their own functions.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

_USERS = frozenset({"numpy", "torch", "numexpr", "numba"})
"""Modules of Python without which nobody will have loaded such a library."""


class _Library(NamedTuple):
    """A library, by a part of its file's name, and its functions.

    :param stems: what the names of its functions may begin with
    :param ends: what they may end with
    """

    part: str
    get: str
    set: str
    stems: tuple[str, ...] = ("",)
    ends: tuple[str, ...] = ("",)


_LIBRARIES = (
    # NumPy's and SciPy's wheels have one with names of its own
    _Library(
        "openblas",
        "openblas_get_num_threads",
        "openblas_set_num_threads",
        ("", "scipy_"),
        ("", "64_", "_64"),
    ),
    _Library("libmkl_rt", "MKL_Get_Max_Threads", "MKL_Set_Num_Threads"),
    _Library("libblis", "bli_thread_get_num_threads", "bli_thread_set_num_threads"),
    _Library("libgomp", "omp_get_max_threads", "omp_set_num_threads"),
    _Library("libiomp5", "omp_get_max_threads", "omp_set_num_threads"),
    _Library("libomp", "omp_get_max_threads", "omp_set_num_threads"),
)


def limit_loaded(count: int) -> None:
    """Lets the libraries that this process has loaded start at most so many threads."""
    if _USERS.isdisjoint(sys.modules):
        return
    for library, path in _loaded():
        for get, put in _functions(library, path):
            if get() > count:
                put(count)


def counts() -> dict[str, int]:
    """Returns how many threads the libraries that are loaded may start, by their files' names."""
    return {
        os.path.basename(path): get()
        for library, path in _loaded()
        for get, _ in _functions(library, path)
    }


def _loaded() -> Iterator[tuple[_Library, str]]:
    """Yields the libraries of this process that are known here, with their files.

    Source: proc(5), /proc/[pid]/maps
    """
    paths = set()
    with contextlib.suppress(OSError), open("/proc/self/maps", errors="replace") as file:
        paths = {line[line.index("/") :].strip() for line in file if "/" in line and ".so" in line}
    for path in sorted(paths):
        name = os.path.basename(path)
        for library in _LIBRARIES:
            if library.part in name:
                yield library, path


def _functions(library: _Library, path: str) -> Iterator[tuple[Any, Any]]:
    """Yields the functions that tell and set a library's number of threads."""
    with contextlib.suppress(OSError):  # the file may have been replaced, or be of another kind
        loaded = ctypes.CDLL(path, mode=os.RTLD_NOLOAD | os.RTLD_NOW)
        for stem in library.stems:
            for end in library.ends:
                with contextlib.suppress(AttributeError):
                    yield (
                        getattr(loaded, f"{stem}{library.get}{end}"),
                        getattr(loaded, f"{stem}{library.set}{end}"),
                    )
