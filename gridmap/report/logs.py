"""Reads the end of a log."""

from __future__ import annotations

import contextlib
import os
import stat

MOST_BYTES = 4096


def end_of(path: str, most_bytes: int = MOST_BYTES) -> str:
    """Returns the end of a file; "" where it cannot be read here, or is no file."""
    with contextlib.suppress(OSError, ValueError):
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as file:
            status = os.fstat(fd)
            if stat.S_ISREG(status.st_mode):
                file.seek(max(0, status.st_size - most_bytes))
                return file.read(most_bytes).decode("utf-8", "replace").strip()
    return ""
