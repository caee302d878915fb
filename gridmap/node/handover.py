"""Large frames from process to process on one node: memory handed over by its descriptor.

Its sender copies the frame into that memory; its receiver maps it, and gets pages of its own only
where it writes.  Whoever dies in between leaves nothing behind: the memory has no name.
"""

from __future__ import annotations

import contextlib
import functools
import mmap
import os
from typing import Any

from gridmap.data import Frame

LEAST_BYTES = 1 << 17
"""Smaller frames are copied through the socket, which costs less than to map one."""

_MAP_FIXED = 0x10


def lay_out(frame: memoryview) -> int | None:
    """Returns the descriptor of memory with these bytes; None where there is none to be had."""
    try:
        fd = os.memfd_create("gridmap-frame")
    except (AttributeError, OSError):
        return None
    try:
        written = 0
        while written < frame.nbytes:
            written += os.write(fd, frame[written:])
    except OSError:
        os.close(fd)
        return None
    return fd


def pick_up(fd: int, size: int) -> Frame:
    """Returns the bytes behind a descriptor, which is closed; writing to them changes no others.

    :raises OSError: there is no memory for them, or fewer than `size`
    """
    try:
        if os.fstat(fd).st_size < size:
            raise OSError(f"a frame of {size} bytes in memory of fewer")
        with contextlib.suppress(OSError):  # as when a process has too many mappings
            return _mapped(fd, size)
        copy = bytearray(size)
        at = 0
        while at < size:
            at += os.preadv(fd, [memoryview(copy)[at:]], at)
        return copy
    finally:
        os.close(fd)


@functools.cache
def _libc_mmap() -> Any:
    import ctypes  # a run without large results does not need it

    function = ctypes.CDLL(None, use_errno=True).mmap
    function.restype = ctypes.c_void_p
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    return function


def _mapped(fd: int, size: int) -> memoryview:
    """Maps the memory where an anonymous mapping was, which an mmap object will unmap.

    An mmap object of a file keeps a descriptor for itself (until Python 3.13), and of these there
    are few: a list of results may need thousands.
    """
    import ctypes

    area = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    place = ctypes.c_char.from_buffer(area)
    flags = mmap.MAP_PRIVATE | _MAP_FIXED
    at = _libc_mmap()(ctypes.addressof(place), size, mmap.PROT_READ | mmap.PROT_WRITE, flags, fd, 0)
    if at == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), "mmap")
    del place
    return memoryview(area)
