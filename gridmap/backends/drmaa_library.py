"""Finds and loads the DRMAA library, and with it the package drmaa; loaded only when asked for."""

from __future__ import annotations

import ctypes
import ctypes.util
import glob
import importlib
import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import NamedTuple

from gridmap.errors import DRMAANotPresentException

log = logging.getLogger(__name__)

_VARIABLE = "DRMAA_LIBRARY_PATH"
_DEBIAN = "/usr/lib/gridengine-drmaa/lib/libdrmaa.so.1.0"
_JEMALLOC = b"\0libjemalloc.so.2\0"
_CURE = (
    "start Python with GLIBC_TUNABLES=glibc.rtld.optional_static_tls=4096 "
    "or LD_PRELOAD=libjemalloc.so.2 in its environment"
)
_lock = threading.Lock()


class Loaded(NamedTuple):
    """The library of this process.

    :param copied: not the file itself, but a copy in memory that does without libjemalloc
    """

    path: str
    copied: bool


_loaded: list[Loaded] = []


def loaded() -> Loaded | None:
    """Returns which library `load_drmaa` has loaded; None when none, or when somebody else has."""
    return _loaded[0] if _loaded else None


def load_drmaa() -> ModuleType:
    """Returns the package drmaa with its C library loaded.

    :raises DRMAANotPresentException: says what is missing and what to do
    """
    with _lock:
        if "drmaa" in sys.modules:
            return sys.modules["drmaa"]
        problems = []
        for path in candidates():
            try:
                with _loadable(path) as found:
                    package = _import(found)
                    _loaded[:] = [Loaded(path, copied=found != path)]
                    return package
            except OSError as error:
                text = str(error)  # the loader names the path, if not always
                problems.append(text if text.startswith(path) else f"{path}: {text}")
        if not problems:
            problems = [f"no DRMAA library found; set {_VARIABLE} to the path of libdrmaa.so"]
        raise DRMAANotPresentException("; ".join(problems))


def candidates() -> Iterator[str]:
    """Yields the paths at which the library may lie, the likeliest first."""
    named = os.environ.get(_VARIABLE)
    if named:
        yield named
        return
    paths = []
    root = os.environ.get("SGE_ROOT")
    if root:
        architecture = os.environ.get("SGE_ARCH", "*")
        for folder in dict.fromkeys((architecture, "*")):
            paths += sorted(glob.glob(f"{glob.escape(root)}/lib/{folder}/libdrmaa.so*"))
    if os.path.exists(_DEBIAN):
        paths.append(_DEBIAN)
    yield from dict.fromkeys(paths)
    found = ctypes.util.find_library("drmaa")  # starts several programs
    if found and found not in paths:
        yield found


def without_jemalloc(library: bytes) -> bytes:
    """Returns a library that asks for the C library where it asked for libjemalloc.

    :raises ValueError: it does not ask for libjemalloc, or in a way unknown
    """
    if library.count(_JEMALLOC) != 1:
        raise ValueError("no reference to libjemalloc.so.2 to replace")
    return library.replace(_JEMALLOC, b"\0libc.so.6".ljust(len(_JEMALLOC), b"\0"))


@contextmanager
def _loadable(path: str) -> Iterator[str]:
    """Gives a path from which the library loads.

    Debian's libdrmaa needs libjemalloc, which a process that already runs has no room for in its
    static TLS block. A copy that does without is put in an anonymous file: nobody else can write
    it and nothing of it stays behind.
    """
    try:
        ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        if "static TLS" not in str(error):
            raise
        reason = str(error)
    else:
        yield path
        return
    try:
        with open(path, "rb") as source:
            content = without_jemalloc(source.read())
        anonymous = os.memfd_create("libdrmaa", os.MFD_CLOEXEC)
    except (OSError, ValueError, AttributeError) as error:
        raise OSError(f"{reason} (no way around it: {error}); {_CURE}") from error
    try:
        with open(anonymous, "wb", closefd=False) as target:
            target.write(content)
        copy = f"/proc/self/fd/{anonymous}"
        try:
            ctypes.CDLL(copy, mode=ctypes.RTLD_GLOBAL)
        except OSError as error:
            raise OSError(f"{reason} (nor from a copy: {error}); {_CURE}") from error
        log.debug("%s loaded from a copy that does without libjemalloc", path)
        yield copy
    finally:
        os.close(anonymous)


def _import(path: str) -> ModuleType:
    """Imports drmaa, which reads the library's path from the environment while it is imported."""
    before = os.environ.get(_VARIABLE)
    os.environ[_VARIABLE] = path
    try:
        return importlib.import_module("drmaa")
    except ModuleNotFoundError as error:
        raise DRMAANotPresentException("the package drmaa is missing: pip install drmaa") from error
    except (ImportError, RuntimeError, AttributeError) as error:
        raise DRMAANotPresentException(f"{path} is no DRMAA library: {error}") from error
    finally:
        # The path means nothing to another process, and the environment travels to the nodes.
        if before is None:
            del os.environ[_VARIABLE]
        else:
            os.environ[_VARIABLE] = before
